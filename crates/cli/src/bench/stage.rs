//! What is measured: a cell of its own in a temporary folder, run by `sotto up` as a user runs it, and a plain broker.

use std::{
    collections::BTreeMap, io::Write as _, num::NonZeroU16, path::Path, process::Stdio, time::Duration,
};

use serde_json::Value;
use sotto_core::{CellId, Clock, Sensitive, Shards};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::load::SENDER;
use crate::{
    CliError, Output,
    cell::{CellDir, Layout},
    commands::{self, client::NewClient},
    error::at,
    http,
    init::{self, NewCell},
    up::{nats_url, tool},
};

/// How long a cell may take to come up.
const START: Duration = Duration::from_secs(120);

/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(120);

/// How often it is looked whether it did.
const LOOK: Duration = Duration::from_millis(50);

/// What `sotto init` makes unless it is told otherwise.
const SHARDS: Shards = Shards::new(NonZeroU16::MIN.saturating_add(3));

/// The client's name.
const CLIENT: &str = "bench";

/// The most that the simulator tells of its arrivals: 200,000 of them.
const ARRIVALS: usize = 16 << 20;

/// A running cell.
pub(super) struct Stage {
    dir: CellDir,
    up: Child,
    /// Removed at the end.
    folder: TempDir,
}

impl Stage {
    /// Makes and starts one on the disk of `folder`, with a client whose rate nothing bounds.
    pub(super) async fn start(
        folder: &Path,
        id: &CellId,
        tps: u16,
        clock: &dyn Clock,
    ) -> Result<Self, CliError> {
        let folder = TempDir::with_prefix_in("sotto-bench-", folder).map_err(at(folder))?;
        let dir = CellDir::new(folder.path().join("cell"));
        let new = NewCell {
            id: id.clone(),
            shards: SHARDS,
            hosts: Vec::new(),
            issuer: None,
            layout: Layout::Machine,
        };
        init::init(&dir, &new, clock)?;
        // One client stands for all of a cell's: it gets the rate of all.
        let config = dir.config("ingress");
        let mut file = std::fs::OpenOptions::new().append(true).open(&config).map_err(at(&config))?;
        file.write_all(b"\n[rate]\nper_second = 1000000\nburst = 1000000\n").map_err(at(&config))?;
        let program = std::env::current_exe().map_err(|error| CliError::caused_by("this program", &error))?;
        let up = Command::new(program)
            .arg("--cell")
            .arg(dir.root())
            .args(["up", "--listen", "127.0.0.1:0", "--token-listen", "127.0.0.1:0"])
            .args(["--simulator-tps", &tps.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| CliError::caused_by("the cell could not be started", &error))?;
        let mut stage = Self { dir, up, folder };
        stage.wait().await?;
        let unheard = Output::unheard();
        commands::owner::claim(&stage.dir, &unheard).await?;
        let client = NewClient::new(CLIENT, "bench", SENDER);
        commands::client::create(&stage.dir, client, clock, &unheard).await?;
        Ok(stage)
    }

    async fn wait(&mut self) -> Result<(), CliError> {
        let until = Instant::now() + START;
        while self.dir.running().is_err() {
            let ended = self.up.try_wait().map_err(|error| CliError::caused_by("the cell", &error))?;
            if ended.is_some() || Instant::now() >= until {
                return Err(
                    CliError::new("the cell did not come up").fix("look why with: sotto init, sotto up")
                );
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) const fn dir(&self) -> &CellDir {
        &self.dir
    }

    /// A fresh token of the client.
    pub(super) async fn token(&self, clock: &dyn Clock) -> Result<Sensitive<String>, CliError> {
        commands::send::client(&self.dir, CLIENT)?.token(&self.dir, "message:send message:read", clock).await
    }

    /// Its processes and ourselves, the client.
    pub(super) fn processes(&self) -> Result<BTreeMap<String, u32>, CliError> {
        let mut processes = self.dir.running()?.processes;
        processes.insert("client".to_owned(), std::process::id());
        Ok(processes)
    }

    async fn ask(&self, path: &str) -> Result<Value, CliError> {
        let address = self.dir.running()?.address("simulator.admin")?.to_owned();
        let (_, body) = http::get_large(&address, path, ARRIVALS).await?;
        serde_json::from_slice(&body)
            .map_err(|error| CliError::caused_by("what the simulator tells cannot be read", &error))
    }

    /// One of the simulator's counters.
    pub(super) async fn counters(&self) -> Result<Value, CliError> {
        self.ask("/counters").await
    }

    /// When each recipient's message came to the simulator, microseconds since the Unix epoch.
    pub(super) async fn arrivals(&self) -> Result<BTreeMap<String, i64>, CliError> {
        let told = self.ask("/arrivals?limit=200000").await?;
        serde_json::from_value::<Vec<(String, i64)>>(told)
            .map(|told| told.into_iter().collect())
            .map_err(|error| CliError::caused_by("what the simulator tells cannot be read", &error))
    }

    /// Changes the simulator's behaviour.
    pub(super) async fn behave(&self, patch: &Value) -> Result<(), CliError> {
        let address = self.dir.running()?.address("simulator.admin")?.to_owned();
        http::post(&address, "/behaviour", patch).await.map(drop)
    }

    /// Stops the cell and removes its folder.
    pub(super) async fn stop(mut self) -> Result<(), CliError> {
        stop(&mut self.up).await?;
        self.folder
            .close()
            .map_err(|error| CliError::caused_by("the cell's folder could not be removed", &error))
    }
}

/// Asks a process to end, and waits.
async fn stop(process: &mut Child) -> Result<(), CliError> {
    let failed = |error: &dyn std::error::Error| CliError::caused_by("a process could not be stopped", error);
    if let Some(pid) =
        process.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
    {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|error| failed(&error))?;
    }
    tokio::time::timeout(STOP, process.wait())
        .await
        .map_err(|error| failed(&error))?
        .map(drop)
        .map_err(|error| failed(&error))
}

/// A broker of its own with the cell's setting that costs most: every write is on the disk before it is acknowledged.
pub(super) struct Broker {
    process: Child,
    url: String,
    folder: TempDir,
}

impl Broker {
    pub(super) async fn start(folder: &Path) -> Result<Self, CliError> {
        let folder = TempDir::with_prefix_in("sotto-bench-", folder).map_err(at(folder))?;
        let config = folder.path().join("nats.conf");
        let text = format!(
            "listen: \"127.0.0.1:-1\"\njetstream {{ store_dir: \"{}\", sync_interval: always }}\n",
            folder.path().join("store").display()
        );
        std::fs::write(&config, text).map_err(at(&config))?;
        let ports = folder.path().join("ports");
        std::fs::create_dir(&ports).map_err(at(&ports))?;
        let process = Command::new(tool("nats-server")?)
            .arg("--config")
            .arg(&config)
            .arg("--ports_file_dir")
            .arg(&ports)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| CliError::caused_by("nats-server could not be started", &error))?;
        let until = Instant::now() + START;
        let url = loop {
            if let Some(url) = nats_url(&ports) {
                break url.replace("tls://localhost", "nats://127.0.0.1");
            }
            if Instant::now() >= until {
                return Err(CliError::new("nats-server did not come up"));
            }
            sleep(LOOK).await;
        };
        Ok(Self { process, url, folder })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn stop(mut self) -> Result<(), CliError> {
        stop(&mut self.process).await?;
        self.folder
            .close()
            .map_err(|error| CliError::caused_by("the broker's folder could not be removed", &error))
    }
}

/// Median and 99th percentile of a 4 KiB write and its fsync, microseconds.
pub(super) fn fsync(folder: &Path) -> Result<(u32, u32), CliError> {
    const WRITES: usize = 200;
    let mut file = tempfile::tempfile_in(folder).map_err(at(folder))?;
    let block = [0x5A_u8; 4096];
    let mut took = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let start = Instant::now();
        file.write_all(&block).and_then(|()| file.sync_data()).map_err(at(folder))?;
        took.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok((super::percentile(&mut took, 50), super::percentile(&mut took, 99)))
}
