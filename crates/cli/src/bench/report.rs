//! What was measured, for people and for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Bench,
    backlog::{Behind, Drained},
    load::Way,
    percentile,
    rounds::Rounds,
    soak::Soak,
    stage::SHARDS,
};
use crate::{CliError, Output};

/// Whether a process is not the platform's own, but stands for what is outside.
pub(super) fn is_outside(name: &str) -> bool {
    name == "client" || name.starts_with("simulator")
}

/// Memory of each process, for people.
pub(super) fn megabytes(bytes: &BTreeMap<String, u64>) -> String {
    let each = bytes.iter().map(|(name, bytes)| format!("{name} {} MB", bytes >> 20));
    each.collect::<Vec<_>>().join(", ")
}

/// Processor time of each process for a message, for people.
pub(super) fn processors(cpu: &BTreeMap<String, f64>) -> String {
    let each = cpu.iter().map(|(name, cpu)| format!("{name} {:.0} us", cpu * 1000.0));
    each.collect::<Vec<_>>().join(", ")
}

/// Median and 99th percentile, milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Quantiles {
    p50_ms: f64,
    p99_ms: f64,
}

impl Quantiles {
    /// Of microseconds.
    pub(super) fn of(values: &mut [u32]) -> Self {
        let mut at = |per_cent| f64::from(percentile(values, per_cent)) / 1000.0;
        Self { p50_ms: at(50), p99_ms: at(99) }
    }
}

impl std::fmt::Display for Quantiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} / {:.1} ms", self.p50_ms, self.p99_ms)
    }
}

/// The run at full speed.
#[derive(Debug, Serialize)]
pub(super) struct Full {
    /// Accepted messages.
    pub(super) messages: u32,
    /// Refusals by code.
    pub(super) refused: BTreeMap<String, u64>,
    pub(super) accepted_per_s: f64,
    /// From the first message sent to the last delivery that the client heard of.
    pub(super) delivered_per_s: f64,
    /// Messages that ended, but not as delivered.
    pub(super) ended_otherwise: u32,
    /// Accepted messages that the simulator was not given.
    pub(super) lost: u64,
    /// Parts that the simulator was given twice.
    pub(super) duplicates: u64,
    /// Receipts that were taken from the simulator.
    pub(super) receipts: u64,
    /// Seconds of processor time for 1,000 messages.
    #[serde(rename = "cpu_s_per_1000")]
    pub(super) cpu: BTreeMap<String, f64>,
    /// The most resident memory, bytes.
    #[serde(rename = "peak_rss_bytes")]
    pub(super) peak: BTreeMap<String, u64>,
    /// Bytes that broker, audit log and identity have on the disk more, for each message.
    #[serde(rename = "stored_bytes_per_message")]
    pub(super) stored_a_message: u64,
    /// Messages for each broker message of a stream. EVENTS has about five events a message.
    #[serde(rename = "messages_per_broker_message")]
    pub(super) messages_a_broker_message: BTreeMap<String, f64>,
}

/// A run at a fixed rate, each time from when the message was due.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    /// Per cent of the reached rate.
    pub(super) share: u32,
    #[serde(rename = "rate_per_s")]
    pub(super) rate: f64,
    pub(super) messages: usize,
    pub(super) accept: Quantiles,
    /// From the client's call.
    pub(super) call_to_submit: Quantiles,
    /// From when the client heard of the acceptance; 0 if the submit was earlier.
    pub(super) accept_to_submit: Quantiles,
    /// Until the client heard of it: with the simulator's delay of receipts.
    pub(super) submit_to_delivered: Quantiles,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: &'static str,
    build: &'static str,
    settings: serde_json::Value,
    fsync_p50_us: u32,
    fsync_p99_us: u32,
    ceiling_single_per_s: f64,
    ceiling_batch_per_s: f64,
    full: Option<Full>,
    /// From the client's call to `submit_sm`, with nothing else under way.
    idle_call_to_submit: Option<Quantiles>,
    latency: Vec<Latency>,
    behind: Option<Behind>,
    stopped: Option<Drained>,
    soak: Option<Soak>,
    beside: Option<Rounds>,
}

impl Report {
    pub(super) fn new(asked: &Bench) -> Self {
        let way = match asked.way() {
            Way::Streams(streams) => format!("{streams} stream(s)"),
            Way::Unary => "unary, 100 at once".to_owned(),
            Way::Nats => "sealed over NATS, up to 100 in a request".to_owned(),
        };
        let scenario = asked.scenario.is_some();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            settings: serde_json::json!({
                "durability": "D1: fsync before accepted", "seconds": asked.seconds, "way": way, "keyed": asked.keyed,
                "rate": asked.rate, "class": "transactional", "text_characters": 115, "receipt_ms": asked.receipt_ms,
                "answer_ms": asked.answer_ms, "carriers": asked.carriers, "window": asked.window, "tps": asked.tps,
                "binds": asked.connectors, "connectors": asked.connectors, "carrier_tls": true, "shards": SHARDS.count(),
                "scenario": scenario,
            }),
            fsync_p50_us: 0,
            fsync_p99_us: 0,
            ceiling_single_per_s: 0.0,
            ceiling_batch_per_s: 0.0,
            full: None,
            idle_call_to_submit: None,
            latency: Vec::new(),
            behind: None,
            stopped: None,
            soak: None,
            beside: None,
        }
    }

    pub(super) fn fsync(&mut self, (p50, p99): (u32, u32)) {
        (self.fsync_p50_us, self.fsync_p99_us) = (p50, p99);
    }

    pub(super) fn ceilings(&mut self, single: f64, batch: f64) {
        (self.ceiling_single_per_s, self.ceiling_batch_per_s) = (single, batch);
    }

    pub(super) fn full(&mut self, full: Full) {
        self.full = Some(full);
    }

    pub(super) fn alone(&mut self, took: Quantiles) {
        self.idle_call_to_submit = Some(took);
    }

    pub(super) fn behind(&mut self, behind: Behind) {
        self.behind = Some(behind);
    }

    pub(super) fn drained(&mut self, drained: Drained) {
        self.stopped = Some(drained);
    }

    pub(super) fn soak(&mut self, soak: Soak) {
        self.soak = Some(soak);
    }

    pub(super) fn beside(&mut self, rounds: Rounds) {
        self.beside = Some(rounds);
    }

    pub(super) fn into_full(self) -> Option<Full> {
        self.full
    }

    pub(super) fn latency(&mut self, latency: Latency) {
        self.latency.push(latency);
    }

    /// Writes it all.
    pub(super) fn tell(&self, output: &Output) -> Result<(), CliError> {
        let mut value =
            serde_json::to_value(self).map_err(|error| CliError::caused_by("the report", &error))?;
        if let (Some(full), Some(report)) = (&self.full, value.as_object_mut()) {
            let ratios = serde_json::json!({
                "delivered_to_ceiling_batch": full.delivered_per_s / self.ceiling_batch_per_s.max(f64::EPSILON),
                "delivered_to_ceiling_single": full.delivered_per_s / self.ceiling_single_per_s.max(f64::EPSILON),
                "cpu_s_per_1000": full.platform_cpu(), "peak_rss_bytes": full.platform_peak(),
            });
            report.insert("ratios".to_owned(), ratios);
        }
        output.json(&value)?;
        self.lines().iter().try_for_each(|line| output.line(line))?;
        self.soak.as_ref().map_or(Ok(()), Soak::verdict)?;
        self.beside.as_ref().map_or(Ok(()), Rounds::verdict)
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("sotto {} ({} build), {}", self.version, self.build, self.settings),
            format!(
                "disk         fsync of 4 KiB: p50 {} us, p99 {} us",
                self.fsync_p50_us, self.fsync_p99_us
            ),
        ];
        // Each round tells its own.
        if self.beside.is_none() {
            lines.push(format!(
                "broker alone {:.0} a second one by one; {:.0} a second over {} hops, {} in a broker message",
                self.ceiling_single_per_s,
                self.ceiling_batch_per_s,
                sotto_bus::ceiling::HOPS,
                sotto_bus::ceiling::BATCH
            ));
        }
        if let Some(full) = &self.full {
            lines.extend(full.lines(self.ceiling_batch_per_s));
        }
        if let Some(took) = &self.idle_call_to_submit {
            lines.push(format!("idle         call to submit_sm: {took} (p50 / p99)"));
        }
        lines.extend(self.behind.iter().flat_map(Behind::lines));
        lines.extend(self.stopped.iter().flat_map(Drained::lines));
        lines.extend(self.soak.iter().flat_map(Soak::lines));
        lines.extend(self.beside.iter().flat_map(Rounds::lines));
        for run in &self.latency {
            lines.push(format!(
                "at {:>2} %      {:>6.0}/s: accept {}; call to submit {}; accept to submit {}; submit to delivered {}",
                run.share, run.rate, run.accept, run.call_to_submit, run.accept_to_submit, run.submit_to_delivered
            ));
        }
        lines
    }
}

impl Full {
    /// Processor time of everything that is the platform's: services, broker, Redis.
    pub(super) fn platform_cpu(&self) -> f64 {
        self.cpu.iter().filter(|(name, _)| !is_outside(name)).map(|(_, cpu)| cpu).sum()
    }

    /// Whether each message went once, and came to its end.
    pub(super) fn counts(&self) -> bool {
        self.messages > 0
            && (self.lost, self.duplicates, self.ended_otherwise) == (0, 0, 0)
            && self.receipts == u64::from(self.messages)
    }

    fn platform_peak(&self) -> u64 {
        self.peak.iter().filter(|(name, _)| !is_outside(name)).map(|(_, peak)| peak).sum()
    }

    fn lines(&self, ceiling: f64) -> Vec<String> {
        let each = |name: &str| {
            let cpu = self.cpu.get(name).copied().unwrap_or_default() * 1000.0;
            let peak = self.peak.get(name).copied().unwrap_or_default() / (1 << 20);
            format!("{name} {cpu:.0} us {peak} MB")
        };
        let processes: Vec<String> = self.cpu.keys().map(|name| each(name)).collect();
        let batches: Vec<String> =
            self.messages_a_broker_message.iter().map(|(name, size)| format!("{name} {size:.1}")).collect();
        vec![
            format!(
                "full speed   {} messages: {:.0} accepted a second, {:.0} delivered a second ({:.3} of the broker alone)",
                self.messages,
                self.accepted_per_s,
                self.delivered_per_s,
                self.delivered_per_s / ceiling.max(f64::EPSILON)
            ),
            format!(
                "             lost {}, twice {}, ended otherwise {}, refused {:?}",
                self.lost, self.duplicates, self.ended_otherwise, self.refused
            ),
            format!(
                "             {:.3} CPU s for 1,000, {} MB at most (services, broker, Redis); {} bytes stored a message",
                self.platform_cpu(),
                self.platform_peak() / (1 << 20),
                self.stored_a_message
            ),
            format!("             a message, and at most: {}", processes.join(", ")),
            format!("             messages in a broker message: {}", batches.join(", ")),
        ]
    }
}
