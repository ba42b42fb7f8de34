//! What the application needs from the outside, by need.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use sotto_core::{
    Classified, ErrorClass, Facts, MessageClass, MessageId, ShardId, TenantId, Timestamp,
    delivery::Event,
    index::Pseudonym,
    number::E164,
    work::{KeyWrap, Need},
};
use sotto_crypto::{MacKey, envelope::Sealer};
use sotto_proto::WorkDelivery;

use crate::domain::{idempotency::Entry, journal::Journal};

/// A session key: seals messages of one tenant and class until its end.
#[derive(Debug)]
pub struct Session {
    /// Seals.
    pub sealer: Sealer,
    /// Travels with what it seals.
    pub wrap: Arc<KeyWrap>,
    /// Seal nothing after this time.
    pub seal_until: Timestamp,
    /// What it seals is deleted at this time.
    pub dies_at: Timestamp,
}

/// Why there is no session key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Retention does not reach so far.
    #[error("retention does not cover so long a validity")]
    TooFar {
        /// The furthest from now, if privacy said it.
        max: Option<Duration>,
    },
    /// Privacy does not answer, and the last key is used up.
    #[error("no session key can be had now")]
    Unavailable,
    /// Privacy refuses, or its answer makes no sense.
    #[error("privacy refuses to make a session key")]
    Refused,
}

impl Classified for KeyError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::TooFar { .. } => ErrorClass::Reject,
            Self::Unavailable => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::Refused => ErrorClass::Bug,
        }
    }
}

/// Where session keys come from.
pub trait KeySource: Debug + Send + Sync {
    /// A key that seals now and whose messages can be opened as long as they are needed, and hardly longer.
    fn session<'a>(
        &'a self,
        tenant: &'a TenantId,
        class: MessageClass,
        need: Need,
    ) -> BoxFuture<'a, Result<Arc<Session>, KeyError>>;
}

/// By what a number's messages are found again.
pub trait Index: Debug + Send + Sync {
    /// Stores that a number gets a message; done means stored and fsynced. What cannot be indexed is told, and fails nobody: a
    /// message is worth more than its entry.
    fn enter<'a>(&'a self, shard: ShardId, facts: &'a Facts, number: &'a E164) -> BoxFuture<'a, ()>;
}

/// Whether a number has got too much today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// It has not.
    Within,
    /// It has.
    Above,
    /// Nobody can count now.
    Not,
}

/// What a number gets in a day from all tenants of the cell together.
pub trait Recipients: Debug + Send + Sync {
    /// Counts a message; asked twice of one it says the same.
    fn count<'a>(&'a self, number: &'a E164, message: &'a MessageId) -> BoxFuture<'a, Counted>;
}

/// The key that makes a tenant's pseudonyms in a bucket.
#[derive(Debug)]
pub struct PseudonymKey {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: MacKey,
}

/// A part of what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundPart {
    /// Messages and the hours in which they were accepted, since the Unix epoch.
    pub messages: Vec<(MessageId, u32)>,
    /// Where to go on; none: this was all.
    pub next: Option<u64>,
}

/// Who reads the index: it knows pseudonyms and no numbers.
pub trait Subjects: Debug + Send + Sync {
    /// The keys of a tenant's pseudonyms in every bucket that lives, the one that is used now first.
    fn pseudonym_keys<'a>(
        &'a self,
        tenant: &'a TenantId,
    ) -> BoxFuture<'a, Result<Vec<PseudonymKey>, KeyError>>;

    /// Reads a part of the index, from a place on, for a client that asks.
    fn find<'a>(
        &'a self,
        tenant: &'a TenantId,
        client: &'a str,
        pseudonyms: Vec<(String, Pseudonym)>,
        from: u64,
    ) -> BoxFuture<'a, Result<FoundPart, KeyError>>;
}

/// Why something is not known to be in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Certainly not stored: the broker is away or full.
    #[error("the log takes nothing now")]
    Unavailable {
        /// When to try again.
        after: Duration,
    },
    /// It may be stored or not.
    #[error("whether the log took it is not known")]
    InDoubt,
    /// Certainly not stored, and a mistake of ours or of the broker's settings.
    #[error("the log refuses it")]
    Refused,
}

impl Classified for LogError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Unavailable { after } => ErrorClass::Retry { after: *after },
            Self::InDoubt => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::Refused => ErrorClass::Bug,
        }
    }
}

/// The durable log of the cell.
pub trait Log: Debug + Send + Sync {
    /// Stores an accepted message; done means stored and fsynced (INV-1).
    fn accept(&self, shard: ShardId, delivery: WorkDelivery) -> BoxFuture<'_, Result<(), LogError>>;

    /// Stores events that belong together; returns their sequence.
    fn append(&self, shard: ShardId, events: Vec<Event>) -> BoxFuture<'_, Result<u64, LogError>>;
}

/// Why what is remembered in Redis cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It was lost and is being rebuilt from the log (INV-9).
    #[error("what Redis remembered is being rebuilt from the log")]
    Rebuilding,
    /// Redis does not answer.
    #[error("Redis does not answer")]
    Down,
    /// Redis refuses: its settings or our script are wrong.
    #[error("Redis refuses the command")]
    Refused,
}

impl Classified for StoreError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Rebuilding | Self::Down => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::Refused => ErrorClass::Bug,
        }
    }
}

/// What was there when a key was claimed or looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Nothing: it is claimed now, or stays free.
    Free,
    /// An earlier use.
    Used(Entry),
    /// The window was closed: the key belongs to the next one.
    Moved,
}

/// The uses of idempotency keys.
pub trait Claims: Debug + Send + Sync {
    /// Claims an id, unless it is used.
    fn claim<'a>(
        &'a self,
        id: &'a MessageId,
        entry: Entry,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Claimed, StoreError>>;

    /// Looks for the use of an id of an earlier window; with `close`, nobody can claim it for so long.
    fn look<'a>(
        &'a self,
        id: &'a MessageId,
        close: Option<Duration>,
    ) -> BoxFuture<'a, Result<Claimed, StoreError>>;
}

/// What is remembered of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its journal.
    pub journal: Option<Box<Journal>>,
    /// The use of the idempotency key that it has its id from.
    pub entry: Option<Entry>,
    /// Whether what is not remembered does not exist: false while it is being rebuilt from the log, or lacks something.
    pub whole: bool,
}

/// The projection of messages.
pub trait Records: Debug + Send + Sync {
    /// Begins the journal of an accepted message; until when its idempotency key is remembered, if it has one. What
    /// cannot be written now is written later or off the log: it fails nobody.
    fn begin<'a>(&'a self, facts: &'a Facts, remembered_until: Option<Timestamp>) -> BoxFuture<'a, ()>;

    /// Finds a message.
    fn find<'a>(&'a self, id: &'a MessageId) -> BoxFuture<'a, Result<Found, StoreError>>;
}

/// Who is first at a message: a carrier or a cancellation ([`sotto_core::cancel`]).
pub trait Marks: Debug + Send + Sync {
    /// Marks a message as cancelled for so long. False: it was handed to a carrier before. Said twice it says the same.
    fn cancel<'a>(&'a self, id: &'a MessageId, keep: Duration) -> BoxFuture<'a, Result<bool, StoreError>>;
}

/// How fast tenants may send, over all processes of the cell.
pub trait Gate: Debug + Send + Sync {
    /// One more message, or how long to wait.
    fn pass<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<(), Duration>>;
}
