//! The log of the cell on the broker.

use std::time::Duration;

use futures::future::BoxFuture;
use sotto_bus::{Bus, PublishError, Publisher, PublisherConfig, Subject, second};
use sotto_core::{Classified as _, ErrorClass, Facts, ShardId, delivery::Event};
use sotto_proto::{
    LogEvent, WorkDelivery,
    pipeline::v1::{EventBatch, WorkBatch},
};
use sotto_runtime::telemetry::chain;
use tokio::time::{Instant, timeout_at};

use crate::{
    adapters::breaker::Breaker,
    ports::{Log, LogError},
};

/// After a message that was not acknowledged, others are refused for so long, and then one finds out.
const REST: Duration = Duration::from_millis(500);

/// What is to be sent within this time is not put on the schedule: longer than a publish may take.
const SOON: Duration = Duration::from_secs(60);

/// Seconds for which messages are being scheduled at a time, by lane and shard.
const SECONDS: usize = 65_536;

/// How long a message waits for a broker that is away before anything is sent: a reconnection takes less.
const RECONNECTION: Duration = Duration::from_secs(2);

/// Publishers with group commit for accepted messages and for events.
#[derive(Debug)]
pub struct BrokerLog {
    bus: Bus,
    patience: Duration,
    breaker: Breaker,
    work: Publisher<WorkBatch>,
    events: Publisher<EventBatch>,
}

impl BrokerLog {
    /// A log on this bus. Whoever hands over a message waits at most `patience`, wherever it waits: while nothing was
    /// sent the answer is that it is not stored; after that, that it is not known.
    pub fn new(bus: &Bus, patience: Duration) -> Self {
        let config =
            PublisherConfig { deadline: patience, max_subjects: SECONDS, ..PublisherConfig::default() };
        Self {
            bus: bus.clone(),
            patience,
            breaker: Breaker::new(REST),
            work: Publisher::new(bus, config),
            events: Publisher::new(bus, PublisherConfig::relaxed()),
        }
    }
}

/// Where a message is accepted. What is to be sent soon waits in routing's hands: whoever moves what is due must not miss
/// what is stored late.
fn subject(facts: &Facts, shard: ShardId) -> Subject {
    match facts.send_at.filter(|at| at.since(facts.accepted_at) >= SOON) {
        Some(at) => Subject::Scheduled(second(at), facts.lane(), shard),
        None => Subject::Accepted(facts.lane(), shard),
    }
}

impl Log for BrokerLog {
    fn accept(&self, shard: ShardId, delivery: WorkDelivery) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let begun = Instant::now();
            // Nothing is queued for a broker that does not answer: what is not queued is certainly not stored.
            let pass = self.breaker.enter(begun).ok_or(LogError::Unavailable { after: REST })?;
            let mut state = self.bus.state();
            let connected = timeout_at(begun + RECONNECTION.min(self.patience), async {
                state.wait_for(|state| state.connected).await.is_ok()
            });
            if connected.await != Ok(true) {
                pass.failed(Instant::now());
                return Err(LogError::Unavailable { after: REST });
            }
            let subject = subject(&delivery.item.facts, shard);
            // Giving up the wait does not take the message back.
            let stored = timeout_at(begun + self.patience, self.work.publish(&subject, delivery)).await;
            match stored {
                Ok(Err(PublishError::Unavailable { .. } | PublishError::OutcomeUnknown { .. })) | Err(_) => {
                    pass.failed(Instant::now());
                }
                // Also when it is full: that holds for one lane and shard, not for the broker.
                Ok(Ok(_) | Err(_)) => pass.answered(),
            }
            match stored {
                Ok(stored) => stored.map(drop).map_err(|error| failed(&error)),
                Err(_) => Err(LogError::InDoubt),
            }
        })
    }

    fn append(&self, shard: ShardId, events: Vec<Event>) -> BoxFuture<'_, Result<u64, LogError>> {
        Box::pin(async move {
            let events = events.into_iter().map(LogEvent::Delivery).collect();
            let stored = self.events.publish_all(&Subject::Event(shard), events).await;
            stored.map(|stored| stored.stream_sequence).map_err(|error| failed(&error))
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
