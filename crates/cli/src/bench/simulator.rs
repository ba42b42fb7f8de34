//! Simulated carriers: each a process, asked over its admin address.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::process;
use crate::{CliError, http};

/// The most that a simulator tells of its arrivals: 200,000 of them.
const ARRIVALS: usize = 16 << 20;

/// How long receipts may take to be taken once the client has heard of everything.
const RECEIPTS: Duration = Duration::from_secs(5);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A running one.
pub(super) struct Simulator {
    process: Child,
    smpp: String,
    admin: String,
}

/// What it counted.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Counters {
    /// `submit_sm` received.
    pub(super) submits: u64,
    /// Parts taken that differ.
    pub(super) parts: u64,
    /// Parts taken again.
    pub(super) duplicates: u64,
    /// Receipts that were taken from it.
    pub(super) receipts_acked: u64,
    /// Links bound now.
    pub(super) links: u64,
}

impl Counters {
    fn each(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            submits: with(self.submits, other.submits),
            parts: with(self.parts, other.parts),
            duplicates: with(self.duplicates, other.duplicates),
            receipts_acked: with(self.receipts_acked, other.receipts_acked),
            links: with(self.links, other.links),
        }
    }

    /// What was counted since.
    pub(super) fn since(self, before: Self) -> Self {
        self.each(before, u64::saturating_sub)
    }
}

/// Where a simulator says that it listens.
#[derive(Deserialize)]
struct Addresses {
    smpp: String,
    admin: String,
}

impl Simulator {
    /// Starts one on free ports of loopback, with these arguments besides.
    pub(super) async fn start(arguments: &[&str]) -> Result<Self, CliError> {
        let mut command = Command::new(process::sibling("sotto-simulator")?);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(arguments);
        // Ctrl-C is ours to hear: it is stopped after what is bound to it.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut process = process::start(&mut command, "the simulator")?;
        let mut line = String::new();
        if let Some(told) = process.stdout.take() {
            let read = BufReader::new(told).read_line(&mut line).await;
            read.map_err(|error| CliError::caused_by("the simulator tells nothing", &error))?;
        }
        let Addresses { smpp, admin } = serde_json::from_str(&line)
            .map_err(|error| CliError::caused_by("the simulator did not start", &error))?;
        Ok(Self { process, smpp, admin })
    }

    /// The port of its SMPP.
    pub(super) fn port(&self) -> &str {
        self.smpp.rsplit(':').next().unwrap_or_default()
    }

    /// Its process id.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        let (_, body) = http::get_large(&self.admin, path, ARRIVALS).await?;
        serde_json::from_slice(&body)
            .map_err(|error| CliError::caused_by("what the simulator tells cannot be read", &error))
    }

    async fn counters(&self) -> Result<Counters, CliError> {
        self.ask("/counters").await
    }

    /// Posts to a path of its admin address.
    async fn post(&self, path: &str, body: &Value) -> Result<(), CliError> {
        let (status, body) = http::post(&self.admin, path, body).await?;
        if status.is_success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&body).into_owned();
        Err(CliError::new(format!("the simulator refuses: {why}"))
            .fix("docs/simulator.md names the fields and what they take"))
    }

    pub(super) async fn stop(mut self) -> Result<(), CliError> {
        process::stop(&mut self.process).await
    }
}

/// What all counted together.
pub(super) async fn counters(simulators: &[Simulator]) -> Result<Counters, CliError> {
    let mut sum = Counters::default();
    for simulator in simulators {
        sum = sum.each(simulator.counters().await?, u64::saturating_add);
    }
    Ok(sum)
}

/// The same once every part's receipt was taken, which the last client to hear may be ahead of; or after a while.
pub(super) async fn settled(simulators: &[Simulator]) -> Result<Counters, CliError> {
    let until = Instant::now() + RECEIPTS;
    loop {
        let counted = counters(simulators).await?;
        let taken = counted.parts.saturating_add(counted.duplicates);
        if counted.receipts_acked >= taken || Instant::now() >= until {
            return Ok(counted);
        }
        sleep(LOOK).await;
    }
}

/// When each recipient's message came to one of them, microseconds since the Unix epoch.
pub(super) async fn arrivals(simulators: &[Simulator]) -> Result<BTreeMap<String, i64>, CliError> {
    let mut all = BTreeMap::new();
    for simulator in simulators {
        all.extend(simulator.ask::<Vec<(String, i64)>>("/arrivals?limit=200000").await?);
    }
    Ok(all)
}

/// Posts to all of them.
pub(super) async fn post(simulators: &[Simulator], path: &str, body: &Value) -> Result<(), CliError> {
    for simulator in simulators {
        simulator.post(path, body).await?;
    }
    Ok(())
}
