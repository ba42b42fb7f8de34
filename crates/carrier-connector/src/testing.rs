//! What the tests of this crate share: a real Redis, a log that keeps what it is given and fails on command, keys, and
//! a carrier.

mod carrier;

use std::{
    num::NonZeroU16,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use prost::Message as _;
use sotto_bus::Heard;
use sotto_core::{
    AccountId, Clock as _, ErrorClass, Facts, ManualClock, MessageClass, MessageId, Restored, Shards,
    SystemClock, TenantId, Timestamp, WorkItem,
    carriers::{Account as Settings, CarriersFile},
    delivery::{Delivery, Event, EventKind},
    inbound::InboundWrap,
    text,
    work::{Envelope, KeyWrap},
};
use sotto_crypto::{
    AeadKey, MacKey,
    envelope::{Binding, Sealer},
};
use sotto_proto::{InboundDelivery, LogEvent, WorkDelivery, pipeline::v1::SealedContent};
use sotto_runtime::{
    Stop,
    config::{RedisConfig, SecretFile, TlsConfig},
    redis::Redis,
    tls::Tls,
};
use sotto_testkit::{CertFiles, Pki, RedisOptions, RedisServer};
use tokio::sync::watch;

use crate::{
    adapters::ledger::{Ledger, Store},
    app::{
        account::{Account, Shared},
        keyring::KeepKeys,
        line::Line,
        rebuild::Rebuilder,
        reliance::Reliance,
    },
    domain::{course::Course, pace::Slice, submit::SCHEMA},
    ports::{Act, Ended, History, InboundSession, Keys, KeysError, Log, LogError, Unwrapped, Witness},
};

pub(crate) use carrier::{Reply, TestCarrier};

/// Bound of every wait.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// When the test began. Not a constant: leases end by the clock of Redis.
pub(crate) static NOW: LazyLock<Timestamp> = LazyLock::new(|| SystemClock.now());

pub(crate) fn shards() -> Shards {
    Shards::new(NonZeroU16::new(2).unwrap())
}

pub(crate) fn id(seed: u8) -> MessageId {
    MessageId::from_keyed_hash([seed; 16])
}

/// A Redis with the rights that a cell gives the connector.
pub(crate) struct TestRedis {
    pub(crate) server: RedisServer,
    pki: Pki,
}

impl TestRedis {
    pub(crate) async fn start() -> Self {
        let pki = Pki::new();
        // As `sotto init` writes it.
        let acl = "user default off\nuser carrier on >password ~sotto:carrier:* resetchannels -@all +@read +@write \
                   +@scripting +@transaction +@connection +time -@dangerous +info\n";
        let options = RedisOptions {
            tls: Some(pki.service("redis")),
            acl: Some(acl.to_owned()),
            ..RedisOptions::default()
        };
        Self { server: RedisServer::start(options).await, pki }
    }

    /// A connection of its own, straight or through a proxy.
    pub(crate) fn connect(&self, port: Option<u16>) -> Redis {
        let config = RedisConfig {
            url: port.map_or_else(|| self.server.url(), |port| format!("rediss://localhost:{port}")),
            username: "carrier".to_owned(),
            password_file: SecretFile::in_memory("password"),
            connect_timeout: "1 s".parse().unwrap(),
            response_timeout: "500 ms".parse().unwrap(),
        };
        let CertFiles { ca, cert, key } = self.pki.service("carrier");
        let tls = Tls::load(&TlsConfig { ca_file: ca, cert_file: cert, key_file: key }).unwrap();
        Redis::new(&config, &tls).unwrap()
    }

    pub(crate) fn store(&self) -> Store {
        Store::new(self.connect(None), shards())
    }
}

type Hook = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Keeps what it is given.
#[derive(Default)]
pub(crate) struct TestLog {
    events: Mutex<Vec<LogEvent>>,
    back: Mutex<Vec<WorkDelivery>>,
    inbound: Mutex<Vec<InboundDelivery>>,
    aside: Mutex<Vec<(String, Vec<u8>)>>,
    calls: AtomicUsize,
    /// The calls that fail, counted from 0; a lost acknowledgement stores all the same.
    failing: Mutex<Vec<(usize, bool)>>,
    /// What happens before the given call stores, and after it.
    hooks: Mutex<Vec<(usize, bool, Hook)>>,
}

impl std::fmt::Debug for TestLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestLog").finish_non_exhaustive()
    }
}

impl TestLog {
    pub(crate) fn events(&self) -> Vec<LogEvent> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) fn given_back(&self) -> Vec<WorkDelivery> {
        self.back.lock().unwrap().clone()
    }

    pub(crate) fn inbound(&self) -> Vec<InboundDelivery> {
        self.inbound.lock().unwrap().clone()
    }

    /// What was kept aside: why, and the octets of which a digest is kept.
    pub(crate) fn aside(&self) -> Vec<(String, Vec<u8>)> {
        self.aside.lock().unwrap().clone()
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// The call with this number fails; `stored`: only its acknowledgement is lost.
    pub(crate) fn fail(&self, call: usize, stored: bool) {
        self.failing.lock().unwrap().push((call, stored));
    }

    pub(crate) fn before(&self, call: usize, hook: impl FnOnce() -> BoxFuture<'static, ()> + Send + 'static) {
        self.hooks.lock().unwrap().push((call, true, Box::new(hook)));
    }

    pub(crate) fn after(&self, call: usize, hook: impl FnOnce() -> BoxFuture<'static, ()> + Send + 'static) {
        self.hooks.lock().unwrap().push((call, false, Box::new(hook)));
    }

    /// Puts something into the log that others wrote.
    pub(crate) fn write(&self, kind: EventKind, message: MessageId) {
        self.events.lock().unwrap().push(LogEvent::Delivery(Event { message, at: *NOW, kind }));
    }

    /// A message's events as everybody folds them.
    pub(crate) fn fold(&self, facts: &Facts) -> Delivery {
        let mut delivery = Delivery::accepted(facts.clone());
        for event in self.of(facts.message) {
            delivery.step(&event).unwrap();
        }
        delivery
    }

    pub(crate) fn of(&self, message: MessageId) -> Vec<Event> {
        let events = self.events().into_iter();
        events
            .filter_map(|event| match event {
                LogEvent::Delivery(event) if event.message == message => Some(event),
                LogEvent::Delivery(_) | LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => None,
            })
            .collect()
    }

    pub(crate) fn names(&self, message: MessageId) -> Vec<&'static str> {
        self.of(message).iter().map(|event| event.kind.name()).collect()
    }

    async fn run_hook(&self, call: usize, before: bool) {
        let hook = {
            let mut hooks = self.hooks.lock().unwrap();
            let found = hooks.iter().position(|(at, when, _)| *at == call && *when == before);
            found.map(|found| hooks.remove(found).2)
        };
        if let Some(hook) = hook {
            hook().await;
        }
    }

    async fn store(&self, store: impl FnOnce(&Self)) -> Result<(), LogError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        self.run_hook(call, true).await;
        let failing = self.failing.lock().unwrap().iter().find(|(at, _)| *at == call).map(|(_, kept)| *kept);
        if failing != Some(false) {
            store(self);
        }
        self.run_hook(call, false).await;
        if failing.is_some() {
            let source = std::io::Error::other("on command").into();
            return Err(LogError { what: "test", source, class: ErrorClass::Bug });
        }
        Ok(())
    }
}

impl Log for TestLog {
    fn events(&self, events: Vec<LogEvent>) -> BoxFuture<'_, Result<(), LogError>> {
        self.store(|log| log.events.lock().unwrap().extend(events)).boxed()
    }

    fn inbound(&self, messages: Vec<InboundDelivery>) -> BoxFuture<'_, Result<(), LogError>> {
        self.store(|log| log.inbound.lock().unwrap().extend(messages)).boxed()
    }

    fn aside<'a>(
        &'a self,
        _: &'a AccountId,
        why: String,
        octets: Vec<u8>,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        self.store(|log| log.aside.lock().unwrap().push((why, octets))).boxed()
    }

    fn back(&self, items: Vec<WorkDelivery>) -> BoxFuture<'_, Result<(), LogError>> {
        self.store(|log| log.back.lock().unwrap().extend(items)).boxed()
    }

    fn history(&self) -> BoxFuture<'_, Result<History, LogError>> {
        let events: Vec<_> = TestLog::events(self).chunks(3).map(|chunk| Ok(chunk.to_vec())).collect();
        async { Ok(stream::iter(events).boxed()) }.boxed()
    }
}

/// Opens everything with one key, unless told otherwise.
pub(crate) struct TestKeys {
    key: Arc<AeadKey>,
    pub(crate) answer: Mutex<Option<Unwrapped>>,
    pub(crate) away: AtomicBool,
    /// No key is made for what is written to this tenant.
    pub(crate) refused: Mutex<Option<TenantId>>,
    pub(crate) asked: AtomicUsize,
    /// What ended before its time.
    pub(crate) ended: Mutex<Ended>,
    pub(crate) asked_for_ended: AtomicUsize,
}

pub(crate) const KEY: [u8; 32] = [7; 32];

impl Default for TestKeys {
    fn default() -> Self {
        let key = Arc::new(AeadKey::from_bytes(KEY));
        Self {
            key,
            answer: Mutex::default(),
            away: AtomicBool::new(false),
            refused: Mutex::default(),
            asked: AtomicUsize::new(0),
            ended: Mutex::default(),
            asked_for_ended: AtomicUsize::new(0),
        }
    }
}

impl Keys for TestKeys {
    fn unwrap<'a>(
        &'a self,
        _: &'a AccountId,
        wraps: &'a [Arc<KeyWrap>],
    ) -> BoxFuture<'a, Result<Vec<Unwrapped>, KeysError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        async move {
            if self.away.load(Ordering::SeqCst) {
                return Err(KeysError(std::io::Error::other("away").into()));
            }
            let key = || Unwrapped::Key { key: Arc::clone(&self.key), dies_at: NOW.plus(BOUND) };
            let answer = self.answer.lock().unwrap().clone();
            Ok(wraps.iter().map(|_| answer.clone().unwrap_or_else(key)).collect())
        }
        .boxed()
    }

    fn inbound<'a>(
        &'a self,
        _: &'a AccountId,
        tenant: &'a TenantId,
    ) -> BoxFuture<'a, Result<InboundSession, KeysError>> {
        let made = self.asked.fetch_add(1, Ordering::SeqCst);
        async move {
            if self.away.load(Ordering::SeqCst) || self.refused.lock().unwrap().as_ref() == Some(tenant) {
                return Err(KeysError(std::io::Error::other("away").into()));
            }
            // A sealer counts from zero: no two have one id, so that no test mixes them up.
            let key_id = [u8::try_from(made).unwrap(); 16];
            Ok(InboundSession {
                sealer: Sealer::new(key_id, AeadKey::from_bytes(KEY), 3),
                wrap: InboundWrap {
                    key_id,
                    tenant: tenant.clone(),
                    bucket: "inbound/2026-11-30".to_owned(),
                    wrapped: Bytes::from_static(b"wrap"),
                },
                seal_until: NOW.plus(Duration::from_secs(300)),
            })
        }
        .boxed()
    }

    fn ended(&self) -> BoxFuture<'_, Result<Ended, KeysError>> {
        async move {
            if self.away.load(Ordering::SeqCst) {
                return Err(KeysError(std::io::Error::other("away").into()));
            }
            let ended = self.ended.lock().unwrap().clone();
            self.asked_for_ended.fetch_add(1, Ordering::SeqCst);
            Ok(ended)
        }
        .boxed()
    }
}

/// Hears nothing.
pub(crate) struct Deaf;

impl Witness for Deaf {
    fn tell(&self, _: Act, _: &str, _: &'static str) {}

    fn announce<'a>(
        &'a self,
        _account: &'a AccountId,
        _tenant: &'a TenantId,
        _keys: usize,
    ) -> BoxFuture<'a, Result<(), KeysError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

pub(crate) fn settings(name: &str, port: u16) -> Settings {
    let text = format!(
        r#"
[[account]]
id = "{name}"
host = "127.0.0.1"
port = {port}
system_id = "sotto"
password_file = "password"
tls = "waived"
tls_waiver_reason = "a test on this machine"
tps = 1000
window = 20
response_timeout = "1 s"
simulator = true
[[route]]
prefix = "84"
accounts = [{{ id = "{name}", weight = 1 }}]
"#
    );
    CarriersFile::parse(&text).unwrap().accounts.remove(0)
}

/// The whole rate, for as long as a test runs.
pub(crate) fn whole(tps: u16) -> Vec<Slice> {
    let now = tokio::time::Instant::now();
    vec![Slice { tps, from: now, until: now + Duration::from_secs(3600) }]
}

/// What accounts of one test share.
pub(crate) struct World {
    pub(crate) redis: Arc<TestRedis>,
    pub(crate) log: Arc<TestLog>,
    pub(crate) keys: Arc<TestKeys>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) stop: Stop,
    /// What operators say. Courses are set by who tests them: [`Line::set_course`].
    pub(crate) heard: watch::Sender<Heard>,
    /// Of processes that start from now on.
    pub(crate) restored: Mutex<Option<Restored>>,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self {
            redis: Arc::new(TestRedis::start().await),
            log: Arc::default(),
            keys: Arc::default(),
            clock: Arc::new(ManualClock::new(*NOW)),
            stop: Stop::default(),
            heard: watch::Sender::default(),
            restored: Mutex::default(),
        }
    }

    fn shared(&self, clock: Arc<ManualClock>) -> Shared {
        Shared {
            cell: "vn".parse().unwrap(),
            clock,
            log: Arc::<TestLog>::clone(&self.log),
            keys: Arc::<TestKeys>::clone(&self.keys),
            witness: Arc::new(Deaf),
            reliance: Arc::new(Reliance::default()),
            heard: self.heard.subscribe(),
            restored: *self.restored.lock().unwrap(),
            query_key: Arc::new(AeadKey::from_bytes(KEY)),
            recipient_key: Arc::new(MacKey::from_bytes(KEY)),
            skew: Duration::from_millis(500),
            keep_keys: KeepKeys { count: 8, time: Duration::from_secs(60) },
            metrics: crate::metrics::CarrierMetrics::new(&sotto_metrics::Metrics::default()),
        }
    }

    /// An account in a process of its own, with its own clock, and that process's rebuilder.
    pub(crate) fn account_at(
        &self,
        settings: Settings,
        store: Store,
        clock: Arc<ManualClock>,
    ) -> (Arc<Account>, Arc<Rebuilder>) {
        let shared = self.shared(clock);
        let account = |settings: Settings| {
            let ledger = Ledger::new(store.clone(), settings.id.clone(), settings.receipt_wait);
            let line =
                Line::new(settings.window, settings.tps, Duration::from_millis(200), self.stop.clone());
            line.set_course(Course::Run);
            Account::new(settings, Arc::new(ledger), line, shared.clone())
        };
        // Every process of a cell knows every account, whichever it is tested with.
        let all: Vec<_> = ["a", "b"]
            .into_iter()
            .filter(|name| *name != settings.id.as_str())
            .map(|name| account(self::settings(name, 1)))
            .chain([account(settings.clone())])
            .collect();
        let ours = all.iter().find(|account| account.settings.id == settings.id).unwrap();
        let rebuilder = Rebuilder::new(store.clone(), shared.clone(), &all);
        (Arc::clone(ours), rebuilder)
    }
}

/// The text of message `seed`: told apart at the carrier.
pub(crate) fn body(seed: u8, parts: usize) -> String {
    let mut body = format!("{seed:03}");
    if parts > 1 {
        body.push_str(&"x".repeat(153 * parts - 3 - 1));
    }
    body
}

/// An item as routing leaves it: sealed, for attempt 1 at an account.
pub(crate) fn item(seed: u8, parts: usize, account: &str) -> WorkDelivery {
    item_of(MessageClass::Otp, seed, parts, account)
}

/// The same of another class.
pub(crate) fn item_of(class: MessageClass, seed: u8, parts: usize, account: &str) -> WorkDelivery {
    let body = body(seed, parts);
    let count = text::count(&body).unwrap();
    let facts = Facts {
        message: id(seed),
        tenant: "acme".parse().unwrap(),
        class,
        country: "VN".parse().unwrap(),
        operator_range: "8498".parse().unwrap(),
        encoding: count.encoding,
        parts: count.parts,
        units: count.units,
        accepted_at: *NOW,
        expires_at: NOW.plus(Duration::from_secs(300)),
        content_mac: None,
        send_at: None,
    };
    assert_eq!(usize::from(facts.parts), parts);
    let key_id = [seed; 16];
    let sealer = Sealer::new(key_id, AeadKey::from_bytes(KEY), 10);
    let content = SealedContent { to: format!("84981{seed:06}"), from: "156".to_owned(), text: body };
    let binding = Binding {
        cell: "vn",
        tenant: "acme",
        class: class.name(),
        message_id: facts.message.as_bytes(),
        schema: SCHEMA,
    };
    let sealed = sealer.seal(&binding, &content.encode_to_vec()).unwrap();
    let wrap = KeyWrap {
        key_id,
        tenant: "acme".parse().unwrap(),
        class,
        bucket: "otp/2026-11-24T06".to_owned(),
        wrapped: Bytes::from_static(b"wrap"),
    };
    let item = WorkItem {
        attempt: 1,
        account: Some(account.parse().unwrap()),
        ..WorkItem::accepted(facts, Envelope(sealed.into()))
    };
    WorkDelivery { item, wrap: Arc::new(wrap) }
}
