//! What can happen to a message.

use crate::{AccountId, MessageId, Timestamp, facts::Facts, work::AttemptEnd};

/// One thing that happened to a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// The message.
    pub message: MessageId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
}

/// What a carrier's receipt says (SMPP 3.4 §5.2.28).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReceiptState {
    /// On its way.
    Enroute,
    /// Delivered to the handset.
    Delivered,
    /// Validity ended at the carrier.
    Expired,
    /// Deleted at the carrier.
    Deleted,
    /// Undeliverable.
    Undeliverable,
    /// Accepted by a person on behalf of the recipient.
    Accepted,
    /// The carrier does not know.
    Unknown,
    /// Rejected by the carrier.
    Rejected,
}

impl ReceiptState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Enroute,
        Self::Delivered,
        Self::Expired,
        Self::Deleted,
        Self::Undeliverable,
        Self::Accepted,
        Self::Unknown,
        Self::Rejected,
    ];

    /// The word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enroute => "enroute",
            Self::Delivered => "delivered",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
            Self::Undeliverable => "undeliverable",
            Self::Accepted => "accepted",
            Self::Unknown => "unknown",
            Self::Rejected => "rejected",
        }
    }
}

/// Why a message was rejected before a carrier took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectCause {
    /// No route for its country, range, class and tenant.
    NoRoute,
    /// Every allowed account was tried.
    RoutesExhausted,
    /// A carrier refused it for good.
    Carrier,
    /// It cannot be opened any more.
    Unopenable,
    /// Its content cannot be written for this account.
    Content,
}

impl RejectCause {
    /// Every cause.
    pub const ALL: [Self; 5] =
        [Self::NoRoute, Self::RoutesExhausted, Self::Carrier, Self::Unopenable, Self::Content];

    /// The word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::RoutesExhausted => "routes_exhausted",
            Self::Carrier => "carrier",
            Self::Unopenable => "unopenable",
            Self::Content => "content",
        }
    }
}

/// Why it is too late to submit a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExpiryCause {
    /// Its validity ended, said who held it.
    Validity,
    /// Its validity ended and nobody who held it said so: silence was closed. The state is the same; the ledger asks where
    /// such a message is (INV-2).
    Silence,
    /// The key of its bucket was destroyed before its time: nobody can read it any more.
    KeyDestroyed,
}

impl ExpiryCause {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::Validity, Self::Silence, Self::KeyDestroyed];

    /// The word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Validity => "validity",
            Self::Silence => "silence",
            Self::KeyDestroyed => "key_destroyed",
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Routing took the message over from intake.
    Accepted(Box<Facts>),
    /// Routing chose an account.
    Routed {
        /// The attempt, from 1.
        attempt: u16,
        /// The account.
        account: AccountId,
        /// Version of the route table that decided.
        table_version: String,
    },
    /// Intent to submit, durable before the first byte is written.
    Submitting {
        /// The attempt.
        attempt: u16,
        /// The account.
        account: AccountId,
        /// The parts, from 1.
        parts: Vec<u8>,
    },
    /// The carrier took a part.
    Submitted {
        /// The attempt.
        attempt: u16,
        /// The account.
        account: AccountId,
        /// The part, from 1.
        part: u8,
        /// The carrier's id for it, normalised; empty if it gave none.
        carrier_id: String,
    },
    /// The carrier refused a part.
    Refused {
        /// The attempt.
        attempt: u16,
        /// The account.
        account: AccountId,
        /// The part, from 1.
        part: u8,
        /// SMPP `command_status`.
        status: u32,
        /// Whether the message goes on to another attempt.
        retried: bool,
    },
    /// Provably nothing was written: the message goes back to routing.
    Unsent {
        /// The attempt.
        attempt: u16,
        /// The account.
        account: AccountId,
        /// Why.
        end: AttemptEnd,
        /// The parts, from 1.
        parts: Vec<u8>,
    },
    /// Written, not answered in time.
    NoResponse {
        /// The attempt.
        attempt: u16,
        /// The account.
        account: AccountId,
        /// The part, from 1.
        part: u8,
    },
    /// A receipt was matched.
    Receipt {
        /// The attempt.
        attempt: u16,
        /// The account.
        account: AccountId,
        /// The part, from 1.
        part: u8,
        /// What it says.
        state: ReceiptState,
        /// The carrier's error code, at most 10 characters of 0-9, A-Z, a-z.
        error: String,
    },
    /// It is too late to submit it.
    Expired {
        /// Why.
        cause: ExpiryCause,
    },
    /// No carrier may or will take it.
    Rejected {
        /// Why.
        cause: RejectCause,
    },
    /// Cancelled before submit.
    Cancelled,
    /// Doubt was closed at its deadline.
    ClosedUnknown,
    /// The cell was put back from a backup: what is pending may have been sent in the time that was lost.
    Doubted,
}

impl EventKind {
    /// The word for people, as in `JourneyStep.kind`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Routed { .. } => "routed",
            Self::Submitting { .. } => "submitting",
            Self::Submitted { .. } => "submitted",
            Self::Refused { .. } => "refused",
            Self::Unsent { .. } => "unsent",
            Self::NoResponse { .. } => "no_response",
            Self::Receipt { .. } => "receipt",
            Self::Expired { .. } => "expired",
            Self::Rejected { .. } => "rejected",
            Self::Cancelled => "cancelled",
            Self::ClosedUnknown => "closed_unknown",
            Self::Doubted => "doubted",
        }
    }
}
