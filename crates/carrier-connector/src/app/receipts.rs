//! What the carrier sends by itself: receipts, and messages from handsets.

use futures::FutureExt as _;
use sotto_proto::LogEvent;
use sotto_runtime::telemetry::chain;
use sotto_smpp::{CommandStatus, Incoming, Receipt, Responder, Sm, receipt::ReceiptError};

use super::account::Account;
use crate::domain::{
    carrier_id::CarrierId,
    receipt::{Said, receipt_state},
};

/// Receipts that are stored together.
const AT_A_TIME: usize = 256;

impl Account {
    /// Takes what the carrier sends until the session ends.
    pub(crate) async fn receive(&self, mut incoming: Incoming) {
        let mut refused = 0_u64;
        while let Some(first) = incoming.recv().await {
            let mut batch = vec![first];
            while batch.len() < AT_A_TIME
                && let Some(Some(next)) = incoming.recv().now_or_never()
            {
                batch.push(next);
            }
            let receipts =
                batch.into_iter().filter_map(|(sm, responder)| self.read(&sm, responder, &mut refused));
            self.store(receipts.collect()).await;
        }
    }

    /// Reads a receipt; answers everything else.
    fn read(&self, sm: &Sm, responder: Responder, refused: &mut u64) -> Option<(CarrierId, Said, Responder)> {
        let receipt = match Receipt::parse(sm) {
            Ok(receipt) => receipt,
            Err(ReceiptError::NotAReceipt) => {
                *refused += 1;
                tracing::warn!(account = %self.settings.id, count = *refused,
                    "messages from handsets are refused: this version does not take them");
                responder.respond(CommandStatus::ESME_RX_P_APPN);
                return None;
            }
            Err(error @ (ReceiptError::NoId | ReceiptError::NoState)) => {
                tracing::warn!(account = %self.settings.id, %error, "a receipt says nothing and is refused");
                responder.respond(CommandStatus::ESME_RX_R_APPN);
                return None;
            }
        };
        let Some(id) = CarrierId::new(self.settings.message_id_in_receipt, &receipt.id) else {
            tracing::warn!(account = %self.settings.id, "a receipt's id is not usable: it is refused");
            responder.respond(CommandStatus::ESME_RX_R_APPN);
            return None;
        };
        let said = Said { state: receipt_state(receipt.state), error: receipt.error.unwrap_or_default() };
        Some((id, said, responder))
    }

    /// Makes receipts durable, then answers them (INV-6). One that is not is left to its responder, which asks the
    /// carrier to send it again.
    async fn store(&self, receipts: Vec<(CarrierId, Said, Responder)>) {
        if receipts.is_empty() {
            return;
        }
        let mut asked = Vec::with_capacity(receipts.len());
        let mut responders = Vec::with_capacity(receipts.len());
        for (id, said, responder) in receipts {
            asked.push((id, said));
            responders.push(responder);
        }
        let found = match self.ledger.receipts(&asked).await {
            Ok(Some(found)) => found,
            Ok(None) => return self.not_ready(),
            Err(error) => {
                tracing::warn!(account = %self.settings.id, error = chain(&error), "receipts are not taken now");
                return;
            }
        };
        let events = asked.into_iter().zip(found).map(|((id, said), part)| match part {
            Some(part) => LogEvent::Delivery(self.receipt(part, said)),
            None => LogEvent::ParkedReceipt {
                at: self.now(),
                account: self.settings.id.clone(),
                carrier_id: id.as_str().to_owned(),
                state: said.state,
                error: said.error,
            },
        });
        if let Err(error) = self.shared.log.events(events.collect()).await {
            tracing::warn!(account = %self.settings.id, error = chain(&error), "receipts are not stored now");
            return;
        }
        for responder in responders {
            responder.respond(CommandStatus::ESME_ROK);
        }
    }
}
