//! A real nats-server with JetStream.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    process::{Process, freeze},
    tools,
    wait::{must, poll},
};

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(20);

/// How a test's nats-server differs from the plain one.
#[derive(Clone, Debug, Default)]
pub struct NatsOptions {
    /// More configuration, in nats-server's own format: TLS, users, permissions.
    pub config: String,
    /// A whole configuration file instead of ours. Address, port and store folder are still the test's own.
    pub config_file: Option<PathBuf>,
    /// Where JetStream keeps its files, instead of a temporary folder.
    pub store_dir: Option<PathBuf>,
}

/// A nats-server of its own, on a free port of 127.0.0.1 and in a temporary folder, with JetStream that syncs every
/// write (`sync_interval: always`). It ends with this value.
#[derive(Debug)]
pub struct NatsServer {
    folder: TempDir,
    config: PathBuf,
    store: PathBuf,
    port: u16,
    process: Process,
}

impl NatsServer {
    /// Starts one and waits until it takes clients.
    ///
    /// # Panics
    /// When nats-server is missing, too old, or does not come up.
    pub async fn start(options: NatsOptions) -> Self {
        let folder = must("a temporary folder", TempDir::with_prefix("sotto-nats-"));
        let config = options.config_file.unwrap_or_else(|| {
            let path = folder.path().join("nats.conf");
            must("writing nats.conf", std::fs::write(&path, plain_config(&options.config)));
            path
        });
        let store = options.store_dir.unwrap_or_else(|| folder.path().join("store"));
        let (process, port) = match launch(folder.path(), &config, &store, None).await {
            Ok(started) => started,
            Err(why) => panic!("nats-server does not start: {why}"),
        };
        Self { folder, config, store, port, process }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// `nats://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// `tls://localhost:port`, for servers with TLS.
    pub fn tls_url(&self) -> String {
        format!("tls://localhost:{}", self.port)
    }

    /// JetStream's files.
    pub fn store_dir(&self) -> PathBuf {
        self.store.clone()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Stops it in an orderly way.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&mut self) {
        self.process.terminate(STOP).await;
    }

    /// Ends it as a crash would (SIGKILL).
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing answers.
    ///
    /// # Panics
    /// When it does not stand.
    pub async fn freeze(&self) {
        if let Some(id) = self.process.id() {
            freeze(id).await;
        }
    }

    /// Lets it run again after [`Self::freeze`].
    pub fn thaw(&self) {
        self.process.signal("CONT");
    }

    /// Stops it if it runs, then starts it on the same port with the same store.
    ///
    /// # Panics
    /// When it does not stop or come up again.
    pub async fn restart(&mut self) {
        if self.process.is_running() {
            self.stop().await;
        }
        match launch(self.folder.path(), &self.config, &self.store, Some(self.port)).await {
            Ok((process, _)) => self.process = process,
            Err(why) => panic!("nats-server does not start again: {why}"),
        }
    }
}

fn plain_config(more: &str) -> String {
    format!(
        "server_name: sotto-test\n\
         max_payload: 8MB\n\
         jetstream {{\n  sync_interval: always\n  max_memory_store: 256MB\n  max_file_store: 8GB\n}}\n\
         {more}\n"
    )
}

async fn launch(
    folder: &Path,
    config: &Path,
    store: &Path,
    port: Option<u16>,
) -> Result<(Process, u16), String> {
    let binary = tools::nats_server();
    let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
    let arguments: [&std::ffi::OsStr; 10] = [
        "-c".as_ref(),
        config.as_ref(),
        "-a".as_ref(),
        "127.0.0.1".as_ref(),
        "-p".as_ref(),
        port.as_ref(),
        "-sd".as_ref(),
        store.as_ref(),
        "--ports_file_dir".as_ref(),
        folder.as_ref(),
    ];
    let none: [(&str, &str); 0] = [];
    let log = folder.join("nats-server.log");
    let mut process = Process::start(&binary, arguments, none, &log);
    let ports = folder.join(format!("nats-server_{}.ports", process.id().unwrap_or(0)));
    let result = poll(START, || {
        let running = process.is_running();
        let ports = ports.clone();
        async move {
            if !running {
                return Ok(None);
            }
            let port = bound_port(&ports)?;
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|e| e.to_string())?;
            Ok::<_, String>(Some(port))
        }
    })
    .await;
    match result {
        Ok(Some(port)) => Ok((process, port)),
        Ok(None) => Err(format!("it ended; its log:\n{}", process.log())),
        Err(last) => Err(format!("{last}; its log:\n{}", process.log())),
    }
}

/// From the ports file: `{"nats":["nats://127.0.0.1:4222"], …}`.
fn bound_port(file: &Path) -> Result<u16, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("no ports file: {e}"))?;
    let ports: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let url = ports.get("nats").and_then(|urls| urls.get(0)).and_then(serde_json::Value::as_str);
    let port = url.and_then(|url| url.rsplit(':').next()).and_then(|port| port.parse().ok());
    port.ok_or_else(|| format!("no port in {text}"))
}
