//! One carrier account and what it works with.

use std::{sync::Arc, time::Duration};

use sotto_core::{
    CellId, Clock, Lane, Timestamp, WorkItem,
    carriers::Account as Settings,
    delivery::{Event, EventKind},
};
use sotto_proto::{LogEvent, WorkDelivery};
use tokio::sync::Notify;

use super::{
    keyring::{KeepKeys, KeyRing},
    line::Line,
};
use crate::{
    adapters::ledger::{Ended, Ledger, LedgerError, Parts},
    domain::{
        claim::PartEnd,
        receipt::{Said, Submitted},
        settle::Settled,
    },
    ports::{Keys, Log, LogError, Witness},
};

/// How long a claim is kept beyond its message's expiry: deliveries that come later are refused by the expiry.
const KEEP_BEYOND: Duration = Duration::from_secs(15 * 60);

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
    /// Told when Redis turns out not to be ready.
    pub(crate) not_ready: Arc<Notify>,
    /// Allowance for clocks, pauses and slow disks.
    pub(crate) skew: Duration,
    /// Bounds of the cache of keys.
    pub(crate) keep_keys: KeepKeys,
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
    pub(super) ring: KeyRing,
}

/// Ends of parts, with everything that follows from them.
#[derive(Debug, Default)]
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

impl Account {
    pub(crate) fn new(settings: Settings, ledger: Arc<Ledger>, line: Arc<Line>, shared: Shared) -> Arc<Self> {
        let ring = KeyRing::new(Arc::clone(&shared.keys), Arc::clone(&shared.witness), shared.keep_keys);
        Arc::new(Self { settings, ledger, line, shared, ring })
    }

    /// How long somebody who prepares or waits for an answer is presumed to be at work.
    pub(super) fn lease(&self) -> Duration {
        self.settings.response_timeout + self.shared.skew
    }

    pub(super) fn now(&self) -> Timestamp {
        self.shared.clock.now()
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
        early: Vec<(Submitted, Said)>,
    ) -> Result<(), ConcludeError> {
        let (mut events, mut back, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for conclusion in conclusions {
            events.extend(conclusion.events.into_iter().map(LogEvent::Delivery));
            back.extend(conclusion.back);
            ends.extend(conclusion.ends);
        }
        events.extend(early.into_iter().map(|(part, said)| LogEvent::Delivery(self.receipt(part, said))));
        if !events.is_empty() {
            self.shared.log.events(events).await.map_err(ConcludeError::Log)?;
        }
        if !back.is_empty() {
            self.shared.log.back(back).await.map_err(ConcludeError::Log)?;
        }
        if !ends.is_empty()
            && let Err(error) = self.ledger.finish(token, &ends).await
        {
            // Should the item come again, all of this is done again, and changes nothing.
            tracing::debug!(account = %self.settings.id, %error, "an end is not noted as done");
        }
        Ok(())
    }

    /// Records ends of parts that were, or may have been, written, and stores what follows. The log goes before
    /// Redis where only one of them can be had: from the log, Redis can be rebuilt.
    pub(super) async fn conclude_written(
        &self,
        token: &str,
        conclusion: Conclusion,
    ) -> Result<(), ConcludeError> {
        let ends = conclusion.ends.clone();
        match self.ledger.record(token, self.lease(), &ends).await {
            Ok(early) => return self.conclude(token, vec![conclusion], early).await,
            Err(error) => {
                tracing::warn!(account = %self.settings.id, %error, "Redis does not take an end; the log first");
            }
        }
        self.conclude(token, vec![conclusion], Vec::new()).await?;
        let mut last = Ok(());
        for _ in 0..RECORD_TRIES {
            tokio::time::sleep(PASSING).await;
            match self.ledger.record(token, self.lease(), &ends).await {
                Ok(early) => return self.conclude(token, Vec::new(), early).await,
                Err(error) => last = Err(ConcludeError::Ledger(error)),
            }
        }
        last
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

    /// Tells that Redis has to be rebuilt.
    pub(super) fn not_ready(&self) {
        self.shared.not_ready.notify_one();
    }

    /// The lane of items, for their place in the queue.
    pub(super) fn lane(items: &[WorkDelivery]) -> Lane {
        items.iter().map(|delivery| delivery.item.facts.lane()).min().unwrap_or(Lane::Promotional)
    }
}

/// How long an item's claims are kept.
fn keep(item: &WorkItem, now: Timestamp) -> Duration {
    item.facts.expires_at.since(now) + KEEP_BEYOND
}
