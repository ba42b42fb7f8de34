//! `sotto provision`: sets up the broker's streams, where no `sotto up` does it.

use std::{path::PathBuf, time::Duration};

use sotto_bus::{Service, Topology, topology::apply};
use sotto_core::{Classified as _, ErrorClass, carriers::CarriersFile};
use tokio::time::Instant;

use crate::{
    CliError, Output,
    cell::{CARRIERS, CellDir, CellFile},
    up::{connect, read_carriers},
};

/// How long brokers that start together may take to elect who decides, and how often that is looked at.
const ELECTION: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(250);

/// How long the connection may take to end.
const END: Duration = Duration::from_secs(5);

/// Sets up the streams of a cell whose broker runs, for the accounts of this carriers file.
pub(crate) async fn provision(
    dir: &CellDir,
    carriers: Option<PathBuf>,
    output: &Output,
) -> Result<(), CliError> {
    let cell = dir.open()?;
    let carriers = read_carriers(&carriers.unwrap_or_else(|| dir.path(CARRIERS)))?;
    let missing = streams(dir, &cell, &dir.running()?.nats, &carriers).await?;
    output.json(&serde_json::json!({ "accounts": carriers.accounts.len(), "missing": missing }))?;
    for stream in &missing {
        output.line(format!(
            "{stream} is not there: the broker's configuration is of a version before. Start the cell anew (sotto up; in containers \
             first sotto init --containers, then each broker), then set up the streams again"
        ))?;
    }
    output.line(format!("the streams are set up for {} carrier account(s)", carriers.accounts.len()))
}

/// Creates the streams and consumers, or brings them up to date. Returns the streams that the broker cannot have before it is
/// started with a configuration of this version.
pub(crate) async fn streams(
    dir: &CellDir,
    cell: &CellFile,
    nats: &str,
    carriers: &CarriersFile,
) -> Result<Vec<String>, CliError> {
    let failed = |error: &dyn std::error::Error| {
        CliError::caused_by("the broker's streams could not be set up", error)
    };
    let accounts: Vec<_> = carriers.accounts.iter().map(|account| account.id.clone()).collect();
    let topology = Topology::embedded().map_err(|error| failed(&error))?;
    let topology = topology.with_ack_waits(carriers.redeliveries());
    let bus = connect(dir, cell, nats, Service::Provisioner).await?;
    let until = Instant::now() + ELECTION;
    let applied = loop {
        match apply(&bus, &topology, &accounts).await {
            Ok(applied) => break applied,
            Err(error) => {
                let passes = matches!(error.class(), ErrorClass::Retry { .. });
                if !passes || Instant::now() >= until {
                    return Err(failed(&error));
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    };
    bus.close(END).await;
    Ok(applied.missing)
}
