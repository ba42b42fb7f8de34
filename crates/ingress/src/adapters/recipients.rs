//! How many one-time codes a number has got today from all tenants of the cell together: counted in Redis, by what stands for the
//! number on this day alone (docs/adr/0032-codes-a-number-gets.md). Nothing here fails a message that is not above the count.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use sotto_core::{Clock, MessageId, Timestamp, abuse::COUNTED_LABEL, number::E164};
use sotto_crypto::MacKey;
use sotto_runtime::Tasks;
use tokio::time::Instant;

use super::{
    breaker::Breaker,
    store::Store,
    subjects::{AbuseKey, SubjectClient},
};
use crate::{
    domain::pseudonym::pseudonym,
    ports::{Counted, KeyError, Recipients},
};

/// No key is used longer than this, whatever privacy says.
const LONGEST: Duration = Duration::from_secs(300);

/// After a key that could not be had messages are not counted for so long, and then one finds out.
const REST: Duration = Duration::from_secs(5);

/// What counts. Clones share everything.
#[derive(Clone)]
pub struct RecipientCount(Arc<Inner>);

struct Inner {
    store: Store,
    client: SubjectClient,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    most: u32,
    held: Mutex<Option<Arc<Held>>>,
    /// One request at a time.
    fetching: tokio::sync::Mutex<()>,
    breaker: Breaker,
}

struct Held {
    key: MacKey,
    bucket: String,
    use_until: Timestamp,
    dies_at: Timestamp,
    fetched: Instant,
    life: Duration,
    renewing: AtomicBool,
}

impl Held {
    /// By the wall clock, and by the one that nobody sets.
    fn counts(&self, now: Timestamp) -> bool {
        now < self.use_until && self.fetched.elapsed() < self.life
    }

    fn is_old(&self) -> bool {
        self.fetched.elapsed() >= self.life * 4 / 5
    }
}

impl fmt::Debug for RecipientCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecipientCount").field("most", &self.0.most).finish_non_exhaustive()
    }
}

impl RecipientCount {
    /// Counts up to `most` a number and day.
    pub fn new(store: Store, client: SubjectClient, clock: Arc<dyn Clock>, tasks: Tasks, most: u32) -> Self {
        Self(Arc::new(Inner {
            store,
            client,
            clock,
            tasks,
            most,
            held: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            breaker: Breaker::new(REST),
        }))
    }

    /// Forgets a key whose time is over, or whose bucket ended: its memory is wiped.
    pub fn forget(&self, ended: &HashSet<String>) {
        let now = self.0.clock.now();
        lock(&self.0.held).take_if(|held| !held.counts(now) || ended.contains(&held.bucket));
    }

    fn usable(&self) -> Option<Arc<Held>> {
        let now = self.0.clock.now();
        lock(&self.0.held).as_ref().filter(|held| held.counts(now)).map(Arc::clone)
    }

    /// The key of this day; none while privacy gives none.
    async fn held(&self) -> Option<Arc<Held>> {
        if let Some(held) = self.usable() {
            if held.is_old() && !held.renewing.swap(true, Ordering::AcqRel) {
                self.renew(Arc::clone(&held));
            }
            return Some(held);
        }
        let _one = self.0.fetching.lock().await;
        match self.usable() {
            Some(held) => Some(held),
            None => self.fetch().await.ok(),
        }
    }

    /// Fetches the next key while the old one may still be used.
    fn renew(&self, held: Arc<Held>) {
        let count = self.clone();
        self.0.tasks.spawn_background("recipients' key", async move {
            let fetched = {
                let _one = count.0.fetching.lock().await;
                count.fetch().await
            };
            if fetched.is_err() {
                // The next message tries again. Nobody waits for this pause.
                tokio::time::sleep(REST).await;
                held.renewing.store(false, Ordering::Release);
            }
        });
    }

    async fn fetch(&self) -> Result<Arc<Held>, KeyError> {
        let fetched = Instant::now();
        let pass = self.0.breaker.enter(fetched).ok_or(KeyError::Unavailable)?;
        let AbuseKey { key, bucket, use_until, dies_at } = match self.0.client.abuse_key().await {
            Ok(answer) => {
                pass.answered();
                answer
            }
            Err(error) => {
                pass.failed(Instant::now());
                return Err(error);
            }
        };
        let now = self.0.clock.now();
        let use_until = use_until.min(now.plus(LONGEST));
        let held = Arc::new(Held {
            key: MacKey::from_bytes(*key),
            bucket,
            use_until,
            dies_at,
            fetched,
            life: use_until.since(now),
            renewing: AtomicBool::new(false),
        });
        *lock(&self.0.held) = Some(Arc::clone(&held));
        Ok(held)
    }
}

impl Recipients for RecipientCount {
    fn count<'a>(&'a self, number: &'a E164, message: &'a MessageId) -> BoxFuture<'a, Counted> {
        Box::pin(async move {
            let Some(held) = self.held().await else { return Counted::Not };
            // Neither the number nor the message can be told from what Redis holds.
            let number = pseudonym(&held.key, number);
            let message = held.key.keyed_id(COUNTED_LABEL, &[message.as_bytes()]);
            match self.0.store.count(&number, &message, self.0.most, held.dies_at).await {
                Ok(true) => Counted::Within,
                Ok(false) => Counted::Above,
                Err(_) => Counted::Not,
            }
        })
    }
}

// What the lock guards is whole between statements, so what a panic left behind is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
