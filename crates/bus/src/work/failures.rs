//! Which deliveries failed. A delivery count alone does not say: broker restarts and deliberate naks raise it too.

use std::collections::HashMap;

use crate::topology::Retention;

/// Deliveries after which a batch is taken apart, and after which an isolated item is given up.
pub(super) const PATIENCE: u64 = 3;
/// Messages remembered; beyond it memory starts anew, which only costs patience.
const MOST: usize = 10_000;

/// What this process has seen of a message.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Deliveries that ended well: an outcome, a nak of ours, an acknowledgement that got lost.
    innocent: u64,
    /// Handler panics.
    panics: u64,
}

/// Counts failures by consumer and stream sequence.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<(usize, u64), Seen>);

impl Failures {
    /// Deliveries that are not known to have ended well.
    ///
    /// In a work queue that is the count less what we know to be innocent: a process that died tells nobody. In a log,
    /// where messages are delayed by naks for as long as, say, Redis is away, only panics that were seen count.
    pub(super) fn of(&self, key: (usize, u64), delivered: u64, retention: Retention) -> u64 {
        let seen = self.0.get(&key).copied().unwrap_or_default();
        match retention {
            Retention::WorkQueue => delivered.saturating_sub(1).saturating_sub(seen.innocent),
            Retention::Limits | Retention::Aged | Retention::Latest => seen.panics,
        }
    }

    pub(super) fn innocent(&mut self, key: (usize, u64)) {
        self.entry(key).innocent += 1;
    }

    pub(super) fn panicked(&mut self, key: (usize, u64)) {
        self.entry(key).panics += 1;
    }

    pub(super) fn forget(&mut self, key: (usize, u64)) {
        self.0.remove(&key);
    }

    fn entry(&mut self, key: (usize, u64)) -> &mut Seen {
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            self.0.clear();
        }
        self.0.entry(key).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naks_of_ours_are_no_failures() {
        let mut failures = Failures::default();
        failures.innocent((0, 7));
        failures.innocent((0, 7));
        assert_eq!(failures.of((0, 7), 3, Retention::WorkQueue), 0);
        assert_eq!(failures.of((1, 7), 3, Retention::WorkQueue), 2);
        failures.forget((0, 7));
        assert_eq!(failures.of((0, 7), 3, Retention::WorkQueue), 2);
    }

    #[test]
    fn in_a_log_only_panics_count() {
        let mut failures = Failures::default();
        assert_eq!(failures.of((0, 7), 100, Retention::Limits), 0);
        failures.panicked((0, 7));
        assert_eq!(failures.of((0, 7), 100, Retention::Limits), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let mut failures = Failures::default();
        for sequence in 0..30_000 {
            failures.panicked((0, sequence));
        }
        assert!(failures.0.len() <= MOST);
    }
}
