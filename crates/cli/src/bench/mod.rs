//! `sotto bench`: what this machine does with a cell of its own, everything on, and what its parts could do at most.
//!
//! One process a service, built as this program is; the simulator over TLS, receipts after 50 ms; every message sealed,
//! fsynced before it is accepted, audited. Ratios inside one run bind; absolute figures are this machine's and this hour's.

mod backlog;
mod broker;
mod http_load;
mod kannel;
mod load;
mod over_nats;
mod phases;
mod process;
mod report;
mod rounds;
mod scenario;
mod simulator;
mod soak;
mod stage;
mod usage;
mod watch;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sotto_core::{Clock, SystemClock};

use self::{broker::Broker, load::Way, report::Report, scenario::Scenario, stage::Stage};
use crate::{CliError, Output, up::Signals};

/// How long each ceiling of the broker is measured.
const CEILING: Duration = Duration::from_secs(5);

/// `sotto bench`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Bench {
    /// At most so many messages in the run at full speed
    #[arg(long, default_value = "5000000", value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    messages: u32,
    /// The run at full speed sends for so many seconds, 1 to 3600
    #[arg(long, default_value = "60", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Streams on which the client sends, 1 to 64
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(1..=64))]
    clients: u8,
    /// Send each message in a call of its own, a hundred at once, instead of on streams
    #[arg(long, conflicts_with = "clients")]
    unary: bool,
    /// Send over NATS, sealed, in requests of up to a hundred messages, instead of on streams
    #[arg(long, conflicts_with_all = ["clients", "unary"])]
    nats: bool,
    /// Give every message an idempotency key; over NATS each has one anyhow
    #[arg(long)]
    keyed: bool,
    /// Send so many messages a second instead of as many as are accepted
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Seconds of each run that measures latency, at 20, 50 and 80 per cent of the reached rate; 0: none
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u64).range(0..=600))]
    latency_seconds: u64,
    /// Simulated carriers, 1 to 16, over which a route spreads the messages
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(1..=16))]
    carriers: u8,
    /// Processes that hand messages to carriers, 1 to 8; each has a bind of its own to each carrier
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(1..=8))]
    connectors: u8,
    /// Submits on one bind that are not answered yet, 1 to 1000
    #[arg(long, default_value = "200", value_parser = clap::value_parser!(u16).range(1..=1000))]
    window: u16,
    /// Parts a second of each carrier's account, 1 to 10000
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    tps: u16,
    /// Carriers answer a submit so many milliseconds late
    #[arg(long, default_value = "0")]
    answer_ms: u64,
    /// Their receipts come so many milliseconds after the submit
    #[arg(long, default_value = "50")]
    receipt_ms: u64,
    /// What carriers do wrong in the run at full speed: a file of steps as in docs/simulator.md
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Measure only how one-time codes overtake so many advertisements that wait: 100 codes, one after the other. Give a --tps
    /// at which they keep waiting, such as 200
    #[arg(long, value_name = "N", group = "what", value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    behind: Option<u32>,
    /// With --behind: have them wait for carriers that an operator stopped, 100 codes after them, then let all go, after a run at
    /// full speed to compare with
    #[arg(long, requires = "behind")]
    stopped: bool,
    /// Measure only how memory grows in so many minutes, 3 to 1440, at --rate or at half of what a run at full speed reached, with
    /// receipts after a minute; growth beyond a bound is an error
    #[arg(long, value_name = "MINUTES", group = "what", num_args = 0..=1, default_missing_value = "10",
        value_parser = clap::value_parser!(u32).range(3..=1440))]
    soak: Option<u32>,
    /// Measure in rounds of the broker alone, this gateway of others, and a cell
    #[arg(long, value_enum, group = "what", conflicts_with_all = ["carriers", "scenario"])]
    peer: Option<Peer>,
    /// With --peer: so many rounds, 1 to 100
    #[arg(long, default_value = "5", requires = "peer", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// With --peer: so many messages through it in each round
    #[arg(long, default_value = "20000", requires = "peer", value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    peer_messages: u32,
    /// With --peer: so many HTTP connections to it, 1 to 256
    #[arg(long, default_value = "8", requires = "peer", value_parser = clap::value_parser!(u16).range(1..=256))]
    peer_connections: u16,
    /// A folder on the disk to be measured; default: the system's for temporary files
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// What a cell is measured beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    /// bearerbox and smsbox of Kannel (Debian: kannel), with a file store; without TLS
    Kannel,
}

pub(crate) async fn bench(asked: Bench, output: &Output) -> Result<(), CliError> {
    let clock: &dyn Clock = &SystemClock;
    // Asked for before anything is started: from now on Ctrl-C is heard where everything can be stopped in its order.
    let mut signals = Signals::new()?;
    let folder = asked.folder.clone().unwrap_or_else(std::env::temp_dir);
    let mut report = Report::new(&asked);
    let say = |what: &str| output.line(output.tone(crate::Tone::Faint, what));
    asked.timeline()?;

    report.fsync(broker::fsync(&folder)?);
    match asked.peer {
        Some(Peer::Kannel) => {
            report.beside(Box::pin(rounds::measure(&folder, &asked, &say, &mut signals, clock)).await?);
        }
        None => {
            say("the disk and the broker alone")?;
            let (single, batch) = alone(&folder).await?;
            report.ceilings(single, batch);
            Box::pin(cell_of_its_own(&folder, &asked, &mut report, &say, &mut signals, clock)).await?;
        }
    }
    report.tell(output)
}

/// What a broker alone does a second: one by one, and in batches.
async fn alone(folder: &Path) -> Result<(f64, f64), CliError> {
    let broker = Broker::start(folder).await?;
    let failed = |error: &dyn std::error::Error| CliError::caused_by("the broker alone", error);
    let ceiling = sotto_bus::ceiling::Ceiling::connect(broker.url()).await.map_err(|error| failed(&error))?;
    let single = ceiling.single(CEILING).await.map_err(|error| failed(&error))?;
    let batch = ceiling.batch(CEILING).await.map_err(|error| failed(&error))?;
    drop(ceiling);
    broker.stop().await?;
    Ok((single, batch))
}

/// Measures a cell; whatever happens, it is stopped and its folder removed.
async fn cell_of_its_own(
    folder: &Path,
    asked: &Bench,
    report: &mut Report,
    say: &impl Fn(&str) -> Result<(), CliError>,
    signals: &mut Signals,
    clock: &dyn Clock,
) -> Result<(), CliError> {
    say("a cell of its own")?;
    let stage = Box::pin(Stage::start(folder, asked, clock)).await?;
    let measured = tokio::select! {
        measured = Box::pin(phases::measure(&stage, asked, report, say, clock)) => measured,
        () = signals.stop() => Err(CliError::new("stopped")),
    };
    let stopped = stage.stop().await;
    measured.and(stopped)
}

impl Bench {
    fn way(&self) -> Way {
        if self.nats {
            Way::Nats
        } else if self.unary {
            Way::Unary
        } else {
            Way::Streams(usize::from(self.clients))
        }
    }

    /// What the carriers do wrong, and when.
    fn timeline(&self) -> Result<Scenario, CliError> {
        self.scenario.as_deref().map_or_else(|| Ok(Scenario::default()), Scenario::read)
    }
}

/// The smallest value that so many per cent of all are not above; 0 of none. Sorts them.
fn percentile(values: &mut [u32], per_cent: usize) -> u32 {
    values.sort_unstable();
    let place = (values.len() * per_cent).div_ceil(100).saturating_sub(1);
    values.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut values: Vec<u32> = (1..=200).rev().collect();
        assert_eq!(percentile(&mut values, 50), 100);
        assert_eq!(percentile(&mut values, 99), 198);
        assert_eq!(percentile(&mut [7], 99), 7);
        assert_eq!(percentile(&mut [], 50), 0);
    }
}
