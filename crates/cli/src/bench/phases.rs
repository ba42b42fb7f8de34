//! The runs: at full speed, alone through an idle cell, and at shares of the reached rate.

use std::{collections::BTreeMap, time::Duration};

use sotto_bus::{Bus, Service, StreamReader};
use sotto_core::Clock;
use sotto_proto::{
    message::v1::{MessageClass, message_service_client::MessageServiceClient},
    pipeline::v1::WorkBatch,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

use super::{
    Bench,
    load::{self, Accepted, Load, Way},
    percentile,
    report::{Behind, Full, Latency, Quantiles, Report},
    stage::Stage,
    usage,
    watch::{self, Heard},
};
use crate::{CliError, commands, up::connect};

/// Messages before anything counts: keys are made, connections are up.
const WARM_UP: u32 = 2_000;

/// Messages through an idle cell, one after the other.
const ALONE: u32 = 100;

/// Shares of the reached rate at which latency is measured, per cent.
const SHARES: [u32; 3] = [20, 50, 80];

/// How long what is under way may take to end.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often it is looked whether a code has arrived.
const LOOK: Duration = Duration::from_millis(20);

/// Streams whose batches are told.
const STREAMS: [&str; 3] = ["INTAKE", "WAITING", "EVENTS"];

/// Everything a run needs.
struct Runs<'a> {
    stage: &'a Stage,
    asked: &'a Bench,
    client: MessageServiceClient<Channel>,
    bus: Bus,
    heard: &'a Heard,
    clock: &'a dyn Clock,
    /// The next message's number: no two messages of all runs have one.
    next: u32,
}

pub(super) async fn measure(
    stage: &Stage,
    asked: &Bench,
    report: &mut Report,
    say: &impl Fn(&str) -> Result<(), CliError>,
    clock: &dyn Clock,
) -> Result<(), CliError> {
    stage.behave(&serde_json::json!({ "receipt_delay_ms": asked.receipt_ms })).await?;
    let dir = stage.dir();
    let bus = connect(dir, &dir.open()?, &dir.running()?.nats, Service::Operator).await?;
    let client = MessageServiceClient::new(commands::channel(dir, "ingress")?);
    // The watcher has a connection of its own, as another program of the client's would.
    let watcher = MessageServiceClient::new(commands::channel(dir, "ingress")?);
    let heard = Heard::default();
    let mut runs = Runs { stage, asked, client, bus, heard: &heard, clock, next: 0 };
    tokio::select! {
        watched = watch::watch(&watcher, async || stage.token(clock).await, &heard, clock) => watched,
        run = runs.all(report, say) => run,
    }
}

impl Runs<'_> {
    async fn all(
        &mut self,
        report: &mut Report,
        say: &impl Fn(&str) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        self.heard.watched().await;
        say("warming up")?;
        let warm_up = Load { messages: WARM_UP, rate: None, ..self.load(Duration::MAX, None) };
        Box::pin(self.run(warm_up, false)).await?;
        if let Some(advertisements) = self.asked.behind {
            say(&format!("{advertisements} advertisements, and one-time codes behind them"))?;
            report.behind(Box::pin(self.behind(advertisements)).await?);
            return Ok(());
        }
        say(&format!("at full speed for {} s", self.asked.seconds))?;
        let full = Box::pin(self.full()).await?;
        let reached = full.delivered_per_s;
        report.full(full);
        if self.asked.latency_seconds == 0 {
            return Ok(());
        }
        say("alone through an idle cell")?;
        report.alone(self.alone().await?);
        for share in SHARES {
            let rate = reached * f64::from(share) / 100.0;
            say(&format!("at {share} % of it: {rate:.0} a second"))?;
            report.latency(self.latency(share, rate).await?);
        }
        Ok(())
    }

    fn load(&self, time: Duration, rate: Option<f64>) -> Load {
        Load {
            first: self.next,
            messages: self.asked.messages,
            time,
            rate,
            way: self.asked.way(),
            class: MessageClass::Transactional,
            keyed: self.asked.keyed,
        }
    }

    /// One one-time code, in a call of its own.
    fn one_code(&self) -> Load {
        Load { messages: 1, way: Way::Unary, class: MessageClass::Otp, ..self.load(Duration::MAX, None) }
    }

    /// Sends a load and waits until all of it has ended.
    async fn run(&mut self, load: Load, keep: bool) -> Result<(Accepted, Duration), CliError> {
        self.heard.begin(keep);
        let start = Instant::now();
        let accepted = self.send(load, keep).await?;
        let count = u32::try_from(accepted.took.len()).unwrap_or(u32::MAX);
        if timeout(PATIENCE, self.heard.reach(count)).await.is_err() {
            let (delivered, otherwise) = self.heard.ended();
            return Err(CliError::new(format!(
                "of {count} accepted messages {delivered} were delivered and {otherwise} ended otherwise, and nothing more \
                 came for {PATIENCE:?}"
            )));
        }
        let lasted = self.heard.last().map_or(Duration::ZERO, |last| last.duration_since(start));
        Ok((accepted, lasted))
    }

    async fn send(&mut self, load: Load, keep: bool) -> Result<Accepted, CliError> {
        let token = self.stage.token(self.clock).await?;
        let accepted = load::send(&self.client, &token, load, keep, self.clock).await?;
        self.next = self.next.saturating_add(u32::try_from(accepted.due.len()).unwrap_or(u32::MAX));
        Ok(accepted)
    }

    async fn full(&mut self) -> Result<Full, CliError> {
        let processes = self.stage.processes()?;
        let data = self.stage.dir().path("data");
        let before = self.stage.counters().await?;
        let (usage_before, stored_before, batches_before) =
            (usage::of(&processes)?, usage::stored(&data), self.broker_messages().await?);
        let rate = self.asked.rate.map(f64::from);
        let (accepted, lasted) =
            self.run(self.load(Duration::from_secs(self.asked.seconds), rate), false).await?;
        let usage_after = usage::of(&processes)?;
        let (delivered, otherwise) = self.heard.ended();
        let messages = u32::try_from(accepted.took.len()).unwrap_or(u32::MAX);
        let after = self.stage.counters().await?;
        let counted = |name: &str| {
            let count =
                |value: &serde_json::Value| value.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
            count(&after).saturating_sub(count(&before))
        };
        let per_thousand = f64::from(messages.max(1)) / 1000.0;
        let cpu: BTreeMap<String, f64> = usage_after
            .iter()
            .map(|(name, after)| {
                let before = usage_before.get(name).map_or(0.0, |before| before.cpu);
                (name.clone(), (after.cpu - before) / per_thousand)
            })
            .collect();
        let batches_after = self.broker_messages().await?;
        let batches = STREAMS
            .iter()
            .zip(batches_after.iter().zip(&batches_before))
            .map(|(name, (after, before))| {
                let stored = u32::try_from(after.saturating_sub(*before)).unwrap_or(u32::MAX).max(1);
                ((*name).to_owned(), f64::from(messages) / f64::from(stored))
            })
            .collect();
        Ok(Full {
            messages,
            refused: accepted.refused,
            accepted_per_s: f64::from(messages) / accepted.lasted.as_secs_f64().max(f64::EPSILON),
            delivered_per_s: f64::from(delivered) / lasted.as_secs_f64().max(f64::EPSILON),
            ended_otherwise: otherwise,
            lost: u64::from(messages).saturating_sub(counted("parts")),
            duplicates: counted("duplicates"),
            peak: usage_after.into_iter().map(|(name, usage)| (name, usage.peak)).collect(),
            cpu,
            stored_a_message: usage::stored(&data).saturating_sub(stored_before) / u64::from(messages.max(1)),
            messages_a_broker_message: batches,
        })
    }

    /// How many messages each of the streams was ever given.
    async fn broker_messages(&self) -> Result<Vec<u64>, CliError> {
        let mut counts = Vec::new();
        for stream in STREAMS {
            let failed =
                |error: &dyn std::error::Error| CliError::caused_by("the streams cannot be read", error);
            let reader = StreamReader::<WorkBatch>::new(&self.bus, stream).map_err(|error| failed(&error))?;
            counts.push(reader.state().await.map_err(|error| failed(&error))?.last);
        }
        Ok(counts)
    }

    /// From the client's call to the `submit_sm` at the carrier, with nothing else under way.
    async fn alone(&mut self) -> Result<Quantiles, CliError> {
        let mut took = Vec::new();
        for _ in 0..ALONE {
            let load = self.one_code();
            let (accepted, _) = self.run(load, false).await?;
            let arrivals = self.stage.arrivals().await?;
            took.extend(arrived(&accepted, load.first, &arrivals));
        }
        Ok(Quantiles::of(&mut took))
    }

    /// One-time codes while advertisements wait for the carrier: what was submitted between a code's acceptance and its own
    /// submit. The advertisements that are left are not waited for.
    async fn behind(&mut self, advertisements: u32) -> Result<Behind, CliError> {
        let load = Load {
            messages: advertisements,
            class: MessageClass::Promotional,
            ..self.load(Duration::MAX, None)
        };
        let before = self.submits().await?;
        let accepted = self.send(load, false).await?;
        let waiting = u64::try_from(accepted.took.len())
            .unwrap_or(u64::MAX)
            .saturating_sub(self.submits().await?.saturating_sub(before));
        let (mut ahead, mut took) = (Vec::new(), Vec::new());
        for _ in 0..ALONE {
            let load = self.one_code();
            let accepted = self.send(load, true).await?;
            let code = destination(load.first, 0);
            let arrivals = self.arrived(&code).await?;
            let Some(arrival) = arrivals.get(&code).copied() else { continue };
            let Some((_, accepted_at)) = accepted.ids.values().next().copied() else { continue };
            let between = arrivals.values().filter(|at| (accepted_at..arrival).contains(*at)).count();
            ahead.push(u32::try_from(between).unwrap_or(u32::MAX));
            took.push(micros(arrival.saturating_sub(accepted_at)));
        }
        let waiting_after = u64::try_from(accepted.took.len())
            .unwrap_or(u64::MAX)
            .saturating_sub(self.submits().await?.saturating_sub(before));
        Ok(Behind {
            waiting,
            waiting_after,
            codes: took.len(),
            ahead_p50: percentile(&mut ahead, 50),
            ahead_p99: percentile(&mut ahead, 99),
            accept_to_submit: Quantiles::of(&mut took),
            peak: usage::of(&self.stage.processes()?)?
                .into_iter()
                .map(|(name, usage)| (name, usage.peak))
                .collect(),
        })
    }

    async fn submits(&self) -> Result<u64, CliError> {
        let counters = self.stage.counters().await?;
        Ok(counters.get("submits").and_then(serde_json::Value::as_u64).unwrap_or(0))
    }

    /// The arrivals, once this one is among them.
    async fn arrived(&self, code: &str) -> Result<BTreeMap<String, i64>, CliError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let arrivals = self.stage.arrivals().await?;
            if arrivals.contains_key(code) {
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

    /// An open loop at a rate.
    async fn latency(&mut self, share: u32, rate: f64) -> Result<Latency, CliError> {
        let time = Duration::from_secs(self.asked.latency_seconds);
        let load = Load { messages: u32::MAX, ..self.load(time, Some(rate)) };
        let (mut accepted, _) = self.run(load, true).await?;
        let arrivals = self.stage.arrivals().await?;
        let delivered = self.heard.times();
        let mut sent_to_submit = arrived(&accepted, load.first, &arrivals);
        let (mut accept_to_submit, mut submit_to_delivered) = (Vec::new(), Vec::new());
        for (id, (index, accepted_at)) in &accepted.ids {
            let Some(arrival) = arrivals.get(&destination(load.first, *index)) else { continue };
            // The answer to the client may come later than the submit.
            accept_to_submit.push(micros(arrival.saturating_sub(*accepted_at)));
            if let Some(at) = delivered.get(id) {
                submit_to_delivered.push(micros(at.saturating_sub(*arrival)));
            }
        }
        Ok(Latency {
            share,
            rate,
            messages: accepted.took.len(),
            accept: Quantiles::of(&mut accepted.took),
            call_to_submit: Quantiles::of(&mut sent_to_submit),
            accept_to_submit: Quantiles::of(&mut accept_to_submit),
            submit_to_delivered: Quantiles::of(&mut submit_to_delivered),
        })
    }
}

/// How a carrier writes the recipient of a message.
fn destination(first: u32, index: u32) -> String {
    load::number(first.wrapping_add(index)).trim_start_matches('+').to_owned()
}

/// From when each message was due to its arrival at the carrier.
fn arrived(accepted: &Accepted, first: u32, arrivals: &BTreeMap<String, i64>) -> Vec<u32> {
    let due = (0_u32..).zip(&accepted.due);
    due.filter_map(|(index, due)| {
        Some(micros(arrivals.get(&destination(first, index))?.saturating_sub(*due)))
    })
    .collect()
}

fn micros(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}
