//! Which messages of a part of EVENTS are over, and what is left of them when that part goes (INV-2).
//!
//! The part ends at a cut. It is read twice: [`Survey`] notes how far each message reaches, also beyond the cut;
//! [`Fold`] folds the events and lets a message go when it has ended and nothing more comes of it. What remains are sums,
//! and the events of every message that has some on both sides of the cut or has not ended: whoever goes on from these
//! finds what a fold of everything would find ([`sotto_core::ledger`]).

use std::{collections::HashMap, time::Duration};

use sotto_core::{
    AccountId, Facts, MessageId, Timestamp,
    delivery::{Event, EventKind},
    ledger::{Ledger, Sums},
};

use super::EventRange;

/// Messages that are folded at a time before those that are over are let go.
const AT_ONCE: usize = 50_000;

/// A part of EVENTS that was closed, and may go or has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosingBalance {
    /// The last sequence of it: the end of a range.
    pub through: u64,
    /// When that batch was stored, whole seconds since the Unix epoch.
    pub stored_s: i64,
    /// What became of the messages that are over, since the cell began.
    pub sums: Sums,
    /// Receipts of which no part was ever known, since the cell began.
    pub orphans: u64,
    /// Batches, since the cell began, in which something could not be read.
    pub unreadable: u64,
    /// Where in CARRIED the events of the other messages are, and their root; none when there are no others.
    pub carried: Option<EventRange>,
}

/// How many ids and receipts a survey may note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {0} messages at once")]
pub struct TooMany(pub usize);

/// The first reading: how far messages reach.
#[derive(Debug)]
pub struct Survey {
    most: usize,
    /// The last range in which there is something of a message; `u32::MAX`: beyond the cut.
    last: HashMap<MessageId, u32>,
    /// Receipts for which no part is known yet, and the range that they are in.
    parked: HashMap<(AccountId, String), u32>,
}

/// Beyond the cut.
const BEYOND: u32 = u32::MAX;

impl Survey {
    /// One that notes at most so many messages and receipts.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, last: HashMap::new(), parked: HashMap::new() }
    }

    /// Takes an event of a range of the part; those carried into it are of range 0.
    ///
    /// # Errors
    /// [`TooMany`]: the part must be smaller.
    pub fn take(&mut self, range: u32, event: &Event) -> Result<(), TooMany> {
        self.last.insert(event.message, range);
        self.bounded()
    }

    /// Takes a receipt whose part was not known.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_parked(&mut self, range: u32, account: AccountId, carrier_id: String) -> Result<(), TooMany> {
        self.parked.entry((account, carrier_id)).or_insert(range);
        self.bounded()
    }

    /// Takes an event beyond the cut.
    pub fn beyond(&mut self, event: &Event) {
        if let Some(last) = self.last.get_mut(&event.message) {
            *last = BEYOND;
        }
        self.known(event);
    }

    /// A receipt may have come before its part was known.
    fn known(&mut self, event: &Event) {
        if let EventKind::Submitted { account, carrier_id, .. } = &event.kind
            && !self.parked.is_empty()
        {
            self.parked.remove(&(account.clone(), carrier_id.clone()));
        }
    }

    fn bounded(&self) -> Result<(), TooMany> {
        if self.last.len() + self.parked.len() > self.most { Err(TooMany(self.most)) } else { Ok(()) }
    }
}

/// The second reading: the fold.
#[derive(Debug)]
pub struct Fold {
    survey: Survey,
    ledger: Ledger,
    /// The events of the messages that the ledger knows.
    events: HashMap<MessageId, Vec<Event>>,
    /// How many messages the ledger may have until it lets some go.
    until: usize,
    /// A message whose time ends later goes on, even if it has ended: one that was cancelled lies where it waits until
    /// then, and something comes of it once more.
    ends_by: Timestamp,
}

impl Fold {
    /// Goes on from an earlier cut. What happens to messages until `ends_by` was told to the survey.
    #[must_use]
    pub fn new(survey: Survey, sums: Sums, carried: Vec<Event>, ends_by: Timestamp) -> Self {
        let ledger = Ledger::resume(sums, &carried);
        let mut fold = Self { survey, ledger, events: HashMap::new(), until: AT_ONCE, ends_by };
        for event in carried {
            fold.survey.known(&event);
            fold.note(event);
        }
        fold
    }

    /// Takes an event of the part.
    pub fn take(&mut self, event: Event) {
        self.survey.known(&event);
        self.ledger.take(&event);
        self.note(event);
    }

    fn note(&mut self, event: Event) {
        // One that is about no message is in the sums.
        if self.ledger.knows(&event.message) {
            self.events.entry(event.message).or_default().push(event);
        }
    }

    /// A range was taken as a whole.
    ///
    /// # Errors
    /// [`TooMany`]: more messages go on than may be noted.
    pub fn end_of(&mut self, range: u32) -> Result<(), TooMany> {
        if self.ledger.open() >= self.until {
            self.let_go(range);
            self.until = (2 * self.ledger.open()).max(AT_ONCE);
        }
        let most = self.survey.most;
        if self.ledger.open() > most { Err(TooMany(most)) } else { Ok(()) }
    }

    /// Lets those go that are over with this range.
    pub fn let_go(&mut self, range: u32) {
        let Self { survey, ledger, events, ends_by, .. } = self;
        let is_over = |facts: &Facts| {
            let ends = facts.send_at.map_or(facts.expires_at, |at| at.max(facts.expires_at));
            ends <= *ends_by && survey.last.get(&facts.message).is_none_or(|last| *last <= range)
        };
        ledger.close(is_over);
        events.retain(|message, _| ledger.knows(message));
    }

    /// The sums, the receipts of nobody, and the events of the messages that go on, each message's in their order; `range`
    /// is the last one that was taken.
    #[must_use]
    pub fn finish(mut self, range: u32) -> (Sums, u64, Vec<Event>) {
        self.let_go(range);
        let orphans = self.survey.parked.values().filter(|of| **of <= range).count();
        let orphans = u64::try_from(orphans).unwrap_or(u64::MAX);
        let mut carried: Vec<_> = self.events.into_iter().collect();
        carried.sort_unstable_by_key(|(message, _)| *message);
        let events = carried.into_iter().flat_map(|(_, events)| events).collect();
        (self.ledger.sums().clone(), orphans, events)
    }
}

/// How old the batches are that may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How long events are kept.
    pub usual: Duration,
    /// How long at least, when the stream is nearly full.
    pub least: Duration,
}

impl Keep {
    /// Before when a batch must be stored to go. The clock is believed only as far as the newest batch in the log
    /// confirms it: one that jumps ahead must not destroy anything.
    #[must_use]
    pub fn before(self, now: Timestamp, newest: Timestamp, nearly_full: bool) -> Timestamp {
        now.min(newest).minus(if nearly_full { self.least } else { self.usual })
    }
}
