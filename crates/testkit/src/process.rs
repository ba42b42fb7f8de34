//! A child process that ends with its value.

use std::{
    ffi::OsStr,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::process::{Child, Command};

use crate::wait::{eventually_ok, must};

/// How long a process may take to stand still once it is told to.
const STANDS: Duration = Duration::from_secs(20);

/// A running program whose output goes to a log file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with standard output and error appended to `log`. `environment` is added to ours.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<A, E, K, V>(program: &Path, arguments: A, environment: E, log: &Path) -> Self
    where
        A: IntoIterator<Item: AsRef<OsStr>>,
        E: IntoIterator<Item = (K, V)>,
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let output = must("the log file", File::options().create(true).append(true).open(log));
        let errors = must("the log file", output.try_clone());
        let child = Command::new(program)
            .args(arguments)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn();
        let child = must(&format!("starting {}", program.display()), child);
        Self { name, child, log: log.to_owned() }
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Panics
    /// When it has not ended after `bound`.
    pub async fn terminate(&mut self, bound: Duration) -> ExitStatus {
        self.signal("TERM");
        self.wait(bound).await
    }

    /// Sends a signal by its name (`TERM`, `INT`, `HUP`, `STOP`, `CONT`, `SEGV`, `ABRT`). Nothing happens after its end.
    ///
    /// # Panics
    /// When there is no such signal.
    pub fn signal(&self, name: &str) {
        if let Some(id) = self.id() {
            signal(id, name);
        }
    }

    /// Ends it at once (SIGKILL).
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&mut self) {
        must(&format!("killing {}", self.name), self.child.kill().await);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended after `bound`.
    pub async fn wait(&mut self, bound: Duration) -> ExitStatus {
        match tokio::time::timeout(bound, self.child.wait()).await {
            Ok(status) => must(&format!("waiting for {}", self.name), status),
            Err(_) => panic!("{} did not end in {bound:?}; its log:\n{}", self.name, self.log()),
        }
    }

    /// Waits until its log contains `text`. Prefer readiness over HTTP where the program has it.
    ///
    /// # Panics
    /// When the bound is over.
    pub async fn wait_for_log(&mut self, bound: Duration, text: &str) {
        let what = format!("{} to write {text:?}", self.name);
        eventually_ok(bound, &what, || {
            let log = self.log();
            let ended = !self.is_running();
            let found = log.contains(text);
            async move {
                if found {
                    Ok(())
                } else {
                    Err(format!("{}; its log:\n{log}", if ended { "it has ended" } else { "it runs" }))
                }
            }
        })
        .await;
    }

    /// Waits until `GET /ready` on its admin address answers 200. `address_file` is the file that it writes the
    /// address into (`admin.address_file`).
    ///
    /// # Panics
    /// When the bound is over.
    pub async fn wait_until_ready(&mut self, bound: Duration, address_file: &Path) -> SocketAddr {
        let what = format!("{} to be ready", self.name);
        eventually_ok(bound, &what, || {
            let (log, ended) = (self.log(), !self.is_running());
            let address = std::fs::read_to_string(address_file).ok().and_then(|text| text.parse().ok());
            async move {
                let Some(address) = address else {
                    let state = if ended { "it has ended" } else { "it has not written its address" };
                    return Err(format!("{state}; its log:\n{log}"));
                };
                match http_get(address, "/ready").await {
                    Ok((200, _)) => Ok(address),
                    Ok((status, body)) => Err(format!("{status}: {body}; its log:\n{log}")),
                    Err(e) => Err(format!("{e}; its log:\n{log}")),
                }
            }
        })
        .await
    }
}

/// Stops a process where it is (SIGSTOP) and waits until each of its threads stands: until then it may still answer. `CONT`
/// lets it run again.
///
/// # Panics
/// When it has ended, or does not stand after 20 s.
pub async fn freeze(id: u32) {
    signal(id, "STOP");
    eventually_ok(STANDS, &format!("process {id} to stand"), || async move { stands(id) }).await;
}

/// Whether each thread of a process is stopped.
fn stands(id: u32) -> std::io::Result<()> {
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let stat = match std::fs::read_to_string(thread?.path().join("stat")) {
            Ok(stat) => stat,
            // It ended since it was listed.
            Err(_) => continue,
        };
        // The state is what follows the name, which is in brackets and may contain any of them.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if state != Some('T') {
            return Err(std::io::Error::other(format!("a thread is in state {state:?}")));
        }
    }
    Ok(())
}

/// Sends a signal by its name to a process by its id. Nothing happens if it has ended.
///
/// # Panics
/// When there is no such signal.
pub fn signal(id: u32, name: &str) {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = match name {
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "HUP" => Signal::HUP,
        "KILL" => Signal::KILL,
        "SEGV" => Signal::SEGV,
        "ABRT" => Signal::ABORT,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        other => panic!("no signal {other}"),
    };
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // It may have ended by itself just now.
        let _ended = kill_process(pid, signal);
    }
}

/// A plain HTTP/1.1 GET: status and body.
///
/// # Errors
/// When the connection fails or the answer is not HTTP.
pub async fn http_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let not_http = || std::io::Error::new(std::io::ErrorKind::InvalidData, "the answer is not HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(not_http)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(not_http)?;
    Ok((status, body.to_owned()))
}
