//! The one that decides the order: gathers acts, reads events, grows the log, and only then says "done".

use std::{sync::Arc, time::Duration};

use sotto_core::{Classified as _, Clock, ErrorClass};
use sotto_runtime::{Condition, Stop};
use sotto_tlog::Frontier;
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    domain::{Act, Category, ClosingBalance, EventRange, Unjustified},
    error::LogError,
    log::{Growth, Log, MAX_ACTS, MAX_RANGES},
    metrics::AuditMetrics,
    ports::{Disk, EventLeaf, Events, EventsUnavailable, Signer},
    view::View,
};

/// The most batches in one range: a proof reads a whole range again.
pub const MAX_BATCHES: usize = 256;

/// How long the read of a range may take before the turn goes on without it.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// The same once a stop is asked for: the broker may be gone already, and what is not read now is read at the next start.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// How long after the end of an interval acts are still waited for: batches that were delivered together come from
/// tasks of their own, and one that is overtaken by the next would show as a gap first.
const LINGER: Duration = Duration::from_millis(10);

/// Acts on their way into the log.
#[derive(Debug)]
pub struct Told {
    /// Their batch's sequence in the stream: the order between batches.
    pub at: u64,
    /// The acts, in order.
    pub acts: Vec<Act>,
    /// A balance that closes events.
    pub balance: Option<ClosingBalance>,
    /// Answered when they are durable in the log. Dropped without an answer when they are not.
    pub done: oneshot::Sender<()>,
}

/// What the sequencer works with.
#[derive(Debug)]
pub struct Parts<E> {
    /// Where the log lies.
    pub disk: Arc<dyn Disk>,
    /// Who signs.
    pub signer: Arc<dyn Signer>,
    /// Where events are read.
    pub events: Arc<E>,
    /// Where acts come from; the sequencer ends after the last sender.
    pub acts: mpsc::Receiver<Told>,
    /// Who shows the log to others.
    pub view: Arc<View>,
    /// Whether the log grows.
    pub growing: Condition,
    /// Whether events are committed.
    pub committing: Condition,
    /// The longest time between an act or event and its checkpoint, when nothing is behind.
    pub interval: Duration,
    /// How many producers' numbering is remembered.
    pub producers: usize,
    /// Who the log's own acts are told by, `audit/<instance>`: from number 2 on.
    pub producer: String,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: AuditMetrics,
}

/// The sequencer of a cell.
#[derive(Debug)]
pub struct Sequencer<E> {
    parts: Parts<E>,
    /// `None` after a failure: what is on the disk is not known until it is read again.
    log: Option<Log>,
    /// How far events are committed.
    through: u64,
    /// The number of the last act of our own.
    told: u64,
}

impl<E: Events> Sequencer<E> {
    /// Opens the log.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn open(parts: Parts<E>) -> Result<Self, LogError> {
        let mut sequencer = Self { parts, log: None, through: 0, told: 1 };
        let log = sequencer.reopened().await?;
        sequencer.shown(log);
        Ok(sequencer)
    }

    /// Sequences until everyone who tells acts is gone, which a stop brings about, or until `over`: whoever waits for a broker that
    /// does not come back is not waited for.
    ///
    /// # Errors
    /// [`LogError`] that no repetition mends. What was not answered is told again by the broker.
    pub async fn run(mut self, stop: Stop, over: Stop) -> Result<(), LogError> {
        loop {
            let deadline = Instant::now() + self.parts.interval;
            let (told, ended) = self.gather(deadline, &stop, &over).await;
            let behind = self.turn(told, &stop).await?;
            if ended {
                return Ok(());
            }
            // Far behind with events: no reason to wait for the next interval.
            if behind {
                self.catch_up(&stop, &over).await?;
            }
        }
    }

    /// Acts until the deadline or a full growth; while stopping, only those that are there. Also whether nobody is
    /// left to tell any. In the order of the stream.
    async fn gather(&mut self, deadline: Instant, stop: &Stop, over: &Stop) -> (Vec<Told>, bool) {
        let mut told = Vec::new();
        let mut ended = self.take(&mut told, deadline, MAX_ACTS, (stop, over)).await;
        if !ended && !told.is_empty() {
            // No bound but that of the handlers, each of which waits for its answer.
            ended = self.take(&mut told, Instant::now() + LINGER, usize::MAX, (stop, over)).await;
        }
        told.sort_by_key(|told| told.at);
        (told, ended)
    }

    async fn take(
        &mut self,
        told: &mut Vec<Told>,
        until: Instant,
        most: usize,
        (stop, over): (&Stop, &Stop),
    ) -> bool {
        let mut count = 0;
        while count < most {
            tokio::select! {
                biased;
                next = self.parts.acts.recv() => match next {
                    Some(next) => {
                        count += next.acts.len();
                        told.push(next);
                    }
                    None => return true,
                },
                () = over.requested() => return true,
                () = stop.requested(), if !told.is_empty() => return false,
                () = sleep_until(until) => return false,
            }
        }
        false
    }

    /// One growth or more; says whether events are still behind.
    async fn turn(&mut self, told: Vec<Told>, stop: &Stop) -> Result<bool, LogError> {
        let (mut acts, mut waiting) = (Vec::new(), Vec::new());
        for told in told {
            acts.extend(told.acts);
            waiting.push(told.done);
            if let Some(balance) = told.balance {
                self.grow(Growth { balance: Some(balance), ..Growth::default() }).await?;
            }
        }
        let count = acts.len();
        // One batch off the broker may be larger than a growth: its answer waits for the last of them.
        while acts.len() > MAX_ACTS {
            let rest = acts.split_off(MAX_ACTS);
            self.grow(Growth { acts, ..Growth::default() }).await?;
            acts = rest;
        }
        let ranges = self.ranges(stop).await;
        let behind = ranges.len() == MAX_RANGES;
        self.grow(Growth { acts, ranges, ..Growth::default() }).await?;
        let unjustified = self.unjustified();
        if !unjustified.is_empty() {
            self.grow(Growth { acts: unjustified, ..Growth::default() }).await?;
        }
        self.parts.metrics.acts.add(count);
        for done in waiting {
            // The handler may be gone (its delivery timed out): the acts come again and are told from duplicates.
            let _gone = done.send(());
        }
        Ok(behind)
    }

    /// The alarms that are due: keys that were opened and that no connector had announced.
    fn unjustified(&mut self) -> Vec<Act> {
        let now_s = self.parts.clock.now().unix_seconds();
        let due = self.log.as_ref().map(|log| log.index().openings().unjustified(now_s)).unwrap_or_default();
        due.into_iter().take(MAX_ACTS).map(|one| self.alarm(one, now_s)).collect()
    }

    fn alarm(&mut self, one: Unjustified, at_s: i64) -> Act {
        self.parts.metrics.unjustified.one();
        let Unjustified { account, tenant, keys, .. } = &one;
        tracing::error!(
            account,
            tenant,
            keys,
            "openings do not balance: keys were opened that no connector announced"
        );
        self.told += 1;
        Act {
            producer: self.parts.producer.clone(),
            sequence: self.told,
            at_s,
            category: Category::Keys,
            action: Unjustified::ACTION.to_owned(),
            actor: "audit".to_owned(),
            object: one.object(),
            tenant: one.tenant,
            outcome: "unjustified".to_owned(),
        }
    }

    async fn catch_up(&mut self, stop: &Stop, over: &Stop) -> Result<(), LogError> {
        // Acts that came meanwhile take part: neither starves the other.
        while !stop.is_requested() {
            let (told, ended) = self.gather(Instant::now(), stop, over).await;
            if !self.turn(told, stop).await? || ended {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The ranges that follow what is committed, as many as a growth takes. When the stream cannot be read the log
    /// grows by acts alone.
    async fn ranges(&self, stop: &Stop) -> Vec<EventRange> {
        let mut ranges = Vec::new();
        let mut through = self.through;
        while ranges.len() < MAX_RANGES {
            let read = self.parts.events.leaves(through + 1, u64::MAX, MAX_BATCHES);
            let read = tokio::select! {
                biased;
                read = read => Some(read),
                () = out_of_patience(stop) => None,
            };
            let leaves = match read {
                Some(Ok(leaves)) => leaves,
                Some(Err(error)) => {
                    self.events_are_out(Some(&error));
                    return ranges;
                }
                None => {
                    self.events_are_out(None);
                    return ranges;
                }
            };
            self.parts.committing.set(true);
            let full = leaves.len() >= MAX_BATCHES;
            if let Some(range) = range(through, &leaves) {
                through = range.last;
                ranges.push(range);
            }
            if !full {
                break;
            }
        }
        ranges
    }

    fn events_are_out(&self, error: Option<&EventsUnavailable>) {
        self.parts.committing.set(false);
        match error {
            Some(error) => {
                tracing::warn!(cause = error.0.to_string(), "events cannot be read; acts are still logged");
            }
            None => tracing::warn!("events are not read in time; acts are still logged"),
        }
    }

    /// Grows the log; a disk or keystore that fails is tried until it works again.
    async fn grow(&mut self, mut growth: Growth) -> Result<(), LogError> {
        loop {
            let log = match self.log.take() {
                Some(log) => Ok(log),
                None => self.reopened().await,
            };
            let grown = match log {
                Ok(log) => {
                    // After a failure the last growth may be there or not, as a whole. Acts tell by their numbers.
                    let through = log.index().marks().through();
                    growth.ranges.retain(|range| range.first > through);
                    let closed = log.index().closed_through();
                    growth.balance.take_if(|balance| balance.through <= closed);
                    let growth = growth.clone();
                    blocking(move || log.append(growth)).await
                }
                Err(error) => Err(error),
            };
            match grown {
                Ok(log) => {
                    self.shown(log);
                    return Ok(());
                }
                Err(error) => self.failed(error).await?,
            }
        }
    }

    fn shown(&mut self, log: Log) {
        self.through = log.index().marks().through();
        self.parts.view.show(&log);
        self.parts.growing.set(true);
        let AuditMetrics { gaps, entries, grown, .. } = &self.parts.metrics;
        gaps.set_count(log.index().missing());
        entries.set_count(log.published().checkpoint.size);
        grown.now();
        self.log = Some(log);
    }

    async fn reopened(&self) -> Result<Log, LogError> {
        let (disk, signer) = (Arc::clone(&self.parts.disk), Arc::clone(&self.parts.signer));
        let producers = self.parts.producers;
        blocking(move || Log::open(disk, signer, producers)).await
    }

    async fn failed(&self, error: LogError) -> Result<(), LogError> {
        self.parts.growing.set(false);
        match error.class() {
            ErrorClass::Retry { after } => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, cause, "the log cannot grow; trying again");
                sleep(after).await;
                Ok(())
            }
            ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => Err(error),
        }
    }
}

/// Until a read has taken too long.
async fn out_of_patience(stop: &Stop) {
    let stopping = async {
        stop.requested().await;
        sleep(LAST_PATIENCE).await;
    };
    tokio::select! {
        () = sleep(READ_PATIENCE) => {}
        () = stopping => {}
    }
}

/// The range that these batches make after `through`; none without batches.
fn range(through: u64, leaves: &[EventLeaf]) -> Option<EventRange> {
    let last = leaves.last()?.sequence;
    let tree: Frontier = leaves.iter().map(|leaf| leaf.hash).collect();
    Some(EventRange { first: through + 1, last, root: tree.root(), batches: tree.size() })
}

async fn blocking(work: impl FnOnce() -> Result<Log, LogError> + Send + 'static) -> Result<Log, LogError> {
    spawn_blocking(work).await.unwrap_or(Err(LogError::Interrupted))
}
