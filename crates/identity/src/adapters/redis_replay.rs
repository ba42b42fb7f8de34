//! Used assertions in Redis, shared by all replicas: `sotto:identity:jti:<digest>`, gone when the assertion ends.
//!
//! Losing them (INV-9) lets an assertion that was already stolen count once more in its last minutes; while Redis is
//! down assertions are refused.

use futures::future::BoxFuture;
use sotto_core::Timestamp;
use sotto_runtime::redis::{Redis, RedisResult, cmd};

use crate::{
    domain::assertion::OneUse,
    ports::{ReplayGuard, ReplayUnknown},
};

const PREFIX: &str = "sotto:identity:jti:";

/// The memory of used assertions.
#[derive(Clone, Debug)]
pub struct RedisReplay(Redis);

impl RedisReplay {
    /// On this Redis.
    pub fn new(redis: Redis) -> Self {
        Self(redis)
    }
}

impl ReplayGuard for RedisReplay {
    fn first_use<'a>(
        &'a self,
        once: &'a OneUse,
        now: Timestamp,
    ) -> BoxFuture<'a, Result<bool, ReplayUnknown>> {
        Box::pin(async move {
            // One millisecond more than needed, so that zero never means "for ever".
            let millis = once.until.since(now).as_millis().saturating_add(1);
            let set: RedisResult<Option<String>> = cmd("SET")
                .arg(format!("{PREFIX}{}", once.id))
                .arg("")
                .arg("NX")
                .arg("PX")
                .arg(u64::try_from(millis).unwrap_or(u64::MAX))
                .query_async(&mut self.0.connection())
                .await;
            set.map(|answer| answer.is_some()).map_err(|e| ReplayUnknown(Box::new(e)))
        })
    }
}
