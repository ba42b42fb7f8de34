//! One carrier account and what it works with.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use sotto_bus::Heard;
use sotto_core::{
    CellId, Clock, Lane, Restored, Timestamp, WorkItem, cancel,
    carriers::Account as Settings,
    delivery::{Event, EventKind},
    restored::Trust,
};
use sotto_crypto::{AeadKey, MacKey};
use sotto_proto::{LogEvent, WorkDelivery};
use sotto_runtime::{failpoint, telemetry::chain};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    inbound::Seals,
    keyring::{KeepKeys, KeyRing},
    line::Line,
    orphans::Orphans,
    reliance::{Reliance, Rest},
    tally::Tally,
};
use crate::{
    adapters::ledger::{Ended, Ledger, LedgerError, Match, Parts, Recorded},
    domain::{
        claim::PartEnd,
        receipt::{Said, Submitted},
        settle::Settled,
    },
    metrics::{AccountMetrics, CarrierMetrics},
    ports::{Keys, Log, LogError, Witness},
};

/// Pause before work is tried again that failed for a passing reason of ours.
pub(super) const PASSING: Duration = Duration::from_secs(1);

/// How often a record is tried again that Redis did not take, and the pause in between.
const RECORD_TRIES: usize = 10;

/// What all accounts of a process share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// The cell.
    pub(crate) cell: CellId,
    /// The wall clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// The log.
    pub(crate) log: Arc<dyn Log>,
    /// Privacy.
    pub(crate) keys: Arc<dyn Keys>,
    /// Audit.
    pub(crate) witness: Arc<dyn Witness>,
    /// Whether Redis can be relied on.
    pub(crate) reliance: Arc<Reliance>,
    /// What operators hold back.
    pub(crate) heard: watch::Receiver<Heard>,
    /// That the cell was put back from a backup.
    pub(crate) restored: Option<Restored>,
    /// Seals questions after parts in Redis.
    pub(crate) query_key: Arc<AeadKey>,
    /// Marks recipients in Redis.
    pub(crate) recipient_key: Arc<MacKey>,
    /// Allowance for clocks, pauses and slow disks.
    pub(crate) skew: Duration,
    /// Bounds of the cache of keys.
    pub(crate) keep_keys: KeepKeys,
    /// What is counted.
    pub(crate) metrics: CarrierMetrics,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("cell", &self.cell).finish_non_exhaustive()
    }
}

/// One carrier account.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) settings: Settings,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) line: Arc<Line>,
    pub(crate) shared: Shared,
    /// What the carrier answered.
    pub(crate) tally: Tally,
    /// What is counted.
    pub(crate) metrics: AccountMetrics,
    pub(super) ring: KeyRing,
    pub(super) seals: tokio::sync::Mutex<Seals>,
    /// Why there was no bind the last time it was tried; none while there is one.
    trouble: Mutex<Option<String>>,
    /// Privacy is left alone while it does not answer.
    keys_rest: Mutex<Rest>,
    /// Receipts whose part has not turned up.
    pub(super) orphans: Mutex<Orphans>,
}

/// Ends of parts, with everything that follows from them.
#[derive(Clone, Debug, Default)]
pub(super) struct Conclusion {
    pub(super) ends: Vec<Ended>,
    pub(super) events: Vec<Event>,
    pub(super) back: Option<WorkDelivery>,
}

impl Conclusion {
    /// The conclusion of an item.
    pub(super) fn of(delivery: WorkDelivery, ends: Vec<Ended>, settled: Settled) -> Self {
        let Settled { events, back } = settled;
        Self { ends, events, back: back.map(|item| WorkDelivery { item, wrap: delivery.wrap }) }
    }
}

/// Why what follows from an end is not known to be stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConcludeError {
    #[error("an end could not be recorded in the log")]
    Log(#[source] LogError),
    #[error("an end could not be recorded in Redis")]
    Ledger(#[source] LedgerError),
}

/// What was not concluded.
struct Unconcluded {
    error: ConcludeError,
    /// All of it, where neither Redis nor the log has it.
    kept_nowhere: Option<Vec<Conclusion>>,
}

impl From<ConcludeError> for Unconcluded {
    /// One of them has it.
    fn from(error: ConcludeError) -> Self {
        Self { error, kept_nowhere: None }
    }
}

impl Account {
    pub(crate) fn new(settings: Settings, ledger: Arc<Ledger>, line: Arc<Line>, shared: Shared) -> Arc<Self> {
        let metrics = shared.metrics.of_account(settings.id.as_str());
        let found = metrics.keys.clone();
        let ring =
            KeyRing::new(Arc::clone(&shared.keys), Arc::clone(&shared.witness), shared.keep_keys, found);
        Arc::new(Self {
            settings,
            ledger,
            line,
            shared,
            tally: Tally::default(),
            metrics,
            trouble: Mutex::default(),
            ring,
            seals: tokio::sync::Mutex::default(),
            keys_rest: Mutex::default(),
            orphans: Mutex::default(),
        })
    }

    pub(super) fn keys_rest(&self) -> MutexGuard<'_, Rest> {
        self.keys_rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why there is no bind.
    pub(crate) fn set_trouble(&self, why: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Why there is none.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resolves when at least one batch can be handled, and says how many. Nothing is taken while Redis cannot be
    /// relied on or privacy does not answer: it would only go back.
    pub(crate) async fn ready(&self, urgent: bool) -> usize {
        loop {
            self.shared.reliance.held().await;
            let left = self.keys_rest().left(Instant::now());
            if let Some(until) = left {
                sleep_until(until).await;
                continue;
            }
            let room = self.line.ready(urgent).await;
            let rest = *self.keys_rest();
            if self.shared.reliance.holds() && rest.left(Instant::now()).is_none() {
                return if rest.is_trial() { 1 } else { room };
            }
        }
    }

    /// How long somebody who prepares or waits for an answer is presumed to be at work.
    pub(super) fn lease(&self) -> Duration {
        self.settings.response_timeout + self.shared.skew
    }

    pub(super) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// What may be done with an item, if the cell was put back from a backup.
    pub(super) fn trust(&self, item: &WorkItem, now: Timestamp) -> Trust {
        self.shared.restored.map_or(Trust::Sure, |restored| {
            let released = self.shared.heard.borrow().controls.released(&restored);
            restored.trust(&item.facts, released, now)
        })
    }

    /// The claims of an item.
    pub(super) fn parts(&self, item: &WorkItem, now: Timestamp) -> Parts {
        Parts {
            message: item.facts.message,
            attempt: item.attempt,
            parts: item.wanted_parts(),
            keep: keep(item, now),
        }
    }

    /// The ends of an item's parts as they are recorded.
    pub(super) fn ended(&self, item: &WorkItem, ends: &[(u8, PartEnd)], now: Timestamp) -> Vec<Ended> {
        let part = |part| Submitted { message: item.facts.message, attempt: item.attempt, part };
        let keep = keep(item, now);
        ends.iter().map(|(number, end)| Ended { part: part(*number), end: end.clone(), keep }).collect()
    }

    /// Stores everything that follows from ends which are already recorded: events, then moves, then the note that
    /// it is done.
    pub(super) async fn conclude(
        &self,
        token: &str,
        conclusions: Vec<Conclusion>,
        recorded: Recorded,
    ) -> Result<(), ConcludeError> {
        let (mut events, mut back, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for conclusion in conclusions {
            events.extend(conclusion.events.into_iter().map(LogEvent::Delivery));
            back.extend(conclusion.back);
            ends.extend(conclusion.ends);
        }
        events.extend(recorded.early.iter().map(|early| self.matched(early)));
        if !events.is_empty() {
            self.shared.log.events(events).await.map_err(ConcludeError::Log)?;
        }
        if !back.is_empty() {
            self.shared.log.back(back).await.map_err(ConcludeError::Log)?;
        }
        // Where Redis does not say that it is noted, it is finished with as if nothing were there.
        if ends.is_empty() {
            return Ok(());
        }
        if recorded.early.is_empty() && self.ledger.done(&recorded, &ends).await.unwrap_or(false) {
            return Ok(());
        }
        self.finish(token, &ends, recorded.early).await
    }

    /// Notes that what follows from ends is stored, and tells the receipts that turn up only now: Redis may have been
    /// lost since the ends were recorded, and rebuilt from a log that did not have them yet.
    async fn finish(&self, token: &str, ends: &[Ended], told: Vec<Match>) -> Result<(), ConcludeError> {
        let found = if ends.iter().any(|ended| ended.carrier_id().is_some()) {
            self.persist(ends, RECORD_TRIES, || self.ledger.finish(token, ends)).await?
        } else {
            // Should the item come again, all of this is done again, and changes nothing.
            let noted = self.ledger.finish(token, ends).await.inspect_err(|error| {
                tracing::debug!(account = %self.settings.id, %error, "an end is not noted as done");
            });
            noted.unwrap_or_default()
        };
        let mut parked: BTreeSet<_> = told.into_iter().collect();
        let new: Vec<_> = found.into_iter().filter(|found| !parked.contains(found)).collect();
        if !new.is_empty() {
            let events = new.iter().map(|new| self.matched(new)).collect();
            self.shared.log.events(events).await.map_err(ConcludeError::Log)?;
            parked.extend(new);
        }
        let parked: Vec<_> = parked.into_iter().collect();
        if let Err(error) = self.ledger.unpark(&parked).await {
            // They go by themselves; told again, they change nothing.
            tracing::debug!(account = %self.settings.id, %error, "receipts that were told stay parked");
        }
        Ok(())
    }

    /// Writes ends to Redis. If it does not take them, it is rebuilt from the log, which has them.
    async fn persist<T, F>(
        &self,
        ends: &[Ended],
        tries: usize,
        write: impl Fn() -> F,
    ) -> Result<T, ConcludeError>
    where
        F: Future<Output = Result<T, LedgerError>>,
    {
        let mut tried = 1;
        loop {
            match write().await {
                Ok(done) => return Ok(done),
                Err(error) if tried >= tries => {
                    self.shared.reliance.leave_behind(self.ledger.scopes_of(ends));
                    return Err(ConcludeError::Ledger(error));
                }
                Err(_) => {
                    tried += 1;
                    sleep(PASSING).await;
                }
            }
        }
    }

    /// Records ends of parts that were, or may have been, written, and stores what follows. The log goes before
    /// Redis where only one of them can be had: from the log, Redis can be rebuilt.
    pub(super) async fn conclude_written(
        &self,
        token: &str,
        conclusions: Vec<Conclusion>,
    ) -> Result<(), ConcludeError> {
        self.offer(token, conclusions).await.map_err(|Unconcluded { error, .. }| error)
    }

    /// The same for what nobody else knows: answers of the carrier. While neither Redis nor the log takes them, they are
    /// kept here and offered again; forgotten, they would be doubt. They are no more than what was on the wire, because
    /// without the two nothing is submitted.
    pub(super) async fn conclude_answers(
        &self,
        token: &str,
        mut conclusions: Vec<Conclusion>,
    ) -> Result<(), ConcludeError> {
        loop {
            match self.offer(token, conclusions).await {
                Ok(()) => return Ok(()),
                Err(Unconcluded { error, kept_nowhere: None }) => return Err(error),
                Err(Unconcluded { error, kept_nowhere: Some(again) }) => {
                    tracing::warn!(account = %self.settings.id, error = chain(&error), answers = again.len(),
                        "answers are kept in memory: neither Redis nor the log takes them");
                    conclusions = again;
                    sleep(PASSING).await;
                }
            }
        }
    }

    async fn offer(&self, token: &str, mut conclusions: Vec<Conclusion>) -> Result<(), Unconcluded> {
        let ends: Vec<_> =
            conclusions.iter().flat_map(|conclusion| conclusion.ends.iter().cloned()).collect();
        match self.ledger.record(token, self.lease(), &ends).await {
            Ok(recorded) => {
                failpoint("carrier.recorded");
                join_all(conclusions.iter().map(|conclusion| self.unmark(conclusion))).await;
                return Ok(self.conclude(token, conclusions, recorded).await?);
            }
            Err(error) => {
                tracing::warn!(account = %self.settings.id, %error, "Redis does not take an end; the log first");
            }
        }
        let all = conclusions.clone();
        // Nothing is noted as done before it was recorded: early receipts would not be looked for.
        conclusions.iter_mut().for_each(|conclusion| conclusion.ends.clear());
        self.conclude(token, conclusions, Recorded::default())
            .await
            .map_err(|error| Unconcluded { error, kept_nowhere: Some(all) })?;
        let recorded =
            self.persist(&ends, RECORD_TRIES, || self.ledger.record(token, self.lease(), &ends)).await?;
        Ok(self.conclude(token, vec![Conclusion { ends, ..Conclusion::default() }], recorded).await?)
    }

    /// A message that goes back to routing with nothing of it at the carrier may be cancelled again.
    async fn unmark(&self, conclusion: &Conclusion) {
        let Some(WorkDelivery { item, .. }) = conclusion.back.as_ref().filter(|back| !back.item.pinned)
        else {
            return;
        };
        if let Err(error) = self.ledger.unmark(&item.facts.message, item.attempt).await {
            tracing::debug!(account = %self.settings.id, %error, "a message that goes back cannot be cancelled");
        }
    }

    /// The event of a receipt that found its part.
    pub(super) fn matched(&self, found: &Match) -> LogEvent {
        LogEvent::Delivery(self.receipt(found.part, found.said.clone()))
    }

    /// The event of a receipt.
    pub(super) fn receipt(&self, part: Submitted, said: Said) -> Event {
        let kind = EventKind::Receipt {
            attempt: part.attempt,
            account: self.settings.id.clone(),
            part: part.part,
            state: said.state,
            error: said.error,
        };
        Event { message: part.message, at: self.now(), kind }
    }

    /// The lane of items, for their place in the queue.
    pub(super) fn lane(items: &[WorkDelivery]) -> Lane {
        items.iter().map(|delivery| delivery.item.facts.lane()).min().unwrap_or(Lane::Promotional)
    }
}

/// How long an item's claims are kept.
fn keep(item: &WorkItem, now: Timestamp) -> Duration {
    cancel::keep(item.facts.expires_at, now)
}
