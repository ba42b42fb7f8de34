//! The key that signs receipts of destructions: made at the first start, kept beside the keys of buckets.

use std::{path::Path, sync::Arc};

use sotto_keystore::{
    KeyKind, Keystore, KeystoreError, MacHome, Pkcs11Keystore, SoftKeystore, Token, UnlockSecret,
};

use crate::ports::RECEIPT_RING;

/// The slot of the key: a file of another slot does not open as ours.
const SLOT: &str = "receipts";

/// Opens the keystore in a file; makes it if it is not there.
///
/// # Errors
/// [`KeystoreError`].
pub fn in_file(path: &Path, secret: UnlockSecret, now_ms: i64) -> Result<Arc<dyn Keystore>, KeystoreError> {
    let keystore = if path.exists() {
        SoftKeystore::open(path, secret, SLOT)?
    } else {
        SoftKeystore::create(path, secret, SLOT)?
    };
    with_key(Arc::new(keystore), now_ms)
}

/// The same in the token that has the keys of buckets.
///
/// # Errors
/// [`KeystoreError`].
pub fn in_token(token: Token, now_ms: i64) -> Result<Arc<dyn Keystore>, KeystoreError> {
    let keystore = match Pkcs11Keystore::open(token.clone(), SLOT, MacHome::Token) {
        Err(KeystoreError::Slot { .. }) => Pkcs11Keystore::create(token, SLOT, MacHome::Token)?,
        opened => opened?,
    };
    with_key(Arc::new(keystore), now_ms)
}

fn with_key(keystore: Arc<dyn Keystore>, now_ms: i64) -> Result<Arc<dyn Keystore>, KeystoreError> {
    if let Err(KeystoreError::UnknownKey) = keystore.current(RECEIPT_RING) {
        keystore.generate(RECEIPT_RING, KeyKind::Ed25519, now_ms)?;
    }
    Ok(keystore)
}
