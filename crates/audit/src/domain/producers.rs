//! Who told how far: missing numbers show as gaps, repeated ones are dropped.

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
};

/// Holes remembered for one producer. Beyond that the oldest is forgotten, and numbers up to its end are logged again
/// if they come: twice is visible and harmless, never would be neither.
const HOLES: usize = 64;

/// How far each producer's numbering has come. Folded from the log itself, so that it survives everything the log
/// survives; the same acts in the same order give the same state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Producers {
    capacity: usize,
    /// Counts what was logged: the order in which producers are forgotten.
    now: u64,
    known: HashMap<String, Track>,
    by_age: BTreeMap<u64, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Track {
    high: u64,
    holes: Vec<RangeInclusive<u64>>,
    forgotten: u64,
    touched: u64,
}

/// What a number means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The next one.
    Next,
    /// Those before it are missing.
    Skips(RangeInclusive<u64>),
    /// It was missing and came late.
    Late,
    /// It is in the log already.
    Duplicate,
}

impl Producers {
    /// Knows nobody yet, and never more than `capacity`: the one unheard for longest is forgotten first.
    #[must_use]
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), now: 0, known: HashMap::new(), by_age: BTreeMap::new() }
    }

    /// How many numbers are missing, of those that are remembered.
    #[must_use]
    pub(super) fn missing(&self) -> u64 {
        let holes = self.known.values().flat_map(|track| &track.holes);
        holes.map(|hole| (hole.end() - hole.start()).saturating_add(1)).fold(0, u64::saturating_add)
    }

    /// What this number would mean.
    #[must_use]
    pub(super) fn judge(&self, producer: &str, sequence: u64) -> Verdict {
        let Some(track) = self.known.get(producer) else {
            return if sequence > 1 { Verdict::Skips(1..=sequence - 1) } else { Verdict::Next };
        };
        if sequence > track.high {
            let first = track.high + 1;
            return if first == sequence { Verdict::Next } else { Verdict::Skips(first..=sequence - 1) };
        }
        if sequence <= track.forgotten || track.holes.iter().any(|hole| hole.contains(&sequence)) {
            Verdict::Late
        } else {
            Verdict::Duplicate
        }
    }

    /// An act is in the log.
    pub(super) fn told(&mut self, producer: &str, sequence: u64) {
        let track = self.touch(producer);
        if sequence > track.high {
            track.high = sequence;
            return;
        }
        if let Some(at) = track.holes.iter().position(|hole| hole.contains(&sequence)) {
            let hole = track.holes.remove(at);
            let parts = [(*hole.start(), sequence - 1), (sequence.saturating_add(1), *hole.end())];
            // From the right, so that both parts stand at `at` in order.
            for (start, end) in parts.into_iter().rev().filter(|(start, end)| start <= end) {
                track.holes.insert(at, start..=end);
            }
            forget_oldest(track);
        }
    }

    /// A gap is in the log.
    pub(super) fn missed(&mut self, producer: &str, missing: RangeInclusive<u64>) {
        let track = self.touch(producer);
        track.high = track.high.max(*missing.end());
        track.holes.push(missing);
        forget_oldest(track);
    }

    fn touch(&mut self, producer: &str) -> &mut Track {
        self.now += 1;
        let now = self.now;
        if let Some(track) = self.known.get(producer) {
            self.by_age.remove(&track.touched);
        } else if self.known.len() >= self.capacity
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.known.remove(&oldest);
        }
        self.by_age.insert(now, producer.to_owned());
        let track = self.known.entry(producer.to_owned()).or_default();
        track.touched = now;
        track
    }
}

fn forget_oldest(track: &mut Track) {
    if track.holes.len() > HOLES {
        let hole = track.holes.remove(0);
        track.forgotten = track.forgotten.max(*hole.end());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Logs a number as the sequencer does and says whether it became an entry.
    fn log(producers: &mut Producers, producer: &str, sequence: u64) -> bool {
        match producers.judge(producer, sequence) {
            Verdict::Duplicate => return false,
            Verdict::Skips(missing) => producers.missed(producer, missing),
            Verdict::Next | Verdict::Late => {}
        }
        producers.told(producer, sequence);
        true
    }

    #[test]
    fn a_dropped_record_shows_and_may_come_late_once() {
        let mut producers = Producers::new(8);
        assert!(log(&mut producers, "a/1", 1));
        assert_eq!(producers.judge("a/1", 2), Verdict::Next);
        assert_eq!(producers.judge("a/1", 4), Verdict::Skips(2..=3));
        assert!(log(&mut producers, "a/1", 4));
        assert_eq!(producers.judge("a/1", 3), Verdict::Late);
        assert!(log(&mut producers, "a/1", 3));
        assert!(!log(&mut producers, "a/1", 3));
        assert!(!log(&mut producers, "a/1", 4));
        assert_eq!(producers.judge("a/1", 2), Verdict::Late);
        assert_eq!(producers.judge("b/1", 3), Verdict::Skips(1..=2), "a new producer counts from 1");
    }

    #[test]
    fn the_longest_unheard_producer_is_forgotten_first() {
        let mut producers = Producers::new(2);
        for producer in ["a/1", "b/1", "a/1", "c/1"] {
            let next = producers.known.get(producer).map_or(1, |track| track.high + 1);
            assert!(log(&mut producers, producer, next));
        }
        assert_eq!(producers.judge("a/1", 2), Verdict::Duplicate);
        assert_eq!(producers.judge("b/1", 1), Verdict::Next, "forgotten");
        assert_eq!((producers.known.len(), producers.by_age.len()), (2, 2));
    }

    #[test]
    fn numbers_at_the_end_of_the_range_do_not_overflow() {
        let mut producers = Producers::new(2);
        assert!(log(&mut producers, "a/1", u64::MAX));
        assert!(!log(&mut producers, "a/1", u64::MAX));
        assert!(log(&mut producers, "a/1", u64::MAX - 1));
        assert!(log(&mut producers, "a/1", 1));
    }

    #[test]
    fn holes_are_bounded_and_the_forgotten_ones_are_logged_rather_than_lost() {
        let mut producers = Producers::new(2);
        for sequence in (2..=400).step_by(2) {
            assert!(log(&mut producers, "a/1", sequence));
        }
        assert_eq!(producers.known["a/1"].holes.len(), HOLES);
        assert_eq!(producers.judge("a/1", 1), Verdict::Late);
        assert_eq!(producers.judge("a/1", 400), Verdict::Duplicate);
    }

    proptest! {
        /// Any order, any repetition: each number becomes an entry exactly once while holes are remembered.
        #[test]
        fn each_number_is_logged_once(numbers in proptest::collection::vec(1_u64..60, 0..200)) {
            let mut producers = Producers::new(4);
            let mut logged = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(log(&mut producers, "a/1", number), logged.insert(number));
            }
            let high = logged.last().copied().unwrap_or(0);
            for number in 1..=high {
                let expected = if logged.contains(&number) { Verdict::Duplicate } else { Verdict::Late };
                prop_assert_eq!(producers.judge("a/1", number), expected);
            }
        }
    }
}
