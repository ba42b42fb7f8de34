//! Rounds of the broker alone, a peer, and a cell, one after the other: only ratios inside a round say something.

use std::path::Path;

use serde::Serialize;
use sotto_core::Clock;

use super::{
    Bench, alone, cell_of_its_own,
    kannel::{self, Run},
    report::{Full, Report, megabytes, processors},
};
use crate::{CliError, up::Signals};

/// One of them.
#[derive(Debug, Serialize)]
struct Round {
    ceiling_batch_per_s: f64,
    kannel: Run,
    ours: Full,
    /// Whether each message of both went once and came to its end.
    counts: bool,
    ratios: Ratios,
}

/// Ours to the peer's, and to the broker alone.
#[derive(Clone, Copy, Debug, Serialize)]
struct Ratios {
    delivered: f64,
    cpu: f64,
    ceiling: f64,
}

/// Median and worst.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    median: f64,
    worst: f64,
}

impl Spread {
    /// Of values; the last after sorting is the worst.
    fn of(mut values: Vec<f64>, order: impl Fn(&f64, &f64) -> std::cmp::Ordering) -> Option<Self> {
        values.sort_by(order);
        let middle = [values.len().saturating_sub(1) / 2, values.len() / 2];
        let [low, high] = middle.map(|place| values.get(place));
        Some(Self { median: f64::midpoint(*low?, *high?), worst: *values.last()? })
    }
}

/// What rounds showed.
#[derive(Debug, Serialize)]
pub(super) struct Rounds {
    peer: &'static str,
    /// HTTP connections to it.
    connections: u16,
    rounds: Vec<Round>,
    counted: usize,
    delivered: Option<Spread>,
    cpu: Option<Spread>,
    ceiling: Option<Spread>,
}

/// Makes as many rounds as were asked for.
pub(super) async fn measure(
    folder: &Path,
    asked: &Bench,
    say: &impl Fn(&str) -> Result<(), CliError>,
    signals: &mut Signals,
    clock: &dyn Clock,
) -> Result<Rounds, CliError> {
    let programs = kannel::Programs::find()?;
    // Latency is a question of its own.
    let asked = Bench { latency_seconds: 0, ..asked.clone() };
    let mut rounds = Vec::new();
    for number in 1..=asked.rounds {
        let say = |what: &str| say(&format!("round {number} of {}: {what}", asked.rounds));
        say("the broker alone")?;
        let (_, ceiling) = alone(folder).await?;
        say("Kannel")?;
        let kannel = tokio::select! {
            measured = Box::pin(kannel::measure(folder, &programs, &asked)) => measured?,
            () = signals.stop() => return Err(CliError::new("stopped")),
        };
        let mut report = Report::new(&asked);
        Box::pin(cell_of_its_own(folder, &asked, &mut report, &say, signals, clock)).await?;
        let ours = report.into_full().ok_or_else(|| CliError::new("nothing was measured"))?;
        rounds.push(Round::new(ceiling, kannel, ours));
    }
    Ok(Rounds::new(rounds, asked.peer_connections))
}

impl Round {
    fn new(ceiling: f64, kannel: Run, ours: Full) -> Self {
        let ratios = Ratios {
            delivered: ours.delivered_per_s / kannel.delivered_per_s.max(f64::EPSILON),
            cpu: ours.platform_cpu() / kannel.cpu().max(f64::EPSILON),
            ceiling: ours.delivered_per_s / ceiling.max(f64::EPSILON),
        };
        Self { ceiling_batch_per_s: ceiling, counts: kannel.counts() && ours.counts(), kannel, ours, ratios }
    }

    fn lines(&self, number: usize) -> Vec<String> {
        let Self { ceiling_batch_per_s, kannel, ours, counts, ratios } = self;
        let side = |name: &str, messages: u32, accepted: f64, delivered: f64, cpu: f64| {
            format!(
                "             {name:<7} {messages:>8} messages: {accepted:>6.0} accepted, {delivered:>6.0} delivered a second, \
                 {cpu:.3} CPU s for 1,000"
            )
        };
        let kannels =
            side("Kannel", kannel.messages, kannel.accepted_per_s, kannel.delivered_per_s, kannel.cpu());
        let mine =
            side("Sotto", ours.messages, ours.accepted_per_s, ours.delivered_per_s, ours.platform_cpu());
        let mut lines = vec![
            format!(
                "round {number:<7}broker alone {ceiling_batch_per_s:.0} a second; ours to Kannel's: {:.2} delivered, {:.2} CPU{}",
                ratios.delivered,
                ratios.cpu,
                if *counts { "" } else { "; DOES NOT COUNT" }
            ),
            format!("{kannels} ({}; {})", processors(&kannel.cpu), megabytes(&kannel.peak)),
            mine,
        ];
        if !*counts {
            lines.push(format!(
                "             Kannel: of {} unique {}, twice {}, receipts {}, reports {}; Sotto: of {} lost {}, twice {}, receipts {}, \
                 ended otherwise {}",
                kannel.messages,
                kannel.unique,
                kannel.duplicates,
                kannel.receipts,
                kannel.reports,
                ours.messages,
                ours.lost,
                ours.duplicates,
                ours.receipts,
                ours.ended_otherwise
            ));
        }
        lines
    }
}

impl Rounds {
    fn new(rounds: Vec<Round>, connections: u16) -> Self {
        let of = |which: fn(&Ratios) -> f64| -> Vec<f64> {
            rounds.iter().filter(|round| round.counts).map(|round| which(&round.ratios)).collect()
        };
        let (delivered, cpu, ceiling) =
            (of(|ratios| ratios.delivered), of(|ratios| ratios.cpu), of(|ratios| ratios.ceiling));
        Self {
            peer: "Kannel: file store, no fsync, no TLS, HTTP in clear",
            connections,
            counted: delivered.len(),
            delivered: Spread::of(delivered, |a, b| b.total_cmp(a)),
            cpu: Spread::of(cpu, f64::total_cmp),
            ceiling: Spread::of(ceiling, |a, b| b.total_cmp(a)),
            rounds,
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("beside       {}, {} connections", self.peer, self.connections)];
        lines.extend((1..).zip(&self.rounds).flat_map(|(number, round)| round.lines(number)));
        let summary = [
            ("delivered a second, ours to Kannel's", self.delivered),
            ("CPU for 1,000, ours to Kannel's", self.cpu),
            ("delivered, ours to the broker alone", self.ceiling),
        ];
        lines.extend(summary.into_iter().filter_map(|(what, spread)| {
            let Spread { median, worst } = spread?;
            Some(format!("ratio        {what}: median {median:.3}, worst {worst:.3}"))
        }));
        lines.push(format!("             {} of {} rounds count", self.counted, self.rounds.len()));
        lines
    }

    /// An error if no round counts.
    pub(super) fn verdict(&self) -> Result<(), CliError> {
        if self.counted > 0 {
            Ok(())
        } else {
            Err(CliError::new("no round counts: messages were lost or sent twice"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_the_least_or_the_most() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0], |a, b| b.total_cmp(a)).unwrap();
        assert!((spread.median - 2.0).abs() < f64::EPSILON && (spread.worst - 1.0).abs() < f64::EPSILON);
        let spread = Spread::of(vec![3.0, 1.0, 2.0], f64::total_cmp).unwrap();
        assert!((spread.worst - 3.0).abs() < f64::EPSILON);
        let spread = Spread::of(vec![3.0, 1.0], f64::total_cmp).unwrap();
        assert!((spread.median - 2.0).abs() < f64::EPSILON);
        assert!(Spread::of(Vec::new(), f64::total_cmp).is_none());
    }
}
