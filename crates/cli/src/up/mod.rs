//! `sotto up`: runs a cell on one machine, one child process a service.
//!
//! Order: broker, Redis, streams, then the services, each waited for until it is ready. A child that ends by itself is
//! started again after a back-off, at the addresses it had. A signal stops everything in reverse order.

mod child;
mod recipes;

pub(crate) use recipes::{connect, https_address};

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use self::child::{Process, Recipe};
use crate::{
    CliError, Output, Tone,
    cell::{CellDir, Running, SERVICES},
    error::at,
    http,
};

/// How long a process may take to become ready.
const START: Duration = Duration::from_secs(60);

/// How often readiness is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long a process may take to end. Services drain within 20 seconds.
const GRACE: Duration = Duration::from_secs(25);

/// First pause before a process that died is started again; doubled at each death, at most a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// A process that lived this long starts with the first pause again.
const STEADY: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct UpOptions {
    /// The carriers file; none: the simulator, and a carriers file that points at it.
    pub(crate) carriers: Option<PathBuf>,
    /// Where clients connect; port 0 lets the system choose.
    pub(crate) listen: std::net::SocketAddr,
    /// Where tokens are asked for; port 0 lets the system choose.
    pub(crate) token_listen: std::net::SocketAddr,
    /// Where the folder of the services' programs is; none: beside this program.
    pub(crate) programs: Option<PathBuf>,
}

/// Runs the cell until it is told to stop.
pub(crate) async fn up(dir: &CellDir, options: &UpOptions, output: &Output) -> Result<(), CliError> {
    let cell = dir.open()?;
    let _only = lock(dir)?;
    let mut supervisor = Supervisor {
        dir: dir.clone(),
        recipes: recipes::Recipes::new(dir, &cell, options)?,
        processes: Vec::new(),
        running: Running {
            supervisor: std::process::id(),
            nats: String::new(),
            processes: BTreeMap::new(),
            addresses: BTreeMap::new(),
        },
    };
    // Asked for before anything is started, so that an early signal is not lost.
    let mut terminate = signals()?;
    let started = tokio::select! {
        started = supervisor.start(output) => started,
        () = &mut terminate => Err(CliError::new("stopped while it started")),
    };
    let result = match started {
        Ok(()) => {
            supervisor.tell(output)?;
            supervisor.watch(terminate).await
        }
        Err(error) => Err(error),
    };
    output.line("stopping")?;
    supervisor.stop().await;
    result
}

struct Supervisor {
    dir: CellDir,
    recipes: recipes::Recipes,
    /// In the order of their start.
    processes: Vec<(Recipe, Process)>,
    running: Running,
}

impl Supervisor {
    async fn start(&mut self, output: &Output) -> Result<(), CliError> {
        self.step(output, "nats-server").await?;
        let recipe = self.recipes.nats()?;
        self.launch(recipe)?;
        let ports = self.recipes.nats_ports_dir();
        self.running.nats = self.wait("nats-server", |_| nats_url(&ports)).await?;

        self.step(output, "redis-server").await?;
        let (recipe, address) = self.recipes.redis()?;
        self.launch(recipe)?;
        self.running.addresses.insert("redis".to_owned(), address.clone());
        let probe = address.clone();
        self.wait("redis-server", move |_| std::net::TcpStream::connect(&probe).ok().map(|_| probe.clone()))
            .await?;

        self.step(output, "streams").await?;
        self.recipes.provision(&self.running.nats).await?;

        if let Some(recipe) = self.recipes.simulator() {
            self.step(output, "simulator").await?;
            self.launch(recipe)?;
            let log = self.dir.path("logs/simulator.log");
            let told = self.wait("simulator", |_| last_json(&log)).await?;
            for name in ["smpp", "admin"] {
                let address = told.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
                self.running.addresses.insert(format!("simulator.{name}"), address.to_owned());
            }
            self.recipes.write_simulator_carriers(self.running.address("simulator.smpp")?)?;
        }
        for service in SERVICES {
            self.step(output, service).await?;
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

    async fn step(&self, output: &Output, what: &str) -> Result<(), CliError> {
        output.line(output.tone(Tone::Faint, &format!("starting {what}")))?;
        // Lets a signal in between two steps.
        tokio::task::yield_now().await;
        Ok(())
    }

    fn launch(&mut self, recipe: Recipe) -> Result<(), CliError> {
        let process = recipe.start(&self.dir)?;
        if let Some(id) = process.id() {
            self.running.processes.insert(recipe.name.clone(), id);
        }
        self.processes.push((recipe, process));
        Ok(())
    }

    /// Waits until `look` finds something, as long as the newest process lives.
    async fn wait<T>(&mut self, what: &str, look: impl Fn(&CellDir) -> Option<T>) -> Result<T, CliError> {
        let until = Instant::now() + START;
        loop {
            if let Some(found) = look(&self.dir) {
                return Ok(found);
            }
            if let Some((_, process)) = self.processes.last_mut() {
                process.check()?;
            }
            if Instant::now() >= until {
                return Err(CliError::new(format!("{what} was not ready within {START:?}"))
                    .fix(format!("read {}", self.dir.path(format!("logs/{what}.log")).display())));
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
            if let Some((_, process)) = self.processes.last_mut() {
                process.check()?;
            }
            if Instant::now() >= until {
                let conditions = answer.map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
                let conditions = conditions.unwrap_or_else(|error| error.to_string());
                return Err(CliError::new(format!("{service} was not ready within {START:?}: {conditions}"))
                    .fix(format!("read {}", self.dir.path(format!("logs/{service}.log")).display())));
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

    fn tell(&self, output: &Output) -> Result<(), CliError> {
        output.json(&serde_json::json!({ "event": "up", "addresses": self.running.addresses }))?;
        let root = self.dir.root().display();
        output.line(format!(
            "{} gRPC {}, tokens https://{}",
            output.tone(Tone::Good, "the cell is up:"),
            self.running.address("ingress.grpc")?,
            self.running.address("identity.https")?,
        ))?;
        output.line(format!("logs: {}; stop with Ctrl-C", self.dir.path("logs").display()))?;
        if self.dir.path("operator/owner.json").exists() {
            return Ok(());
        }
        output.line(format!("next: sotto owner claim --cell {root}"))
    }

    /// Starts again what ends by itself, until a signal comes.
    async fn watch(&mut self, mut terminate: impl Future<Output = ()> + Unpin) -> Result<(), CliError> {
        let mut pauses: BTreeMap<String, (Duration, Instant)> = BTreeMap::new();
        loop {
            let dead = {
                let mut ends: FuturesUnordered<_> = self
                    .processes
                    .iter_mut()
                    .enumerate()
                    .map(|(index, (_, process))| process.ended().map(move |status| (index, status)))
                    .collect();
                tokio::select! {
                    () = &mut terminate => return Ok(()),
                    Some(end) = ends.next() => end,
                }
            };
            let (index, status) = dead;
            let Some((recipe, _)) = self.processes.get(index) else { continue };
            let recipe = recipe.clone();
            let status = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
            tracing::warn!(process = recipe.name, status, "ended by itself and is started again");
            let now = Instant::now();
            let (pause, since) = pauses.get(&recipe.name).copied().unwrap_or((FIRST_PAUSE, now));
            let pause = if now.duration_since(since) > STEADY { FIRST_PAUSE } else { pause };
            pauses.insert(recipe.name.clone(), ((pause * 2).min(STEADY), now));
            tokio::select! {
                () = &mut terminate => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            let recipe = self.recipes.again(recipe, &self.running);
            let process = recipe.start(&self.dir)?;
            if let Some(id) = process.id() {
                self.running.processes.insert(recipe.name.clone(), id);
            }
            if let Some(slot) = self.processes.get_mut(index) {
                *slot = (recipe, process);
            }
            self.write_run_file()?;
        }
    }

    /// Stops everything, last started first.
    async fn stop(&mut self) {
        let _gone = std::fs::remove_file(self.dir.run_file());
        while let Some((_, process)) = self.processes.pop() {
            process.stop(GRACE).await;
        }
    }
}

/// Completes at SIGTERM or SIGINT.
fn signals() -> Result<impl Future<Output = ()> + Unpin, CliError> {
    let failed = |error: std::io::Error| CliError::caused_by("signals cannot be received", &error);
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(Box::pin(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }))
}

/// One `sotto up` a cell: the lock lives as long as the file.
fn lock(dir: &CellDir) -> Result<std::fs::File, CliError> {
    let path = dir.path("run/lock");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(at(&path))?;
    file.try_lock().map_err(|_| {
        CliError::new(format!("the cell in {} is running already", dir.root().display()))
            .fix("stop it first (Ctrl-C where it runs)")
    })?;
    Ok(file)
}

/// The broker's client URL, once it has written its ports file.
fn nats_url(ports: &Path) -> Option<String> {
    let file = std::fs::read_dir(ports)
        .ok()?
        .flatten()
        .find(|entry| entry.path().extension().is_some_and(|extension| extension == "ports"))?;
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    let url = told.get("nats")?.as_array()?.first()?.as_str()?;
    let port = url.rsplit(':').next()?;
    Some(format!("tls://localhost:{port}"))
}

/// The last line of a log, if it is a JSON object.
fn last_json(log: &Path) -> Option<serde_json::Value> {
    let text = std::fs::read_to_string(log).ok()?;
    let told = text.lines().rev().find(|line| line.starts_with('{'))?;
    serde_json::from_str(told).ok()
}
