//! What waits: one-time codes that overtake advertisements, and a backlog while the carriers are stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use sotto_proto::message::v1::MessageClass;
use tokio::time::{Instant, sleep};

use super::{
    load::{Load, Way},
    percentile,
    phases::{ALONE, PATIENCE, Runs, destination, micros},
    report::{Quantiles, megabytes},
    usage,
};
use crate::CliError;

/// How often it is looked whether a code has arrived.
const LOOK: Duration = Duration::from_millis(20);

/// One-time codes that overtake.
#[derive(Debug, Serialize)]
pub(super) struct Behind {
    /// Advertisements that waited before the first code, and after the last.
    waiting: u64,
    waiting_after: u64,
    codes: usize,
    /// Parts that the carrier was given after a code's acceptance and before the code.
    ahead_p50: u32,
    ahead_p99: u32,
    accept_to_submit: Quantiles,
    #[serde(rename = "peak_rss_bytes")]
    peak: BTreeMap<String, u64>,
}

impl Behind {
    pub(super) fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "behind       {} waiting advertisements ({} at the end), {} one-time codes: {} parts went first at the median, \
                 {} at the 99th percentile; accept to submit {}",
                self.waiting,
                self.waiting_after,
                self.codes,
                self.ahead_p50,
                self.ahead_p99,
                self.accept_to_submit
            ),
            format!("             at most: {}", megabytes(&self.peak)),
        ]
    }
}

/// A backlog that the carriers' return drains.
#[derive(Debug, Serialize)]
pub(super) struct Drained {
    /// Messages that waited when the carriers came back.
    waiting: u64,
    accepted_per_s: f64,
    refused: BTreeMap<String, u64>,
    /// Resident memory while they waited, and the most of the whole run.
    #[serde(rename = "waiting_rss_bytes")]
    resident: BTreeMap<String, u64>,
    #[serde(rename = "peak_rss_bytes")]
    peak: BTreeMap<String, u64>,
    /// Codes that were accepted last, and advertisements that the carriers were given before the last of them.
    codes: usize,
    ahead: usize,
    /// Until the client heard of the last.
    delivered_per_s: f64,
    ended_otherwise: u32,
    duplicates: u64,
    /// To what was delivered a second at full speed before.
    of_full_speed: f64,
}

impl Drained {
    pub(super) fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "stopped      {} messages waiting, taken at {:.0} a second (refused {:?}); then {:.0} delivered a second, \
                 {:.2} of full speed; twice {}, ended otherwise {}",
                self.waiting,
                self.accepted_per_s,
                self.refused,
                self.delivered_per_s,
                self.of_full_speed,
                self.duplicates,
                self.ended_otherwise
            ),
            format!(
                "             of {} codes accepted last the last went after {} advertisements",
                self.codes, self.ahead
            ),
            format!("             while they waited: {}", megabytes(&self.resident)),
            format!("             at most:           {}", megabytes(&self.peak)),
        ]
    }
}

impl Runs<'_> {
    /// One-time codes while advertisements wait for the carrier: what was submitted between a code's acceptance and its own
    /// submit. The advertisements that are left are not waited for.
    pub(super) async fn behind(&mut self, advertisements: u32) -> Result<Behind, CliError> {
        let before = self.stage.counters().await?;
        let accepted = self.send(self.advertisements(advertisements), false).await?;
        let waiting = async |runs: &Self| {
            let submits = runs.stage.counters().await?.since(before).submits;
            Ok::<u64, CliError>(count(accepted.took.len()).saturating_sub(submits))
        };
        let waiting_first = waiting(self).await?;
        let (mut ahead, mut took) = (Vec::new(), Vec::new());
        for _ in 0..ALONE {
            let load = self.one_code();
            let accepted = self.send(load, true).await?;
            let code = destination(load.first, 0);
            let arrivals = self.arrived(&BTreeSet::from([code.clone()])).await?;
            let Some(arrival) = arrivals.get(&code).copied() else { continue };
            let Some((_, accepted_at)) = accepted.ids.values().next().copied() else { continue };
            let between = arrivals.values().filter(|at| (accepted_at..arrival).contains(*at)).count();
            ahead.push(u32::try_from(between).unwrap_or(u32::MAX));
            took.push(micros(arrival.saturating_sub(accepted_at)));
        }
        Ok(Behind {
            waiting: waiting_first,
            waiting_after: waiting(self).await?,
            codes: took.len(),
            ahead_p50: percentile(&mut ahead, 50),
            ahead_p99: percentile(&mut ahead, 99),
            accept_to_submit: Quantiles::of(&mut took),
            peak: self.memory(|usage| usage.peak)?,
        })
    }

    /// Has messages wait for carriers that an operator stopped, then one-time codes, and lets all go.
    pub(super) async fn drained(
        &mut self,
        advertisements: u32,
        full_speed: f64,
    ) -> Result<Drained, CliError> {
        let before = self.stage.counters().await?;
        self.stage.hold(true).await?;
        self.heard.begin(false);
        let taken = self.send(self.advertisements(advertisements), false).await?;
        let codes = Load {
            messages: ALONE,
            way: Way::Unary,
            class: MessageClass::Otp,
            ..self.load(Duration::MAX, None)
        };
        let coded = self.send(codes, false).await?;
        let all = count(taken.took.len().saturating_add(coded.took.len()));
        let waiting = all.saturating_sub(self.stage.counters().await?.since(before).submits);
        let resident = self.memory(|usage| usage.resident)?;
        let (lifted, lifted_at) = (Instant::now(), self.clock.unix_micros());
        self.stage.hold(false).await?;
        let numbers: BTreeSet<_> = (0..ALONE).map(|index| destination(codes.first, index)).collect();
        let arrivals = self.arrived(&numbers).await?;
        let last = numbers.iter().filter_map(|number| arrivals.get(number)).max().copied();
        let ahead = arrivals
            .iter()
            .filter(|(number, at)| (lifted_at..last.unwrap_or(0)).contains(*at) && !numbers.contains(*number))
            .count();
        self.settled(u32::try_from(all).unwrap_or(u32::MAX)).await?;
        let (delivered, ended_otherwise) = self.heard.ended();
        let lasted = self.heard.last().map_or(Duration::ZERO, |last| last.duration_since(lifted));
        let delivered_per_s = f64::from(delivered) / lasted.as_secs_f64().max(f64::EPSILON);
        Ok(Drained {
            waiting,
            accepted_per_s: taken.per_second(),
            refused: taken.refused,
            resident,
            peak: self.memory(|usage| usage.peak)?,
            codes: coded.took.len(),
            ahead,
            delivered_per_s,
            ended_otherwise,
            duplicates: self.stage.counters().await?.since(before).duplicates,
            of_full_speed: delivered_per_s / full_speed.max(f64::EPSILON),
        })
    }

    fn advertisements(&self, messages: u32) -> Load {
        Load { messages, class: MessageClass::Promotional, ..self.load(Duration::MAX, None) }
    }

    /// Of each process.
    fn memory(&self, which: impl Fn(&usage::Usage) -> u64) -> Result<BTreeMap<String, u64>, CliError> {
        let usage = usage::of(&self.stage.processes()?)?;
        Ok(usage.into_iter().map(|(name, usage)| (name, which(&usage))).collect())
    }

    /// The arrivals, once these are among them.
    async fn arrived(&self, codes: &BTreeSet<String>) -> Result<BTreeMap<String, i64>, CliError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let arrivals = self.stage.arrivals().await?;
            if codes.iter().all(|code| arrivals.contains_key(code)) {
                return Ok(arrivals);
            }
            if Instant::now() >= until {
                return Err(CliError::new(format!(
                    "a one-time code did not come to the carrier within {PATIENCE:?}"
                )));
            }
            sleep(LOOK).await;
        }
    }
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}
