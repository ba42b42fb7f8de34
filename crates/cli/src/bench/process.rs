//! Processes that a measurement starts, and stops again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::CliError;

/// How long a process may take to come up.
const START: Duration = Duration::from_secs(120);

/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(120);

/// How often it is looked whether it did.
const LOOK: Duration = Duration::from_millis(50);

/// A program that is built with this one.
pub(super) fn sibling(name: &str) -> Result<PathBuf, CliError> {
    let program = std::env::current_exe()
        .ok()
        .and_then(|program| program.parent().map(|folder| folder.join(name)))
        .filter(|program| program.is_file());
    program.ok_or_else(|| {
        CliError::new(format!("{name} is not beside this program")).fix("build the services: make bench does")
    })
}

/// Starts a program that ends with this one.
pub(super) fn start(command: &mut Command, name: &str) -> Result<Child, CliError> {
    command
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| CliError::caused_by(format!("{name} could not be started"), &error))
}

/// Waits until `look` finds something.
pub(super) async fn wait<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> Result<T, CliError> {
    let until = Instant::now() + START;
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if Instant::now() >= until {
            return Err(CliError::new(format!("{what} did not come up within {START:?}")));
        }
        sleep(LOOK).await;
    }
}

/// Asks a process to end, and waits.
pub(super) async fn stop(process: &mut Child) -> Result<(), CliError> {
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

/// A port of loopback that was free a moment ago, for programs that cannot choose one.
pub(super) fn free_port() -> Result<u16, CliError> {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| CliError::caused_by("no free port", &error))
}

/// Removes a temporary folder, and tells if that fails.
pub(super) fn remove(folder: tempfile::TempDir) -> Result<(), CliError> {
    let path: &Path = folder.path();
    let what = format!("{} could not be removed", path.display());
    folder.close().map_err(|error| CliError::caused_by(what, &error))
}
