//! The newest published state, for those who answer questions about it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    domain::EventMarks,
    log::{Log, Published},
};

/// Follows the log from checkpoint to checkpoint; shows nothing that is not signed and durable.
#[derive(Debug, Default)]
pub struct View(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    published: Published,
    marks: EventMarks,
}

/// Where an event is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventPlace {
    /// In an entry of this bundle.
    Bundle(u64),
    /// Not yet; events are committed up to this sequence.
    Beyond(u64),
}

impl View {
    /// Shows what the log has published.
    pub fn show(&self, log: &Log) {
        let mut state = self.state();
        match &mut *state {
            Some(state) => {
                state.published = log.published().clone();
                state.marks.follow(log.index().marks());
            }
            None => {
                let (published, marks) = (log.published().clone(), log.index().marks().clone());
                *state = Some(State { published, marks });
            }
        }
    }

    /// The newest checkpoint; `None` before the log is open.
    #[must_use]
    pub fn published(&self) -> Option<Published> {
        self.state().as_ref().map(|state| state.published.clone())
    }

    /// How far events are committed; `None` before the log is open.
    #[must_use]
    pub fn through(&self) -> Option<u64> {
        self.state().as_ref().map(|state| state.marks.through())
    }

    /// Where an event is committed, under which checkpoint; `None` before the log is open.
    #[must_use]
    pub fn event(&self, sequence: u64) -> Option<(Published, EventPlace)> {
        self.state().as_ref().map(|state| {
            let place = match state.marks.bundle_of(sequence) {
                Some(bundle) => EventPlace::Bundle(bundle),
                None => EventPlace::Beyond(state.marks.through()),
            };
            (state.published.clone(), place)
        })
    }

    // Replaced whole, so one behind a panic is sound.
    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
