//! The log of the cell on the broker.

use std::time::Duration;

use futures::future::BoxFuture;
use sotto_bus::{Bus, PublishError, Publisher, PublisherConfig, Subject};
use sotto_core::{Classified as _, ErrorClass, ShardId, delivery::Event};
use sotto_proto::{
    LogEvent, WorkDelivery,
    pipeline::v1::{EventBatch, WorkBatch},
};
use sotto_runtime::telemetry::chain;

use crate::ports::{Log, LogError};

/// Publishers with group commit for accepted messages and for events.
#[derive(Debug)]
pub struct BrokerLog {
    work: Publisher<WorkBatch>,
    events: Publisher<EventBatch>,
}

impl BrokerLog {
    /// A log on this bus. Clients wait at most `patience` for an acknowledgement.
    pub fn new(bus: &Bus, patience: Duration) -> Self {
        let config = PublisherConfig { deadline: patience, ..PublisherConfig::default() };
        Self { work: Publisher::new(bus, config), events: Publisher::new(bus, PublisherConfig::default()) }
    }
}

impl Log for BrokerLog {
    fn accept(&self, shard: ShardId, delivery: WorkDelivery) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let subject = Subject::Accepted(delivery.item.facts.lane(), shard);
            self.work.publish(&subject, delivery).await.map(drop).map_err(|error| failed(&error))
        })
    }

    fn append(&self, shard: ShardId, events: Vec<Event>) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let events = events.into_iter().map(LogEvent::Delivery).collect();
            let stored = self.events.publish_all(&Subject::Event(shard), events).await;
            stored.map(drop).map_err(|error| failed(&error))
        })
    }
}

fn failed(error: &PublishError) -> LogError {
    if error.is_in_doubt() {
        return LogError::InDoubt;
    }
    match error.class() {
        ErrorClass::Retry { after } => LogError::Unavailable { after },
        ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
            tracing::error!(error = chain(error), "the broker refuses a batch");
            LogError::Refused
        }
    }
}
