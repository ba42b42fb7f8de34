//! What identity does: domain decisions with their effects.

pub mod clients;
pub mod keys;
pub mod tokens;

use std::sync::Arc;

use sotto_core::Sensitive;
use sotto_keystore::{Keystore, KeystoreError};

use crate::domain::ClientId;

/// The keystore's ring that makes digests of client secrets. `sotto init` makes its first key.
pub const SECRETS_RING: &str = "client-secrets";

/// The purpose of a secret's digest.
const SECRET_PURPOSE: &str = "sotto.client-secret.v1";

/// The keyed digest of a client's secret.
pub(crate) fn secret_digest(
    keystore: &dyn Keystore,
    key_id: &str,
    client: &ClientId,
    secret: &Sensitive<String>,
) -> Result<[u8; 32], KeystoreError> {
    keystore.mac(key_id, SECRET_PURPOSE, &[client.as_str().as_bytes(), secret.expose().as_bytes()])
}

/// Runs what may wait for the disk or an HSM where waiting is allowed.
pub(crate) async fn blocking<T, E>(
    keystore: &Arc<dyn Keystore>,
    lost: fn(tokio::task::JoinError) -> E,
    failed: fn(KeystoreError) -> E,
    work: impl FnOnce(&dyn Keystore) -> Result<T, KeystoreError> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
{
    let keystore = Arc::clone(keystore);
    let done = tokio::task::spawn_blocking(move || work(keystore.as_ref())).await;
    done.map_err(lost)?.map_err(failed)
}
