//! What a caller may do about an error.

use std::time::Duration;

/// The one question every error of ours answers: what now?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// A passing condition: the same work may succeed after the given time.
    Retry {
        /// How long to wait before the next try.
        after: Duration,
    },
    /// The request is wrong and stays wrong: tell the caller which field and how to mend it.
    Reject,
    /// The input cannot be read: keep it aside (quarantine), never in the way of others.
    Poison,
    /// Our own fault: log it as an error, page someone.
    Bug,
}

/// Implemented by every error enum of the workspace.
pub trait Classified {
    /// The error's class.
    fn class(&self) -> ErrorClass;
}
