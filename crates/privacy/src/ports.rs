//! What the service needs from outside, besides the keystore (`sotto_keystore::BucketKeystore`) and the clock.

use std::fmt;

use sotto_core::{TenantId, Timestamp};

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
