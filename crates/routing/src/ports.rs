//! What routing needs of the world.

use std::{fmt, time::Duration};

use sotto_core::{AccountId, Lane, delivery::Event};
use sotto_proto::WorkDelivery;

/// A passing failure of a port: the same work is tried again after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Later(pub(crate) Duration);

/// Where decisions go.
pub(crate) trait Outbox: fmt::Debug + Send + Sync + 'static {
    /// Makes events durable, each message's in the order given.
    fn record(&self, events: Vec<Event>) -> impl Future<Output = Result<(), Later>> + Send;

    /// Makes messages wait for an account; all of them or none.
    fn enqueue(
        &self,
        account: &AccountId,
        lane: Lane,
        messages: Vec<WorkDelivery>,
    ) -> impl Future<Output = Result<(), Later>> + Send;
}
