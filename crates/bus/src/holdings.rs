//! What streams and consumers hold, looked at every few seconds for [`sotto_metrics`].

use std::time::Duration;

use serde_json::{Value, json};
use sotto_core::AccountId;
use sotto_metrics::{About, Described, Gauge, Metrics};
use tokio::time::{MissedTickBehavior, interval};

use crate::{Bus, measures::count, topology::stream_name};

/// How often the broker is asked. With 200 accounts a connector asks 600 times, which the broker answers from memory.
const LOOK: Duration = Duration::from_secs(15);

const MESSAGES: About = About {
    name: "sotto_stream_messages",
    what: "Batches in a stream; told by one service for each stream",
    worry: "`QUARANTINE` grows. `INTAKE` and `WAITING` grow: see what waits, and how long",
};
const BYTES: About = About { name: "sotto_stream_bytes", what: "Bytes in a stream", worry: "For comparison" };
const FILL: About = About {
    name: "sotto_stream_fill_ratio",
    what: "Bytes in a stream of those it may hold; at 1 it refuses",
    worry: "Above 0.7",
};
const PENDING: About = About {
    name: "sotto_consumer_pending",
    what: "Batches that a consumer has not delivered to anybody yet",
    worry: "Grows. Of `projection-*`: the view of messages is behind; of `audit-acts`: acts wait for the audit log",
};
const UNANSWERED: About = About {
    name: "sotto_consumer_unacknowledged",
    what: "Batches that are delivered and not acknowledged",
    worry: "Stands at the consumer's `max_ack_pending` (deploy/streams.toml): nothing more is delivered",
};
const AGAIN: About = About {
    name: "sotto_consumer_redelivered",
    what: "Of those, batches that were delivered more than once",
    worry: "Stays above 0",
};
const SEEN: About = About {
    name: "sotto_stream_seen",
    what: "1 while the broker answers for a stream; else the other numbers are old",
    worry: "0 for a minute: the stream has no leader, or the broker is away",
};

/// One stream.
struct Stream {
    name: String,
    messages: Gauge,
    bytes: Gauge,
    fill: Gauge,
    seen: Gauge,
    consumers: Vec<Consumer>,
}

struct Consumer {
    name: String,
    pending: Gauge,
    unanswered: Gauge,
    again: Gauge,
}

impl Consumer {
    fn new(metrics: &Metrics, name: String) -> Self {
        let metrics = metrics.with("consumer", &name);
        let [pending, unanswered, again] = [PENDING, UNANSWERED, AGAIN].map(|about| metrics.gauge(about));
        Self { name, pending, unanswered, again }
    }
}

impl Stream {
    fn new(metrics: &Metrics, name: String, listed: &str, consumers: Vec<String>) -> Self {
        let of_stream = metrics.with("stream", listed);
        let [messages, bytes, fill, seen] = [MESSAGES, BYTES, FILL, SEEN].map(|about| of_stream.gauge(about));
        let consumers = consumers.into_iter().map(|name| Consumer::new(metrics, name)).collect();
        Self { name, messages, bytes, fill, seen, consumers }
    }

    async fn look(&self, bus: &Bus) {
        let told = bus.api(&format!("STREAM.INFO.{}", self.name), &json!({})).await;
        self.seen.set(if told.is_ok() { 1.0 } else { 0.0 });
        let Ok(info) = told else { return };
        let (bytes, most) = (number(&info, "/state/bytes"), number(&info, "/config/max_bytes"));
        self.messages.set_count(number(&info, "/state/messages"));
        self.bytes.set_count(bytes);
        self.fill.set(count(bytes) / count(most.max(1)));
        for consumer in &self.consumers {
            let api = format!("CONSUMER.INFO.{}.{}", self.name, consumer.name);
            let Ok(info) = bus.api(&api, &json!({})).await else { continue };
            consumer.pending.set_count(number(&info, "/num_pending"));
            consumer.unanswered.set_count(number(&info, "/num_ack_pending"));
            consumer.again.set_count(number(&info, "/num_redelivered"));
        }
    }
}

fn number(info: &Value, path: &str) -> u64 {
    info.pointer(path).and_then(Value::as_u64).unwrap_or_default()
}

/// Measures these streams, as the list writes them, and this service's consumers of them, for ever. `accounts` are those of
/// the carriers file, for the consumers that have one each.
pub async fn measure_streams(bus: Bus, metrics: Metrics, streams: &[&str], accounts: &[AccountId]) {
    let consumers = bus.topology().consumers(bus.cell(), accounts).unwrap_or_default();
    let stream = |listed: &&str| {
        let name = stream_name(&bus.cell().id, listed);
        let ours = consumers.iter().filter(|spec| spec.stream == name && spec.service == bus.service());
        Stream::new(&metrics, name.clone(), listed, ours.map(|spec| spec.name.clone()).collect())
    };
    let streams: Vec<_> = streams.iter().map(stream).collect();
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for stream in &streams {
            stream.look(&bus).await;
        }
    }
}

/// What is measured of streams.
pub(crate) fn described() -> Vec<Described> {
    let metrics = Metrics::default();
    Stream::new(&metrics, "stream".to_owned(), "stream", vec!["consumer".to_owned()]);
    metrics.described()
}
