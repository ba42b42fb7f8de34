//! What the service needs from outside, besides the keystore (`sotto_keystore::BucketKeystore`) and the clock.

use std::{fmt, time::Duration};

use sotto_core::{TenantId, Timestamp};
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
    /// The service that had it done.
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
