//! The service's work: policy and clock decide, the keystore acts, everything is counted.

mod abuse;
mod ahead;
mod index;
mod opening;
mod operator;
mod receipts;
mod rotation;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sotto_core::{
    AccountId, CellId, Clock, MessageClass, TenantId, Timestamp,
    inbound::InboundWrap,
    work::{KeyWrap, Need},
};
use sotto_crypto::{AeadKey, random::random_array, wrap::WrapBinding};
use sotto_keystore::{BucketInfo, BucketKeystore, Keystore, KeystoreError};
use sotto_runtime::failpoint;
use tokio::time::Instant;

pub use abuse::AbuseKey;
pub use index::{Asked, FoundHere, IndexKeys, MOST_PSEUDONYMS, PseudonymKey};
pub use opening::{MAX_WRAPS, Opened, Refusal};
pub use operator::{Ended, Inventory, KeyFacts, KeyState};

use crate::{
    domain::{
        approval::Person,
        bucket::{Bucket, Contents},
        limits::Rule,
        place::Place,
        policy::Policy,
        rate::{Bound, Rates},
        retention::{Retention, Span},
        rotation::Rotation,
        steady::{Now, Steady},
        tally::{Deed, Outcome, Tally, Use},
    },
    error::KeyError,
    metrics::PrivacyMetrics,
    ports::{AuditEntry, AuditTrail, IndexLog, SteadyClock},
};

/// The service whose certificate may have session keys made.
const MAKER: &str = "ingress";

/// The service whose certificate may have them opened, and keys made for messages from handsets.
const OPENER: &str = "carrier";

/// Destructions of so long ago are told again at a start: a crash, or a broker that was away, may have kept them from the
/// audit log. A broker that is away for longer leaves a gap that somebody has seen.
const TELL_AGAIN: Duration = Duration::from_secs(7 * 86_400);

/// What the service is made of.
#[derive(Debug)]
pub struct Deps {
    /// The cell, bound into every wrap.
    pub cell: CellId,
    /// How far ahead keys may be asked for.
    pub retention: Retention,
    /// The same as told to operators, with its bounds.
    pub rules: Vec<Rule>,
    /// How long one key seals.
    pub rotation: Rotation,
    /// Who may open whose messages.
    pub policy: Policy,
    /// How fast.
    pub bound: Bound,
    /// The tenants whose messages hang on bucket keys of their own.
    pub own_keys: HashSet<TenantId>,
    /// Who may approve the destruction of keys before their time.
    pub people: Vec<Person>,
    /// The bucket keys.
    pub keys: Arc<dyn BucketKeystore>,
    /// The key that signs receipts of their destruction.
    pub receipts: Arc<dyn Keystore>,
    /// The index, as it is stored.
    pub index: Arc<dyn IndexLog>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The clock that it is compared with.
    pub steady: Arc<dyn SteadyClock>,
    /// The audit log.
    pub audit: Arc<dyn AuditTrail>,
    /// What is counted.
    pub metrics: PrivacyMetrics,
}

/// A session key for ingress.
#[derive(Debug)]
pub struct SessionKey {
    /// Its wrap, which travels with what it seals.
    pub wrap: KeyWrap,
    /// The key in clear.
    pub key: AeadKey,
    /// Seal nothing with it after this time.
    pub seal_until: Timestamp,
    /// What it seals must be submitted before.
    pub dies_at: Timestamp,
}

/// A session key for messages from handsets.
#[derive(Debug)]
pub struct InboundKey {
    /// Its wrap, which travels with what it seals.
    pub wrap: InboundWrap,
    /// The key in clear.
    pub key: AeadKey,
    /// Seal nothing with it after this time.
    pub seal_until: Timestamp,
}

/// The key service without its wire. Clones share everything.
#[derive(Clone, Debug)]
pub struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    deps: Deps,
    steady: Mutex<Steady>,
    started: Instant,
    rates: Mutex<Rates>,
    tally: Mutex<Tally>,
    /// When the counts were told last.
    reported: Mutex<Instant>,
    /// Held while a bucket is destroyed, so that each destruction is told once.
    burial: Mutex<()>,
    /// Buckets that ended before their time; none: to be looked up.
    ended: Mutex<Option<Arc<Ended>>>,
    /// When a rotation by schedule failed last; none: it did not since the last that was done.
    not_rotated: Mutex<Option<Instant>>,
}

impl Keys {
    /// A service that has told nothing yet.
    pub fn new(deps: Deps) -> Self {
        let rates = Mutex::new(Rates::new(deps.bound));
        let steady = Mutex::new(Steady::new(deps.clock.now(), deps.steady.elapsed()));
        Self(Arc::new(Inner {
            deps,
            steady,
            started: Instant::now(),
            rates,
            tally: Mutex::default(),
            reported: Mutex::new(Instant::now()),
            burial: Mutex::default(),
            ended: Mutex::default(),
            not_rotated: Mutex::default(),
        }))
    }

    /// Makes a session key. The bucket key is on disk before this returns.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn make(
        &self,
        caller: &'static str,
        tenant: TenantId,
        class: MessageClass,
        need: impl Into<Need>,
    ) -> Result<SessionKey, KeyError> {
        let result = self.try_make(caller, tenant.clone(), class, need.into()).await;
        if let Err(error) = &result {
            let deed = Deed::Make { contents: class.into() };
            self.0.count(Use { caller, deed, tenant: Some(tenant), outcome: outcome_of(error) }, 1);
        }
        result
    }

    async fn try_make(
        &self,
        caller: &'static str,
        tenant: TenantId,
        class: MessageClass,
        need: Need,
    ) -> Result<SessionKey, KeyError> {
        if caller != MAKER {
            return Err(KeyError::NotThisService);
        }
        let now = self.0.now().at;
        let span = self.0.deps.retention.span(class, need, now).map_err(KeyError::Span)?;
        let Made { key_id, key, bucket, wrapped } = self.made(MAKER, span, tenant.clone(), now).await?;
        let wrap = KeyWrap { key_id, tenant, class, bucket, wrapped };
        Ok(SessionKey { wrap, key, seal_until: span.seal_until, dies_at: span.bucket.dies_at() })
    }

    /// Makes a key that seals what handsets write to a tenant's numbers. There is no way to open its wrap.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn make_inbound(
        &self,
        caller: &'static str,
        account: &AccountId,
        tenant: TenantId,
    ) -> Result<InboundKey, KeyError> {
        let result = self.try_make_inbound(caller, account, tenant.clone()).await;
        if let Err(error) = &result {
            let deed = Deed::Make { contents: Contents::Inbound };
            self.0.count(Use { caller, deed, tenant: Some(tenant), outcome: outcome_of(error) }, 1);
        }
        result
    }

    async fn try_make_inbound(
        &self,
        caller: &'static str,
        account: &AccountId,
        tenant: TenantId,
    ) -> Result<InboundKey, KeyError> {
        if caller != OPENER {
            return Err(KeyError::NotThisService);
        }
        if !tenant.is_unowned() && !self.0.deps.policy.allows(account, &tenant) {
            return Err(KeyError::NotThisTenant);
        }
        let now = self.0.now().at;
        let span = self.0.deps.retention.inbound_span(now).map_err(KeyError::Span)?;
        let Made { key_id, key, bucket, wrapped } = self.made(OPENER, span, tenant.clone(), now).await?;
        let wrap = InboundWrap { key_id, tenant, bucket, wrapped };
        Ok(InboundKey { wrap, key, seal_until: span.seal_until })
    }

    async fn made(
        &self,
        caller: &'static str,
        span: Span,
        tenant: TenantId,
        now: Timestamp,
    ) -> Result<Made, KeyError> {
        let inner = Arc::clone(&self.0);
        let make = move || inner.make_in(caller, span.bucket, tenant, now);
        tokio::task::spawn_blocking(make).await.map_err(KeyError::Blocking)?
    }

    /// Counts a request that was refused before it could be read.
    pub fn refused_unread(&self, caller: &'static str, deed: Deed, outcome: Outcome) {
        self.0.count(Use { caller, deed, tenant: None, outcome }, 1);
    }

    /// Whether a restart would find the keys of buckets.
    ///
    /// # Errors
    /// [`KeyError::Keystore`].
    pub async fn check_file(self) -> Result<(), KeyError> {
        self.blocking(|inner| inner.deps.keys.check_file().map_err(KeyError::Keystore)).await
    }

    /// Destroys every bucket whose time has come; returns how many.
    ///
    /// # Errors
    /// [`KeyError::Keystore`]: what could not be destroyed is tried again at the next sweep and not opened until then.
    /// [`KeyError::Clock`]: the wall clock has jumped ahead, and what lives by the other clock was not destroyed.
    pub async fn sweep(&self) -> Result<usize, KeyError> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || inner.sweep()).await.map_err(KeyError::Blocking)?
    }

    /// Ends the minute: its counts go to the log and to the audit log.
    pub fn report(&self) {
        let minute = lock(&self.0.tally).end();
        for (one, keys) in minute.counts {
            let (account, class) = match &one.deed {
                Deed::Open { account } => (account.as_ref(), None),
                Deed::Make { contents } => (None, Some(*contents)),
                Deed::ListPseudonymKeys | Deed::Other => (None, None),
            };
            tracing::info!(
                caller = one.caller,
                action = one.deed.action(),
                account = account.map(tracing::field::display),
                class = class.map(tracing::field::display),
                tenant = one.tenant.as_ref().map(tracing::field::display),
                outcome = one.outcome.name(),
                keys,
                "session keys used"
            );
        }
        let since = std::mem::replace(&mut *lock(&self.0.reported), Instant::now()).elapsed();
        for (one, keys) in minute.audit {
            self.0.tell(one, keys, Some(since));
        }
    }
}

/// A session key that was made.
struct Made {
    key_id: [u8; 16],
    key: AeadKey,
    bucket: String,
    wrapped: bytes::Bytes,
}

impl Inner {
    /// The time that keys are made, opened and destroyed by.
    fn now(&self) -> Now {
        // Both clocks are read under the lock, so that their order is that of the judgements.
        let mut steady = lock(&self.steady);
        steady.now(self.deps.clock.now(), self.deps.steady.elapsed())
    }

    fn count(&self, one: Use, keys: u64) {
        self.deps.metrics.used(&one, keys);
        let at_once = lock(&self.tally).count(one, keys);
        if let Some(refused) = at_once {
            self.tell(refused, keys, None);
        }
    }

    /// Tells a use, and within which time it was, if that is over.
    fn tell(&self, one: Use, keys: u64, within: Option<Duration>) {
        // One more than the whole seconds: the time of an act has no parts of one.
        let seconds = within.map(|within| format!(",seconds={}", within.as_secs() + 1)).unwrap_or_default();
        let object = match &one.deed {
            Deed::Open { account: Some(account) } => format!("account={account},keys={keys}{seconds}"),
            Deed::Make { contents } => format!("class={contents},keys={keys}"),
            Deed::Open { account: None } | Deed::ListPseudonymKeys | Deed::Other => format!("keys={keys}"),
        };
        self.deps.audit.tell(AuditEntry {
            at: self.deps.clock.now(),
            action: one.deed.action(),
            actor: one.caller,
            tenant: one.tenant,
            object,
            outcome: one.outcome.name(),
        });
    }
}

/// On blocking threads: the keystore waits for the disk. What happened is counted here, whether or not the caller
/// still waits for the answer.
impl Inner {
    fn make_in(
        &self,
        caller: &'static str,
        bucket: Bucket,
        tenant: TenantId,
        now: Timestamp,
    ) -> Result<Made, KeyError> {
        let owner = self.deps.own_keys.contains(&tenant).then(|| tenant.clone());
        let first = Place { bucket, owner };
        let key_id = random_array().map_err(KeyError::Crypto)?;
        let key = AeadKey::generate().map_err(KeyError::Crypto)?;
        let (name, wrapped) = match self.wrapped(&first, &tenant, &key_id, &key, now) {
            // Destroyed by an operator since it was looked up: there is another one now.
            Err(KeyError::Keystore(KeystoreError::BucketDestroyed)) => {
                self.wrapped(&first, &tenant, &key_id, &key, now)?
            }
            wrapped => wrapped?,
        };
        let deed = Deed::Make { contents: bucket.contents() };
        self.count(Use { caller, deed, tenant: Some(tenant), outcome: Outcome::Ok }, 1);
        Ok(Made { key_id, key, bucket: name, wrapped })
    }

    /// Makes the key of a bucket, unless it is there.
    fn create(&self, name: &str, bucket: Bucket, now: Timestamp) -> Result<BucketInfo, KeystoreError> {
        let (dies_at_ms, now_ms) = (bucket.dies_at().unix_millis(), now.unix_millis());
        match bucket.contents() {
            Contents::Messages(_) | Contents::Inbound => {
                self.deps.keys.create_bucket(name, dies_at_ms, now_ms)
            }
            Contents::Index | Contents::Abuse => {
                self.deps.keys.create_deriving_bucket(name, dies_at_ms, now_ms)
            }
        }
    }

    /// A session key under the bucket that seals now in the time of `first`.
    fn wrapped(
        &self,
        first: &Place,
        tenant: &TenantId,
        key_id: &[u8; 16],
        key: &AeadKey,
        now: Timestamp,
    ) -> Result<(String, bytes::Bytes), KeyError> {
        let place = self.current(first).ok_or(KeyError::Spent)?;
        let (name, bucket) = (place.to_string(), place.bucket);
        // On disk when it returns, and the same key for whoever asks next.
        self.create(&name, bucket, now).map_err(KeyError::Keystore)?;
        failpoint("privacy.made");
        let binding = WrapBinding {
            cell: self.deps.cell.as_str(),
            tenant: tenant.as_str(),
            class: bucket.contents().name(),
            bucket: &name,
            key_id,
        };
        let wrapped = self.deps.keys.wrap_session_key(&binding, key).map_err(KeyError::Keystore)?;
        Ok((name, bytes::Bytes::copy_from_slice(&wrapped)))
    }

    fn sweep(&self) -> Result<usize, KeyError> {
        // Also when nothing is due: a token that came back is found again, and one that is away is told.
        self.deps.keys.check().map_err(KeyError::Keystore)?;
        let Now { at: now, ahead } = self.now();
        let mut destroyed = 0;
        let mut failed = None;
        for bucket in self.deps.keys.buckets().map_err(KeyError::Keystore)? {
            if bucket.dies_at_ms > now.unix_millis() {
                continue;
            }
            // One that fails must not keep the others alive.
            match self.bury(&bucket.bucket, now) {
                Ok(true) => destroyed += 1,
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        match (failed, ahead) {
            (Some(error), _) => Err(KeyError::Keystore(error)),
            (None, Some(ahead)) => Err(KeyError::Clock { ahead }),
            (None, None) => Ok(destroyed),
        }
    }

    /// Destroys a bucket's key and tells it, once; returns whether it was alive.
    fn bury(&self, bucket: &str, now: Timestamp) -> Result<bool, KeystoreError> {
        let _alone = lock(&self.burial);
        let was_alive = self.deps.keys.buckets()?.iter().any(|living| living.bucket == bucket);
        let destruction = self.deps.keys.destroy_bucket(bucket, now.unix_millis())?;
        failpoint("privacy.buried");
        if was_alive {
            tracing::info!(bucket, generation = destruction.generation, "bucket key destroyed");
            self.tell_destruction(&destruction);
        }
        Ok(was_alive)
    }
}

fn outcome_of(error: &KeyError) -> Outcome {
    match error {
        KeyError::NotThisService => Outcome::NotThisService,
        KeyError::NotThisTenant => Outcome::NotAllowed,
        KeyError::Field { .. } | KeyError::Approval(_) => Outcome::Invalid,
        KeyError::Span(_) => Outcome::OutOfRange,
        KeyError::TooMany { .. } => Outcome::TooMany,
        KeyError::Keystore(_)
        | KeyError::Index(_)
        | KeyError::Crypto(_)
        | KeyError::Blocking(_)
        | KeyError::Clock { .. }
        | KeyError::Spent
        | KeyError::NotRotated => Outcome::Failed,
    }
}

// What the locks guard is whole between statements, so what a panic left behind is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
