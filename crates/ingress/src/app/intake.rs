//! From a request to an accepted message.

mod ceiling;
mod refusals;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::{Either, select};
use prost::Message as _;
use refusals::{PAUSE, internal, key_refusal, log_refusal, store_refusal};
use sotto_bus::Heard;
use sotto_core::{
    CellId, Clock, Facts, MessageId, Restored, Shards, TenantId, Timestamp, WorkItem,
    carriers::{Outlook, RouteTable},
    control::{SENDER_LABEL, SenderMark},
    sender::SenderId,
    text::{Count, Encoding},
    work::{Envelope, Need},
};
use sotto_crypto::{
    Zeroizing,
    envelope::{Binding, SealError},
    hash::labelled_id,
    random::random_array,
};
use sotto_keystore::{KeyRole, Keystore, KeystoreError};
use sotto_proto::{WorkDelivery, pipeline::v1::SealedContent};
use sotto_runtime::{Tasks, failpoint};
use tokio::{sync::watch, time::Instant};

use crate::{
    domain::{
        idempotency::{self, Entry, LATE, Tagger, Window},
        journal::Journal,
        request::{self, Asked, Checked, Validities},
        token::Caller,
    },
    error::Refusal,
    metrics::IngressMetrics,
    ports::{Claimed, Claims, Found, Gate, Index, KeySource, Log, Records, Session, StoreError},
};

pub use ceiling::Ceiling;

/// The ring of the keystore that makes ids and content tags.
pub const IDEMPOTENCY_RING: &str = "idempotency";

/// The version of what is sealed (`SealedContent`).
const SCHEMA: u16 = 1;

/// For how long after its making a message without a journal is said to be on its way.
const FRESH: Duration = Duration::from_secs(60);

/// How long a client waits before it tries again what is stopped.
const STOPPED: Duration = Duration::from_secs(30);

/// Everything that intake needs.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The cell.
    pub cell: CellId,
    /// Its shards.
    pub shards: Shards,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Makes ids and content tags of idempotency keys.
    pub keystore: Arc<dyn Keystore>,
    /// Session keys.
    pub keys: Arc<dyn KeySource>,
    /// The log.
    pub log: Arc<dyn Log>,
    /// By what numbers are found again.
    pub index: Arc<dyn Index>,
    /// Uses of idempotency keys.
    pub claims: Arc<dyn Claims>,
    /// Journals.
    pub records: Arc<dyn Records>,
    /// The pace of tenants.
    pub gate: Arc<dyn Gate>,
    /// What a number may get in a day; none: nobody counts.
    pub ceiling: Option<Ceiling>,
    /// What operators hold back.
    pub heard: watch::Receiver<Heard>,
    /// That the cell was put back from a backup.
    pub restored: Option<Restored>,
    /// Where messages go, for those who only ask.
    pub routes: Option<Arc<RouteTable>>,
    /// Validity of each class.
    pub validities: Validities,
    /// What a key must outlive a message's validity by.
    pub margin: Duration,
    /// Where what was begun comes to its end.
    pub tasks: Tasks,
    /// What is counted.
    pub metrics: IngressMetrics,
}

/// What becomes of a message, for all who wait for it.
type Outcome = watch::Receiver<Option<Result<Accepted, Refusal>>>;

/// Takes messages and finds them again. Clones share everything.
#[derive(Clone)]
pub struct Intake(Arc<Inner>);

struct Inner {
    deps: Deps,
    /// Keyed messages that are being accepted here.
    under_way: Mutex<HashMap<MessageId, Outcome>>,
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("cell", &self.0.deps.cell).finish_non_exhaustive()
    }
}

/// What a tenant may know of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its journal.
    Known(Box<Journal>),
    /// It may have been accepted; it is not there yet.
    NotYet,
    /// Nothing.
    Unknown,
}

/// An accepted message, as its client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: MessageId,
    /// How its text will be written.
    pub encoding: Encoding,
    /// Parts.
    pub parts: u8,
    /// Length in units of the encoding.
    pub units: u32,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Whether it had been accepted before.
    pub repeated: bool,
    /// Whether its text was changed on the client's wish.
    pub transliterated: bool,
    /// When it is sent, if that was asked for.
    pub send_at: Option<Timestamp>,
}

/// A message that would be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Valid {
    /// How its text would be written.
    pub count: Count,
    /// When it would expire.
    pub expires_at: Timestamp,
    /// Whether its text would be changed on the client's wish.
    pub transliterated: bool,
    /// When it would be sent, if that was asked for.
    pub send_at: Option<Timestamp>,
    /// Where it would go; none: the routes are not known here.
    pub route: Option<Forecast>,
}

/// Where a message would go; none: it has no route.
pub type Forecast = Option<Outlook>;

/// The identity of a message: a new one, or that of its idempotency key.
enum Identity {
    Fresh {
        id: MessageId,
        keyed: Option<Keyed>,
    },
    /// When it was accepted, and when it expires.
    Repeat {
        id: MessageId,
        times: (Timestamp, Timestamp),
    },
}

/// A claimed idempotency key.
struct Keyed {
    content: [u8; 32],
    until: Timestamp,
}

struct RingKey<'a> {
    keystore: &'a dyn Keystore,
    id: String,
}

impl Tagger for RingKey<'_> {
    type Error = KeystoreError;
    fn tag(&self, label: &str, fields: &[&[u8]]) -> Result<[u8; 32], KeystoreError> {
        self.keystore.mac(&self.id, label, fields)
    }
}

impl Intake {
    /// An intake on these parts.
    pub fn new(deps: Deps) -> Self {
        Self(Arc::new(Inner { deps, under_way: Mutex::default() }))
    }

    /// How long the caller's token is still within its time: a stream may outlive it.
    pub fn valid_for(&self, caller: &Caller) -> Duration {
        caller.ends_at().since(self.0.deps.clock.now())
    }

    /// Accepts a message: when this returns, it is stored (INV-1). From the moment it has an id it comes to its end even
    /// when nobody waits for it any more, and `held` is let go then.
    ///
    /// # Errors
    /// Why it was not accepted, or that it is not known.
    pub async fn send(
        &self,
        caller: &Caller,
        asked: Asked,
        held: impl Send + 'static,
    ) -> Result<Accepted, Refusal> {
        let (class, began) = (asked.class, Instant::now());
        let sent = self.take(caller, asked, held).await;
        self.0.deps.metrics.sent(class, &sent, began.elapsed());
        sent
    }

    async fn take(
        &self,
        caller: &Caller,
        asked: Asked,
        held: impl Send + 'static,
    ) -> Result<Accepted, Refusal> {
        let deps = &self.0.deps;
        // First what costs nobody anything: a request at fault must not use up the pace of those that are not.
        let request =
            request::check(asked, caller, &deps.validities, deps.clock.now()).map_err(Refusal::Invalid)?;
        deps.gate.pass(&caller.tenant).await.map_err(|after| Refusal::TooFast { after })?;
        self.running(caller, &request)?;
        let now = deps.clock.now();
        let times = (now, request.begins(now).plus(request.validity));
        match self.identify(caller, &request, times).await? {
            Identity::Repeat { id, times } => Ok(accepted(id, &request, times, true)),
            Identity::Fresh { id, keyed } => {
                let (mut outcome, joined) = self.begin(caller, request, id, keyed, times, held);
                let outcome = outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
                match outcome {
                    Ok(Some(Ok(accepted))) => Ok(Accepted { repeated: joined, ..accepted }),
                    Ok(Some(Err(refused))) => Err(refused),
                    // The task was dropped at a stop, or panicked.
                    Ok(None) | Err(_) => Err(Refusal::InDoubt),
                }
            }
        }
    }

    /// Tells what [`Self::send`] would say, and does nothing.
    ///
    /// # Errors
    /// Why the message would not be accepted.
    pub async fn validate(&self, caller: &Caller, asked: Asked) -> Result<Valid, Refusal> {
        let deps = &self.0.deps;
        let request =
            request::check(asked, caller, &deps.validities, deps.clock.now()).map_err(Refusal::Invalid)?;
        deps.gate.pass(&caller.tenant).await.map_err(|after| Refusal::TooFast { after })?;
        self.running(caller, &request)?;
        let expires_at = request.begins(deps.clock.now()).plus(request.validity);
        self.session(&caller.tenant, &request, expires_at).await?;
        let route = deps.routes.as_ref().map(|table| {
            let (id, now) = (MessageId::from_keyed_hash([0; 16]), deps.clock.now());
            let facts = facts(caller.tenant.clone(), &request, id, None, (now, expires_at));
            table.outlook(&facts, request.begins(now))
        });
        Ok(Valid {
            route,
            count: request.count,
            expires_at,
            transliterated: request.transliterated,
            send_at: request.send_at,
        })
    }

    /// Whether a message may have been sent in the time that was lost when the cell was put back from a backup.
    pub(crate) fn is_doubted(&self, facts: &Facts) -> bool {
        self.0.deps.restored.is_some_and(|restored| restored.concerns(facts))
    }

    /// Refuses what operators have stopped. What was heard last counts, however old: connectors hold by themselves what may
    /// have been stopped since.
    fn running(&self, caller: &Caller, request: &Checked) -> Result<(), Refusal> {
        let controls = Arc::clone(&self.0.deps.heard.borrow().controls);
        let sender = SenderId::parse(request.from.expose()).map_err(|_| Refusal::Internal)?;
        let mark = SenderMark(labelled_id(SENDER_LABEL, sender.address().as_bytes()));
        if self.0.deps.restored.is_some_and(|restored| controls.released(&restored).is_none()) {
            return Err(Refusal::Unavailable {
                what: "the cell was put back from a backup and is held until an operator releases it",
                after: STOPPED,
            });
        }
        if controls.stop(&caller.tenant, &mark) {
            return Err(Refusal::Unavailable {
                what: "an operator has stopped this traffic",
                after: STOPPED,
            });
        }
        Ok(())
    }

    /// A session key for a message that expires at this time.
    async fn session(
        &self,
        tenant: &TenantId,
        request: &Checked,
        expires_at: Timestamp,
    ) -> Result<Arc<Session>, Refusal> {
        let deps = &self.0.deps;
        let need = Need { from: request.send_at, until: expires_at.plus(deps.margin) };
        let session = deps.keys.session(tenant, request.class, need).await;
        session.map_err(|error| key_refusal(error, request.class, deps))
    }

    /// Begins to accept a message in a task of its own: a client that hangs up must not cut it between the broker's
    /// acknowledgement and the note that its key is used. Returns what becomes of it, and whether that was under way
    /// already.
    fn begin(
        &self,
        caller: &Caller,
        request: Checked,
        id: MessageId,
        keyed: Option<Keyed>,
        times: (Timestamp, Timestamp),
        held: impl Send + 'static,
    ) -> (Outcome, bool) {
        let (tell, outcome) = watch::channel(None);
        if keyed.is_some() {
            let mut under_way = self.under_way();
            if let Some(same) = under_way.get(&id) {
                return (same.clone(), true);
            }
            under_way.insert(id, outcome.clone());
        }
        let guard = UnderWay { intake: self.clone(), id };
        let tenant = caller.tenant.clone();
        let accepting = Box::pin(async move {
            let result = guard.intake.accept(tenant, &request, id, keyed, times).await;
            tell.send_replace(Some(result));
            drop((guard, held));
        });
        self.0.deps.tasks.spawn_background("accept", accepting);
        (outcome, false)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<MessageId, Outcome>> {
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn accept(
        &self,
        tenant: TenantId,
        request: &Checked,
        id: MessageId,
        keyed: Option<Keyed>,
        times: (Timestamp, Timestamp),
    ) -> Result<Accepted, Refusal> {
        let deps = &self.0.deps;
        self.within_ceiling(request, &id).await?;
        let facts = facts(tenant, request, id, keyed.as_ref().map(|keyed| keyed.content), times);
        let delivery = self.seal(&facts, request).await?;
        failpoint("ingress.claimed");
        let shard = deps.shards.of(&id);
        // Together, so that the entry costs no wait of its own; and it is stored before anybody hears of the message. Where that
        // is not accepted nobody waits for its entry.
        let entering = deps.index.enter(shard, &facts, &request.to);
        match select(deps.log.accept(shard, delivery), entering).await {
            Either::Left((stored, entering)) => {
                stored.map_err(log_refusal)?;
                entering.await;
            }
            Either::Right(((), accepting)) => accepting.await.map_err(log_refusal)?,
        }
        failpoint("ingress.stored");
        // Whoever hears "accepted" finds the message; without Redis it is written later.
        deps.records.begin(&facts, keyed.map(|keyed| keyed.until)).await;
        Ok(accepted(id, request, times, false))
    }

    /// The message's id: by its key if it has one, else a new one.
    async fn identify(
        &self,
        caller: &Caller,
        request: &Checked,
        times: (Timestamp, Timestamp),
    ) -> Result<Identity, Refusal> {
        let Some(key) = &request.key else {
            let random = random_array().map_err(|error| internal(&error))?;
            return Ok(Identity::Fresh { id: MessageId::new_v7(times.0, &random), keyed: None });
        };
        let ring = self.ring().map_err(|error| internal(&error))?;
        let Some((current, earlier)) = ring.split_first() else {
            return Err(internal(&KeystoreError::UnknownKey));
        };
        let id_of = |key_of_ring: &RingKey<'_>, window| {
            idempotency::message_id(key_of_ring, &caller.tenant, key, window)
                .map_err(|error| internal(&error))
        };
        let mut window = Window::at(times.0);
        // Twice at most: the window in which the request came may have been closed by a process whose clock is ahead.
        for _ in 0..2 {
            // Earlier uses first: by the previous window, then by the hashing keys before this one.
            let close = window.is_young(times.0).then_some(2 * LATE);
            let mut before = vec![(current, window.previous(), close)];
            before
                .extend(earlier.iter().flat_map(|old| [(old, window, None), (old, window.previous(), None)]));
            for (ring_key, window, close) in before {
                let id = id_of(ring_key, window)?;
                if let Claimed::Used(entry) =
                    self.0.deps.claims.look(&id, close).await.map_err(store_refusal)?
                {
                    let content = content(ring_key, request)?;
                    return self.judge(id, entry, content, window).await;
                }
            }
            let id = id_of(current, window)?;
            let content = content(current, request)?;
            // A key is not used up for what cannot be sealed, but a repeat is told what the first was told, also while
            // privacy is away.
            if let Err(refused) = self.session(&caller.tenant, request, times.1).await {
                let used = self.0.deps.claims.look(&id, None).await.map_err(store_refusal)?;
                let Claimed::Used(entry) = used else { return Err(refused) };
                return self.judge(id, entry, content, window).await;
            }
            let entry = Entry {
                stored: false,
                content,
                accepted_at: times.0,
                expires_at: times.1,
                tenant: caller.tenant.clone(),
            };
            let until = window.remembered_until();
            match self.0.deps.claims.claim(&id, entry, until).await.map_err(store_refusal)? {
                Claimed::Free => return Ok(Identity::Fresh { id, keyed: Some(Keyed { content, until }) }),
                Claimed::Used(entry) => return self.judge(id, entry, content, window).await,
                Claimed::Moved => window = window.next(),
            }
        }
        Err(Refusal::Unavailable { what: "the clocks of this cell are too far apart", after: PAUSE })
    }

    /// What an earlier use of a key means: a repeat if it is stored; published again under the same id if it may not be;
    /// an error if it was for another content.
    async fn judge(
        &self,
        id: MessageId,
        entry: Entry,
        content: [u8; 32],
        window: Window,
    ) -> Result<Identity, Refusal> {
        if entry.content != content {
            return Err(Refusal::KeyReused);
        }
        let times = (entry.accepted_at, entry.expires_at);
        if entry.stored {
            return Ok(Identity::Repeat { id, times });
        }
        // Whoever claimed it may have died between the broker's acknowledgement and its note of it. The log knows.
        let found = self.0.deps.records.find(&id).await.map_err(store_refusal)?;
        if let Some(journal) = found.journal {
            let facts = journal.delivery().map(sotto_core::delivery::Delivery::facts);
            let times = facts.map_or(times, |facts| (facts.accepted_at, facts.expires_at));
            return Ok(Identity::Repeat { id, times });
        }
        if !found.whole {
            return Err(store_refusal(StoreError::Rebuilding));
        }
        Ok(Identity::Fresh { id, keyed: Some(Keyed { content, until: window.remembered_until() }) })
    }

    /// The keys of the ring: the current one, then the others. The next one is among them, because a process that opened
    /// the keystore after a rotation uses it already.
    fn ring(&self) -> Result<Vec<RingKey<'_>>, KeystoreError> {
        let keystore = self.0.deps.keystore.as_ref();
        let mut keys = keystore.keys(IDEMPOTENCY_RING)?;
        keys.sort_by_key(|key| key.role != KeyRole::Current);
        if keys.first().is_none_or(|key| key.role != KeyRole::Current) {
            return Err(KeystoreError::UnknownKey);
        }
        Ok(keys.into_iter().map(|key| RingKey { keystore, id: key.id }).collect())
    }

    async fn seal(&self, facts: &Facts, request: &Checked) -> Result<WorkDelivery, Refusal> {
        let deps = &self.0.deps;
        let content = SealedContent {
            to: request.to.digits().to_owned(),
            from: request.from.expose().clone(),
            text: request.text.expose().clone(),
        };
        let plaintext = Zeroizing::new(content.encode_to_vec());
        wipe(content);
        let binding = Binding {
            cell: deps.cell.as_str(),
            tenant: facts.tenant.as_str(),
            class: facts.class.name(),
            message_id: facts.message.as_bytes(),
            schema: SCHEMA,
        };
        // A key may be used up between its choice and its use; the next one is fresh.
        for _ in 0..3 {
            let session = self.session(&facts.tenant, request, facts.expires_at).await?;
            match session.sealer.seal(&binding, &plaintext) {
                Ok(envelope) => {
                    let envelope = Envelope(envelope.into());
                    let item =
                        WorkItem { not_before: facts.send_at, ..WorkItem::accepted(facts.clone(), envelope) };
                    return Ok(WorkDelivery { item, wrap: Arc::clone(&session.wrap) });
                }
                Err(SealError::Exhausted) => {}
                Err(error @ SealError::Crypto(_)) => return Err(internal(&error)),
            }
        }
        Err(Refusal::Unavailable { what: "no session key can be had", after: PAUSE })
    }

    /// Finds a message of the caller's tenant; messages of others are not there.
    ///
    /// # Errors
    /// When what Redis knows cannot be used.
    pub async fn find(&self, caller: &Caller, id: &MessageId) -> Result<Seen, StoreError> {
        let found = self.0.deps.records.find(id).await?;
        Ok(seen(found, &caller.tenant, id, self.0.deps.clock.now()))
    }
}

/// What a tenant may know of what was found. Nothing in it tells another tenant that a message exists.
fn seen(found: Found, tenant: &TenantId, id: &MessageId, now: Timestamp) -> Seen {
    let Found { journal, entry, whole } = found;
    // In the last minute, or by a clock a little ahead of ours.
    let just_now = |at: Timestamp| now.since(at) < FRESH && at.since(now) < FRESH;
    if let Some(journal) = journal
        && let Some(delivery) = journal.delivery()
    {
        return if delivery.facts().tenant == *tenant { Seen::Known(journal) } else { Seen::Unknown };
    }
    let own_claim = entry.is_some_and(|entry| entry.tenant == *tenant && just_now(entry.accepted_at));
    if !whole || own_claim || id.made_at().is_some_and(just_now) { Seen::NotYet } else { Seen::Unknown }
}

/// Lets go of a message under way, also when its task is dropped or panics.
struct UnderWay {
    intake: Intake,
    id: MessageId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.intake.under_way().remove(&self.id);
    }
}

fn accepted(
    id: MessageId,
    request: &Checked,
    (accepted_at, expires_at): (Timestamp, Timestamp),
    repeated: bool,
) -> Accepted {
    let count = &request.count;
    let (encoding, parts, units) = (count.encoding, count.parts, count.units);
    let (transliterated, send_at) = (request.transliterated, request.send_at);
    Accepted { id, encoding, parts, units, accepted_at, expires_at, repeated, transliterated, send_at }
}

fn facts(
    tenant: TenantId,
    request: &Checked,
    message: MessageId,
    content_mac: Option<[u8; 32]>,
    (accepted_at, expires_at): (Timestamp, Timestamp),
) -> Facts {
    Facts {
        message,
        tenant,
        class: request.class,
        country: request.to.country(),
        operator_range: request.to.operator_range(),
        encoding: request.count.encoding,
        parts: request.count.parts,
        units: request.count.units,
        accepted_at,
        expires_at,
        content_mac,
        send_at: request.send_at,
    }
}

fn content(ring_key: &RingKey<'_>, request: &Checked) -> Result<[u8; 32], Refusal> {
    idempotency::content_tag(ring_key, request).map_err(|error| internal(&error))
}

fn wipe(content: SealedContent) {
    let SealedContent { to, from, text } = content;
    for part in [to, from, text] {
        drop(Zeroizing::new(part));
    }
}
