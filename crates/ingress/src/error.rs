//! Why a request is refused, and why the service fails.

use std::time::Duration;

use sotto_core::{Classified, ErrorClass, carriers::CarrierFileError};
use sotto_crypto::CryptoError;
use sotto_keystore::KeystoreError;

use crate::domain::request::Violation;

/// Why a message was not accepted. What a client reads comes from here; it never holds a value of the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Fields are at fault: all of them are named.
    #[error("the request has {} invalid field(s): see the field violations", .0.len())]
    Invalid(Vec<Violation>),
    /// The idempotency key was used for another content.
    #[error("this idempotency key was used for another message: use a new key for a new message")]
    KeyReused,
    /// The tenant sends too fast.
    #[error("this tenant asks faster than it may: wait, then try again")]
    TooFast {
        /// How long.
        after: Duration,
    },
    /// The number has got as many codes today as it may.
    #[error(
        "this number has got as many one-time codes today as this cell sends to one, from all its clients together; it gets \
         more after midnight (UTC)"
    )]
    RecipientFull,
    /// The process has too much under way.
    #[error("too much is under way here: try again")]
    Overloaded,
    /// Certainly not accepted; passes.
    #[error("the message was not accepted: {what}; try again")]
    Unavailable {
        /// What is missing.
        what: &'static str,
        /// When to try again.
        after: Duration,
    },
    /// Perhaps accepted.
    #[error(
        "whether the message was accepted is not known: with an idempotency key, try again with the same one; without, \
         trying again may send it twice"
    )]
    InDoubt,
    /// Our fault.
    #[error("the message was not accepted because of a fault of this service")]
    Internal,
}

impl Classified for Refusal {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Invalid(_) | Self::KeyReused | Self::RecipientFull => ErrorClass::Reject,
            Self::TooFast { after } | Self::Unavailable { after, .. } => ErrorClass::Retry { after: *after },
            Self::Overloaded | Self::InDoubt => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::Internal => ErrorClass::Bug,
        }
    }
}

/// Why the service does not start or ends.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// The keystore cannot be opened, or has no key for idempotency.
    #[error("the keystore of ingress cannot be used")]
    Keystore(#[source] KeystoreError),
    /// No randomness.
    #[error("the machine gives no randomness")]
    Random(#[source] CryptoError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] sotto_runtime::tls::TlsError),
    /// A server or channel cannot be set up, or a server failed.
    #[error("gRPC failed")]
    Grpc(#[source] sotto_runtime::grpc::GrpcError),
    /// The connection to Redis cannot be set up.
    #[error("the connection to Redis cannot be set up")]
    Redis(#[source] sotto_runtime::redis::RedisError),
    /// The list of streams cannot be read.
    #[error("the list of streams cannot be read")]
    Topology(#[source] sotto_bus::topology::TopologyError),
    /// The broker cannot be reached as this service.
    #[error("the broker cannot be used")]
    Bus(#[source] sotto_bus::ConnectError),
    /// The streams are not as they should be.
    #[error("the streams are not set up")]
    Streams(#[source] sotto_bus::topology::SetupError),
    /// Redis may throw keys away.
    #[error("Redis may throw keys away: set its maxmemory-policy to noeviction")]
    RedisEvicts,
    /// Requests over the broker cannot be taken.
    #[error("clients over NATS cannot be answered")]
    Requests(#[source] sotto_bus::RequestsError),
    /// The projection cannot read events.
    #[error("the projection cannot start")]
    Projection(#[source] sotto_bus::WorkError),
    /// The log of events cannot be read.
    #[error("the log of events cannot be read")]
    Events(#[source] sotto_bus::ReadError),
    /// The reflection service cannot be built.
    #[error("the reflection service cannot be built")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The carriers file cannot be read.
    #[error("the carriers file cannot be read")]
    CarriersRead(#[source] std::io::Error),
    /// The carriers file has problems.
    #[error("the carriers file has problems: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Carriers(Vec<CarrierFileError>),
    /// An address of another service is not one.
    #[error("{0} is not an https address")]
    Address(&'static str),
}

impl Classified for IngressError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Keystore(_)
            | Self::Redis(_)
            | Self::RedisEvicts
            | Self::Address(_)
            | Self::CarriersRead(_)
            | Self::Carriers(_) => ErrorClass::Reject,
            Self::Random(_) | Self::Reflection(_) | Self::Requests(_) => ErrorClass::Bug,
            Self::Tls(error) => error.class(),
            Self::Grpc(error) => error.class(),
            Self::Topology(error) => error.class(),
            Self::Bus(error) => error.class(),
            Self::Streams(error) => error.class(),
            Self::Projection(error) => error.class(),
            Self::Events(error) => error.class(),
        }
    }
}
