//! Restores Redis from the log (INV-9): by itself when a shard turns out to be unready, or when an operator asks.
//!
//! First what waits for its time (SCHEDULED), then what is accepted and not yet routed (INTAKE), then what happened
//! (CARRIED, of messages whose events were trimmed, and EVENTS): a message moves from each to the next, so none is missed. The projection of a shard waits meanwhile; what comes later follows in its order.
//!
//! The log is read in windows: each is folded into what Redis holds by then and written, so that memory is bounded
//! however long the log is. How far it is stands in Redis too. One process at a time rebuilds a shard; another takes over when it
//! falls silent, and goes on where it broke off: what is accepted and not yet routed is read again, the log from there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use sotto_bus::{
    Bus, CARRIED, ReadError, SCHEDULED, StreamReader, Subject,
    topology::{SetupError, is_there},
};
use sotto_core::{Classified, ErrorClass, MessageId, ShardId, delivery::Event};
use sotto_proto::{
    Batch as _, LogEvent,
    pipeline::v1::{EventBatch, WorkBatch},
};
use sotto_runtime::telemetry::chain;
use tokio::{
    sync::{Mutex, Notify, mpsc},
    time::Instant,
};

use crate::{
    adapters::{
        audit::{AuditTrail, Category},
        store::{Answers, Rebuild, Restore, Store, acceptance},
    },
    app::fold::Open,
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
    /// It is not known whether there are carried events.
    #[error("the stream of carried events cannot be looked for")]
    Carried(#[source] SetupError),
    /// Redis cannot be written.
    #[error("Redis cannot be written")]
    Store(#[source] StoreError),
    /// Redis lost data again meanwhile, or another process took over.
    #[error("Redis lost its data again while it was being rebuilt, or another process has taken over")]
    LostAgain,
    /// Another process rebuilds it.
    #[error("another process is rebuilding shard {0}")]
    Busy(ShardId),
}

impl Classified for RebuildError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Read(error) => error.class(),
            Self::Carried(error) => error.class(),
            Self::Store(error) => error.class(),
            Self::LostAgain | Self::Busy(_) => ErrorClass::Retry { after: LOOK_EVERY },
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
    audit: AuditTrail,
    /// This run of the process.
    instance: String,
    one_at_a_time: Mutex<()>,
    lost: Arc<Notify>,
    window: usize,
}

/// Batches read between two reports of progress.
const REPORT_EVERY: u64 = 256;

/// Events that are read before they are folded and written: some tens of megabytes.
const WINDOW: usize = 50_000;

/// How often a rebuild writes what it has read, also when that is less than a window, and says that it goes on.
const GO_ON_EVERY: Duration = Duration::from_secs(2);

impl Rebuilder {
    /// A rebuilder; `lost` wakes it before its next look.
    pub fn new(bus: Bus, store: Store, audit: AuditTrail, instance: &str, lost: Arc<Notify>) -> Self {
        Self {
            bus,
            store,
            audit,
            instance: instance.to_owned(),
            one_at_a_time: Mutex::new(()),
            lost,
            window: WINDOW,
        }
    }

    /// The same, reading so many events at a time.
    #[must_use]
    pub fn in_windows_of(self, events: usize) -> Self {
        Self { window: events, ..self }
    }

    /// Looks at every shard now and then, and rebuilds those that are not ready. Never returns.
    pub async fn watch(&self, redis: sotto_runtime::Condition) {
        let mut before = Answers::Well;
        loop {
            let answers = self.store.condition().await;
            redis.set(answers == Answers::Well);
            if answers == Answers::ButEvicts && before != answers {
                tracing::error!("Redis may throw keys away: set its maxmemory-policy to noeviction");
            }
            before = answers;
            if let Err(error) = self.look().await {
                tracing::warn!(error = chain(&error), "Redis is not rebuilt yet");
            }
            let _woken = tokio::time::timeout(LOOK_EVERY, self.lost.notified()).await;
        }
    }

    /// Writes what was missed while Redis was away for a moment, and rebuilds what is not ready.
    ///
    /// # Errors
    /// When a rebuild did not end; the next look begins it anew.
    pub async fn look(&self) -> Result<(), RebuildError> {
        let _alone = self.one_at_a_time.lock().await;
        match self.find_unready().await {
            Ok(unready) if unready.is_empty() => Ok(()),
            Ok(unready) => self.rebuild(unready, &|_| {}).await,
            // Nothing to rebuild into; the next look sees.
            Err(StoreError::Down) => Ok(()),
            Err(error @ (StoreError::Rebuilding | StoreError::Refused)) => Err(RebuildError::Store(error)),
        }
    }

    /// The shards that are not ready and that no other process rebuilds.
    async fn find_unready(&self) -> Result<Vec<Rebuild>, StoreError> {
        self.store.catch_up().await?;
        for shard in self.store.behind() {
            // What was missed and not kept is in the log.
            self.store.forget(shard).await?;
        }
        let mut unready = Vec::new();
        for shard in self.bus.cell().shards.iter() {
            if !self.store.is_ready(shard).await? {
                unready.extend(self.store.start_rebuild(shard, &self.instance).await?);
            }
        }
        Ok(unready)
    }

    /// Rebuilds every shard, ready or not, and tells how far it is.
    ///
    /// # Errors
    /// When the log or Redis cannot be used; by itself it goes on later.
    pub async fn rebuild_all(&self, progress: &mpsc::UnboundedSender<Progress>) -> Result<(), RebuildError> {
        let _alone = self.one_at_a_time.lock().await;
        let mut rebuilds = Vec::new();
        for shard in self.bus.cell().shards.iter() {
            self.store.forget(shard).await.map_err(RebuildError::Store)?;
            let rebuild = self.store.start_rebuild(shard, &self.instance).await;
            rebuilds.push(rebuild.map_err(RebuildError::Store)?.ok_or(RebuildError::Busy(shard))?);
        }
        // Who asked may have gone; the rebuild goes on.
        let tell = |step| {
            let _heard = progress.send(step);
        };
        self.rebuild(rebuilds, &tell).await
    }

    async fn rebuild(
        &self,
        rebuilds: Vec<Rebuild>,
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), RebuildError> {
        tracing::info!(shards = rebuilds.len(), "rebuilding Redis from the log");
        let held = rebuilds.clone();
        let mut image = Image::new(&self.store, self.window, rebuilds);
        let reading = async {
            self.read_accepted(SCHEDULED, &mut image, tell).await?;
            self.read_accepted("INTAKE", &mut image, tell).await?;
            self.read_carried(&mut image, tell).await?;
            self.read_events(&mut image, tell).await?;
            // What was accepted meanwhile is known to whoever took it, who may die before it is written.
            self.read_accepted("INTAKE", &mut image, tell).await?;
            image.write().await
        };
        tokio::select! {
            read = reading => read?,
            lost = self.hold(&held) => return Err(lost),
        }
        for (shard, ShardImage { rebuild, read, written, last, .. }) in image.shards {
            // A sweeper need not wait for what was folded here.
            self.store.set_folded(shard, last, &[]).await.map_err(RebuildError::Store)?;
            if !self.store.finish_rebuild(&rebuild).await.map_err(RebuildError::Store)? {
                return Err(RebuildError::LostAgain);
            }
            tracing::info!(%shard, read, written, "the shard is rebuilt");
            tell(Progress { shard, read, written, done: true });
            self.audit.tell(Category::Lifecycle, "redis.rebuilt", "", None, format!("shard-{shard}"), "ok");
        }
        Ok(())
    }

    /// Says that the rebuilds go on, however long the broker or Redis takes to answer. Ends when they do not.
    async fn hold(&self, rebuilds: &[Rebuild]) -> RebuildError {
        loop {
            tokio::time::sleep(GO_ON_EVERY).await;
            for rebuild in rebuilds {
                match self.store.go_on(rebuild, None).await {
                    Ok(true) => {}
                    Ok(false) => return RebuildError::LostAgain,
                    Err(error) => return RebuildError::Store(error),
                }
            }
        }
    }

    async fn read_accepted(
        &self,
        stream: &str,
        image: &mut Image<'_>,
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), RebuildError> {
        let reader = StreamReader::<WorkBatch>::new(&self.bus, stream).map_err(RebuildError::Read)?;
        let state = reader.state().await.map_err(RebuildError::Read)?;
        let mut reading = reader.read_stored(state.first, state.last);
        while let Some(batch) = next(&mut reading).await? {
            // What is on its way to another attempt has its acceptance in EVENTS.
            let Some(Subject::Accepted(_, shard) | Subject::Scheduled(_, _, shard)) = batch.subject else {
                continue;
            };
            let items = batch.batch.into_items().into_iter().flatten();
            let accepted = items.map(|delivery| acceptance(&delivery.item.facts));
            image.take(shard, 0, accepted, tell).await?;
        }
        Ok(())
    }

    /// Events that were trimmed, of messages that go on. All of them are older than those in EVENTS, or are there too.
    async fn read_carried(
        &self,
        image: &mut Image<'_>,
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), RebuildError> {
        if !is_there(&self.bus, CARRIED).await.map_err(RebuildError::Carried)? {
            return Ok(());
        }
        let reader = StreamReader::<EventBatch>::new(&self.bus, CARRIED).map_err(RebuildError::Read)?;
        let state = reader.state().await.map_err(RebuildError::Read)?;
        let mut reading = reader.read_stored(state.first, state.last);
        while let Some(batch) = next(&mut reading).await? {
            let Some(Subject::Carried(shard)) = batch.subject else { continue };
            let events = batch.batch.into_items().into_iter().flatten().filter_map(about_a_message);
            image.take(shard, 0, events, tell).await?;
        }
        Ok(())
    }

    async fn read_events(
        &self,
        image: &mut Image<'_>,
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), RebuildError> {
        let reader = StreamReader::<EventBatch>::new(&self.bus, "EVENTS").map_err(RebuildError::Read)?;
        let state = reader.state().await.map_err(RebuildError::Read)?;
        let mut reading = reader.read_stored(image.first().max(state.first), state.last);
        while let Some(batch) = next(&mut reading).await? {
            let Some(Subject::Event(shard)) = batch.subject else { continue };
            // What cannot be read is in quarantine already: the projection met it before us.
            let events = batch.batch.into_items().into_iter().flatten().filter_map(about_a_message);
            image.take(shard, batch.sequence, events, tell).await?;
        }
        Ok(())
    }
}

fn about_a_message(item: LogEvent) -> Option<Event> {
    match item {
        LogEvent::Delivery(event) => Some(event),
        LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => None,
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

/// What a window of the log says, by shard.
struct Image<'a> {
    store: &'a Store,
    window: usize,
    shards: BTreeMap<ShardId, ShardImage>,
    /// The last sequence of EVENTS that was taken.
    taken: u64,
    waiting: usize,
    went_on: Instant,
}

struct ShardImage {
    rebuild: Rebuild,
    /// Events that are not folded yet, in their order, and the sequence of each.
    events: HashMap<MessageId, Vec<(u64, Event)>>,
    read: u64,
    written: u64,
    last: u64,
}

impl<'a> Image<'a> {
    fn new(store: &'a Store, window: usize, rebuilds: Vec<Rebuild>) -> Self {
        let empty = |rebuild: Rebuild| {
            let events = HashMap::new();
            let last = rebuild.done();
            (rebuild.shard(), ShardImage { rebuild, events, read: 0, written: 0, last })
        };
        Self {
            store,
            window,
            shards: rebuilds.into_iter().map(empty).collect(),
            taken: 0,
            waiting: 0,
            went_on: Instant::now(),
        }
    }

    /// Where EVENTS is to be read from.
    fn first(&self) -> u64 {
        self.shards.values().map(|image| image.rebuild.done()).min().unwrap_or(0) + 1
    }

    /// Takes a batch; writes when the window is full.
    async fn take(
        &mut self,
        shard: ShardId,
        sequence: u64,
        events: impl Iterator<Item = Event>,
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), RebuildError> {
        let Some(image) = self.shards.get_mut(&shard) else { return Ok(()) };
        self.taken = self.taken.max(sequence);
        // An earlier rebuild has written it. (What was accepted has no sequence.)
        if (1..=image.rebuild.done()).contains(&sequence) {
            return Ok(());
        }
        for event in events {
            image.events.entry(event.message).or_default().push((sequence, event));
            self.waiting += 1;
        }
        image.last = image.last.max(sequence);
        image.read += 1;
        if image.read.is_multiple_of(REPORT_EVERY) {
            tell(Progress { shard, read: image.read, written: image.written, done: false });
        }
        if self.waiting >= self.window || self.went_on.elapsed() >= GO_ON_EVERY {
            self.write().await?;
        }
        Ok(())
    }

    /// Says that it goes on, and how far it is, if all that was taken is written.
    async fn go_on(&mut self) -> Result<(), RebuildError> {
        let written = self.waiting == 0 && self.taken > 0;
        for ShardImage { rebuild, .. } in self.shards.values() {
            let done = written.then(|| self.taken.max(rebuild.done()));
            if !self.store.go_on(rebuild, done).await.map_err(RebuildError::Store)? {
                return Err(RebuildError::LostAgain);
            }
        }
        self.went_on = Instant::now();
        Ok(())
    }

    /// Folds what waits into what Redis holds by now.
    async fn write(&mut self) -> Result<(), RebuildError> {
        for (shard, image) in &mut self.shards {
            image.written += image.write(self.store, *shard).await.map_err(RebuildError::Store)?;
        }
        self.waiting = 0;
        self.go_on().await
    }
}

impl ShardImage {
    async fn write(&mut self, store: &Store, shard: ShardId) -> Result<u64, StoreError> {
        let events: Vec<_> = std::mem::take(&mut self.events).into_iter().collect();
        let ids: Vec<MessageId> = events.iter().map(|(id, _)| *id).collect();
        let known = store.load_unready(shard, &ids).await?;
        let (mut journals, mut entries) = (Vec::new(), Vec::new());
        for ((id, events), known) in events.into_iter().zip(known) {
            let mut open = Open::new(id, known);
            for (sequence, event) in events {
                // An illegal event was quarantined when the projection met it.
                let _legal = open.take(&event, sequence);
            }
            entries.extend(open.entry());
            let Open { before, journal, changed, .. } = open;
            let Some(version) = changed else { continue };
            // One whose time is over is written only over what stands there, which it removes.
            if before.is_some() || store.is_kept(&journal) {
                journals.push(Restore { version, journal });
            }
        }
        let written = store.restore(shard, &journals).await?;
        store.set_folded(shard, 0, &entries).await?;
        let entries = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        Ok(written + entries)
    }
}
