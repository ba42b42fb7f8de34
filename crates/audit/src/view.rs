//! The newest published state, for those who answer questions about it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    domain::{Closed, EventMarks},
    log::{Log, Published},
};

/// Follows the log from checkpoint to checkpoint; shows nothing that is not signed and durable.
#[derive(Debug, Default)]
pub struct View(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    published: Published,
    marks: EventMarks,
    closing: Option<Closed>,
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
                state.closing = log.index().closing().cloned();
            }
            None => {
                let (published, marks) = (log.published().clone(), log.index().marks().clone());
                let closing = log.index().closing().cloned();
                *state = Some(State { published, marks, closing });
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

    /// The newest closing balance; `None` when there is none, or before the log is open.
    #[must_use]
    pub fn closing(&self) -> Option<Closed> {
        self.state().as_ref().and_then(|state| state.closing.clone())
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
