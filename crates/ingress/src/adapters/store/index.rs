//! The messages of each tenant by the time of their acceptance.
//!
//! A message stands in its tenant's list from its acceptance until its journal goes. When that will be stands in a list of
//! its own, by which both are let go: a list has no entry that lives by itself. What ends together stands there together: an
//! entry of a sorted set costs as much as a key.

use std::{collections::BTreeMap, fmt::Write as _};

use futures::future::try_join_all;
use sotto_core::{MessageId, ShardId, TenantId, Timestamp};
use sotto_runtime::redis::{self as client};

use super::{Store, key};
use crate::{domain::page::Place, ports::StoreError};

/// Entries let go at a time, each of at most as many messages as one script writes.
const AT_A_TIME: usize = 20;

/// What stands for messages that are to be let go: their ids, with commas, and the tenant.
pub(super) fn entry(tenant: &TenantId, ids: &[MessageId]) -> String {
    let mut entry = String::with_capacity(ids.len() * 37 + tenant.as_str().len());
    for id in ids {
        let comma = if entry.is_empty() { "" } else { "," };
        // Writing to a string does not fail.
        let _written = write!(entry, "{comma}{id}").is_ok();
    }
    entry.push(' ');
    entry.push_str(tenant.as_str());
    entry
}

impl Store {
    /// The tenant's messages accepted before `before` and at or after `oldest`, the newest first, at most `most`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(
        &self,
        tenant: &TenantId,
        before: &Place,
        oldest: Timestamp,
        most: usize,
    ) -> Result<Vec<Place>, StoreError> {
        let asked = self.0.shards.iter().map(async |shard| {
            let mut call = self.0.scripts.list.prepare_invoke();
            call.key(key::ready(shard)).key(key::list(shard, tenant));
            call.arg(oldest.unix_millis()).arg(before.at.unix_millis());
            call.arg(before.id.map(|id| id.to_string()).unwrap_or_default()).arg(most);
            let mut connection = self.0.redis.connection();
            let found: Option<Vec<(i64, String)>> = self.ask(call.invoke_async(&mut connection)).await?;
            found.ok_or(StoreError::Rebuilding)
        });
        let found = try_join_all(asked).await?.into_iter().flatten();
        let places = found.map(|(at, id)| {
            let id = id.parse().map_err(|_| StoreError::Refused)?;
            Ok(Place { at: Timestamp::from_unix_millis(at), id: Some(id) })
        });
        let mut places = places.collect::<Result<Vec<_>, StoreError>>()?;
        places.sort_unstable_by(|one, other| other.cmp(one));
        places.truncate(most);
        Ok(places)
    }

    /// Lets go of what has no journal any more. Returns how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn trim(&self, shard: ShardId) -> Result<usize, StoreError> {
        let mut gone = 0;
        loop {
            let mut read = client::cmd("ZRANGEBYSCORE");
            read.arg(key::gone(shard)).arg("-inf").arg(self.0.clock.now().unix_millis());
            read.arg("LIMIT").arg(0).arg(AT_A_TIME);
            let mut connection = self.0.redis.connection();
            let entries: Vec<String> = self.ask(read.query_async(&mut connection)).await?;
            if entries.is_empty() {
                return Ok(gone);
            }
            let mut of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (ids, tenant) in entries.iter().filter_map(|entry| entry.split_once(' ')) {
                of.entry(tenant).or_default().extend(ids.split(','));
            }
            gone += of.values().map(Vec::len).sum::<usize>();
            let mut pipe = client::pipe();
            for (tenant, ids) in of {
                let tenant = tenant.parse().map_err(|_| StoreError::Refused)?;
                pipe.cmd("ZREM").arg(key::list(shard, &tenant)).arg(ids).ignore();
            }
            pipe.cmd("ZREM").arg(key::gone(shard)).arg(&entries).ignore();
            let mut connection = self.0.redis.connection();
            self.ask(pipe.query_async::<()>(&mut connection)).await?;
        }
    }
}
