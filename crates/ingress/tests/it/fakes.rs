//! Log, Redis and privacy as intake sees them, told when to fail.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    num::NonZeroU16,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::future::BoxFuture;
use sotto_bus::Heard;
use sotto_core::{
    Facts, ManualClock, MessageClass, MessageId, Restored, ShardId, Shards, TenantId, Timestamp,
    delivery::Event,
    number::E164,
    work::{KeyWrap, Need},
};
use sotto_crypto::{
    AeadKey,
    envelope::{MAX_SEALS, Sealer},
};
use sotto_ingress::{
    app::cancel::Canceller,
    app::intake::{Deps, IDEMPOTENCY_RING, Intake},
    domain::{
        idempotency::Entry,
        journal::Journal,
        request::{Validities, Validity},
        token::Caller,
    },
    metrics::IngressMetrics,
    ports::{
        Claimed, Claims, Found, Gate, Index, KeyError, KeySource, Log, LogError, Marks, Records, Session,
        StoreError,
    },
};
use sotto_keystore::{KeyKind, Keystore as _, SoftKeystore, UnlockSecret};
use sotto_metrics::Metrics;
use sotto_proto::WorkDelivery;
use sotto_runtime::{Stop, Tasks};
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};

use crate::tokens;

/// 2026-11-24T04:16:55.007Z
pub(crate) const NOW: Timestamp = Timestamp::from_unix_millis(1_795_493_815_007);

/// What becomes of the next message that the log is given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    Store,
    /// It is stored, but nobody hears so.
    StoreInDoubt,
    /// It is lost, and nobody knows.
    LoseInDoubt,
    Refuse(LogError),
}

#[derive(Debug)]
pub(crate) struct FakeLog {
    plans: Mutex<VecDeque<Plan>>,
    pub(crate) stored: Mutex<Vec<WorkDelivery>>,
    pub(crate) events: Mutex<Vec<Event>>,
    /// A message is stored when there is a permit; many at the start.
    pub(crate) gate: Semaphore,
}

impl FakeLog {
    pub(crate) fn plan(&self, plans: impl IntoIterator<Item = Plan>) {
        self.plans.lock().unwrap().extend(plans);
    }

    /// What was planned and not asked for is over.
    pub(crate) fn clear_plans(&self) {
        self.plans.lock().unwrap().clear();
    }

    pub(crate) fn ids(&self) -> Vec<MessageId> {
        self.stored.lock().unwrap().iter().map(|delivery| delivery.item.facts.message).collect()
    }

    /// Holds up everything until permits are added.
    pub(crate) fn hold(&self) {
        self.gate.forget_permits(usize::MAX);
    }
}

impl Log for FakeLog {
    fn accept(&self, _: ShardId, delivery: WorkDelivery) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            let _one = self.gate.acquire().await.unwrap();
            let plan = self.plans.lock().unwrap().pop_front().unwrap_or(Plan::Store);
            match plan {
                Plan::Store => {
                    self.stored.lock().unwrap().push(delivery);
                    Ok(())
                }
                Plan::StoreInDoubt => {
                    self.stored.lock().unwrap().push(delivery);
                    Err(LogError::InDoubt)
                }
                Plan::LoseInDoubt => Err(LogError::InDoubt),
                Plan::Refuse(error) => Err(error),
            }
        })
    }

    fn append(&self, _: ShardId, events: Vec<Event>) -> BoxFuture<'_, Result<u64, LogError>> {
        Box::pin(async move {
            let plan = self.plans.lock().unwrap().pop_front().unwrap_or(Plan::Store);
            let heard = match plan {
                Plan::Store => Ok(1),
                Plan::StoreInDoubt | Plan::LoseInDoubt => Err(LogError::InDoubt),
                Plan::Refuse(error) => Err(error),
            };
            if matches!(plan, Plan::Store | Plan::StoreInDoubt) {
                self.events.lock().unwrap().extend(events);
            }
            heard
        })
    }
}

/// The index: what was entered, when there is a permit; many at the start.
#[derive(Debug)]
pub(crate) struct FakeIndex {
    pub(crate) entered: Mutex<Vec<(MessageId, String)>>,
    pub(crate) gate: Semaphore,
}

impl Index for FakeIndex {
    fn enter<'a>(&'a self, _: ShardId, facts: &'a Facts, number: &'a E164) -> BoxFuture<'a, ()> {
        Box::pin(async {
            let _one = self.gate.acquire().await.unwrap();
            self.entered.lock().unwrap().push((facts.message, number.digits().to_owned()));
        })
    }
}

/// Redis, and whether it works.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) entries: HashMap<MessageId, Entry>,
    closed: HashSet<MessageId>,
    pub(crate) journals: HashMap<MessageId, Journal>,
    pub(crate) failing: Option<StoreError>,
    pub(crate) behind: bool,
    /// Whoever is told of an acceptance forgets it: a crash right after the broker's acknowledgement.
    pub(crate) forgets: bool,
}

#[derive(Debug, Default)]
pub(crate) struct FakeRedis(Mutex<Memory>);

impl FakeRedis {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap()
    }

    fn usable(&self) -> Result<MutexGuard<'_, Memory>, StoreError> {
        let memory = self.lock();
        match memory.failing {
            Some(error) => Err(error),
            None => Ok(memory),
        }
    }
}

impl Claims for FakeRedis {
    fn claim<'a>(
        &'a self,
        id: &'a MessageId,
        entry: Entry,
        _: Timestamp,
    ) -> BoxFuture<'a, Result<Claimed, StoreError>> {
        Box::pin(async move {
            let mut memory = self.usable()?;
            if memory.closed.contains(id) {
                return Ok(Claimed::Moved);
            }
            match memory.entries.get(id) {
                Some(used) => Ok(Claimed::Used(used.clone())),
                None => {
                    memory.entries.insert(*id, entry);
                    Ok(Claimed::Free)
                }
            }
        })
    }

    fn look<'a>(
        &'a self,
        id: &'a MessageId,
        close: Option<Duration>,
    ) -> BoxFuture<'a, Result<Claimed, StoreError>> {
        Box::pin(async move {
            let mut memory = self.usable()?;
            if let Some(used) = memory.entries.get(id) {
                return Ok(Claimed::Used(used.clone()));
            }
            if close.is_some() {
                memory.closed.insert(*id);
            }
            Ok(Claimed::Free)
        })
    }
}

impl Records for FakeRedis {
    fn begin<'a>(&'a self, facts: &'a Facts, until: Option<Timestamp>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Ok(mut memory) = self.usable() else { return };
            if memory.forgets {
                return;
            }
            memory.journals.entry(facts.message).or_insert_with(|| Journal::accepted(facts.clone()));
            if let (Some(entry), Some(_)) = (Entry::of(facts), until) {
                memory.entries.insert(facts.message, entry);
            }
        })
    }

    fn find<'a>(&'a self, id: &'a MessageId) -> BoxFuture<'a, Result<Found, StoreError>> {
        Box::pin(async move {
            let memory = self.usable()?;
            let journal = memory.journals.get(id).cloned().map(Box::new);
            Ok(Found { journal, entry: memory.entries.get(id).cloned(), whole: !memory.behind })
        })
    }
}

/// What the mark of a message says when it is asked, call by call; at the end that it is cancelled.
#[derive(Debug, Default)]
pub(crate) struct FakeMarks(pub(crate) Mutex<VecDeque<Result<bool, StoreError>>>);

impl Marks for FakeMarks {
    fn cancel<'a>(&'a self, _: &'a MessageId, _: Duration) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async { self.0.lock().unwrap().pop_front().unwrap_or(Ok(true)) })
    }
}

/// The pace of tenants: so many, then none.
pub(crate) struct FakeGate(pub(crate) Semaphore);

impl fmt::Debug for FakeGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeGate")
    }
}

impl Gate for FakeGate {
    fn pass<'a>(&'a self, _: &'a TenantId) -> BoxFuture<'a, Result<(), Duration>> {
        Box::pin(async {
            match self.0.try_acquire() {
                Ok(permit) => {
                    permit.forget();
                    Ok(())
                }
                Err(_) => Err(Duration::from_secs(3)),
            }
        })
    }
}

#[derive(Debug, Default)]
pub(crate) struct FakeKeys(pub(crate) Mutex<Option<KeyError>>);

impl KeySource for FakeKeys {
    fn session<'a>(
        &'a self,
        tenant: &'a TenantId,
        class: MessageClass,
        need: Need,
    ) -> BoxFuture<'a, Result<Arc<Session>, KeyError>> {
        Box::pin(async move {
            if let Some(error) = *self.0.lock().unwrap() {
                return Err(error);
            }
            let wrap = KeyWrap {
                key_id: [1; 16],
                tenant: tenant.clone(),
                class,
                bucket: "otp/2026-11-24T05".to_owned(),
                wrapped: bytes::Bytes::from_static(&[0; 62]),
            };
            let sealer = Sealer::new([1; 16], AeadKey::from_bytes([2; 32]), MAX_SEALS);
            let (seal_until, dies_at) = (need.until, need.until);
            Ok(Arc::new(Session { sealer, wrap: Arc::new(wrap), seal_until, dies_at }))
        })
    }
}

/// A cell of fakes. Intakes made from it are its replicas and its restarts.
pub(crate) struct World {
    folder: TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) log: Arc<FakeLog>,
    pub(crate) index: Arc<FakeIndex>,
    pub(crate) redis: Arc<FakeRedis>,
    pub(crate) keys: Arc<FakeKeys>,
    pub(crate) marks: Arc<FakeMarks>,
    pub(crate) gate: Arc<FakeGate>,
    /// What operators say.
    pub(crate) heard: watch::Sender<Heard>,
    /// Of processes that start from now on.
    pub(crate) restored: Mutex<Option<Restored>>,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    pub(crate) caller: Caller,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            folder: TempDir::with_prefix("sotto-ingress-").unwrap(),
            clock: Arc::new(ManualClock::new(NOW)),
            log: Arc::new(FakeLog {
                plans: Mutex::default(),
                stored: Mutex::default(),
                events: Mutex::default(),
                gate: Semaphore::new(1_000),
            }),
            index: Arc::new(FakeIndex { entered: Mutex::default(), gate: Semaphore::new(1_000) }),
            redis: Arc::default(),
            keys: Arc::default(),
            marks: Arc::default(),
            gate: Arc::new(FakeGate(Semaphore::new(1_000))),
            heard: watch::Sender::default(),
            restored: Mutex::default(),
            tasks: Tasks::new(Stop::default()),
            metrics: Metrics::default(),
            caller: tokens::caller("acme", NOW),
        };
        let secret = UnlockSecret::create(&world.folder.path().join("unlock")).unwrap();
        let keystore =
            SoftKeystore::create(&world.folder.path().join("ingress.sks"), secret, "ingress").unwrap();
        keystore.generate(IDEMPOTENCY_RING, KeyKind::HmacSha256, 0).unwrap();
        world
    }

    /// The keystore as one more process opens it.
    pub(crate) fn keystore(&self) -> SoftKeystore {
        let secret = UnlockSecret::read(&self.folder.path().join("unlock")).unwrap();
        SoftKeystore::open(&self.folder.path().join("ingress.sks"), secret, "ingress").unwrap()
    }

    pub(crate) fn canceller(&self) -> Canceller {
        let shards = Shards::new(NonZeroU16::new(4).unwrap());
        Canceller::new(self.intake(), self.log.clone(), self.marks.clone(), self.clock.clone(), shards)
    }

    pub(crate) fn intake(&self) -> Intake {
        let validity =
            |default, max| Validity { default: Duration::from_secs(default), max: Duration::from_secs(max) };
        Intake::new(Deps {
            cell: "vn".parse().unwrap(),
            shards: Shards::new(NonZeroU16::new(4).unwrap()),
            clock: self.clock.clone(),
            keystore: Arc::new(self.keystore()),
            keys: self.keys.clone(),
            log: self.log.clone(),
            index: self.index.clone(),
            claims: self.redis.clone(),
            records: self.redis.clone(),
            gate: self.gate.clone(),
            ceiling: None,
            heard: self.heard.subscribe(),
            restored: *self.restored.lock().unwrap(),
            routes: None,
            validities: Validities { otp: validity(300, 900), other: validity(86_400, 259_200) },
            margin: Duration::from_secs(90),
            tasks: self.tasks.clone(),
            metrics: IngressMetrics::new(&self.metrics),
        })
    }
}
