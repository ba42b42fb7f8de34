//! Redis again from the log (INV-9): the claims of shards, the ids and early receipts of accounts. One reading of the
//! log serves all that was lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, future::try_join_all};
use sotto_core::{
    AccountId, Classified, ErrorClass, MessageId, ShardId, Timestamp,
    carriers::RESPONSE_TIMEOUT_MAX,
    delivery::{Event, EventKind, ReceiptState},
};
use sotto_proto::LogEvent;
use sotto_runtime::{Condition, Stop, telemetry::chain};
use tokio::{sync::Mutex, time::Instant};

use super::account::{Account, Shared};
use crate::{
    adapters::ledger::{CANCELLATIONS, CLAIMS, LedgerError, Mark, Match, Scope, Store, Tie},
    domain::{
        carrier_id::CarrierId,
        claim::{Claim, ClaimState, PartEnd},
        receipt::{Said, Submitted},
    },
    ports::{Act, LogError},
};

/// How long the right to rebuild is held without a sign of life.
const LEASE: Duration = Duration::from_secs(10);
/// How often it is looked whether Redis was lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Entries that are put back at a time.
const AT_A_TIME: usize = 1_000;

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

/// How far the rebuilding of one scope is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) scope: Scope,
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) done: bool,
}

/// Hears how far a rebuilding is.
pub(crate) type Tell<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// Rebuilds what the connector keeps in Redis.
#[derive(Debug)]
pub(crate) struct Rebuilder {
    store: Store,
    shared: Shared,
    accounts: BTreeMap<AccountId, Arc<Account>>,
    /// One at a time in this process; Redis keeps other processes out.
    running: Mutex<()>,
}

impl Rebuilder {
    pub(crate) fn new(store: Store, shared: Shared, accounts: &[Arc<Account>]) -> Arc<Self> {
        let accounts = accounts.iter().map(|account| (account.settings.id.clone(), Arc::clone(account)));
        Arc::new(Self { store, shared, accounts: accounts.collect(), running: Mutex::new(()) })
    }

    /// Watches over Redis until the stop: what was lost is rebuilt. `ready` says whether it can be relied on.
    pub(crate) async fn watch(self: Arc<Self>, ready: Condition, stop: Stop) {
        loop {
            let holds = match self.ensure().await {
                Ok(holds) => holds,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "Redis cannot be relied on: nothing is submitted");
                    false
                }
            };
            ready.set(holds);
            self.shared.reliance.found(holds);
            tokio::select! {
                () = self.shared.reliance.doubted() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.requested() => return,
            }
        }
    }

    fn scopes(&self) -> Vec<Scope> {
        let shards = self.store.shards().iter().map(Scope::Shard);
        shards.chain(self.accounts.keys().cloned().map(Scope::Account)).collect()
    }

    /// Rebuilds what is not ready. Returns whether all is ready then; if not, somebody else is at it.
    pub(crate) async fn ensure(&self) -> Result<bool, RebuildError> {
        let _running = self.running.lock().await;
        let behind = self.shared.reliance.behind();
        if let Err(error) = self.distrust(behind.iter().cloned().collect()).await {
            self.shared.reliance.leave_behind(behind);
            return Err(error);
        }
        let looks = self.scopes().into_iter().map(async |scope| {
            let ready = self.store.is_ready(&scope).await.map_err(RebuildError::Ledger)?;
            Ok((!ready).then_some(scope))
        });
        let lost: Vec<_> = try_join_all(looks).await?.into_iter().flatten().collect();
        if lost.is_empty() { Ok(true) } else { self.rebuild(lost, &mut |_| {}).await }
    }

    /// Rebuilds everything, whatever is there, and tells the progress.
    pub(crate) async fn all(&self, tell: Tell<'_>) -> Result<bool, RebuildError> {
        let _running = self.running.lock().await;
        self.distrust(self.scopes()).await?;
        self.rebuild(self.scopes(), tell).await
    }

    async fn distrust(&self, scopes: Vec<Scope>) -> Result<(), RebuildError> {
        let all = scopes.iter().map(|scope| self.store.distrust(scope));
        try_join_all(all).await.map(drop).map_err(RebuildError::Ledger)
    }

    async fn rebuild(&self, scopes: Vec<Scope>, tell: Tell<'_>) -> Result<bool, RebuildError> {
        let random = sotto_crypto::random::random_array::<8>().map_err(RebuildError::Random)?;
        let token = format!("{:016x}", u64::from_be_bytes(random));
        let wanted = scopes.len();
        let mut work = Work::new(self, self.shared.clock.now());
        for scope in scopes {
            match self.store.lock(&scope, &token, LEASE).await {
                Ok(true) => work.take(scope),
                Ok(false) => {}
                Err(error) => {
                    self.unlock(&work.scopes(), &token).await;
                    return Err(RebuildError::Ledger(error));
                }
            }
        }
        let taken = work.shards.len() + work.accounts.len();
        if taken == 0 {
            return Ok(false);
        }
        tracing::warn!(scopes = taken, "Redis is rebuilt from the log");
        let held = work.scopes();
        let done = self.replay(work, &token, tell).await;
        if done.is_err() {
            self.unlock(&held, &token).await;
        }
        done.map(|()| taken == wanted)
    }

    /// Lets others rebuild at once.
    async fn unlock(&self, scopes: &[Scope], token: &str) {
        let unlocks = scopes.iter().map(|scope| self.store.unlock(scope, token));
        if let Err(error) = try_join_all(unlocks).await {
            tracing::debug!(%error, "the right to rebuild ends by itself");
        }
    }

    async fn replay(&self, mut work: Work<'_>, token: &str, tell: Tell<'_>) -> Result<(), RebuildError> {
        let mut history = self.shared.log.history().await.map_err(RebuildError::Log)?;
        let mut flushed_at = Instant::now();
        while let Some(events) = history.next().await {
            for event in events.map_err(RebuildError::Log)? {
                work.read += 1;
                work.note(event);
            }
            let rested = flushed_at.elapsed() > LEASE / 5;
            work.flush(token, rested, tell).await?;
            if rested {
                flushed_at = Instant::now();
            }
        }
        work.complete(token, tell).await
    }
}

/// A rebuilding under way.
struct Work<'a> {
    rebuilder: &'a Rebuilder,
    now: Timestamp,
    read: u64,
    shards: BTreeMap<ShardId, Claims>,
    accounts: BTreeMap<AccountId, Ties<'a>>,
}

/// The claims of one shard.
#[derive(Default)]
struct Claims {
    waiting: Vec<(Submitted, Claim)>,
    marks: Vec<(MessageId, Mark)>,
    written: u64,
}

/// The ids and early receipts of one account.
struct Ties<'a> {
    account: &'a Account,
    waiting: Vec<Tie>,
    /// Receipts whose part was found and that the log does not show as matched.
    matches: BTreeSet<Match>,
    /// Matches that the log shows, since the last entries were put back.
    matched: Vec<(Submitted, ReceiptState)>,
    written: u64,
}

impl<'a> Work<'a> {
    const fn new(rebuilder: &'a Rebuilder, now: Timestamp) -> Self {
        Self { rebuilder, now, read: 0, shards: BTreeMap::new(), accounts: BTreeMap::new() }
    }

    fn scopes(&self) -> Vec<Scope> {
        let shards = self.shards.keys().copied().map(Scope::Shard);
        shards.chain(self.accounts.keys().cloned().map(Scope::Account)).collect()
    }

    fn take(&mut self, scope: Scope) {
        match scope {
            Scope::Shard(shard) => {
                self.shards.insert(shard, Claims::default());
            }
            Scope::Account(id) => {
                if let Some(account) = self.rebuilder.accounts.get(&id) {
                    self.accounts.insert(id, Ties::new(account));
                }
            }
        }
    }

    fn note(&mut self, event: LogEvent) {
        match event {
            LogEvent::ParkedReceipt { at, account, carrier_id, state, error } => {
                if let Some(ties) = self.accounts.get_mut(&account)
                    && self.now.since(at) < ties.account.settings.receipt_wait
                    && let Some(id) = CarrierId::canonical(&carrier_id)
                {
                    ties.waiting.push(Tie::Receipt(id, Said { state, error }));
                }
            }
            LogEvent::Delivery(event) => self.note_delivery(event),
            LogEvent::OptOut { .. } => {}
        }
    }

    fn note_delivery(&mut self, event: Event) {
        let Event { message, at, kind } = event;
        let (attempt, account, parts, state) = match kind {
            EventKind::Submitting { attempt, account, parts } => {
                self.note_mark(message, Mark::Handed { attempt }, CLAIMS, at);
                (attempt, account, parts, ClaimState::Intent)
            }
            EventKind::Submitted { attempt, account, part, carrier_id } => {
                let end = PartEnd::Submitted { carrier_id };
                self.note_id(&account, Submitted { message, attempt, part }, &end, at);
                (attempt, account, vec![part], ClaimState::Ended(end))
            }
            EventKind::Refused { attempt, account, part, status, .. } => {
                (attempt, account, vec![part], ClaimState::Ended(PartEnd::Refused { status }))
            }
            EventKind::NoResponse { attempt, account, part } => {
                (attempt, account, vec![part], ClaimState::Ended(PartEnd::NoResponse))
            }
            EventKind::Unsent { attempt, account, end, parts } => {
                (attempt, account, parts, ClaimState::Ended(PartEnd::Unsent { end }))
            }
            EventKind::Receipt { attempt, account, part, state, .. } => {
                if let Some(ties) = self.accounts.get_mut(&account) {
                    ties.matched.push((Submitted { message, attempt, part }, state));
                }
                return;
            }
            EventKind::Cancelled => {
                let keep = CANCELLATIONS.saturating_sub(self.now.since(at));
                self.note_mark(message, Mark::Cancelled { keep }, CANCELLATIONS, at);
                return;
            }
            EventKind::Accepted(_)
            | EventKind::Routed { .. }
            | EventKind::Expired { .. }
            | EventKind::Rejected { .. }
            | EventKind::ClosedUnknown
            | EventKind::Doubted => return,
        };
        self.note_claims(message, attempt, &account, &parts, &state, at);
    }

    fn note_mark(&mut self, message: MessageId, mark: Mark, within: Duration, at: Timestamp) {
        if let Some(claims) = self.shards.get_mut(&self.rebuilder.store.shards().of(&message))
            && self.now.since(at) < within
        {
            claims.marks.push((message, mark));
        }
    }

    /// Claims of every account, also of those that this process does not serve: an attempt may wait at two.
    fn note_claims(
        &mut self,
        message: MessageId,
        attempt: u16,
        account: &AccountId,
        parts: &[u8],
        state: &ClaimState,
        at: Timestamp,
    ) {
        let Some(claims) = self.shards.get_mut(&self.rebuilder.store.shards().of(&message)) else { return };
        if self.now.since(at) >= CLAIMS {
            return;
        }
        // The fence tells one's own restored intent by this time (docs/adr/0005).
        // An end whose consequences may be missing is drawn again by whoever gets the item again; an intent whose
        // owner is gone is doubt once its time is over.
        let until = if *state == ClaimState::Intent {
            let lease = self.rebuilder.accounts.get(account).map(|account| account.lease());
            at.plus(lease.unwrap_or(RESPONSE_TIMEOUT_MAX + self.rebuilder.shared.skew))
        } else {
            at
        };
        for part in parts {
            let claim = Claim { token: Claim::restored_by(account), until, state: state.clone() };
            claims.waiting.push((Submitted { message, attempt, part: *part }, claim));
        }
    }

    fn note_id(&mut self, account: &AccountId, part: Submitted, end: &PartEnd, at: Timestamp) {
        let PartEnd::Submitted { carrier_id } = end else { return };
        if let Some(ties) = self.accounts.get_mut(account)
            && self.now.since(at) < ties.account.settings.receipt_wait
            && let Some(id) = CarrierId::canonical(carrier_id)
        {
            ties.waiting.push(Tie::Id(id, part));
        }
    }

    /// Puts back what has gathered: of scopes that have much, or of all.
    async fn flush(&mut self, token: &str, all: bool, tell: Tell<'_>) -> Result<(), RebuildError> {
        let Self { rebuilder, read, shards, accounts, .. } = self;
        let read = *read;
        for (shard, claims) in shards.iter_mut().filter(|(_, it)| all || it.is_full()) {
            claims.flush(rebuilder, *shard, token).await?;
            tell(Progress { scope: Scope::Shard(*shard), read, written: claims.written, done: false });
        }
        for (id, ties) in accounts.iter_mut().filter(|(_, it)| all || it.waiting.len() >= AT_A_TIME) {
            ties.flush(rebuilder, token).await?;
            tell(Progress { scope: Scope::Account(id.clone()), read, written: ties.written, done: false });
        }
        Ok(())
    }

    async fn complete(mut self, token: &str, tell: Tell<'_>) -> Result<(), RebuildError> {
        self.flush(token, true, tell).await?;
        let Self { rebuilder, read, shards, accounts, .. } = self;
        let mut done = Vec::new();
        for (shard, claims) in shards {
            done.push((Scope::Shard(shard), claims.written));
        }
        for (id, ties) in accounts {
            let written = ties.written;
            ties.tell_matches().await?;
            done.push((Scope::Account(id), written));
        }
        for (scope, written) in done {
            if !rebuilder.store.complete(&scope, token).await.map_err(RebuildError::Ledger)? {
                return Err(RebuildError::Interrupted);
            }
            tracing::info!(%scope, read, written, "Redis is rebuilt");
            rebuilder.shared.witness.tell(Act::Rebuilt, &scope.to_string(), "ok");
            tell(Progress { scope, read, written, done: true });
        }
        Ok(())
    }
}

/// Keeps the right to rebuild a scope, or stops rebuilding.
async fn keep(rebuilder: &Rebuilder, scope: &Scope, token: &str) -> Result<(), RebuildError> {
    let kept = rebuilder.store.keep_lock(scope, token, LEASE).await.map_err(RebuildError::Ledger)?;
    if kept { Ok(()) } else { Err(RebuildError::Interrupted) }
}

impl Claims {
    const fn is_full(&self) -> bool {
        self.waiting.len() >= AT_A_TIME || self.marks.len() >= AT_A_TIME
    }

    async fn flush(
        &mut self,
        rebuilder: &Rebuilder,
        shard: ShardId,
        token: &str,
    ) -> Result<(), RebuildError> {
        let (waiting, marks) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.marks));
        for some in marks.chunks(AT_A_TIME) {
            rebuilder.store.restore_marks(some).await.map_err(RebuildError::Ledger)?;
        }
        for some in waiting.chunks(AT_A_TIME) {
            rebuilder.store.restore_claims(CLAIMS, some).await.map_err(RebuildError::Ledger)?;
            self.written += u64::try_from(some.len()).unwrap_or(u64::MAX);
        }
        keep(rebuilder, &Scope::Shard(shard), token).await
    }
}

impl<'a> Ties<'a> {
    const fn new(account: &'a Account) -> Self {
        Self { account, waiting: Vec::new(), matches: BTreeSet::new(), matched: Vec::new(), written: 0 }
    }

    async fn flush(&mut self, rebuilder: &Rebuilder, token: &str) -> Result<(), RebuildError> {
        let waiting = std::mem::take(&mut self.waiting);
        for some in waiting.chunks(AT_A_TIME) {
            let found = self.account.ledger.restore_ties(some).await.map_err(RebuildError::Ledger)?;
            self.written += u64::try_from(some.len()).unwrap_or(u64::MAX);
            self.matches.extend(found);
        }
        if !self.matches.is_empty() {
            let matched = std::mem::take(&mut self.matched);
            self.matches.retain(|found| !matched.contains(&(found.part, found.said.state)));
        }
        self.matched.clear();
        keep(rebuilder, &Scope::Account(self.account.settings.id.clone()), token).await
    }

    /// Tells the matches that the log does not show.
    async fn tell_matches(self) -> Result<(), RebuildError> {
        let matches: Vec<_> = self.matches.into_iter().collect();
        if matches.is_empty() {
            return Ok(());
        }
        let events = matches.iter().map(|found| self.account.matched(found)).collect();
        self.account.shared.log.events(events).await.map_err(RebuildError::Log)?;
        self.account.ledger.unpark(&matches).await.map_err(RebuildError::Ledger)
    }
}

#[cfg(test)]
mod tests;
