//! Takes away what is old enough of EVENTS, after the log has signed what became of it (INV-2; docs/adr/0027-closing-balances.md).
//!
//! Order: events that are still needed are stored in CARRIED; the closing balance, which names them by their root, is
//! durable under a checkpoint; what was carried before goes; EVENTS is trimmed up to what the balance closes. A crash at any
//! point leaves either the state before or a balance whose trim the next look finishes. Whoever reads CARRIED and then EVENTS
//! finds every event that is needed, at any moment, and some of them twice.

use std::{sync::Arc, time::Duration};

use sotto_core::{Clock, Timestamp, delivery::Event};
use sotto_proto::LogEvent;
use sotto_runtime::{Condition, Stop, failpoint, shortened, telemetry::chain};
use sotto_tlog::Frontier;
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    domain::{ClosingBalance, EventRange, Fold, Keep, Survey},
    error::{LogError, TrimError},
    metrics::AuditMetrics,
    ports::{Disk, Held, Shelf, StoredEvents},
    ranges::Ranges,
    sequencer::Told,
    view::{EventPlace, View},
};

/// The least that events may be kept: what is read on past a cut.
pub const LEAST_KEPT: Duration = LATE;

/// How many batches are read on past a cut at least, whatever their times: clocks of brokers jump too.
const LATE_BATCHES: u64 = 20_000;

/// A message whose time ends so long before the end of what is read on is over by then.
const SETTLES: Duration = Duration::from_secs(24 * 3_600);

/// How far the wall clock may run ahead of the time since this process began, until it is not believed.
const AHEAD: Duration = Duration::from_secs(3_600);

/// How long after a message's end something more may come of it: a carrier's receipts find their part for 168 hours at most
/// (`receipt_wait`), a part is known as submitted for 73, and a request as repeated for 48. And a day.
const LATE: Duration = Duration::from_secs(8 * 24 * 3_600);

/// How long acts stay on the broker that are in the log, in case that the log's disk is lost with its newest backup.
const ACTS_KEPT: Duration = Duration::from_secs(8 * 24 * 3_600);

/// How often it is looked whether something may go.
const LOOK: Duration = Duration::from_secs(3_600);

/// How long after the start, or a look that failed, the next one is.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How much longer than needed events are kept, so that each reading of [`LATE`] serves for a day; for some hours when the
/// stream is nearly full.
const TOGETHER: Duration = Duration::from_secs(24 * 3_600);
const TOGETHER_WHEN_FULL: Duration = Duration::from_secs(6 * 3_600);

/// What the trim works with.
#[derive(Debug)]
pub struct Parts<S> {
    /// EVENTS and CARRIED.
    pub shelf: Arc<S>,
    /// Who shows the log.
    pub view: Arc<View>,
    /// Where its files lie.
    pub disk: Arc<dyn Disk>,
    /// Who writes it.
    pub log: mpsc::Sender<Told>,
    /// How long events are kept.
    pub keep: Keep,
    /// How many messages are noted at a time.
    pub most: usize,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: AuditMetrics,
    /// Whether the last look did what it should.
    pub trimmed: Condition,
}

/// What a look took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Batches.
    pub batches: u64,
    /// The last sequence of EVENTS that is closed; 0 for none.
    pub through: u64,
}

/// Somebody who wants a look now, and where the answer goes.
pub type Wanted = oneshot::Sender<Result<Trimmed, TrimError>>;

/// The trim of a cell.
#[derive(Debug)]
pub struct Trimmer<S> {
    parts: Parts<S>,
    /// When it began, by the wall clock and by one that nobody sets.
    began: (Timestamp, Instant),
}

/// Where a part ends.
struct Cut {
    ranges: Vec<EventRange>,
    through: u64,
    stored_at: Timestamp,
}

impl<S: Shelf> Trimmer<S> {
    /// Trims with these parts.
    #[must_use]
    pub fn new(parts: Parts<S>) -> Self {
        let began = (parts.clock.now(), Instant::now());
        Self { parts, began }
    }

    /// The time that is believed: a wall clock that jumped ahead since the start must not take anything away.
    fn now(&self) -> Timestamp {
        let (wall, steady) = self.began;
        self.parts.clock.now().min(wall.plus(steady.elapsed() + AHEAD))
    }

    /// Looks every hour, and when somebody wants it, until a stop.
    pub async fn run(self, mut wanted: mpsc::Receiver<Wanted>, stop: Stop) {
        // The streams may be made after us.
        let mut pause = LOOK_AGAIN;
        self.parts.trimmed.set(true);
        loop {
            let asked = tokio::select! {
                biased;
                () = stop.requested() => return,
                asked = wanted.recv() => asked,
                () = sleep(pause) => None,
            };
            let together = if asked.is_some() { Duration::ZERO } else { TOGETHER };
            let looked = tokio::select! {
                // What was begun is finished by the next process.
                () = stop.requested() => return,
                looked = self.look(together) => looked,
            };
            pause = if looked.is_ok() { LOOK } else { (2 * pause).clamp(LOOK_AGAIN, LOOK) };
            self.parts.trimmed.set(looked.is_ok());
            match &looked {
                Ok(Trimmed { batches: 0, .. }) => {}
                Ok(Trimmed { batches, through }) => tracing::info!(batches, through, "events were trimmed"),
                Err(error) => tracing::error!(error = chain(error), "events cannot be trimmed"),
            }
            if let Some(asked) = asked {
                // Whoever asked may have gone.
                let _heard = asked.send(looked);
            }
        }
    }

    /// Trims what is old enough, if the oldest is older than that by `together`. Whatever an earlier balance closed goes first.
    ///
    /// # Errors
    /// [`TrimError`]; what was taken away before is gone.
    pub async fn look(&self, together: Duration) -> Result<Trimmed, TrimError> {
        self.measure().await?;
        let mut batches = self.finish().await?;
        let mut together = together;
        while let Some(balance) = self.close_part(together).await? {
            self.tell(balance).await?;
            failpoint("audit.closed");
            batches += self.finish().await?;
            together = Duration::ZERO;
        }
        if let Err(error) = self.parts.shelf.forget_acts(self.now().minus(ACTS_KEPT)).await {
            tracing::warn!(error = chain(&error), "acts that are in the log cannot be taken off the broker");
        }
        let through = self.parts.view.closing().map_or(0, |closed| closed.balance.through);
        Ok(Trimmed { batches, through })
    }

    /// Says how old the oldest event is.
    async fn measure(&self) -> Result<(), TrimError> {
        let Parts { shelf, clock, metrics, .. } = &self.parts;
        let Held { first, last, .. } = shelf.held().await?;
        if let Some(oldest) = shelf.read(first, last).await?.first() {
            metrics.oldest_event.set_seconds(clock.now().since(oldest.stored_at));
        }
        Ok(())
    }

    /// Takes away what was carried before the newest balance, and what that closed. Only if both streams are those that it
    /// speaks of: a broker may have been put back, or made anew.
    async fn finish(&self) -> Result<u64, TrimError> {
        let Parts { shelf, view, .. } = &self.parts;
        let Some(closed) = view.closing() else { return Ok(0) };
        let ClosingBalance { through, carried, .. } = closed.balance;
        let Held { first, last, .. } = shelf.held().await?;
        if last < through {
            return Err(TrimError::Behind { last, through });
        }
        let left = (through + 1).saturating_sub(first);
        if left > 0 {
            self.carried(carried).await?;
            if let Some(ranges) = self.ranges(through)
                && let (_, Some(range)) = next_range(ranges).await?
            {
                self.read_range(&range, |_| Ok(())).await?;
            }
            shelf.forget(carried.map(|range| range.first)).await?;
            failpoint("audit.forgotten");
            shelf.trim(through + 1).await?;
        }
        Ok(left)
    }

    /// The balance of the next part that may go; none when nothing may.
    async fn close_part(&self, together: Duration) -> Result<Option<ClosingBalance>, TrimError> {
        let Parts { shelf, view, keep, most, .. } = &self.parts;
        let closing = view.closing().map(|closed| closed.balance);
        let after = closing.as_ref().map_or(0, |balance| balance.through);
        let Held { first, last, bytes, max_bytes } = shelf.held().await?;
        let Some(oldest) = shelf.read(first, last).await?.into_iter().next() else { return Ok(None) };
        let Some(newest) = shelf.read(last, last).await?.pop() else { return Ok(None) };
        let nearly_full = bytes > max_bytes / 4 * 3;
        let keep = Keep { usual: shortened("events", keep.usual), ..*keep };
        let before = keep.before(self.now(), newest.stored_at, nearly_full);
        let slack = if nearly_full { together.min(TOGETHER_WHEN_FULL) } else { together };
        if oldest.stored_at.plus(slack) >= before {
            return Ok(None);
        }
        let carried = self.carried(closing.as_ref().and_then(|balance| balance.carried)).await?;
        let mut survey = Survey::new(*most);
        for event in &carried {
            survey.take(0, event)?;
        }
        let Some(cut) = self.survey(&mut survey, after, before).await? else { return Ok(None) };
        self.read_on(&mut survey, &cut, last).await?;
        let (sums, orphans_before, mut unreadable) = match closing {
            Some(ClosingBalance { sums, orphans, unreadable, .. }) => (sums, orphans, unreadable),
            None => Default::default(),
        };
        let seen_until = cut.stored_at.plus(LATE);
        let mut fold = Fold::new(survey, sums, carried, seen_until.minus(SETTLES));
        let mut number = 0;
        for range in &cut.ranges {
            number += 1;
            self.read_range(range, |batch| {
                unreadable += u64::from(!batch.whole);
                batch.events.into_iter().filter_map(about_a_message).for_each(|event| fold.take(event));
                Ok(())
            })
            .await?;
            fold.end_of(number)?;
        }
        let (sums, orphans, carried) = fold.finish(number);
        let named = view.closing().and_then(|closed| closed.balance.carried).map_or(0, |range| range.last);
        let carried = shelf.carry(named, carried).await?;
        failpoint("audit.carried");
        Ok(Some(ClosingBalance {
            through: cut.through,
            stored_s: cut.stored_at.unix_seconds(),
            sums,
            orphans: orphans_before + orphans,
            unreadable,
            carried,
        }))
    }

    /// The ranges from the one on that holds this sequence; none when it is not committed.
    fn ranges(&self, sequence: u64) -> Option<Ranges> {
        let Parts { view, disk, .. } = &self.parts;
        match view.event(sequence) {
            Some((published, EventPlace::Bundle(bundle))) => {
                Some(Ranges::new(Arc::clone(disk), &published, bundle, sequence))
            }
            Some((_, EventPlace::Beyond(_))) | None => None,
        }
    }

    /// Reads ranges as long as they may go and the survey has room.
    async fn survey(
        &self,
        survey: &mut Survey,
        after: u64,
        before: Timestamp,
    ) -> Result<Option<Cut>, TrimError> {
        let Some(mut ranges) = self.ranges(after + 1) else { return Ok(None) };
        let mut cut: Option<Cut> = None;
        let mut number = 1;
        loop {
            let (back, next) = next_range(ranges).await?;
            ranges = back;
            let Some(range) = next else { return Ok(cut) };
            let mut newest = None;
            let read = self.read_range(&range, |batch| {
                newest = Some(batch.stored_at);
                for event in batch.events {
                    match event {
                        LogEvent::Delivery(event) => survey.take(number, &event)?,
                        LogEvent::ParkedReceipt { account, carrier_id, .. } => {
                            survey.take_parked(number, account, carrier_id)?;
                        }
                        LogEvent::OptOut { .. } => {}
                    }
                }
                Ok(())
            });
            match (read.await, cut.as_mut()) {
                (Ok(()), _) => {}
                (Err(TrimError::TooMany(_)), Some(_)) => return Ok(cut),
                (Err(error), _) => return Err(error),
            }
            let Some(stored_at) = newest.filter(|newest| *newest < before) else { return Ok(cut) };
            let through = range.last;
            match &mut cut {
                Some(cut) => {
                    cut.ranges.push(range);
                    (cut.through, cut.stored_at) = (through, stored_at);
                }
                None => cut = Some(Cut { ranges: vec![range], through, stored_at }),
            }
            number += 1;
        }
    }

    /// Tells the survey what comes after the cut.
    async fn read_on(&self, survey: &mut Survey, cut: &Cut, last: u64) -> Result<(), TrimError> {
        let until = cut.stored_at.plus(LATE);
        let at_least = cut.through.saturating_add(LATE_BATCHES);
        let mut from = cut.through + 1;
        while from <= last {
            let batches = self.read(from, last).await?;
            let Some(end) = batches.last().map(|batch| batch.sequence) else { return Ok(()) };
            let late = batches.iter().all(|batch| batch.stored_at > until && batch.sequence > at_least);
            if late {
                return Ok(());
            }
            for batch in batches {
                batch.events.into_iter().filter_map(about_a_message).for_each(|event| survey.beyond(&event));
            }
            from = end + 1;
        }
        Ok(())
    }

    /// Reads some batches and rests for twice as long as that took: traffic comes first.
    async fn read(&self, from: u64, through: u64) -> Result<Vec<StoredEvents>, TrimError> {
        let begun = Instant::now();
        let batches = self.parts.shelf.read(from, through).await?;
        sleep(2 * begun.elapsed()).await;
        Ok(batches)
    }

    /// Reads a range, which must be what the log committed to.
    async fn read_range(
        &self,
        range: &EventRange,
        mut take: impl FnMut(StoredEvents) -> Result<(), TrimError>,
    ) -> Result<(), TrimError> {
        let mut tree = Frontier::new();
        let mut from = range.first;
        while from <= range.last {
            let batches = self.read(from, range.last).await?;
            let Some(end) = batches.last().map(|batch| batch.sequence) else { break };
            for batch in batches {
                tree.push(batch.leaf);
                take(batch)?;
            }
            from = end + 1;
        }
        if tree.size() == range.batches && tree.root() == range.root {
            return Ok(());
        }
        Err(TrimError::Altered { first: range.first, last: range.last })
    }

    /// The events that the newest balance left.
    async fn carried(&self, range: Option<EventRange>) -> Result<Vec<Event>, TrimError> {
        let Some(range) = range else { return Ok(Vec::new()) };
        let batches = self.parts.shelf.carried(range.first, range.last).await?;
        let tree: Frontier = batches.iter().map(|batch| batch.leaf).collect();
        if tree.size() != range.batches || tree.root() != range.root {
            return Err(TrimError::CarriedAltered { first: range.first, last: range.last });
        }
        Ok(batches.into_iter().flat_map(|batch| batch.events).filter_map(about_a_message).collect())
    }

    /// Waits until the balance is durable in the log.
    async fn tell(&self, balance: ClosingBalance) -> Result<(), TrimError> {
        let (done, answer) = oneshot::channel();
        let told = Told { at: 0, acts: Vec::new(), balance: Some(balance), done };
        self.parts.log.send(told).await.map_err(|_ended| TrimError::Ended)?;
        answer.await.map_err(|_ended| TrimError::Ended)
    }
}

fn about_a_message(event: LogEvent) -> Option<Event> {
    match event {
        LogEvent::Delivery(event) => Some(event),
        LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => None,
    }
}

async fn next_range(mut ranges: Ranges) -> Result<(Ranges, Option<EventRange>), TrimError> {
    let read = spawn_blocking(move || {
        let next = ranges.next();
        (ranges, next)
    });
    let (ranges, next) = read.await.map_err(|_panicked| TrimError::Log(LogError::Interrupted))?;
    Ok((ranges, next.transpose().map_err(TrimError::Log)?))
}
