//! Session keys from privacy: fetched ahead, used until their end, then wiped (INV-3).
//!
//! Privacy chooses the bucket that a key hangs on: the first that lives long enough. Buckets die on whole hours, so a key
//! fits every need from the whole hour before the one it was asked for to its bucket's death, and no message hangs on a
//! bucket that lives longer than it must.
//!
//! A key ends by two clocks: the wall clock, which privacy gave its end by, and the monotonic one, which nobody sets.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use sotto_core::{
    Clock, MessageClass, TenantId, Timestamp,
    work::{KeyWrap, Need},
};
use sotto_crypto::{
    AeadKey, Zeroizing,
    envelope::{MAX_SEALS, Sealer},
    hpke::OpeningKey,
};
use sotto_proto::{
    from_wire_time,
    message::v1 as public,
    privacy::v1::{
        CreateSessionKeyRequest, CreateSessionKeyResponse, ListEndedBucketsRequest,
        key_service_client::KeyServiceClient,
    },
    to_wire_time,
};
use sotto_runtime::{Condition, Tasks, grpc::TraceCalls, telemetry::chain};
use tokio::time::Instant;
use tonic::{Code, Status, service::interceptor::InterceptedService, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{
    metrics::{IngressMetrics, KeyFound},
    ports::{KeyError, KeySource, Session},
};

type Client = KeyServiceClient<InterceptedService<Channel, TraceCalls>>;

/// No key seals longer than this, whatever privacy says.
const LONGEST: Duration = Duration::from_secs(300);

/// After a failure privacy is left alone for so long.
const REST: Duration = Duration::from_millis(500);

/// Keys of one tenant and class at a time, each of another bucket; the oldest goes first.
const MOST_OF_ONE: usize = 16;

/// Buckets die on whole hours or at midnight UTC (docs/services/privacy.md).
const HOUR_MS: i64 = 3_600_000;

/// How often ended keys are wiped.
pub const WIPE_EVERY: Duration = Duration::from_secs(1);

/// Session keys. Clones share them.
#[derive(Clone)]
pub struct SessionKeys(Arc<Inner>);

struct Inner {
    client: Client,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    possible: Condition,
    metrics: IngressMetrics,
    slots: Mutex<HashMap<(TenantId, MessageClass), Arc<Slot>>>,
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionKeys").finish_non_exhaustive()
    }
}

/// The keys of one tenant and class.
#[derive(Default)]
struct Slot {
    held: Mutex<Vec<Arc<Held>>>,
    /// One request at a time; until when privacy is left alone.
    fetching: tokio::sync::Mutex<Option<Instant>>,
}

struct Held {
    session: Arc<Session>,
    /// It fits needs after this time.
    after: Timestamp,
    fetched: Instant,
    /// How long it seals from then.
    life: Duration,
    renewing: AtomicBool,
}

/// Now, by both clocks.
#[derive(Clone, Copy)]
struct Now {
    wall: Timestamp,
    steady: Instant,
}

impl Held {
    fn seals(&self, now: Now) -> bool {
        now.wall < self.session.seal_until && now.steady.saturating_duration_since(self.fetched) < self.life
    }

    fn fits(&self, needed_until: Timestamp, now: Now) -> bool {
        self.seals(now)
            && self.after < needed_until
            && needed_until <= self.session.dies_at
            && self.session.sealer.remaining() > 0
    }

    /// Whether four fifths of its time or of its seals are over.
    fn is_old(&self, now: Now) -> bool {
        now.steady.saturating_duration_since(self.fetched) >= self.life * 4 / 5
            || self.session.sealer.remaining() < MAX_SEALS / 5
    }
}

/// The last whole hour before a need: no bucket dies between the two.
fn hour_before(needed_until: Timestamp) -> Timestamp {
    let until = needed_until.unix_millis();
    Timestamp::from_unix_millis((until - 1).div_euclid(HOUR_MS) * HOUR_MS)
}

impl SessionKeys {
    /// Keys from privacy on this channel; each request takes at most `timeout`.
    pub fn new(
        channel: Channel,
        timeout: Duration,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        possible: Condition,
        metrics: IngressMetrics,
    ) -> Self {
        let client = KeyServiceClient::with_interceptor(channel, TraceCalls);
        Self(Arc::new(Inner { client, timeout, clock, tasks, possible, metrics, slots: Mutex::default() }))
    }

    /// Forgets keys whose time is over: their memory is wiped. Called every [`WIPE_EVERY`].
    pub fn wipe(&self) {
        let now = self.now();
        lock(&self.0.slots).retain(|_, slot| {
            let mut held = lock(&slot.held);
            held.retain(|held| held.seals(now));
            !held.is_empty() || Arc::strong_count(slot) > 1
        });
    }

    /// Asks privacy which buckets ended before their time, and forgets their keys: the next message gets another. Called
    /// every [`WIPE_EVERY`]; while privacy does not answer, keys seal as long as they may anyway. Returns those buckets.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`], [`KeyError::Refused`].
    pub async fn forget_ended(&self) -> Result<HashSet<String>, KeyError> {
        let mut client = self.0.client.clone();
        let asking = client.list_ended_buckets(ListEndedBucketsRequest {});
        let answer = match tokio::time::timeout(self.0.timeout, asking).await {
            Ok(Ok(answer)) => answer.into_inner(),
            // One of a version that knows no such question has none either.
            Ok(Err(status)) if status.code() == Code::Unimplemented => return Ok(HashSet::new()),
            Ok(Err(status)) => return Err(refused(&status)),
            Err(_) => return Err(KeyError::Unavailable),
        };
        let ended: HashSet<String> = answer.destroyed.into_iter().chain(answer.superseded).collect();
        if !ended.is_empty() {
            for slot in lock(&self.0.slots).values() {
                lock(&slot.held).retain(|held| !ended.contains(&held.session.wrap.bucket));
            }
        }
        Ok(ended)
    }

    fn now(&self) -> Now {
        Now { wall: self.0.clock.now(), steady: Instant::now() }
    }

    fn slot(&self, tenant: &TenantId, class: MessageClass) -> Arc<Slot> {
        Arc::clone(lock(&self.0.slots).entry((tenant.clone(), class)).or_default())
    }

    async fn get(
        &self,
        tenant: &TenantId,
        class: MessageClass,
        need: Need,
    ) -> Result<Arc<Session>, KeyError> {
        let slot = self.slot(tenant, class);
        let now = self.now();
        let found = &self.0.metrics.keys;
        if let Some(held) = newest(&slot, need.until, now) {
            if held.is_old(now) && !held.renewing.swap(true, Ordering::AcqRel) {
                self.renew(Arc::clone(&slot), Arc::clone(&held), tenant.clone(), class, need);
            }
            found.of(KeyFound::Held).one();
            return Ok(Arc::clone(&held.session));
        }
        let missed = self.miss(&slot, tenant, class, need).await;
        found.of(missed.as_ref().map_or_else(|error| KeyFound::from(*error), |_| KeyFound::Fetched)).one();
        missed
    }

    /// A key that is not held.
    async fn miss(
        &self,
        slot: &Slot,
        tenant: &TenantId,
        class: MessageClass,
        need: Need,
    ) -> Result<Arc<Session>, KeyError> {
        let mut resting = slot.fetching.lock().await;
        if let Some(held) = newest(slot, need.until, self.now()) {
            return Ok(Arc::clone(&held.session));
        }
        if resting.is_some_and(|until| Instant::now() < until) {
            return Err(KeyError::Unavailable);
        }
        let fetched = self.fetch(slot, tenant, class, need).await;
        if fetched == Err(KeyError::Unavailable) {
            *resting = Some(Instant::now() + REST);
        }
        fetched?;
        newest(slot, need.until, self.now())
            .map(|held| Arc::clone(&held.session))
            .ok_or(KeyError::Unavailable)
    }

    /// Fetches the next key while the old one still seals.
    fn renew(&self, slot: Arc<Slot>, held: Arc<Held>, tenant: TenantId, class: MessageClass, need: Need) {
        let keys = self.clone();
        self.0.tasks.spawn_background("session key", async move {
            let fetched = {
                let _one = slot.fetching.lock().await;
                keys.fetch(&slot, &tenant, class, need).await
            };
            if fetched.is_err() {
                // The next message tries again. Nobody waits for this pause.
                tokio::time::sleep(REST).await;
                held.renewing.store(false, Ordering::Release);
            }
        });
    }

    async fn fetch(
        &self,
        slot: &Slot,
        tenant: &TenantId,
        class: MessageClass,
        need: Need,
    ) -> Result<(), KeyError> {
        let reply = OpeningKey::generate().map_err(|error| {
            tracing::error!(error = chain(&error), "no key for an answer can be made");
            KeyError::Unavailable
        })?;
        let request = CreateSessionKeyRequest {
            tenant: tenant.to_string(),
            class: public::MessageClass::from(class).into(),
            needed_until: Some(to_wire_time(need.until)),
            needed_from: need.from.map(to_wire_time),
            reply_key: Bytes::copy_from_slice(reply.public().as_bytes()),
        };
        let mut client = self.0.client.clone();
        let asked_at = Instant::now();
        let asked = tokio::time::timeout(self.0.timeout, client.create_session_key(request)).await;
        let answer = match asked {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(refused(&status)),
            Err(_) => Err(KeyError::Unavailable),
        };
        self.0.possible.set(answer != Err(KeyError::Unavailable));
        let now = self.now();
        let session = read(answer?, &reply, tenant, class, need.until, now.wall).ok_or_else(|| {
            tracing::error!("privacy's answer is not a session key for what was asked");
            KeyError::Refused
        })?;
        let mut held = lock(&slot.held);
        // What is known of the bucket from before holds for the new key too, which takes the place of the old one.
        let same = held.iter().filter(|held| held.session.dies_at == session.dies_at);
        let after = same.map(|held| held.after).fold(hour_before(need.until), Timestamp::min);
        held.retain(|held| held.seals(now) && held.session.dies_at != session.dies_at);
        if held.len() >= MOST_OF_ONE {
            held.remove(0);
        }
        held.push(Arc::new(Held {
            after,
            fetched: asked_at,
            life: session.seal_until.since(now.wall),
            session: Arc::new(session),
            renewing: AtomicBool::new(false),
        }));
        Ok(())
    }
}

fn newest(slot: &Slot, needed_until: Timestamp, now: Now) -> Option<Arc<Held>> {
    lock(&slot.held).iter().rev().find(|held| held.fits(needed_until, now)).map(Arc::clone)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(status: &Status) -> KeyError {
    match status.code() {
        Code::OutOfRange => {
            let details = status.get_error_details();
            let seconds =
                details.error_info().and_then(|info| info.metadata.get("max_seconds")?.parse().ok());
            KeyError::TooFar { max: seconds.map(Duration::from_secs) }
        }
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Cancelled
        | Code::Aborted
        | Code::Unknown => KeyError::Unavailable,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => {
            tracing::error!(code = ?status.code(), "privacy refuses to make a session key");
            KeyError::Refused
        }
    }
}

/// The key, if it is for what was asked. It comes sealed, so that what libraries keep of the answer opens nothing; from a privacy of
/// the version before in clear, and is wiped there as far as it is ours.
fn read(
    answer: CreateSessionKeyResponse,
    reply: &OpeningKey,
    tenant: &TenantId,
    class: MessageClass,
    needed_until: Timestamp,
    now: Timestamp,
) -> Option<Session> {
    let CreateSessionKeyResponse { wrap, key, seal_until, dies_at, sealed } = answer;
    let key = match sealed {
        Some(sealed) => {
            let keys = reply.open_keys(&sealed.encapsulated_key, &sealed.ciphertext).ok()?;
            Zeroizing::new(*keys.first()?)
        }
        None => {
            let bytes = match key.try_into_mut() {
                Ok(bytes) => Zeroizing::new(Vec::from(bytes)),
                Err(shared) => Zeroizing::new(shared.to_vec()),
            };
            Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?)
        }
    };
    let wrap = KeyWrap::try_from(wrap?).ok()?;
    let seal_until = from_wire_time(seal_until?).min(now.plus(LONGEST));
    let dies_at = from_wire_time(dies_at?);
    let fits = wrap.tenant == *tenant && wrap.class == class && dies_at >= needed_until && seal_until > now;
    fits.then(|| Session {
        sealer: Sealer::new(wrap.key_id, AeadKey::from_bytes(*key), MAX_SEALS),
        wrap: Arc::new(wrap),
        seal_until,
        dies_at,
    })
}

impl KeySource for SessionKeys {
    fn session<'a>(
        &'a self,
        tenant: &'a TenantId,
        class: MessageClass,
        need: Need,
    ) -> BoxFuture<'a, Result<Arc<Session>, KeyError>> {
        Box::pin(self.get(tenant, class, need))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held(needed_until: Timestamp, wall: Timestamp) -> Held {
        let tenant: TenantId = "acme".parse().unwrap();
        let class = MessageClass::Otp;
        let wrap = KeyWrap {
            key_id: [1; 16],
            tenant: tenant.clone(),
            class,
            bucket: "otp/2026-11-24T05".to_owned(),
            wrapped: bytes::Bytes::from_static(&[0; 62]),
        };
        let session = Session {
            sealer: Sealer::new([1; 16], AeadKey::from_bytes([2; 32]), MAX_SEALS),
            wrap: Arc::new(wrap),
            seal_until: wall.plus(LONGEST),
            dies_at: hour_before(needed_until).plus(Duration::from_secs(3600)),
        };
        Held {
            session: Arc::new(session),
            after: hour_before(needed_until),
            fetched: Instant::now(),
            life: LONGEST,
            renewing: AtomicBool::new(false),
        }
    }

    #[tokio::test]
    async fn a_key_ends_by_either_clock() {
        let wall = Timestamp::from_unix_millis(1_795_493_815_007);
        let need = wall.plus(Duration::from_secs(300));
        let (held, steady) = (held(need, wall), Instant::now());
        assert!(held.fits(need, Now { wall, steady }));
        assert!(!held.fits(need, Now { wall: wall.plus(LONGEST), steady }));
        // The wall clock was set back; the key ends all the same.
        let back = wall.minus(Duration::from_secs(7200));
        assert!(held.fits(need, Now { wall: back, steady: steady + LONGEST / 2 }));
        assert!(!held.fits(need, Now { wall: back, steady: steady + LONGEST }));
        assert!(held.is_old(Now { wall: back, steady: steady + LONGEST * 4 / 5 + Duration::from_secs(1) }));
    }

    #[tokio::test]
    async fn falling_validities_of_one_hour_share_a_key() {
        // 04:16:55; needed until 04:50 first, then ever earlier.
        let wall = Timestamp::from_unix_millis(1_795_493_815_007);
        let (first, steady) = (wall.plus(Duration::from_secs(1985)), Instant::now());
        let held = held(first, wall);
        for earlier in 0..1985 {
            let need = first.minus(Duration::from_secs(earlier));
            assert!(held.fits(need, Now { wall, steady }), "{need}");
        }
        assert!(!held.fits(hour_before(first), Now { wall, steady }), "an earlier bucket would do for it");
    }

    proptest! {
        #[test]
        fn no_whole_hour_lies_between_a_need_and_what_fits_with_it(need in 1_i64..4_000_000_000_000) {
            let after = hour_before(Timestamp::from_unix_millis(need)).unix_millis();
            prop_assert!(after < need && need - after <= HOUR_MS);
            prop_assert_eq!(after % HOUR_MS, 0);
        }
    }
}
