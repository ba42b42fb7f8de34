//! What the service needs from outside, besides the keystore (`sotto_keystore::BucketKeystore`) and the clock.

use std::{fmt, time::Duration};

use futures::future::BoxFuture;
use sotto_bus::ReadError;
use sotto_core::{Classified, ErrorClass, TenantId, Timestamp};
use sotto_proto::IndexDelivery;
use tokio::time::Instant;

/// The ring of the keystore with the keys that sign receipts of destructions.
pub const RECEIPT_RING: &str = "receipt";

/// One act for the audit log. Nothing personal and no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// What was done (`bucket.destroyed`).
    pub action: &'static str,
    /// The service that had it done; `schedule` when nobody did.
    pub actor: &'static str,
    /// The tenant concerned; none for the cell itself.
    pub tenant: Option<TenantId>,
    /// What it was done to.
    pub object: String,
    /// `ok` or the name of a refusal.
    pub outcome: &'static str,
}

/// Where acts are told.
pub trait AuditTrail: fmt::Debug + Send + Sync {
    /// Takes an act over and never waits; what cannot be told leaves a hole in the numbering, so that the log shows it.
    fn tell(&self, entry: AuditEntry);

    /// Ends when everything that was told before is stored. It may take as long as the broker is away.
    fn stored(&self) -> BoxFuture<'_, ()>;
}

/// Why the index cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// There was no connection to the broker yet.
    #[error("the broker was not reached yet")]
    Away,
    /// The broker refuses or does not answer, or has no index.
    #[error("the broker does not give the index")]
    Read(#[source] ReadError),
}

impl Classified for IndexError {
    fn class(&self) -> ErrorClass {
        match self {
            // Also what the broker refuses: the cell has no index until it is set up again.
            Self::Away | Self::Read(_) => ErrorClass::Retry { after: Duration::from_secs(1) },
        }
    }
}

/// A part of the index.
#[derive(Debug)]
pub struct IndexPart {
    /// Batches with their places, in order. What cannot be read is left out.
    pub batches: Vec<(u64, Vec<IndexDelivery>)>,
    /// Where to go on; none: this was the end.
    pub next: Option<u64>,
}

/// The index, as it is stored.
pub trait IndexLog: fmt::Debug + Send + Sync {
    /// Some of what is stored from a place on: at most 256 batches.
    fn read(&self, from: u64) -> BoxFuture<'_, Result<IndexPart, IndexError>>;
}

/// A clock that nobody sets.
pub trait SteadyClock: fmt::Debug + Send + Sync {
    /// Time since some moment before this process began to use it.
    fn elapsed(&self) -> Duration;
}

/// The machine's monotonic clock. It stands still while the machine is suspended.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(Instant);

impl Monotonic {
    /// Counts from now.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl SteadyClock for Monotonic {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
