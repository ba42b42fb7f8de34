//! A key that privacy lends for minutes: held, fetched anew while the old one may still be used, and forgotten in time.

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sotto_core::{Clock, Timestamp};
use sotto_runtime::Tasks;
use tokio::time::Instant;

use crate::ports::KeyError;

/// No key is used longer than this, whatever privacy says.
const LONGEST: Duration = Duration::from_secs(300);

/// After a key that could not be renewed the next one tries again.
const REST: Duration = Duration::from_secs(5);

/// How far a key is used up, beside its time.
pub(super) trait Wear {
    /// Whether it is of no use any more.
    fn is_spent(&self) -> bool {
        false
    }
    /// Whether it is time for another one.
    fn is_worn(&self) -> bool {
        false
    }
}

/// Where such a key is held.
pub(super) struct Lent<K> {
    held: Mutex<Option<Arc<Held<K>>>>,
    /// One request at a time.
    fetching: tokio::sync::Mutex<()>,
}

impl<K> Default for Lent<K> {
    fn default() -> Self {
        Self { held: Mutex::default(), fetching: tokio::sync::Mutex::default() }
    }
}

/// A held key.
pub(super) struct Held<K> {
    key: K,
    until: Timestamp,
    fetched: Instant,
    life: Duration,
    renewing: AtomicBool,
}

impl<K> Deref for Held<K> {
    type Target = K;
    fn deref(&self) -> &K {
        &self.key
    }
}

impl<K: Wear> Held<K> {
    /// By the wall clock, and by the one that nobody sets.
    fn is_usable(&self, now: Timestamp) -> bool {
        now < self.until && self.fetched.elapsed() < self.life && !self.key.is_spent()
    }

    fn is_old(&self) -> bool {
        self.fetched.elapsed() >= self.life * 4 / 5 || self.key.is_worn()
    }
}

impl<K: Wear + Send + Sync + 'static> Lent<K> {
    /// A key that may be used now. `fetch` asks privacy for one, and until when it may be used; one that is old is renewed while
    /// nobody waits.
    pub(super) async fn get<F, Answer>(
        self: &Arc<Self>,
        clock: &Arc<dyn Clock>,
        tasks: &Tasks,
        fetch: F,
    ) -> Result<Arc<Held<K>>, KeyError>
    where
        F: FnOnce() -> Answer + Send + 'static,
        Answer: Future<Output = Result<(K, Timestamp), KeyError>> + Send,
    {
        if let Some(held) = self.usable(clock.now()) {
            if held.is_old() && !held.renewing.swap(true, Ordering::AcqRel) {
                let (lent, clock, old) = (Arc::clone(self), Arc::clone(clock), Arc::clone(&held));
                tasks.spawn_background("a key of privacy", async move {
                    let fetched = {
                        let _one = lent.fetching.lock().await;
                        lent.fetch(&clock, fetch).await
                    };
                    if fetched.is_err() {
                        // The next message tries again. Nobody waits for this pause.
                        tokio::time::sleep(REST).await;
                        old.renewing.store(false, Ordering::Release);
                    }
                });
            }
            return Ok(held);
        }
        let _one = self.fetching.lock().await;
        match self.usable(clock.now()) {
            Some(held) => Ok(held),
            None => self.fetch(clock, fetch).await,
        }
    }

    /// Forgets a key whose time is over, or whose bucket ended: its memory is wiped. Whether one is left.
    pub(super) fn forget(&self, now: Timestamp, has_ended: impl FnOnce(&K) -> bool) -> bool {
        let mut held = self.lock();
        held.take_if(|held| !held.is_usable(now) || has_ended(&held.key));
        held.is_some()
    }

    fn usable(&self, now: Timestamp) -> Option<Arc<Held<K>>> {
        self.lock().as_ref().filter(|held| held.is_usable(now)).map(Arc::clone)
    }

    async fn fetch<Answer>(
        &self,
        clock: &Arc<dyn Clock>,
        fetch: impl FnOnce() -> Answer,
    ) -> Result<Arc<Held<K>>, KeyError>
    where
        Answer: Future<Output = Result<(K, Timestamp), KeyError>>,
    {
        let fetched = Instant::now();
        let (key, until) = fetch().await?;
        let now = clock.now();
        let until = until.min(now.plus(LONGEST));
        let held =
            Arc::new(Held { key, until, fetched, life: until.since(now), renewing: AtomicBool::new(false) });
        *self.lock() = Some(Arc::clone(&held));
        Ok(held)
    }

    // What the lock guards is whole between statements, so what a panic left behind is sound.
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Held<K>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
