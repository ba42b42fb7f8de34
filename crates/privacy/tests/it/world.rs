//! A key file, a clock and an audit log that remembers.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use sotto_core::{AccountId, ManualClock, MessageClass, TenantId, Timestamp, work::KeyWrap};
use sotto_crypto::sign::SigningKey;
use sotto_keystore::{Keystore, KeystoreError, SoftBuckets, UnlockSecret};
use sotto_metrics::Metrics;
use sotto_privacy::{
    adapters::receipts::in_file,
    app::{Deps, Keys, Opened, Refusal, SessionKey},
    domain::{
        approval::Person,
        policy::{Allowed, Policy, Rule},
        rate::Bound,
        retention::Retention,
        rotation::Rotation,
    },
    error::KeyError,
    metrics::PrivacyMetrics,
    ports::{AuditEntry, AuditTrail, IndexError, IndexLog, IndexPart, SteadyClock},
};
use sotto_proto::IndexDelivery;
use tempfile::TempDir;
use tokio::sync::watch;

/// 2026-11-24T04:16:55.007Z
pub(crate) const NOW: Timestamp = Timestamp::from_unix_millis(1_795_493_815_007);

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) const RETENTION: Retention = Retention {
    otp: Duration::from_secs(15 * 60),
    transactional: Duration::from_secs(72 * 3600),
    promotional: Duration::from_secs(72 * 3600),
    ad_invite: Duration::from_secs(72 * 3600),
    inbound: Duration::from_secs(72 * 3600),
    index: Duration::from_secs(90 * 86_400),
    submit_margin: Duration::from_secs(120),
    session: Duration::from_secs(300),
};

pub(crate) const ROTATION: Rotation = Rotation {
    otp: Duration::from_secs(1_200),
    transactional: Duration::from_secs(7 * 86_400),
    promotional: Duration::from_secs(7 * 86_400),
    ad_invite: Duration::from_secs(7 * 86_400),
    inbound: Duration::from_secs(7 * 86_400),
    index: Duration::from_secs(6 * 3_600),
};

/// People of whom two may approve, by their keys' seeds.
pub(crate) const PEOPLE: [(&str, u8); 3] = [("an", 1), ("binh", 2), ("chi", 3)];

pub(crate) fn person_key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

#[derive(Debug, Default)]
pub(crate) struct Told {
    entries: Mutex<Vec<AuditEntry>>,
    away: watch::Sender<bool>,
}

impl AuditTrail for Told {
    fn tell(&self, entry: AuditEntry) {
        self.entries.lock().unwrap().push(entry);
    }

    fn stored(&self) -> BoxFuture<'_, ()> {
        let mut away = self.away.subscribe();
        Box::pin(async move {
            away.wait_for(|away| !away).await.unwrap();
        })
    }
}

impl Told {
    /// Nothing is stored while the log is away.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.send_replace(away);
    }

    /// `action object outcome` of everything told since the last look.
    pub(crate) fn take(&self) -> Vec<String> {
        self.taken(|_| true)
    }

    /// The same, of what this one did.
    pub(crate) fn by(&self, actor: &str) -> Vec<String> {
        self.taken(|one| one.actor == actor)
    }

    fn taken(&self, wanted: impl Fn(&AuditEntry) -> bool) -> Vec<String> {
        let told = std::mem::take(&mut *self.entries.lock().unwrap());
        let told = told.into_iter().filter(wanted);
        told.map(|one| format!("{} {} {}", one.action, one.object, one.outcome)).collect()
    }
}

/// The index in memory.
#[derive(Debug, Default)]
pub(crate) struct Stored(Mutex<Vec<Vec<IndexDelivery>>>);

impl Stored {
    /// One more batch.
    pub(crate) fn put(&self, batch: Vec<IndexDelivery>) {
        self.0.lock().unwrap().push(batch);
    }
}

impl IndexLog for Stored {
    fn read(&self, from: u64) -> BoxFuture<'_, Result<IndexPart, IndexError>> {
        let from = usize::try_from(from.max(1)).unwrap();
        let batches = (1..).zip(self.0.lock().unwrap().clone()).skip(from - 1).take(256).collect::<Vec<_>>();
        let next = batches.last().map(|(sequence, _)| sequence + 1);
        Box::pin(async move { Ok(IndexPart { batches, next }) })
    }
}

/// A clock that goes with the wall clock, except where a test sets that one.
#[derive(Debug)]
pub(crate) struct Follows {
    clock: Arc<ManualClock>,
    jumped_ms: AtomicU64,
}

impl SteadyClock for Follows {
    fn elapsed(&self) -> Duration {
        let since = sotto_core::Clock::now(&self.clock).since(NOW.minus(Duration::from_secs(3600)));
        since.saturating_sub(Duration::from_millis(self.jumped_ms.load(Ordering::SeqCst)))
    }
}

pub(crate) struct World {
    folder: TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) steady: Arc<Follows>,
    pub(crate) told: Arc<Told>,
    pub(crate) stored: Arc<Stored>,
}

impl World {
    /// A new cell's key file.
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::new(NOW));
        let world = Self {
            folder: TempDir::with_prefix("sotto-privacy-").unwrap(),
            clock: clock.clone(),
            steady: Arc::new(Follows { clock, jumped_ms: AtomicU64::new(0) }),
            told: Arc::default(),
            stored: Arc::default(),
        };
        let secret = UnlockSecret::create(&world.secret_file()).unwrap();
        SoftBuckets::create(&world.buckets_file(), secret, "privacy").unwrap();
        world
    }

    /// Sets the wall clock ahead; the other one does not move.
    pub(crate) fn jump(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap();
        self.steady.jumped_ms.fetch_add(millis, Ordering::SeqCst);
        self.clock.advance(by);
    }

    /// Sets it back to where it would be.
    pub(crate) fn mend(&self) {
        let jumped = self.steady.jumped_ms.swap(0, Ordering::SeqCst);
        self.clock.set(sotto_core::Clock::now(&self.clock).minus(Duration::from_millis(jumped)));
    }

    pub(crate) fn buckets_file(&self) -> PathBuf {
        self.folder.path().join("buckets.sks")
    }

    pub(crate) fn secret_file(&self) -> PathBuf {
        self.folder.path().join("unlock")
    }

    /// The key file as a process opens it.
    pub(crate) fn buckets(&self) -> SoftBuckets {
        self.try_buckets().unwrap()
    }

    pub(crate) fn try_buckets(&self) -> Result<SoftBuckets, KeystoreError> {
        SoftBuckets::open(&self.buckets_file(), UnlockSecret::read(&self.secret_file())?, "privacy")
    }

    /// The key that signs receipts.
    pub(crate) fn receipts(&self) -> Arc<dyn Keystore> {
        let file = self.folder.path().join("receipts.sks");
        in_file(&file, UnlockSecret::read(&self.secret_file()).unwrap(), NOW.unix_millis()).unwrap()
    }

    /// A service that allows everything.
    pub(crate) fn open(&self) -> Keys {
        let all = Rule { accounts: Allowed::All, tenants: Allowed::All };
        self.open_with("vn", vec![all], Bound { per_second: 100_000, burst: 100_000 })
    }

    pub(crate) fn open_with(&self, cell: &str, rules: Vec<Rule>, bound: Bound) -> Keys {
        Keys::new(Deps {
            cell: cell.parse().unwrap(),
            retention: RETENTION,
            rules: Vec::new(),
            rotation: ROTATION,
            policy: Policy::new(rules),
            bound,
            own_keys: HashSet::from([tenant("bank")]),
            people: PEOPLE
                .map(|(name, seed)| Person { name: name.to_owned(), key: person_key(seed).public() })
                .to_vec(),
            keys: Arc::new(self.buckets()),
            receipts: self.receipts(),
            index: self.stored.clone(),
            clock: self.clock.clone(),
            steady: self.steady.clone(),
            audit: self.told.clone(),
            metrics: PrivacyMetrics::new(&Metrics::default()),
        })
    }

    /// A one-time-code key for tenant `acme`, needed for ten minutes.
    pub(crate) async fn otp_key(&self, keys: &Keys) -> SessionKey {
        let until = sotto_core::Clock::now(&self.clock).plus(10 * MINUTE);
        keys.make("ingress", tenant("acme"), MessageClass::Otp, until).await.unwrap()
    }
}

pub(crate) fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

pub(crate) fn account(name: &str) -> AccountId {
    name.parse().unwrap()
}

/// Opens one wrap for account `viettel-otp`.
pub(crate) async fn open_one(keys: &Keys, wrap: &KeyWrap) -> Opened {
    let opened = keys.open("carrier", account("viettel-otp"), vec![Some(wrap.clone())]).await.unwrap();
    opened.into_iter().next().unwrap()
}

pub(crate) async fn refusal(keys: &Keys, wrap: &KeyWrap) -> Option<Refusal> {
    open_one(keys, wrap).await.result.err()
}

/// The name of what was refused as a whole.
pub(crate) fn refused<T>(result: Result<T, KeyError>) -> KeyError {
    result.map(|_| ()).unwrap_err()
}
