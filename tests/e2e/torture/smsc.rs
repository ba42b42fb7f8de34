//! The carrier of a torture run: a simulator that can die, behind a path that can fail, and what it was given, which
//! outlives it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use sotto_testkit::{ChaosProxy, Process, tools};

use crate::{
    cell::{BOUND, Carriers, carriers_file, simulator_arguments},
    tokens,
};

/// Binds of the account: what goes over one may overtake what goes over another.
const BINDS: usize = 2;

/// Places in the windows of the account.
pub(crate) const WINDOW: usize = 20;

/// By how much a slow path is late, each way.
const LATE: Duration = Duration::from_millis(700);

pub(crate) struct Smsc {
    pub(crate) proxy: ChaosProxy,
    process: Process,
    arguments: Vec<String>,
    admin: String,
    /// Outside of the cell's folder, and of its disk: a carrier does see numbers and texts.
    outside: PathBuf,
}

/// A part that the carrier took.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// The number of the message, and the place of the part in it.
    pub(crate) key: (u32, u64),
    /// Milliseconds since the Unix epoch.
    pub(crate) at: i64,
}

impl Smsc {
    /// Starts a simulator, its proxy, and writes a carriers file that leads to the proxy.
    pub(crate) async fn start(root: &Path, outside: &Path) -> (Self, Carriers) {
        let outside = outside.to_owned();
        let journal = outside.join("carrier.jsonl").display().to_string();
        let mut arguments =
            simulator_arguments(root, &json!({"response_delay_ms": 50, "receipt_delay_ms": 200}));
        arguments.extend(["--journal".to_owned(), journal]);
        let (process, port, admin) =
            crate::cell::simulator(&outside.join("carrier.log"), arguments.clone()).await;
        let proxy = ChaosProxy::start(SocketAddr::from(([127, 0, 0, 1], port))).await;
        let keys = format!(
            "binds = {BINDS}\nwindow = {}\ntps = 500\nresponse_timeout = \"5 s\"\nreceipt_wait = \"1 m\"\n",
            WINDOW / BINDS
        );
        let file = carriers_file(root, proxy.address().port(), &keys);
        // Again at the addresses that it got.
        arguments.extend(["--listen".to_owned(), format!("127.0.0.1:{port}")]);
        arguments.extend(["--admin".to_owned(), admin.clone()]);
        // A process that dies as often as here would soon be left alone for a minute.
        let longest = ["--longest-pause", "2"].map(str::to_owned).to_vec();
        let carriers = Carriers::of(file, admin.clone()).and(longest);
        (Self { proxy, process, arguments, admin, outside }, carriers)
    }

    /// Dies, and comes back with an empty memory.
    pub(crate) async fn die(&mut self) {
        self.process.kill().await;
        let log = self.outside.join(format!("carrier-{}.log", sotto_testkit::free_port()));
        let none: [(&str, &str); 0] = [];
        self.process = Process::start(&tools::built("sotto-simulator"), &self.arguments, none, &log);
        self.process.wait_for_log(BOUND, "\"admin\"").await;
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    pub(crate) async fn drop_links(&self) {
        assert_eq!(tokens::post(&self.admin, "/drop-links", "").await / 100, 2);
    }

    pub(crate) fn slow(&self) {
        self.proxy.slow(LATE);
    }

    pub(crate) fn uneven(&self) {
        self.proxy.uneven(LATE);
    }

    /// Every part that any of its lives took.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let journal = std::fs::read_to_string(self.outside.join("carrier.jsonl")).unwrap();
        let part = |line: &str| {
            let told: Value = serde_json::from_str(line).unwrap();
            let number = told["destination"].as_str().unwrap().strip_prefix("8491").unwrap();
            let index = told["concatenation"]["index"].as_u64().unwrap_or(1);
            Part { key: (number.parse().unwrap(), index), at: told["at"].as_i64().unwrap() }
        };
        journal.lines().map(part).collect()
    }
}

/// Parts that were taken more than once.
pub(crate) fn repeated(parts: &[Part]) -> Vec<(u32, u64)> {
    let mut times: BTreeMap<_, u32> = BTreeMap::new();
    for part in parts {
        *times.entry(part.key).or_default() += 1;
    }
    times.into_iter().filter(|(_, times)| *times > 1).map(|(key, _)| key).collect()
}
