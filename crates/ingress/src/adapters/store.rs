//! What ingress keeps in Redis: journals, uses of idempotency keys, deadlines, the pace of tenants (INV-9).
//!
//! Every key of a shard has one hash tag, so that a script finds all of them on one node of a cluster. A shard is
//! *ready* when its marker holds the run id of the server: a flush, a restart or a fail-over makes it unready, and every
//! script that decides something looks first.

mod begin;
mod credit;
mod index;
mod missed;
mod recipients;
mod record;
mod save;
mod scripts;
mod shard;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use sotto_core::{Clock, ErrorClass, Facts, MessageId, ShardId, Shards, TenantId, Timestamp, cancel};
use sotto_runtime::redis::{self as client, FromRedisValue, Pipeline, Redis, RedisResult, Value};
use tokio::time::Instant;

use begin::{Beginning, Waiting};
use credit::Credits;
use missed::{Missed, Queue};

pub use record::Version;
pub(crate) use record::acceptance;
pub use save::{Fold, Saved, Write};
use scripts::Scripts;
pub use shard::{Loaded, Rebuild, Restore};

use crate::{
    adapters::breaker::Breaker,
    domain::{
        idempotency::Entry,
        journal::Journal,
        pace::{LocalPace, Pace},
    },
    ports::{Claimed, Claims, Found, Gate, Marks, Records, StoreError},
};

/// After a failure Redis is left alone for so long, and then asked by one: nobody waits for a server that has just not
/// answered.
const REST: Duration = Duration::from_millis(500);

/// Missed journals that are written at a time.
const CATCH_UP: usize = 500;

/// The value of a key whose window was closed: shorter than any entry.
const CLOSED: &[u8] = b"x";

/// How long ended and early journals live, and when silence ends.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// From the end of validity to `expired`.
    pub grace: Duration,
    /// From the last submit to `unknown`.
    pub receipt_wait: Duration,
    /// From the end to forgetting.
    pub keep: Duration,
}

/// Redis as ingress uses it. Clones share everything.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    redis: Redis,
    shards: Shards,
    clock: Arc<dyn Clock>,
    terms: Terms,
    pace: Pace,
    /// The pace of this process while Redis is away, since its start.
    alone: std::sync::Mutex<LocalPace>,
    started: Instant,
    /// The longest that one command may take.
    patience: Duration,
    scripts: Scripts,
    breaker: Breaker,
    /// Journals that could not be begun.
    missed: Queue,
    /// Journals that are being begun.
    beginning: Beginning,
    /// Passes asked for ahead.
    credits: Credits,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("terms", &self.0.terms).finish_non_exhaustive()
    }
}

/// How a store is made.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The connection.
    pub redis: Redis,
    /// The cell's shards.
    pub shards: Shards,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// How long things live.
    pub terms: Terms,
    /// The pace of a tenant in the whole cell.
    pub pace: Pace,
    /// Per cent of it without Redis.
    pub alone: u8,
    /// The longest that one command may take.
    pub patience: Duration,
}

impl Store {
    /// A store; nothing is sent yet.
    pub fn new(options: StoreOptions) -> Self {
        let StoreOptions { redis, shards, clock, terms, pace, alone, patience } = options;
        Self(Arc::new(Inner {
            redis,
            shards,
            clock,
            terms,
            pace,
            alone: std::sync::Mutex::new(LocalPace::new(pace.share(alone))),
            started: Instant::now(),
            patience,
            scripts: Scripts::new(),
            breaker: Breaker::new(REST),
            missed: Queue::default(),
            beginning: Beginning::default(),
            credits: Credits::new(pace),
        }))
    }

    /// What Redis is like now.
    pub async fn condition(&self) -> Answers {
        let mut connection = self.0.redis.connection();
        let mut ask = client::cmd("INFO");
        ask.arg("memory");
        match tokio::time::timeout(self.0.patience, ask.query_async::<String>(&mut connection)).await {
            Ok(Ok(memory)) if evicts(&memory) => Answers::ButEvicts,
            Ok(Ok(_)) => Answers::Well,
            Ok(Err(_)) | Err(_) => Answers::Not,
        }
    }

    /// The shards that lack more than is kept for them: they need the log.
    pub fn behind(&self) -> Vec<ShardId> {
        self.0.missed.behind()
    }

    /// Begins the journals that could not be begun while Redis was away. Returns how many.
    ///
    /// # Errors
    /// When Redis is still away: what was taken up is kept.
    pub async fn catch_up(&self) -> Result<usize, StoreError> {
        let mut begun = 0;
        loop {
            let missed = self.0.missed.some(CATCH_UP);
            if missed.is_empty() {
                return Ok(begun);
            }
            self.begin_now(&missed.iter().collect::<Vec<_>>()).await?;
            self.0.missed.written(&missed);
            begun += missed.len();
        }
    }

    /// Begins journals, those of a shard whole or not at all. Said twice it does no harm.
    async fn begin_now(&self, together: &[&Missed]) -> Result<(), StoreError> {
        let mut shards: BTreeMap<ShardId, Vec<&Missed>> = BTreeMap::new();
        for missed in together {
            shards.entry(self.shard_of(&missed.facts.message)).or_default().push(missed);
        }
        let begun = shards.into_iter().map(|(shard, together)| async move {
            let pipe = self.beginning(shard, &together);
            let mut connection = self.0.redis.connection();
            self.ask(pipe.query_async::<()>(&mut connection)).await
        });
        futures::future::try_join_all(begun).await.map(drop)
    }

    /// The commands that begin journals of a shard.
    fn beginning(&self, shard: ShardId, together: &[&Missed]) -> Pipeline {
        let mut pipe = client::pipe();
        pipe.atomic();
        let mut due = client::cmd("ZADD");
        due.arg(key::due(shard)).arg("NX");
        let mut lists: BTreeMap<&TenantId, client::Cmd> = BTreeMap::new();
        let mut has_due = false;
        for Missed { facts, remembered_until } in together {
            let id = &facts.message;
            if let (Some(entry), Some(until)) = (Entry::of(facts), remembered_until) {
                pipe.cmd("SET").arg(key::entry(shard, id)).arg(entry.encode());
                pipe.arg("PXAT").arg(until.unix_millis()).ignore();
            }
            let journal = Journal::accepted(facts.clone());
            pipe.cmd("SET").arg(key::record(shard, id)).arg(record::encode(&journal, 0)).arg("NX").ignore();
            if let Some(deadline) = self.deadline(&journal) {
                due.arg(deadline.unix_millis()).arg(id.to_string());
                has_due = true;
            }
            let list = lists.entry(&facts.tenant).or_insert_with(|| {
                let mut list = client::cmd("ZADD");
                list.arg(key::list(shard, &facts.tenant));
                list
            });
            list.arg(facts.accepted_at.unix_millis()).arg(id.to_string());
        }
        for command in has_due.then_some(due).into_iter().chain(lists.into_values()) {
            pipe.add_command(command).ignore();
        }
        pipe
    }

    fn shard_of(&self, id: &MessageId) -> ShardId {
        self.0.shards.of(id)
    }

    /// Runs one command or script, within bounds of time.
    async fn ask<T: FromRedisValue>(
        &self,
        command: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        let pass = self.0.breaker.enter(Instant::now()).ok_or(StoreError::Down)?;
        let Ok(answer) = tokio::time::timeout(self.0.patience, command).await else {
            pass.failed(Instant::now());
            return Err(StoreError::Down);
        };
        match answer {
            Ok(answer) => {
                pass.answered();
                Ok(answer)
            }
            Err(error) => match client::class(&error) {
                ErrorClass::Retry { .. } => {
                    pass.failed(Instant::now());
                    Err(StoreError::Down)
                }
                ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
                    pass.answered();
                    // The category only: the server's words may repeat arguments.
                    tracing::error!(kind = ?error.kind(), code = error.code(), "Redis refuses a command");
                    Err(StoreError::Refused)
                }
            },
        }
    }
}

/// What Redis is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// It answers and keeps what it is given.
    Well,
    /// It answers, but throws keys away when its memory is full: a used idempotency key would be free again.
    ButEvicts,
    /// It does not answer.
    Not,
}

/// Whether `INFO memory` says that keys may be thrown away.
fn evicts(memory: &str) -> bool {
    let policy = memory.lines().find_map(|line| line.trim_end().strip_prefix("maxmemory_policy:"));
    policy.is_some_and(|policy| policy != "noeviction")
}

/// Names of keys.
mod key {
    use sotto_core::index::Pseudonym;

    use super::{MessageId, ShardId, TenantId};

    pub(super) fn ready(shard: ShardId) -> String {
        format!("sotto:ingress:{{s{shard}}}:ready")
    }
    pub(super) fn token(shard: ShardId) -> String {
        format!("sotto:ingress:{{s{shard}}}:rebuild")
    }
    pub(super) fn rebuilt(shard: ShardId) -> String {
        format!("sotto:ingress:{{s{shard}}}:rebuilt")
    }
    pub(super) fn due(shard: ShardId) -> String {
        format!("sotto:ingress:{{s{shard}}}:due")
    }
    pub(super) fn list(shard: ShardId, tenant: &TenantId) -> String {
        format!("sotto:ingress:{{s{shard}}}:of:{tenant}")
    }
    pub(super) fn gone(shard: ShardId) -> String {
        format!("sotto:ingress:{{s{shard}}}:gone")
    }
    pub(super) fn record(shard: ShardId, id: &MessageId) -> String {
        format!("sotto:ingress:{{s{shard}}}:m:{id}")
    }
    pub(super) fn entry(shard: ShardId, id: &MessageId) -> String {
        format!("sotto:ingress:{{s{shard}}}:k:{id}")
    }
    pub(super) fn folded(shard: ShardId) -> String {
        format!("sotto:ingress:{{s{shard}}}:folded")
    }
    pub(super) fn recipient(number: &Pseudonym) -> String {
        let [first, ..] = number.0;
        let name = u128::from_be_bytes(number.0);
        // Over the nodes of a cluster.
        format!("sotto:ingress:{{n{first:02x}}}:codes:{name:032x}")
    }
    pub(super) fn pace(tenant: &TenantId) -> String {
        format!("sotto:ingress:{{{tenant}}}:pace")
    }
}

/// `nil`: not ready. Else the value found, or a plain word when there was none.
fn claimed(answer: &Value) -> Result<Claimed, StoreError> {
    if let Value::BulkString(bytes) = answer {
        return match bytes.as_slice() {
            CLOSED => Ok(Claimed::Moved),
            entry => Entry::decode(entry).map(Claimed::Used).ok_or(StoreError::Refused),
        };
    }
    if matches!(answer, Value::Int(_)) {
        return Ok(Claimed::Free);
    }
    Err(if matches!(answer, Value::Nil) { StoreError::Rebuilding } else { StoreError::Refused })
}

impl Claims for Store {
    fn claim<'a>(
        &'a self,
        id: &'a MessageId,
        entry: Entry,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Claimed, StoreError>> {
        Box::pin(async move {
            let shard = self.shard_of(id);
            let mut call = self.0.scripts.claim.prepare_invoke();
            call.key(key::ready(shard)).key(key::entry(shard, id));
            call.arg(entry.encode()).arg(until.unix_millis());
            let mut connection = self.0.redis.connection();
            claimed(&self.ask(call.invoke_async(&mut connection)).await?)
        })
    }

    fn look<'a>(
        &'a self,
        id: &'a MessageId,
        close: Option<Duration>,
    ) -> BoxFuture<'a, Result<Claimed, StoreError>> {
        Box::pin(async move {
            let shard = self.shard_of(id);
            let mut call = self.0.scripts.look.prepare_invoke();
            call.key(key::ready(shard)).key(key::entry(shard, id));
            call.arg(close.map_or(0, |close| u64::try_from(close.as_millis()).unwrap_or(u64::MAX)))
                .arg(CLOSED);
            let mut connection = self.0.redis.connection();
            // A window that was closed before is as free as one that is closed now.
            match claimed(&self.ask(call.invoke_async(&mut connection)).await?)? {
                Claimed::Moved | Claimed::Free => Ok(Claimed::Free),
                Claimed::Used(entry) => Ok(Claimed::Used(entry)),
            }
        })
    }
}

impl Records for Store {
    fn begin<'a>(&'a self, facts: &'a Facts, remembered_until: Option<Timestamp>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let missed = Missed { facts: facts.clone(), remembered_until };
            let Some(lead) = self.0.beginning.enter(missed).await else { return };
            let mut own = false;
            while !own {
                let together = lead.take();
                own = together.is_empty()
                    || together.iter().any(|waiting| waiting.missed.facts.message == facts.message);
                self.begin_all(together).await;
            }
        })
    }

    fn find<'a>(&'a self, id: &'a MessageId) -> BoxFuture<'a, Result<Found, StoreError>> {
        Box::pin(async move {
            let shard = self.shard_of(id);
            // Before Redis is asked: what leaves the queue is in Redis by then.
            let waiting = self.0.missed.get(id);
            let mut call = self.0.scripts.find.prepare_invoke();
            call.key(key::ready(shard)).key(key::record(shard, id)).key(key::entry(shard, id));
            let mut connection = self.0.redis.connection();
            let (ready, record, entry): (bool, Option<Vec<u8>>, Option<Vec<u8>>) =
                self.ask(call.invoke_async(&mut connection)).await?;
            let known = record.and_then(|bytes| record::decode(*id, &bytes)).map(|(_, journal)| journal);
            let journal = known.or_else(|| waiting.or_else(|| self.0.missed.get(id)).map(Journal::accepted));
            Ok(Found {
                journal: journal.map(Box::new),
                entry: entry.and_then(|bytes| Entry::decode(&bytes)),
                whole: ready && !self.0.missed.is_behind(shard),
            })
        })
    }
}

impl Marks for Store {
    fn cancel<'a>(&'a self, id: &'a MessageId, keep: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let shard = self.shard_of(id);
            let mut call = self.0.scripts.cancel.prepare_invoke();
            call.key(cancel::mark_key(shard, id)).arg(cancel::ready_key(shard));
            call.arg(cancel::CANCELLED).arg(u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
            let mut connection = self.0.redis.connection();
            let first: Option<bool> = self.ask(call.invoke_async(&mut connection)).await?;
            first.ok_or(StoreError::Rebuilding)
        })
    }
}

impl Gate for Store {
    fn pass<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<(), Duration>> {
        Box::pin(async move {
            let Some(credit) = self.0.credits.of(tenant) else { return self.pass_of(tenant, 1).await };
            let mut credit = credit.lock().await;
            let now = Instant::now();
            if credit.take(now) {
                return Ok(());
            }
            let wanted = credit.wanted(now, self.0.credits.most());
            let mut passed = self.pass_of(tenant, wanted).await;
            let mut granted = wanted;
            if passed.is_err() && wanted > 1 {
                // There may be room for one.
                (granted, passed) = (1, self.pass_of(tenant, 1).await);
            }
            if passed.is_ok() {
                credit.granted(granted, Instant::now());
            }
            passed
        })
    }
}

impl Store {
    /// Begins journals; what Redis does not take is kept for later.
    async fn begin_all(&self, together: Vec<Waiting>) {
        let begun = self.begin_now(&together.iter().map(|waiting| &waiting.missed).collect::<Vec<_>>()).await;
        for waiting in together {
            if begun.is_err() {
                let missed = &waiting.missed;
                self.0.missed.keep(self.shard_of(&missed.facts.message), missed.clone());
            }
            waiting.done();
        }
    }

    /// Asks the cell's pace of a tenant for so many passes at once; without Redis this process's own, for one.
    async fn pass_of(&self, tenant: &TenantId, passes: u32) -> Result<(), Duration> {
        let interval = self.0.pace.interval_us().saturating_mul(u64::from(passes));
        let mut call = self.0.scripts.pace.prepare_invoke();
        call.key(key::pace(tenant)).arg(interval).arg(self.0.pace.tolerance_us());
        let mut connection = self.0.redis.connection();
        match self.ask::<u64>(call.invoke_async(&mut connection)).await {
            Ok(0) => Ok(()),
            Ok(wait_us) => Err(Duration::from_micros(wait_us)),
            Err(StoreError::Rebuilding | StoreError::Down | StoreError::Refused) if passes > 1 => {
                Err(Duration::ZERO)
            }
            Err(StoreError::Rebuilding | StoreError::Down | StoreError::Refused) => {
                let mut alone = self.0.alone.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                alone.take(tenant, self.0.started.elapsed())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_redis_that_keeps_everything_is_well() {
        assert!(!evicts("# Memory\r\nused_memory:1\r\nmaxmemory_policy:noeviction\r\nmem_allocator:x\r\n"));
        assert!(evicts("maxmemory:1\r\nmaxmemory_policy:allkeys-lru\r\n"));
        assert!(!evicts(""));
    }
}
