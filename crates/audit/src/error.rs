//! What can go wrong, layer by layer.

use std::{io, path::PathBuf, time::Duration};

use sotto_bus::{ConnectError, ReadError as StreamError, WorkError, topology::TopologyError};
use sotto_core::{Classified, ErrorClass};
use sotto_crypto::CryptoError;
use sotto_keystore::KeystoreError;
use sotto_runtime::{grpc::GrpcError, tls::TlsError};
use sotto_tlog::{CheckpointError, EdgeError, NoteError, ReadError, VerifierKeyError};

use crate::{
    domain::{TooMany, Unsound},
    ports::EventsUnavailable,
};

/// The log could not be opened or grown.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused.
    #[error("cannot {operation} {path}")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// On which file of the log.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process writes this log.
    #[error("{} is being written by another process: a cell has one audit service", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// There are entries and no checkpoint.
    #[error("the log has entries but no checkpoint: restore the file `checkpoint`, never make a new one")]
    NoCheckpoint,
    /// The keys say that a log was begun, and there is none.
    #[error(
        "this log was begun before, and its folder has no checkpoint now: restore the folder from its backup. A new log \
         under the same key would deny what the old one witnessed; to give the old one up for good, make a new keystore"
    )]
    Gone,
    /// No key of ours signed the checkpoint.
    #[error("the log's checkpoint is not one of this log and its keys")]
    Checkpoint(#[source] CheckpointError),
    /// The tree on disk is not the signed one.
    #[error("the log on disk does not lead to the root that was signed: it was altered or is incomplete")]
    Root,
    /// The right edge of the tree cannot be read.
    #[error("the right edge of the log cannot be read")]
    Edge(#[source] EdgeError),
    /// A part of the log cannot be read.
    #[error("a part of the log cannot be read")]
    Read(#[source] ReadError),
    /// An entry is none that this service wrote.
    #[error("entry {index} of the log cannot be understood")]
    Entry {
        /// Its index.
        index: u64,
    },
    /// The entries contradict one another.
    #[error("the log contradicts itself")]
    Unsound(#[source] Unsound),
    /// The writer panicked, or the process is being dropped.
    #[error("the log's writer was interrupted")]
    Interrupted,
    /// No signature.
    #[error("the checkpoint cannot be signed")]
    Sign(#[source] SignerError),
}

impl LogError {
    pub(crate) fn disk(operation: &'static str, path: &str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk { operation, path, source }
    }
}

impl Classified for LogError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Disk { .. } | Self::Sign(_) => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::InUse { .. } | Self::Gone => ErrorClass::Reject,
            Self::NoCheckpoint
            | Self::Checkpoint(_)
            | Self::Root
            | Self::Edge(_)
            | Self::Read(_)
            | Self::Entry { .. }
            | Self::Unsound(_)
            | Self::Interrupted => ErrorClass::Bug,
        }
    }
}

/// Events were not trimmed; what the newest balance closed may be gone.
#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    /// The broker.
    #[error(transparent)]
    Events(#[from] EventsUnavailable),
    /// The log's files.
    #[error("the log cannot be read")]
    Log(#[source] LogError),
    /// The stream is not what the log committed to.
    #[error("events {first} to {last} are not those that the log committed to: nothing is trimmed")]
    Altered {
        /// First sequence of the range.
        first: u64,
        /// Last sequence of the range.
        last: u64,
    },
    /// What the newest balance left is not what it names.
    #[error("CARRIED {first} to {last} is not what the newest closing balance names: nothing is trimmed")]
    CarriedAltered {
        /// First sequence.
        first: u64,
        /// Last sequence.
        last: u64,
    },
    /// One range, or what goes on, is more than may be noted.
    #[error("{0} is more than retention.messages_at_once allows")]
    TooMany(#[from] TooMany),
    /// The stream ends before what is closed.
    #[error("EVENTS ends at {last}, and {through} is closed: the broker was put back behind the log")]
    Behind {
        /// The last sequence of the stream.
        last: u64,
        /// The last sequence that is closed.
        through: u64,
    },
    /// The log's writer has ended.
    #[error("the log is being closed")]
    Ended,
}

impl Classified for TrimError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Events(error) => error.class(),
            Self::Log(error) => error.class(),
            Self::Ended => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::TooMany(_) | Self::Behind { .. } => ErrorClass::Reject,
            Self::Altered { .. } | Self::CarriedAltered { .. } => ErrorClass::Bug,
        }
    }
}

/// A checkpoint could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The keystore refused.
    #[error("the keystore cannot sign checkpoints")]
    Keystore(#[source] KeystoreError),
    /// The key in the slot does not sign.
    #[error("the key `checkpoint` of the keystore is not a signing key")]
    Kind,
    /// The origin cannot name a key.
    #[error("the origin cannot name a key")]
    Name(#[source] VerifierKeyError),
    /// The checkpoint cannot be a note.
    #[error("the checkpoint's text cannot be signed")]
    Note(#[source] NoteError),
}

impl From<NoteError> for SignerError {
    fn from(error: NoteError) -> Self {
        Self::Note(error)
    }
}

impl Classified for SignerError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Keystore(_) => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::Kind | Self::Name(_) | Self::Note(_) => ErrorClass::Bug,
        }
    }
}

/// The service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The certificates.
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
    /// The keystore.
    #[error("the keystore cannot be opened")]
    Keystore(#[source] KeystoreError),
    /// The key that signs checkpoints.
    #[error("checkpoints cannot be signed")]
    Signer(#[source] SignerError),
    /// The log.
    #[error("the log cannot be opened")]
    Log(#[source] LogError),
    /// The embedded list of streams.
    #[error("the list of streams cannot be used")]
    Topology(#[source] TopologyError),
    /// No random key for digests.
    #[error("no key for quarantine digests")]
    Digest(#[source] CryptoError),
    /// The broker.
    #[error("the broker cannot be connected to")]
    Connect(#[source] ConnectError),
    /// The acts.
    #[error("acts cannot be consumed")]
    Work(#[source] WorkError),
    /// The acts that an earlier run did not answer for.
    #[error("the AUDIT stream cannot be read")]
    Acts(#[source] StreamError),
    /// The events.
    #[error("the EVENTS stream cannot be read")]
    Events(#[source] StreamError),
    /// The questions.
    #[error("proofs cannot be served")]
    Serve(#[source] GrpcError),
    /// A part that blocks was interrupted.
    #[error("the start was interrupted")]
    Interrupted,
}

impl Classified for AuditError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Tls(_) | Self::Keystore(_) => ErrorClass::Reject,
            Self::Signer(error) => error.class(),
            Self::Log(error) => error.class(),
            Self::Topology(error) => error.class(),
            Self::Digest(_) | Self::Interrupted => ErrorClass::Bug,
            Self::Connect(error) => error.class(),
            Self::Work(error) => error.class(),
            Self::Acts(error) | Self::Events(error) => error.class(),
            Self::Serve(error) => error.class(),
        }
    }
}
