//! What every service measures: what it is, whether it is ready, what it takes of the machine.

use std::{fs, sync::Arc};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};
use sotto_metrics::{About, Described, Metrics};
use tokio::runtime::Handle;

use crate::{
    health::Readiness,
    lifecycle::{Context, Stop, Tasks},
};

const BUILD: About = About {
    name: "sotto_build_info",
    what: "Always 1: which service of which version this is",
    worry: "Two versions for longer than an upgrade takes",
};
const READY: About = About {
    name: "sotto_ready",
    what: "1 while every condition holds and no stop was asked for",
    worry: "0 for more than a minute",
};
const STOPPING: About = About {
    name: "sotto_stopping",
    what: "1 from when a stop was asked for",
    worry: "1 for longer than `shutdown.grace`",
};
pub(crate) const CONDITION: About = About {
    name: "sotto_condition",
    what: "1 while a condition of `/ready` holds; and of those that a process can do without for a while: at ingress `redis` and `privacy` (from the first key that it got), at privacy and identity `keystore_file` (a restart would find the keys), at privacy `keys_ahead` (those of the next hour or day are made), at audit `events_trimmed` (what is old enough goes)",
    worry: "0: the runbook of the condition, docs/services/README.md",
};
const TASKS: About = About {
    name: "sotto_tasks",
    what: "Tasks alive in the process",
    worry: "Grows without end: what is under way does not end",
};
const HELD: About = About {
    name: "sotto_tasks_held",
    what: "Tasks and guards that a drain would wait for",
    worry: "Does not fall while the service stops",
};
const CPU: About = About {
    name: "process_cpu_seconds_total",
    what: "Processor time used, user and system, in seconds",
    worry: "A rate near the number of processors",
};
const RESIDENT: About =
    About { name: "process_resident_memory_bytes", what: "Memory in use, in bytes", worry: "Grows for days" };
const FDS: About =
    About { name: "process_open_fds", what: "Open files and sockets", worry: "Near `process_max_fds`" };
const MAX_FDS: About = About {
    name: "process_max_fds",
    what: "Files and sockets that may be open; absent without a limit",
    worry: "For comparison",
};
const THREADS: About =
    About { name: "process_threads", what: "Threads of the process", worry: "Grows: work that blocks" };
const STARTED: About = About {
    name: "process_start_time_seconds",
    what: "When the process started, in seconds since 1970",
    worry: "Changes: it was started anew",
};

/// Measures a process.
pub(crate) fn of_process(context: &Context, name: &str, version: &str) {
    let Context { metrics, ready, stop, tasks, clock, .. } = context;
    metrics.with("service", name).with("version", version).gauge(BUILD).set(1.0);
    readiness(metrics, ready.clone(), stop.clone());
    let tasks = Tasks::clone(tasks);
    metrics.read(HELD, move || Some(count(tasks.held().values().sum())));
    // The page is written on another runtime than that of the service.
    if let Ok(runtime) = Handle::try_current() {
        metrics.read(TASKS, move || Some(count(runtime.metrics().num_alive_tasks())));
    }
    metrics.gauge(STARTED).set(milliseconds(clock.now().unix_millis()) / 1_000.0);
    machine(metrics);
}

fn readiness(metrics: &Metrics, ready: Readiness, stop: Stop) {
    let stopping = stop.clone();
    metrics.read(READY, move || Some(flag(ready.is_ready() && !stop.is_requested())));
    metrics.read(STOPPING, move || Some(flag(stopping.is_requested())));
}

/// From the kernel. A number that it does not give is left out.
fn machine(metrics: &Metrics) {
    metrics.read_counter(CPU, || stat(|stat| Some(stat.ticks()? / ticks_per_second())));
    metrics.read(THREADS, || stat(|stat| stat.threads()));
    metrics.read(RESIDENT, || {
        let statm = fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(whole(pages.saturating_mul(u64::try_from(page_size()).ok()?)))
    });
    // Reading the folder opens it.
    metrics.read(FDS, || Some(count(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))));
    metrics.read(MAX_FDS, || getrlimit(Resource::Nofile).current.map(whole));
}

/// The fields of `/proc/self/stat` after the name, which may hold anything.
struct Stat<'a>(Vec<&'a str>);

impl Stat<'_> {
    /// Field `number` of proc_pid_stat(5), from 3.
    fn field(&self, number: usize) -> Option<f64> {
        self.0.get(number.checked_sub(3)?)?.parse::<u64>().ok().map(whole)
    }

    fn ticks(&self) -> Option<f64> {
        Some(self.field(14)? + self.field(15)?)
    }

    fn threads(&self) -> Option<f64> {
        self.field(20)
    }
}

fn stat(read: impl FnOnce(&Stat<'_>) -> Option<f64>) -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_name, fields) = stat.rsplit_once(')')?;
    read(&Stat(fields.split_ascii_whitespace().collect()))
}

fn ticks_per_second() -> f64 {
    whole(clock_ticks_per_second())
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn count(count: usize) -> f64 {
    whole(u64::try_from(count).unwrap_or(u64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn whole(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn milliseconds(number: i64) -> f64 {
    number as f64
}

/// What every service measures, for docs/METRICS.md.
pub fn described() -> Vec<Described> {
    let metrics = Metrics::default();
    Readiness::measured(&metrics).condition("condition");
    let context = Context { metrics, ..Context::detached(Arc::new(sotto_core::SystemClock), "described") };
    of_process(&context, "service", "version");
    context.metrics.described()
}
