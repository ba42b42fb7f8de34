//! `sotto bench`: what this machine does with a cell of its own, everything on, and what its parts could do at most.
//!
//! One process a service, built as this program is; the simulator over TLS, receipts after 50 ms; every message sealed,
//! fsynced before it is accepted, audited. Ratios inside one run bind; absolute figures are this machine's and this hour's.

mod load;
mod phases;
mod report;
mod stage;
mod usage;
mod watch;

use std::{path::PathBuf, time::Duration};

use sotto_core::{Clock, SystemClock};

use self::{
    load::Way,
    report::Report,
    stage::{Broker, Stage},
};
use crate::{CliError, Output};

/// How long each ceiling of the broker is measured.
const CEILING: Duration = Duration::from_secs(5);

/// `sotto bench`
#[derive(Debug, clap::Args)]
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
    /// Give every message an idempotency key
    #[arg(long)]
    keyed: bool,
    /// Send so many messages a second instead of as many as are accepted
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Seconds of each run that measures latency, at 20, 50 and 80 per cent of the reached rate; 0: none
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u64).range(0..=600))]
    latency_seconds: u64,
    /// The simulator's receipts come so many milliseconds after the submit
    #[arg(long, default_value = "50")]
    receipt_ms: u64,
    /// Parts a second of the simulator's account, 1 to 10000
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    tps: u16,
    /// Measure only how one-time codes overtake so many advertisements that wait: 100 codes, one after the other. Give a --tps
    /// at which they keep waiting, such as 200
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    behind: Option<u32>,
    /// A folder on the disk to be measured; default: the system's for temporary files
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(crate) async fn bench(asked: Bench, output: &Output) -> Result<(), CliError> {
    let clock: &dyn Clock = &SystemClock;
    let folder = asked.folder.clone().unwrap_or_else(std::env::temp_dir);
    let mut report = Report::new(&asked);
    let say = |what: &str| output.line(output.tone(crate::Tone::Faint, what));

    say("the disk and the broker alone")?;
    report.fsync(stage::fsync(&folder)?);
    let broker = Broker::start(&folder).await?;
    let failed = |error: &dyn std::error::Error| CliError::caused_by("the broker alone", error);
    let ceiling = sotto_bus::ceiling::Ceiling::connect(broker.url()).await.map_err(|error| failed(&error))?;
    report.ceilings(
        ceiling.single(CEILING).await.map_err(|error| failed(&error))?,
        ceiling.batch(CEILING).await.map_err(|error| failed(&error))?,
    );
    drop(ceiling);
    broker.stop().await?;

    say("a cell of its own")?;
    let id = "bench".parse().map_err(|_| CliError::new("the cell's name"))?;
    let stage = Box::pin(Stage::start(&folder, &id, asked.tps, clock)).await?;
    // Whatever happens, the cell is stopped and its folder removed.
    let measured = Box::pin(phases::measure(&stage, &asked, &mut report, &say, clock)).await;
    let stopped = stage.stop().await;
    measured.and(stopped)?;
    report.tell(output)
}

impl Bench {
    const fn way(&self) -> Way {
        if self.unary { Way::Unary } else { Way::Streams(self.clients as usize) }
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
