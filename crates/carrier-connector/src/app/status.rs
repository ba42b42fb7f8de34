//! An account as people see it.

use std::{sync::Arc, time::Duration};

use sotto_core::{AccountId, Lane, Timestamp};
use sotto_metrics::Label as _;
use tokio::time::Instant;

use super::{account::Account, line::Snapshot};
use crate::{
    domain::course::{Bound, Circumstances},
    ports::{Queue, Queues},
};

/// An account at a moment, as this replica sees it.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// Which.
    pub(crate) account: AccountId,
    /// What bounds it, in one word.
    pub(crate) bound_by: &'static str,
    /// The binds that are up: number, places in use, places.
    pub(crate) binds: Vec<(u16, usize, usize)>,
    /// Binds of the contract.
    pub(crate) contracted: u16,
    /// Parts written in the last second.
    pub(crate) used: usize,
    /// Parts a second that may be written now.
    pub(crate) allowed: usize,
    /// Parts a second of the contract.
    pub(crate) tps: u16,
    /// How long the carrier's wish to slow down lasts.
    pub(crate) paused_for: Duration,
    /// What waits, by lane: batches, and how long ago the oldest was accepted.
    pub(crate) queues: Vec<(Lane, u64, Duration)>,
    /// What the carrier answered.
    pub(crate) answers: Vec<(String, u64)>,
}

/// The accounts at this moment, in their order.
pub(crate) async fn statuses(
    accounts: &[Arc<Account>],
    queues: &dyn Queues,
) -> Result<Vec<Status>, crate::ports::LogError> {
    let mut all = Vec::with_capacity(accounts.len());
    for account in accounts {
        let waiting = queues.of(&account.settings.id).await?;
        all.push(account.status(&waiting));
    }
    Ok(all)
}

impl Account {
    /// What bounds it at this moment.
    pub(crate) fn bound_by(&self) -> Bound {
        let now = Instant::now();
        self.bound(&self.line.snapshot(now), now)
    }

    fn bound(&self, line: &Snapshot, now: Instant) -> Bound {
        let circumstances = Circumstances {
            course: line.course,
            redis: self.shared.reliance.holds(),
            privacy: self.keys_rest().left(now).is_none(),
            bound: !line.binds.is_empty(),
            elsewhere: line.elsewhere,
            throttled: !line.paused_for.is_zero(),
            room: line.room,
            free: line.binds.iter().map(|(_, free)| free).sum(),
        };
        circumstances.bound_by()
    }

    fn status(&self, waiting: &[Queue]) -> Status {
        let now = Instant::now();
        let line = self.line.snapshot(now);
        let at = self.now();
        let age =
            |accepted: Option<Timestamp>| accepted.map(|accepted| at.since(accepted)).unwrap_or_default();
        Status {
            account: self.settings.id.clone(),
            bound_by: self.bound(&line, now).value(),
            binds: line
                .binds
                .iter()
                .map(|(number, free)| (*number, line.window.saturating_sub(*free), line.window))
                .collect(),
            contracted: self.settings.binds,
            used: line.used,
            allowed: line.allowed,
            tps: self.settings.tps,
            paused_for: line.paused_for,
            queues: waiting.iter().map(|queue| (queue.lane, queue.batches, age(queue.oldest))).collect(),
            answers: self.tally.counts(),
        }
    }
}
