//! `sotto up`: runs a cell on one machine, one child process a service.
//!
//! Order: broker, Redis, streams, then the services, each waited for until it is ready. A child that ends by itself is
//! started again after a back-off, at the addresses it had. A signal stops everything in reverse order.

mod child;
mod lock;
mod memory;
mod pauses;
mod recipes;

pub(crate) use lock::{Holder, Lock, holders, lives};
pub(crate) use recipes::{
    Contract, Surroundings, connect, environment, https_address, read_carriers, simulator_account,
    simulator_carriers, tool,
};

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use self::{
    child::{Process, Recipe, log_file},
    pauses::Pauses,
};
use crate::{
    CliError, Output, Tone,
    cell::{CellDir, Layout, Running, SERVICES},
    error::at,
    http,
    init::services::renew_brokers,
};

/// How long a process may take to become ready.
const START: Duration = Duration::from_secs(60);

/// How often readiness is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How soon a note of what runs that could not be written is written again.
const NOTE_AGAIN: Duration = Duration::from_secs(1);

/// How long a process may take to end. Services drain within 20 seconds.
const GRACE: Duration = Duration::from_secs(25);

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct UpOptions {
    /// The carriers file; none: the simulator, and a carriers file that points at it.
    pub(crate) carriers: Option<PathBuf>,
    /// Where clients connect; port 0 lets the system choose.
    pub(crate) listen: std::net::SocketAddr,
    /// Where tokens are asked for; port 0 lets the system choose.
    pub(crate) token_listen: std::net::SocketAddr,
    /// Where the broker listens; port 0 lets the system choose.
    pub(crate) nats_listen: std::net::SocketAddr,
    /// Where the folder of the services' programs is; none: beside this program.
    pub(crate) programs: Option<PathBuf>,
    /// Parts a second of the simulator's account.
    pub(crate) simulator_tps: u16,
    /// The longest pause before what keeps dying is started again.
    pub(crate) longest_pause: Duration,
}

/// Runs the cell until it is told to stop. Nobody has to listen: what cannot be told (standard output is closed) stops
/// nothing, and whatever happens, what was started is stopped in its order.
pub(crate) async fn up(dir: &CellDir, options: &UpOptions, output: &Output) -> Result<(), CliError> {
    let cell = dir.open()?;
    match cell.layout {
        Layout::Machine => {}
        Layout::Containers => {
            return Err(CliError::new("this cell was made for containers")
                .fix("start it with: docker compose up -d (docs/OPERATIONS.md)"));
        }
    }
    let lock = Lock::take(dir)?;
    // The brokers are started below.
    renew_brokers(dir, &cell)?;
    let mut supervisor = Supervisor {
        dir: dir.clone(),
        lock,
        output,
        recipes: recipes::Recipes::new(dir, &cell, options)?,
        longest_pause: options.longest_pause,
        slots: Vec::new(),
        note_due: false,
        running: Running {
            supervisor: Some(std::process::id()),
            nats: String::new(),
            processes: BTreeMap::new(),
            addresses: BTreeMap::new(),
        },
    };
    // Asked for before anything is started, so that an early signal is not lost.
    let mut signals = Signals::new()?;
    let ran = tokio::select! {
        ran = supervisor.run() => ran,
        () = signals.stop() => Ok(()),
    };
    supervisor.say("stopping", &serde_json::json!({ "event": "stopping" }));
    let stopped = tokio::select! {
        stopped = supervisor.stop() => stopped,
        () = signals.hurry() => Err(CliError::new("stopped at once: what was under way was not finished")),
    };
    // What is left is killed here, before the lock goes.
    drop(supervisor);
    ran.and(stopped)
}

struct Supervisor<'a> {
    dir: CellDir,
    lock: Lock,
    output: &'a Output,
    recipes: recipes::Recipes,
    longest_pause: Duration,
    /// In the order of their start.
    slots: Vec<Slot>,
    running: Running,
    /// `run/cell.json` could not be written, and is out of date.
    note_due: bool,
}

/// A child's place.
struct Slot {
    recipe: Recipe,
    state: State,
    pauses: Pauses,
}

enum State {
    Runs(Box<Process>),
    /// It died and is started again at this time. Each waits for itself alone.
    Pauses(Instant),
}

/// What happens to a child.
enum Happening {
    Ended(String),
    Due,
}

impl Slot {
    async fn next(&mut self) -> Happening {
        match &mut self.state {
            State::Runs(process) => {
                let status = process.ended().await;
                Happening::Ended(status.map_or_else(|| "unknown".to_owned(), |status| status.to_string()))
            }
            State::Pauses(until) => {
                tokio::time::sleep_until(*until).await;
                Happening::Due
            }
        }
    }
}

impl Supervisor<'_> {
    async fn run(&mut self) -> Result<(), CliError> {
        self.start().await?;
        self.tell()?;
        self.watch().await
    }

    /// Tells people, or programs. Nobody may be listening.
    fn say(&self, line: &str, event: &serde_json::Value) {
        let _unheard = self.output.line(line).and_then(|()| self.output.json(event));
    }

    async fn start(&mut self) -> Result<(), CliError> {
        let mut urls = Vec::new();
        for broker in self.recipes.brokers() {
            let process = broker.process();
            self.step(&process).await;
            let recipe = self.recipes.nats(broker)?;
            self.launch(recipe)?;
            let ports = self.recipes.nats_ports_dir(broker);
            urls.push(self.wait(&process, |_| nats_url(&ports)).await?);
        }
        self.running.nats = urls.join(",");

        self.step("redis-server").await;
        self.start_redis().await?;

        self.step("streams").await;
        self.recipes.provision(&self.running.nats).await?;

        if let Some(recipe) = self.recipes.simulator() {
            self.step("simulator").await;
            let log = log_file(&self.dir, "simulator");
            // What an earlier run wrote there names ports that are gone.
            let before = std::fs::metadata(&log).map_or(0, |log| log.len());
            self.launch(recipe)?;
            let told = self.wait("simulator", |_| last_json(&log, before)).await?;
            for name in ["smpp", "admin"] {
                let address = told.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
                self.running.addresses.insert(format!("simulator.{name}"), address.to_owned());
            }
            self.recipes.write_simulator_carriers(self.running.address("simulator.smpp")?)?;
        }
        for service in SERVICES {
            self.step(service).await;
            let recipe = self.recipes.service(service, &self.running)?;
            self.launch(recipe)?;
            let addresses = self.ready(service).await?;
            for (listener, address) in addresses {
                self.running.addresses.insert(format!("{service}.{listener}"), address);
            }
            self.recipes.pin(service, &self.running);
        }
        self.write_run_file()
    }

    async fn step(&self, what: &str) {
        let line = self.output.tone(Tone::Faint, &format!("starting {what}"));
        self.say(&line, &serde_json::json!({ "event": "starting", "what": what }));
        // Lets a signal in between two steps.
        tokio::task::yield_now().await;
    }

    fn launch(&mut self, recipe: Recipe) -> Result<(), CliError> {
        let process = recipe.start(&self.dir, &self.lock)?;
        if let Some(id) = process.id() {
            self.running.processes.insert(recipe.name.clone(), id);
        }
        let pauses = Pauses::new(self.longest_pause, Instant::now());
        self.slots.push(Slot { recipe, state: State::Runs(Box::new(process)), pauses });
        Ok(())
    }

    /// An error if the newest process has ended.
    fn check_newest(&mut self) -> Result<(), CliError> {
        match self.slots.last_mut().map(|slot| &mut slot.state) {
            Some(State::Runs(process)) => process.check(),
            Some(State::Pauses(_)) | None => Ok(()),
        }
    }

    /// Waits until `look` finds something, as long as the newest process lives.
    async fn wait<T>(&mut self, what: &str, look: impl Fn(&CellDir) -> Option<T>) -> Result<T, CliError> {
        let until = Instant::now() + START;
        loop {
            if let Some(found) = look(&self.dir) {
                return Ok(found);
            }
            self.check_newest()?;
            if Instant::now() >= until {
                return Err(CliError::new(format!("{what} was not ready within {START:?}"))
                    .fix(format!("read {}", log_file(&self.dir, what).display())));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until a service says that it is ready, and asks where it listens.
    async fn ready(&mut self, service: &str) -> Result<BTreeMap<String, String>, CliError> {
        let file = recipes::address_file(&self.dir, service);
        let admin = self.wait(service, |_| std::fs::read_to_string(&file).ok()).await?;
        let until = Instant::now() + START;
        loop {
            let answer = http::get(&admin, "/ready").await;
            if answer.as_ref().is_ok_and(|(status, _)| status.is_success()) {
                break;
            }
            self.check_newest()?;
            if Instant::now() >= until {
                let conditions = answer.map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
                let conditions = conditions.unwrap_or_else(|error| error.to_string());
                return Err(CliError::new(format!("{service} was not ready within {START:?}: {conditions}"))
                    .fix(format!("read {}", log_file(&self.dir, service).display())));
            }
            tokio::time::sleep(LOOK).await;
        }
        let (_, body) = http::get(&admin, "/info").await?;
        let info: serde_json::Value = serde_json::from_slice(&body)
            .map_err(|error| CliError::caused_by(format!("{service} tells nonsense of itself"), &error))?;
        let addresses =
            info.get("addresses").and_then(serde_json::Value::as_object).cloned().unwrap_or_default();
        Ok(addresses
            .into_iter()
            .filter_map(|(name, address)| Some((name, address.as_str()?.to_owned())))
            .collect())
    }

    fn write_run_file(&self) -> Result<(), CliError> {
        let path = self.dir.run_file();
        let new = path.with_extension("new");
        let text = serde_json::to_string_pretty(&self.running)
            .map_err(|error| CliError::caused_by("run/cell.json", &error))?;
        let mut file = std::fs::File::create(&new).map_err(at(&new))?;
        file.write_all(text.as_bytes()).map_err(at(&new))?;
        std::fs::rename(&new, &path).map_err(at(&path))
    }

    fn tell(&self) -> Result<(), CliError> {
        let up = format!(
            "{} gRPC {}, tokens https://{}",
            self.output.tone(Tone::Good, "the cell is up:"),
            self.running.address("ingress.grpc")?,
            self.running.address("identity.https")?,
        );
        self.say(&up, &serde_json::json!({ "event": "up", "addresses": self.running.addresses }));
        let mut more = vec![format!("logs: {}; stop with Ctrl-C", self.dir.path("logs").display())];
        if !self.dir.path("operator/owner.json").exists() {
            more.push(format!("next: sotto owner claim --cell {}", self.dir.root().display()));
        }
        let _unheard = more.iter().try_for_each(|line| self.output.line(line));
        Ok(())
    }

    /// Starts again what ends by itself, each after a pause of its own, for ever.
    async fn watch(&mut self) -> Result<(), CliError> {
        loop {
            let mut happenings: FuturesUnordered<_> = self
                .slots
                .iter_mut()
                .enumerate()
                .map(|(index, slot)| slot.next().map(move |happening| (index, happening)))
                .collect();
            let happened = tokio::select! {
                happened = happenings.next() => Some(happened),
                () = tokio::time::sleep(NOTE_AGAIN), if self.note_due => None,
            };
            drop(happenings);
            let (index, happening) = match happened {
                None => {
                    self.note_due = self.write_run_file().is_err();
                    continue;
                }
                Some(None) => return Ok(()),
                Some(Some(happened)) => happened,
            };
            match happening {
                Happening::Ended(status) => self.pause(index, &format!("ended by itself ({status})")),
                Happening::Due => self.start_again(index),
            }
        }
    }

    fn pause(&mut self, index: usize, why: &str) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let now = Instant::now();
        let pause = slot.pauses.died(now);
        slot.state = State::Pauses(now + pause);
        let name = &slot.recipe.name;
        let event = serde_json::json!({
            "event": "ended", "process": name, "why": why, "again_after_ms": u64::try_from(pause.as_millis()).ok(),
        });
        let line = format!("{name} {why}; it is started again in {pause:?}");
        self.say(&self.output.tone(Tone::Bad, &line), &event);
    }

    fn start_again(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let recipe = self.recipes.again(slot.recipe.clone(), &self.running);
        let process = match recipe.start(&self.dir, &self.lock) {
            Ok(process) => process,
            Err(error) => {
                self.pause(index, &error.to_string());
                return;
            }
        };
        if let Some(id) = process.id() {
            self.running.processes.insert(recipe.name.clone(), id);
        }
        slot.recipe = recipe;
        slot.state = State::Runs(Box::new(process));
        slot.pauses.started(Instant::now());
        // What runs is worth more than the note of it: a full disk must not stop the cell.
        let written = self.write_run_file();
        self.note_due = written.is_err();
        if let Err(error) = written {
            let line = format!("run/cell.json is out of date: {error}");
            let event = serde_json::json!({ "event": "note_failed", "why": error.to_string() });
            self.say(&self.output.tone(Tone::Bad, &line), &event);
        }
    }

    /// Stops everything, last started first. An error names what had to be killed.
    async fn stop(&mut self) -> Result<(), CliError> {
        let _gone = std::fs::remove_file(self.dir.run_file());
        let mut killed = Vec::new();
        while let Some(Slot { recipe, state, .. }) = self.slots.pop() {
            let ended = match state {
                State::Runs(process) => process.stop(GRACE).await,
                State::Pauses(_) => true,
            };
            if !ended {
                killed.push(recipe.name);
            }
        }
        if killed.is_empty() {
            return Ok(());
        }
        Err(CliError::new(format!("did not end within {GRACE:?} and was killed: {}", killed.join(", ")))
            .fix(format!("read {}", self.dir.path("logs").display())))
    }
}

/// The signals that end `sotto up`.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, CliError> {
        let receive =
            |kind| signal(kind).map_err(|error| CliError::caused_by("signals cannot be received", &error));
        Ok(Self {
            terminate: receive(SignalKind::terminate())?,
            interrupt: receive(SignalKind::interrupt())?,
            hang_up: receive(SignalKind::hangup())?,
        })
    }

    /// Completes at SIGTERM, at Ctrl-C, or when the terminal is closed.
    pub(crate) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }

    /// Completes when a person does not want to wait for the end: Ctrl-C again. Other signals come in pairs (a closed
    /// terminal, a script that stops what it started).
    async fn hurry(&mut self) {
        if self.interrupt.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// The broker's client URL, once it has written its ports file.
pub(crate) fn nats_url(ports: &Path) -> Option<String> {
    let file = std::fs::read_dir(ports)
        .ok()?
        .flatten()
        .find(|entry| entry.path().extension().is_some_and(|extension| extension == "ports"))?;
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    let url = told.get("nats")?.as_array()?.first()?.as_str()?;
    let port = url.rsplit(':').next()?;
    Some(format!("tls://localhost:{port}"))
}

/// The last JSON object of a log beyond its first `before` bytes.
fn last_json(log: &Path, before: u64) -> Option<serde_json::Value> {
    use std::io::{Read as _, Seek as _};
    let mut file = std::fs::File::open(log).ok()?;
    file.seek(std::io::SeekFrom::Start(before)).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let told = text.lines().rev().find(|line| line.starts_with('{'))?;
    serde_json::from_str(told).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_wrote_is_not_taken_for_this_ones() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("simulator.log");
        std::fs::write(&log, "{\"smpp\":\"127.0.0.1:1\"}\n").unwrap();
        let before = std::fs::metadata(&log).unwrap().len();
        assert_eq!(last_json(&log, before), None);
        let mut file = std::fs::File::options().append(true).open(&log).unwrap();
        writeln!(file, "{{\"smpp\":\"127.0.0.1:2\"}}").unwrap();
        assert_eq!(last_json(&log, before).unwrap()["smpp"], "127.0.0.1:2");
    }
}
