//! Ends silence: messages whose deadline has passed are closed by an event, as expired or as unknown (MSG-6).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sotto_core::{
    Clock, MessageId, Restored, ShardId, Timestamp,
    delivery::{Event, EventKind},
};
use tokio::time::Instant;

use crate::{
    adapters::store::{Store, acceptance},
    domain::journal::Journal,
    ports::{Log, LogError, StoreError},
};

/// Messages closed at a time: one batch of events.
const AT_A_TIME: usize = 250;

/// A message whose closing event is in the log is looked at again after this time, should the projection not have
/// read it by then.
const AGAIN: Duration = Duration::from_secs(60);

/// A projection that has not read the last closing events is waited for, but no longer than this: its place may have been
/// lost with Redis.
const PATIENCE: Duration = Duration::from_secs(900);

/// Looks through deadlines, and lets go of what is not kept any more. Clones share what was closed.
#[derive(Clone, Debug)]
pub struct Sweeper {
    store: Store,
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    restored: Option<Restored>,
    closed: Arc<Mutex<HashMap<ShardId, Closed>>>,
}

/// The last closing events of a shard.
#[derive(Clone, Copy, Debug)]
struct Closed {
    sequence: u64,
    at: Instant,
}

/// Why a sweep did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SweepError {
    /// Redis cannot be used.
    #[error("the deadlines cannot be read")]
    Store(#[source] StoreError),
    /// The log takes nothing.
    #[error("the closing events cannot be stored")]
    Log(#[source] LogError),
}

impl Sweeper {
    /// A sweeper that has closed nothing yet. `restored`: the cell was put back from a backup.
    pub fn new(store: Store, log: Arc<dyn Log>, clock: Arc<dyn Clock>, restored: Option<Restored>) -> Self {
        Self { store, log, clock, restored, closed: Arc::default() }
    }

    /// Closes what is due in a shard. Returns how many messages were closed.
    ///
    /// # Errors
    /// When Redis or the log cannot be used: the next sweep goes on.
    pub async fn sweep(&self, shard: ShardId) -> Result<usize, SweepError> {
        self.store.trim(shard).await.map_err(SweepError::Store)?;
        let mut closed = 0;
        loop {
            // What was closed is still open for a projection that is behind: it would be closed again and again.
            if self.waits(shard).await? {
                return Ok(closed);
            }
            let ids = self.store.due(shard, AT_A_TIME).await.map_err(SweepError::Store)?;
            let journals = self.store.load(shard, &ids).await.map_err(SweepError::Store)?.journals;
            let now = self.clock.now();
            let mut events = Vec::new();
            let mut deadlines: Vec<(MessageId, Option<Timestamp>)> = Vec::with_capacity(ids.len());
            for (id, known) in ids.iter().zip(&journals) {
                let journal = known.as_ref().map(|(_, journal)| journal);
                let deadline = journal.and_then(|journal| self.store.deadline(journal));
                match (journal, deadline) {
                    (Some(journal), Some(deadline)) if deadline <= now => {
                        closing(journal, self.restored.as_ref(), now, &mut events);
                        closed += 1;
                        deadlines.push((*id, Some(now.plus(AGAIN))));
                    }
                    (_, later) => deadlines.push((*id, later)),
                }
            }
            if !events.is_empty() {
                let sequence = self.log.append(shard, events).await.map_err(SweepError::Log)?;
                self.lock().insert(shard, Closed { sequence, at: Instant::now() });
            }
            self.store.set_due(shard, &deadlines).await.map_err(SweepError::Store)?;
            if ids.len() < AT_A_TIME {
                return Ok(closed);
            }
        }
    }

    async fn waits(&self, shard: ShardId) -> Result<bool, SweepError> {
        let last = self.lock().get(&shard).copied();
        let Some(Closed { sequence, at }) = last else { return Ok(false) };
        let folded = self.store.folded(shard).await.map_err(SweepError::Store)?;
        Ok(folded < sequence && at.elapsed() < PATIENCE)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ShardId, Closed>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events that close a message. Where the log may not have the acceptance yet, it comes first: a message's first
/// event is always its acceptance. What may have been sent in the time that a restored cell lost did not simply expire.
fn closing(journal: &Journal, restored: Option<&Restored>, now: Timestamp, events: &mut Vec<Event>) {
    let Some(delivery) = journal.delivery() else { return };
    if journal.is_intakes_word() {
        events.push(acceptance(delivery.facts()));
    }
    let mut kind = delivery.closing_event();
    let maybe_sent = restored.is_some_and(|restored| restored.concerns(delivery.facts()));
    if maybe_sent && matches!(kind, EventKind::Expired { .. }) {
        kind = EventKind::Doubted;
    }
    events.push(Event { message: journal.id(), at: now, kind });
}
