//! Receipts of which nothing follows: those whose part does not turn up, and those that say nothing. The log has the former
//! for good and nothing has the latter; a record of each goes to quarantine, for people.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::future::join_all;
use sotto_runtime::telemetry::chain;
use tokio::time::Instant;

use super::account::Account;
use crate::{
    domain::{carrier_id::CarrierId, receipt::Said},
    metrics,
};

/// How often it is looked for those whose time is over.
const LOOK: Duration = Duration::from_secs(1);

/// Those that are looked at together.
const AT_A_TIME: usize = 256;

/// Those that wait at most. Of more, the log tells; each costs a few hundred octets here.
const MOST: usize = 10_000;

/// Records of one account in an hour. Quarantine is bounded and nothing is taken out of it by itself: an account of which no id
/// matches must not fill it, or what cannot be read has no place in it.
const AN_HOUR: usize = 100;
const HOUR: Duration = Duration::from_secs(3_600);

/// The receipts of one account whose part has not turned up, by the end of their time.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    waiting: VecDeque<(Instant, CarrierId, Said)>,
    /// When records went to quarantine, in the last hour.
    kept: VecDeque<Instant>,
}

impl Orphans {
    fn wait(&mut self, until: Instant, id: CarrierId, said: Said) {
        if self.waiting.len() >= MOST {
            self.waiting.pop_front();
        }
        self.waiting.push_back((until, id, said));
    }

    /// Takes those whose time is over.
    fn due(&mut self, now: Instant) -> Vec<(CarrierId, Said)> {
        let over = self.waiting.iter().take_while(|(until, ..)| *until <= now).take(AT_A_TIME).count();
        self.waiting.drain(..over).map(|(_, id, said)| (id, said)).collect()
    }

    /// Whether there is room for one more record.
    fn may_keep(&mut self, now: Instant) -> bool {
        while self.kept.front().is_some_and(|first| now.duration_since(*first) >= HOUR) {
            self.kept.pop_front();
        }
        let room = self.kept.len() < AN_HOUR;
        if room {
            self.kept.push_back(now);
        }
        room
    }
}

/// Keeps orphans of an account aside, for ever.
pub(crate) async fn keep_orphans(account: Arc<Account>) {
    loop {
        tokio::time::sleep(LOOK).await;
        account.shared.reliance.held().await;
        account.look_for_orphans(Instant::now()).await;
    }
}

impl Account {
    fn orphans(&self) -> std::sync::MutexGuard<'_, Orphans> {
        self.orphans.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// How many receipts are parked.
    pub(crate) fn waiting_receipts(&self) -> usize {
        self.orphans().waiting.len()
    }

    /// Receipts that are parked: their part may turn up until their time is over.
    pub(super) fn wait_for_parts(&self, parked: Vec<(CarrierId, Said)>) {
        let until = Instant::now() + self.ledger.parked_for();
        let mut orphans = self.orphans();
        parked.into_iter().for_each(|(id, said)| orphans.wait(until, id, said));
    }

    async fn look_for_orphans(&self, now: Instant) {
        let due = self.orphans().due(now);
        if due.is_empty() {
            return;
        }
        let ids: Vec<_> = due.iter().map(|(id, _)| id.clone()).collect();
        let known = match self.ledger.known(&ids).await {
            Ok(known) => known,
            Err(error) => {
                tracing::debug!(account = %self.settings.id, error = chain(&error), "orphans are looked for later");
                let mut orphans = self.orphans();
                due.into_iter().for_each(|(id, said)| orphans.wait(now, id, said));
                return;
            }
        };
        for ((id, said), _) in due.into_iter().zip(known).filter(|(_, known)| !known) {
            let entry = format!("{}|{}", id.as_str(), said.to_entry());
            let why = format!(
                "a receipt of an id that stands for no part: {}, {}, error {:?}",
                id.as_str(),
                said.state.name(),
                said.error
            );
            self.keep(why, entry.into_bytes()).await;
        }
    }

    /// Keeps receipts aside that were refused.
    pub(super) async fn keep_refused(&self, refused: Vec<(&'static str, Vec<u8>)>) {
        self.metrics.receipts.of(metrics::Receipt::Refused).add(refused.len());
        let all = refused.into_iter().map(|(why, octets)| self.keep(why.to_owned(), octets));
        join_all(all).await;
    }

    async fn keep(&self, why: String, octets: Vec<u8>) {
        if !self.orphans().may_keep(Instant::now()) {
            tracing::debug!(account = %self.settings.id, "no more receipts of this hour are kept aside");
            return;
        }
        match self.shared.log.aside(&self.settings.id, why, octets).await {
            Ok(()) => self.metrics.aside.one(),
            Err(error) => {
                tracing::warn!(account = %self.settings.id, error = chain(&error), "a receipt that leads to nothing is not kept aside");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sotto_core::delivery::ReceiptState;

    use super::*;

    fn id(number: usize) -> CarrierId {
        CarrierId::canonical(&number.to_string()).unwrap()
    }

    #[test]
    fn what_waits_and_what_is_kept_is_bounded() {
        let mut orphans = Orphans::default();
        let (now, said) = (Instant::now(), Said { state: ReceiptState::Delivered, error: String::new() });
        for number in 0..MOST + 10 {
            orphans.wait(now, id(number), said.clone());
        }
        assert_eq!(orphans.waiting.len(), MOST);
        let due = orphans.due(now);
        assert_eq!((due.len(), &due[0].0), (AT_A_TIME, &id(10)), "the oldest went");
        orphans.wait(now + HOUR, id(0), said);
        let kept = |orphans: &mut Orphans, now| (0..2 * AN_HOUR).filter(|_| orphans.may_keep(now)).count();
        assert_eq!(kept(&mut orphans, now), AN_HOUR);
        assert_eq!(kept(&mut orphans, now + HOUR / 2), 0);
        assert_eq!(kept(&mut orphans, now + HOUR), AN_HOUR);
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut orphans = Orphans::default();
        let (now, said) = (Instant::now(), Said { state: ReceiptState::Delivered, error: String::new() });
        orphans.wait(now, id(1), said.clone());
        orphans.wait(now + HOUR, id(2), said.clone());
        assert_eq!(orphans.due(now), [(id(1), said.clone())]);
        assert!(orphans.due(now).is_empty());
        assert_eq!(orphans.due(now + HOUR), [(id(2), said)]);
    }
}
