//! What the sequencer must know of the log it appends to, folded from its entries.

use sotto_core::{Classified, ErrorClass};
use sotto_tlog::TILE_WIDTH;

use super::{
    Act, ClosingBalance, Entry, EventRange, Gap, Openings,
    producers::{Producers, Verdict},
};

/// Folded from every entry of the log in order: at start from disk, then as entries are appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    producers: Producers,
    marks: EventMarks,
    openings: Openings,
    closing: Option<Closed>,
}

/// The newest closing balance and its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Its entry's index.
    pub entry: u64,
    /// The balance.
    pub balance: ClosingBalance,
}

impl Index {
    /// The index of the empty log, remembering at most `producers` producers.
    #[must_use]
    pub fn new(producers: usize) -> Self {
        Self {
            producers: Producers::new(producers),
            marks: EventMarks::default(),
            openings: Openings::default(),
            closing: None,
        }
    }

    /// How many acts are missing, of those whose numbering is remembered.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.producers.missing()
    }

    /// Adds the next entry of a log that is read back.
    ///
    /// # Errors
    /// [`Unsound`] for an entry that this service would not have written.
    pub fn fold(&mut self, entry: &Entry) -> Result<(), Unsound> {
        let sound = match entry {
            Entry::Act(act) => {
                self.producers.told(&act.producer, act.sequence);
                self.openings.fold(act);
                true
            }
            Entry::Gap(gap) => {
                let sound = gap.first <= gap.last;
                if sound {
                    self.producers.missed(&gap.producer, gap.first..=gap.last);
                }
                sound
            }
            Entry::EventRange(range) => range.first == self.marks.through + 1 && range.last >= range.first,
            Entry::ClosingBalance(balance) => {
                let sound = (self.closed_through() + 1..=self.marks.through).contains(&balance.through);
                if sound {
                    self.closing = Some(Closed { entry: self.marks.size, balance: balance.clone() });
                }
                sound
            }
        };
        if !sound {
            return Err(Unsound { index: self.marks.size });
        }
        self.marks.push(entry);
        Ok(())
    }

    /// Takes an act and returns what it adds to the log: nothing when it is there already; the gap that it shows,
    /// then the act itself.
    pub fn admit(&mut self, act: Act) -> Vec<Entry> {
        let mut entries = Vec::new();
        match self.producers.judge(&act.producer, act.sequence) {
            Verdict::Duplicate => return entries,
            Verdict::Skips(missing) => {
                let gap =
                    Gap { producer: act.producer.clone(), first: *missing.start(), last: *missing.end() };
                self.producers.missed(&act.producer, missing);
                entries.push(Entry::Gap(gap));
            }
            Verdict::Next | Verdict::Late => {}
        }
        self.producers.told(&act.producer, act.sequence);
        self.openings.fold(&act);
        entries.push(Entry::Act(act));
        for entry in &entries {
            self.marks.push(entry);
        }
        entries
    }

    /// Takes a range of events.
    ///
    /// # Errors
    /// [`Unsound`] when it does not follow the last one.
    pub fn commit(&mut self, range: EventRange) -> Result<Entry, Unsound> {
        let entry = Entry::EventRange(range);
        self.fold(&entry)?;
        Ok(entry)
    }

    /// Takes a closing balance.
    ///
    /// # Errors
    /// [`Unsound`] when it closes nothing new, or what is not committed.
    pub fn close(&mut self, balance: ClosingBalance) -> Result<Entry, Unsound> {
        let entry = Entry::ClosingBalance(balance);
        self.fold(&entry)?;
        Ok(entry)
    }

    /// The newest closing balance.
    #[must_use]
    pub const fn closing(&self) -> Option<&Closed> {
        self.closing.as_ref()
    }

    /// The last sequence of EVENTS that is closed; 0 for none.
    #[must_use]
    pub fn closed_through(&self) -> u64 {
        self.closing.as_ref().map_or(0, |closed| closed.balance.through)
    }

    /// Number of entries.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.marks.size
    }

    /// Whether keys were opened by those who announced it.
    #[must_use]
    pub const fn openings(&self) -> &Openings {
        &self.openings
    }

    /// How far events are committed, and where.
    #[must_use]
    pub const fn marks(&self) -> &EventMarks {
        &self.marks
    }
}

/// How far events are committed, and in which bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventMarks {
    size: u64,
    through: u64,
    /// For each bundle, how far events are committed at its end: finds the range of an event by one bundle read,
    /// for 8 bytes of memory a bundle.
    ends: Vec<u64>,
}

impl EventMarks {
    fn push(&mut self, entry: &Entry) {
        match entry {
            Entry::EventRange(range) => self.through = range.last,
            Entry::Act(_) | Entry::Gap(_) | Entry::ClosingBalance(_) => {}
        }
        if self.size.is_multiple_of(TILE_WIDTH) {
            self.ends.push(self.through);
        } else if let Some(end) = self.ends.last_mut() {
            *end = self.through;
        }
        self.size += 1;
    }

    /// Catches up with the marks of the same log, later on; only what is new is copied.
    pub fn follow(&mut self, later: &Self) {
        let kept = self.ends.len().saturating_sub(1);
        self.ends.truncate(kept);
        self.ends.extend(later.ends.iter().skip(kept));
        (self.size, self.through) = (later.size, later.through);
    }

    /// The last sequence of EVENTS that is committed; 0 for none.
    #[must_use]
    pub const fn through(&self) -> u64 {
        self.through
    }

    /// The bundle that holds the range of this event; `None` when it is not committed.
    #[must_use]
    pub fn bundle_of(&self, sequence: u64) -> Option<u64> {
        if sequence == 0 || sequence > self.through {
            return None;
        }
        u64::try_from(self.ends.partition_point(|end| *end < sequence)).ok()
    }
}

/// An entry of the log contradicts those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entry {index} contradicts those before it: the log was not written by this service")]
pub struct Unsound {
    /// Its index.
    pub index: u64,
}

impl Classified for Unsound {
    fn class(&self) -> ErrorClass {
        ErrorClass::Bug
    }
}

#[cfg(test)]
mod tests {
    use sotto_tlog::Hash;

    use super::*;
    use crate::domain::{EventRange, Gap};

    fn range(first: u64, last: u64) -> Entry {
        Entry::EventRange(EventRange { first, last, root: Hash::empty(), batches: 1 })
    }

    fn gap(first: u64, last: u64) -> Entry {
        Entry::Gap(Gap { producer: "a/1".to_owned(), first, last })
    }

    #[test]
    fn an_event_is_found_in_its_bundle() {
        let mut index = Index::new(4);
        assert_eq!(index.marks().bundle_of(1), None);
        // Two bundles of other entries around three ranges.
        index.fold(&range(1, 10)).unwrap();
        for n in 1..300 {
            index.fold(&gap(n, n)).unwrap();
        }
        index.fold(&range(11, 11)).unwrap();
        for n in 300..600 {
            index.fold(&gap(n, n)).unwrap();
        }
        index.fold(&range(12, 40)).unwrap();
        assert_eq!(index.size(), 602);
        let bundles: Vec<_> = [0, 1, 10, 11, 12, 40, 41].map(|event| index.marks().bundle_of(event)).to_vec();
        assert_eq!(bundles, [None, Some(0), Some(0), Some(1), Some(2), Some(2), None]);
        assert_eq!(index.marks().through(), 40);
        let mut follower = EventMarks::default();
        follower.follow(index.marks());
        assert_eq!(&follower, index.marks());
        index.fold(&range(41, 41)).unwrap();
        for n in 600..900 {
            index.fold(&gap(n, n)).unwrap();
        }
        follower.follow(index.marks());
        assert_eq!(&follower, index.marks());
    }

    #[test]
    fn admitting_is_folding() {
        let act = |sequence| Act {
            producer: "a/1".to_owned(),
            sequence,
            at_s: 1,
            category: crate::domain::Category::Keys,
            action: "x".to_owned(),
            actor: "x".to_owned(),
            tenant: String::new(),
            object: String::new(),
            outcome: "ok".to_owned(),
        };
        let mut live = Index::new(4);
        let mut entries = Vec::new();
        for sequence in [1, 1, 4, 2, 4, 3, 2] {
            entries.extend(live.admit(act(sequence)));
        }
        let acts = [1, 4, 2, 3].map(|sequence| Entry::Act(act(sequence)));
        let [first, fourth, second, third] = acts;
        assert_eq!(entries, [first, gap(2, 3), fourth, second, third]);
        let mut rebuilt = Index::new(4);
        for entry in &entries {
            rebuilt.fold(entry).unwrap();
        }
        assert_eq!(rebuilt, live);
    }

    #[test]
    fn ranges_follow_one_another() {
        let mut index = Index::new(4);
        for wrong in [range(2, 3), range(0, 3), range(1, 0)] {
            assert_eq!(index.fold(&wrong), Err(Unsound { index: 0 }));
        }
        index.fold(&range(1, 3)).unwrap();
        assert_eq!(index.fold(&range(3, 4)), Err(Unsound { index: 1 }));
        assert_eq!(index.fold(&range(5, 6)), Err(Unsound { index: 1 }));
        assert_eq!(index.fold(&gap(2, 1)), Err(Unsound { index: 1 }));
        assert_eq!(index.size(), 1);
    }
}
