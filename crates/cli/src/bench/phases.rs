//! The runs: at full speed, alone through an idle cell, and at shares of the reached rate.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use sotto_bus::{Bus, Service, StreamReader};
use sotto_core::Clock;
use sotto_proto::{
    message::v1::{MessageClass, message_service_client::MessageServiceClient},
    pipeline::v1::WorkBatch,
};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;

use super::{
    Bench,
    load::{self, Accepted, Door, Load, Way},
    report::{Full, Latency, Quantiles, Report},
    simulator,
    stage::Stage,
    usage,
    watch::{self, Heard},
};
use crate::{CliError, commands, up::connect};

/// Messages before anything counts: keys are made, connections are up.
const WARM_UP: u32 = 2_000;

/// Messages through an idle cell, one after the other.
pub(super) const ALONE: u32 = 100;

/// Shares of the reached rate at which latency is measured, per cent.
const SHARES: [u32; 3] = [20, 50, 80];

/// How long nothing may come of what is under way.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// Streams whose batches are told.
const STREAMS: [&str; 3] = ["INTAKE", "WAITING", "EVENTS"];

/// Everything a run needs.
pub(super) struct Runs<'a> {
    pub(super) stage: &'a Stage,
    asked: &'a Bench,
    client: MessageServiceClient<Channel>,
    bus: Bus,
    pub(super) heard: &'a Heard,
    pub(super) clock: &'a dyn Clock,
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
        if let (Some(advertisements), false) = (self.asked.behind, self.asked.stopped) {
            say(&format!("{advertisements} advertisements, and one-time codes behind them"))?;
            report.behind(Box::pin(self.behind(advertisements)).await?);
            return Ok(());
        }
        if let (Some(minutes), Some(rate)) = (self.asked.soak, self.asked.rate) {
            return self.soaked(minutes, f64::from(rate), report, say).await;
        }
        say(&format!("at full speed for {} s", self.asked.seconds))?;
        let full = Box::pin(self.full()).await?;
        let reached = full.delivered_per_s;
        report.full(full);
        if let Some(minutes) = self.asked.soak {
            return self.soaked(minutes, reached / 2.0, report, say).await;
        }
        if let Some(advertisements) = self.asked.behind {
            say(&format!("{advertisements} messages for carriers that are stopped"))?;
            report.drained(Box::pin(self.drained(advertisements, reached)).await?);
            return Ok(());
        }
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

    async fn soaked(
        &mut self,
        minutes: u32,
        rate: f64,
        report: &mut Report,
        say: &impl Fn(&str) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        say(&format!("{minutes} minutes at {rate:.0} a second"))?;
        report.soak(Box::pin(self.soak(minutes, rate)).await?);
        Ok(())
    }

    pub(super) fn load(&self, time: Duration, rate: Option<f64>) -> Load {
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

    /// One one-time code, in a call or request of its own.
    pub(super) fn one_code(&self) -> Load {
        let way = if self.asked.nats { Way::Nats } else { Way::Unary };
        Load { messages: 1, way, class: MessageClass::Otp, ..self.load(Duration::MAX, None) }
    }

    /// Sends a load and waits until all of it has ended.
    async fn run(&mut self, load: Load, keep: bool) -> Result<(Accepted, Duration), CliError> {
        self.heard.begin(keep);
        let start = Instant::now();
        let accepted = self.send(load, keep).await?;
        self.settled(u32::try_from(accepted.took.len()).unwrap_or(u32::MAX)).await?;
        let lasted = self.heard.last().map_or(Duration::ZERO, |last| last.duration_since(start));
        Ok((accepted, lasted))
    }

    /// Waits until so many have ended, as long as some still do.
    pub(super) async fn settled(&self, messages: u32) -> Result<(), CliError> {
        let patience = PATIENCE.saturating_add(Duration::from_millis(self.asked.receipt_ms));
        let mut before = self.heard.ended();
        while timeout(patience, self.heard.reach(messages)).await.is_err() {
            let (delivered, otherwise) = self.heard.ended();
            if before == (delivered, otherwise) {
                return Err(CliError::new(format!(
                    "of {messages} accepted messages {delivered} were delivered and {otherwise} ended otherwise, and nothing \
                     more came for {patience:?}"
                )));
            }
            before = (delivered, otherwise);
        }
        Ok(())
    }

    pub(super) async fn send(&mut self, load: Load, keep: bool) -> Result<Accepted, CliError> {
        let token = self.stage.token(self.clock).await?;
        let door = Door { grpc: &self.client, nats: self.stage.nats() };
        let accepted = load::send(door, &token, load, keep, self.clock).await?;
        self.next = self.next.saturating_add(u32::try_from(accepted.due.len()).unwrap_or(u32::MAX));
        Ok(accepted)
    }

    async fn full(&mut self) -> Result<Full, CliError> {
        let processes = self.stage.processes()?;
        let data = self.stage.dir().path("data");
        let before = simulator::settled(self.stage.simulators()).await?;
        let (usage_before, stored_before, batches_before) =
            (usage::of(&processes)?, usage::stored(&data), self.broker_messages().await?);
        let rate = self.asked.rate.map(f64::from);
        let load = self.load(Duration::from_secs(self.asked.seconds), rate);
        let timeline = self.asked.timeline()?;
        let stage = self.stage;
        let play = async {
            timeline.play(stage.simulators()).await?;
            std::future::pending::<Result<Infallible, CliError>>().await
        };
        let (accepted, lasted) = tokio::select! {
            ran = Box::pin(self.run(load, false)) => ran?,
            failed = play => match failed? {},
        };
        let usage_after = usage::of(&processes)?;
        let (delivered, otherwise) = self.heard.ended();
        let messages = u32::try_from(accepted.took.len()).unwrap_or(u32::MAX);
        let counted = simulator::settled(stage.simulators()).await?.since(before);
        let per_thousand = f64::from(messages.max(1)) / 1000.0;
        let cpu = usage::cpu_of(&usage_before, &usage_after, per_thousand);
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
            accepted_per_s: accepted.per_second(),
            refused: accepted.refused,
            delivered_per_s: f64::from(delivered) / lasted.as_secs_f64().max(f64::EPSILON),
            ended_otherwise: otherwise,
            lost: u64::from(messages).saturating_sub(counted.parts),
            duplicates: counted.duplicates,
            receipts: counted.receipts_acked,
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
pub(super) fn destination(first: u32, index: u32) -> String {
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

pub(super) fn micros(value: i64) -> u32 {
    u32::try_from(value.max(0)).unwrap_or(u32::MAX)
}
