//! Routing on a broker that is a value, for the simulated world (docs/TESTING.md): the worker, the router and the outbox are
//! those of the process.

use std::sync::Arc;

use sotto_bus::{Bus, WorkError, Worker};
use sotto_core::{Clock, carriers::RouteTable};
use sotto_metrics::Metrics;
use sotto_proto::pipeline::v1::WorkBatch;

use crate::{adapters::BrokerOutbox, app::Router, metrics::RoutingMetrics, service::work};

/// Starts to work.
///
/// # Errors
/// When the broker has not what the list says.
pub async fn start(
    bus: &Bus,
    table: RouteTable,
    clock: Arc<dyn Clock>,
) -> Result<Worker<WorkBatch>, WorkError> {
    let metrics = RoutingMetrics::new(&Metrics::default(), None);
    work(bus, Router::new(table, clock, BrokerOutbox::new(bus), None, metrics), 8).await
}
