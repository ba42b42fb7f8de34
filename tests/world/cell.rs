//! The cell: its processes, what they work with, and what its clients know.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use sotto_bus::{
    Bus, BusOptions, Publisher, PublisherConfig, Service, Subject, Topology, Worker,
    simulated::{Defect, Fault, SimulatedBroker},
    topology,
};
use sotto_carrier::simulated::{Around, Connector};
use sotto_core::{
    AccountId, Clock, Facts, MessageClass, MessageId, Shards, Timestamp, WorkItem,
    carriers::{CarriersFile, RouteTable},
    delivery::Event,
    text,
    work::{Envelope, KeyWrap},
};
use sotto_crypto::{
    AeadKey,
    envelope::{Binding, Sealer},
};
use sotto_proto::{
    LogEvent, WorkDelivery,
    pipeline::v1::{EventBatch, SealedContent, WorkBatch},
};
use sotto_runtime::redis::simulated::SimulatedRedis;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    carrier::{Carrier, Mood},
    steps::{Op, Process, Wrong},
};

/// How long a message may wait.
const VALIDITY: Duration = Duration::from_secs(600);
/// How long after it silence is closed.
pub(crate) const GRACE: Duration = Duration::from_secs(60);
/// How long a receipt is waited for.
pub(crate) const RECEIPT_WAIT: Duration = Duration::from_secs(900);
/// After each step the world goes on for so long.
const MOMENT: Duration = Duration::from_millis(1);

const KEY: [u8; 32] = [7; 32];
const ACCOUNTS: [&str; 2] = ["a", "b"];

const CARRIERS: &str = r#"
[[account]]
id = "a"
host = "127.0.0.1"
port = 2775
system_id = "sotto"
password_file = "password"
tls = "waived"
tls_waiver_reason = "a pipe in memory"
tps = 100
window = 10
response_timeout = "5 s"
receipt_wait = "15 m"
simulator = true

[[account]]
id = "b"
host = "127.0.0.1"
port = 2775
system_id = "sotto"
password_file = "password"
tls = "waived"
tls_waiver_reason = "a pipe in memory"
tps = 100
window = 10
response_timeout = "5 s"
receipt_wait = "15 m"
simulator = true

[[route]]
prefix = "84"
accounts = [{ id = "a", weight = 1 }, { id = "b", weight = 1 }]
"#;

/// The wall clock: tokio's, which stands still unless everybody waits.
#[derive(Debug)]
struct WorldClock(Instant);

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(1_790_000_000).plus(self.0.elapsed())
    }
}

/// What a client knows of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The request is under way, or its answer got lost.
    Nothing,
    Accepted,
}

pub(crate) struct Sent {
    pub(crate) delivery: WorkDelivery,
    pub(crate) recipient: String,
    pub(crate) heard: Heard,
}

/// A process that lives.
struct Alive<T> {
    life: CancellationToken,
    bus: Bus,
    work: T,
}

struct Ingress {
    sends: JoinSet<Option<MessageId>>,
    work: Publisher<WorkBatch>,
    events: Publisher<EventBatch>,
}

pub(crate) struct Cell {
    pub(crate) broker: SimulatedBroker,
    redis: SimulatedRedis,
    pub(crate) carriers: [Carrier; 2],
    clock: Arc<WorldClock>,
    topology: Topology,
    ingress: Option<Alive<Ingress>>,
    routing: Option<Alive<Worker<WorkBatch>>>,
    connectors: BTreeMap<Process, Alive<Connector>>,
    pub(crate) sent: BTreeMap<MessageId, Sent>,
    starts: u64,
    /// Steps that had nothing to do.
    pub(crate) skipped: usize,
}

fn cell() -> topology::Cell {
    let shards = Shards::new(NonZeroU16::new(2).unwrap());
    topology::Cell { id: "vn".parse().unwrap(), shards, replicas: sotto_core::Replicas::One }
}

fn account(name: &str) -> AccountId {
    name.parse().unwrap()
}

impl Cell {
    pub(crate) async fn start(seed: u64) -> Self {
        let carriers = CarriersFile::parse(CARRIERS).unwrap();
        let topology = Topology::embedded().unwrap().with_ack_waits(carriers.redeliveries());
        let accounts = ACCOUNTS.map(account);
        let clock = Arc::new(WorldClock(Instant::now()));
        let mut cell = Self {
            broker: SimulatedBroker::start(&topology, &cell(), &accounts, seed).unwrap(),
            redis: SimulatedRedis::new(Arc::<WorldClock>::clone(&clock), seed),
            carriers: [Carrier::new("a"), Carrier::new("b")],
            clock,
            topology,
            ingress: None,
            routing: None,
            connectors: BTreeMap::new(),
            sent: BTreeMap::new(),
            starts: 0,
            skipped: 0,
        };
        for process in Process::ALL {
            cell.start_process(process).await;
        }
        cell.bind();
        cell
    }

    pub(crate) fn break_broker(&self, defect: Defect) {
        self.broker.set_defect(defect);
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn connect(&mut self, process: Process) -> (Bus, CancellationToken) {
        let life = CancellationToken::new();
        self.starts += 1;
        let service = match process {
            Process::Ingress => Service::Ingress,
            Process::Routing => Service::Routing,
            Process::One | Process::Two => Service::Carrier,
        };
        let options = BusOptions {
            service,
            instance: process.name().to_owned(),
            cell: cell(),
            topology: self.topology.clone(),
            clock: Arc::<WorldClock>::clone(&self.clock),
            digest: Arc::new(|_| [0; 32]),
        };
        (self.broker.connect(options, life.clone()), life)
    }

    /// Starts a process that is not there. It needs the broker, as every process does.
    async fn start_process(&mut self, process: Process) -> bool {
        if self.lives(process) || !self.broker.is_up() {
            return false;
        }
        let (bus, life) = self.connect(process);
        let clock: Arc<dyn Clock> = Arc::<WorldClock>::clone(&self.clock);
        let carriers = CarriersFile::parse(CARRIERS).unwrap();
        match process {
            Process::Ingress => {
                let work = Ingress {
                    sends: JoinSet::new(),
                    work: Publisher::new(&bus, PublisherConfig::default()),
                    events: Publisher::new(&bus, PublisherConfig::default()),
                };
                self.ingress = Some(Alive { life, bus, work });
            }
            Process::Routing => {
                let table = RouteTable::new(carriers, "1".to_owned());
                let work = sotto_routing::simulated::start(&bus, table, clock).await.unwrap();
                self.routing = Some(Alive { life, bus, work });
            }
            Process::One | Process::Two => {
                let redis = self.redis.connect(life.clone());
                let around = Around { bus: bus.clone(), redis, carriers, clock, key: KEY };
                let work = Connector::start(around).await.unwrap();
                self.connectors.insert(process, Alive { life, bus, work });
            }
        }
        true
    }

    fn life(&self, process: Process) -> Option<&CancellationToken> {
        match process {
            Process::Ingress => self.ingress.as_ref().map(|alive| &alive.life),
            Process::Routing => self.routing.as_ref().map(|alive| &alive.life),
            Process::One | Process::Two => self.connectors.get(&process).map(|alive| &alive.life),
        }
    }

    fn lives(&self, process: Process) -> bool {
        self.life(process).is_some_and(|life| !life.is_cancelled())
    }

    /// Takes away what is left of processes that died.
    fn bury(&mut self) {
        self.ingress.take_if(|alive| alive.life.is_cancelled());
        self.routing.take_if(|alive| alive.life.is_cancelled());
        self.connectors.retain(|_, alive| !alive.life.is_cancelled());
    }

    /// Connects every account of every connector that has no bind.
    fn bind(&mut self) -> bool {
        let mut bound = false;
        for alive in self.connectors.values_mut() {
            for (name, carrier) in ACCOUNTS.iter().zip(&mut self.carriers) {
                if !alive.work.is_bound(&account(name)) {
                    let (ours, theirs) = tokio::io::duplex(64 * 1024);
                    alive.work.bind(&account(name), ours);
                    carrier.accept(theirs);
                    bound = true;
                }
            }
        }
        bound
    }

    /// One step. What it is about may not be there: then it is skipped, and counted.
    pub(crate) async fn apply(&mut self, op: Op) {
        let done = match op {
            Op::Send { parts } => self.send(parts),
            Op::SendAgain => {
                let unheard = self.sent.iter().find(|(_, sent)| sent.heard == Heard::Nothing).map(|it| *it.0);
                unheard.is_some_and(|id| self.publish(id))
            }
            Op::Wait { millis } => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                true
            }
            Op::Plan { process, after, wrong } => {
                let fault = match wrong {
                    Wrong::LoseRequest => Fault::LoseRequest,
                    Wrong::LoseAnswer => Fault::LoseAnswer,
                    Wrong::DieBefore => Fault::DieBefore,
                    Wrong::DieAfter => Fault::DieAfter,
                };
                self.broker.plan(process.name(), after, fault);
                self.lives(process)
            }
            Op::Kill { process } => {
                let life = self.life(process).cloned();
                life.inspect(CancellationToken::cancel).is_some()
            }
            Op::Start { process } => self.start_process(process).await,
            Op::Bind => self.bind(),
            Op::RedisBurns => {
                self.redis.burn();
                true
            }
            Op::RedisForgetsClaims => {
                self.redis.forget(":claim:");
                true
            }
            Op::RedisRestarts => {
                self.redis.restart();
                true
            }
            Op::RedisLosesAnswer { after } => {
                self.redis.lose_answer(after);
                true
            }
            Op::RedisAway { away } => {
                self.redis.set_up(!away);
                true
            }
            Op::BrokerStops => {
                let up = self.broker.is_up();
                self.broker.stop();
                up
            }
            Op::BrokerRestarts { forget } => {
                self.broker.stop();
                self.broker.restart(forget);
                true
            }
            Op::WaitingFull { full } => {
                self.broker.set_full("WAITING", full);
                true
            }
            Op::CarrierIs { b, mood } => {
                self.carriers[usize::from(b)].set_mood(mood);
                true
            }
            Op::CutLinks { b } => {
                self.carriers[usize::from(b)].cut();
                true
            }
            Op::Receipts { again } => {
                self.carriers.iter_mut().for_each(|carrier| carrier.send_receipts(again));
                true
            }
        };
        self.skipped += usize::from(!done);
        tokio::time::sleep(MOMENT).await;
        self.hear();
        self.bury();
    }

    fn send(&mut self, parts: u8) -> bool {
        let number = self.sent.len();
        let recipient = format!("84981{number:06}");
        let delivery = self.sealed(number, &recipient, parts);
        let id = delivery.item.facts.message;
        let alive = self.ingress.is_some();
        if alive {
            self.sent.insert(id, Sent { delivery, recipient, heard: Heard::Nothing });
            self.publish(id);
        }
        alive
    }

    /// What ingress does with a request: it stores the message, and tells the client when it is stored.
    fn publish(&mut self, id: MessageId) -> bool {
        let (Some(alive), Some(sent)) = (&mut self.ingress, self.sent.get(&id)) else { return false };
        let (work, delivery) = (alive.work.work.clone(), sent.delivery.clone());
        let facts = &delivery.item.facts;
        let subject = Subject::Accepted(facts.lane(), alive.bus.cell().shards.of(&id));
        alive.work.sends.spawn(async move { work.publish(&subject, delivery).await.ok().map(|_| id) });
        true
    }

    /// What clients have heard by now.
    fn hear(&mut self) {
        let Some(alive) = &mut self.ingress else { return };
        while let Some(answer) = alive.work.sends.try_join_next() {
            if let Some(sent) = answer.unwrap().and_then(|id| self.sent.get_mut(&id)) {
                sent.heard = Heard::Accepted;
            }
        }
    }

    fn sealed(&self, number: usize, recipient: &str, parts: u8) -> WorkDelivery {
        let now = self.now();
        let length = if parts == 1 { 20 } else { 153 * usize::from(parts) - 10 };
        let body = format!("{number:06}{}", "x".repeat(length));
        let count = text::count(&body).unwrap();
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(
            &u64::try_from(number).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes(),
        );
        hash[8..].copy_from_slice(
            &u64::try_from(number).unwrap().wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes(),
        );
        let facts = Facts {
            message: MessageId::from_keyed_hash(hash),
            tenant: "acme".parse().unwrap(),
            class: [MessageClass::Otp, MessageClass::Transactional, MessageClass::Promotional][number % 3],
            country: "VN".parse().unwrap(),
            operator_range: "8498".parse().unwrap(),
            encoding: count.encoding,
            parts: count.parts,
            units: count.units,
            accepted_at: now,
            expires_at: now.plus(VALIDITY),
            content_mac: None,
            send_at: None,
        };
        let mut key_id = [0; 16];
        key_id[..8].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
        let content = SealedContent { to: recipient.to_owned(), from: "156".to_owned(), text: body };
        let binding = Binding {
            cell: "vn",
            tenant: "acme",
            class: facts.class.name(),
            message_id: facts.message.as_bytes(),
            schema: 1,
        };
        let sealer = Sealer::new(key_id, AeadKey::from_bytes(KEY), 3);
        let sealed = sealer.seal(&binding, &content.encode_to_vec()).unwrap();
        let wrap = KeyWrap {
            key_id,
            tenant: facts.tenant.clone(),
            class: facts.class,
            bucket: "world".to_owned(),
            wrapped: Bytes::from_static(b"wrap"),
        };
        WorkDelivery { item: WorkItem::accepted(facts, Envelope(sealed.into())), wrap: Arc::new(wrap) }
    }

    /// Ends all misfortune, and lets the world go on for a while as its operators would.
    pub(crate) async fn heal(&mut self, closing: Vec<Event>) {
        if !self.broker.is_up() {
            self.broker.restart(false);
        }
        self.redis.set_up(true);
        self.broker.set_full("WAITING", false);
        for process in Process::ALL {
            self.start_process(process).await;
        }
        self.bind();
        self.carriers.iter().for_each(|carrier| carrier.set_mood(Mood::Takes));
        self.carriers.iter_mut().for_each(|carrier| carrier.send_receipts(false));
        let unheard: BTreeSet<_> =
            self.sent.iter().filter(|(_, it)| it.heard == Heard::Nothing).map(|it| *it.0).collect();
        for id in unheard {
            self.publish(id);
        }
        if let Some(alive) = &mut self.ingress {
            for event in closing {
                let (events, shard) = (alive.work.events.clone(), alive.bus.cell().shards.of(&event.message));
                alive.work.sends.spawn(async move {
                    drop(events.publish(&Subject::Event(shard), LogEvent::Delivery(event)).await);
                    None
                });
            }
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        self.hear();
        self.bury();
    }
}
