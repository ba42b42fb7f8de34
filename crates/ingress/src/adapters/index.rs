//! Index entries: made with keys from privacy, sealed, stored on the broker beside the message they speak of.
//!
//! Nothing here fails a message. What cannot be indexed is counted, and told when it begins and when it is over.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use sotto_bus::{Bus, PublishError, Publisher, PublisherConfig, Subject, topology};
use sotto_core::{
    Clock, Facts, ShardId, TenantId,
    index::{CLASS, IndexEntry, IndexKey, Indexed},
    number::E164,
};
use sotto_crypto::{
    AeadKey, MacKey,
    envelope::{Binding, MAX_SEALS, Sealer},
};
use sotto_proto::{IndexDelivery, pipeline::v1::IndexBatch};
use sotto_runtime::{Condition, Tasks, telemetry::chain};
use tokio::time::{Instant, timeout_at};

use crate::{
    adapters::{
        audit::{AuditTrail, Category},
        breaker::Breaker,
        lent::{Held, Lent, Wear},
        subjects::{IndexKeys, SubjectClient},
    },
    domain::pseudonym::pseudonym,
    ports::{Index, KeyError},
};

/// The stream, as the list writes it.
const STREAM: &str = "INDEX";

/// The version of what is sealed ([`Indexed`]).
const SCHEMA: u16 = 1;

/// A message waits for its entry no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// After an entry that was not stored, messages go without for so long, and then one finds out.
const REST: Duration = Duration::from_secs(5);

/// How often a stream that is missing is looked for.
const LOOK: Duration = Duration::from_secs(30);

/// The index of the cell. Clones share everything.
#[derive(Clone)]
pub struct NumberIndex(Arc<Inner>);

struct Inner {
    cell: String,
    bus: Bus,
    entries: Publisher<IndexBatch>,
    client: SubjectClient,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    audit: AuditTrail,
    whole: Condition,
    /// Whether the cell has the stream.
    there: AtomicBool,
    breaker: Breaker,
    gap: Mutex<Option<Gap>>,
    keys: Mutex<HashMap<TenantId, Arc<Lent<TenantKeys>>>>,
}

impl fmt::Debug for NumberIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NumberIndex").finish_non_exhaustive()
    }
}

/// Messages that have no entry, since the last one that has.
#[derive(Debug, Default)]
struct Gap {
    messages: u64,
}

/// The keys of one tenant.
struct TenantKeys {
    key: Arc<IndexKey>,
    sealer: Sealer,
    pseudonyms: MacKey,
}

impl Wear for TenantKeys {
    fn is_spent(&self) -> bool {
        self.sealer.remaining() == 0
    }

    fn is_worn(&self) -> bool {
        self.sealer.remaining() < MAX_SEALS / 5
    }
}

/// Why a message has no entry.
#[derive(Debug, thiserror::Error)]
enum Without {
    #[error("privacy gives no keys for the index")]
    NoKey(#[source] KeyError),
    #[error("the broker does not store the entry")]
    NotStored(#[source] PublishError),
    #[error("the broker does not answer in time")]
    Late,
    #[error("the entry cannot be sealed")]
    NotSealed(#[source] sotto_crypto::envelope::SealError),
}

impl Without {
    /// The outcome in the audit log.
    const fn name(&self) -> &'static str {
        match self {
            Self::NoKey(_) => "no_key",
            Self::NotStored(PublishError::Full { .. }) => "full",
            Self::NotStored(_) | Self::Late => "not_stored",
            Self::NotSealed(_) => "failed",
        }
    }
}

/// What the index is made of.
#[derive(Debug)]
pub struct Parts {
    /// The cell.
    pub cell: String,
    /// The broker.
    pub bus: Bus,
    /// Privacy.
    pub client: SubjectClient,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where keys are renewed.
    pub tasks: Tasks,
    /// Where gaps are told.
    pub audit: AuditTrail,
    /// Whether every message gets its entry.
    pub whole: Condition,
}

impl NumberIndex {
    /// An index on these parts. Until [`Self::look_for_stream`] has found the stream, nothing is entered.
    pub fn new(parts: Parts) -> Self {
        let Parts { cell, bus, client, clock, tasks, audit, whole } = parts;
        let config = PublisherConfig { deadline: PATIENCE, attempt: PATIENCE, ..PublisherConfig::default() };
        Self(Arc::new(Inner {
            cell,
            entries: Publisher::new(&bus, config),
            bus,
            client,
            clock,
            tasks,
            audit,
            whole,
            there: AtomicBool::new(false),
            breaker: Breaker::new(REST),
            gap: Mutex::default(),
            keys: Mutex::default(),
        }))
    }

    /// Returns when the cell has the stream: one that was made before the index was has it after `sotto provision`.
    pub async fn look_for_stream(&self) {
        let mut told = false;
        loop {
            match topology::is_there(&self.0.bus, STREAM).await {
                Ok(true) => break,
                Ok(false) if !told => {
                    tracing::warn!(
                        "the cell has no index: numbers are not found again until sotto provision"
                    );
                    self.tell("index.interrupted", 0, "missing");
                    told = true;
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(error = chain(&error), "the index is looked for again"),
            }
            tokio::time::sleep(LOOK).await;
        }
        self.0.there.store(true, Ordering::Release);
        self.0.whole.set(true);
        if told {
            self.tell("index.resumed", 0, "ok");
        }
    }

    /// Forgets keys whose time is over, and those of buckets that ended.
    pub fn forget(&self, ended: &HashSet<String>) {
        let now = self.0.clock.now();
        lock(&self.0.keys).retain(|_, keys| {
            let left = keys.forget(now, |held| ended.contains(&held.key.bucket));
            left || Arc::strong_count(keys) > 1
        });
    }

    async fn try_enter(&self, shard: ShardId, facts: &Facts, number: &E164) -> Result<(), Without> {
        let held = self.held(&facts.tenant).await.map_err(Without::NoKey)?;
        let indexed = Indexed::new(pseudonym(&held.pseudonyms, number), facts.accepted_at);
        let binding = Binding {
            cell: &self.0.cell,
            tenant: facts.tenant.as_str(),
            class: CLASS,
            message_id: facts.message.as_bytes(),
            schema: SCHEMA,
        };
        let envelope = held.sealer.seal(&binding, &indexed.to_bytes()).map_err(Without::NotSealed)?;
        let entry = IndexEntry::new(facts.message, envelope);
        let delivery = IndexDelivery { entry, key: Arc::clone(&held.key) };
        let stored = self.0.entries.publish(&Subject::Index(shard), delivery).await;
        stored.map(drop).map_err(Without::NotStored)
    }

    /// Keys that seal now.
    async fn held(&self, tenant: &TenantId) -> Result<Arc<Held<TenantKeys>>, KeyError> {
        let keys = Arc::clone(lock(&self.0.keys).entry(tenant.clone()).or_default());
        let (client, tenant) = (self.0.client.clone(), tenant.clone());
        let fetch = || async move {
            let IndexKeys { key, sealing, pseudonyms, seal_until } = client.index_keys(&tenant).await?;
            let sealer = Sealer::new(key.key_id, AeadKey::from_bytes(*sealing), MAX_SEALS);
            let pseudonyms = MacKey::from_bytes(*pseudonyms);
            Ok((TenantKeys { key: Arc::new(key), sealer, pseudonyms }, seal_until))
        };
        keys.get(&self.0.clock, &self.0.tasks, fetch).await
    }

    /// A message has no entry; why, if that was just found out.
    fn without(&self, why: Option<&Without>) {
        let mut gap = lock(&self.0.gap);
        let begins = gap.is_none();
        gap.get_or_insert_default().messages += 1;
        drop(gap);
        if let Some(why) = why.filter(|_| begins) {
            tracing::warn!(
                error = chain(why),
                "messages are accepted that will not be found by their numbers"
            );
            self.0.whole.set(false);
            self.tell("index.interrupted", 0, why.name());
        }
    }

    /// A message has its entry.
    fn entered(&self) {
        if let Some(gap) = lock(&self.0.gap).take() {
            tracing::info!(messages = gap.messages, "messages are found by their numbers again");
            self.0.whole.set(true);
            self.tell("index.resumed", gap.messages, "ok");
        }
    }

    fn tell(&self, action: &'static str, messages: u64, outcome: &'static str) {
        let object = format!("messages={messages}");
        self.0.audit.tell(Category::Payload, action, "", None, object, outcome);
    }
}

impl Index for NumberIndex {
    fn enter<'a>(&'a self, shard: ShardId, facts: &'a Facts, number: &'a E164) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let begun = Instant::now();
            if !self.0.there.load(Ordering::Acquire) {
                return;
            }
            let Some(pass) = self.0.breaker.enter(begun) else {
                return self.without(None);
            };
            let entered = timeout_at(begun + PATIENCE, self.try_enter(shard, facts, number)).await;
            match entered.unwrap_or(Err(Without::Late)) {
                Ok(()) => {
                    pass.answered();
                    self.entered();
                }
                Err(why) => {
                    pass.failed(Instant::now());
                    self.without(Some(&why));
                }
            }
        })
    }
}

// What the locks guard is whole between statements, so what a panic left behind is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
