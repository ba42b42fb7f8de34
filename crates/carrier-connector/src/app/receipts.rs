//! What the carrier sends by itself: receipts, and messages from handsets ([`super::inbound`]).

use futures::FutureExt as _;
use sotto_core::carriers::ReceiptMark;
use sotto_proto::LogEvent;
use sotto_runtime::{failpoint, telemetry::chain};
use sotto_smpp::{CommandStatus, Incoming, Receipt, Responder, Sm, receipt::ReceiptError};

use super::{account::Account, doubts::Clue};
use crate::{
    adapters::ledger::Match,
    domain::{
        carrier_id::CarrierId,
        inbound::Written,
        question::is_end,
        receipt::{Said, Submitted},
    },
    metrics,
};

/// Receipts that are stored together.
const AT_A_TIME: usize = 256;

/// What a `deliver_sm` is.
enum Came {
    /// A receipt.
    Receipt(CarrierId, Said, Clue, Responder),
    /// A message from a handset.
    Written(Written, Responder),
    /// A receipt that says nothing: it is refused.
    Nothing(&'static str),
}

impl Account {
    /// Takes what the carrier sends until the session ends.
    pub(crate) async fn receive(&self, mut incoming: Incoming) {
        while let Some(first) = incoming.recv().await {
            let mut batch = vec![first];
            while batch.len() < AT_A_TIME
                && let Some(Some(next)) = incoming.recv().now_or_never()
            {
                batch.push(next);
            }
            let (mut receipts, mut written, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
            for (sm, responder) in batch {
                match self.read(&sm, responder) {
                    Some(Came::Receipt(id, said, clue, responder)) => {
                        receipts.push((id, said, clue, responder))
                    }
                    Some(Came::Written(message, responder)) => written.push((message, responder)),
                    Some(Came::Nothing(why)) => nothing.push((why, sm.message().to_vec())),
                    None => {}
                }
            }
            tokio::join!(self.store(receipts), self.take_inbound(written), self.keep_refused(nothing));
        }
    }

    /// Reads a receipt or a message; answers what is neither.
    fn read(&self, sm: &Sm, responder: Responder) -> Option<Came> {
        let parsed = match self.settings.receipts {
            ReceiptMark::Specified => Receipt::parse(sm),
            ReceiptMark::Text => Receipt::parse_unmarked(sm),
        };
        let receipt = match parsed {
            Ok(receipt) => receipt,
            Err(ReceiptError::NotAReceipt) => {
                return match Written::read(sm, self.settings.default_alphabet) {
                    Ok(written) => Some(Came::Written(written, responder)),
                    Err(error) => {
                        tracing::warn!(account = %self.settings.id, %error, "a message from a handset is refused");
                        responder.respond(CommandStatus::ESME_RINVMSGLEN);
                        None
                    }
                };
            }
            Err(error @ (ReceiptError::NoId | ReceiptError::NoState)) => {
                tracing::warn!(account = %self.settings.id, %error, "a receipt says nothing and is refused");
                responder.respond(CommandStatus::ESME_RX_R_APPN);
                return Some(Came::Nothing(match error {
                    ReceiptError::NoId => "a receipt without an id: refused",
                    ReceiptError::NoState | ReceiptError::NotAReceipt => "a receipt without a state: refused",
                }));
            }
        };
        let Some(id) = CarrierId::new(self.settings.message_id_in_receipt, &receipt.id) else {
            tracing::warn!(account = %self.settings.id, "a receipt's id is not usable: it is refused");
            responder.respond(CommandStatus::ESME_RX_R_APPN);
            return Some(Came::Nothing("a receipt whose id is not usable: refused"));
        };
        Some(Came::Receipt(id, Said::of(receipt), self.clue(sm), responder))
    }

    /// Makes receipts durable, then answers them (INV-6). One that is not is left to its responder, which asks the
    /// carrier to send it again.
    async fn store(&self, receipts: Vec<(CarrierId, Said, Clue, Responder)>) {
        if receipts.is_empty() {
            return;
        }
        let (mut asked, mut clues, mut responders) = (Vec::new(), Vec::new(), Vec::new());
        for (id, said, clue, responder) in receipts {
            asked.push((id, said));
            clues.push(clue);
            responders.push(responder);
        }
        let Some(mut found) = self.find(&asked).await else { return };
        let in_doubt = self.find_in_doubt(&clues, &mut found).await;
        let events = asked.iter().zip(&found).flat_map(|((id, said), parts)| {
            let parked = parts.is_empty().then(|| LogEvent::ParkedReceipt {
                at: self.now(),
                account: self.settings.id.clone(),
                carrier_id: id.as_str().to_owned(),
                state: said.state,
                error: said.error.clone(),
            });
            let receipts = parts.iter().map(|part| LogEvent::Delivery(self.receipt(*part, said.clone())));
            receipts.chain(parked)
        });
        if let Err(error) = self.shared.log.events(events.collect()).await {
            tracing::warn!(account = %self.settings.id, error = chain(&error), "receipts are not stored now");
            return;
        }
        failpoint("carrier.receipt");
        for ((_, said), parts) in asked.iter().zip(&found) {
            self.metrics.said.of(said.state).one();
            let result = if parts.is_empty() { metrics::Receipt::Parked } else { metrics::Receipt::Matched };
            self.metrics.receipts.of(result).one();
        }
        self.not_asked_any_more(&asked, &found).await;
        self.resolve(&asked, in_doubt).await;
        let (mut parked, mut waiting) = (Vec::new(), Vec::new());
        for ((asked, found), responder) in asked.into_iter().zip(found).zip(responders) {
            if !found.is_empty() {
                responder.respond(CommandStatus::ESME_ROK);
            } else {
                parked.push(asked);
                waiting.push(responder);
            }
        }
        let still = parked.clone();
        if self.parked(parked).await {
            self.wait_for_parts(still);
            for responder in waiting {
                responder.respond(CommandStatus::ESME_ROK);
            }
        }
    }

    /// Parts whose final receipt is here are not asked for.
    async fn not_asked_any_more(&self, asked: &[(CarrierId, Said)], found: &[Vec<Submitted>]) {
        if self.settings.query_after.is_none() {
            return;
        }
        let ended =
            asked.iter().zip(found).filter(|((_, said), parts)| !parts.is_empty() && is_end(said.state));
        let ids: Vec<_> = ended.map(|((id, _), _)| id.clone()).collect();
        if let Err(error) = self.ledger.do_not_ask(&ids).await {
            tracing::debug!(account = %self.settings.id, error = chain(&error), "parts may be asked for in vain");
        }
    }

    /// Looks once more for the parts of receipts that were parked, now that the log has them. Redis may have been lost
    /// since they were parked, and rebuilt from a log that did not have them: then they are parked again, or their id
    /// is known by now. Returns whether they will not be forgotten.
    async fn parked(&self, parked: Vec<(CarrierId, Said)>) -> bool {
        if parked.is_empty() {
            return true;
        }
        let Some(found) = self.find(&parked).await else { return false };
        let found = parked.into_iter().zip(found);
        let found: Vec<_> = found
            .flat_map(|((id, said), parts)| {
                parts.into_iter().map(move |part| Match { part, said: said.clone(), id: id.clone() })
            })
            .collect();
        if found.is_empty() {
            return true;
        }
        let events = found.iter().map(|found| self.matched(found)).collect();
        if let Err(error) = self.shared.log.events(events).await {
            tracing::warn!(account = %self.settings.id, error = chain(&error), "receipts are not stored now");
            return false;
        }
        if let Err(error) = self.ledger.unpark(&found).await {
            tracing::debug!(account = %self.settings.id, %error, "receipts that were told stay parked");
        }
        true
    }

    /// The parts of receipts, where their ids are known; the others are parked. None: they cannot be taken now.
    async fn find(&self, asked: &[(CarrierId, Said)]) -> Option<Vec<Vec<Submitted>>> {
        match self.ledger.receipts(asked).await {
            Ok(Some(found)) => Some(found),
            Ok(None) => {
                self.shared.reliance.doubt();
                None
            }
            Err(error) => {
                tracing::warn!(account = %self.settings.id, error = chain(&error), "receipts are not taken now");
                None
            }
        }
    }
}
