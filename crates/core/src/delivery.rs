//! The delivery state machine: what a message's events mean, one by one (INV-2, INV-5, MSG-6).
//!
//! Pure: [`Delivery::step`] takes an event and says what changed. The same event twice has one effect; events that
//! come late or out of order find their place; evidence after the end is recorded as a correction and never re-runs
//! effects. The state of a message is the fold of its events and of nothing else.

mod event;
mod invariants;
mod part;

pub use event::{Event, EventKind, ExpiryCause, ReceiptState, RejectCause};
pub use invariants::{Violation, check};
pub use part::{Doubt, PartState};

use crate::{AccountId, Timestamp, facts::Facts};
use std::time::Duration;

/// How a message ended. Every message ends in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Every part reached the handset.
    Delivered,
    /// A carrier took it and could not deliver every part.
    Undelivered,
    /// Refused before any carrier took it.
    Rejected,
    /// Its validity ended before a carrier took it or delivered it.
    Expired,
    /// Cancelled before submit.
    Cancelled,
    /// Submitted, and the carrier never told the outcome.
    Unknown,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 6] =
        [Self::Delivered, Self::Undelivered, Self::Rejected, Self::Expired, Self::Cancelled, Self::Unknown];

    /// The word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Undelivered => "undelivered",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Stored, not routed (or back from an account).
    Accepted,
    /// Waits for a window slot of an account.
    Routed,
    /// At least one part is being written to, or is with, a carrier.
    Submitted,
    /// At least one part was written and not answered.
    InDoubt,
    /// Ended.
    Ended(Outcome),
}

/// What the shell should do because of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The message ended.
    Ended(Outcome),
    /// Later evidence contradicts the recorded end. Told to watchers; nothing is re-run.
    Corrected {
        /// What had been recorded.
        from: Outcome,
        /// What the evidence says.
        to: Outcome,
    },
}

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Whether the event changed anything: one that did not need not be recorded.
    pub changed: bool,
    /// What to do.
    pub effects: Vec<Effect>,
}

/// An event that cannot be about this message: a bug or a forgery, kept aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// The event names another message.
    #[error("the event is about another message")]
    OtherMessage,
    /// The first event of a message must carry its facts.
    #[error("the first event of a message must be its acceptance")]
    NotAccepted,
    /// The event names a part that the message does not have.
    #[error("part {part} of a message of {parts} parts")]
    NoSuchPart {
        /// The part named.
        part: u8,
        /// The parts it has.
        parts: u8,
    },
    /// Acceptance with other facts than before.
    #[error("the message was accepted with other facts")]
    OtherFacts,
}

/// The state of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    facts: Facts,
    attempt: u16,
    account: Option<AccountId>,
    parts: Vec<PartState>,
    /// For each part the newest attempt of which it is known that nothing more comes of it: never written, refused
    /// with another attempt to follow, or expired at the carrier; 0: none. The record of an intent may come into the
    /// log behind the record of its end, when two processes held the item.
    over: Vec<u16>,
    /// When a part was last being submitted.
    submitting_at: Option<Timestamp>,
    ended: Option<Outcome>,
    corrected: Option<Outcome>,
}

impl Delivery {
    /// The state after acceptance.
    pub fn accepted(facts: Facts) -> Self {
        let count = usize::from(facts.parts);
        Self {
            facts,
            attempt: 0,
            account: None,
            parts: vec![PartState::Pending; count],
            over: vec![0; count],
            submitting_at: None,
            ended: None,
            corrected: None,
        }
    }

    /// Folds a message's events, oldest first; the first must be the acceptance. An event that cannot be about this
    /// message ends the fold with an error.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Result<Self, Illegal> {
        let mut events = events.into_iter();
        let Some(Event { kind: EventKind::Accepted(facts), .. }) = events.next() else {
            return Err(Illegal::NotAccepted);
        };
        let mut delivery = Self::accepted(facts.as_ref().clone());
        for event in events {
            delivery.step(event)?;
        }
        Ok(delivery)
    }

    /// The accepted facts.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The newest attempt, from 1; 0 before the first routing.
    pub const fn attempt(&self) -> u16 {
        self.attempt
    }

    /// The account of the newest attempt.
    pub const fn account(&self) -> Option<&AccountId> {
        self.account.as_ref()
    }

    /// The parts, first to last.
    pub fn parts(&self) -> &[PartState] {
        &self.parts
    }

    /// How it ended, if it has.
    pub const fn outcome(&self) -> Option<Outcome> {
        self.ended
    }

    /// What later evidence says instead, if it does.
    pub const fn correction(&self) -> Option<Outcome> {
        self.corrected
    }

    /// Where it is.
    pub fn stage(&self) -> Stage {
        if let Some(outcome) = self.ended {
            return Stage::Ended(outcome);
        }
        if self.parts.iter().any(|part| matches!(part, PartState::NoResponse { .. })) {
            return Stage::InDoubt;
        }
        if self.parts.iter().any(|part| !matches!(part, PartState::Pending)) {
            return Stage::Submitted;
        }
        if self.account.is_some() { Stage::Routed } else { Stage::Accepted }
    }

    /// When silence must be closed, if nothing else happens: an unsent message `grace` after its validity, a sent one
    /// `receipt_wait` after its last submit. Ended messages have no deadline.
    pub fn deadline(&self, grace: Duration, receipt_wait: Duration) -> Option<Timestamp> {
        if self.ended.is_some() {
            return None;
        }
        let expiry = self.facts.expires_at.plus(grace);
        match self.submitting_at {
            Some(at) if self.parts.iter().any(PartState::is_with_carrier) => {
                Some(at.plus(receipt_wait).max(expiry))
            }
            Some(_) | None => Some(expiry),
        }
    }

    /// The event that closes silence at [`Self::deadline`].
    pub fn closing_event(&self) -> EventKind {
        if self.parts.iter().any(PartState::is_with_carrier) {
            EventKind::ClosedUnknown
        } else {
            EventKind::Expired { cause: ExpiryCause::Silence }
        }
    }

    /// Takes one event.
    pub fn step(&mut self, event: &Event) -> Result<Step, Illegal> {
        if event.message != self.facts.message {
            return Err(Illegal::OtherMessage);
        }
        let changed = self.apply(event)?;
        let effects =
            if changed { self.settle(matches!(event.kind, EventKind::Cancelled)) } else { Vec::new() };
        debug_assert_eq!(check(self), None);
        Ok(Step { changed, effects })
    }

    fn apply(&mut self, event: &Event) -> Result<bool, Illegal> {
        match &event.kind {
            EventKind::Accepted(facts) => {
                // A keyed request that was retried after a crash is accepted twice with other times: the first counts.
                let same = facts.tenant == self.facts.tenant && facts.content_mac == self.facts.content_mac;
                if same { Ok(false) } else { Err(Illegal::OtherFacts) }
            }
            EventKind::Routed { attempt, account, .. } => Ok(self.route(*attempt, account)),
            EventKind::Submitting { attempt, account, parts } => {
                self.begin(event.at, *attempt, account, parts)
            }
            EventKind::Submitted { attempt, part, .. } => {
                let over = self.over(*part);
                self.on_part(*part, |state| state.submitted(*attempt, over))
            }
            EventKind::Refused { attempt, part, status, retried, .. } => {
                let mut changed = self.on_part(*part, |state| state.refused(*attempt, *status, *retried))?;
                if *retried {
                    changed |= self.end_attempt(*part, *attempt);
                    if changed && self.attempt <= *attempt {
                        self.unroute();
                    }
                }
                Ok(changed)
            }
            EventKind::Unsent { attempt, parts, .. } => {
                let mut changed = false;
                for part in parts {
                    changed |= self.on_part(*part, |state| state.unsent(*attempt))?;
                    changed |= self.end_attempt(*part, *attempt);
                }
                // An item that came back before any intent leaves its parts pending, and still leaves the account.
                if self.attempt <= *attempt && self.ended.is_none() {
                    changed |= self.unroute();
                }
                Ok(changed)
            }
            EventKind::NoResponse { attempt, part, .. } => {
                self.on_part(*part, |state| state.no_response(*attempt))
            }
            EventKind::Receipt { attempt, part, state: said, .. } => {
                let over = self.over(*part);
                let changed = self.on_part(*part, |state| state.receipt(*attempt, *said, over))?;
                if changed && *said == ReceiptState::Expired {
                    self.end_attempt(*part, *attempt);
                }
                Ok(changed)
            }
            EventKind::Expired { .. } => Ok(self.close_pending(|| PartState::Expired)),
            EventKind::Rejected { .. } => {
                Ok(self.close_pending(|| PartState::Refused { attempt: 0, status: 0 }))
            }
            EventKind::Cancelled => {
                // An intent stands in the log before it is decided whether it or the cancellation was first: told is only
                // a cancellation that was (docs/adr/0009). One that the carrier has answered was not.
                let open =
                    |part: &PartState| matches!(part, PartState::Pending | PartState::Submitting { .. });
                let changed = self.parts.iter().all(open);
                if changed {
                    self.parts.fill(PartState::Cancelled);
                }
                Ok(changed)
            }
            EventKind::ClosedUnknown => {
                let mut changed = false;
                for part in &mut self.parts {
                    changed |= part.close_unknown();
                }
                Ok(changed)
            }
            EventKind::Doubted => {
                Ok(self.close_pending(|| PartState::Unknown { attempt: 0, doubt: Doubt::Restored }))
            }
        }
    }

    fn route(&mut self, attempt: u16, account: &AccountId) -> bool {
        let redecided = attempt == self.attempt
            && self.account.as_ref() != Some(account)
            && self.over.iter().all(|over| *over < attempt)
            && self.parts.iter().all(|part| *part == PartState::Pending);
        if self.ended.is_some() || (attempt <= self.attempt && !redecided) {
            return false;
        }
        self.attempt = attempt;
        self.account = Some(account.clone());
        true
    }

    /// The message left its account and waits for routing again, unless a part of it is there.
    fn unroute(&mut self) -> bool {
        if self.parts.iter().all(|part| *part == PartState::Pending) {
            self.account.take().is_some()
        } else {
            false
        }
    }

    fn begin(
        &mut self,
        at: Timestamp,
        attempt: u16,
        account: &AccountId,
        parts: &[u8],
    ) -> Result<bool, Illegal> {
        let mut changed = false;
        for part in parts {
            let over = attempt <= self.over(*part);
            changed |= self.on_part(*part, |state| !over && state.submitting(attempt))?;
        }
        if changed {
            self.attempt = self.attempt.max(attempt);
            self.account = Some(account.clone());
            self.submitting_at = Some(at);
        }
        Ok(changed)
    }

    fn over(&self, part: u8) -> u16 {
        usize::from(part).checked_sub(1).and_then(|index| self.over.get(index)).copied().unwrap_or(0)
    }

    /// Notes that nothing more comes of an attempt at a part.
    fn end_attempt(&mut self, part: u8, attempt: u16) -> bool {
        let over = usize::from(part).checked_sub(1).and_then(|index| self.over.get_mut(index));
        over.is_some_and(|over| {
            let newer = attempt > *over;
            *over = attempt.max(*over);
            newer
        })
    }

    fn on_part(&mut self, part: u8, change: impl FnOnce(&mut PartState) -> bool) -> Result<bool, Illegal> {
        let parts = self.facts.parts;
        usize::from(part)
            .checked_sub(1)
            .and_then(|index| self.parts.get_mut(index))
            .map(change)
            .ok_or(Illegal::NoSuchPart { part, parts })
    }

    fn close_pending(&mut self, to: impl Fn() -> PartState) -> bool {
        let mut changed = false;
        for part in self.parts.iter_mut().filter(|part| **part == PartState::Pending) {
            *part = to();
            changed = true;
        }
        changed
    }

    /// Draws the consequence of a change: the end, or a correction of it.
    fn settle(&mut self, cancelled: bool) -> Vec<Effect> {
        let Some(outcome) = self.folded(cancelled) else { return Vec::new() };
        match self.ended {
            None => {
                self.ended = Some(outcome);
                vec![Effect::Ended(outcome)]
            }
            Some(from) if from != outcome && self.corrected != Some(outcome) => {
                self.corrected = Some(outcome);
                vec![Effect::Corrected { from, to: outcome }]
            }
            Some(_) => Vec::new(),
        }
    }

    /// The outcome that the parts add up to, once none of them is live.
    fn folded(&self, cancelled: bool) -> Option<Outcome> {
        if self.parts.iter().any(PartState::is_live) {
            return None;
        }
        let any = |test: fn(&PartState) -> bool| self.parts.iter().any(test);
        let all = |test: fn(&PartState) -> bool| self.parts.iter().all(test);
        let refused: fn(&PartState) -> bool = |part| matches!(part, PartState::Refused { .. });
        let outcome = if cancelled || all(|part| *part == PartState::Cancelled) {
            Outcome::Cancelled
        } else if all(|part| matches!(part, PartState::Delivered { .. })) {
            Outcome::Delivered
        } else if all(refused) {
            Outcome::Rejected
        } else if any(|part| matches!(part, PartState::Undelivered { .. })) || any(refused) {
            // A text with a missing part cannot be read, whatever became of the others.
            Outcome::Undelivered
        } else if any(|part| matches!(part, PartState::Unknown { .. })) {
            Outcome::Unknown
        } else {
            Outcome::Expired
        };
        Some(outcome)
    }
}

#[cfg(test)]
mod tests;
