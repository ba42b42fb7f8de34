//! What the log needs of the world.

use std::{fmt, io};

use sotto_core::{Classified, ErrorClass, Timestamp, delivery::Event};
use sotto_proto::LogEvent;
use sotto_tlog::{Hash, Source, VerifierKey};

use crate::{domain::EventRange, error::SignerError};

/// The disk that the log lies on. Paths are those of C2SP tlog-tiles.
pub trait Disk: Source + fmt::Debug + Send + Sync + 'static {
    /// Writes a file: whole under its name or not at all. Its bytes are durable when this returns, its name only
    /// after [`Disk::settle`].
    ///
    /// # Errors
    /// When it cannot be written.
    fn put(&self, path: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes the names of these files durable.
    ///
    /// # Errors
    /// When that cannot be done.
    fn settle(&self, paths: &[String]) -> io::Result<()>;

    /// The names in a folder; empty when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn names(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Removes a file, or a folder with what is in it; it need not exist.
    ///
    /// # Errors
    /// When it exists and cannot be removed.
    fn remove(&self, path: &str) -> io::Result<()>;
}

/// Who signs the checkpoints.
pub trait Signer: fmt::Debug + Send + Sync + 'static {
    /// The log's origin, the name of all its keys.
    fn origin(&self) -> &str;

    /// The key that signs now.
    ///
    /// # Errors
    /// When the keystore cannot tell.
    fn current(&self) -> Result<VerifierKey, SignerError>;

    /// Every key whose checkpoints this log accepts as its own: current and earlier ones.
    ///
    /// # Errors
    /// When the keystore cannot tell.
    fn accepted(&self) -> Result<Vec<VerifierKey>, SignerError>;

    /// Whether a log was ever begun under these keys.
    ///
    /// # Errors
    /// When the keystore cannot tell.
    fn has_begun(&self) -> Result<bool, SignerError>;

    /// Notes, for good, that a log was begun under these keys.
    ///
    /// # Errors
    /// When the keystore cannot be written.
    fn note_begun(&self) -> Result<(), SignerError>;

    /// Signs with the key that `current` tells.
    ///
    /// # Errors
    /// When the keystore cannot sign.
    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, SignerError>;
}

/// The EVENTS stream, read by sequence. Audit never holds it up: it only reads.
pub trait Events: fmt::Debug + Send + Sync + 'static {
    /// The leaf hashes of the stored batches from sequence `from`, in stream order: at most `max`, none beyond
    /// `through`. What the stream does not hold is left out; nothing there is an empty answer, not a wait.
    fn leaves(
        &self,
        from: u64,
        through: u64,
        max: usize,
    ) -> impl Future<Output = Result<Vec<EventLeaf>, EventsUnavailable>> + Send;
}

/// A batch of the EVENTS stream, by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventLeaf {
    /// Its stream sequence.
    pub sequence: u64,
    /// `SHA-256(0x00 || stored bytes)`.
    pub hash: Hash,
}

/// EVENTS, CARRIED and AUDIT, for the trim.
pub trait Shelf: fmt::Debug + Send + Sync + 'static {
    /// What EVENTS holds.
    fn held(&self) -> impl Future<Output = Result<Held, EventsUnavailable>> + Send;

    /// The next batches of EVENTS from sequence `from`, in stream order, none beyond `through`: at least one if there is
    /// one.
    fn read(
        &self,
        from: u64,
        through: u64,
    ) -> impl Future<Output = Result<Vec<StoredEvents>, EventsUnavailable>> + Send;

    /// Stores events in CARRIED, those of one message in their order, and says where they are; none for no events. What
    /// lies there after sequence `after` is of an attempt that came to nothing, and goes first.
    fn carry(
        &self,
        after: u64,
        events: Vec<Event>,
    ) -> impl Future<Output = Result<Option<EventRange>, EventsUnavailable>> + Send;

    /// What CARRIED holds in these sequences.
    fn carried(
        &self,
        first: u64,
        last: u64,
    ) -> impl Future<Output = Result<Vec<StoredEvents>, EventsUnavailable>> + Send;

    /// Takes away what EVENTS holds before a sequence, for good.
    fn trim(&self, before: u64) -> impl Future<Output = Result<(), EventsUnavailable>> + Send;

    /// Takes away acts that are in the log and were stored before `before`, for good.
    fn forget_acts(&self, before: Timestamp) -> impl Future<Output = Result<(), EventsUnavailable>> + Send;

    /// Takes away what CARRIED holds before a sequence, for good; `None`: everything.
    fn forget(&self, before: Option<u64>) -> impl Future<Output = Result<(), EventsUnavailable>> + Send;
}

/// What EVENTS holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The first sequence that is there; one above `last` when it is empty.
    pub first: u64,
    /// The last sequence that was ever given.
    pub last: u64,
    /// Bytes.
    pub bytes: u64,
    /// Bytes that it may hold.
    pub max_bytes: u64,
}

/// A batch of events as it is stored.
#[derive(Clone, Debug)]
pub struct StoredEvents {
    /// Its stream sequence.
    pub sequence: u64,
    /// When the broker stored it.
    pub stored_at: Timestamp,
    /// `SHA-256(0x00 || stored bytes)`.
    pub leaf: Hash,
    /// What it says, as far as that can be read.
    pub events: Vec<LogEvent>,
    /// Whether all of it could be read.
    pub whole: bool,
}

/// The stream cannot be read now.
#[derive(Debug, thiserror::Error)]
#[error("the events cannot be read or written on the broker")]
pub struct EventsUnavailable(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl Classified for EventsUnavailable {
    fn class(&self) -> ErrorClass {
        ErrorClass::Retry { after: std::time::Duration::from_secs(1) }
    }
}
