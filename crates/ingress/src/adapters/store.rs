//! What ingress keeps in Redis: journals, uses of idempotency keys, deadlines, the pace of tenants (INV-9).
//!
//! Every key of a shard has one hash tag, so that a script finds all of them on one node of a cluster. A shard is
//! *ready* when its marker holds the run id of the server: a flush, a restart or a fail-over makes it unready, and every
//! script that decides something looks first.

mod record;
mod scripts;
mod shard;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use sotto_core::{Clock, ErrorClass, Facts, MessageId, ShardId, Shards, TenantId, Timestamp};
use sotto_runtime::redis::{self as client, FromRedisValue, Redis, RedisError, RedisResult, Value};

pub use record::Version;
pub(crate) use record::acceptance;
use scripts::Scripts;
pub use shard::{Restore, Saved, Write};

use crate::{
    domain::{
        idempotency::Entry,
        journal::Journal,
        pace::{LocalPace, Pace},
    },
    ports::{Claimed, Claims, Found, Gate, Records, StoreError},
};

/// After a failure Redis is left alone for so long: nobody waits for a server that has just not answered.
const REST: Duration = Duration::from_millis(500);

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
    /// The pace of this process while Redis is away.
    alone: std::sync::Mutex<LocalPace>,
    /// The longest that one command may take.
    patience: Duration,
    scripts: Scripts,
    /// Until when Redis is left alone, unix milliseconds.
    resting_until: AtomicI64,
    /// Shards whose journals could not be begun: they are rebuilt when Redis is back.
    behind: Vec<AtomicBool>,
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
            patience,
            scripts: Scripts::new(),
            resting_until: AtomicI64::new(0),
            behind: shards.iter().map(|_| AtomicBool::new(false)).collect(),
        }))
    }

    /// Whether Redis answers.
    pub async fn answers(&self) -> bool {
        let ping = tokio::time::timeout(self.0.patience, self.0.redis.ping()).await;
        matches!(ping, Ok(Ok(())))
    }

    /// The shards that lack journals because Redis was away when they were to begin.
    pub fn behind(&self) -> Vec<ShardId> {
        let behind = |shard: &ShardId| {
            self.0.behind.get(usize::from(shard.get())).is_some_and(|behind| behind.load(Ordering::Acquire))
        };
        self.0.shards.iter().filter(behind).collect()
    }

    fn set_behind(&self, shard: ShardId, behind: bool) {
        if let Some(flag) = self.0.behind.get(usize::from(shard.get())) {
            flag.store(behind, Ordering::Release);
        }
    }

    fn shard_of(&self, id: &MessageId) -> ShardId {
        self.0.shards.of(id)
    }

    /// Runs one command or script, within bounds of time.
    async fn ask<T: FromRedisValue>(
        &self,
        command: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, StoreError> {
        let now = self.0.clock.now().unix_millis();
        let until = self.0.resting_until.load(Ordering::Relaxed);
        // A clock set back must not make the rest longer.
        if now < until && until - now <= i64::try_from(REST.as_millis()).unwrap_or(i64::MAX) {
            return Err(StoreError::Down);
        }
        match tokio::time::timeout(self.0.patience, command).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => {
                self.rest();
                Err(StoreError::Down)
            }
        }
    }

    fn failed(&self, error: &RedisError) -> StoreError {
        match client::class(error) {
            ErrorClass::Retry { .. } => {
                self.rest();
                StoreError::Down
            }
            ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
                // The category only: the server's words may repeat arguments.
                tracing::error!(kind = ?error.kind(), code = error.code(), "Redis refuses a command");
                StoreError::Refused
            }
        }
    }

    fn rest(&self) {
        let until = self.0.clock.now().plus(REST).unix_millis();
        self.0.resting_until.store(until, Ordering::Relaxed);
    }
}

/// Names of keys.
mod key {
    use super::{MessageId, ShardId, TenantId};

    pub(super) fn ready(shard: ShardId) -> String {
        format!("sotto:ingress:{{s{shard}}}:ready")
    }
    pub(super) fn token(shard: ShardId, run: &str) -> String {
        format!("sotto:ingress:{{s{shard}}}:rebuild:{run}")
    }
    pub(super) fn due(shard: ShardId) -> String {
        format!("sotto:ingress:{{s{shard}}}:due")
    }
    pub(super) fn record(shard: ShardId, id: &MessageId) -> String {
        format!("sotto:ingress:{{s{shard}}}:m:{id}")
    }
    pub(super) fn entry(shard: ShardId, id: &MessageId) -> String {
        format!("sotto:ingress:{{s{shard}}}:k:{id}")
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
            call.arg(entry.encode().as_slice()).arg(until.unix_millis());
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

    fn settle<'a>(&'a self, id: &'a MessageId, entry: Entry, until: Timestamp) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let shard = self.shard_of(id);
            let mut set = client::cmd("SET");
            set.arg(key::entry(shard, id))
                .arg(entry.encode().as_slice())
                .arg("PXAT")
                .arg(until.unix_millis());
            let mut connection = self.0.redis.connection();
            if self.ask(set.query_async::<()>(&mut connection)).await.is_err() {
                // The next use of the key publishes again under the same id, which changes nothing downstream.
                self.set_behind(shard, true);
            }
        })
    }
}

impl Records for Store {
    fn begin<'a>(&'a self, facts: &'a Facts) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let shard = self.shard_of(&facts.message);
            let journal = Journal::accepted(facts.clone());
            let (value, deadline) = (record::encode(&journal, 0), self.deadline(&journal));
            let mut pipe = client::pipe();
            pipe.cmd("SET").arg(key::record(shard, &facts.message)).arg(value).arg("NX").ignore();
            if let Some(deadline) = deadline {
                let id = facts.message.to_string();
                pipe.cmd("ZADD").arg(key::due(shard)).arg("NX").arg(deadline.unix_millis()).arg(id).ignore();
            }
            let mut connection = self.0.redis.connection();
            if self.ask(pipe.query_async::<()>(&mut connection)).await.is_err() {
                self.set_behind(shard, true);
            }
        })
    }

    fn find<'a>(&'a self, id: &'a MessageId) -> BoxFuture<'a, Result<Found, StoreError>> {
        Box::pin(async move {
            let shard = self.shard_of(id);
            let mut call = self.0.scripts.find.prepare_invoke();
            call.key(key::ready(shard)).key(key::record(shard, id)).key(key::entry(shard, id));
            let mut connection = self.0.redis.connection();
            let (ready, record, used): (bool, Option<Vec<u8>>, bool) =
                self.ask(call.invoke_async(&mut connection)).await?;
            let known = record.and_then(|bytes| record::decode(*id, &bytes));
            Ok(match known {
                Some((_, journal)) => Found::Known(Box::new(journal)),
                None if used || !ready || self.behind().contains(&shard) => Found::NotYet,
                None => Found::Unknown,
            })
        })
    }
}

impl Gate for Store {
    fn pass<'a>(&'a self, tenant: &'a TenantId) -> BoxFuture<'a, Result<(), Duration>> {
        Box::pin(async move {
            let mut call = self.0.scripts.pace.prepare_invoke();
            call.key(key::pace(tenant)).arg(self.0.pace.interval_us()).arg(self.0.pace.tolerance_us());
            let mut connection = self.0.redis.connection();
            match self.ask::<u64>(call.invoke_async(&mut connection)).await {
                Ok(0) => Ok(()),
                Ok(wait_us) => Err(Duration::from_micros(wait_us)),
                Err(StoreError::Rebuilding | StoreError::Down | StoreError::Refused) => {
                    let now = self.0.clock.now();
                    let mut alone = self.0.alone.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    alone.take(tenant, now)
                }
            }
        })
    }
}
