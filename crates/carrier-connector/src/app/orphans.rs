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

/// When a parked receipt is looked for the first time: the answer that it overtook, or another replica took, has come by then.
const SOON: Duration = Duration::from_secs(60);

/// Those that wait at most, of either kind. Of more, the log tells; each costs a few hundred octets here.
const MOST: usize = 10_000;

/// Records of one account in an hour. Quarantine is bounded and nothing is taken out of it by itself: an account of which no id
/// matches must not fill it, or what cannot be read has no place in it.
const AN_HOUR: usize = 100;
const HOUR: Duration = Duration::from_secs(3_600);

/// A parked receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Orphan {
    /// The end of its time.
    until: Instant,
    id: CarrierId,
    said: Said,
}

/// The receipts of one account whose part has not turned up.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// Those that were not looked for yet, by when they are.
    early: VecDeque<(Instant, Orphan)>,
    /// Those that were looked for in vain, by the end of their time.
    waiting: VecDeque<Orphan>,
    /// When records went to quarantine, in the last hour.
    kept: VecDeque<Instant>,
}

impl Orphans {
    fn park(&mut self, now: Instant, orphan: Orphan) {
        push(&mut self.early, (orphan.until.min(now + SOON), orphan));
    }

    fn wait(&mut self, orphan: Orphan) {
        push(&mut self.waiting, orphan);
    }

    /// Takes those that are to be looked for the first time.
    fn early(&mut self, now: Instant) -> Vec<Orphan> {
        let due = self.early.iter().take_while(|(at, _)| *at <= now).take(AT_A_TIME).count();
        self.early.drain(..due).map(|(_, orphan)| orphan).collect()
    }

    /// Takes those whose time is over.
    fn due(&mut self, now: Instant) -> Vec<Orphan> {
        let over = self.waiting.iter().take_while(|orphan| orphan.until <= now).take(AT_A_TIME).count();
        self.waiting.drain(..over).collect()
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

/// The oldest goes where there is no room.
fn push<T>(all: &mut VecDeque<T>, one: T) {
    if all.len() >= MOST {
        all.pop_front();
    }
    all.push_back(one);
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

    /// How many receipts were looked for in vain.
    pub(crate) fn waiting_receipts(&self) -> usize {
        self.orphans().waiting.len()
    }

    /// Receipts that are parked: their part may turn up until their time is over.
    pub(super) fn wait_for_parts(&self, parked: Vec<(CarrierId, Said)>) {
        let now = Instant::now();
        let until = now + self.ledger.parked_for();
        let mut orphans = self.orphans();
        parked.into_iter().for_each(|(id, said)| orphans.park(now, Orphan { until, id, said }));
    }

    async fn look_for_orphans(&self, now: Instant) {
        let early = self.orphans().early(now);
        let unknown = self.unknown(early).await;
        {
            let mut orphans = self.orphans();
            unknown.into_iter().for_each(|orphan| orphans.wait(orphan));
        }
        let due = self.orphans().due(now);
        for Orphan { id, said, .. } in self.unknown(due).await {
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

    /// Those of which no part is known. While that cannot be told they go on waiting.
    async fn unknown(&self, orphans: Vec<Orphan>) -> Vec<Orphan> {
        if orphans.is_empty() {
            return orphans;
        }
        let ids: Vec<_> = orphans.iter().map(|orphan| orphan.id.clone()).collect();
        match self.ledger.known(&ids).await {
            Ok(known) => {
                let found = orphans.into_iter().zip(known);
                found.filter(|(_, known)| !known).map(|(orphan, _)| orphan).collect()
            }
            Err(error) => {
                tracing::debug!(account = %self.settings.id, error = chain(&error), "orphans are looked for later");
                let mut all = self.orphans();
                orphans.into_iter().for_each(|orphan| all.wait(orphan));
                Vec::new()
            }
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

    fn orphan(until: Instant, number: usize) -> Orphan {
        let said = Said { state: ReceiptState::Delivered, error: String::new() };
        Orphan { until, id: id(number), said }
    }

    #[test]
    fn what_waits_and_what_is_kept_is_bounded() {
        let mut orphans = Orphans::default();
        let now = Instant::now();
        for number in 0..MOST + 10 {
            orphans.wait(orphan(now, number));
            orphans.park(now, orphan(now, number));
        }
        assert_eq!((orphans.waiting.len(), orphans.early.len()), (MOST, MOST));
        let due = orphans.due(now);
        assert_eq!((due.len(), &due[0].id), (AT_A_TIME, &id(10)), "the oldest went");
        orphans.wait(orphan(now + HOUR, 0));
        let kept = |orphans: &mut Orphans, now| (0..2 * AN_HOUR).filter(|_| orphans.may_keep(now)).count();
        assert_eq!(kept(&mut orphans, now), AN_HOUR);
        assert_eq!(kept(&mut orphans, now + HOUR / 2), 0);
        assert_eq!(kept(&mut orphans, now + HOUR), AN_HOUR);
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let mut orphans = Orphans::default();
        let now = Instant::now();
        let [first, second] = [orphan(now, 1), orphan(now + HOUR, 2)];
        orphans.wait(first.clone());
        orphans.wait(second.clone());
        assert_eq!(orphans.due(now), [first]);
        assert!(orphans.due(now).is_empty());
        assert_eq!(orphans.due(now + HOUR), [second]);
    }

    #[test]
    fn what_is_parked_is_looked_for_soon_and_at_the_latest_when_its_time_is_over() {
        let mut orphans = Orphans::default();
        let now = Instant::now();
        let [long, short] = [orphan(now + HOUR, 1), orphan(now + SOON / 2, 2)];
        orphans.park(now, short.clone());
        orphans.park(now, long.clone());
        assert!(orphans.early(now).is_empty());
        assert_eq!(orphans.early(now + SOON / 2), [short]);
        assert_eq!(orphans.early(now + SOON), [long]);
    }
}
