//! Folds the events of a shard into journals, batch by batch, in their order.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sotto_bus::{Delivery, Handler, Outcome, Subject};
use sotto_core::{
    Classified as _, ErrorClass, MessageId, ShardId,
    delivery::{Event, Illegal},
};
use sotto_proto::{LogEvent, pipeline::v1::EventBatch};

use crate::{
    adapters::store::{Saved, Store, Write},
    app::fold::Open,
    ports::StoreError,
};

/// Somebody else wrote the same journals: after so many tries the batch comes again later.
const TRIES: usize = 5;

/// How long a batch waits while Redis is away or being rebuilt.
const PAUSE: Duration = Duration::from_millis(500);

/// The handler of a shard's events.
#[derive(Clone, Debug)]
pub struct Projection {
    store: Store,
    lost: Arc<tokio::sync::Notify>,
}

impl Projection {
    /// A projection; `lost` is told when a shard turns out to be unready.
    pub fn new(store: Store, lost: Arc<tokio::sync::Notify>) -> Self {
        Self { store, lost }
    }

    /// Folds events of one batch; says for each whether it is one of its message.
    ///
    /// # Errors
    /// When Redis cannot be used; nothing is lost, the batch comes again.
    pub async fn fold(
        &self,
        shard: ShardId,
        sequence: u64,
        events: &[&Event],
    ) -> Result<Vec<Result<(), Illegal>>, StoreError> {
        let mut ids: Vec<MessageId> = events.iter().map(|event| event.message).collect();
        ids.sort_unstable();
        ids.dedup();
        for _ in 0..TRIES {
            let read = self.store.load(shard, &ids).await?;
            let mut journals: HashMap<MessageId, Open> =
                ids.iter().zip(read).map(|(id, known)| (*id, Open::new(*id, known))).collect();
            let verdicts = events
                .iter()
                .map(|event| {
                    journals.get_mut(&event.message).map_or(Ok(()), |open| open.take(event, sequence))
                })
                .collect();
            let entries: Vec<_> = journals.values().filter_map(Open::entry).collect();
            let writes: Vec<Write> = journals
                .into_values()
                .filter_map(|open| {
                    open.changed.map(|version| Write { before: open.before, version, journal: open.journal })
                })
                .collect();
            if self.store.save(shard, &writes).await? == Saved::Whole {
                // Whoever accepted a message may have died, or lost Redis, before it could note its key as used.
                self.store.set_folded(shard, sequence, &entries).await?;
                return Ok(verdicts);
            }
        }
        Err(StoreError::Down)
    }
}

impl Handler<EventBatch> for Projection {
    async fn handle(&self, delivery: Delivery<EventBatch>) -> Vec<Outcome> {
        let Subject::Event(shard) = delivery.subject else {
            let why = "not a subject of events".to_owned();
            return vec![Outcome::Quarantine { why }; delivery.items.len()];
        };
        // Parked receipts are the connectors' own.
        let events: Vec<&Event> = delivery.items.iter().filter_map(about_a_message).collect();
        match self.fold(shard, delivery.stream_sequence, &events).await {
            Ok(verdicts) => {
                let mut verdicts = verdicts.into_iter();
                let outcome = |item: &LogEvent| match about_a_message(item).and_then(|_| verdicts.next()) {
                    Some(Err(illegal)) => Outcome::Quarantine { why: illegal.to_string() },
                    Some(Ok(())) | None => Outcome::Done,
                };
                delivery.items.iter().map(outcome).collect()
            }
            Err(error) => {
                if error == StoreError::Rebuilding {
                    self.lost.notify_one();
                }
                let after = match error.class() {
                    ErrorClass::Retry { .. } => PAUSE,
                    ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => 10 * PAUSE,
                };
                vec![Outcome::Retry { after }; delivery.items.len()]
            }
        }
    }
}

const fn about_a_message(item: &LogEvent) -> Option<&Event> {
    match item {
        LogEvent::Delivery(event) => Some(event),
        LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => None,
    }
}
