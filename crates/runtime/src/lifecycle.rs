//! Stopping, and the tasks that a stop waits for.

use std::{
    collections::BTreeMap,
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use sotto_core::Clock;
use sotto_metrics::Metrics;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::health::{Info, Readiness};

/// What a running service gets from the process around it. Clones share everything.
#[derive(Clone, Debug)]
pub struct Context {
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The process's stop.
    pub stop: Stop,
    /// Where tasks are spawned.
    pub tasks: Tasks,
    /// What must hold before the process takes work.
    pub ready: Readiness,
    /// What `/info` tells; services add the addresses they bound.
    pub info: Info,
    /// What is counted, and served as `/metrics`.
    pub metrics: Metrics,
    /// A random name of this run of the process, in every log line and trace.
    pub instance: String,
}

impl Context {
    /// A context without a process around it: for services' in-process tests.
    pub fn detached(clock: Arc<dyn Clock>, instance: &str) -> Self {
        let stop = Stop::default();
        Self {
            clock,
            tasks: Tasks::new(stop.clone()),
            ready: Readiness::default(),
            info: Info::new("test", env!("CARGO_PKG_VERSION"), instance),
            metrics: Metrics::default(),
            instance: instance.to_owned(),
            stop,
        }
    }
}

/// A stop in two steps: soft (take nothing new, finish what is under way), then hard (drop everything).
#[derive(Clone, Debug, Default)]
pub struct Stop {
    soft: CancellationToken,
    hard: CancellationToken,
    asked: CancellationToken,
    failed: CancellationToken,
}

impl Stop {
    /// Completes when a stop is asked for.
    pub async fn requested(&self) {
        self.soft.cancelled().await;
    }

    /// Whether a stop is asked for.
    pub fn is_requested(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Completes when the grace is over and what still runs must be dropped.
    pub async fn forced(&self) {
        self.hard.cancelled().await;
    }

    /// The soft step as a token, for libraries that want one.
    pub fn token(&self) -> &CancellationToken {
        &self.soft
    }

    /// Asks for a stop, as a signal does.
    pub fn request(&self) {
        self.asked.cancel();
        self.soft.cancel();
    }

    /// Asks for a stop because something essential broke: the process will end with a failure.
    pub fn fail(&self) {
        self.failed.cancel();
        self.soft.cancel();
    }

    /// Whether the stop was asked for, nothing failed and nothing was dropped.
    pub(crate) fn ended_well(&self) -> bool {
        self.asked.is_cancelled() && !self.failed.is_cancelled() && !self.hard.is_cancelled()
    }

    /// Drops what still runs.
    pub(crate) fn force(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }
}

/// What a task may end with.
pub trait TaskOutput: Send {
    /// What went wrong, with its chain of causes.
    fn failure(self) -> Option<String>;
}

impl TaskOutput for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: std::error::Error + Send> TaskOutput for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|e| crate::telemetry::chain(&e))
    }
}

/// The one registry of everything that runs: each task has a label, and a drain names those it still waits for.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    labels: Arc<Labels>,
    stop: Stop,
}

impl Tasks {
    /// An empty registry whose critical tasks use `stop`.
    pub fn new(stop: Stop) -> Self {
        Self { tracker: TaskTracker::new(), labels: Arc::default(), stop }
    }

    /// Spawns what the process cannot do without: when it ends before a stop, fails or panics, the process stops
    /// with a failure.
    pub fn spawn_critical<F>(&self, label: impl Into<String>, future: F)
    where
        F: Future<Output: TaskOutput> + Send + 'static,
    {
        let label = label.into();
        let held = self.hold(label.clone());
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            let ended = run_to_end(&stop, future).await;
            match ended {
                Ended::Dropped => {}
                Ended::Well if stop.is_requested() => {}
                Ended::Well => {
                    tracing::error!(task = label, "a critical task ended by itself; stopping");
                    stop.fail();
                }
                Ended::Badly(why) => {
                    tracing::error!(task = label, error = why, "a critical task failed; stopping");
                    stop.fail();
                }
            }
            drop(held);
        });
    }

    /// Spawns what the process can do without for a while: a failure or panic is logged.
    pub fn spawn_background<F>(&self, label: impl Into<String>, future: F)
    where
        F: Future<Output: TaskOutput> + Send + 'static,
    {
        let label = label.into();
        let held = self.hold(label.clone());
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            if let Ended::Badly(why) = run_to_end(&stop, future).await {
                tracing::warn!(task = label, error = why, "a background task failed");
            }
            drop(held);
        });
    }

    /// Keeps a drain waiting, under `label`, until the guard is dropped.
    pub fn hold(&self, label: impl Into<String>) -> Held {
        let number = self.labels.next.fetch_add(1, Ordering::Relaxed);
        self.labels.lock().insert(number, label.into());
        Held { number, labels: Arc::clone(&self.labels), _token: self.tracker.token() }
    }

    /// The labels that a drain would wait for now, each with how many hold it.
    pub fn held(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for label in self.labels.lock().values() {
            *counts.entry(label.clone()).or_insert(0) += 1;
        }
        counts
    }

    /// Waits until nothing holds any label; after `grace`, or when forced, drops what still runs. Every
    /// `report_every` it logs who holds it.
    pub(crate) async fn drain(&self, grace: Duration, report_every: Duration) {
        self.tracker.close();
        let deadline = tokio::time::sleep(grace);
        tokio::pin!(deadline);
        let mut report = tokio::time::interval_at(tokio::time::Instant::now() + report_every, report_every);
        loop {
            tokio::select! {
                () = self.tracker.wait() => return,
                () = self.stop.forced() => break,
                () = &mut deadline => {
                    self.stop.force();
                    break;
                }
                _ = report.tick() => {
                    tracing::info!(held_by = ?self.held(), "draining; interrupting now may send work round again");
                }
            }
        }
        tracing::warn!(held_by = ?self.held(), "the grace is over: work still under way is dropped");
        // Forced tasks are dropped at their next await; this only bounds how long that may take.
        if tokio::time::timeout(Duration::from_secs(1), self.tracker.wait()).await.is_err() {
            tracing::warn!(held_by = ?self.held(), "some tasks did not give way");
        }
    }
}

enum Ended {
    Well,
    Badly(String),
    Dropped,
}

async fn run_to_end<F: Future<Output: TaskOutput>>(stop: &Stop, future: F) -> Ended {
    tokio::select! {
        result = AssertUnwindSafe(future).catch_unwind() => match result {
            Ok(output) => output.failure().map_or(Ended::Well, Ended::Badly),
            // The panic hook has logged where; the payload may carry data and is not repeated.
            Err(_) => Ended::Badly("panicked".to_owned()),
        },
        () = stop.forced() => Ended::Dropped,
    }
}

#[derive(Debug, Default)]
struct Labels {
    next: AtomicU64,
    held: Mutex<BTreeMap<u64, String>>,
}

impl Labels {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a drain waiting while it lives.
#[must_use = "the label is let go when this is dropped"]
pub struct Held {
    number: u64,
    labels: Arc<Labels>,
    _token: TaskTrackerToken,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.labels.lock().remove(&self.number);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("number", &self.number).finish_non_exhaustive()
    }
}
