//! What may go wrong with a publish, and what is certain about it.

use std::time::Duration;

use sotto_core::{Classified, ErrorClass};

/// Why a batch is not known to be stored. Every waiter of the batch gets a copy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The stream or the subject's share of it is full. Certainly not stored.
    #[error("the stream is full for {subject}: {description}")]
    Full {
        /// The subject.
        subject: String,
        /// The broker's words.
        description: String,
    },
    /// No items, or more than one batch holds. Not sent.
    #[error("{items} items of about {size} bytes do not make a batch of 1 item to {limit} bytes")]
    TooLarge {
        /// How many items.
        items: usize,
        /// Their size.
        size: usize,
        /// The bound in bytes.
        limit: usize,
    },
    /// This service may not publish there. Certainly not stored.
    #[error("the broker's permissions do not let this service publish to {subject}")]
    NotAllowed {
        /// The subject.
        subject: String,
    },
    /// The broker was away until the deadline and nothing was sent. Certainly not stored.
    #[error("the broker was not available for {subject}")]
    Unavailable {
        /// The subject.
        subject: String,
    },
    /// It was sent and never acknowledged: it may be stored or not, or be stored later.
    #[error("the broker did not acknowledge {subject}: whether it is stored is unknown")]
    OutcomeUnknown {
        /// The subject.
        subject: String,
    },
    /// The broker refused for another reason. Certainly not stored.
    #[error("the broker refused {subject}: {description} (code {code})")]
    Refused {
        /// The subject.
        subject: String,
        /// The broker's error code.
        code: u64,
        /// Its words.
        description: String,
    },
    /// The publisher was closed. Not sent.
    #[error("the publisher is closed")]
    Closed,
    /// More subjects at one time than the publisher may use. Not sent.
    #[error("more than {limit} subjects are in use")]
    TooManySubjects {
        /// The bound.
        limit: usize,
    },
}

impl PublishError {
    /// Whether the batch may be stored all the same.
    pub const fn is_in_doubt(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. })
    }
}

impl Classified for PublishError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Full { .. } | Self::TooManySubjects { .. } => {
                ErrorClass::Retry { after: Duration::from_secs(5) }
            }
            Self::Unavailable { .. } | Self::OutcomeUnknown { .. } | Self::Closed => {
                ErrorClass::Retry { after: Duration::from_secs(1) }
            }
            Self::TooLarge { .. } => ErrorClass::Reject,
            Self::NotAllowed { .. } | Self::Refused { .. } => ErrorClass::Bug,
        }
    }
}
