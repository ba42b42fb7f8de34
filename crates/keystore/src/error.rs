//! What can go wrong with a keystore, each with what an operator needs to set it right.

use std::{io, path::PathBuf};

use sotto_crypto::{CryptoError, sign::SignError, wrap::UnwrapError};

/// An operation on a keystore failed and had no effect in this process.
///
/// After [`KeystoreError::Io`], [`KeystoreError::Away`] and [`KeystoreError::Device`] file or token hold the state before the
/// change or the one after it, whole: repeat a bucket's change; reload a slot before repeating one.
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
    /// The file opens, and is not the last one that was written.
    #[error(
        "{} is an older one (generation {found}, and {known} was written): move back the one that stood there",
        path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// How often the file that is there was written.
        found: u64,
        /// How often the last one was.
        known: u64,
    },
    /// Another process has the bucket file open.
    #[error("{} is open in another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file belongs to somebody else, who could change or read it.
    #[error("{} belongs to user {owner}: chown it to the user that this service runs as", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// The HSM's library cannot be used.
    #[error("the PKCS#11 module {} cannot be used: put the path of the HSM's library into keystore.pkcs11.module", path.display())]
    Module {
        /// The library.
        path: PathBuf,
        /// Why not.
        #[source]
        source: DeviceError,
    },
    /// This process uses the module for another keystore.
    #[error("this process uses the PKCS#11 module {} already", path.display())]
    ModuleInUse {
        /// The library.
        path: PathBuf,
    },
    /// No slot of the module has a token of this label, or more than one.
    #[error(
        "the module has {found} tokens labelled {label:?}: put the label of exactly one into keystore.pkcs11.token"
    )]
    Token {
        /// The label that was looked for.
        label: String,
        /// How many have it.
        found: usize,
    },
    /// The token cannot do what this keystore needs.
    #[error("the token {label:?} lacks the mechanism {mechanism}: use a token that has it")]
    Mechanism {
        /// The token.
        label: String,
        /// The mechanism's name in PKCS#11.
        mechanism: String,
    },
    /// The token does not take the PIN. It is not tried again, so that the token does not lock itself.
    #[error(
        "the token {label:?} refused the PIN: put its user PIN into the file that keystore.pkcs11.pin_file names and \
         restart; it is not tried again before"
    )]
    Pin {
        /// The token.
        label: String,
        /// What it said.
        #[source]
        source: DeviceError,
    },
    /// The token holds nothing of this slot.
    #[error(
        "the token {label:?} holds no keystore {slot:?}: make it with `sotto init --hsm`, or name the right token"
    )]
    Slot {
        /// The token.
        label: String,
        /// The slot.
        slot: String,
    },
    /// What the token holds contradicts itself.
    #[error("the token {label:?} is not sound: {reason}")]
    Unsound {
        /// The token.
        label: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The token is gone, or its sessions are. It comes back by itself.
    #[error("the token {label:?} is away")]
    Away {
        /// The token.
        label: String,
        /// The last that was heard of it.
        #[source]
        source: Option<Box<KeystoreError>>,
    },
    /// Every session of the token is in use, for longer than a caller waits.
    #[error("the token {label:?} is busy: no session was free in time")]
    Busy {
        /// The token.
        label: String,
    },
    /// The token was asked for something and did not do it.
    #[error("the token {label:?} cannot {operation}")]
    Device {
        /// The token.
        label: String,
        /// What was asked.
        operation: &'static str,
        /// What it said.
        #[source]
        source: DeviceError,
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

/// What a PKCS#11 module said, by its name in the standard. Nothing of keys or data.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(String);

impl From<&cryptoki::error::Error> for DeviceError {
    fn from(error: &cryptoki::error::Error) -> Self {
        if let cryptoki::error::Error::Pkcs11(code, function) = error {
            Self(format!("{function:?} said {code:?}"))
        } else {
            Self(error.to_string())
        }
    }
}

/// What may be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The same may work in a moment.
    Wait,
    /// A person has to set something right.
    SetRight,
    /// The caller did what it must not.
    Mend,
}

impl KeystoreError {
    /// What may be done about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Io { .. }
            | Self::InUse { .. }
            | Self::Away { .. }
            | Self::Busy { .. }
            | Self::Device { .. } => Remedy::Wait,
            Self::Mode { .. }
            | Self::Owner { .. }
            | Self::Exists { .. }
            | Self::Format { .. }
            | Self::Refused { .. }
            | Self::Older { .. }
            | Self::Module { .. }
            | Self::Token { .. }
            | Self::Mechanism { .. }
            | Self::Pin { .. }
            | Self::Slot { .. }
            | Self::Unsound { .. } => Remedy::SetRight,
            Self::ModuleInUse { .. }
            | Self::Name
            | Self::UnknownKey
            | Self::Kind
            | Self::NextExists
            | Self::NoNext
            | Self::Current
            | Self::BucketUnknown
            | Self::BucketDestroyed
            | Self::BucketTime
            | Self::WrapLimit
            | Self::Unwrap(_)
            | Self::Crypto(_)
            | Self::Sign(_) => Remedy::Mend,
        }
    }

    pub(crate) fn io(operation: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { operation, path, source }
    }
}
