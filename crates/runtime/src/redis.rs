//! Redis over mutual TLS, as one service's own user. Services use the re-exports; only this crate links the client.

mod connection;
#[cfg(feature = "simulated")]
pub mod simulated;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use redis::{
    AsyncCommands, Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, RedisWrite, Script,
    ScriptInvocation, ToRedisArgs, Value, cmd, pipe,
};

pub use connection::Connection;
use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, ServerErrorKind,
    TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use sotto_core::ErrorClass;

use crate::{config::RedisConfig, tls::Tls};

/// How long to wait before work is tried again while Redis is down.
const DOWN: Duration = Duration::from_secs(1);

/// The cell's Redis. Connections are made when first used, shared, and made again after a loss. Clones share them.
#[derive(Clone)]
pub struct Redis(Way);

#[derive(Clone)]
enum Way {
    Server(Arc<Inner>),
    #[cfg(feature = "simulated")]
    Simulated(simulated::Session),
}

struct Inner {
    config: RedisConfig,
    tls: Tls,
    current: Mutex<(u64, ConnectionManager)>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl Redis {
    /// Prepares connections; nothing is sent yet. Must be called inside the runtime.
    ///
    /// # Errors
    /// When the address or the certificates cannot be used.
    pub fn new(config: &RedisConfig, tls: &Tls) -> RedisResult<Self> {
        let current = Mutex::new((tls.generation(), manager(config, tls)?));
        Ok(Self(Way::Server(Arc::new(Inner { config: config.clone(), tls: tls.clone(), current }))))
    }

    /// The connection to use now. Take it anew for each piece of work: it follows renewed certificates.
    pub fn connection(&self) -> Connection {
        match &self.0 {
            Way::Server(server) => Connection::server(server.connection()),
            #[cfg(feature = "simulated")]
            Way::Simulated(session) => Connection::simulated(session.clone()),
        }
    }

    /// Whether Redis answers and knows this user.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> RedisResult<()> {
        cmd("PING").query_async::<()>(&mut self.connection()).await
    }
}

impl Inner {
    fn connection(&self) -> ConnectionManager {
        let generation = self.tls.generation();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != generation {
            match manager(&self.config, &self.tls) {
                Ok(renewed) => *current = (generation, renewed),
                Err(e) => tracing::warn!(error = %e, "renewed certificates cannot be used for Redis"),
            }
        }
        current.1.clone()
    }
}

fn manager(config: &RedisConfig, tls: &Tls) -> RedisResult<ConnectionManager> {
    let info = config.url.as_str().into_connection_info()?;
    let login = info
        .redis_settings()
        .clone()
        .set_username(&config.username)
        .set_password(config.password_file.expose());
    let info: ConnectionInfo = info.set_redis_settings(login);
    let client = match info.addr() {
        ConnectionAddr::TcpTls { .. } => {
            let certificates = tls.with_pem(|ca, cert, key| TlsCertificates {
                client_tls: Some(redis::ClientTlsConfig {
                    client_cert: cert.to_vec(),
                    client_key: key.to_vec(),
                }),
                root_cert: Some(ca.to_vec()),
            });
            Client::build_with_tls(info, certificates)?
        }
        ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) | _ => {
            return Err((ErrorKind::InvalidClientConfig, "only rediss:// addresses are allowed").into());
        }
    };
    let settings = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(config.connect_timeout.get()))
        .set_response_timeout(Some(config.response_timeout.get()))
        .set_number_of_retries(2)
        .set_max_delay(DOWN);
    ConnectionManager::new_lazy_with_config(client, settings)
}

/// What may be done about a Redis error: down (try again), refused by its settings (someone must mend them), or a
/// mistake of ours.
#[expect(clippy::wildcard_enum_match_arm, reason = "the client's enums are open")]
pub fn class(error: &RedisError) -> ErrorClass {
    let down = ErrorClass::Retry { after: DOWN };
    // Out of memory, or not enough replicas or disk to write safely: passes when space or a replica is back.
    if matches!(error.code(), Some("OOM" | "NOREPLICAS" | "MISCONF")) {
        return down;
    }
    match error.kind() {
        ErrorKind::Io
        | ErrorKind::ClusterConnectionNotFound
        | ErrorKind::MasterNameNotFoundBySentinel
        | ErrorKind::NoValidReplicasFoundBySentinel => down,
        ErrorKind::Server(kind) => match kind {
            ServerErrorKind::BusyLoading
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask => down,
            ServerErrorKind::NoPerm => ErrorClass::Reject,
            ServerErrorKind::ResponseError | ServerErrorKind::ExecAbort | ServerErrorKind::NoScript => {
                ErrorClass::Bug
            }
            _ => ErrorClass::Bug,
        },
        ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig => ErrorClass::Reject,
        _ => ErrorClass::Bug,
    }
}
