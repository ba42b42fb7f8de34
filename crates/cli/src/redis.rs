//! Asks the cell's Redis, as its administrator.

use std::time::Duration;

use sotto_runtime::{
    config::{RedisConfig, SecretFile},
    redis::Redis,
};

use crate::{cell::CellDir, credentials::tls};

/// Whether the Redis at `host:port` answers and has loaded its data; why not, if it does not.
pub(crate) async fn ping(dir: &CellDir, address: &str, patience: Duration) -> Result<(), String> {
    let password = dir.path("secrets/redis-admin");
    let password =
        std::fs::read_to_string(&password).map_err(|error| format!("{}: {error}", password.display()))?;
    let bound = patience.try_into().map_err(|_| "no such duration".to_owned())?;
    let config = RedisConfig {
        url: format!("rediss://{address}"),
        username: "admin".to_owned(),
        password_file: SecretFile::in_memory(password.trim()),
        connect_timeout: bound,
        response_timeout: bound,
    };
    let tls = tls(dir, "operator").map_err(|error| error.to_string())?;
    let redis = Redis::new(&config, &tls).map_err(|error| error.to_string())?;
    match tokio::time::timeout(patience, redis.ping()).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("did not answer within {patience:?}")),
    }
}
