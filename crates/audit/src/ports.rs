//! What the log needs of the world.

use std::{fmt, io};

use sotto_core::{Classified, ErrorClass};
use sotto_tlog::{Hash, Source, VerifierKey};

use crate::error::SignerError;

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

/// The stream cannot be read now.
#[derive(Debug, thiserror::Error)]
#[error("the EVENTS stream cannot be read")]
pub struct EventsUnavailable(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl Classified for EventsUnavailable {
    fn class(&self) -> ErrorClass {
        ErrorClass::Retry { after: std::time::Duration::from_secs(1) }
    }
}
