//! What must hold of every state: shared by the code, the property tests and the simulated world.

use super::{Delivery, PartState};

/// A broken invariant: a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The number of part states is not the number of parts.
    PartsLost,
    /// A part claims an attempt that routing never made.
    AttemptFromNowhere,
    /// Nothing is live and the message has no end (INV-2).
    NoEnd,
    /// A correction without an end, or equal to it.
    IdleCorrection,
}

/// Checks a state; `None` when all is well.
pub fn check(delivery: &Delivery) -> Option<Violation> {
    if delivery.parts.len() != usize::from(delivery.facts.parts) {
        return Some(Violation::PartsLost);
    }
    let attempts = delivery.parts.iter().filter_map(|part| match part {
        PartState::Submitting { attempt } => Some(*attempt),
        PartState::Pending
        | PartState::Submitted { .. }
        | PartState::NoResponse { .. }
        | PartState::Refused { .. }
        | PartState::Delivered { .. }
        | PartState::Undelivered { .. }
        | PartState::Expired
        | PartState::Cancelled
        | PartState::Unknown { .. } => None,
    });
    if attempts.into_iter().any(|attempt| attempt > delivery.attempt) {
        return Some(Violation::AttemptFromNowhere);
    }
    if delivery.ended.is_none() && !delivery.parts.iter().any(PartState::is_live) {
        return Some(Violation::NoEnd);
    }
    if delivery.corrected.is_some() && delivery.ended.is_none() {
        return Some(Violation::IdleCorrection);
    }
    None
}
