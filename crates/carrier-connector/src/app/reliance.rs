//! What must answer before work is taken: Redis, and privacy. While one of them is away batches stay at the broker
//! instead of going back and forth.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::adapters::ledger::Scope;

/// Whether Redis can be relied on, as far as this process knows.
#[derive(Debug)]
pub(crate) struct Reliance {
    holds: watch::Sender<bool>,
    doubted: Notify,
    /// Scopes that lack what the log has: Redis was not there when it was to be written.
    behind: Mutex<BTreeSet<Scope>>,
}

impl Default for Reliance {
    fn default() -> Self {
        Self { holds: watch::Sender::new(false), doubted: Notify::new(), behind: Mutex::default() }
    }
}

impl Reliance {
    /// Redis did not answer, or was lost: nothing is taken until it was looked at.
    pub(crate) fn doubt(&self) {
        self.holds.send_replace(false);
        self.doubted.notify_one();
    }

    /// What was found when it was looked at.
    pub(super) fn found(&self, holds: bool) {
        self.holds.send_replace(holds);
    }

    pub(crate) fn holds(&self) -> bool {
        *self.holds.borrow()
    }

    /// Waits until it can be relied on.
    pub(crate) async fn held(&self) {
        let mut holds = self.holds.subscribe();
        // The sender lives as long as this value.
        let _gone = holds.wait_for(|holds| *holds).await;
    }

    /// Waits until somebody doubts.
    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// Scopes must be rebuilt although Redis was not lost.
    pub(super) fn leave_behind(&self, scopes: impl IntoIterator<Item = Scope>) {
        self.lock().extend(scopes);
        self.doubt();
    }

    pub(super) fn behind(&self) -> BTreeSet<Scope> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Scope>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How long somebody is left alone who does not answer: 1 s, doubled to 30 s.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rest {
    failures: u32,
    until: Option<Instant>,
}

impl Rest {
    /// No answer. Many who ask at the same time count as one. Returns how long to wait.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        if self.left(now).is_none() {
            let rest = FIRST_REST.saturating_mul(1 << self.failures.min(5)).min(LONGEST_REST);
            self.failures = self.failures.saturating_add(1);
            self.until = Some(now + rest);
        }
        self.left(now).map_or(FIRST_REST, |until| until.saturating_duration_since(now))
    }

    /// An answer.
    pub(super) const fn answered(&mut self) {
        *self = Self { failures: 0, until: None };
    }

    /// Until when to wait, if at all.
    pub(super) fn left(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// Whether the last question was not answered: the next is a trial.
    pub(super) const fn is_trial(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_and_end_with_an_answer() {
        let mut now = Instant::now();
        let mut rest = Rest::default();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(rest.failed(now), Duration::from_secs(seconds));
            assert_eq!(
                rest.failed(now + Duration::from_millis(10)),
                Duration::from_millis(seconds * 1000 - 10)
            );
            now += Duration::from_secs(seconds);
            assert!(rest.left(now).is_none() && rest.is_trial());
        }
        rest.answered();
        assert!(!rest.is_trial());
        assert_eq!(rest.failed(now), FIRST_REST);
    }
}
