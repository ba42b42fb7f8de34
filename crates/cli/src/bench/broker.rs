//! What the machine's parts do alone: the disk, and a plain broker.

use std::{io::Write as _, path::Path, process::Stdio};

use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::Instant,
};

use super::process;
use crate::{
    CliError,
    error::at,
    up::{nats_url, tool},
};

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
        let mut command = Command::new(tool("nats-server")?);
        command.arg("--config").arg(&config).arg("--ports_file_dir").arg(&ports);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = process::start(&mut command, "nats-server")?;
        let url = process::wait("nats-server", async || nats_url(&ports)).await?;
        Ok(Self { process, url: url.replace("tls://localhost", "nats://127.0.0.1"), folder })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn stop(mut self) -> Result<(), CliError> {
        process::stop(&mut self.process).await?;
        process::remove(self.folder)
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
