//! What the entries of a log say about one another: ranges that join up, numberings without silent holes.

use std::collections::BTreeMap;

use prost::Message as _;
use sotto_proto::audit::v1::{Act, ClosingBalance, EventRange, Gap, LogEntry, log_entry::Content};

/// Faults that are told one by one; more are only counted.
const TOLD: usize = 20;

/// Holes that are remembered for one producer.
const HOLES: usize = 1_024;

/// The entries so far.
#[derive(Debug, Default)]
pub(super) struct Chronicle {
    pub(super) acts: u64,
    pub(super) ranges: u64,
    pub(super) gaps: u64,
    /// Numbers that gap entries name and no act has filled since.
    pub(super) missing: u64,
    /// Acts that came twice: a producer that the service had forgotten told again. Visible and harmless.
    pub(super) repeated: u64,
    pub(super) unreadable: u64,
    /// Event batches that ranges name without having them.
    pub(super) missing_batches: u64,
    /// The last event that a range commits to.
    pub(super) events: u64,
    /// The last event that a balance closes.
    pub(super) closed: u64,
    faults: Vec<String>,
    more_faults: u64,
    producers: BTreeMap<String, Track>,
}

/// How far a producer's numbering has come.
#[derive(Debug, Default)]
struct Track {
    high: u64,
    /// First and last of each hole that is still open, in order.
    holes: Vec<(u64, u64)>,
}

impl Chronicle {
    /// Takes the next entry.
    pub(super) fn take(&mut self, index: u64, entry: &[u8]) {
        match LogEntry::decode(entry).ok().and_then(|entry| entry.content) {
            Some(Content::Act(act)) => self.act(index, &act),
            Some(Content::EventRange(range)) => self.range(index, &range),
            Some(Content::Gap(gap)) => self.gap(index, &gap),
            Some(Content::ClosingBalance(balance)) => self.closing(index, &balance),
            None => {
                self.unreadable += 1;
                self.fault(index, "cannot be read");
            }
        }
    }

    /// What is wrong, for people, and how much more of it there is.
    pub(super) fn faults(&self) -> (&[String], u64) {
        (&self.faults, self.more_faults)
    }

    fn fault(&mut self, index: u64, what: &str) {
        if self.faults.len() < TOLD {
            self.faults.push(format!("entry {index} {what}"));
        } else {
            self.more_faults += 1;
        }
    }

    fn act(&mut self, index: u64, act: &Act) {
        self.acts += 1;
        let number = act.sequence;
        let track = self.producers.entry(act.producer.clone()).or_default();
        if number > track.high {
            let skipped = number - track.high - 1;
            track.high = number;
            if skipped > 0 {
                self.fault(
                    index,
                    &format!("skips {skipped} number(s) of {} without a gap entry", act.producer),
                );
            }
            return;
        }
        let hole = track.holes.iter().position(|(first, last)| (*first..=*last).contains(&number));
        let Some(at) = hole else {
            self.repeated += 1;
            return;
        };
        let (first, last) = track.holes.remove(at);
        let parts = [(first, number.saturating_sub(1)), (number.saturating_add(1), last)];
        for part in parts.into_iter().rev().filter(|(first, last)| first <= last) {
            track.holes.insert(at, part);
        }
        self.missing = self.missing.saturating_sub(1);
    }

    fn gap(&mut self, index: u64, gap: &Gap) {
        self.gaps += 1;
        let Gap { producer, first_missing: first, last_missing: last } = gap;
        if *first == 0 || first > last {
            self.fault(index, "is a gap of no numbers");
            return;
        }
        let track = self.producers.entry(producer.clone()).or_default();
        // A producer that the service forgot is told from the beginning again: what is known is no hole.
        let begin = (*first).max(track.high + 1);
        let (expected, known) = (track.high + 1, *last <= track.high);
        if known {
            return;
        }
        track.high = *last;
        track.holes.push((begin, *last));
        if track.holes.len() > HOLES {
            track.holes.remove(0);
        }
        self.missing += last - begin + 1;
        if *first > expected {
            self.fault(index, &format!("is a gap of {producer} that does not begin where its acts end"));
        }
    }

    fn closing(&mut self, index: u64, balance: &ClosingBalance) {
        let through = balance.through_sequence;
        if through <= self.closed {
            self.fault(index, "closes events that were closed before");
        } else if through > self.events {
            self.fault(index, "closes events that no range before it commits to");
        }
        self.closed = self.closed.max(through);
    }

    fn range(&mut self, index: u64, range: &EventRange) {
        self.ranges += 1;
        let EventRange { first_sequence: first, last_sequence: last, batches, root } = range;
        if *first != self.events + 1 {
            let what =
                format!("commits to events from {first}, and the last before it ends at {}", self.events);
            self.fault(index, &what);
        }
        if last < first {
            self.fault(index, "is a range of no events");
            return;
        }
        let width = last - first + 1;
        if *batches > width || root.len() != 32 {
            self.fault(index, "is a range that cannot be");
        }
        self.missing_batches += width.saturating_sub(*batches);
        self.events = self.events.max(*last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(sequence: u64) -> Content {
        Content::Act(Act { producer: "identity/1".to_owned(), sequence, ..Act::default() })
    }

    fn gap(first_missing: u64, last_missing: u64) -> Content {
        Content::Gap(Gap { producer: "identity/1".to_owned(), first_missing, last_missing })
    }

    fn range(first_sequence: u64, last_sequence: u64) -> Content {
        let (root, batches) = (vec![0; 32].into(), last_sequence - first_sequence + 1);
        Content::EventRange(EventRange { first_sequence, last_sequence, root, batches })
    }

    fn chronicle(entries: Vec<Content>) -> Chronicle {
        let mut chronicle = Chronicle::default();
        for (index, content) in (0..).zip(entries) {
            chronicle.take(index, &LogEntry { version: 1, content: Some(content) }.encode_to_vec());
        }
        chronicle
    }

    #[test]
    fn a_sound_log_has_no_fault() {
        let found = chronicle(vec![
            act(1),
            range(1, 3),
            act(2),
            gap(3, 5),
            act(6),
            act(4),
            range(4, 4),
            act(7),
            act(2),
            gap(1, 4),
            act(8),
        ]);
        assert_eq!(found.faults(), (&[][..], 0));
        assert_eq!((found.acts, found.ranges, found.gaps), (7, 2, 2));
        assert_eq!((found.missing, found.repeated, found.events), (2, 1, 4));
    }

    #[test]
    fn what_does_not_join_up_is_a_fault() {
        for (entries, what) in [
            (vec![act(2)], "entry 0 skips 1 number(s)"),
            (vec![act(1), act(3)], "entry 1 skips 1 number(s)"),
            (vec![act(1), gap(3, 4)], "entry 1 is a gap of identity/1 that does not begin"),
            (vec![gap(0, 0)], "entry 0 is a gap of no numbers"),
            (vec![range(2, 3)], "entry 0 commits to events from 2"),
            (vec![range(1, 3), range(3, 4)], "entry 1 commits to events from 3"),
            (vec![range(1, 3), range(5, 6)], "entry 1 commits to events from 5"),
        ] {
            let found = chronicle(entries);
            assert_eq!(found.faults().0.len(), 1, "{what}");
            assert!(found.faults().0[0].starts_with(what), "{:?}", found.faults());
        }
        let mut unreadable = Chronicle::default();
        unreadable.take(0, b"\xff\xff");
        assert_eq!((unreadable.unreadable, unreadable.faults().0.len()), (1, 1));
    }
}
