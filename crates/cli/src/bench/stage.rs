//! What is measured: a cell of its own in a temporary folder, run by `sotto up` as a user runs it, with simulated carriers.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    num::NonZeroU16,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};
use sotto_core::{Clock, Replicas, Sensitive, Shards};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{
    Bench,
    load::SENDER,
    over_nats::Nats,
    process,
    simulator::{self, Counters, Simulator},
};
use crate::{
    CliError, Output,
    cell::{CellDir, DOMAIN, Layout},
    commands::{self, carriers::Stopped, client::NewClient},
    error::at,
    http,
    init::{self, NewCell},
    up::{Contract, simulator_account},
};

/// What `sotto init` makes unless it is told otherwise.
pub(super) const SHARDS: Shards = Shards::new(NonZeroU16::MIN);

/// The client's name, its tenant's, and the cell's.
const CLIENT: &str = "bench";

/// Where all numbers are.
const PREFIX: &str = "84";

/// A running cell.
pub(super) struct Stage {
    dir: CellDir,
    up: Child,
    simulators: Vec<Simulator>,
    /// Connectors beside the cell's own.
    connectors: Vec<Child>,
    /// Where these are asked.
    addresses: Vec<String>,
    nats: Option<Nats>,
    /// Removed at the end.
    folder: TempDir,
}

impl Stage {
    /// Makes and starts one on the disk of `folder`, with a client whose rate nothing bounds.
    pub(super) async fn start(folder: &Path, asked: &Bench, clock: &dyn Clock) -> Result<Self, CliError> {
        let folder = TempDir::with_prefix_in("sotto-bench-", folder).map_err(at(folder))?;
        let dir = CellDir::new(folder.path().join("cell"));
        let new = NewCell {
            id: CLIENT.parse().map_err(|_| CliError::new("the cell's name"))?,
            shards: SHARDS,
            replicas: Replicas::One,
            hosts: Vec::new(),
            issuer: None,
            layout: Layout::Machine,
            domain: DOMAIN.to_owned(),
            hsm: false,
        };
        init::init(&dir, &new, clock)?;
        // One client stands for all of a cell's: it gets the rate of all.
        let config = dir.config("ingress");
        let mut file = std::fs::OpenOptions::new().append(true).open(&config).map_err(at(&config))?;
        file.write_all(b"\n[rate]\nper_second = 1000000\nburst = 1000000\n").map_err(at(&config))?;
        let simulators = simulators(&dir, asked).await?;
        asked.timeline()?.try_out(&simulators).await?;
        let carriers = carriers_file(&dir, &simulators, asked)?;
        let mut command = Command::new(
            std::env::current_exe().map_err(|error| CliError::caused_by("this program", &error))?,
        );
        command.arg("--cell").arg(dir.root());
        command.args(["up", "--listen", "127.0.0.1:0", "--token-listen", "127.0.0.1:0", "--carriers"]);
        command.arg(carriers).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let up = process::start(&mut command, "the cell")?;
        let (connectors, addresses) = (Vec::new(), Vec::new());
        let mut stage = Self { dir, up, simulators, connectors, addresses, nats: None, folder };
        stage.come_up(asked, clock).await?;
        Ok(stage)
    }

    async fn come_up(&mut self, asked: &Bench, clock: &dyn Clock) -> Result<(), CliError> {
        let (dir, up) = (&self.dir, &mut self.up);
        tokio::select! {
            // Why it ended it has told on standard error.
            _ended = up.wait() => return Err(CliError::new("the cell did not come up")),
            ready = process::wait("the cell", async || dir.running().ok()) => ready.map(drop)?,
        }
        let unheard = Output::unheard();
        commands::owner::claim(&self.dir, &unheard).await?;
        let client = NewClient::new(CLIENT, CLIENT, SENDER);
        commands::client::create(&self.dir, client, clock, &unheard).await?;
        if asked.nats {
            self.nats = Some(Nats::connect(&self.dir, CLIENT, CLIENT, clock).await?);
        }
        for number in 2..=asked.connectors {
            let (connector, address) = self.connector(number).await?;
            self.connectors.push(connector);
            self.addresses.push(address);
        }
        Ok(())
    }

    /// Another connector with the surroundings of the cell's own, once it is bound to each carrier; and where it is asked.
    async fn connector(&self, number: u8) -> Result<(Child, String), CliError> {
        let name = format!("carrier-{number}");
        let own = self.dir.running()?.processes.get("carrier").copied().unwrap_or_default();
        let environment = PathBuf::from(format!("/proc/{own}/environ"));
        let environment = std::fs::read_to_string(&environment).map_err(at(&environment))?;
        let path = self.dir.path(format!("logs/{name}.log"));
        let log = std::fs::File::create(&path).map_err(at(&path))?;
        let errors = log.try_clone().map_err(at(&path))?;
        let mut command = Command::new(process::sibling("sotto-carrier")?);
        command.args(["--config", "config/carrier.toml"]);
        command.arg(format!("--die-with-parent={}", std::process::id())).current_dir(self.dir.root());
        command.env_clear().envs(environment.split('\0').filter_map(|pair| pair.split_once('=')));
        let told = self.dir.path(format!("run/{name}.admin"));
        command.env("SOTTO__ADMIN__ADDRESS_FILE", &told).env("SOTTO__CONNECTOR__REPLICA", &name);
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let connector = process::start(&mut command, &name)?;
        process::wait(&name, async || {
            let log = std::fs::read_to_string(&path).ok()?;
            (log.matches("bound account=").count() >= self.simulators.len()).then_some(())
        })
        .await?;
        let admin = std::fs::read_to_string(&told).map_err(at(&told))?;
        let (_, info) = http::get(&admin, "/info").await?;
        let info: Value = serde_json::from_slice(&info)
            .map_err(|error| CliError::caused_by(format!("{name} tells nonsense of itself"), &error))?;
        let address = info.pointer("/addresses/grpc").and_then(Value::as_str).unwrap_or_default();
        Ok((connector, address.to_owned()))
    }

    pub(super) const fn dir(&self) -> &CellDir {
        &self.dir
    }

    pub(super) const fn nats(&self) -> Option<&Nats> {
        self.nats.as_ref()
    }

    pub(super) fn simulators(&self) -> &[Simulator] {
        &self.simulators
    }

    /// A fresh token of the client.
    pub(super) async fn token(&self, clock: &dyn Clock) -> Result<Sensitive<String>, CliError> {
        commands::send::client(&self.dir, CLIENT)?.token(&self.dir, "message:send message:read", clock).await
    }

    /// Its processes, the simulators and ourselves, the client.
    pub(super) fn processes(&self) -> Result<BTreeMap<String, u32>, CliError> {
        let mut processes = self.dir.running()?.processes;
        let simulators = self.simulators.iter().map(Simulator::pid);
        let simulators = (1..).zip(simulators).map(|(number, pid)| (format!("simulator-{number}"), pid));
        let connectors = self.connectors.iter().map(Child::id);
        let connectors = (2..).zip(connectors).map(|(number, pid)| (format!("carrier-{number}"), pid));
        let others = simulators.chain(connectors);
        processes.extend(others.filter_map(|(name, pid)| Some((name, pid?))));
        processes.insert("client".to_owned(), std::process::id());
        Ok(processes)
    }

    /// What the simulators counted.
    pub(super) async fn counters(&self) -> Result<Counters, CliError> {
        simulator::counters(&self.simulators).await
    }

    /// When each recipient's message came to a simulator, microseconds since the Unix epoch.
    pub(super) async fn arrivals(&self) -> Result<BTreeMap<String, i64>, CliError> {
        simulator::arrivals(&self.simulators).await
    }

    /// Changes the simulators' behaviour.
    pub(super) async fn behave(&self, patch: &Value) -> Result<(), CliError> {
        simulator::post(&self.simulators, "/behaviour", patch).await
    }

    /// Stops what goes to each carrier, as an operator does, once every connector says so; or lifts that.
    pub(super) async fn hold(&self, stopped: bool) -> Result<(), CliError> {
        for number in 1..=self.simulators.len() {
            let account = Stopped::Carrier(account(number));
            let unheard = Output::unheard();
            commands::carriers::stop(&self.dir, account, !stopped, CLIENT.to_owned(), &unheard).await?;
        }
        if !stopped {
            return Ok(());
        }
        let own = self.dir.running()?.address("carrier.grpc")?.to_owned();
        for address in std::iter::once(&own).chain(&self.addresses) {
            process::wait("the stop to be heeded", async || {
                let bounds = commands::carriers::bounds(&self.dir, address).await.ok()?;
                bounds.iter().all(|bound| bound == "stopped").then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// Stops everything and removes its folder.
    pub(super) async fn stop(mut self) -> Result<(), CliError> {
        for connector in &mut self.connectors {
            process::stop(connector).await?;
        }
        process::stop(&mut self.up).await?;
        for simulator in self.simulators {
            simulator.stop().await?;
        }
        process::remove(self.folder)
    }
}

/// The account of a simulator, from 1.
fn account(number: usize) -> String {
    format!("simulator-{number}")
}

async fn simulators(dir: &CellDir, asked: &Bench) -> Result<Vec<Simulator>, CliError> {
    let behaviour =
        json!({ "receipt_delay_ms": asked.receipt_ms, "response_delay_ms": asked.answer_ms }).to_string();
    let path = |inside: &str| dir.path(inside).display().to_string();
    let (cert, key) = (path("tls/simulator.pem"), path("tls/simulator.key"));
    let who = format!("sotto:{}", path("secrets/simulator"));
    let arguments =
        ["--account", &who, "--tls-cert", &cert, "--tls-key", &key, "--behaviour", behaviour.as_str()];
    let mut simulators = Vec::new();
    for _ in 0..asked.carriers {
        simulators.push(Simulator::start(&arguments).await?);
    }
    Ok(simulators)
}

/// Writes a carriers file with an account for each simulator, over which a route spreads the messages.
fn carriers_file(dir: &CellDir, simulators: &[Simulator], asked: &Bench) -> Result<PathBuf, CliError> {
    // As many binds as connectors, so that each has one of its own.
    let contract = Contract { binds: asked.connectors, window: asked.window, tps: asked.tps };
    let (mut text, mut shares) = (String::new(), Vec::new());
    for (number, simulator) in (1..).zip(simulators) {
        let id = account(number);
        // Writing to a String cannot fail.
        let entry = simulator_account(&id, "localhost", simulator.port(), "", contract);
        let _written = writeln!(text, "{entry}");
        shares.push(format!("{{ id = \"{id}\", weight = 1 }}"));
    }
    let _written = writeln!(text, "[[route]]\nprefix = \"{PREFIX}\"\naccounts = [{}]", shares.join(", "));
    let path = dir.path("carriers.toml");
    std::fs::write(&path, text).map_err(at(&path))?;
    Ok(path)
}
