//! What identity needs from outside, besides the keystore (`sotto_keystore::Keystore`) and the clock.

use std::{fmt, time::Duration};

use futures::future::BoxFuture;
use sotto_core::{Classified, ErrorClass, TenantId, Timestamp};

use crate::domain::{Client, ClientId, assertion::OneUse, invitation::Invitation};

/// How long a caller waits after a failure of what is behind a port.
const LATER: Duration = Duration::from_secs(1);

/// An error of whatever stands behind a port.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the store does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such client.
    #[error("no such client")]
    UnknownClient,
    /// The invitation was redeemed before.
    #[error("the invitation was redeemed before")]
    Redeemed,
    /// It holds as many clients as it may.
    #[error("no more clients can be registered")]
    Full,
    /// It failed. A change may show after a restart all the same.
    #[error("the clients cannot be read or written")]
    Failed(#[source] Cause),
}

impl Classified for StoreError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::UnknownClient | Self::Redeemed | Self::Full => ErrorClass::Reject,
            Self::Failed(_) => ErrorClass::Retry { after: LATER },
        }
    }
}

/// The registered clients. A change is durable when its future ends well.
pub trait ClientStore: fmt::Debug + Send + Sync {
    /// A client.
    fn find<'a>(&'a self, id: &'a ClientId) -> BoxFuture<'a, Result<Option<Client>, StoreError>>;

    /// At most `limit` clients, by id, those after `after`; of one tenant or of all.
    fn page<'a>(
        &'a self,
        tenant: Option<&'a TenantId>,
        after: Option<&'a ClientId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Client>, StoreError>>;

    /// Registers a client; with `redeems`, only if the invitation with this hash was not redeemed before, which it is
    /// then: both in one change.
    fn add(&self, client: Client, redeems: Option<[u8; 32]>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Disables a client, once: again, it stays as it is.
    fn disable<'a>(&'a self, id: &'a ClientId, now: Timestamp) -> BoxFuture<'a, Result<Client, StoreError>>;
}

/// Whether an assertion was used before cannot be told now.
#[derive(Debug, thiserror::Error)]
#[error("used assertions cannot be looked up")]
pub struct ReplayUnknown(#[source] pub Cause);

impl Classified for ReplayUnknown {
    fn class(&self) -> ErrorClass {
        ErrorClass::Retry { after: LATER }
    }
}

/// The memory of used assertions, shared by all replicas.
pub trait ReplayGuard: fmt::Debug + Send + Sync {
    /// Remembers a use until the assertion ends by itself. Returns whether it is the first.
    fn first_use<'a>(
        &'a self,
        once: &'a OneUse,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<bool, ReplayUnknown>>;
}

/// The invitation cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the invitation cannot be read")]
pub struct InvitationUnreadable(#[source] pub Cause);

impl Classified for InvitationUnreadable {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

/// Where the owner's invitation is.
pub trait Invitations: fmt::Debug + Send + Sync {
    /// The invitation, if there is one.
    fn read(&self) -> BoxFuture<'_, Result<Option<Invitation>, InvitationUnreadable>>;
}

/// The kind of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Who got a token or not.
    Authentication,
    /// Signing keys.
    Keys,
    /// Clients.
    Configuration,
}

/// One act for the audit log. Nothing personal and no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Its kind.
    pub category: Category,
    /// What was done (`token.issued`).
    pub action: &'static str,
    /// The client that did it; `None` for this service or nobody known.
    pub actor: Option<ClientId>,
    /// The tenant concerned; none for the cell itself.
    pub tenant: Option<TenantId>,
    /// What it was done to: a client, a key, a token's id.
    pub object: String,
    /// `ok` or the name of a refusal.
    pub outcome: &'static str,
}

/// Where acts are told.
pub trait AuditTrail: fmt::Debug + Send + Sync {
    /// Takes an act over and never waits; what cannot be told leaves a hole in the numbering, so that the log shows it.
    fn tell(&self, act: Act, now: Timestamp);
}
