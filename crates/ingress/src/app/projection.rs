//! Folds the events of a shard into journals, in their order.
//!
//! The broker delivers one batch of a shard at a time, to one process: so the order is kept. What lies behind it in the log
//! is folded with it, and is done when it is delivered. How far a shard is folded stands in Redis beside its journals and is
//! written with them: who is overtaken by another process writes nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use sotto_bus::{Delivery, Handler, Outcome, StreamReader, Subject};
use sotto_core::{
    Classified as _, ErrorClass, MessageId, ShardId,
    delivery::{Event, Illegal},
};
use sotto_proto::{Batch as _, LogEvent, pipeline::v1::EventBatch};
use sotto_runtime::telemetry::chain;
use tokio::time::{Instant, sleep_until};

use crate::{
    adapters::store::{self, Loaded, Saved, Store, Write},
    app::{
        fold::Open,
        recent::{Known, Recent, Shard},
    },
    ports::StoreError,
};

/// Somebody else wrote the same journals: after so many tries the batch comes again later.
const TRIES: usize = 5;

/// How long a batch waits while Redis is away or being rebuilt.
const PAUSE: Duration = Duration::from_millis(500);

/// From the start of a fold to the next, unless more lies there than is folded together: a message's events come one after the
/// other, and its journal is written once for all that came.
const APART: Duration = Duration::from_millis(25);

/// Events after which nothing more is folded with them.
const TOGETHER: usize = 2_000;

/// Events of one batch of the log, and its sequence.
pub type Numbered<'a> = (u64, Vec<&'a Event>);

/// For each event of a batch whether it is one of its message.
pub type Verdicts = Vec<Result<(), Illegal>>;

/// The handler of a shard's events.
#[derive(Clone, Debug)]
pub struct Projection {
    store: Store,
    /// Where what lies behind a batch is read.
    log: Option<Arc<StreamReader<EventBatch>>>,
    recent: Recent,
    lost: Arc<tokio::sync::Notify>,
}

impl Projection {
    /// A projection that folds what it is given; `lost` is told when a shard turns out to be unready.
    pub fn new(store: Store, lost: Arc<tokio::sync::Notify>) -> Self {
        Self { store, log: None, recent: Recent::default(), lost }
    }

    /// The same, which folds what lies behind a batch with it.
    #[must_use]
    pub fn ahead(self, log: StreamReader<EventBatch>) -> Self {
        Self { log: Some(Arc::new(log)), ..self }
    }

    /// What it has folded last.
    pub fn recent(&self) -> Recent {
        self.recent.clone()
    }

    /// Folds batches of a shard, in the order of their sequences.
    ///
    /// # Errors
    /// When Redis cannot be used; nothing is lost, the batches come again.
    pub async fn fold(&self, shard: ShardId, batches: &[Numbered<'_>]) -> Result<Vec<Verdicts>, StoreError> {
        let recent = self.recent.shard(shard);
        let folding = self.try_to_fold(shard, &recent, batches).await;
        if folding.is_err() {
            recent.forget();
        }
        folding
    }

    async fn try_to_fold(
        &self,
        shard: ShardId,
        recent: &Shard,
        batches: &[Numbered<'_>],
    ) -> Result<Vec<Verdicts>, StoreError> {
        let events = || batches.iter().flat_map(|(_, events)| events);
        let ids: HashSet<MessageId> = events().map(|event| event.message).collect();
        let last = batches.iter().map(|(sequence, _)| *sequence).max().unwrap_or(0);
        for _ in 0..TRIES {
            let (from, mut known) = self.known(shard, recent, &ids).await?;
            let mut journals: HashMap<MessageId, Open> = HashMap::with_capacity(ids.len());
            for id in &ids {
                let read = known.get(id).map(|(version, journal)| (*version, journal.as_ref().clone()));
                journals.insert(*id, Open::new(*id, read));
            }
            let verdict = |journals: &mut HashMap<MessageId, Open>, event: &Event, sequence| {
                journals.get_mut(&event.message).map_or(Ok(()), |open| open.take(event, sequence))
            };
            let verdicts: Vec<Verdicts> = batches
                .iter()
                .map(|(sequence, events)| {
                    events.iter().map(|event| verdict(&mut journals, event, *sequence)).collect()
                })
                .collect();
            // Whoever accepted a message may have died, or lost Redis, before it could note its key as used.
            let entries = journals.values().filter_map(Open::entry).collect();
            let mut writes = Vec::with_capacity(journals.len());
            for (id, open) in journals {
                if let Some(version) = open.changed {
                    let before = known.remove(&id).map(|(_, journal)| journal);
                    writes.push(Write { before, version, journal: Arc::new(open.journal) });
                }
            }
            let fold = store::Fold { from, to: last.max(from), writes, entries };
            match self.store.save(shard, &fold).await? {
                Saved::Whole => {
                    let unchanged = known.into_values();
                    let changed = fold.writes.into_iter().map(|write| (write.version, write.journal));
                    recent.put(unchanged.chain(changed), fold.to);
                    return Ok(verdicts);
                }
                Saved::Begun => {}
                Saved::Moved => recent.forget(),
            }
        }
        Err(StoreError::Down)
    }

    /// How far the shard is folded, and what is known of these messages.
    async fn known(
        &self,
        shard: ShardId,
        recent: &Shard,
        ids: &HashSet<MessageId>,
    ) -> Result<(u64, HashMap<MessageId, Known>), StoreError> {
        let here = *recent.folded().borrow();
        let mut known: HashMap<MessageId, Known> =
            ids.iter().filter_map(|id| Some((*id, recent.get(id)?))).collect();
        let mut missing: Vec<MessageId> = ids.iter().filter(|id| !known.contains_key(*id)).copied().collect();
        if here > 0 && missing.is_empty() {
            return Ok((here, known));
        }
        let mut loaded = self.store.load(shard, &missing).await?;
        if loaded.folded != here {
            // Somebody else has read on: what is known here is old.
            recent.forget();
            if !known.is_empty() {
                known.clear();
                missing = ids.iter().copied().collect();
                loaded = self.store.load(shard, &missing).await?;
            }
        }
        let Loaded { folded, journals } = loaded;
        let read = missing.into_iter().zip(journals);
        known.extend(read.filter_map(|(id, read)| {
            let (version, journal) = read?;
            Some((id, (version, Arc::new(journal))))
        }));
        Ok((folded, known))
    }

    /// What lies behind a batch in the log. Only a part of it if it cannot be read now: it is delivered anyway. A batch that
    /// comes again is folded alone: what made it fail may lie behind it.
    async fn behind(&self, delivery: &Delivery<EventBatch>, waited: bool) -> Vec<(u64, Vec<LogEvent>)> {
        let alone = (delivery.pending == 0 && !waited) || delivery.delivery_count > 1;
        let Some(log) = self.log.as_ref().filter(|_| !alone) else { return Vec::new() };
        let read = log.after(&delivery.subject, delivery.stream_sequence).await;
        let batches = match read {
            Ok(batches) => batches,
            Err(error) => {
                tracing::debug!(error = chain(&error), "what lies behind a batch cannot be read now");
                return Vec::new();
            }
        };
        let mut behind = Vec::new();
        let mut events = 0;
        for stored in batches {
            let items: Result<Vec<_>, _> = stored.batch.into_items().into_iter().collect();
            // What cannot be read is kept aside when it is delivered, and nothing overtakes it.
            let Ok(items) = items else { break };
            events += items.len();
            behind.push((stored.sequence, items));
            if events >= TOGETHER {
                break;
            }
        }
        behind
    }

    /// Folds a batch that was delivered, and what lies behind it.
    async fn fold_on(&self, shard: ShardId, delivery: &Delivery<EventBatch>) -> Result<Verdicts, StoreError> {
        let (recent, sequence) = (self.recent.shard(shard), delivery.stream_sequence);
        // A batch whose handling failed comes again item by item: then what was said of it is not for these.
        let said =
            recent.verdicts(sequence).filter(|said| said.len() == about_messages(&delivery.items).count());
        if let Some(said) = said {
            return Ok(said);
        }
        let next = recent.next_fold();
        let waited = next > Instant::now();
        if waited {
            sleep_until(next).await;
        }
        let begun = Instant::now();
        let behind = self.behind(delivery, waited).await;
        let mut batches: Vec<Numbered<'_>> = vec![(sequence, about_messages(&delivery.items).collect())];
        batches.extend(behind.iter().map(|(sequence, items)| (*sequence, about_messages(items).collect())));
        let count: usize = batches.iter().map(|(_, events)| events.len()).sum();
        recent.set_next_fold(if count < TOGETHER { begun + APART } else { begun });
        let mut verdicts = self.fold(shard, &batches).await?.into_iter();
        let first = verdicts.next().unwrap_or_default();
        for ((sequence, _), verdicts) in behind.into_iter().zip(verdicts) {
            recent.said(sequence, verdicts);
        }
        Ok(first)
    }
}

impl Handler<EventBatch> for Projection {
    async fn handle(&self, delivery: Delivery<EventBatch>) -> Vec<Outcome> {
        let Subject::Event(shard) = delivery.subject else {
            let why = "not a subject of events".to_owned();
            return vec![Outcome::Quarantine { why }; delivery.items.len()];
        };
        match self.fold_on(shard, &delivery).await {
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

/// Parked receipts and the like are the connectors' own.
fn about_messages(items: &[LogEvent]) -> impl Iterator<Item = &Event> {
    items.iter().filter_map(about_a_message)
}

const fn about_a_message(item: &LogEvent) -> Option<&Event> {
    match item {
        LogEvent::Delivery(event) => Some(event),
        LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => None,
    }
}
