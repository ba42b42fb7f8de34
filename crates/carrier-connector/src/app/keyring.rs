//! Unwrapped session keys, for a while: bounded by number and time, wiped when dropped.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sotto_core::{AccountId, TenantId, Timestamp, work::KeyWrap};
use sotto_crypto::AeadKey;
use sotto_metrics::{Counter, Each};

use crate::{
    metrics::KeyFound,
    ports::{Act, Ended, Keys, KeysError, Unwrapped, Witness},
};

/// The most wraps in one question to privacy.
const MOST_WRAPS: usize = 256;

/// How long and how many keys are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepKeys {
    /// At most so many.
    pub(crate) count: usize,
    /// At most so long; privacy's checks are asked again then.
    pub(crate) time: Duration,
}

/// One account's keys. Not shared between accounts: privacy's leave is for one account.
pub(super) struct KeyRing {
    keys: Arc<dyn Keys>,
    witness: Arc<dyn Witness>,
    keep: KeepKeys,
    found: Each<KeyFound, Counter>,
    held: Mutex<HashMap<[u8; 16], Held>>,
}

struct Held {
    key: Arc<AeadKey>,
    until: Timestamp,
    wrap: Arc<KeyWrap>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing").field("keep", &self.keep).finish_non_exhaustive()
    }
}

impl KeyRing {
    pub(super) fn new(
        keys: Arc<dyn Keys>,
        witness: Arc<dyn Witness>,
        keep: KeepKeys,
        found: Each<KeyFound, Counter>,
    ) -> Self {
        Self { keys, witness, keep, found, held: Mutex::default() }
    }

    /// The keys of these wraps, or why there is none. Privacy is asked once for those that are not held.
    pub(super) async fn open(
        &self,
        account: &AccountId,
        wraps: impl IntoIterator<Item = &Arc<KeyWrap>>,
        now: Timestamp,
    ) -> Result<HashMap<[u8; 16], Unwrapped>, KeysError> {
        let mut found = HashMap::new();
        let mut missing: Vec<Arc<KeyWrap>> = Vec::new();
        for wrap in wraps {
            if found.contains_key(&wrap.key_id) || missing.iter().any(|other| other.key_id == wrap.key_id) {
                continue;
            }
            match self.held(&wrap.key_id, now) {
                Some(unwrapped) => {
                    self.found.of(KeyFound::Held).one();
                    found.insert(wrap.key_id, unwrapped);
                }
                None => missing.push(Arc::clone(wrap)),
            }
        }
        for wraps in missing.chunks(MOST_WRAPS) {
            let asked = self.ask(account, wraps).await;
            let answers = asked.inspect_err(|_| self.found.of(KeyFound::Unavailable).add(wraps.len()))?;
            for (wrap, answer) in wraps.iter().zip(answers) {
                self.found.of(KeyFound::from(&answer)).one();
                self.note(account, Arc::clone(wrap), &answer, now);
                found.insert(wrap.key_id, answer);
            }
        }
        Ok(found)
    }

    /// Asks privacy, which counts what it opens: it is announced before, and audit holds one against the other.
    async fn ask(&self, account: &AccountId, wraps: &[Arc<KeyWrap>]) -> Result<Vec<Unwrapped>, KeysError> {
        let mut tenants: BTreeMap<&TenantId, usize> = BTreeMap::new();
        for wrap in wraps {
            *tenants.entry(&wrap.tenant).or_default() += 1;
        }
        for (tenant, keys) in tenants {
            self.witness.announce(account, tenant, keys).await?;
        }
        self.keys.unwrap(account, wraps).await
    }

    /// Forgets keys of destroyed buckets and those whose time is over: their memory is wiped.
    pub(super) fn forget(&self, ended: &Ended, now: Timestamp) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, held| held.until > now && !ended.destroyed.contains(&held.wrap.bucket));
    }

    /// Whether any key is held.
    #[cfg(test)]
    pub(super) fn holds_any(&self) -> bool {
        !self.held.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn held(&self, id: &[u8; 16], now: Timestamp) -> Option<Unwrapped> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.get(id).filter(|held| held.until > now)?;
        Some(Unwrapped::Key { key: Arc::clone(&held.key), dies_at: held.until })
    }

    fn note(&self, account: &AccountId, wrap: Arc<KeyWrap>, answer: &Unwrapped, now: Timestamp) {
        let refused = match answer {
            Unwrapped::Key { key, dies_at } => {
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                held.retain(|_, held| held.until > now);
                if held.len() >= self.keep.count
                    && let Some(oldest) = held.iter().min_by_key(|(_, held)| held.until).map(|(id, _)| *id)
                {
                    held.remove(&oldest);
                }
                let until = now.plus(self.keep.time).min(*dies_at);
                held.insert(wrap.key_id, Held { key: Arc::clone(key), until, wrap });
                return;
            }
            Unwrapped::Destroyed => "destroyed",
            Unwrapped::NotAllowed => "not_allowed",
            Unwrapped::Invalid => "invalid",
        };
        tracing::warn!(%account, tenant = %wrap.tenant, bucket = wrap.bucket, refused, "privacy refused a key");
        self.witness.tell(Act::UnwrapRefused, &format!("{account}/{}", wrap.bucket), refused);
    }
}
