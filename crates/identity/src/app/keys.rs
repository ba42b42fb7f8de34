//! The signing keys: made, published, used and forgotten in time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sotto_core::Timestamp;
use sotto_crypto::sign::PublicKey;
use sotto_keystore::{KeyInfo, KeyKind, KeyRole, Keystore, KeystoreError};

use crate::{
    domain::{
        AccessClaims, access, jws,
        rotation::{OutOfUse, Schedule, Step, next_step},
    },
    error::KeysError,
    ports::{Act, AuditTrail, Category},
};

/// The keystore's ring of signing keys.
pub const TOKEN_RING: &str = "token";

/// The signing keys of this process. Clones share them.
#[derive(Clone, Debug)]
pub struct TokenKeys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    keystore: Arc<dyn Keystore>,
    audit: Arc<dyn AuditTrail>,
    schedule: Schedule,
    known: Mutex<Vec<KeyInfo>>,
    out_of_use: Mutex<OutOfUse>,
}

impl TokenKeys {
    /// No keys yet: [`TokenKeys::rotate`] finds or makes them.
    pub fn new(keystore: Arc<dyn Keystore>, audit: Arc<dyn AuditTrail>, schedule: Schedule) -> Self {
        let (known, out_of_use) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { keystore, audit, schedule, known, out_of_use }))
    }

    /// Does what the schedule asks for by now.
    ///
    /// # Errors
    /// When the keystore fails; the keys known before stay in use.
    pub async fn rotate(&self, now: Timestamp) -> Result<(), KeysError> {
        let keys = self.clone();
        let done = tokio::task::spawn_blocking(move || keys.0.rotate(now)).await;
        done.map_err(KeysError::Blocking)?.map_err(KeysError::Keystore)
    }

    /// Whether a restart would find the keys.
    ///
    /// # Errors
    /// When their file is lost, altered or older than it was.
    pub async fn check_file(self) -> Result<(), KeysError> {
        let checked = tokio::task::spawn_blocking(move || self.0.keystore.check_file()).await;
        checked.map_err(KeysError::Blocking)?.map_err(KeysError::Keystore)
    }

    /// Every key whose tokens count, for the published set: the next, the current, those out of use.
    pub fn published(&self) -> Vec<PublicKey> {
        lock(&self.0.known).iter().filter_map(|key| key.public).collect()
    }

    /// Signs a token.
    ///
    /// # Errors
    /// When there is no key or the keystore fails.
    pub async fn sign(&self, claims: &AccessClaims) -> Result<String, KeysError> {
        let key_id = {
            let known = lock(&self.0.known);
            let current = known.iter().find(|key| key.role == KeyRole::Current);
            current.ok_or(KeysError::NoKey)?.id.clone()
        };
        let input = jws::signing_input(access::TYP, &key_id, claims).map_err(KeysError::Claims)?;
        super::blocking(&self.0.keystore, KeysError::Blocking, KeysError::Keystore, move |keystore| {
            let signature = keystore.sign(&key_id, input.as_bytes())?;
            Ok(jws::assemble(&input, &signature))
        })
        .await
    }
}

impl Inner {
    fn rotate(&self, now: Timestamp) -> Result<(), KeystoreError> {
        // Also when nothing is due: a token that is away signs nothing.
        self.keystore.check()?;
        let mut out_of_use = lock(&self.out_of_use);
        loop {
            let keys = self.keystore.keys(TOKEN_RING)?;
            out_of_use.observe(&keys, now);
            let step = next_step(&keys, &out_of_use, &self.schedule, now);
            *lock(&self.known) = keys;
            let (action, object) = match step {
                None => return Ok(()),
                Some(Step::Generate) => {
                    let made = self.keystore.generate(TOKEN_RING, KeyKind::Ed25519, now.unix_millis())?;
                    ("key.generated", made.id)
                }
                Some(Step::Promote) => ("key.promoted", self.keystore.promote(TOKEN_RING)?.id),
                Some(Step::Retire(id)) => {
                    self.keystore.retire(&id)?;
                    ("key.retired", id)
                }
            };
            tracing::info!(action, key = object, "the signing keys changed");
            let act =
                Act { category: Category::Keys, action, actor: None, tenant: None, object, outcome: "ok" };
            self.audit.tell(act, now);
        }
    }
}

// Both are only ever replaced whole, so what is behind a panic is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
