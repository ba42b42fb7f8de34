//! Kannel between the same client and the same carrier: bearerbox and smsbox of Debian, with its file store.
//!
//! It is given its best: nothing is logged, reports are kept in memory, and it never waits for the disk.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde::Serialize;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::{
    Bench,
    http_load::{self, Sent, Target},
    process,
    simulator::{self, Simulator},
    usage,
};
use crate::{CliError, error::at, http};

/// Messages before anything counts.
const WARM_UP: u32 = 500;

/// Who binds to the simulator.
const SYSTEM_ID: &str = "kannel";
const PASSWORD: &str = "the-pass";

/// What one run of it showed.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    /// Accepted messages.
    pub(super) messages: u32,
    pub(super) refused: u32,
    pub(super) accepted_per_s: f64,
    /// From the first request to the last delivery report at the client.
    pub(super) delivered_per_s: f64,
    /// Parts that the simulator was given, and given twice; receipts that were taken from it; reports of "delivered" that
    /// the client got.
    pub(super) unique: u64,
    pub(super) duplicates: u64,
    pub(super) receipts: u64,
    pub(super) reports: u32,
    /// Seconds of processor time for 1,000 messages.
    #[serde(rename = "cpu_s_per_1000")]
    pub(super) cpu: BTreeMap<String, f64>,
    #[serde(rename = "peak_rss_bytes")]
    pub(super) peak: BTreeMap<String, u64>,
}

impl Run {
    /// Whether each message went once, and came to its end.
    pub(super) fn counts(&self) -> bool {
        let all = u64::from(self.messages);
        self.messages > 0
            && (self.unique, self.receipts, u64::from(self.reports), self.duplicates) == (all, all, all, 0)
    }

    /// Processor time of both boxes.
    pub(super) fn cpu(&self) -> f64 {
        self.cpu.values().sum()
    }
}

/// Where its programs are.
#[derive(Debug)]
pub(super) struct Programs {
    bearerbox: PathBuf,
    smsbox: PathBuf,
}

impl Programs {
    pub(super) fn find() -> Result<Self, CliError> {
        Ok(Self { bearerbox: program("bearerbox")?, smsbox: program("smsbox")? })
    }
}

/// Debian puts them where only root looks.
fn program(name: &str) -> Result<PathBuf, CliError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.find_map(|folder| Some(folder.join(name)).filter(|program| program.is_file())).ok_or_else(|| {
        CliError::new(format!("Kannel's {name} is not installed on this machine"))
            .fix("apt-get install kannel, or: make bench-peers, which does it")
    })
}

/// Ports of its listeners.
struct Ports {
    admin: u16,
    inner: u16,
    sendsms: u16,
}

/// Both boxes, and the carrier that they are bound to.
struct Kannel {
    bearerbox: Child,
    smsbox: Child,
    simulator: Simulator,
    ports: Ports,
    folder: TempDir,
}

/// Starts it, measures, and stops it whatever happened.
pub(super) async fn measure(folder: &Path, programs: &Programs, asked: &Bench) -> Result<Run, CliError> {
    let kannel = Kannel::start(folder, programs, asked).await?;
    let measured = kannel.run(asked).await;
    let stopped = kannel.stop().await;
    let run = measured?;
    stopped.map(|()| run)
}

impl Kannel {
    async fn start(folder: &Path, programs: &Programs, asked: &Bench) -> Result<Self, CliError> {
        let folder = TempDir::with_prefix_in("sotto-bench-", folder).map_err(at(folder))?;
        let path = |name: &str| folder.path().join(name);
        let (password, config) = (path("password"), path("kannel.conf"));
        std::fs::write(&password, PASSWORD).map_err(at(&password))?;
        let account = format!("{SYSTEM_ID}:{}", password.display());
        let behaviour =
            serde_json::json!({ "receipt_delay_ms": asked.receipt_ms, "response_delay_ms": asked.answer_ms });
        let behaviour = behaviour.to_string();
        let simulator = Simulator::start(&["--account", &account, "--behaviour", &behaviour]).await?;
        let ports = Ports {
            admin: process::free_port()?,
            inner: process::free_port()?,
            sendsms: process::free_port()?,
        };
        let text = configuration(&ports, simulator.port(), &path("store"), asked.window);
        std::fs::write(&config, text).map_err(at(&config))?;
        let launch = |program: &Path, name: &str| {
            let mut command = Command::new(program);
            // 4: panics alone.
            command.args(["-v", "4"]).arg(&config).current_dir(folder.path()).process_group(0);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            process::start(&mut command, name)
        };
        let bearerbox = launch(&programs.bearerbox, "bearerbox")?;
        let admin = format!("127.0.0.1:{}", ports.admin);
        process::wait("Kannel's bind", async || {
            let (_, body) = http::get(&admin, "/status.xml?password=admin").await.ok()?;
            String::from_utf8_lossy(&body).contains("<status>online").then_some(())
        })
        .await?;
        let smsbox = launch(&programs.smsbox, "smsbox")?;
        let kannel = Self { bearerbox, smsbox, simulator, ports, folder };
        process::wait("smsbox", async || TcpStream::connect(kannel.sendsms()).await.ok()).await?;
        Ok(kannel)
    }

    fn sendsms(&self) -> String {
        format!("127.0.0.1:{}", self.ports.sendsms)
    }

    async fn run(&self, asked: &Bench) -> Result<Run, CliError> {
        let address = self.sendsms();
        let target = Target { address: &address, connections: usize::from(asked.peer_connections) };
        http_load::send(&target, 0, WARM_UP).await?;
        let pids = [("bearerbox", self.bearerbox.id()), ("smsbox", self.smsbox.id())];
        let pids: BTreeMap<String, u32> =
            pids.into_iter().filter_map(|(name, pid)| Some((name.to_owned(), pid?))).collect();
        let simulators = std::slice::from_ref(&self.simulator);
        let counted = simulator::settled(simulators).await?;
        let usage = usage::of(&pids)?;
        let Sent { accepted, refused, sending, reports, lasted } =
            http_load::send(&target, WARM_UP, asked.peer_messages).await?;
        let usage_after = usage::of(&pids)?;
        let counted = simulator::settled(simulators).await?.since(counted);
        let per_thousand = f64::from(accepted.max(1)) / 1000.0;
        Ok(Run {
            messages: accepted,
            refused,
            accepted_per_s: f64::from(accepted) / sending.as_secs_f64().max(f64::EPSILON),
            delivered_per_s: f64::from(reports) / lasted.as_secs_f64().max(f64::EPSILON),
            unique: counted.parts,
            duplicates: counted.duplicates,
            receipts: counted.receipts_acked,
            reports,
            cpu: usage::cpu_of(&usage, &usage_after, per_thousand),
            peak: usage_after.into_iter().map(|(name, usage)| (name, usage.peak)).collect(),
        })
    }

    async fn stop(mut self) -> Result<(), CliError> {
        process::stop(&mut self.smsbox).await?;
        process::stop(&mut self.bearerbox).await?;
        self.simulator.stop().await?;
        process::remove(self.folder)
    }
}

fn configuration(ports: &Ports, smpp: &str, store: &Path, window: u16) -> String {
    let Ports { admin, inner, sendsms } = ports;
    format!(
        "group = core\n\
         admin-port = {admin}\n\
         admin-interface = 127.0.0.1\n\
         admin-password = admin\n\
         smsbox-port = {inner}\n\
         smsbox-interface = 127.0.0.1\n\
         box-allow-ip = 127.0.0.1\n\
         dlr-storage = internal\n\
         store-type = file\n\
         store-location = {store}\n\n\
         group = smsc\n\
         smsc = smpp\n\
         host = 127.0.0.1\n\
         port = {smpp}\n\
         transceiver-mode = true\n\
         smsc-username = {SYSTEM_ID}\n\
         smsc-password = {PASSWORD}\n\
         system-type = \"\"\n\
         interface-version = 34\n\
         msg-id-type = 0x00\n\
         max-pending-submits = {window}\n\
         source-addr-ton = 5\n\
         source-addr-npi = 0\n\
         dest-addr-ton = 1\n\
         dest-addr-npi = 1\n\n\
         group = smsbox\n\
         bearerbox-host = 127.0.0.1\n\
         bearerbox-port = {inner}\n\
         sendsms-port = {sendsms}\n\
         sendsms-interface = 127.0.0.1\n\n\
         group = sendsms-user\n\
         username = {user}\n\
         password = {user}\n\n\
         group = sms-service\n\
         keyword = default\n\
         max-messages = 0\n\
         text = none\n",
        store = store.display(),
        user = http_load::USER,
    )
}
