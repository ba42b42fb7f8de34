//! Reading the log of events for one tenant, without a gap.
//!
//! The log is read in its one order, and each batch is told from the journals that the projection has folded it into:
//! they know whose a message is and what its events changed. So a watcher never runs ahead of what `GetMessage` tells.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use sotto_bus::{Bus, ReadError, Reading, StoredBatch, StreamReader, Subject};
use sotto_core::{Classified, Clock, ErrorClass, MessageId, ShardId, TenantId, Timestamp};
use sotto_proto::{Batch as _, LogEvent, pipeline::v1::EventBatch};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    adapters::store::Store,
    app::recent::Recent,
    domain::{cursor::Cursor, journal::Journal},
    ports::StoreError,
};

/// How soon the end of the log is looked at again after something was there; it doubles each time that nothing was, up to
/// [`LOOK_LEAST`].
const LOOK: Duration = Duration::from_millis(10);

/// How often the end of the log is looked at when nothing happens.
const LOOK_LEAST: Duration = Duration::from_millis(500);

/// Batches of the log that are told together: Redis is asked once for each shard of them.
const TOGETHER: usize = 128;

/// How often it is looked whether the projection has come so far.
const BEHIND_LOOK: Duration = Duration::from_millis(10);

/// How long the projection, or an acceptance that an event has overtaken, is waited for.
const BEHIND: Duration = Duration::from_secs(30);

/// Why nothing more can be told. The last cursor goes on where this ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The log cannot be read now.
    #[error("the log of events cannot be read now")]
    Log(#[source] ReadError),
    /// Redis is away, or being rebuilt.
    #[error("what is known of messages cannot be read now")]
    Store(#[source] StoreError),
    /// The projection does not come.
    #[error("events are not folded yet")]
    Behind,
    /// The events after the cursor are older than what is kept of messages.
    #[error("the events after this cursor are older than what is kept of ended messages")]
    TooOld,
    /// The log has not come so far: the cursor is another cell's.
    #[error("the log has not come as far as this cursor")]
    Ahead,
}

impl Classified for WatchError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Log(error) => error.class(),
            Self::Store(error) => error.class(),
            Self::Behind => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::TooOld | Self::Ahead => ErrorClass::Reject,
        }
    }
}

/// What watchers read from. Clones share it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The broker.
    pub bus: Bus,
    /// Journals.
    pub store: Store,
    /// Those that this process has folded last.
    pub recent: Recent,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// How long what is known of an ended message is kept.
    pub keep: Duration,
}

/// Messages to which something happened in one batch of the log.
#[derive(Debug)]
pub struct Told {
    /// The batch.
    pub cursor: Cursor,
    /// Their journals, in the order of their first event in it; none: nothing for this watcher.
    pub journals: Vec<Arc<Journal>>,
}

/// One watcher's place in the log.
#[derive(Debug)]
pub struct Watch {
    source: Source,
    reader: StreamReader<EventBatch>,
    tenant: TenantId,
    only: Option<MessageId>,
    last: u64,
    reading: Option<(Reading<EventBatch>, u64)>,
    /// What was read and is still to be told.
    told: VecDeque<Told>,
    /// How soon the end of the log is looked at again.
    look: Duration,
}

impl Source {
    /// A watcher of a tenant's messages, or of one of them, after a cursor or from now on.
    ///
    /// # Errors
    /// [`WatchError`]
    pub async fn watch(
        &self,
        tenant: TenantId,
        only: Option<MessageId>,
        after: Option<Cursor>,
    ) -> Result<Watch, WatchError> {
        let reader = StreamReader::new(&self.bus, "EVENTS").map_err(WatchError::Log)?;
        let held = reader.state().await.map_err(WatchError::Log)?;
        let last = after.map_or(held.last, |Cursor(sequence)| sequence);
        if last > held.last {
            return Err(WatchError::Ahead);
        }
        // Something after it was trimmed.
        if last + 1 < held.first {
            return Err(WatchError::TooOld);
        }
        Ok(Watch {
            source: self.clone(),
            reader,
            tenant,
            only,
            last,
            reading: None,
            told: VecDeque::new(),
            look: LOOK,
        })
    }
}

impl Watch {
    /// Where it is.
    pub fn cursor(&self) -> Cursor {
        Cursor(self.last)
    }

    /// What the next batch of the log says, once there is one.
    ///
    /// # Errors
    /// [`WatchError`]; calling it again goes on at the same place.
    pub async fn next(&mut self) -> Result<Told, WatchError> {
        loop {
            if let Some(told) = self.told.pop_front() {
                self.last = told.cursor.0;
                return Ok(told);
            }
            // Taken out while it is waited for: whoever gives up waiting begins again after the last batch that was told.
            let (mut reading, to) = match self.reading.take() {
                Some(reading) => reading,
                None => {
                    let end = self.reader.state().await.map_err(WatchError::Log)?.last;
                    if end <= self.last {
                        sleep(self.look).await;
                        self.look = (self.look * 2).min(LOOK_LEAST);
                        continue;
                    }
                    (self.reader.read(self.last + 1, end), end)
                }
            };
            self.look = LOOK;
            let mut batches = Vec::new();
            let mut next = reading.next().await;
            let ended = loop {
                match next {
                    Ok(Some(stored)) => batches.push(Read::of(stored, self.only)),
                    Ok(None) => break true,
                    // What nobody can read says nothing to anybody; `sotto ledger check` tells of it.
                    Err(ReadError::Malformed { sequence, .. }) => batches.push(Read::nothing(sequence)),
                    Err(error) => return Err(WatchError::Log(error)),
                }
                if reading.in_hand() == 0 || batches.len() >= TOGETHER {
                    break false;
                }
                next = reading.next().await;
            };
            self.told = self.tell(batches).await?.into();
            if ended {
                let last = self.told.back().map_or(self.last, |told| told.cursor.0);
                if last < to {
                    self.told.push_back(Told { cursor: Cursor(to), journals: Vec::new() });
                }
            } else {
                self.reading = Some((reading, to));
            }
        }
    }

    /// Tells batches, once they are folded.
    async fn tell(&self, batches: Vec<Read>) -> Result<Vec<Told>, WatchError> {
        let age = |youngest: Timestamp| self.source.clock.now().since(youngest);
        if batches.iter().filter_map(|batch| batch.youngest).any(|youngest| age(youngest) > self.source.keep)
        {
            return Err(WatchError::TooOld);
        }
        let mut shards: BTreeMap<ShardId, (u64, BTreeSet<MessageId>, bool)> = BTreeMap::new();
        for batch in batches.iter().filter(|batch| !batch.ids.is_empty()) {
            let Some(shard) = batch.shard else { continue };
            let (sequence, ids, young) = shards.entry(shard).or_default();
            *sequence = batch.sequence;
            ids.extend(&batch.ids);
            *young |= batch.youngest.is_some_and(|youngest| age(youngest) < 2 * BEHIND);
        }
        let mut known: HashMap<MessageId, Arc<Journal>> = HashMap::new();
        for (shard, (sequence, ids, young)) in shards {
            let ids: Vec<_> = ids.into_iter().collect();
            known.extend(self.load(shard, sequence, &ids, young).await?);
        }
        let journals = |batch: &Read| batch.ids.iter().filter_map(|id| known.get(id)).cloned().collect();
        Ok(batches
            .iter()
            .map(|batch| Told { cursor: Cursor(batch.sequence), journals: journals(batch) })
            .collect())
    }

    /// The journals of ours among these, once the projection has folded the batch. `young`: an acceptance may still be on
    /// its way.
    async fn load(
        &self,
        shard: ShardId,
        sequence: u64,
        ids: &[MessageId],
        young: bool,
    ) -> Result<Vec<(MessageId, Arc<Journal>)>, WatchError> {
        let since = Instant::now();
        let here = self.folded(shard, sequence, since).await?;
        loop {
            let journals = self.read(shard, ids, here).await?;
            let journals = || journals.iter();
            // An event may overtake its acceptance, which tells whose it is. What waits for one for long is nobody's.
            let overtaken = young && journals().any(|journal| journal.delivery().is_none());
            if !overtaken {
                let ours = |journal: &&Arc<Journal>| {
                    journal.delivery().is_some_and(|delivery| delivery.facts().tenant == self.tenant)
                };
                return Ok(journals()
                    .filter(ours)
                    .map(|journal| (journal.id(), Arc::clone(journal)))
                    .collect());
            }
            if since.elapsed() > BEHIND {
                return Err(WatchError::Behind);
            }
            sleep(BEHIND_LOOK).await;
        }
    }

    /// What is known of these messages: by this process, if it has folded them, or by Redis.
    async fn read(
        &self,
        shard: ShardId,
        ids: &[MessageId],
        here: bool,
    ) -> Result<Vec<Arc<Journal>>, WatchError> {
        if here && let Some(journals) = self.source.recent.shard(shard).all(ids) {
            return Ok(journals);
        }
        let loaded = self.source.store.load(shard, ids).await.map_err(WatchError::Store)?;
        Ok(loaded.journals.into_iter().flatten().map(|(_, journal)| Arc::new(journal)).collect())
    }

    /// Waits until the projection has folded this batch; whether it was in this process.
    async fn folded(&self, shard: ShardId, sequence: u64, since: Instant) -> Result<bool, WatchError> {
        let mut here = self.source.recent.shard(shard).folded();
        loop {
            if *here.borrow_and_update() >= sequence {
                return Ok(true);
            }
            if self.source.store.folded(shard).await.map_err(WatchError::Store)? >= sequence {
                return Ok(false);
            }
            if since.elapsed() > BEHIND {
                return Err(WatchError::Behind);
            }
            let _elapsed = timeout(BEHIND_LOOK, here.changed()).await;
        }
    }
}

/// What a batch of the log is about.
#[derive(Debug)]
struct Read {
    sequence: u64,
    shard: Option<ShardId>,
    /// Its messages, in the order of their first event.
    ids: Vec<MessageId>,
    /// The time of its latest event.
    youngest: Option<Timestamp>,
}

impl Read {
    const fn nothing(sequence: u64) -> Self {
        Self { sequence, shard: None, ids: Vec::new(), youngest: None }
    }

    fn of(stored: StoredBatch<EventBatch>, only: Option<MessageId>) -> Self {
        let StoredBatch { sequence, subject, batch } = stored;
        let Some(Subject::Event(shard)) = subject else { return Self::nothing(sequence) };
        let mut read = Self { shard: Some(shard), ..Self::nothing(sequence) };
        let mut seen = BTreeSet::new();
        for event in batch.into_items().into_iter().filter_map(Result::ok) {
            let event = match event {
                LogEvent::Delivery(event) => event,
                LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => continue,
            };
            read.youngest = read.youngest.max(Some(event.at));
            if only.is_none_or(|only| only == event.message) && seen.insert(event.message) {
                read.ids.push(event.message);
            }
        }
        read
    }
}
