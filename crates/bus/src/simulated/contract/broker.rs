//! Either of the two, with the same streams and consumers.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use async_nats::{HeaderMap, Message, Request, client::RequestErrorKind};
use bytes::Bytes;
use serde_json::{Value, json};
use sotto_core::{Shards, SystemClock};
use sotto_testkit::{NatsOptions, NatsServer, eventually};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Bus, BusOptions, Service, Topology,
    simulated::SimulatedBroker,
    topology::{Cell, settings},
    wire::{Subscription, Wire},
};

/// Small bounds and short times, so that each is reached.
const LIST: &str = r#"
[limits]
accounts = 1
shards = 1

[[request]]
subject = "client.*.submit"
service = "ingress"

[[stream]]
name = "WORK"
subjects = ["work.*.*"]
retention = "workqueue"
max_bytes = 2_000
deny_delete = true
deny_purge = true

  [[stream.consumer]]
  name = "one"
  service = "routing"
  filters = ["work.one.*"]
  ack_wait_s = 1
  max_ack_pending = 2

  [[stream.consumer]]
  name = "two"
  service = "routing"
  filters = ["work.two.*"]
  ack_wait_s = 60
  max_ack_pending = 100

[[stream]]
name = "BOUNDED"
subjects = ["bounded.*"]
retention = "workqueue"
max_bytes = 1_000_000
max_messages_per_subject = 2
deny_delete = true
deny_purge = true

  [[stream.consumer]]
  name = "three"
  service = "routing"
  filters = ["bounded.*"]
  ack_wait_s = 60
  max_ack_pending = 100

[[stream]]
name = "LOG"
subjects = ["log.*"]
retention = "limits"
max_bytes = 1_000_000
deny_delete = false
deny_purge = true

  [[stream.consumer]]
  name = "ordered"
  service = "routing"
  filters = ["log.*"]
  ack_wait_s = 60
  max_ack_pending = 1

[[stream]]
name = "REGISTER"
subjects = ["register.*"]
retention = "latest"
max_bytes = 1_000_000
deny_delete = true
deny_purge = true
"#;

/// How long an answer may take, and how long nothing must come before it counts as nothing.
const BOUND: Duration = Duration::from_secs(10);
const NOTHING: Duration = Duration::from_millis(300);

pub(super) struct Broker {
    pub(super) name: &'static str,
    wire: Wire,
    /// Ends with it.
    server: Option<NatsServer>,
    _simulated: Option<(SimulatedBroker, Bus)>,
}

/// A pull that waits for its messages.
pub(super) struct Pull(Subscription);

/// A message that was delivered.
pub(super) struct Delivered {
    pub(super) told: String,
    pub(super) reply: String,
}

fn cell() -> Cell {
    Cell {
        id: "vn".parse().unwrap(),
        shards: Shards::new(NonZeroU16::MIN),
        replicas: sotto_core::Replicas::One,
    }
}

impl Broker {
    pub(super) async fn real() -> Self {
        let server = NatsServer::start(NatsOptions::default()).await;
        let wire = Wire::Nats(async_nats::connect(server.url()).await.unwrap());
        let broker = Self { name: "nats-server", wire, server: Some(server), _simulated: None };
        let topology = Topology::parse(LIST).unwrap();
        for spec in topology.streams(&cell()) {
            broker.api(&format!("STREAM.CREATE.{}", spec.name), settings::stream(&spec)).await;
        }
        for spec in topology.consumers(&cell(), &[]).unwrap() {
            let config = settings::consumer(&spec, sotto_core::Replicas::One);
            let request = json!({ "stream_name": spec.stream, "config": config, "action": "create" });
            broker.api(&format!("CONSUMER.CREATE.{}.{}", spec.stream, spec.name), request).await;
        }
        broker
    }

    pub(super) fn simulated() -> Self {
        let topology = Topology::parse(LIST).unwrap();
        let simulated = SimulatedBroker::start(&topology, &cell(), &[], 7).unwrap();
        let options = BusOptions {
            service: Service::Routing,
            instance: "contract".to_owned(),
            cell: cell(),
            topology,
            clock: Arc::new(SystemClock),
            digest: Arc::new(|_| [0; 32]),
        };
        let bus = simulated.connect(options, CancellationToken::new());
        let wire = bus.client().clone();
        Self { name: "simulated", wire, server: None, _simulated: Some((simulated, bus)) }
    }

    async fn request(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Option<Message> {
        let request = Request::new().headers(headers).payload(payload).timeout(Some(BOUND));
        match self.wire.send_request(subject, request).await {
            Ok(answer) => Some(answer),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => None,
            Err(error) => panic!("{}: {error}", self.name),
        }
    }

    /// Asks `$JS.API.<api>`.
    pub(super) async fn api(&self, api: &str, request: Value) -> Value {
        let payload = Bytes::from(request.to_string());
        let answer = self.request(format!("$JS.API.{api}"), HeaderMap::new(), payload).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    /// One message by direct get.
    pub(super) async fn get(&self, stream: &str, request: Value) -> Vec<String> {
        self.answers(&format!("$JS.API.DIRECT.GET.VN_{stream}"), request).await
    }

    /// All that is answered, up to a status that ends it or until nothing more comes.
    async fn answers(&self, subject: &str, request: Value) -> Vec<String> {
        let inbox = self.wire.new_inbox();
        let mut answers = self.wire.subscribe(inbox.clone()).await.unwrap();
        let payload = Bytes::from(request.to_string());
        self.wire.publish_with_reply(subject.to_owned(), inbox, payload).await.unwrap();
        let mut told = Vec::new();
        while let Ok(Some(message)) = timeout(NOTHING, answers.next()).await {
            let header = |name: &str| {
                let headers = message.headers.as_ref()?;
                headers.get_last(name).map(|value| value.as_str().to_owned())
            };
            let previous = header("Nats-Last-Sequence").unwrap_or_default();
            match message.status.filter(|status| status.as_u16() != 200) {
                Some(status) if previous.is_empty() => told.push(status.as_u16().to_string()),
                Some(status) => told.push(format!("{} after {previous}", status.as_u16())),
                None => told.push(format!(
                    "{} {} {}",
                    header("Nats-Sequence").unwrap_or_default(),
                    short(&header("Nats-Subject").unwrap_or_default()),
                    String::from_utf8_lossy(&message.payload),
                )),
            }
        }
        told
    }

    /// Publishes with these headers; what was answered.
    pub(super) async fn publish(&self, subject: &str, text: &str, headers: &[(&str, &str)]) -> String {
        let mut all = HeaderMap::new();
        headers.iter().for_each(|(name, value)| all.insert(*name, *value));
        let subject = format!("sotto.v1.vn.{subject}");
        let Some(answer) = self.request(subject, all, Bytes::from(text.to_owned())).await else {
            return "nobody".to_owned();
        };
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        match (&answer["error"], answer["duplicate"] == true) {
            (Value::Null, false) => format!("stored {}", answer["seq"]),
            (Value::Null, true) => format!("known as {}", answer["seq"]),
            (error, _) => format!("refused {} {}", error["code"], error["err_code"]),
        }
    }

    /// Publishes without headers, so that only stored ones count.
    pub(super) async fn store(&self, subject: &str, texts: &[&str]) {
        for text in texts {
            let told = self.publish(subject, text, &[]).await;
            assert!(told.starts_with("stored"), "{}: {told}", self.name);
        }
    }

    /// Asks a consumer for messages; `waits` for them so long.
    pub(super) async fn pull(&self, consumer: &str, batch: u64, waits: Option<Duration>) -> Pull {
        if waits.is_none() && self.server.is_some() {
            let what = "the consumer knows of what is stored";
            eventually(BOUND, what, async || self.is_known_to(consumer).await).await;
        }
        let inbox = self.wire.new_inbox();
        let messages = self.wire.subscribe(inbox.clone()).await.unwrap();
        let request = match waits {
            Some(waits) => json!({ "batch": batch, "expires": u64::try_from(waits.as_nanos()).unwrap() }),
            None => json!({ "batch": batch, "no_wait": true }),
        };
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.VN_{consumer}");
        self.wire.publish_with_reply(subject, inbox, Bytes::from(request.to_string())).await.unwrap();
        Pull(messages)
    }

    /// A nats-server tells its consumers of a message after it confirmed it: a pull that does not wait may be told that there
    /// is none. Counts what lies under the consumer's filter; to be asked before anything is acknowledged that stays stored.
    async fn is_known_to(&self, consumer: &str) -> bool {
        let info = self.api(&format!("CONSUMER.INFO.VN_{consumer}"), json!({})).await;
        let filter = info["config"]["filter_subjects"][0].as_str().unwrap();
        let stream = info["stream_name"].as_str().unwrap();
        let stored = self.api(&format!("STREAM.INFO.{stream}"), json!({ "subjects_filter": filter })).await;
        let counts = stored["state"]["subjects"].as_object().into_iter().flat_map(|all| all.values());
        let stored: u64 = counts.filter_map(Value::as_u64).sum();
        let known = ["num_pending", "num_ack_pending"].map(|name| info[name].as_u64().unwrap());
        known.iter().sum::<u64>() >= stored
    }

    /// Answers a delivery and waits for the confirmation, which may stay away.
    pub(super) async fn answer(&self, delivered: &Delivered, word: &str) -> bool {
        let payload = Bytes::from(word.to_owned());
        let request = Request::new().payload(payload).timeout(Some(NOTHING));
        self.wire.send_request(delivered.reply.clone(), request).await.is_ok()
    }

    /// How many messages a stream holds.
    pub(super) async fn held(&self, stream: &str) -> Value {
        self.api(&format!("STREAM.INFO.VN_{stream}"), json!({})).await["state"]["messages"].clone()
    }
}

impl Pull {
    /// The next message or status; "nothing" if none comes soon.
    pub(super) async fn next(&mut self) -> Delivered {
        self.within(NOTHING).await
    }

    /// The same, waited for so long.
    pub(super) async fn within(&mut self, patience: Duration) -> Delivered {
        let Ok(Some(message)) = timeout(patience, self.0.next()).await else {
            return Delivered { told: "nothing".to_owned(), reply: String::new() };
        };
        if let Some(status) = message.status.filter(|status| status.as_u16() != 200) {
            let words = message.description.unwrap_or_default();
            return Delivered { told: format!("{} {words}", status.as_u16()), reply: String::new() };
        }
        let reply = message.reply.unwrap().to_string();
        let deliveries = reply.split('.').nth(4).unwrap_or_default().to_owned();
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        Delivered { told: format!("{text} for time {deliveries}"), reply }
    }

    /// So many, as they are told.
    pub(super) async fn take(&mut self, count: usize) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..count {
            told.push(self.next().await.told);
        }
        told
    }
}

/// Lets the broker's time pass.
pub(super) async fn pass(time: Duration) {
    sleep(time).await;
}

fn short(subject: &str) -> String {
    subject.strip_prefix("sotto.v1.vn.").unwrap_or(subject).to_owned()
}
