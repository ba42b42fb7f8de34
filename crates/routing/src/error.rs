//! Why routing cannot run.

use std::{path::PathBuf, time::Duration};

use sotto_bus::ConnectError;
use sotto_core::{Classified, ErrorClass, carriers::CarrierFileError};

/// Why routing cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// The carriers file cannot be read.
    #[error("the carriers file {} cannot be read", path.display())]
    CarriersRead {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The carriers file has problems.
    #[error("the carriers file {} has problems: {}", path.display(), list(problems))]
    Carriers {
        /// Its path.
        path: PathBuf,
        /// All of them.
        problems: Vec<CarrierFileError>,
    },
    /// The broker cannot be reached.
    #[error("the broker cannot be reached")]
    Connect(#[source] ConnectError),
    /// The broker is not set up as the list of streams says.
    #[error("the broker is not set up")]
    Setup(#[source] sotto_bus::topology::SetupError),
    /// A consumer cannot be worked.
    #[error("the work streams cannot be worked")]
    Work(#[source] sotto_bus::WorkError),
    /// No randomness.
    #[error("the system gives no random bytes")]
    Random(#[source] sotto_crypto::CryptoError),
}

fn list(problems: &[CarrierFileError]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Classified for RoutingError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::CarriersRead { .. } | Self::Carriers { .. } => ErrorClass::Reject,
            Self::Connect(error) => error.class(),
            Self::Setup(error) => error.class(),
            Self::Work(error) => error.class(),
            Self::Random(_) => ErrorClass::Retry { after: Duration::from_secs(1) },
        }
    }
}
