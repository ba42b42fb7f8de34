//! The admin server: is the process alive, does it take work, what is it, what does it count.
//!
//! It runs on a thread and a runtime of its own, so that it answers while the service is stuck.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use sotto_metrics::Metrics;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    config::AdminConfig,
    lifecycle::{Context, Stop},
    measures,
    telemetry::chain,
};

/// The named conditions that must all hold before the process takes work.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<String, bool>>>,
    metrics: Metrics,
}

impl Readiness {
    /// Conditions that are told as metrics too.
    pub fn measured(metrics: &Metrics) -> Self {
        Self { conditions: Arc::default(), metrics: metrics.clone() }
    }

    /// Adds a condition, which does not hold yet.
    pub fn condition(&self, name: impl Into<String>) -> Condition {
        let name = name.into();
        self.lock().insert(name.clone(), false);
        let (of, conditions) = (name.clone(), Arc::clone(&self.conditions));
        self.metrics.with("condition", &name).read(measures::CONDITION, move || {
            lock(&conditions).get(&of).map(|holds| f64::from(u8::from(*holds)))
        });
        Condition { name, readiness: self.clone() }
    }

    /// Whether every condition holds. A process that has named none yet has just begun.
    pub fn is_ready(&self) -> bool {
        hold(&self.lock())
    }

    /// Each condition and whether it holds.
    pub fn conditions(&self) -> BTreeMap<String, bool> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        lock(&self.conditions)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hold(conditions: &BTreeMap<String, bool>) -> bool {
    !conditions.is_empty() && conditions.values().all(|holds| *holds)
}

/// One condition of readiness. Clones speak of the same condition.
#[derive(Clone, Debug)]
pub struct Condition {
    name: String,
    readiness: Readiness,
}

impl Condition {
    /// Says whether the condition holds.
    pub fn set(&self, holds: bool) {
        let before = self.readiness.lock().insert(self.name.clone(), holds);
        if before != Some(holds) {
            tracing::info!(condition = self.name, holds, "readiness changed");
        }
    }

    /// Looks every so often whether it holds, until a stop is asked for, and tells why not when that begins.
    pub async fn watch<L, E>(self, every: Duration, stop: Stop, look: impl Fn() -> L)
    where
        L: Future<Output = Result<(), E>>,
        E: std::error::Error,
    {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut held = true;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.requested() => return,
            }
            let looked = look().await;
            self.set(looked.is_ok());
            if let Err(error) = &looked
                && held
            {
                tracing::error!(condition = self.name, error = chain(error), "a condition does not hold");
            }
            held = looked.is_ok();
        }
    }
}

/// What `/info` tells about the process.
#[derive(Clone, Debug)]
pub struct Info {
    name: Arc<str>,
    version: &'static str,
    instance: Arc<str>,
    addresses: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Info {
    pub(crate) fn new(name: &str, version: &'static str, instance: &str) -> Self {
        Self { name: name.into(), version, instance: instance.into(), addresses: Arc::default() }
    }

    /// Tells where the service listens, under a name such as `grpc`.
    pub fn bound(&self, name: impl Into<String>, address: SocketAddr) {
        let name = name.into();
        tracing::info!(listener = name, %address, "listening");
        self.lock().insert(name, address.to_string());
    }

    /// The addresses told so far.
    pub fn addresses(&self) -> BTreeMap<String, String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        lock(&self.addresses)
    }
}

#[derive(Clone)]
struct Shared {
    ready: Readiness,
    info: Info,
    metrics: Metrics,
    stop: Stop,
}

/// The running admin server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct AdminServer {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl AdminServer {
    /// Binds now, so that a taken address is an error of the start, and serves on a thread of its own.
    pub(crate) fn start(config: &AdminConfig, context: &Context) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let token = stop.clone();
        context.info.bound("admin", address);
        let Context { ready, info, metrics, stop: service, .. } = context.clone();
        let shared = Shared { ready, info, metrics, stop: service };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            if let Err(e) = runtime.block_on(serve(listener, shared, token)) {
                tracing::error!(error = %e, "the admin server failed");
            }
        })?;
        if let Some(file) = &config.address_file {
            write_whole(file, &address.to_string())?;
        }
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of the admin thread was logged by the hook.
            let _ended = thread.join();
        }
    }
}

/// How long each step of a question may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the HTTP server that listens here on this machine for a path: its status. For health checks, whose process does
/// nothing else.
pub(crate) fn ask(listen: SocketAddr, path: &str) -> io::Result<u16> {
    let here: IpAddr = if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let address = if listen.ip().is_unspecified() { SocketAddr::new(here, listen.port()) } else { listen };
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut line)?;
    let told = line.strip_prefix(b"HTTP/1.1 ").and_then(|status| std::str::from_utf8(status).ok());
    told.and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

/// Readers see nothing or the whole text.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    std::fs::write(&unfinished, text)?;
    std::fs::rename(&unfinished, path)
}

async fn serve(listener: TcpListener, shared: Shared, stop: CancellationToken) -> io::Result<()> {
    let router = Router::new()
        .route("/live", get(async || "alive\n"))
        .route("/ready", get(ready))
        .route("/info", get(info))
        .route("/metrics", get(metrics))
        .with_state(shared);
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let serving = axum::serve(listener, router);
    // Not graceful: a probe held open by its client must not hold up the end of the process.
    tokio::select! {
        result = serving => result,
        () = stop.cancelled() => Ok(()),
    }
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, Json<serde_json::Value>) {
    let conditions = shared.ready.conditions();
    let stopping = shared.stop.is_requested();
    let ready = !stopping && hold(&conditions);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "ready": ready, "stopping": stopping, "conditions": conditions })))
}

async fn info(State(shared): State<Shared>) -> Json<serde_json::Value> {
    let Info { name, version, instance, addresses: _ } = &shared.info;
    Json(serde_json::json!({
        "name": &**name,
        "version": version,
        "instance": &**instance,
        "addresses": shared.info.addresses(),
    }))
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    ([(CONTENT_TYPE, sotto_metrics::CONTENT_TYPE)], shared.metrics.page())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_it_has_named_what_it_needs_and_has_it() {
        let ready = Readiness::default();
        assert!(!ready.is_ready(), "it has just begun");
        let (one, other) = (ready.condition("one"), ready.condition("other"));
        one.set(true);
        assert!(!ready.is_ready());
        other.set(true);
        assert!(ready.is_ready());
    }
}
