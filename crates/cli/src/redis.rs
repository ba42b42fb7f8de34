//! Asks the cell's Redis, as its administrator.

use std::time::Duration;

use sotto_runtime::{
    config::{RedisConfig, SecretFile},
    redis::{Redis, RedisResult, cmd},
};

use crate::{cell::CellDir, credentials::tls};

/// Whether the Redis at `host:port` answers and has loaded its data; why not, if it does not.
pub(crate) async fn ping(dir: &CellDir, address: &str, patience: Duration) -> Result<(), String> {
    let redis = administrator(dir, address, patience)?;
    within(patience, redis.ping()).await
}

/// By which policy it throws keys away when its memory is full; why it does not tell, if it does not.
pub(crate) async fn eviction(dir: &CellDir, address: &str, patience: Duration) -> Result<String, String> {
    let mut connection = administrator(dir, address, patience)?.connection();
    let mut info = cmd("INFO");
    let told = within(patience, info.arg("memory").query_async::<String>(&mut connection)).await?;
    let policy = told.lines().find_map(|line| line.trim_end().strip_prefix("maxmemory_policy:"));
    policy.map(ToOwned::to_owned).ok_or_else(|| "tells no maxmemory_policy".to_owned())
}

fn administrator(dir: &CellDir, address: &str, patience: Duration) -> Result<Redis, String> {
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
    Redis::new(&config, &tls).map_err(|error| error.to_string())
}

async fn within<T>(patience: Duration, asked: impl Future<Output = RedisResult<T>>) -> Result<T, String> {
    match tokio::time::timeout(patience, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("did not answer within {patience:?}")),
    }
}
