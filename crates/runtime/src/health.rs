//! The admin server: is the process alive, does it take work, what is it.
//!
//! It runs on a thread and a runtime of its own, so that it answers while the service is stuck.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use tokio_util::sync::CancellationToken;

use crate::{config::AdminConfig, lifecycle::Stop};

/// The named conditions that must all hold before the process takes work.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, bool>>>);

impl Readiness {
    /// Adds a condition, which does not hold yet.
    pub fn condition(&self, name: impl Into<String>) -> Condition {
        let name = name.into();
        self.lock().insert(name.clone(), false);
        Condition { name, readiness: self.clone() }
    }

    /// Whether every condition holds.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(|holds| *holds)
    }

    /// Each condition and whether it holds.
    pub fn conditions(&self) -> BTreeMap<String, bool> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
struct Shared {
    ready: Readiness,
    info: Info,
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
    pub(crate) fn start(
        config: &AdminConfig,
        ready: Readiness,
        info: Info,
        service: Stop,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let token = stop.clone();
        info.bound("admin", address);
        let shared = Shared { ready, info, stop: service };
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
    let ready = !stopping && conditions.values().all(|holds| *holds);
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
