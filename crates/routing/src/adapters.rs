//! The broker as routing's outbox, and routing as the broker's handler.

use std::{collections::BTreeMap, time::Duration};

use futures::future::try_join_all;
use sotto_bus::{Bus, Delivery, Handler, PublishError, Publisher, PublisherConfig, Subject};
use sotto_core::{AccountId, Classified as _, ErrorClass, Lane, ShardId, delivery::Event};
use sotto_proto::{
    LogEvent, WorkDelivery,
    pipeline::v1::{EventBatch, WorkBatch},
};

use crate::{
    app::{Outcome, Router},
    ports::{Later, Outbox},
};

/// The most events in one publish; a batch of the broker holds as many.
const EVENTS: usize = 1_000;

/// Routing's publishers.
#[derive(Debug)]
pub(crate) struct BrokerOutbox {
    bus: Bus,
    events: Publisher<EventBatch>,
    work: Publisher<WorkBatch>,
}

impl BrokerOutbox {
    pub(crate) fn new(bus: &Bus) -> Self {
        Self {
            bus: bus.clone(),
            events: Publisher::new(bus, PublisherConfig::default()),
            work: Publisher::new(bus, PublisherConfig::default()),
        }
    }
}

impl Outbox for BrokerOutbox {
    async fn record(&self, events: Vec<Event>) -> Result<(), Later> {
        let shards = self.bus.cell().shards;
        let mut by_shard: BTreeMap<ShardId, Vec<LogEvent>> = BTreeMap::new();
        for event in events {
            by_shard.entry(shards.of(&event.message)).or_default().push(LogEvent::Delivery(event));
        }
        // One subject keeps its order, so the chunks of a shard may wait for their acknowledgements together.
        let publishes = by_shard.into_iter().flat_map(|(shard, events)| {
            let chunks: Vec<_> = events.chunks(EVENTS).map(<[LogEvent]>::to_vec).collect();
            chunks
                .into_iter()
                .map(move |chunk| async move { self.events.publish_all(&Subject::Event(shard), chunk).await })
        });
        try_join_all(publishes).await.map(drop).map_err(|error| later(&error))
    }

    async fn enqueue(
        &self,
        account: &AccountId,
        lane: Lane,
        messages: Vec<WorkDelivery>,
    ) -> Result<(), Later> {
        let subject = Subject::Waiting(account.clone(), lane);
        self.work.publish_all(&subject, messages).await.map(drop).map_err(|error| later(&error))
    }
}

/// Whatever went wrong, the work is still at its old place and is asked again. In doubt too: a repeat of an event
/// changes nothing, and a repeated message finds its claim taken.
fn later(error: &PublishError) -> Later {
    match error.class() {
        ErrorClass::Retry { after } => {
            tracing::warn!(%error, "messages stay in intake for now");
            Later(after)
        }
        ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
            tracing::error!(%error, "messages cannot leave intake");
            Later(Duration::from_secs(30))
        }
    }
}

impl<O: Outbox> Handler<WorkBatch> for Router<O> {
    async fn handle(&self, delivery: Delivery<WorkBatch>) -> Vec<sotto_bus::Outcome> {
        let outcomes = self.route(delivery.items).await;
        outcomes
            .into_iter()
            .map(|outcome| match outcome {
                Outcome::Done => sotto_bus::Outcome::Done,
                Outcome::Later(after) => sotto_bus::Outcome::Retry { after },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
