//! The projection's side of the store: whole batches, whole shards.

use std::time::Duration;

use sotto_core::{MessageId, ShardId, Timestamp};
use sotto_runtime::redis::{self as client, ScriptInvocation};

use super::{Store, Version, index, key, record};
use crate::{
    domain::{idempotency::Entry, journal::Journal},
    ports::StoreError,
};

/// Records that one script reads or writes.
const AT_A_TIME: usize = 500;

/// How long events wait for their acceptance. It follows within seconds; only what was never accepted waits so long.
const EARLY: Duration = Duration::from_secs(3600);

/// How long a rebuild may be silent before another process takes it over.
const REBUILD: Duration = Duration::from_secs(10);

/// How long it is remembered how far a rebuild came that nobody has ended.
const REBUILT: Duration = Duration::from_secs(3600);

/// Journals as they were read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// How far the projection of the shard has come, whichever process runs it.
    pub folded: u64,
    /// Each journal and the sequence that changed it last; `None`: nothing is known.
    pub journals: Vec<Option<(Version, Journal)>>,
}

/// A journal off the log. One whose time is over is removed.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The last sequence that changed it.
    pub version: Version,
    /// The journal.
    pub journal: Journal,
}

/// A rebuild of a shard under way.
#[derive(Clone, Debug)]
pub struct Rebuild {
    shard: ShardId,
    run: String,
    process: String,
    done: u64,
}

impl Rebuild {
    /// Which shard.
    pub const fn shard(&self) -> ShardId {
        self.shard
    }

    /// How far an earlier one came that nobody has ended: all of EVENTS up to this sequence is in this Redis.
    pub const fn done(&self) -> u64 {
        self.done
    }
}

impl Store {
    /// When silence about a message ends.
    pub fn deadline(&self, journal: &Journal) -> Option<Timestamp> {
        journal.delivery()?.deadline(self.0.terms.grace, self.0.terms.receipt_wait)
    }

    /// How long a journal lives from now, in milliseconds; 0 is for ever, `None` when its time is over.
    pub(super) fn ttl(&self, journal: &Journal) -> Option<u64> {
        if journal.delivery().is_none() {
            return Some(millis(EARLY));
        }
        let Some(ended_at) = journal.ended_at() else { return Some(0) };
        let left = ended_at.plus(self.0.terms.keep).since(self.0.clock.now());
        Some(millis(left)).filter(|left| *left > 0)
    }

    /// Whether a journal off the log is still worth writing. One without acceptance is: it may come in the next window.
    pub fn is_kept(&self, journal: &Journal) -> bool {
        self.ttl(journal).is_some()
    }

    /// Reads journals of one shard while it is being rebuilt, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_unready(
        &self,
        shard: ShardId,
        ids: &[MessageId],
    ) -> Result<Vec<Option<(Version, Journal)>>, StoreError> {
        let mut journals = Vec::with_capacity(ids.len());
        for ids in ids.chunks(AT_A_TIME) {
            let mut read = client::cmd("MGET");
            for id in ids {
                read.arg(key::record(shard, id));
            }
            let mut connection = self.0.redis.connection();
            let records: Vec<Option<Vec<u8>>> = self.ask(read.query_async(&mut connection)).await?;
            for (id, bytes) in ids.iter().zip(records) {
                journals.push(bytes.and_then(|bytes| record::decode(*id, &bytes)));
            }
        }
        Ok(journals)
    }

    /// Reads the journals of messages of one shard, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load(&self, shard: ShardId, ids: &[MessageId]) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded { folded: 0, journals: Vec::with_capacity(ids.len()) };
        // Also without any, to tell how far it is.
        let mut chunks = ids.chunks(AT_A_TIME);
        let mut chunk = chunks.next().unwrap_or_default();
        loop {
            let mut call = self.0.scripts.load.prepare_invoke();
            call.key(key::ready(shard)).key(key::folded(shard));
            for id in chunk {
                call.key(key::record(shard, id));
            }
            let mut connection = self.0.redis.connection();
            let answer: Option<(u64, Vec<Option<Vec<u8>>>)> =
                self.ask(call.invoke_async(&mut connection)).await?;
            let (folded, records) = answer.ok_or(StoreError::Rebuilding)?;
            // Whoever reads on between two questions is met when it is saved.
            loaded.folded = folded;
            for (id, bytes) in chunk.iter().zip(records) {
                loaded.journals.push(bytes.and_then(|bytes| record::decode(*id, &bytes)));
            }
            match chunks.next() {
                Some(next) => chunk = next,
                None => return Ok(loaded),
            }
        }
    }

    /// What the script's `put` takes of a journal.
    fn put(&self, call: &mut ScriptInvocation<'_>, shard: ShardId, journal: &Journal, version: Version) {
        let (id, ttl) = (journal.id(), self.ttl(journal).unwrap_or(1));
        let facts = journal.delivery().map(sotto_core::delivery::Delivery::facts);
        let list = facts.map_or_else(|| key::due(shard), |facts| key::list(shard, &facts.tenant));
        call.key(key::record(shard, &id)).key(list);
        let deadline = self.deadline(journal).map(|at| at.unix_millis().to_string());
        call.arg(record::encode(journal, version)).arg(ttl).arg(deadline.unwrap_or_default());
        let accepted = facts.map(|facts| facts.accepted_at.unix_millis().to_string());
        call.arg(id.to_string()).arg(accepted.unwrap_or_default());
        match facts.filter(|_| ttl > 0) {
            Some(facts) => {
                let gone = self.0.clock.now().plus(Duration::from_millis(ttl));
                call.arg(index::entry(&facts.tenant, &[id])).arg(gone.unix_millis().to_string());
            }
            None => {
                call.arg("").arg("");
            }
        }
    }

    /// Messages of a shard whose deadline has passed, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn due(&self, shard: ShardId, limit: usize) -> Result<Vec<MessageId>, StoreError> {
        let mut call = self.0.scripts.due.prepare_invoke();
        call.key(key::ready(shard)).key(key::due(shard));
        call.arg(self.0.clock.now().unix_millis()).arg(limit);
        let mut connection = self.0.redis.connection();
        let ids: Option<Vec<String>> = self.ask(call.invoke_async(&mut connection)).await?;
        Ok(ids.ok_or(StoreError::Rebuilding)?.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Moves deadlines, or lets go of them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_due(
        &self,
        shard: ShardId,
        deadlines: &[(MessageId, Option<Timestamp>)],
    ) -> Result<(), StoreError> {
        if deadlines.is_empty() {
            return Ok(());
        }
        let mut pipe = client::pipe();
        for (id, deadline) in deadlines {
            match deadline {
                // Only where there is one: the projection may have ended the message meanwhile.
                Some(at) => pipe.cmd("ZADD").arg(key::due(shard)).arg("XX").arg(at.unix_millis()),
                None => pipe.cmd("ZREM").arg(key::due(shard)),
            }
            .arg(id.to_string())
            .ignore();
        }
        let mut connection = self.0.redis.connection();
        self.ask(pipe.query_async::<()>(&mut connection)).await
    }

    /// Whether a shard is ready.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_ready(&self, shard: ShardId) -> Result<bool, StoreError> {
        let mut call = self.0.scripts.status.prepare_invoke();
        call.key(key::ready(shard));
        let mut connection = self.0.redis.connection();
        self.ask::<bool>(call.invoke_async(&mut connection)).await
    }

    /// Makes a shard unready, and ends a rebuild of it that is under way: it may have read past what is missing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget(&self, shard: ShardId) -> Result<(), StoreError> {
        let mut connection = self.0.redis.connection();
        let mut delete = client::cmd("DEL");
        delete.arg(key::ready(shard)).arg(key::token(shard)).arg(key::rebuilt(shard));
        self.ask(delete.query_async::<()>(&mut connection)).await?;
        self.0.missed.caught_up(shard);
        Ok(())
    }

    /// Begins a rebuild of a shard by `process`, where an earlier one in the same run of Redis broke off; nothing while another
    /// process is at it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn start_rebuild(&self, shard: ShardId, process: &str) -> Result<Option<Rebuild>, StoreError> {
        let mut call = self.0.scripts.start.prepare_invoke();
        call.key(key::ready(shard)).key(key::token(shard)).key(key::rebuilt(shard));
        call.arg(millis(REBUILD)).arg(process);
        let mut connection = self.0.redis.connection();
        let begun: Option<(String, u64)> = self.ask(call.invoke_async(&mut connection)).await?;
        Ok(begun.map(|(run, done)| Rebuild { shard, run, process: process.to_owned(), done }))
    }

    /// Goes on with a rebuild; returns whether it is still this process's. To be said every few seconds. `done`: all of EVENTS up to
    /// this sequence is written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn go_on(&self, rebuild: &Rebuild, done: Option<u64>) -> Result<bool, StoreError> {
        let Rebuild { shard, run, process, .. } = rebuild;
        let mut call = self.0.scripts.renew.prepare_invoke();
        call.key(key::token(*shard)).key(key::rebuilt(*shard)).arg(millis(REBUILD));
        call.arg(format!("{run}/{process}"));
        call.arg(done.map(|done| format!("{run}/{done}")).unwrap_or_default()).arg(millis(REBUILT));
        let mut connection = self.0.redis.connection();
        self.ask::<bool>(call.invoke_async(&mut connection)).await
    }

    /// Ends it: the shard is ready unless Redis lost something since the start. Returns whether it is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn finish_rebuild(&self, rebuild: &Rebuild) -> Result<bool, StoreError> {
        let Rebuild { shard, run, process, .. } = rebuild;
        let mut call = self.0.scripts.finish.prepare_invoke();
        call.key(key::ready(*shard)).key(key::token(*shard)).key(key::rebuilt(*shard)).arg(run).arg(process);
        let mut connection = self.0.redis.connection();
        self.ask::<bool>(call.invoke_async(&mut connection)).await
    }

    /// How far the projection of a shard has come, whichever process runs it; 0 if it is not known.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn folded(&self, shard: ShardId) -> Result<u64, StoreError> {
        let mut connection = self.0.redis.connection();
        let mut read = client::cmd("GET");
        read.arg(key::folded(shard));
        Ok(self.ask(read.query_async::<Option<u64>>(&mut connection)).await?.unwrap_or(0))
    }

    /// The log was read up to this sequence: these uses of idempotency keys are in it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_folded(
        &self,
        shard: ShardId,
        sequence: u64,
        entries: &[(MessageId, Entry)],
    ) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        let remembered: Vec<_> = entries.iter().filter(|(_, entry)| entry.remembered_until() > now).collect();
        // Also without any entry, to tell how far it is.
        let mut chunks = remembered.chunks(AT_A_TIME);
        let mut chunk = chunks.next().unwrap_or_default();
        loop {
            let mut call = self.0.scripts.folded.prepare_invoke();
            call.key(key::folded(shard)).arg(sequence);
            for (id, entry) in chunk {
                call.key(key::entry(shard, id)).arg(entry.encode());
                call.arg(entry.remembered_until().unix_millis());
            }
            let mut connection = self.0.redis.connection();
            self.ask::<u64>(call.invoke_async(&mut connection)).await?;
            match chunks.next() {
                Some(next) => chunk = next,
                None => return Ok(()),
            }
        }
    }

    /// Writes journals off the log, where nothing newer stands. Returns how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn restore(&self, shard: ShardId, journals: &[Restore]) -> Result<u64, StoreError> {
        let mut written = 0;
        for journals in journals.chunks(AT_A_TIME) {
            let mut call = self.0.scripts.restore.prepare_invoke();
            call.key(key::due(shard)).key(key::gone(shard));
            for Restore { version, journal } in journals {
                call.arg(*version);
                self.put(&mut call, shard, journal, *version);
            }
            let mut connection = self.0.redis.connection();
            written += self.ask::<u64>(call.invoke_async(&mut connection)).await?;
        }
        Ok(written)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
