//! Checkpoints signed by the keystore's slot `audit`.

use std::sync::Arc;

use sotto_core::Clock;
use sotto_keystore::{KeyInfo, KeyKind, Keystore, KeystoreError};
use sotto_tlog::VerifierKey;

use crate::{error::SignerError, ports::Signer};

/// The ring that holds the log's keys.
pub const KEY_LABEL: &str = "checkpoint";

/// The ring whose one key says that a log was begun; nothing is made with it.
const BEGUN_LABEL: &str = "begun";

/// Signs by the current key of the ring `checkpoint`.
#[derive(Debug)]
pub struct KeystoreSigner {
    keystore: Arc<dyn Keystore>,
    origin: String,
    clock: Arc<dyn Clock>,
}

impl KeystoreSigner {
    /// Signs for the log of this origin. Makes the key if the ring is empty; a log that exists then refuses to open,
    /// for no key of its own is left.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn new(
        keystore: Arc<dyn Keystore>,
        origin: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SignerError> {
        match keystore.current(KEY_LABEL) {
            Ok(_) => {}
            Err(KeystoreError::UnknownKey) => {
                keystore
                    .generate(KEY_LABEL, KeyKind::Ed25519, clock.now().unix_millis())
                    .map_err(SignerError::Keystore)?;
            }
            Err(error) => return Err(SignerError::Keystore(error)),
        }
        let signer = Self { keystore, origin: origin.to_owned(), clock };
        signer.current()?;
        Ok(signer)
    }

    fn verifier(&self, key: &KeyInfo) -> Result<VerifierKey, SignerError> {
        let public = key.public.ok_or(SignerError::Kind)?;
        VerifierKey::new(&self.origin, public).map_err(SignerError::Name)
    }
}

impl Signer for KeystoreSigner {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn current(&self) -> Result<VerifierKey, SignerError> {
        self.verifier(&self.keystore.current(KEY_LABEL).map_err(SignerError::Keystore)?)
    }

    fn accepted(&self) -> Result<Vec<VerifierKey>, SignerError> {
        let keys = self.keystore.keys(KEY_LABEL).map_err(SignerError::Keystore)?;
        keys.iter().map(|key| self.verifier(key)).collect()
    }

    fn has_begun(&self) -> Result<bool, SignerError> {
        let keys = self.keystore.keys(BEGUN_LABEL).map_err(SignerError::Keystore)?;
        Ok(!keys.is_empty())
    }

    fn note_begun(&self) -> Result<(), SignerError> {
        let now = self.clock.now().unix_millis();
        self.keystore.generate(BEGUN_LABEL, KeyKind::HmacSha256, now).map_err(SignerError::Keystore)?;
        Ok(())
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, SignerError> {
        let key = self.keystore.current(KEY_LABEL).map_err(SignerError::Keystore)?;
        let signature = self.keystore.sign(&key.id, text).map_err(SignerError::Keystore)?;
        Ok(signature.to_vec())
    }
}
