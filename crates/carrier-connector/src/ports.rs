//! What the connector needs of others, by need.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{future::BoxFuture, stream::BoxStream};
use sotto_core::{
    AccountId, Classified, ErrorClass, Lane, TenantId, Timestamp, inbound::InboundWrap, work::KeyWrap,
};
use sotto_crypto::{AeadKey, envelope::Sealer};
use sotto_proto::{InboundDelivery, LogEvent, WorkDelivery};

/// Something that was to be stored is not known to be stored.
#[derive(Debug, thiserror::Error)]
#[error("the broker did not store or read {what}")]
pub(crate) struct LogError {
    /// What.
    pub(crate) what: &'static str,
    /// Why.
    #[source]
    pub(crate) source: Box<dyn std::error::Error + Send + Sync>,
    /// What may be done about it.
    pub(crate) class: ErrorClass,
}

impl Classified for LogError {
    fn class(&self) -> ErrorClass {
        self.class
    }
}

/// A piece of the log.
pub(crate) type History = BoxStream<'static, Result<Vec<LogEvent>, LogError>>;

/// The log of events, the way back to routing, and where messages from handsets are kept. What is done is stored and fsynced.
pub(crate) trait Log: Send + Sync {
    /// Records events, each in the shard of its message, in their order.
    fn events(&self, events: Vec<LogEvent>) -> BoxFuture<'_, Result<(), LogError>>;

    /// Stores messages from handsets.
    fn inbound(&self, messages: Vec<InboundDelivery>) -> BoxFuture<'_, Result<(), LogError>>;

    /// Keeps something aside that an account's carrier sent and that leads to nothing: what was wrong, and a digest.
    fn aside<'a>(
        &'a self,
        account: &'a AccountId,
        why: String,
        octets: Vec<u8>,
    ) -> BoxFuture<'a, Result<(), LogError>>;

    /// Gives messages back to routing.
    fn back(&self, items: Vec<WorkDelivery>) -> BoxFuture<'_, Result<(), LogError>>;

    /// Reads everything that is in the log at this moment, oldest first.
    fn history(&self) -> BoxFuture<'_, Result<History, LogError>>;
}

/// What waits for an account on one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    /// The lane.
    pub(crate) lane: Lane,
    /// Batches.
    pub(crate) batches: u64,
    /// When the first message of the oldest was accepted, or was to be sent.
    pub(crate) oldest: Option<Timestamp>,
}

/// Looks at what waits.
pub(crate) trait Queues: Send + Sync {
    /// For an account, the most urgent lane first.
    fn of<'a>(&'a self, account: &'a AccountId) -> BoxFuture<'a, Result<Vec<Queue>, LogError>>;
}

/// What came of one wrap.
#[derive(Clone, Debug)]
pub(crate) enum Unwrapped {
    /// The session key.
    Key {
        /// The key.
        key: Arc<AeadKey>,
        /// Forget it then.
        dies_at: Timestamp,
    },
    /// The bucket key is destroyed: what it guarded is deleted.
    Destroyed,
    /// This account may not carry the tenant's messages.
    NotAllowed,
    /// The wrap belongs to nothing.
    Invalid,
}

/// Names of buckets that ended before their time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Nothing in them is submitted any more.
    pub(crate) destroyed: HashSet<String>,
    /// Nothing is sealed into them any more.
    pub(crate) superseded: HashSet<String>,
}

/// A key that seals messages from handsets.
#[derive(Debug)]
pub(crate) struct InboundSession {
    /// The key.
    pub(crate) sealer: Sealer,
    /// Its wrap.
    pub(crate) wrap: InboundWrap,
    /// Seal nothing with it after this time.
    pub(crate) seal_until: Timestamp,
}

/// Privacy cannot be asked now, or refuses.
#[derive(Debug, thiserror::Error)]
#[error("privacy did not answer, or could not be asked")]
pub(crate) struct KeysError(#[source] pub(crate) Box<dyn std::error::Error + Send + Sync>);

impl Classified for KeysError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Retry { after: Duration::from_secs(1) }
    }
}

/// Opens wraps of session keys, and has keys made.
pub(crate) trait Keys: Send + Sync {
    /// One answer a wrap, in their order; 1 to 256 wraps.
    fn unwrap<'a>(
        &'a self,
        account: &'a AccountId,
        wraps: &'a [Arc<KeyWrap>],
    ) -> BoxFuture<'a, Result<Vec<Unwrapped>, KeysError>>;

    /// A key for messages from handsets to numbers of this tenant.
    fn inbound<'a>(
        &'a self,
        account: &'a AccountId,
        tenant: &'a TenantId,
    ) -> BoxFuture<'a, Result<InboundSession, KeysError>>;

    /// The buckets that ended before their time.
    fn ended(&self) -> BoxFuture<'_, Result<Ended, KeysError>>;
}

/// A security-relevant act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// The process takes work.
    Started,
    /// The process takes no more work.
    Stopped,
    /// Configuration and carriers file were loaded; the object is the file's digest.
    Configured,
    /// A carrier let us in.
    BindUp,
    /// A bind ended or was refused.
    BindDown,
    /// Privacy refused to unwrap a key.
    UnwrapRefused,
    /// Redis was rebuilt from the log.
    Rebuilt,
    /// The way to a carrier is not encrypted, by an operator's decision.
    TlsWaived,
    /// Messages may go to an account outside of the cell's region, by an operator's decision.
    Transferred,
    /// An operator stopped traffic, or paused or drained an account; the object says what.
    Held,
    /// And let it go again.
    Released,
    /// An operator looks at the PDUs of an account.
    Traced,
    /// An operator had a test message sent.
    Tried,
}

/// Tells acts to audit.
pub(crate) trait Witness: Send + Sync {
    /// Tells one act: what it was done to, and `ok` or a stable name of what went wrong. Never waited for.
    fn tell(&self, act: Act, object: &str, outcome: &'static str);

    /// Announces that so many keys of a tenant will be asked for. When this returns it is stored: whatever dies afterwards,
    /// no opening of ours is one that nobody announced.
    fn announce<'a>(
        &'a self,
        account: &'a AccountId,
        tenant: &'a TenantId,
        keys: usize,
    ) -> BoxFuture<'a, Result<(), KeysError>>;
}
