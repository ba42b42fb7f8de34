//! Decisions about facts: pure, replayable.

mod decide;
mod table;

pub(crate) use decide::{Decision, decide};
pub(crate) use table::RouteTable;
