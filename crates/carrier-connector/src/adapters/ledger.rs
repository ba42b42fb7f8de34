//! Claims, ids and early receipts in Redis (docs/adr/0005).
//!
//! What a script touches together shares a hash tag, so that it runs in one place of a cluster. There are two kinds of
//! scope, each with a marker and a rebuild of its own:
//!
//! `sotto:carrier:{s<shard>}:…`, for all accounts together:
//!
//! | key | holds | kept |
//! |---|---|---|
//! | `sent:<message>` | the attempt that passed to intent, or that it is cancelled ([`sotto_core::cancel`]) | to the message's expiry, and a while |
//! | `claim:<message>:<attempt>:<part>` | a [`Claim`](crate::domain::claim::Claim) | to the message's expiry, and a while |
//! | `ready`, `rebuild` | as below | |
//!
//! `sotto:carrier:{a.<account>}:…`:
//!
//! | key | holds | kept |
//! |---|---|---|
//! | `id:<carrier id>` | the part it stands for, or the parts of one submit | the account's `receipt_wait` |
//! | `parked:<carrier id>` | receipts that came before the id was known | an hour, or the account's `receipt_wait` if that is less |
//! | `asks` | by carrier id, when to ask for its receipt (`query_after`) | to the receipt |
//! | `ask:<carrier id>` | the question, sealed | the account's `receipt_wait` |
//! | `open:<mark>` | by a keyed mark of the recipient, submits without an answer | the account's `receipt_wait` |
//! | `open-since:<mark>` | the run of Redis, and since when none of them is missing | |
//! | `ready` | `<run id of this Redis>\|<rebuild>`: without it nothing in the scope can be relied on | |
//! | `rebuild` | who rebuilds | a lease |

mod asks;
mod claims;
mod ids;
mod opens;

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use sotto_core::{AccountId, Classified, ErrorClass, ShardId, Shards};
use sotto_runtime::redis::{self, Cmd, Redis, RedisError, Script, cmd};

pub(crate) use asks::Question;
pub(crate) use claims::{Answer, Ask, CANCELLATIONS, CLAIMS, Claimed, Ended, Fence, Intent, Mark, Parts};
pub(crate) use ids::{Match, Recorded, Tie};

/// Why Redis did not do what was asked. What it did is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// It is away, or refused.
    #[error("Redis did not answer")]
    Redis(#[source] RedisError),
    /// It holds something else than we write there.
    #[error("Redis holds an entry of {0} that cannot be read")]
    Entry(&'static str),
}

impl Classified for LedgerError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Redis(error) => redis::class(error),
            Self::Entry(_) => ErrorClass::Bug,
        }
    }
}

/// What is lost and rebuilt as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// The claims of a shard's messages.
    Shard(ShardId),
    /// The ids and early receipts of an account.
    Account(AccountId),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(shard) => write!(f, "shard-{shard}"),
            Self::Account(account) => write!(f, "account-{account}"),
        }
    }
}

impl Scope {
    fn key(&self, name: &str) -> String {
        match self {
            Self::Shard(shard) => format!("sotto:carrier:{{s{shard}}}:{name}"),
            // The dot keeps an account called s3 apart from shard 3.
            Self::Account(account) => format!("sotto:carrier:{{a.{account}}}:{name}"),
        }
    }
}

/// The connector's part of Redis. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    redis: Redis,
    shards: Shards,
    scripts: Arc<Scripts>,
}

#[derive(Debug)]
struct Scripts {
    claim: Script,
    intend: Script,
    note: Script,
    done: Script,
    release: Script,
    unmark: Script,
    tie: Script,
    receipts: Script,
    ready: Script,
    take: Script,
    lock: Script,
    unlock: Script,
    complete: Script,
    due: Script,
    open: Script,
    opened: Script,
}

/// The store as one account uses it.
#[derive(Debug)]
pub(crate) struct Ledger {
    store: Store,
    account: AccountId,
    receipt_wait: Duration,
}

impl Store {
    pub(crate) fn new(redis: Redis, shards: Shards) -> Self {
        let scripts = Scripts {
            claim: Script::new(include_str!("ledger/claim.lua")),
            intend: Script::new(include_str!("ledger/intend.lua")),
            note: Script::new(include_str!("ledger/note.lua")),
            done: Script::new(include_str!("ledger/done.lua")),
            release: Script::new(include_str!("ledger/release.lua")),
            unmark: Script::new(include_str!("ledger/unmark.lua")),
            tie: Script::new(ids::TIE),
            receipts: Script::new(include_str!("ledger/receipts.lua")),
            ready: Script::new(include_str!("ledger/ready.lua")),
            take: Script::new(include_str!("ledger/take.lua")),
            lock: Script::new(include_str!("ledger/lock.lua")),
            unlock: Script::new(include_str!("ledger/unlock.lua")),
            complete: Script::new(include_str!("ledger/complete.lua")),
            due: Script::new(include_str!("ledger/due.lua")),
            open: Script::new(include_str!("ledger/open.lua")),
            opened: Script::new(include_str!("ledger/opened.lua")),
        };
        Self { redis, shards, scripts: Arc::new(scripts) }
    }

    /// The cell's shards.
    pub(crate) const fn shards(&self) -> Shards {
        self.shards
    }

    /// Whether what a scope holds can be relied on.
    pub(crate) async fn is_ready(&self, scope: &Scope) -> Result<bool, LedgerError> {
        self.mark(scope).await.map(|mark| !mark.is_empty())
    }

    /// Stands for this Redis and what the scope holds; empty if that cannot be relied on.
    async fn mark(&self, scope: &Scope) -> Result<String, LedgerError> {
        let mut call = self.scripts.ready.prepare_invoke();
        call.key(scope.key("ready"));
        call.invoke_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)
    }

    /// Takes the right to rebuild a scope.
    pub(crate) async fn lock(
        &self,
        scope: &Scope,
        token: &str,
        lease: Duration,
    ) -> Result<bool, LedgerError> {
        let mut call = self.scripts.take.prepare_invoke();
        call.key(scope.key("rebuild")).arg(token).arg(millis(lease));
        let taken: i64 = call.invoke_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)?;
        Ok(taken == 1)
    }

    /// Says that nothing in a scope can be relied on: it will be rebuilt from the log. Whoever rebuilds it now may have
    /// read the log too early, and starts over.
    pub(crate) async fn distrust(&self, scope: &Scope) -> Result<(), LedgerError> {
        one("DEL", &scope.key("ready"))
            .arg(scope.key("rebuild"))
            .query_async(&mut self.redis.connection())
            .await
            .map_err(LedgerError::Redis)
    }

    /// Keeps the right to rebuild. False if it was lost, and perhaps Redis with it.
    pub(crate) async fn keep_lock(
        &self,
        scope: &Scope,
        token: &str,
        lease: Duration,
    ) -> Result<bool, LedgerError> {
        let mut call = self.scripts.lock.prepare_invoke();
        call.key(scope.key("rebuild")).arg(token).arg(millis(lease));
        let kept: i64 = call.invoke_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)?;
        Ok(kept == 1)
    }

    /// Gives the right to rebuild back, if it is ours: others need not wait for its end.
    pub(crate) async fn unlock(&self, scope: &Scope, token: &str) -> Result<(), LedgerError> {
        let mut call = self.scripts.unlock.prepare_invoke();
        call.key(scope.key("rebuild")).arg(token);
        call.invoke_async::<()>(&mut self.redis.connection()).await.map_err(LedgerError::Redis)
    }

    /// Declares the rebuilding of a scope complete. False if Redis was lost again meanwhile.
    pub(crate) async fn complete(&self, scope: &Scope, token: &str) -> Result<bool, LedgerError> {
        let mut call = self.scripts.complete.prepare_invoke();
        call.key(scope.key("ready")).key(scope.key("rebuild")).arg(token);
        let done: i64 = call.invoke_async(&mut self.redis.connection()).await.map_err(LedgerError::Redis)?;
        Ok(done == 1)
    }
}

impl Ledger {
    pub(crate) const fn new(store: Store, account: AccountId, receipt_wait: Duration) -> Self {
        Self { store, account, receipt_wait }
    }

    /// Where ends of parts are kept.
    pub(crate) fn scopes_of(&self, ends: &[Ended]) -> BTreeSet<Scope> {
        let shards = ends.iter().map(|ended| Scope::Shard(self.store.shards.of(&ended.part.message)));
        shards.chain([Scope::Account(self.account.clone())]).collect()
    }
}

fn one(name: &str, key: &str) -> Cmd {
    let mut command = cmd(name);
    command.arg(key);
    command
}

fn set(key: &str, value: &str, options: &[&str]) -> Cmd {
    let mut command = one("SET", key);
    command.arg(value).arg(options);
    command
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests;
