//! Redis again from the log (INV-9): claims, ids and early receipts of accounts whose part of Redis was lost.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::StreamExt as _;
use sotto_core::{
    AccountId, Classified, ErrorClass, Timestamp,
    carriers::MessageIdForm,
    delivery::{Event, EventKind, ReceiptState},
};
use sotto_proto::LogEvent;
use sotto_runtime::{Condition, Stop, telemetry::chain};
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};

use super::account::Account;
use crate::{
    adapters::ledger::{LedgerError, Match, Restored},
    domain::{
        carrier_id::CarrierId,
        claim::{Claim, ClaimState, PartEnd, RESTORED},
        receipt::{Said, Submitted},
    },
    ports::{Act, LogError},
};

/// How long the right to rebuild is held without a sign of life.
const LEASE: Duration = Duration::from_secs(30);
/// How often it is looked whether Redis was lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Entries that are put back at a time.
const AT_A_TIME: usize = 1_000;
/// How far back claims matter, and how long restored ones are kept: the longest a message may wait, and a while.
const CLAIMS: Duration = Duration::from_secs(73 * 3600);

/// Why rebuilding did not come to its end. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RebuildError {
    /// The log cannot be read or written.
    #[error("the log is not available")]
    Log(#[source] LogError),
    /// Redis is away.
    #[error("Redis is not available")]
    Ledger(#[source] LedgerError),
    /// Redis was lost again meanwhile, or somebody else took over.
    #[error("Redis was lost again meanwhile")]
    Interrupted,
    /// There is no randomness.
    #[error("no randomness")]
    Random(#[source] sotto_crypto::CryptoError),
}

impl Classified for RebuildError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Log(error) => error.class(),
            Self::Ledger(error) => error.class(),
            Self::Interrupted => ErrorClass::Retry { after: LOOK_EVERY },
            Self::Random(_) => ErrorClass::Bug,
        }
    }
}

/// How far the rebuilding of one account is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) account: AccountId,
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) done: bool,
}

/// Rebuilds what accounts keep in Redis.
#[derive(Debug)]
pub(crate) struct Rebuilder {
    accounts: Vec<Arc<Account>>,
    not_ready: Arc<Notify>,
    /// One at a time in this process; Redis keeps other processes out.
    running: Mutex<()>,
}

/// One account while it is rebuilt.
struct Work<'a> {
    account: &'a Account,
    waiting: Vec<Restored>,
    /// Receipts whose part was found and that the log does not show as matched.
    matches: BTreeSet<(Submitted, Said, CarrierId)>,
    /// Matches that the log shows, since the last entries were put back.
    matched: Vec<(Submitted, ReceiptState)>,
    written: u64,
}

impl Rebuilder {
    pub(crate) fn new(accounts: Vec<Arc<Account>>, not_ready: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { accounts, not_ready, running: Mutex::new(()) })
    }

    /// Watches over Redis until the stop: what was lost is rebuilt. `ready` says whether it can be relied on.
    pub(crate) async fn watch(self: Arc<Self>, ready: Condition, stop: Stop) {
        loop {
            match self.ensure().await {
                Ok(is_ready) => ready.set(is_ready),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "Redis cannot be relied on: nothing is submitted");
                    ready.set(false);
                }
            }
            tokio::select! {
                () = self.not_ready.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.requested() => return,
            }
        }
    }

    /// Rebuilds what is not ready. Returns whether all is ready then; if not, somebody else is at it.
    pub(crate) async fn ensure(&self) -> Result<bool, RebuildError> {
        let _running = self.running.lock().await;
        let mut lost = Vec::new();
        for account in &self.accounts {
            if !account.ledger.is_ready().await.map_err(RebuildError::Ledger)? {
                lost.push(account.as_ref());
            }
        }
        if lost.is_empty() {
            return Ok(true);
        }
        self.rebuild(lost, &mut |_| {}).await
    }

    /// Rebuilds everything, whatever is there, and tells the progress.
    pub(crate) async fn all(&self, tell: &mut (dyn FnMut(Progress) + Send)) -> Result<bool, RebuildError> {
        let _running = self.running.lock().await;
        for account in &self.accounts {
            account.ledger.distrust().await.map_err(RebuildError::Ledger)?;
        }
        self.rebuild(self.accounts.iter().map(AsRef::as_ref).collect(), tell).await
    }

    async fn rebuild(
        &self,
        accounts: Vec<&Account>,
        tell: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<bool, RebuildError> {
        let random = sotto_crypto::random::random_array::<8>().map_err(RebuildError::Random)?;
        let token = format!("{:016x}", u64::from_be_bytes(random));
        let wanted = accounts.len();
        let mut works = Vec::new();
        for account in accounts {
            if account.ledger.lock(&token, LEASE).await.map_err(RebuildError::Ledger)? {
                tracing::warn!(account = %account.settings.id, "Redis is rebuilt from the log");
                works.push(Work {
                    account,
                    waiting: Vec::new(),
                    matches: BTreeSet::new(),
                    matched: Vec::new(),
                    written: 0,
                });
            }
        }
        let Some(first) = works.first() else { return Ok(false) };
        let now = first.account.now();
        let mut history = first.account.shared.log.history().await.map_err(RebuildError::Log)?;
        let mut read = 0;
        let mut flushed_at = Instant::now();
        while let Some(events) = history.next().await {
            for event in events.map_err(RebuildError::Log)? {
                read += 1;
                for work in &mut works {
                    work.note(&event, now);
                }
            }
            let rested = flushed_at.elapsed() > LEASE / 6;
            for work in works.iter_mut().filter(|work| rested || work.waiting.len() >= AT_A_TIME) {
                work.flush(&token).await?;
                tell(work.progress(read, false));
            }
            if rested {
                flushed_at = Instant::now();
            }
        }
        let all = works.len() == wanted;
        for work in &mut works {
            work.flush(&token).await?;
            work.complete(&token).await?;
            tell(work.progress(read, true));
            tracing::info!(account = %work.account.settings.id, read, written = work.written, "Redis is rebuilt");
            work.account.shared.witness.tell(Act::Rebuilt, work.account.settings.id.as_str(), "ok");
        }
        Ok(all)
    }
}

impl Work<'_> {
    fn progress(&self, read: u64, done: bool) -> Progress {
        Progress { account: self.account.settings.id.clone(), read, written: self.written, done }
    }

    /// Notes what an event says about this account's part of Redis.
    fn note(&mut self, event: &LogEvent, now: Timestamp) {
        let (account, wait) = (&self.account.settings.id, self.account.settings.receipt_wait);
        match event {
            LogEvent::ParkedReceipt { at, account: of, carrier_id, state, error } => {
                if of == account
                    && now.since(*at) < wait
                    && let Some(id) = CarrierId::new(MessageIdForm::Opaque, carrier_id)
                {
                    self.waiting.push(Restored::Receipt(id, Said { state: *state, error: error.clone() }));
                }
            }
            LogEvent::Delivery(event) => self.note_delivery(event, now),
        }
    }

    fn note_delivery(&mut self, event: &Event, now: Timestamp) {
        let ours = &self.account.settings.id;
        let (attempt, account, parts, state) = match &event.kind {
            EventKind::Submitting { attempt, account, parts } => {
                (*attempt, account, parts.clone(), ClaimState::Intent)
            }
            EventKind::Submitted { attempt, account, part, carrier_id } => {
                let end = PartEnd::Submitted { carrier_id: carrier_id.clone() };
                (*attempt, account, vec![*part], ClaimState::Ended(end))
            }
            EventKind::Refused { attempt, account, part, status, .. } => {
                (*attempt, account, vec![*part], ClaimState::Ended(PartEnd::Refused { status: *status }))
            }
            EventKind::NoResponse { attempt, account, part } => {
                (*attempt, account, vec![*part], ClaimState::Ended(PartEnd::NoResponse))
            }
            EventKind::Unsent { attempt, account, end, parts } => {
                (*attempt, account, parts.clone(), ClaimState::Ended(PartEnd::Unsent { end: *end }))
            }
            EventKind::Receipt { attempt, account, part, state, .. } => {
                if account == ours {
                    let part = Submitted { message: event.message, attempt: *attempt, part: *part };
                    self.matched.push((part, *state));
                }
                return;
            }
            EventKind::Accepted(_)
            | EventKind::Routed { .. }
            | EventKind::Expired { .. }
            | EventKind::Rejected { .. }
            | EventKind::Cancelled
            | EventKind::ClosedUnknown => return,
        };
        let age = now.since(event.at);
        if account != ours {
            return;
        }
        // An end whose consequences may be missing is drawn again by whoever gets the item again; an intent whose
        // owner is gone is doubt once its time is over.
        let until = if state == ClaimState::Intent { event.at.plus(self.account.lease()) } else { event.at };
        for part in parts {
            let part = Submitted { message: event.message, attempt, part };
            if age < CLAIMS {
                let claim = Claim { token: RESTORED.to_owned(), until, state: state.clone() };
                self.waiting.push(Restored::Claim(part, claim));
            }
            if let ClaimState::Ended(PartEnd::Submitted { carrier_id }) = &state
                && age < self.account.settings.receipt_wait
                && let Some(id) = CarrierId::new(MessageIdForm::Opaque, carrier_id)
            {
                self.waiting.push(Restored::Id(id, part));
            }
        }
    }

    async fn flush(&mut self, token: &str) -> Result<(), RebuildError> {
        let ledger = &self.account.ledger;
        let found = ledger.restore(CLAIMS, &self.waiting).await.map_err(RebuildError::Ledger)?;
        self.written += u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        self.waiting.clear();
        self.matches.extend(found.into_iter().map(|(id, part, said): Match| (part, said, id)));
        if !self.matches.is_empty() {
            let matched = std::mem::take(&mut self.matched);
            self.matches.retain(|(part, said, _)| !matched.contains(&(*part, said.state)));
        }
        self.matched.clear();
        let kept = ledger.keep_lock(token, LEASE).await.map_err(RebuildError::Ledger)?;
        if kept { Ok(()) } else { Err(RebuildError::Interrupted) }
    }

    async fn complete(&mut self, token: &str) -> Result<(), RebuildError> {
        let (mut events, mut ids) = (Vec::new(), Vec::new());
        for (part, said, id) in std::mem::take(&mut self.matches) {
            events.push(LogEvent::Delivery(self.account.receipt(part, said)));
            ids.push(id);
        }
        if !events.is_empty() {
            self.account.shared.log.events(events).await.map_err(RebuildError::Log)?;
            self.account.ledger.unpark(&ids).await.map_err(RebuildError::Ledger)?;
        }
        let done = self.account.ledger.complete(token).await.map_err(RebuildError::Ledger)?;
        if done { Ok(()) } else { Err(RebuildError::Interrupted) }
    }
}
