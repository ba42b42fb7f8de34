//! Routing over a real broker, set up as a cell has it.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU16,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use sotto_bus::{
    BusOptions, NatsConfig, Quarantine, Service, StreamReader, Topology, Worker, WorkerConfig,
    topology::{self, Cell, ServerOptions, consumer_name},
};
use sotto_core::{
    Clock as _, Facts, ManualClock, MessageClass, MessageId, Shards, Timestamp, WorkItem,
    carriers::{CarriersFile, RouteTable},
    text::Encoding,
    work::{Attempt, AttemptEnd, Envelope, KeyWrap},
};
use sotto_proto::{Batch, WireError};
use sotto_testkit::{CertFiles, NatsOptions, NatsServer, Pki, eventually, eventually_ok};

use super::*;

const BOUND: Duration = Duration::from_secs(20);
const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_000_000);
const STREAMS: &str = include_str!("../../../../deploy/streams.toml");

struct TestCell {
    server: NatsServer,
    pki: Pki,
    topology: Topology,
    seeds: BTreeMap<Service, PathBuf>,
    clock: Arc<ManualClock>,
    instances: AtomicU64,
}

fn vn() -> Cell {
    Cell {
        id: "vn".parse().unwrap(),
        shards: Shards::new(NonZeroU16::new(2).unwrap()),
        replicas: sotto_core::Replicas::One,
    }
}

impl TestCell {
    /// With a short `ack_wait` for routing and room for two batches at an account.
    async fn start() -> Self {
        let mut text = STREAMS.to_owned();
        for (from, to) in [
            ("ack_wait_s = 30", "ack_wait_s = 2"),
            ("max_messages_per_subject = 10_000", "max_messages_per_subject = 2"),
        ] {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        let topology = Topology::parse(&text).unwrap();
        let pki = Pki::new();
        let (mut seeds, mut users) = (BTreeMap::new(), Vec::new());
        for service in Service::ALL {
            let keys = nkeys::KeyPair::new_user();
            let file = pki.dir().join(format!("{service}.nkey"));
            sotto_testkit::write_secret(&file, keys.seed().unwrap());
            seeds.insert(service, file);
            users.push((service, vec![keys.public_key()]));
        }
        let CertFiles { ca, cert, key } = pki.service("nats");
        let options = ServerOptions {
            cell: vn(),
            server_name: "vn-1".to_owned(),
            cluster: None,
            listen: "127.0.0.1:4222".to_owned(),
            store_dir: "given-on-the-command-line".into(),
            ca_file: ca,
            cert_file: cert,
            key_file: key,
            users,
        };
        let text = topology::nats_server_conf(&topology, &options);
        // The test's server gets its store folder on the command line, and only once.
        let kept: Vec<_> = text.lines().filter(|line| !line.contains("store_dir")).collect();
        let file = pki.dir().join("nats-server.conf");
        fs::write(&file, kept.join("\n")).unwrap();
        let clients = topology::nats_clients_conf(&options.cell.id, &[]);
        fs::write(pki.dir().join(topology::CLIENTS_FILE), clients).unwrap();
        let options = NatsOptions { config_file: Some(file), ..NatsOptions::default() };
        let server = NatsServer::start(options).await;
        let clock = Arc::new(ManualClock::new(NOW));
        let cell = Self { server, pki, topology, seeds, clock, instances: AtomicU64::new(0) };
        let accounts = ["a", "b"].map(|name| name.parse().unwrap());
        topology::apply(&cell.bus(Service::Provisioner).await, &cell.topology, &accounts).await.unwrap();
        cell
    }

    async fn bus(&self, service: Service) -> Bus {
        let CertFiles { ca, cert, key } = self.pki.service(service.name());
        let nats = NatsConfig {
            url: self.server.tls_url(),
            ca_file: ca,
            cert_file: cert,
            key_file: key,
            nkey_seed_file: self.seeds[&service].clone(),
            connect_timeout_ms: 5_000,
        };
        let options = BusOptions {
            service,
            instance: format!("t{}", self.instances.fetch_add(1, Ordering::Relaxed)),
            cell: vn(),
            topology: self.topology.clone(),
            clock: Arc::<ManualClock>::clone(&self.clock),
            digest: Arc::new(|_| [0; 32]),
        };
        Bus::connect(&nats, options).await.unwrap()
    }

    /// A routing process.
    async fn route<O: Outbox>(&self, outbox: impl FnOnce(&Bus) -> O) -> (Bus, Worker<WorkBatch>) {
        let bus = self.bus(Service::Routing).await;
        let router = Router::new(
            table(),
            Arc::<ManualClock>::clone(&self.clock),
            outbox(&bus),
            None,
            crate::metrics::RoutingMetrics::new(&sotto_metrics::Metrics::default(), None),
        );
        let consumers = Lane::ALL.map(consumer_name::routing);
        let config = WorkerConfig {
            concurrency: 1,
            handler_timeout: Duration::from_secs(1),
            skew: Duration::from_millis(500),
            failure_pause: Duration::from_millis(10),
        };
        let worker = Worker::start(&bus, "INTAKE", &consumers, Arc::new(router), config).await.unwrap();
        (bus, worker)
    }

    async fn accept(&self, messages: Vec<WorkDelivery>) {
        let bus = self.bus(Service::Ingress).await;
        let publisher: Publisher<WorkBatch> = Publisher::new(&bus, PublisherConfig::default());
        for message in messages {
            let facts = &message.item.facts;
            let shard = vn().shards.of(&facts.message);
            publisher.publish(&Subject::Accepted(facts.lane(), shard), message).await.unwrap();
        }
    }

    async fn give_back(&self, message: WorkDelivery) {
        let bus = self.bus(Service::Carrier).await;
        let publisher: Publisher<WorkBatch> = Publisher::new(&bus, PublisherConfig::default());
        let facts = &message.item.facts;
        let shard = vn().shards.of(&facts.message);
        publisher.publish(&Subject::Retry(facts.lane(), shard), message).await.unwrap();
    }

    /// What waits for the carriers, in the order of its arrival.
    async fn waiting(&self) -> Vec<WorkItem> {
        let reader: StreamReader<WorkBatch> =
            StreamReader::new(&self.bus(Service::Carrier).await, "WAITING").unwrap();
        let state = reader.state().await.unwrap();
        let mut reading = reader.read(state.first.max(1), state.last);
        let mut items = Vec::new();
        while let Some(stored) = reading.next().await.unwrap() {
            items.extend(stored.batch.into_items().into_iter().map(|item| item.unwrap().item));
        }
        items
    }

    async fn until_waiting(&self, count: usize) -> Vec<WorkItem> {
        eventually_ok(BOUND, "the messages to wait", || async {
            let waiting = self.waiting().await;
            if waiting.len() == count { Ok(waiting) } else { Err(format!("{} wait", waiting.len())) }
        })
        .await
    }

    async fn until_intake_holds(&self, count: u64) {
        let reader: StreamReader<WorkBatch> =
            StreamReader::new(&self.bus(Service::Ingress).await, "INTAKE").unwrap();
        eventually(BOUND, "intake", || async { reader.state().await.unwrap().messages == count }).await;
    }

    async fn events(&self, message: MessageId) -> Vec<&'static str> {
        let reader: StreamReader<EventBatch> =
            StreamReader::new(&self.bus(Service::Carrier).await, "EVENTS").unwrap();
        let state = reader.state().await.unwrap();
        let mut reading = reader.read(state.first.max(1), state.last);
        let mut names = Vec::new();
        while let Some(stored) = reading.next().await.unwrap() {
            for event in stored.batch.into_items() {
                match event.unwrap() {
                    LogEvent::Delivery(event) if event.message == message => names.push(event.kind.name()),
                    LogEvent::Delivery(_) | LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => {}
                }
            }
        }
        names
    }
}

fn table() -> RouteTable {
    let account = |name: &str| {
        format!(
            r#"
[[account]]
id = "{name}"
host = "localhost"
port = 1
system_id = "s"
password_file = "p"
tls = "waived"
tls_waiver_reason = "simulator on this machine"
tps = 10
simulator = true
"#
        )
    };
    let text = format!(
        r#"{}{}
[[route]]
prefix = "8498"
accounts = [{{ id = "a", weight = 1 }}]

[[route]]
prefix = "8490"
accounts = [{{ id = "b", weight = 1 }}]
fallback = ["a"]
"#,
        account("a"),
        account("b")
    );
    RouteTable::new(CarriersFile::parse(&text).unwrap(), "v1".to_owned())
}

fn message(seed: u8, range: &str, class: MessageClass) -> WorkDelivery {
    let facts = Facts {
        message: MessageId::from_keyed_hash([seed; 16]),
        tenant: "acme".parse().unwrap(),
        class,
        country: "VN".parse().unwrap(),
        operator_range: range.parse().unwrap(),
        encoding: Encoding::Gsm7,
        parts: 1,
        units: 1,
        accepted_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(300)),
        content_mac: None,
        send_at: None,
    };
    let wrap = KeyWrap {
        key_id: [7; 16],
        tenant: "acme".parse().unwrap(),
        class,
        bucket: "otp/2026-11-24T06".to_owned(),
        wrapped: Bytes::from_static(b"wrap"),
    };
    // A header that names the wrap's key (docs/formats/envelope.md).
    let envelope = [&[1, 1][..], &[7; 16], &[0; 40]].concat();
    WorkDelivery { item: WorkItem::accepted(facts, Envelope(envelope.into())), wrap: Arc::new(wrap) }
}

/// Moves messages and then stands still, as a process that is killed before it acknowledges.
#[derive(Debug)]
struct Killed {
    outbox: BrokerOutbox,
    moved: Arc<AtomicBool>,
}

impl Outbox for Killed {
    async fn record(&self, events: Vec<Event>) -> Result<(), Later> {
        self.outbox.record(events).await
    }

    async fn enqueue(
        &self,
        account: &AccountId,
        lane: Lane,
        messages: Vec<WorkDelivery>,
    ) -> Result<(), Later> {
        self.outbox.enqueue(account, lane, messages).await?;
        self.moved.store(true, Ordering::SeqCst);
        std::future::pending().await
    }
}

#[tokio::test]
async fn killed_between_move_and_acknowledgement_it_starts_the_same_attempt() {
    let cell = TestCell::start().await;
    cell.accept(vec![message(1, "8490", MessageClass::Otp)]).await;
    let moved = Arc::new(AtomicBool::new(false));
    let (bus, _worker) =
        cell.route(|bus| Killed { outbox: BrokerOutbox::new(bus), moved: Arc::clone(&moved) }).await;
    eventually(BOUND, "the move", || async { moved.load(Ordering::SeqCst) }).await;
    assert!(!bus.close(Duration::ZERO).await, "its handler never ended");
    cell.until_intake_holds(1).await;

    let (_bus, _worker) = cell.route(BrokerOutbox::new).await;
    cell.until_intake_holds(0).await;
    let waiting = cell.until_waiting(2).await;
    let attempts: Vec<_> =
        waiting.iter().map(|item| (item.attempt, item.account.as_ref().unwrap().as_str())).collect();
    assert_eq!(attempts, [(1, "b"), (1, "b")], "one attempt, of which a claim lets one copy through");
    let events = cell.events(waiting[0].facts.message).await;
    assert_eq!(events, ["accepted", "routed", "accepted", "routed"]);
}

#[tokio::test]
async fn a_full_account_holds_up_nobody_else_and_loses_nothing() {
    let cell = TestCell::start().await;
    let (_bus, _worker) = cell.route(BrokerOutbox::new).await;
    for seed in 1..=4 {
        cell.accept(vec![message(seed, "8498", MessageClass::Otp)]).await;
    }
    cell.accept(vec![message(9, "8490", MessageClass::Otp)]).await;
    // Two fit, two stay where they are, and the other account gets its own.
    let waiting = cell.until_waiting(3).await;
    assert_eq!(waiting.iter().filter(|item| item.account.as_ref().unwrap().as_str() == "b").count(), 1);
    cell.until_intake_holds(2).await;

    // The connector takes what waits: the rest follows.
    let connector = cell.bus(Service::Carrier).await;
    let consumers = Lane::ALL.map(|lane| consumer_name::carrier(&"a".parse().unwrap(), lane));
    let taken = Arc::new(Taken::default());
    let _taker: Worker<WorkBatch> =
        Worker::start(&connector, "WAITING", &consumers, Arc::clone(&taken), WorkerConfig::default())
            .await
            .unwrap();
    eventually(BOUND, "all four", || async { taken.0.load(Ordering::SeqCst) >= 4 }).await;
    cell.until_intake_holds(0).await;
}

#[derive(Debug, Default)]
struct Taken(AtomicU64);

impl Handler<WorkBatch> for Taken {
    async fn handle(&self, delivery: Delivery<WorkBatch>) -> Vec<sotto_bus::Outcome> {
        let count = delivery.items.len();
        self.0.fetch_add(u64::try_from(count).unwrap(), Ordering::SeqCst);
        vec![sotto_bus::Outcome::Done; count]
    }
}

/// Bytes that are no batch of work.
#[derive(Clone, PartialEq, prost::Message)]
struct Garbage {
    #[prost(string, repeated, tag = "2")]
    words: Vec<String>,
}

impl Batch for Garbage {
    type Item = String;

    fn from_items(items: &[String]) -> Self {
        Self { words: items.to_vec() }
    }

    fn into_items(self) -> Vec<Result<String, WireError>> {
        self.words.into_iter().map(Ok).collect()
    }

    fn item_size(item: &String) -> usize {
        item.len() + 8
    }
}

#[tokio::test]
async fn what_cannot_be_read_goes_to_quarantine_and_out_of_the_way() {
    let cell = TestCell::start().await;
    let ingress = cell.bus(Service::Ingress).await;
    let garbage: Publisher<Garbage> = Publisher::new(&ingress, PublisherConfig::default());
    let shard = vn().shards.of(&MessageId::from_keyed_hash([1; 16]));
    garbage.publish(&Subject::Accepted(Lane::Otp, shard), "\u{7f}no item".to_owned()).await.unwrap();
    cell.accept(vec![message(1, "8490", MessageClass::Otp)]).await;
    let (_bus, _worker) = cell.route(BrokerOutbox::new).await;
    assert_eq!(cell.until_waiting(1).await.len(), 1);
    cell.until_intake_holds(0).await;
    let quarantined =
        Quarantine::new(&cell.bus(Service::Operator).await).unwrap().list(1, 100).await.unwrap();
    assert_eq!(quarantined.len(), 1);
}

#[tokio::test]
async fn urgent_lanes_go_first() {
    let cell = TestCell::start().await;
    let classes = [MessageClass::Promotional, MessageClass::Transactional, MessageClass::Otp];
    for (seed, class) in (1_u8..).zip(classes) {
        cell.accept(vec![message(seed, "8490", class)]).await;
    }
    let (_bus, _worker) = cell.route(BrokerOutbox::new).await;
    let waiting = cell.until_waiting(3).await;
    let lanes: Vec<_> = waiting.iter().map(|item| item.facts.lane()).collect();
    assert_eq!(lanes, Lane::ALL);
}

#[tokio::test]
async fn a_message_that_must_wait_waits_and_then_moves() {
    let cell = TestCell::start().await;
    let mut held = message(1, "8498", MessageClass::Otp);
    held.item.attempt = 1;
    let attempt =
        Attempt { number: 1, account: "a".parse().unwrap(), end: AttemptEnd::Throttled, status: 0x58 };
    held.item.note(attempt);
    held.item.not_before = Some(NOW.plus(Duration::from_secs(1)));
    cell.give_back(held).await;
    let (_bus, _worker) = cell.route(BrokerOutbox::new).await;
    // Its place in the order is kept by nobody: others go on.
    cell.accept(vec![message(2, "8498", MessageClass::Otp)]).await;
    assert_eq!(cell.until_waiting(1).await[0].attempt, 1);
    cell.until_intake_holds(1).await;
    cell.clock.advance(Duration::from_secs(2));
    let waiting = cell.until_waiting(2).await;
    assert_eq!((waiting[1].attempt, waiting[1].not_before), (2, None));
    assert_eq!(waiting[1].history.len(), 1);
    cell.until_intake_holds(0).await;
    assert!(cell.clock.now() > NOW);
}

#[tokio::test]
async fn a_message_that_is_over_ends_in_the_log() {
    let cell = TestCell::start().await;
    let (expired, foreign) = (message(1, "8490", MessageClass::Otp), message(2, "49", MessageClass::Otp));
    cell.clock.set(expired.item.facts.expires_at);
    let mut foreign = foreign;
    foreign.item.facts.expires_at = NOW.plus(Duration::from_secs(600));
    let ids = [expired.item.facts.message, foreign.item.facts.message];
    cell.accept(vec![expired, foreign]).await;
    let (_bus, _worker) = cell.route(BrokerOutbox::new).await;
    cell.until_intake_holds(0).await;
    assert_eq!(cell.events(ids[0]).await, ["accepted", "expired"]);
    assert_eq!(cell.events(ids[1]).await, ["accepted", "rejected"]);
    assert!(cell.waiting().await.is_empty());
}
