//! Receipts of destructions, signed so that somebody outside can check them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sotto_core::{
    Timestamp,
    deletion::{ACTION, Deletion, KEY_ACTION, Seal},
};
use sotto_keystore::{Destruction, KeystoreError};
use sotto_runtime::telemetry::chain;

use super::{Inner, Keys, TELL_AGAIN};
use crate::{
    error::KeyError,
    ports::{AuditEntry, RECEIPT_RING},
};

/// Characters of a key's id that a receipt names it by.
const SHORT_ID: usize = 8;

impl Keys {
    /// Tells the key that receipts are signed with, and the destructions of the last week once more, with the time they
    /// happened at.
    ///
    /// # Errors
    /// [`KeyError::Keystore`].
    pub async fn tell_again(&self) -> Result<(), KeyError> {
        self.blocking(|inner| {
            inner.tell_receipt_key()?;
            inner.tell_again()
        })
        .await
    }
}

/// On blocking threads: the keystore waits for the disk.
impl Inner {
    /// The public key of receipts, as the `x` of its JWK.
    pub(super) fn receipt_key(&self) -> Result<String, KeyError> {
        let key = self.deps.receipts.current(RECEIPT_RING).map_err(KeyError::Keystore)?;
        let missing = || KeyError::Keystore(KeystoreError::Kind);
        key.public.map(|public| public.jwk_x()).ok_or_else(missing)
    }

    fn tell_receipt_key(&self) -> Result<(), KeyError> {
        let object = self.receipt_key()?;
        self.deps.audit.tell(AuditEntry {
            at: self.deps.clock.now(),
            action: KEY_ACTION,
            actor: "privacy",
            tenant: None,
            object,
            outcome: "ok",
        });
        Ok(())
    }

    fn tell_again(&self) -> Result<(), KeyError> {
        let since = self.deps.clock.now().minus(TELL_AGAIN).unix_millis();
        let destroyed = self.deps.keys.destroyed().map_err(KeyError::Keystore)?;
        for destruction in destroyed.iter().filter(|destruction| destruction.destroyed_at_ms >= since) {
            self.tell_destruction(destruction);
        }
        Ok(())
    }

    /// What cannot be signed now is told without, and once more after a start.
    pub(super) fn tell_destruction(&self, destruction: &Destruction) {
        let at = Timestamp::from_unix_millis(destruction.destroyed_at_ms);
        let deletion = Deletion {
            cell: self.deps.cell.clone(),
            bucket: destruction.bucket.clone(),
            made_at_ms: destruction.created_at_ms,
            destroyed_at_s: at.unix_seconds(),
            wraps_at_most: destruction.wraps_at_most,
            generation: destruction.generation,
        };
        let seal = match self.seal(&deletion) {
            Ok(seal) => Some(seal),
            Err(error) => {
                tracing::error!(
                    bucket = destruction.bucket,
                    error = chain(&error),
                    "the receipt of a destruction is not signed"
                );
                None
            }
        };
        self.deps.audit.tell(AuditEntry {
            at,
            action: ACTION,
            actor: "privacy",
            tenant: deletion.owner().and_then(|owner| owner.parse().ok()),
            object: deletion.object(seal.as_ref()),
            outcome: "ok",
        });
    }

    fn seal(&self, deletion: &Deletion) -> Result<Seal, KeystoreError> {
        let key = self.deps.receipts.current(RECEIPT_RING)?;
        let signature = self.deps.receipts.sign(&key.id, deletion.to_string().as_bytes())?;
        Ok(Seal {
            key_id: key.id.chars().take(SHORT_ID).collect(),
            signature: URL_SAFE_NO_PAD.encode(signature),
        })
    }
}
