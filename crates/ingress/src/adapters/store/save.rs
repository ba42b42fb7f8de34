//! What the projection makes of a part of the log, written in one question: how far it is, and what changed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sotto_core::{MessageId, ShardId, TenantId};

use super::{Store, Version, index, key, record};
use crate::{
    domain::{idempotency::Entry, journal::Journal},
    ports::StoreError,
};

/// Records that one script writes: while it runs Redis does nothing else.
const AT_A_TIME: usize = 128;

/// A changed journal.
#[derive(Clone, Debug)]
pub struct Write {
    /// What it was; `None` when there was none.
    pub before: Option<Arc<Journal>>,
    /// The sequence that changed it.
    pub version: Version,
    /// The journal now.
    pub journal: Arc<Journal>,
}

/// What the projection makes of a part of the log.
#[derive(Clone, Debug, Default)]
pub struct Fold {
    /// How far the projection was.
    pub from: u64,
    /// How far it is then.
    pub to: u64,
    /// What changed.
    pub writes: Vec<Write>,
    /// Uses of idempotency keys in it.
    pub entries: Vec<(MessageId, Entry)>,
}

/// What became of a fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Written.
    Whole,
    /// Nothing is written, or not all and it may be written again: intake began one of the journals meanwhile.
    Begun,
    /// The same: somebody else has read on.
    Moved,
}

/// The arguments of the script, section by section as it takes them.
#[derive(Default)]
struct Sections {
    /// Records that must not exist.
    fresh: Vec<String>,
    /// Records of messages that live, and their bytes.
    living: Vec<(String, Vec<u8>)>,
    /// Records that are forgotten, their bytes and milliseconds.
    ended: Vec<(String, Vec<u8>, u64)>,
    /// Deadlines and ids.
    due: Vec<(i64, String)>,
    /// Ids whose deadline is over.
    undue: Vec<String>,
    /// What of a tenant leaves its list, and when the last of it does.
    gone: BTreeMap<TenantId, (i64, Vec<MessageId>)>,
    /// What comes into the list of a tenant, and when it was accepted.
    lists: BTreeMap<TenantId, Vec<(i64, String)>>,
}

impl Sections {
    fn of(store: &Store, shard: ShardId, writes: &[Write]) -> Self {
        let mut sections = Self::default();
        for Write { before, version, journal } in writes {
            sections.add(store, shard, before.as_deref(), *version, journal);
        }
        sections
    }

    fn add(
        &mut self,
        store: &Store,
        shard: ShardId,
        before: Option<&Journal>,
        version: Version,
        journal: &Journal,
    ) {
        let (id, ttl) = (journal.id(), store.ttl(journal).unwrap_or(1));
        let record = key::record(shard, &id);
        if before.is_none() {
            self.fresh.push(record.clone());
        }
        let bytes = record::encode(journal, version);
        if ttl == 0 {
            self.living.push((record, bytes));
        } else {
            self.ended.push((record, bytes, ttl));
        }
        let (deadline, known) = (store.deadline(journal), before.and_then(|before| store.deadline(before)));
        match deadline {
            // Nearly every deadline moves on when its message is submitted: the sweeper that finds it too early moves it.
            Some(at) if known.is_none_or(|known| at < known) => {
                self.due.push((at.unix_millis(), id.to_string()));
            }
            None if known.is_some() => self.undue.push(id.to_string()),
            Some(_) | None => {}
        }
        let Some(facts) = journal.delivery().map(sotto_core::delivery::Delivery::facts) else { return };
        let listed = before.and_then(Journal::delivery).map(|delivery| delivery.facts().accepted_at);
        if listed != Some(facts.accepted_at) {
            let list = self.lists.entry(facts.tenant.clone()).or_default();
            list.push((facts.accepted_at.unix_millis(), id.to_string()));
        }
        if ttl > 0 {
            let gone = store.0.clock.now().plus(Duration::from_millis(ttl)).unix_millis();
            let (last, ids) = self.gone.entry(facts.tenant.clone()).or_default();
            *last = gone.max(*last);
            ids.push(id);
        }
    }
}

impl Store {
    /// Writes what a part of the log says of a shard, where nobody else has read on meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn save(&self, shard: ShardId, fold: &Fold) -> Result<Saved, StoreError> {
        let now = self.0.clock.now();
        let remembered: Vec<_> =
            fold.entries.iter().filter(|(_, entry)| entry.remembered_until() > now).collect();
        let count = fold.writes.len().div_ceil(AT_A_TIME).max(remembered.len().div_ceil(AT_A_TIME)).max(1);
        let (mut writes, mut entries) = (fold.writes.chunks(AT_A_TIME), remembered.chunks(AT_A_TIME));
        for chunk in 1..=count {
            let sections = Sections::of(self, shard, writes.next().unwrap_or_default());
            // How far it is is told with the last: whatever is cut off before is read again.
            let to = if chunk == count { fold.to } else { fold.from };
            match self
                .save_some(shard, (fold.from, to), &sections, entries.next().unwrap_or_default())
                .await?
            {
                0 => {}
                1 => return Ok(Saved::Begun),
                3 => return Ok(Saved::Moved),
                _ => return Err(StoreError::Rebuilding),
            }
        }
        Ok(Saved::Whole)
    }

    async fn save_some(
        &self,
        shard: ShardId,
        (from, to): (u64, u64),
        sections: &Sections,
        entries: &[&(MessageId, Entry)],
    ) -> Result<u8, StoreError> {
        let Sections { fresh, living, ended, due, undue, gone, lists } = sections;
        let mut call = self.0.scripts.save.prepare_invoke();
        call.key(key::ready(shard)).key(key::folded(shard)).key(key::due(shard)).key(key::gone(shard));
        call.arg(from).arg(to).arg(fresh.len()).arg(living.len()).arg(ended.len());
        call.arg(due.len()).arg(undue.len()).arg(gone.len()).arg(lists.len()).arg(entries.len());
        for record in fresh {
            call.key(record);
        }
        for (record, bytes) in living {
            call.key(record).arg(bytes);
        }
        for (record, bytes, ttl) in ended {
            call.key(record).arg(bytes).arg(ttl);
        }
        for (deadline, id) in due {
            call.arg(deadline).arg(id);
        }
        call.arg(undue);
        for (tenant, (at, ids)) in gone {
            call.arg(at).arg(index::entry(tenant, ids));
        }
        for (tenant, list) in lists {
            call.key(key::list(shard, tenant)).arg(list.len());
            for (accepted, id) in list {
                call.arg(accepted).arg(id);
            }
        }
        for (id, entry) in entries {
            call.key(key::entry(shard, id)).arg(entry.encode()).arg(entry.remembered_until().unix_millis());
        }
        let mut connection = self.0.redis.connection();
        self.ask::<u8>(call.invoke_async(&mut connection)).await
    }
}
