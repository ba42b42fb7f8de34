//! Folds the events of a shard into journals, in their order.
//!
//! The order is the log's, not that of deliveries: a batch that is delivered only says that there is something, and is answered
//! once the log is folded up to it. What lies behind it is folded with it, and is done when it is delivered. How far a shard is
//! folded stands in Redis beside its journals and is written with them: who is overtaken by another process writes nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use sotto_bus::{Delivery, Handler, Outcome, ReadError, StreamReader, Subject};
use sotto_core::{
    Classified, ErrorClass, MessageId, ShardId,
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

/// Batches of a shard that may be under way from the broker at one time.
pub const DELIVERIES: usize = 32;

/// How long a batch waits while Redis is away or being rebuilt.
const PAUSE: Duration = Duration::from_millis(500);

/// From the start of a fold to the next, unless more lies there than is folded together: a message's events come one after the
/// other, and its journal is written once for all that came.
const APART: Duration = Duration::from_millis(25);

/// Events after which nothing more is folded with them.
const TOGETHER: usize = 2_000;

/// Events of one batch of the log, and its sequence.
pub type Numbered<'a> = (u64, Vec<&'a Event>);

/// A stretch of the log: what lies after one sequence, up to and including another.
#[derive(Clone, Copy, Debug)]
struct Span {
    after: u64,
    to: u64,
}

/// For each event of a batch whether it is one of its message.
pub type Verdicts = Vec<Result<(), Illegal>>;

/// Folds into the journals of one Redis. Clones share what was folded last.
#[derive(Clone, Debug)]
pub struct Folder {
    store: Store,
    recent: Recent,
}

/// The handler of a shard's events.
#[derive(Clone, Debug)]
pub struct Projection {
    folder: Folder,
    log: Arc<StreamReader<EventBatch>>,
    lost: Arc<tokio::sync::Notify>,
}

impl Folder {
    /// A folder that has folded nothing yet.
    pub fn new(store: Store) -> Self {
        Self { store, recent: Recent::default() }
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
        let to = batches.iter().map(|(sequence, _)| *sequence).max().unwrap_or(0);
        self.fold_span(shard, Span { after: 0, to }, batches).await
    }

    async fn fold_span(
        &self,
        shard: ShardId,
        span: Span,
        batches: &[Numbered<'_>],
    ) -> Result<Vec<Verdicts>, StoreError> {
        let recent = self.recent.shard(shard);
        let folding = self.try_to_fold(shard, &recent, span, batches).await;
        if folding.is_err() {
            recent.forget();
        }
        folding
    }

    async fn try_to_fold(
        &self,
        shard: ShardId,
        recent: &Shard,
        span: Span,
        batches: &[Numbered<'_>],
    ) -> Result<Vec<Verdicts>, StoreError> {
        let events = || batches.iter().flat_map(|(_, events)| events);
        let ids: HashSet<MessageId> = events().map(|event| event.message).collect();
        for _ in 0..TRIES {
            let (from, mut known) = self.known(shard, recent, &ids).await?;
            // Redis has lost what it had folded: something lies between.
            if from < span.after {
                return Err(StoreError::Down);
            }
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
            let fold = store::Fold { from, to: span.to.max(from), writes, entries };
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

    /// How far a shard is folded.
    async fn folded(&self, shard: ShardId, recent: &Shard) -> Result<u64, StoreError> {
        let here = *recent.folded().borrow();
        if here > 0 { Ok(here) } else { self.store.folded(shard).await }
    }
}

impl Projection {
    /// A projection that reads its shards' events from `log`; `lost` is told when a shard turns out to be unready.
    pub fn new(folder: Folder, log: StreamReader<EventBatch>, lost: Arc<tokio::sync::Notify>) -> Self {
        Self { folder, log: Arc::new(log), lost }
    }

    /// Folds the log up to a batch that was delivered, and what lies behind it.
    async fn fold_up_to(
        &self,
        shard: ShardId,
        delivery: &Delivery<EventBatch>,
    ) -> Result<Verdicts, FoldError> {
        let (recent, sequence) = (self.folder.recent.shard(shard), delivery.stream_sequence);
        let _turn = recent.turn().await;
        for _ in 0..TRIES {
            // A batch whose handling failed comes again item by item: then what was said of it is not for these.
            let of_these = |said: &Verdicts| said.len() == about_messages(&delivery.items).count();
            if let Some(said) = recent.verdicts(sequence).filter(of_these) {
                return Ok(said);
            }
            let folded = self.folder.folded(shard, &recent).await?;
            if folded >= sequence {
                // Somebody has folded it who may have died before it could say what is wrong with it.
                let again = [(sequence, about_messages(&delivery.items).collect())];
                return Ok(self.folder.fold(shard, &again).await?.pop().unwrap_or_default());
            }
            sleep_until(recent.next_fold()).await;
            self.fold_on(shard, &recent, &delivery.subject, folded).await?;
        }
        Err(FoldError::Behind)
    }

    /// Folds what the log holds after a sequence.
    async fn fold_on(
        &self,
        shard: ShardId,
        recent: &Shard,
        subject: &Subject,
        folded: u64,
    ) -> Result<(), FoldError> {
        let begun = Instant::now();
        let mut read = Vec::new();
        let mut count = 0;
        let (stored, mut to) = self.log.after(subject, folded).await?;
        for stored in stored {
            // What cannot be read is kept aside when it is delivered.
            let items: Vec<LogEvent> = stored.batch.into_items().into_iter().filter_map(Result::ok).collect();
            count += items.len();
            read.push((stored.sequence, items));
            if count >= TOGETHER {
                to = stored.sequence;
                break;
            }
        }
        recent.set_next_fold(if count < TOGETHER { begun + APART } else { begun });
        let batches: Vec<Numbered<'_>> =
            read.iter().map(|(sequence, items)| (*sequence, about_messages(items).collect())).collect();
        let verdicts = self.folder.fold_span(shard, Span { after: folded, to }, &batches).await?;
        for ((sequence, _), verdicts) in read.into_iter().zip(verdicts) {
            recent.said(sequence, verdicts);
        }
        Ok(())
    }
}

/// Why a batch is not folded now.
#[derive(Debug, thiserror::Error)]
enum FoldError {
    #[error("the journals cannot be read or written")]
    Store(#[from] StoreError),
    #[error("the log cannot be read")]
    Log(#[from] ReadError),
    /// Whoever answers from the log has not come as far as the delivery, or other processes fold all the time.
    #[error("the log was not read as far as the batch")]
    Behind,
}

impl Classified for FoldError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Store(error) => error.class(),
            Self::Log(error) => error.class(),
            Self::Behind => ErrorClass::Retry { after: PAUSE },
        }
    }
}

impl Handler<EventBatch> for Projection {
    async fn handle(&self, delivery: Delivery<EventBatch>) -> Vec<Outcome> {
        let Subject::Event(shard) = delivery.subject else {
            let why = "not a subject of events".to_owned();
            return vec![Outcome::Quarantine { why }; delivery.items.len()];
        };
        match self.fold_up_to(shard, &delivery).await {
            Ok(verdicts) => {
                let mut verdicts = verdicts.into_iter();
                let outcome = |item: &LogEvent| match about_a_message(item).and_then(|_| verdicts.next()) {
                    Some(Err(illegal)) => Outcome::Quarantine { why: illegal.to_string() },
                    Some(Ok(())) | None => Outcome::Done,
                };
                delivery.items.iter().map(outcome).collect()
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "a batch is not folded now");
                if matches!(error, FoldError::Store(StoreError::Rebuilding)) {
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
