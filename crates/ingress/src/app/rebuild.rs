//! Restores Redis from the log (INV-9): by itself when a shard turns out to be unready, or when an operator asks.
//!
//! First what is accepted and not yet routed (INTAKE), then what happened (EVENTS): a message moves from the first to
//! the second, so none is missed. The projection of a shard waits meanwhile; what comes later follows in its order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use sotto_bus::{Bus, ReadError, StreamReader, Subject};
use sotto_core::{Classified, Clock, ErrorClass, Facts, MessageId, ShardId, Timestamp, delivery::EventKind};
use sotto_proto::{
    Batch as _, LogEvent,
    pipeline::v1::{EventBatch, WorkBatch},
};
use sotto_runtime::telemetry::chain;
use tokio::sync::{Mutex, Notify, mpsc};

use crate::{
    adapters::{
        audit::{AuditTrail, Category},
        store::{Restore, Store},
    },
    domain::{
        idempotency::{Entry, Window},
        journal::Journal,
    },
    ports::StoreError,
};

/// How often every shard's marker is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a rebuild did not end.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The log cannot be read.
    #[error("the log cannot be read")]
    Read(#[source] ReadError),
    /// Redis cannot be written.
    #[error("Redis cannot be written")]
    Store(#[source] StoreError),
    /// Redis lost data again meanwhile.
    #[error("Redis lost its data again while it was being rebuilt")]
    LostAgain,
}

impl Classified for RebuildError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Read(error) => error.class(),
            Self::Store(error) => error.class(),
            Self::LostAgain => ErrorClass::Retry { after: LOOK_EVERY },
        }
    }
}

/// How far a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The shard.
    pub shard: ShardId,
    /// Records of the log read so far.
    pub read: u64,
    /// Entries written so far.
    pub written: u64,
    /// Whether it is ready.
    pub done: bool,
}

/// Rebuilds shards, one rebuild at a time.
#[derive(Debug)]
pub struct Rebuilder {
    bus: Bus,
    store: Store,
    clock: Arc<dyn Clock>,
    audit: AuditTrail,
    /// This run of the process.
    instance: String,
    one_at_a_time: Mutex<()>,
    lost: Arc<Notify>,
}

/// Batches read between two reports of progress.
const REPORT_EVERY: u64 = 256;

impl Rebuilder {
    /// A rebuilder; `lost` wakes it before its next look.
    pub fn new(
        bus: Bus,
        store: Store,
        clock: Arc<dyn Clock>,
        audit: AuditTrail,
        instance: &str,
        lost: Arc<Notify>,
    ) -> Self {
        Self { bus, store, clock, audit, instance: instance.to_owned(), one_at_a_time: Mutex::new(()), lost }
    }

    /// Looks at every shard now and then, and rebuilds those that are not ready. Never returns.
    pub async fn watch(&self, redis: sotto_runtime::Condition) {
        loop {
            redis.set(self.store.answers().await);
            if let Err(error) = self.look().await {
                tracing::warn!(error = chain(&error), "Redis is not rebuilt yet");
            }
            let _woken = tokio::time::timeout(LOOK_EVERY, self.lost.notified()).await;
        }
    }

    async fn look(&self) -> Result<(), RebuildError> {
        let _alone = self.one_at_a_time.lock().await;
        for shard in self.store.behind() {
            // What could not be written then is in the log.
            match self.store.forget(shard).await {
                Ok(()) => {}
                // Nothing to rebuild into; the next look sees.
                Err(StoreError::Down) => return Ok(()),
                Err(error @ (StoreError::Rebuilding | StoreError::Refused)) => {
                    return Err(RebuildError::Store(error));
                }
            }
        }
        let mut unready = Vec::new();
        for shard in self.bus.cell().shards.iter() {
            match self.store.is_ready(shard).await {
                Ok(true) => {}
                Ok(false) => unready.push(shard),
                Err(StoreError::Down) => return Ok(()),
                Err(error @ (StoreError::Rebuilding | StoreError::Refused)) => {
                    return Err(RebuildError::Store(error));
                }
            }
        }
        if unready.is_empty() { Ok(()) } else { self.rebuild(&unready, &|_| {}).await }
    }

    /// Rebuilds every shard, ready or not, and tells how far it is.
    ///
    /// # Errors
    /// When the log or Redis cannot be used; by itself it goes on later.
    pub async fn rebuild_all(&self, progress: &mpsc::UnboundedSender<Progress>) -> Result<(), RebuildError> {
        let _alone = self.one_at_a_time.lock().await;
        let shards: Vec<_> = self.bus.cell().shards.iter().collect();
        for shard in &shards {
            self.store.forget(*shard).await.map_err(RebuildError::Store)?;
        }
        // Who asked may have gone; the rebuild goes on.
        let tell = |step| {
            let _heard = progress.send(step);
        };
        self.rebuild(&shards, &tell).await
    }

    async fn rebuild(
        &self,
        shards: &[ShardId],
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), RebuildError> {
        tracing::info!(shards = shards.len(), "rebuilding Redis from the log");
        let mut runs = BTreeMap::new();
        for shard in shards {
            let run = self.store.start_rebuild(*shard, &self.instance).await;
            runs.insert(*shard, run.map_err(RebuildError::Store)?);
        }
        let mut image = Image::new(shards);
        self.read_intake(&mut image, tell).await?;
        self.read_events(&mut image, tell).await?;
        for (shard, image) in image.0 {
            let run = runs.get(&shard).map(String::as_str).unwrap_or_default();
            let written = self.write(shard, &image).await.map_err(RebuildError::Store)?;
            let ready = self.store.finish_rebuild(shard, &self.instance, run).await;
            if !ready.map_err(RebuildError::Store)? {
                return Err(RebuildError::LostAgain);
            }
            tracing::info!(%shard, read = image.read, written, "the shard is rebuilt");
            tell(Progress { shard, read: image.read, written, done: true });
            self.audit.tell(Category::Lifecycle, "redis.rebuilt", "", None, format!("shard-{shard}"), "ok");
        }
        Ok(())
    }

    async fn read_intake(
        &self,
        image: &mut Image,
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), RebuildError> {
        let reader = StreamReader::<WorkBatch>::new(&self.bus, "INTAKE").map_err(RebuildError::Read)?;
        let state = reader.state().await.map_err(RebuildError::Read)?;
        let mut reading = reader.read(state.first, state.last);
        while let Some(batch) = next(&mut reading).await? {
            // What is on its way to another attempt has its acceptance in EVENTS.
            let Some(Subject::Accepted(_, shard)) = batch.subject else { continue };
            let Some(image) = image.0.get_mut(&shard) else { continue };
            for delivery in batch.batch.into_items().into_iter().flatten() {
                image.accepted(&delivery.item.facts);
            }
            image.report(shard, tell);
        }
        Ok(())
    }

    async fn read_events(
        &self,
        image: &mut Image,
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), RebuildError> {
        let reader = StreamReader::<EventBatch>::new(&self.bus, "EVENTS").map_err(RebuildError::Read)?;
        let state = reader.state().await.map_err(RebuildError::Read)?;
        let mut reading = reader.read(state.first, state.last);
        while let Some(batch) = next(&mut reading).await? {
            let Some(Subject::Event(shard)) = batch.subject else { continue };
            let Some(image) = image.0.get_mut(&shard) else { continue };
            // What cannot be read is in quarantine already: the projection met it before us.
            for item in batch.batch.into_items().into_iter().flatten() {
                image.event(item, batch.sequence);
            }
            image.report(shard, tell);
        }
        Ok(())
    }

    async fn write(&self, shard: ShardId, image: &ShardImage) -> Result<u64, StoreError> {
        let kept: Vec<Restore> = image
            .journals
            .values()
            .filter(|(_, journal)| self.store.is_kept(journal))
            .map(|(version, journal)| Restore { version: *version, journal: journal.clone() })
            .collect();
        let now = self.clock.now();
        let entries: Vec<(MessageId, Entry, Timestamp)> = image
            .entries
            .iter()
            .map(|(id, entry)| (*id, *entry, Window::at(entry.accepted_at).remembered_until()))
            .filter(|(_, _, until)| *until > now)
            .collect();
        Ok(self.store.restore(shard, &kept).await? + self.store.restore_entries(shard, &entries).await?)
    }
}

/// The next batch; what is no batch at all is skipped, as it is quarantined by those whose work it is.
async fn next<B: prost::Message + Default>(
    reading: &mut sotto_bus::Reading<B>,
) -> Result<Option<sotto_bus::StoredBatch<B>>, RebuildError> {
    loop {
        match reading.next().await {
            Ok(batch) => return Ok(batch),
            Err(error @ ReadError::Malformed { .. }) => {
                tracing::warn!(error = chain(&error), "skipped while rebuilding");
            }
            Err(error) => return Err(RebuildError::Read(error)),
        }
    }
}

/// What the log says, by shard.
struct Image(BTreeMap<ShardId, ShardImage>);

#[derive(Default)]
struct ShardImage {
    journals: HashMap<MessageId, (u64, Journal)>,
    entries: HashMap<MessageId, Entry>,
    read: u64,
}

impl Image {
    fn new(shards: &[ShardId]) -> Self {
        Self(shards.iter().map(|shard| (*shard, ShardImage::default())).collect())
    }
}

impl ShardImage {
    /// An acceptance that may not be in EVENTS yet.
    fn accepted(&mut self, facts: &Facts) {
        self.remember(facts);
        self.journals.entry(facts.message).or_insert_with(|| (0, Journal::accepted(facts.clone())));
    }

    fn event(&mut self, item: LogEvent, sequence: u64) {
        let event = match item {
            LogEvent::Delivery(event) => event,
            LogEvent::ParkedReceipt { .. } => return,
        };
        if let EventKind::Accepted(facts) = &event.kind {
            self.remember(facts);
        }
        let id = event.message;
        let (version, journal) = self.journals.entry(id).or_insert_with(|| (0, Journal::empty(id)));
        // An illegal event was quarantined when the projection met it.
        if journal.take(event, sequence) == Ok(true) {
            *version = sequence;
        }
    }

    /// The first acceptance of a key is the one that counts.
    fn remember(&mut self, facts: &Facts) {
        if let Some(content) = facts.content_mac {
            let (accepted_at, expires_at) = (facts.accepted_at, facts.expires_at);
            self.entries.entry(facts.message).or_insert(Entry {
                stored: true,
                content,
                accepted_at,
                expires_at,
            });
        }
    }

    fn report(&mut self, shard: ShardId, tell: &(dyn Fn(Progress) + Sync)) {
        self.read += 1;
        if self.read.is_multiple_of(REPORT_EVERY) {
            tell(Progress { shard, read: self.read, written: 0, done: false });
        }
    }
}
