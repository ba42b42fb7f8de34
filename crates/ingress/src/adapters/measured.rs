//! What is measured around the application: how far behind the projection is, and what waits.

use std::{sync::Arc, time::Duration};

use sotto_bus::{Delivery, Handler, Outcome, StreamReader};
use sotto_core::{Clock, Facts, Lane, Timestamp};
use sotto_proto::{
    Batch as _, LogEvent,
    pipeline::v1::{EventBatch, WorkBatch},
};
use tokio::time::{MissedTickBehavior, interval};

use crate::{adapters::grpc::Load, app::projection::Projection, metrics::IngressMetrics};

/// How often it is looked at what waits.
const LOOK: Duration = Duration::from_secs(5);

/// The projection, and how far behind it is.
#[derive(Clone, Debug)]
pub struct MeasuredProjection {
    /// What folds.
    pub projection: Projection,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The instruments.
    pub metrics: IngressMetrics,
}

impl Handler<EventBatch> for MeasuredProjection {
    async fn handle(&self, delivery: Delivery<EventBatch>) -> Vec<Outcome> {
        let newest = delivery.items.iter().map(told_at).max();
        let outcomes = self.projection.handle(delivery).await;
        let folded = outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
        self.metrics.folded.add(folded);
        if let Some(newest) = newest.filter(|_| folded > 0) {
            self.metrics.folded_after.took(self.clock.now().since(newest));
        }
        outcomes
    }
}

const fn told_at(event: &LogEvent) -> Timestamp {
    match event {
        LogEvent::Delivery(event) => event.at,
        LogEvent::ParkedReceipt { at, .. } | LogEvent::OptOut { at, .. } => *at,
    }
}

/// Looks at what is under way here and at what waits for routing, for ever.
pub async fn look(
    waiting: StreamReader<WorkBatch>,
    load: Load,
    clock: Arc<dyn Clock>,
    metrics: IngressMetrics,
) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    metrics.most_under_way.set_count(count(load.most()));
    loop {
        tick.tick().await;
        metrics.under_way.set_count(count(load.under_way()));
        for lane in Lane::ALL {
            // What waits for another try is older, and routing's to hold back.
            if let Ok(oldest) = waiting.oldest_of(&format!("accepted.{lane}.*")).await {
                let items = oldest.into_iter().flat_map(WorkBatch::into_items).filter_map(Result::ok);
                // One that was to be sent later has waited since then.
                let since = |facts: &Facts| facts.send_at.unwrap_or(facts.accepted_at);
                let oldest = items.map(|delivery| since(&delivery.item.facts)).min();
                let age = oldest.map(|oldest| clock.now().since(oldest));
                metrics.oldest.of(lane).set_seconds(age.unwrap_or_default());
            }
        }
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
