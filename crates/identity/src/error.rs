//! What can go wrong, and what the caller may do about it.

use std::{io, net::SocketAddr, time::Duration};

use sotto_bus::ConnectError;
use sotto_core::{Classified, ErrorClass};
use sotto_crypto::CryptoError;
use sotto_keystore::{KeystoreError, Remedy};
use sotto_runtime::{grpc::GrpcError, redis, tls::TlsError};

use crate::{
    adapters::file_store::FileStoreError,
    domain::{TokenRefused, Violation, invitation::InvitationRefused},
    ports::{InvitationUnreadable, StoreError},
};

/// The service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The keystore cannot be opened or lacks what it must have.
    #[error("the keystore cannot be opened")]
    Keystore(#[source] KeystoreError),
    /// The signing keys cannot be made ready.
    #[error("the signing keys cannot be made ready")]
    Keys(#[source] KeysError),
    /// The clients cannot be read.
    #[error("the registered clients cannot be used")]
    Store(#[source] FileStoreError),
    /// The certificates cannot be used.
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
    /// The public address cannot be bound.
    #[error("{address} cannot be listened on")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The gRPC server cannot be bound, or ended.
    #[error("the client service cannot be served")]
    Serve(#[source] GrpcError),
    /// The settings for Redis cannot be used.
    #[error("Redis cannot be set up")]
    Redis(#[source] redis::RedisError),
    /// The settings for the broker cannot be used.
    #[error("the broker cannot be used")]
    Broker(#[source] ConnectError),
    /// The built-in list of streams is not valid.
    #[error("the list of streams cannot be used")]
    Topology(#[source] sotto_bus::topology::TopologyError),
    /// No key could be made.
    #[error("no key could be made")]
    Crypto(#[source] CryptoError),
    /// Work on files panicked or was dropped at the end of the process.
    #[error("work on files did not end")]
    Blocking(#[source] tokio::task::JoinError),
}

impl Classified for IdentityError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Keystore(e) => keystore_class(e),
            Self::Keys(e) => e.class(),
            Self::Store(e) => e.class(),
            Self::Tls(e) => e.class(),
            Self::Bind { .. } => ErrorClass::Reject,
            Self::Serve(e) => e.class(),
            Self::Redis(e) => redis::class(e),
            Self::Broker(e) => e.class(),
            Self::Topology(e) => e.class(),
            Self::Crypto(_) | Self::Blocking(_) => ErrorClass::Bug,
        }
    }
}

/// Signing or rotating failed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The keystore failed.
    #[error("the keystore failed")]
    Keystore(#[source] KeystoreError),
    /// There is no key to sign with.
    #[error("there is no signing key")]
    NoKey,
    /// The claims could not be written.
    #[error("the claims could not be written")]
    Claims(#[source] serde_json::Error),
    /// The work panicked or was dropped at the end of the process.
    #[error("the work on keys did not end")]
    Blocking(#[source] tokio::task::JoinError),
}

impl Classified for KeysError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Keystore(e) => keystore_class(e),
            Self::NoKey | Self::Claims(_) | Self::Blocking(_) => ErrorClass::Bug,
        }
    }
}

/// A request about clients is refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// The access token does not count.
    #[error("the access token is refused")]
    Token(#[source] TokenRefused),
    /// The access token's client is disabled.
    #[error("the client is disabled")]
    Disabled,
    /// The access token lacks a scope.
    #[error("scope {0} is needed")]
    Scope(&'static str),
    /// Fields are wrong.
    #[error("the request has invalid fields")]
    Fields(Vec<Violation>),
    /// The invitation is not taken.
    #[error("the invitation is refused")]
    Invitation(#[source] InvitationRefused),
    /// The invitation's file cannot be used.
    #[error("the invitation cannot be checked")]
    InvitationFile(#[source] InvitationUnreadable),
    /// The store refused or failed.
    #[error("the store refused or failed")]
    Store(#[source] StoreError),
    /// The keystore failed.
    #[error("the keystore failed")]
    Keystore(#[source] KeystoreError),
    /// No id or secret could be made.
    #[error("no id or secret could be made")]
    Crypto(#[source] CryptoError),
    /// The work on the keystore panicked or was dropped at the end of the process.
    #[error("the work on the keystore did not end")]
    Blocking(#[source] tokio::task::JoinError),
}

impl Classified for ClientsError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Token(_) | Self::Disabled | Self::Scope(_) | Self::Fields(_) | Self::Invitation(_) => {
                ErrorClass::Reject
            }
            Self::InvitationFile(e) => e.class(),
            Self::Store(e) => e.class(),
            Self::Keystore(e) => keystore_class(e),
            Self::Crypto(_) | Self::Blocking(_) => ErrorClass::Bug,
        }
    }
}

/// What may be done about a keystore's error.
pub(crate) fn keystore_class(error: &KeystoreError) -> ErrorClass {
    match error.remedy() {
        Remedy::Wait => ErrorClass::Retry { after: Duration::from_secs(1) },
        Remedy::SetRight => ErrorClass::Reject,
        Remedy::Mend => ErrorClass::Bug,
    }
}
