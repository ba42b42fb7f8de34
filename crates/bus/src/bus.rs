//! One service's connection to the broker of its cell.

use std::{
    collections::hash_map::RandomState,
    fmt, fs,
    hash::{BuildHasher, Hasher},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectErrorKind, ConnectOptions};
use sotto_core::{Classified, Clock, ErrorClass};
use sotto_metrics::Metrics;
use tokio::{sync::watch, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    NatsConfig, Service, Topology,
    connection::{Connection, ConnectionState},
    measures::Measures,
    quorum,
    topology::{Cell, permissions::inbox_prefix},
    wire::Wire,
};

/// The oldest server whose JetStream does what we rely on. Older ones silently drop what they do not know: filters,
/// limits a subject, direct get.
const OLDEST_SERVER: (u64, u64) = (2, 12);

/// Messages a subscription may hold unread. Pulls are sized to free capacity, so it is never reached in good order.
const SUBSCRIPTION_CAPACITY: usize = 4_096;

/// Of the time for a close, at most so much is kept for what handlers leave behind.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A keyed digest of bytes that must not be kept.
pub type Digest = Arc<dyn Fn(&[u8]) -> [u8; 32] + Send + Sync>;

/// What a bus needs besides its address.
#[derive(Clone)]
pub struct BusOptions {
    /// Who connects.
    pub service: Service,
    /// Which of its processes: 1 to 40 characters of `a-z`, `0-9` and `-`. Part of its inboxes.
    pub instance: String,
    /// The cell.
    pub cell: Cell,
    /// The list of streams and consumers.
    pub topology: Topology,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Keyed digest for quarantine records.
    pub digest: Digest,
}

impl fmt::Debug for BusOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusOptions")
            .field("service", &self.service)
            .field("instance", &self.instance)
            .field("cell", &self.cell)
            .finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The settings are wrong; each line names its field.
    #[error("broker settings: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// The nkey's seed cannot be read.
    #[error("cannot read the nkey seed from {path}")]
    Seed {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The nkey's seed lies open.
    #[error("the nkey seed in {path} is open to every user of this machine: chmod 600 it")]
    SeedOpen {
        /// Its path.
        path: String,
    },
    /// The broker cannot be reached or the TLS handshake failed.
    #[error("cannot connect to the broker at {url}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The broker does not know this nkey.
    #[error("the broker at {url} refused this nkey")]
    Unauthorized {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The broker is older than what JetStream must be able to do.
    #[error(
        "the broker is nats-server {found}; at least 2.12 is needed: older servers silently ignore settings"
    )]
    TooOld {
        /// Its version.
        found: String,
    },
}

impl Classified for ConnectError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. } => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::Settings(_)
            | Self::Seed { .. }
            | Self::SeedOpen { .. }
            | Self::Unauthorized { .. }
            | Self::TooOld { .. } => ErrorClass::Reject,
        }
    }
}

/// A connection to the broker. Cheap to clone.
#[derive(Clone)]
pub struct Bus(Arc<Inner>);

/// Tasks and the word to end them.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Ending {
    async fn end(&self, at: time::Instant) -> bool {
        self.stop.cancel();
        self.tasks.close();
        time::timeout_at(at, self.tasks.wait()).await.is_ok()
    }
}

pub(crate) struct Inner {
    client: Wire,
    connection: Arc<Connection>,
    measures: Measures,
    options: BusOptions,
    /// Pulling, handling, keeping: ended first, because handlers publish.
    work: Ending,
    /// Audit trails: handlers tell acts to their end.
    telling: Ending,
    /// Queues of publishers: ended last.
    publishing: Ending,
    /// Unique to this connection's process: publish ids start with it.
    nonce: String,
    published: AtomicU64,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Bus {
    /// Connects: TLS first, mutual, with the service's nkey and inboxes of its own. Later losses are mended by
    /// themselves, for ever, with growing pauses and jitter.
    pub async fn connect(config: &NatsConfig, options: BusOptions) -> Result<Self, ConnectError> {
        let mut faults = config.faults();
        let instance = &options.instance;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if instance.is_empty() || instance.len() > 40 || !instance.bytes().all(plain) {
            faults.push("instance: expected 1 to 40 characters of a-z, 0-9 and '-'".to_owned());
        }
        if !faults.is_empty() {
            return Err(ConnectError::Settings(faults));
        }
        let connection = Connection::new();
        // Its future is large, and would be a part of each of its callers'.
        let client = Box::pin(connect_client(config, &options, &connection)).await?;
        check_version(&client.server_info().version)?;
        let bus = Self::over(Wire::Nats(client), connection, options);
        if config.urls().nth(1).is_some() {
            let keep = quorum::keep(Arc::downgrade(&bus.0));
            let keep = bus.0.publishing.stop.clone().run_until_cancelled_owned(keep);
            bus.0.publishing.tasks.spawn(keep);
        }
        Ok(bus)
    }

    pub(crate) const fn of(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    pub(crate) fn over(client: Wire, connection: Arc<Connection>, options: BusOptions) -> Self {
        let inbox = client.new_inbox();
        let nonce = inbox.rsplit('.').next().unwrap_or_default().to_owned();
        Self(Arc::new(Inner {
            client,
            measures: Measures::new(&connection),
            connection,
            options,
            work: Ending::default(),
            telling: Ending::default(),
            publishing: Ending::default(),
            nonce,
            published: AtomicU64::new(0),
        }))
    }

    /// Which of the service's processes.
    pub fn instance(&self) -> &str {
        &self.0.options.instance
    }

    /// Who is connected.
    pub fn service(&self) -> Service {
        self.0.options.service
    }

    /// The cell.
    pub fn cell(&self) -> &Cell {
        &self.0.options.cell
    }

    /// The list of streams and consumers.
    pub fn topology(&self) -> &Topology {
        &self.0.options.topology
    }

    /// What this connection measures, for a process to take in.
    pub fn metrics(&self) -> &Metrics {
        &self.0.measures.registry
    }

    pub(crate) fn measures(&self) -> &Measures {
        &self.0.measures
    }

    /// The connection's state and its changes: readiness.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.0.connection.watch()
    }

    /// Ends: workers pull nothing more and finish what they have, then audit trails and publishers take nothing more and store what they
    /// have, then the connection is closed. Returns whether everything finished before the deadline.
    pub async fn close(&self, deadline: Duration) -> bool {
        let at = time::Instant::now() + deadline;
        // Handlers that do not end must not take the time in which what others told and published is stored.
        let worked = self.0.work.end(at - (deadline / 5).min(LAST_WORDS)).await;
        let told = self.0.telling.end(at).await;
        let published = self.0.publishing.end(at).await;
        let drained = time::timeout_at(at, self.0.client.drain()).await.is_ok_and(|drained| drained);
        worked && told && published && drained
    }

    pub(crate) fn client(&self) -> &Wire {
        &self.0.client
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.0.connection
    }

    pub(crate) fn work(&self) -> &Ending {
        &self.0.work
    }

    pub(crate) fn telling(&self) -> &Ending {
        &self.0.telling
    }

    pub(crate) fn publishing(&self) -> &Ending {
        &self.0.publishing
    }

    /// An id that no other message has.
    pub(crate) fn next_publish_id(&self) -> String {
        format!("{}-{}", self.0.nonce, self.0.published.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.0.options.clock.as_ref()
    }

    pub(crate) fn digest(&self, bytes: &[u8]) -> [u8; 32] {
        (self.0.options.digest)(bytes)
    }

    /// Waits until the broker is connected and new enough: what is sent earlier would only queue up.
    pub(crate) async fn connected(&self) {
        #[cfg(any(test, feature = "simulated"))]
        if self.0.client.is_dead() {
            return std::future::pending().await;
        }
        let mut state = self.state();
        loop {
            if self.0.client.is_connected() {
                match check_version(&self.0.client.version()) {
                    Ok(()) => return,
                    Err(error) => tracing::error!(%error, "broker refused"),
                }
            }
            // Events may be dropped under load, so the state is looked at now and then as well.
            let _changed = time::timeout(Duration::from_millis(200), state.changed()).await;
        }
    }
}

/// The seed, from a file that is closed to other users, as every secret's file must be.
pub(crate) fn read_seed(file: &Path) -> Result<String, ConnectError> {
    let path = file.display().to_string();
    let read = || {
        let mut text = String::new();
        let mut file = fs::File::open(file)?;
        let open = file.metadata()?.permissions().mode() & 0o007 != 0;
        file.read_to_string(&mut text)?;
        Ok((open, text))
    };
    match read() {
        Ok((false, seed)) => Ok(seed),
        Ok((true, _)) => Err(ConnectError::SeedOpen { path }),
        Err(source) => Err(ConnectError::Seed { path, source }),
    }
}

async fn connect_client(
    config: &NatsConfig,
    options: &BusOptions,
    connection: &Arc<Connection>,
) -> Result<Client, ConnectError> {
    let seed = read_seed(&config.nkey_seed_file)?;
    let events = Arc::clone(connection);
    let inbox = format!("{}.{}", inbox_prefix(options.service), options.instance);
    let mut connecting = ConnectOptions::with_nkey(seed.trim().to_owned())
        .name(format!("sotto-{}-{}", options.service, options.instance))
        .custom_inbox_prefix(inbox)
        .require_tls(true)
        .tls_first()
        .add_root_certificates(config.ca_file.clone())
        .add_client_certificate(config.cert_file.clone(), config.key_file.clone())
        .connection_timeout(Duration::from_millis(config.connect_timeout_ms))
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .ping_interval(Duration::from_secs(10))
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            events.on_event(event);
            std::future::ready(())
        });
    let servers: Vec<_> = config.urls().collect();
    if servers.len() > 1 {
        let anywhere = RandomState::new().build_hasher().finish() % 1_024;
        let round = Arc::new(quorum::Round::from(usize::try_from(anywhere).unwrap_or(0)));
        connecting = connecting
            .reconnect_to_server_callback(move |servers, _| std::future::ready(round.next(&servers)));
    }
    let mut connected = connecting.clone().connect(servers.as_slice()).await;
    // At a start each is tried once: one of three may be away.
    for _ in servers.iter().skip(1) {
        let Err(error) = &connected else { break };
        if matches!(error.kind(), ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication)
        {
            break;
        }
        connected = connecting.clone().connect(servers.as_slice()).await;
    }
    connected.map_err(|source| connect_error(config, source))
}

/// What a failed attempt to connect means.
pub(crate) fn connect_error(config: &NatsConfig, source: async_nats::ConnectError) -> ConnectError {
    let url = config.url.clone();
    match source.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            ConnectError::Unauthorized { url, source }
        }
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Tls
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => ConnectError::Unreachable { url, source },
    }
}

fn check_version(found: &str) -> Result<(), ConnectError> {
    let mut numbers = found.split('.').map(|number| number.parse::<u64>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST_SERVER { Ok(()) } else { Err(ConnectError::TooOld { found: found.to_owned() }) }
}

/// Doubling from 50 ms to 5 s, of which up to a half is chance: a thousand clients do not return in one instant.
fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(7);
    let full = if attempts <= 1 { 20 } else { (50_u64 << doublings).min(5_000) };
    let chance = RandomState::new().build_hasher().finish() % (full / 2 + 1);
    Duration::from_millis(full - chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        for good in ["2.12.0", "2.15.1", "2.12.0-RC.3", "3.0.0"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["2.9.10", "2.11.99", "1.99.0", "", "x"] {
            assert!(matches!(check_version(bad), Err(ConnectError::TooOld { .. })), "{bad}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        for attempt in [0, 1, 2, 5, 9, 1_000_000] {
            let delay = reconnect_delay(attempt);
            assert!(
                delay >= Duration::from_millis(10) && delay <= Duration::from_secs(5),
                "{attempt}: {delay:?}"
            );
        }
        assert!(reconnect_delay(20) >= Duration::from_millis(2_500));
    }
}
