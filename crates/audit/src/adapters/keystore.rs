//! Checkpoints signed by the keystore's slot `audit`.

use std::sync::Arc;

use sotto_core::Clock;
use sotto_keystore::{KeyInfo, KeyKind, Keystore, KeystoreError};
use sotto_tlog::VerifierKey;

use crate::{error::SignerError, ports::Signer};

/// The ring that holds the log's keys.
pub const KEY_LABEL: &str = "checkpoint";

/// Signs by the current key of the ring `checkpoint`.
#[derive(Debug)]
pub struct KeystoreSigner {
    keystore: Arc<dyn Keystore>,
    origin: String,
}

impl KeystoreSigner {
    /// Signs for the log of this origin. Makes the key if the ring is empty; a log that exists then refuses to open,
    /// for no key of its own is left.
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn new(keystore: Arc<dyn Keystore>, origin: &str, clock: &dyn Clock) -> Result<Self, SignerError> {
        match keystore.current(KEY_LABEL) {
            Ok(_) => {}
            Err(KeystoreError::UnknownKey) => {
                keystore
                    .generate(KEY_LABEL, KeyKind::Ed25519, clock.now().unix_millis())
                    .map_err(SignerError::Keystore)?;
            }
            Err(error) => return Err(SignerError::Keystore(error)),
        }
        let signer = Self { keystore, origin: origin.to_owned() };
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

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, SignerError> {
        let key = self.keystore.current(KEY_LABEL).map_err(SignerError::Keystore)?;
        let signature = self.keystore.sign(&key.id, text).map_err(SignerError::Keystore)?;
        Ok(signature.to_vec())
    }
}
