//! The journal of a message: its events as the log has them, and the state that follows from them.
//!
//! The projection keeps one for each live message and for a day after its end. Events may come before the acceptance
//! (a connector's can overtake routing's): they wait in the journal until it comes.

use sotto_core::{
    Facts, MessageId, Timestamp,
    delivery::{Delivery, Effect, Event, EventKind, Illegal, Outcome},
};

/// The most events that are kept of one message.
pub const MAX_EVENTS: usize = 256;

/// The most events that wait for an acceptance.
const MAX_EARLY: usize = 64;

/// An event and its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The event.
    pub event: Event,
    /// Sequence of its batch in EVENTS; 0 for an acceptance that only intake has seen.
    pub sequence: u64,
}

/// What is known of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    id: MessageId,
    /// `None` until the acceptance is known.
    state: Option<State>,
    /// The acceptance first, if it is known; then what changed the state, oldest first.
    events: Vec<Recorded>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    delivery: Delivery,
    ended_at: Option<Timestamp>,
}

impl Journal {
    /// Nothing is known yet.
    pub const fn empty(id: MessageId) -> Self {
        Self { id, state: None, events: Vec::new() }
    }

    /// What intake knows when it has accepted a message.
    pub fn accepted(facts: Facts) -> Self {
        let event = Event {
            message: facts.message,
            at: facts.accepted_at,
            kind: EventKind::Accepted(Box::new(facts)),
        };
        Self::read(event.message, vec![Recorded { event, sequence: 0 }])
    }

    /// From recorded events: those that do not fit are left out.
    pub fn read(id: MessageId, events: Vec<Recorded>) -> Self {
        let mut journal = Self::empty(id);
        for recorded in events {
            // What was recorded had changed the state then, so this only meets records of another version.
            let _fits = journal.take(recorded.event, recorded.sequence).is_ok();
        }
        journal
    }

    /// The message.
    pub const fn id(&self) -> MessageId {
        self.id
    }

    /// Its events, oldest first.
    pub fn events(&self) -> &[Recorded] {
        &self.events
    }

    /// Its state, once its acceptance is known.
    pub fn delivery(&self) -> Option<&Delivery> {
        self.state.as_ref().map(|state| &state.delivery)
    }

    /// When it ended, if it has.
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.state.as_ref()?.ended_at
    }

    /// Whether its acceptance is known from intake only, not yet from the log.
    pub fn is_intakes_word(&self) -> bool {
        self.state.is_some() && self.events.first().is_some_and(|first| first.sequence == 0)
    }

    /// Takes an event of the log; says whether the journal changed.
    ///
    /// # Errors
    /// When the event cannot be about this message. The journal stays as it was.
    pub fn take(&mut self, event: Event, sequence: u64) -> Result<bool, Illegal> {
        if event.message != self.id {
            return Err(Illegal::OtherMessage);
        }
        // A batch may come again item by item: what is recorded is not taken twice.
        if self.events.iter().any(|known| known.sequence == sequence && known.event == event) {
            return Ok(false);
        }
        match (&mut self.state, &event.kind) {
            (None, EventKind::Accepted(facts)) => {
                let facts = facts.as_ref().clone();
                let early = std::mem::take(&mut self.events);
                self.begin(facts, Recorded { event, sequence }, early);
                Ok(true)
            }
            (None, _) => Ok(self.wait(event, sequence)),
            (Some(state), EventKind::Accepted(facts)) => {
                // The step judges whether the facts are the same.
                state.delivery.step(&event)?;
                if !self.is_intakes_word() || sequence == 0 {
                    return Ok(false);
                }
                // The log's acceptance counts: a keyed request tried twice has two, and intake saw the other first.
                let facts = facts.as_ref().clone();
                let rest = self.events.split_off(1);
                self.begin(facts, Recorded { event, sequence }, rest);
                Ok(true)
            }
            (Some(state), _) => {
                let changed = state.step(&event)?;
                if changed {
                    self.events.push(Recorded { event, sequence });
                    self.shorten();
                }
                Ok(changed)
            }
        }
    }

    fn begin(&mut self, facts: Facts, accepted: Recorded, rest: Vec<Recorded>) {
        let mut state = State { delivery: Delivery::accepted(facts), ended_at: None };
        self.events = vec![accepted];
        for recorded in rest {
            if state.step(&recorded.event) == Ok(true) {
                self.events.push(recorded);
            }
        }
        self.state = Some(state);
    }

    fn wait(&mut self, event: Event, sequence: u64) -> bool {
        let known = self.events.iter().any(|recorded| recorded.event == event);
        if known || self.events.len() >= MAX_EARLY {
            return false;
        }
        self.events.push(Recorded { event, sequence });
        true
    }

    /// Lets go of the oldest event that the state does not depend on (a refusal of an earlier attempt, for example).
    fn shorten(&mut self) {
        if self.events.len() <= MAX_EVENTS {
            return;
        }
        for spare in 1..self.events.len() {
            let mut events = self.events.clone();
            events.remove(spare);
            let shorter = Self::read(self.id, events);
            if shorter.state == self.state {
                *self = shorter;
                return;
            }
        }
    }

    /// The state after each event, for those who tell the journey: the event, and the correction it made, if any.
    pub fn corrections(&self) -> Vec<Option<(Outcome, Outcome)>> {
        let mut delivery: Option<Delivery> = None;
        let mut corrections = Vec::with_capacity(self.events.len());
        for Recorded { event, .. } in &self.events {
            let step = match (&mut delivery, &event.kind) {
                (None, EventKind::Accepted(facts)) => {
                    delivery = Some(Delivery::accepted(facts.as_ref().clone()));
                    None
                }
                (None, _) => None,
                (Some(delivery), _) => delivery.step(event).ok(),
            };
            corrections.push(step.and_then(|step| step.effects.into_iter().find_map(correction)));
        }
        corrections
    }
}

impl State {
    fn step(&mut self, event: &Event) -> Result<bool, Illegal> {
        let step = self.delivery.step(event)?;
        for effect in step.effects {
            match effect {
                Effect::Ended(_) => self.ended_at = Some(event.at),
                Effect::Corrected { .. } => {}
            }
        }
        Ok(step.changed)
    }
}

const fn correction(effect: Effect) -> Option<(Outcome, Outcome)> {
    match effect {
        Effect::Corrected { from, to } => Some((from, to)),
        Effect::Ended(_) => None,
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
