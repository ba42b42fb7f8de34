//! Decisions about facts: pure, replayable.

mod decide;

pub(crate) use decide::{Decision, decide};
