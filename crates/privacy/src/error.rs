//! What can go wrong, and what the caller may do about it.

use std::time::Duration;

use sotto_bus::{ConnectError, topology::TopologyError};
use sotto_core::{Classified, ErrorClass};
use sotto_crypto::CryptoError;
use sotto_keystore::{KeystoreError, Remedy};
use sotto_runtime::{grpc::GrpcError, tls::TlsError};

use crate::{
    domain::{approval::ApprovalError, retention::SpanError},
    ports::IndexError,
};

/// How long a caller waits after a failure of the disk or the audit queue.
const LATER: Duration = Duration::from_secs(1);

/// The service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum PrivacyError {
    /// The bucket keys cannot be opened.
    #[error("the bucket keystore cannot be opened")]
    Open(#[source] KeystoreError),
    /// What should be dead could not be destroyed, so nothing is served.
    #[error("bucket keys whose time has come cannot be destroyed")]
    Destroy(#[source] KeyError),
    /// The work on the key file panicked or was dropped.
    #[error("opening the bucket keystore did not end")]
    Blocking(#[source] tokio::task::JoinError),
    /// The certificates cannot be used.
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
    /// The operating system gave no randomness.
    #[error("no key could be made")]
    Random(#[source] CryptoError),
    /// The embedded list of streams is not valid.
    #[error("the list of streams cannot be used")]
    Topology(#[source] TopologyError),
    /// The broker can never be used as configured.
    #[error("the broker cannot be used")]
    Connect(#[source] ConnectError),
    /// The gRPC server cannot be bound, or ended.
    #[error("the key service cannot be served")]
    Serve(#[source] GrpcError),
}

impl Classified for PrivacyError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Open(e) => keystore_class(e),
            Self::Destroy(e) => e.class(),
            Self::Blocking(_) | Self::Random(_) => ErrorClass::Bug,
            Self::Tls(e) => e.class(),
            Self::Topology(e) => e.class(),
            Self::Connect(e) => e.class(),
            Self::Serve(e) => e.class(),
        }
    }
}

/// A whole request is refused or failed. What is wrong with one wrap among many is a [`Refusal`] instead.
///
/// [`Refusal`]: crate::app::Refusal
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The caller's certificate is of another service.
    #[error("this method is not for this service")]
    NotThisService,
    /// No rule allows the account this tenant.
    #[error("the account may not carry this tenant's messages")]
    NotThisTenant,
    /// A field is wrong.
    #[error("{field} {problem}")]
    Field {
        /// Its name on the wire.
        field: &'static str,
        /// What it must be.
        problem: &'static str,
    },
    /// The key is needed for too long or too short.
    #[error("the time for which the key is needed cannot be covered")]
    Span(#[source] SpanError),
    /// The account opens too many keys.
    #[error("the account opens too many keys")]
    TooMany {
        /// The same request will pass after this time.
        retry_after: Duration,
    },
    /// The keystore failed.
    #[error("the keystore failed")]
    Keystore(#[source] KeystoreError),
    /// The wall clock has jumped ahead of the clock that nobody sets.
    #[error(
        "the wall clock is {} s ahead of the monotonic clock: nothing is destroyed by it; set it right, or restart if it \
         is right now",
        ahead.as_secs()
    )]
    Clock {
        /// How far.
        ahead: Duration,
    },
    /// An act is not carried out.
    #[error("the act is not approved")]
    Approval(#[source] ApprovalError),
    /// So many keys took one another's place that no name is left until the bucket's time is over.
    #[error("the bucket was given too many keys: it has no other until its time is over")]
    Spent,
    /// Keys sealed for as long as the schedule allows, and could not be given successors a moment ago.
    #[error(
        "keys seal for longer than the schedule allows: their successors are tried again within a minute"
    )]
    NotRotated,
    /// The index cannot be read.
    #[error("the index cannot be read")]
    Index(#[source] IndexError),
    /// No key could be made.
    #[error("no key could be made")]
    Crypto(#[source] CryptoError),
    /// The work on the keystore panicked or was dropped at the end of the process.
    #[error("the work on the keystore did not end")]
    Blocking(#[source] tokio::task::JoinError),
}

impl Classified for KeyError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NotThisService
            | Self::NotThisTenant
            | Self::Field { .. }
            | Self::Span(_)
            | Self::Approval(_) => ErrorClass::Reject,
            Self::TooMany { retry_after } => ErrorClass::Retry { after: *retry_after },
            Self::Keystore(e) => keystore_class(e),
            Self::Index(e) => e.class(),
            Self::Clock { .. } | Self::Spent | Self::NotRotated => ErrorClass::Retry { after: LATER },
            Self::Crypto(_) => ErrorClass::Bug,
            Self::Blocking(e) if e.is_cancelled() => ErrorClass::Retry { after: LATER },
            Self::Blocking(_) => ErrorClass::Bug,
        }
    }
}

pub(crate) fn keystore_class(error: &KeystoreError) -> ErrorClass {
    match (error, error.remedy()) {
        // A bucket that died meanwhile, or a clock that went back: passing.
        (KeystoreError::BucketDestroyed | KeystoreError::BucketTime | KeystoreError::WrapLimit, _)
        | (_, Remedy::Wait) => ErrorClass::Retry { after: LATER },
        (_, Remedy::SetRight) => ErrorClass::Reject,
        (_, Remedy::Mend) => ErrorClass::Bug,
    }
}
