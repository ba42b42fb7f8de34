//! Whether memory grows: minutes at a steady rate, with receipts so late that many messages are always under way.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{load::Load, phases::Runs, report::is_outside, stage::Stage, usage};
use crate::CliError;

/// Receipts come so late.
const RECEIPTS: Duration = Duration::from_secs(60);

/// How often memory is looked at.
const EVERY: Duration = Duration::from_secs(10);

const MINUTE: Duration = Duration::from_secs(60);

/// What a service may grow by in a minute: 2 MiB.
const SERVICE_GROWTH: f64 = 2.0 * MEBIBYTE;

/// What broker and Redis, which keep what they are told, may grow by for a message: 2 KiB.
const STORE_GROWTH: f64 = 2.0 * 1024.0;

const MEBIBYTE: f64 = 1_048_576.0;

/// Processes that keep something of every message for a day.
const STORES: [&str; 2] = ["nats-server", "redis-server"];

/// Resident memory and stored bytes at one time.
struct Sample {
    at: Duration,
    resident: BTreeMap<String, u64>,
    stored: u64,
}

/// What a soak showed.
#[derive(Debug, Serialize)]
pub(super) struct Soak {
    minutes: u32,
    #[serde(rename = "rate_per_s")]
    rate: f64,
    messages: u32,
    refused: BTreeMap<String, u64>,
    ended_otherwise: u32,
    lost: u64,
    duplicates: u64,
    /// Bytes of resident memory, means of the second minute and of the last.
    #[serde(rename = "second_minute_rss_bytes")]
    second: BTreeMap<String, f64>,
    #[serde(rename = "last_minute_rss_bytes")]
    last: BTreeMap<String, f64>,
    #[serde(rename = "growth_bytes_per_minute")]
    growth: BTreeMap<String, f64>,
    /// Of what broker, Redis, audit log and identity have on the disk.
    #[serde(rename = "stored_growth_bytes_per_minute")]
    stored_growth: f64,
    /// Processes that grew more than they may.
    #[serde(rename = "over_bound")]
    over: Vec<String>,
}

impl Soak {
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "soak         {} minutes at {:.0} a second, receipts after {} s: {} messages, lost {}, twice {}, ended otherwise {}, \
             refused {:?}",
            self.minutes,
            self.rate,
            RECEIPTS.as_secs(),
            self.messages,
            self.lost,
            self.duplicates,
            self.ended_otherwise,
            self.refused
        )];
        lines.extend(self.growth.iter().map(|(name, growth)| {
            let at = |minute: &BTreeMap<String, f64>| minute.get(name).copied().unwrap_or(0.0) / MEBIBYTE;
            format!(
                "             {name:<14} {:>6.1} MB in the 2nd minute, {:>6.1} in the last: {:+.2} MB a minute{}{}",
                at(&self.second),
                at(&self.last),
                growth / MEBIBYTE,
                if STORES.contains(&name.as_str()) { self.a_message(*growth) } else { String::new() },
                if self.over.contains(name) { ", more than it may" } else { "" }
            )
        }));
        lines.push(format!(
            "             on the disk {:+.1} MB a minute{}",
            self.stored_growth / MEBIBYTE,
            self.a_message(self.stored_growth)
        ));
        lines.push(format!(
            "             bounds: {:.0} MB a minute for a service, {:.0} bytes a message for broker and Redis, which keep it a day",
            SERVICE_GROWTH / MEBIBYTE,
            STORE_GROWTH
        ));
        lines
    }

    fn a_message(&self, growth: f64) -> String {
        format!(", {:.0} bytes a message", growth / (self.rate * MINUTE.as_secs_f64()))
    }

    /// An error if a message was lost or sent twice, or anything grew more than it may.
    pub(super) fn verdict(&self) -> Result<(), CliError> {
        if (self.lost, self.duplicates) != (0, 0) {
            return Err(CliError::new(format!("lost {}, twice {}", self.lost, self.duplicates)));
        }
        if self.over.is_empty() {
            return Ok(());
        }
        Err(CliError::new(format!("memory grows beyond the bound: {}", self.over.join(", "))))
    }
}

impl Runs<'_> {
    pub(super) async fn soak(&mut self, minutes: u32, rate: f64) -> Result<Soak, CliError> {
        let stage = self.stage;
        let late = u64::try_from(RECEIPTS.as_millis()).unwrap_or(u64::MAX);
        stage.behave(&json!({ "receipt_delay_ms": late })).await?;
        let before = stage.counters().await?;
        self.heard.begin(false);
        let mut samples = Vec::new();
        let (messages, refused) = tokio::select! {
            sent = self.steady(minutes, rate) => sent?,
            failed = sample(stage, &mut samples) => match failed? {},
        };
        self.settled(messages).await?;
        let counted = stage.counters().await?.since(before);
        let (_, ended_otherwise) = self.heard.ended();
        let second = mean(&samples, 1);
        let last = mean(&samples, minutes.saturating_sub(1));
        let between = f64::from(minutes.saturating_sub(2).max(1));
        let growth: BTreeMap<String, f64> = second
            .resident
            .iter()
            .filter_map(|(name, second)| Some((name.clone(), (last.resident.get(name)? - second) / between)))
            .collect();
        let may =
            |name: &str| if STORES.contains(&name) { STORE_GROWTH * rate * 60.0 } else { SERVICE_GROWTH };
        let over = growth.iter().filter(|(name, growth)| !is_outside(name) && **growth > may(name));
        Ok(Soak {
            minutes,
            rate,
            messages,
            refused,
            ended_otherwise,
            lost: u64::from(messages).saturating_sub(counted.parts),
            duplicates: counted.duplicates,
            over: over.map(|(name, _)| name.clone()).collect(),
            growth,
            stored_growth: (last.stored - second.stored) / between,
            second: second.resident,
            last: last.resident,
        })
    }

    /// Sends at the rate; each minute with a token of its own, as one is not good for all.
    async fn steady(&mut self, minutes: u32, rate: f64) -> Result<(u32, BTreeMap<String, u64>), CliError> {
        let (mut messages, mut refused) = (0_u32, BTreeMap::new());
        for _ in 0..minutes {
            let load = Load { messages: u32::MAX, ..self.load(MINUTE, Some(rate)) };
            let accepted = self.send(load, false).await?;
            messages = messages.saturating_add(u32::try_from(accepted.took.len()).unwrap_or(u32::MAX));
            for (why, count) in accepted.refused {
                let all = refused.entry(why).or_insert(0_u64);
                *all = all.saturating_add(count);
            }
        }
        Ok((messages, refused))
    }
}

/// Looks at memory for ever.
async fn sample(stage: &Stage, samples: &mut Vec<Sample>) -> Result<Infallible, CliError> {
    let start = Instant::now();
    let data = stage.dir().path("data");
    loop {
        let usage = usage::of(&stage.processes()?)?;
        samples.push(Sample {
            at: start.elapsed(),
            resident: usage.into_iter().map(|(name, usage)| (name, usage.resident)).collect(),
            stored: usage::stored(&data),
        });
        sleep(EVERY).await;
    }
}

/// Of a minute.
struct Mean {
    resident: BTreeMap<String, f64>,
    stored: f64,
}

/// Means of the samples of a minute, from 0.
fn mean(samples: &[Sample], minute: u32) -> Mean {
    let of_it = || samples.iter().filter(|sample| sample.at.as_secs() / 60 == u64::from(minute));
    let count = f64::from(u32::try_from(of_it().count()).unwrap_or(u32::MAX)).max(1.0);
    let mut mean = Mean { resident: BTreeMap::new(), stored: 0.0 };
    for sample in of_it() {
        for (name, resident) in &sample.resident {
            *mean.resident.entry(name.clone()).or_default() += float(*resident) / count;
        }
        mean.stored += float(sample.stored) / count;
    }
    mean
}

/// Bytes by the KiB, which is exact enough for a mean.
fn float(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) * 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_one_minute() {
        let sample = |at, kib: u64| Sample {
            at: Duration::from_secs(at),
            resident: BTreeMap::from([("x".to_owned(), kib * 1024)]),
            stored: kib * 2048,
        };
        let samples = [sample(59, 1), sample(60, 2), sample(119, 4), sample(120, 8)];
        let mean = mean(&samples, 1);
        assert_eq!((mean.resident["x"], mean.stored), (3.0 * 1024.0, 6.0 * 1024.0));
    }
}
