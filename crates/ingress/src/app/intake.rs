//! From a request to an accepted message.

use std::{fmt, sync::Arc, time::Duration};

use prost::Message as _;
use sotto_core::{
    CellId, Classified as _, Clock, Facts, MessageId, Shards, Timestamp, WorkItem, text::Encoding,
    work::Envelope,
};
use sotto_crypto::{
    Zeroizing,
    envelope::{Binding, SealError},
    random::random_array,
};
use sotto_keystore::{KeyRole, Keystore, KeystoreError};
use sotto_proto::{WorkDelivery, pipeline::v1::SealedContent};
use sotto_runtime::telemetry::chain;

use crate::{
    domain::{
        idempotency::{self, Entry, LATE, Tagger, Window},
        request::{self, Asked, Checked, Validities},
        token::Caller,
    },
    error::Refusal,
    ports::{Claimed, Claims, Found, Gate, KeyError, KeySource, Log, LogError, Records, StoreError},
};

/// The ring of the keystore that makes ids and content tags.
pub const IDEMPOTENCY_RING: &str = "idempotency";

/// The version of what is sealed (`SealedContent`).
const SCHEMA: u16 = 1;

/// For how long after its making a message without a journal is said to be on its way.
const FRESH: Duration = Duration::from_secs(60);

/// How long a client waits before it asks again while something of ours is away.
const PAUSE: Duration = Duration::from_secs(1);

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
    /// Uses of idempotency keys.
    pub claims: Arc<dyn Claims>,
    /// Journals.
    pub records: Arc<dyn Records>,
    /// The pace of tenants.
    pub gate: Arc<dyn Gate>,
    /// Validity of each class.
    pub validities: Validities,
    /// What a key must outlive a message's validity by.
    pub margin: Duration,
}

/// Takes messages and finds them again.
#[derive(Clone)]
pub struct Intake(Arc<Deps>);

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("cell", &self.0.cell).finish_non_exhaustive()
    }
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
}

/// The identity of a message: a new one, or that of its idempotency key.
enum Identity {
    Fresh { id: MessageId, keyed: Option<Keyed> },
    Repeat { id: MessageId, entry: Entry },
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
        Self(Arc::new(deps))
    }

    /// Whether the caller's token is still within its time: a stream may outlive it.
    pub fn is_valid(&self, caller: &Caller) -> bool {
        caller.is_valid_at(self.0.clock.now())
    }

    /// Accepts a message: when this returns, it is stored (INV-1).
    ///
    /// # Errors
    /// Why it was not accepted, or that it is not known.
    pub async fn send(&self, caller: &Caller, asked: Asked) -> Result<Accepted, Refusal> {
        let deps = &self.0;
        deps.gate.pass(&caller.tenant).await.map_err(|after| Refusal::TooFast { after })?;
        let request = request::check(asked, caller, &deps.validities).map_err(Refusal::Invalid)?;
        let now = deps.clock.now();
        let times = (now, now.plus(request.validity));
        match self.identify(caller, &request, times).await? {
            Identity::Repeat { id, entry } => {
                Ok(accepted(id, &request, (entry.accepted_at, entry.expires_at), true))
            }
            Identity::Fresh { id, keyed } => self.accept(caller, &request, id, keyed, times).await,
        }
    }

    async fn accept(
        &self,
        caller: &Caller,
        request: &Checked,
        id: MessageId,
        keyed: Option<Keyed>,
        times: (Timestamp, Timestamp),
    ) -> Result<Accepted, Refusal> {
        let deps = &self.0;
        let facts = Facts {
            message: id,
            tenant: caller.tenant.clone(),
            class: request.class,
            country: request.to.country(),
            operator_range: request.to.operator_range(),
            encoding: request.count.encoding,
            parts: request.count.parts,
            units: request.count.units,
            accepted_at: times.0,
            expires_at: times.1,
            content_mac: keyed.as_ref().map(|keyed| keyed.content),
        };
        let delivery = self.seal(&facts, request).await?;
        deps.log.accept(deps.shards.of(&id), delivery).await.map_err(log_refusal)?;
        let settle = async {
            if let Some(keyed) = &keyed {
                let entry =
                    Entry { stored: true, content: keyed.content, accepted_at: times.0, expires_at: times.1 };
                deps.claims.settle(&id, entry, keyed.until).await;
            }
        };
        // Whoever hears "accepted" finds the message; without Redis the rebuild brings it back.
        tokio::join!(settle, deps.records.begin(&facts));
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
                if let Claimed::Used(entry) = self.0.claims.look(&id, close).await.map_err(store_refusal)? {
                    let content = content(ring_key, request)?;
                    return judge(id, entry, content, window);
                }
            }
            let id = id_of(current, window)?;
            let content = content(current, request)?;
            let entry = Entry { stored: false, content, accepted_at: times.0, expires_at: times.1 };
            let until = window.remembered_until();
            match self.0.claims.claim(&id, entry, until).await.map_err(store_refusal)? {
                Claimed::Free => return Ok(Identity::Fresh { id, keyed: Some(Keyed { content, until }) }),
                Claimed::Used(entry) => return judge(id, entry, content, window),
                Claimed::Moved => window = window.next(),
            }
        }
        Err(Refusal::Unavailable { what: "the clocks of this cell are too far apart", after: PAUSE })
    }

    /// The keys of the ring: the current one, then those before it.
    fn ring(&self) -> Result<Vec<RingKey<'_>>, KeystoreError> {
        let keystore = self.0.keystore.as_ref();
        let keys = keystore.keys(IDEMPOTENCY_RING)?;
        let honoured = keys.into_iter().filter(|key| key.role != KeyRole::Next);
        Ok(honoured.map(|key| RingKey { keystore, id: key.id }).collect())
    }

    async fn seal(&self, facts: &Facts, request: &Checked) -> Result<WorkDelivery, Refusal> {
        let deps = &self.0;
        let needed_until = facts.expires_at.plus(deps.margin);
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
            let session = deps.keys.session(&facts.tenant, facts.class, needed_until).await;
            let session = session.map_err(|error| key_refusal(error, facts, deps))?;
            match session.sealer.seal(&binding, &plaintext) {
                Ok(envelope) => {
                    let item = WorkItem::accepted(facts.clone(), Envelope(envelope.into()));
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
    pub async fn find(&self, caller: &Caller, id: &MessageId) -> Result<Found, StoreError> {
        let found = self.0.records.find(id).await?;
        let fresh = || {
            let now = self.0.clock.now();
            // Made in the last minute, or by a clock a little ahead of ours.
            id.made_at().is_some_and(|made| now.since(made) < FRESH && made.since(now) < FRESH)
        };
        match found {
            Found::Known(journal) => {
                let own = journal.delivery().map(|delivery| delivery.facts().tenant == caller.tenant);
                match own {
                    Some(true) => Ok(Found::Known(journal)),
                    Some(false) => Ok(Found::Unknown),
                    // Events came before the acceptance: it will come.
                    None => Ok(Found::NotYet),
                }
            }
            Found::NotYet => Ok(Found::NotYet),
            Found::Unknown if fresh() => Ok(Found::NotYet),
            Found::Unknown => Ok(Found::Unknown),
        }
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
    Accepted { id, encoding, parts, units, accepted_at, expires_at, repeated }
}

fn content(ring_key: &RingKey<'_>, request: &Checked) -> Result<[u8; 32], Refusal> {
    idempotency::content_tag(ring_key, request).map_err(|error| internal(&error))
}

/// What an earlier use of a key means: a repeat if it is stored; published again under the same id if it may not be;
/// an error if it was for another content.
fn judge(id: MessageId, entry: Entry, content: [u8; 32], window: Window) -> Result<Identity, Refusal> {
    if entry.content != content {
        Err(Refusal::KeyReused)
    } else if entry.stored {
        Ok(Identity::Repeat { id, entry })
    } else {
        Ok(Identity::Fresh { id, keyed: Some(Keyed { content, until: window.remembered_until() }) })
    }
}

fn wipe(content: SealedContent) {
    let SealedContent { to, from, text } = content;
    for part in [to, from, text] {
        drop(Zeroizing::new(part));
    }
}

fn internal(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error = chain(error), "a message could not be accepted");
    Refusal::Internal
}

fn store_refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::Rebuilding => {
            Refusal::Unavailable { what: "the memory of idempotency keys is being rebuilt", after: PAUSE }
        }
        StoreError::Down => {
            Refusal::Unavailable { what: "the memory of idempotency keys is away", after: PAUSE }
        }
        StoreError::Refused => internal(&error),
    }
}

fn log_refusal(error: LogError) -> Refusal {
    match error {
        LogError::Unavailable { after } => Refusal::Unavailable { what: "the log takes nothing now", after },
        LogError::InDoubt => Refusal::InDoubt,
        LogError::Refused => Refusal::Internal,
    }
}

fn key_refusal(error: KeyError, facts: &Facts, deps: &Deps) -> Refusal {
    match error {
        KeyError::TooFar { max } => {
            let longest =
                max.map_or(deps.validities.of(facts.class).max, |max| max.saturating_sub(deps.margin));
            Refusal::Invalid(vec![request::validity_too_long(longest)])
        }
        KeyError::Unavailable => Refusal::Unavailable { what: "no session key can be had", after: PAUSE },
        KeyError::Refused => {
            tracing::error!(class = ?error.class(), "privacy makes no session keys for this service");
            Refusal::Internal
        }
    }
}
