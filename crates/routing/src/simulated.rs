//! Routing on a broker that is a value, for the simulated world (docs/TESTING.md): the worker, the router and the outbox are
//! those of the process.

use std::sync::Arc;

use sotto_bus::{Bus, WorkError, Worker};
use sotto_core::{Clock, carriers::RouteTable};
use sotto_proto::pipeline::v1::WorkBatch;

use crate::service::work;

/// Starts to work.
///
/// # Errors
/// When the broker has not what the list says.
pub async fn start(
    bus: &Bus,
    table: RouteTable,
    clock: Arc<dyn Clock>,
) -> Result<Worker<WorkBatch>, WorkError> {
    work(bus, table, clock, 8, None).await
}
