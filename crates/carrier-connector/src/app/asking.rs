//! Asking carriers for receipts that do not come.

use std::{sync::Arc, time::Duration};

use sotto_core::Lane;
use sotto_proto::LogEvent;
use sotto_runtime::telemetry::chain;
use sotto_smpp::{Address, COctets, Pdu};

use super::{account::Account, line::Admission};
use crate::{
    adapters::ledger::Question,
    domain::{
        carrier_id::CarrierId,
        question::{self, Answered, answered},
        receipt::About,
    },
};

/// How often it is looked for what is due.
const LOOK: Duration = Duration::from_secs(1);

/// The most questions of one look.
const AT_A_TIME: usize = 20;

/// Asks for what is due, for ever. An account without `query_after` asks nothing.
pub(crate) async fn ask(account: Arc<Account>) {
    let Some(after) = account.settings.query_after else { return std::future::pending().await };
    loop {
        tokio::time::sleep(LOOK).await;
        account.shared.reliance.held().await;
        if !account.line.is_up() {
            continue;
        }
        match account.ledger.due(account.now(), after, AT_A_TIME).await {
            Ok(questions) => {
                for question in questions {
                    account.ask_one(question).await;
                }
            }
            Err(error) => {
                tracing::debug!(account = %account.settings.id, error = chain(&error), "nothing is asked now");
            }
        }
    }
}

impl Account {
    /// Notes parts that the carrier took, to be asked for if their receipts do not come. At worst one is not asked for.
    pub(super) async fn ask_later(&self, source: &Address, taken: &[(CarrierId, COctets)]) {
        let Some(after) = self.settings.query_after.filter(|_| !taken.is_empty()) else { return };
        let seal = |(id, raw): &(CarrierId, COctets)| {
            question::seal(&self.shared.query_key, raw, source).ok().map(|sealed| (id.clone(), sealed))
        };
        let asks: Vec<_> = taken.iter().filter_map(seal).collect();
        if let Err(error) = self.ledger.ask_at(self.now().plus(after), &asks).await {
            tracing::debug!(account = %self.settings.id, error = chain(&error), "parts will not be asked for");
        }
    }

    /// Asks for one part, at its turn and within the rate: after everything that is to be sent.
    async fn ask_one(&self, Question { id, parts, sealed }: Question) {
        let Some(question) = question::open(&self.shared.query_key, &sealed) else {
            // Sealed by a process with another key; its time comes.
            return;
        };
        let (link, mut places) = match self.line.admit(Lane::Promotional, vec![1]).await {
            Admission::Send(link, places) => (link, places),
            Admission::HandBack | Admission::Stop => return,
        };
        let Some(mut place) = places.pop() else { return };
        let Some(permit) = place.next().await else { return };
        drop(place);
        let Ok(pending) = link.request(permit, question, About::Question) else { return };
        let Ok(answer) = pending.await else { return };
        let read = match &answer.pdu {
            Some(Pdu::QuerySmResp(answer)) => Some(answer.as_ref()),
            Some(_) | None => None,
        };
        match answered(answer.status, read) {
            Answered::Ended(said) => {
                let event = |part: &_| LogEvent::Delivery(self.receipt(*part, said.clone()));
                match self.shared.log.events(parts.iter().map(event).collect()).await {
                    Ok(()) => self.not_asked(id).await,
                    Err(error) => {
                        tracing::warn!(account = %self.settings.id, error = chain(&error), "an answer is not stored: it is asked for again");
                    }
                }
            }
            Answered::NotYet => {}
            Answered::Never => {
                tracing::debug!(account = %self.settings.id, status = %answer.status, "the carrier does not tell");
                self.not_asked(id).await;
            }
            Answered::Throttled => self.slow_down(),
        }
    }

    async fn not_asked(&self, id: CarrierId) {
        if let Err(error) = self.ledger.do_not_ask(&[id]).await {
            tracing::debug!(account = %self.settings.id, error = chain(&error), "a part may be asked for once more");
        }
    }
}
