//! A program that speaks SMPP by no code of ours. It prints its port first, then what happened: one JSON object a line.

use std::{ffi::OsString, fs, path::Path};

use serde_json::Value;
use sotto_testkit::{Process, workspace};

use crate::cell::BOUND;

pub(crate) struct Peer {
    process: Process,
    /// Where it takes binds.
    pub(crate) port: u64,
}

impl Peer {
    /// Runs a script of `tests/e2e` and waits until it listens.
    pub(crate) async fn start<A: Into<OsString>>(
        root: &Path,
        interpreter: &Path,
        script: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        fs::create_dir_all(root.join("logs")).unwrap();
        let script = workspace().join("tests/e2e").join(script);
        let arguments = std::iter::once(script.into()).chain(arguments.into_iter().map(Into::into));
        let environment: [(&str, &str); 0] = [];
        let log = root.join("logs/peer.log");
        let mut process = Process::start(interpreter, arguments, environment, &log);
        process.wait_for_log(BOUND, "\"listening\"").await;
        let port = lines(&process).first().unwrap()["port"].as_u64().unwrap();
        Self { process, port }
    }

    /// What it told so far.
    pub(crate) fn told(&self) -> Vec<Value> {
        lines(&self.process)
    }

    /// What it told of one kind of event.
    pub(crate) fn events(&self, event: &str) -> Vec<Value> {
        self.told().into_iter().filter(|told| told["event"] == event).collect()
    }

    pub(crate) fn count(&self, event: &str) -> usize {
        self.events(event).len()
    }

    /// How many receipts were answered with `ESME_ROK`.
    pub(crate) fn receipts_taken(&self) -> usize {
        self.events("receipt").iter().filter(|told| told["taken"] == true).count()
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// All that it wrote, for a failure's text.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

fn lines(process: &Process) -> Vec<Value> {
    process.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
