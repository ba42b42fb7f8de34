//! A cell in a temporary folder, and the tool that works in it.

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde_json::Value;
use sotto_testkit::{Process, eventually, tools};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

/// How long a cell may take to start or to stop on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(90);

/// What a command did.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.err, "", "{self:?}");
        self.out
    }

    /// Its objects, one a line.
    #[track_caller]
    pub(crate) fn json(self) -> Vec<Value> {
        self.well().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What went wrong and what to do, of a command that must have failed without a word on standard output about it.
    #[track_caller]
    pub(crate) fn refused(&self) -> (String, String) {
        assert_eq!(self.code, Some(1), "{self:?}");
        if let Ok(told) = serde_json::from_str::<Value>(&self.err) {
            let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
            return (text("error"), text("fix"));
        }
        let told = self.err.strip_prefix("error: ").unwrap();
        let (error, fix) = told.rsplit_once("\n  fix: ").unwrap_or((told, ""));
        (error.trim().to_owned(), fix.trim().to_owned())
    }
}

pub(crate) struct Cell {
    folder: TempDir,
    runs: u32,
}

impl Cell {
    /// A folder without a cell.
    pub(crate) fn none() -> Self {
        Self { folder: TempDir::with_prefix("sotto-cli-").unwrap(), runs: 0 }
    }

    /// A new cell.
    pub(crate) async fn new() -> Self {
        let cell = Self::none();
        cell.sotto(&["init", "--id", "test", "--shards", "2"]).await.well();
        cell
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join("cell").join(inside)
    }

    /// Beside the cell.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Command::new(tools::built("sotto")), arguments)
    }

    fn command_of(&self, mut command: Command, arguments: &[&str]) -> Command {
        command.arg("--cell").arg(self.path("")).args(arguments).env("PATH", search_path());
        command.kill_on_drop(true);
        command
    }

    /// Runs the tool.
    pub(crate) async fn sotto(&self, arguments: &[&str]) -> Said {
        self.sotto_with(arguments, "").await
    }

    /// The same for programs.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Said {
        self.sotto(&[&["--json"], arguments].concat()).await
    }

    /// Runs the tool where no process may have more than so many files open.
    pub(crate) async fn sotto_within(&self, files: u32, arguments: &[&str]) -> Said {
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nofile={files}:{files}")).arg(tools::built("sotto"));
        said(self.command_of(limited, arguments), "").await
    }

    /// Runs the tool on a machine whose programs are in this folder.
    pub(crate) async fn sotto_on(&self, folder: &str, arguments: &[&str]) -> Said {
        let mut command = self.command(arguments);
        command.env("PATH", folder);
        said(command, "").await
    }

    /// Runs the tool with this standard input.
    pub(crate) async fn sotto_with(&self, arguments: &[&str], input: &str) -> Said {
        said(self.command(arguments), input).await
    }

    /// Starts the cell and waits until it is up.
    pub(crate) async fn up(&mut self) -> Process {
        self.runs += 1;
        let log = self.beside(&format!("up-{}.log", self.runs));
        let cell = self.path("").display().to_string();
        let arguments = [&["--cell", &cell, "up"], &UP[..]].concat();
        let mut up = Process::start(&tools::built("sotto"), arguments, [("PATH", search_path())], &log);
        up.wait_for_log(LONG, "the cell is up").await;
        up
    }

    /// Starts the cell with a standard output that nobody reads.
    pub(crate) async fn up_unheard(&self) -> tokio::process::Child {
        let mut command = self.command(&[&["up"], &UP[..]].concat());
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        drop(child.stdout.take());
        let file = self.path("run/cell.json");
        eventually(LONG, "the cell to be up", || async { file.exists() }).await;
        child
    }

    /// `run/cell.json`.
    pub(crate) fn running(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path("run/cell.json")).unwrap()).unwrap()
    }

    /// Waits until nothing of the cell runs: every process of it holds its lock.
    pub(crate) async fn quiet(&self) {
        let lock = self.path("run/lock");
        let free = || std::fs::File::open(&lock).unwrap().try_lock().is_ok();
        eventually(LONG, "every process of the cell to end", || async { free() }).await;
    }
}

async fn said(mut command: Command, input: &str) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // One that reads nothing may be gone by now.
    let _unread = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = tokio::time::timeout(LONG, child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

const UP: [&str; 4] = ["--listen", "127.0.0.1:0", "--token-listen", "127.0.0.1:0"];

/// Ours, and the folder of the tests' nats-server.
fn search_path() -> std::ffi::OsString {
    let servers = tools::nats_server().parent().unwrap().to_owned();
    let ours = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(servers).chain(std::env::split_paths(&ours))).unwrap()
}
