//! One child process of `sotto up`.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use tokio::process::{Child, Command};

use super::lock::Lock;
use crate::{CliError, cell::CellDir, error::at};

/// How a child is started, at first and again.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    /// Its name: also of its log.
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
}

impl Recipe {
    /// Starts it in the cell's folder, with nothing of our own environment but the search path, its output appended to
    /// `logs/<name>.log`, and the cell's lock as its standard input.
    pub(super) fn start(&self, dir: &CellDir, lock: &Lock) -> Result<Process, CliError> {
        let path = log_file(dir, &self.name);
        let log = OpenOptions::new().append(true).create(true).open(&path).map_err(at(&path))?;
        let err = log.try_clone().map_err(at(&path))?;
        let held = lock.share().map_err(|error| CliError::caused_by("the cell's lock", &error))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .current_dir(dir.root())
            .env_clear()
            .envs(std::env::var_os("PATH").map(|value| ("PATH", value)))
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(held)
            .stdout(log)
            .stderr(err)
            // A signal from the keyboard goes to `sotto up`, which stops its children in their order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                CliError::caused_by(format!("{} could not be started", self.program.display()), &error)
                    .fix(format!("install it (make setup), or put {} on the PATH", self.name))
            })?;
        Ok(Process { name: self.name.clone(), log: path, child })
    }
}

/// Where a child's output goes.
pub(super) fn log_file(dir: &CellDir, name: &str) -> PathBuf {
    dir.path(format!("logs/{name}.log"))
}

/// A running child.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Completes when it ends.
    pub(super) async fn ended(&mut self) -> Option<ExitStatus> {
        self.child.wait().await.ok()
    }

    /// An error if it has ended.
    pub(super) fn check(&mut self) -> Result<(), CliError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.died(&status)),
            Err(error) => Err(CliError::caused_by(format!("{} cannot be watched", self.name), &error)),
        }
    }

    fn died(&self, status: &ExitStatus) -> CliError {
        let told = last_lines(&self.log, 5);
        CliError::new(format!("{} ended while it started ({status}):\n{told}", self.name))
            .fix(format!("read {}", self.log.display()))
    }

    /// Asks it to end; makes it end when the grace is over. Whether it ended by itself.
    pub(super) async fn stop(mut self, grace: Duration) -> bool {
        if let Some(id) =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended by itself just now.
            let _sent = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(grace, self.child.wait()).await.is_ok() {
            return true;
        }
        // What cannot be killed is not ours to wait for.
        let _killed = self.child.kill().await;
        false
    }
}

/// The last lines of a log. Our logs hold nothing personal.
fn last_lines(path: &Path, count: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}
