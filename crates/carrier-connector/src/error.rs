//! Why the connector does not run.

use std::{collections::BTreeSet, path::PathBuf};

use sotto_bus::{ConnectError as BusError, ReadError, WorkError, topology::SetupError};
use sotto_core::{AccountId, Classified, ErrorClass, carriers::CarrierFileError};
use sotto_crypto::CryptoError;
use sotto_runtime::{grpc::GrpcError, redis, redis::RedisError, tls::TlsError};

use crate::adapters::smpp::ConnectError;

/// Why the connector does not run.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// The carriers file cannot be read.
    #[error("the carriers file {} cannot be read", path.display())]
    CarriersRead {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The carriers file is not valid.
    #[error("the carriers file {} has {} problem(s): {}", path.display(), problems.len(), list(problems))]
    Carriers {
        /// The file.
        path: PathBuf,
        /// Each problem with its place and its fix.
        problems: Vec<CarrierFileError>,
    },
    /// Accounts are outside of the cell's region.
    #[error(
        "account(s) {} have hosts outside of residency.hosts: a carrier abroad is a transfer of personal data; once that is \
         agreed and assessed, name them in carriers.transfers",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Abroad(BTreeSet<AccountId>),
    /// What an account's bind needs is not there.
    #[error("{}", .0.iter().map(|(account, why)| format!("account {account}: {why}")).collect::<Vec<_>>().join("; "))]
    Accounts(Vec<(AccountId, String)>),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
    /// The broker cannot be used.
    #[error("the broker cannot be used")]
    Broker(#[source] BusError),
    /// The streams are not what the list says.
    #[error("the broker is not set up")]
    Setup(#[source] SetupError),
    /// The stream of waiting messages cannot be looked at.
    #[error("what waits for carriers cannot be looked at")]
    Waiting(#[source] ReadError),
    /// Messages wait for accounts that the carriers file does not have.
    #[error(
        "messages wait for {}, which the carriers file does not have: put it back, as the last fallback of a route, \
         until its queue is empty",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Stranded(BTreeSet<AccountId>),
    /// An account's work does not start.
    #[error("the work of account {account} does not start")]
    Work {
        /// The account.
        account: AccountId,
        /// Why.
        #[source]
        source: WorkError,
    },
    /// Redis' settings cannot be used.
    #[error("the settings of Redis cannot be used")]
    Redis(#[source] RedisError),
    /// A gRPC server or channel cannot be made, or serving ended.
    #[error("gRPC to or from others failed")]
    Grpc(#[source] GrpcError),
    /// The kernel gives no timer with which leases are guarded.
    #[error("the kernel gives no timer")]
    Fuses(#[source] std::io::Error),
    /// There is no randomness.
    #[error("no randomness")]
    Random(#[source] CryptoError),
    /// The seed of this service's user at the broker cannot be read.
    #[error("the file of nats.nkey_seed_file cannot be read")]
    Seed(#[source] std::io::Error),
}

fn list(problems: &[CarrierFileError]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl CarrierError {
    pub(crate) fn accounts(failed: Vec<(AccountId, ConnectError)>) -> Self {
        let why = |error: &ConnectError| sotto_runtime::telemetry::chain(error);
        Self::Accounts(failed.into_iter().map(|(account, error)| (account, why(&error))).collect())
    }
}

impl Classified for CarrierError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::CarriersRead { .. } | Self::Carriers { .. } | Self::Abroad(_) | Self::Accounts(_) => {
                ErrorClass::Reject
            }
            Self::Tls(error) => error.class(),
            Self::Broker(error) => error.class(),
            Self::Setup(error) => error.class(),
            Self::Waiting(error) => error.class(),
            Self::Stranded(_) => ErrorClass::Reject,
            Self::Work { source, .. } => source.class(),
            Self::Redis(error) => redis::class(error),
            Self::Grpc(error) => error.class(),
            Self::Seed(_) => ErrorClass::Reject,
            Self::Fuses(_) | Self::Random(_) => ErrorClass::Bug,
        }
    }
}
