//! Reading the log of events for one tenant, without a gap.
//!
//! The log is read in its one order, and each batch is told from the journals that the projection has folded it into:
//! they know whose a message is and what its events changed. So a watcher never runs ahead of what `GetMessage` tells.

use std::{sync::Arc, time::Duration};

use sotto_bus::{Bus, ReadError, Reading, StoredBatch, StreamReader, Subject};
use sotto_core::{Classified, Clock, ErrorClass, MessageId, ShardId, TenantId};
use sotto_proto::{Batch as _, LogEvent, pipeline::v1::EventBatch};
use tokio::time::{Instant, sleep};

use crate::{
    adapters::store::Store,
    domain::{cursor::Cursor, journal::Journal},
    ports::StoreError,
};

/// How often the end of the log is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How often it is looked whether the projection has come so far.
const BEHIND_LOOK: Duration = Duration::from_millis(50);

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
    pub journals: Vec<Journal>,
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
        let end = reader.state().await.map_err(WatchError::Log)?.last;
        let last = after.map_or(end, |Cursor(sequence)| sequence);
        if last > end {
            return Err(WatchError::Ahead);
        }
        Ok(Watch { source: self.clone(), reader, tenant, only, last, reading: None })
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
            // Taken out while it is waited for: whoever gives up waiting begins again after the last batch that was told.
            let (mut reading, to) = match self.reading.take() {
                Some(reading) => reading,
                None => {
                    let end = self.reader.state().await.map_err(WatchError::Log)?.last;
                    if end <= self.last {
                        sleep(LOOK).await;
                        continue;
                    }
                    (self.reader.read(self.last + 1, end), end)
                }
            };
            match reading.next().await {
                Ok(Some(stored)) => {
                    let sequence = stored.sequence;
                    let journals = self.read(stored).await?;
                    self.last = sequence;
                    self.reading = Some((reading, to));
                    return Ok(Told { cursor: self.cursor(), journals });
                }
                Ok(None) => self.last = self.last.max(to),
                // What nobody can read says nothing to anybody; `sotto ledger check` tells of it.
                Err(ReadError::Malformed { sequence, .. }) => self.last = sequence,
                Err(error) => return Err(WatchError::Log(error)),
            }
        }
    }

    async fn read(&self, stored: StoredBatch<EventBatch>) -> Result<Vec<Journal>, WatchError> {
        let StoredBatch { sequence, subject, batch } = stored;
        let Some(Subject::Event(shard)) = subject else { return Ok(Vec::new()) };
        let mut ids: Vec<MessageId> = Vec::new();
        let mut youngest = None;
        for event in batch.into_items().into_iter().filter_map(Result::ok) {
            let event = match event {
                LogEvent::Delivery(event) => event,
                LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => continue,
            };
            youngest = youngest.max(Some(event.at));
            if !ids.contains(&event.message) && self.only.is_none_or(|only| only == event.message) {
                ids.push(event.message);
            }
        }
        let Some(youngest) = youngest else { return Ok(Vec::new()) };
        let age = self.source.clock.now().since(youngest);
        if age > self.source.keep {
            return Err(WatchError::TooOld);
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let since = Instant::now();
        self.folded(shard, sequence, since).await?;
        loop {
            let journals = self.source.store.load(shard, &ids).await.map_err(WatchError::Store)?;
            let journals = || journals.iter().flatten().map(|(_, journal)| journal);
            // An event may overtake its acceptance, which tells whose it is. What waits for one for long is nobody's.
            let overtaken = journals().any(|journal| journal.delivery().is_none()) && age < 2 * BEHIND;
            if !overtaken {
                let ours = |journal: &&Journal| {
                    journal.delivery().is_some_and(|delivery| delivery.facts().tenant == self.tenant)
                };
                return Ok(journals().filter(ours).cloned().collect());
            }
            if since.elapsed() > BEHIND {
                return Err(WatchError::Behind);
            }
            sleep(BEHIND_LOOK).await;
        }
    }

    /// Waits until the projection has folded this batch.
    async fn folded(&self, shard: ShardId, sequence: u64, since: Instant) -> Result<(), WatchError> {
        while self.source.store.folded(shard).await.map_err(WatchError::Store)? < sequence {
            if since.elapsed() > BEHIND {
                return Err(WatchError::Behind);
            }
            sleep(BEHIND_LOOK).await;
        }
        Ok(())
    }
}
