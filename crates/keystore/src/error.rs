//! What can go wrong with a keystore, each with what an operator needs to set it right.

use std::{io, path::PathBuf};

use sotto_crypto::{CryptoError, sign::SignError, wrap::UnwrapError};

/// An operation on a keystore failed and had no effect in this process.
///
/// After [`KeystoreError::Io`] the file holds the state before the change or the one after it, whole: repeat a
/// bucket's change; reload a slot before repeating one.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// The operating system refused an operation on a file.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("{} has mode {mode:o}: others may use it; chmod 600 it, and change the secret if they did", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file stands where a new one was to be made.
    #[error("{} exists already; a keystore is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a keystore of this kind and slot, or has lost bytes.
    #[error("{} is not a sound keystore file: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The unlock secret does not open the file, or the file was altered. Which of them is not knowable.
    #[error("{} does not open with this unlock secret, or it was altered", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
    },
    /// Another process has the bucket file open.
    #[error("{} is open in another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A label, slot or bucket id is empty, too long or not plain ASCII.
    #[error("a name has 1 to 64 visible ASCII characters")]
    Name,
    /// No key has this id or label.
    #[error("no such key in this slot")]
    UnknownKey,
    /// The key is of the other kind.
    #[error("the key is not of the kind that this operation needs")]
    Kind,
    /// The ring has a next key that was never promoted.
    #[error("the ring has a next key already")]
    NextExists,
    /// There is nothing to promote.
    #[error("the ring has no next key")]
    NoNext,
    /// The current key cannot be retired.
    #[error("the key is current: promote another first")]
    Current,
    /// No bucket of this id was ever made here.
    #[error("no such bucket was ever made here")]
    BucketUnknown,
    /// The bucket's key is gone: what it guarded is deleted.
    #[error("the bucket is destroyed")]
    BucketDestroyed,
    /// A bucket's time of death is past, or another than it was made with.
    #[error("the bucket's time of death is past, or is not the one it was made with")]
    BucketTime,
    /// The bucket's key has made as many wraps as it may.
    #[error("the bucket key has made its last wrap")]
    WrapLimit,
    /// The wrapped key is malformed or belongs elsewhere.
    #[error("the session key cannot be unwrapped")]
    Unwrap(#[source] UnwrapError),
    /// A primitive failed.
    #[error("a cryptographic operation failed")]
    Crypto(#[source] CryptoError),
    /// A signing key could not be made, read or used.
    #[error("a signing key failed")]
    Sign(#[source] SignError),
}

impl KeystoreError {
    pub(crate) fn io(operation: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}
