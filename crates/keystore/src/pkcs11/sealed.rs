//! Keys that work outside the token and rest only in it: sealed under a key of their own that never leaves the token.
//! Destroying that one destroys every copy of what it sealed.

use cryptoki::object::ObjectHandle;
use sotto_crypto::{Zeroizing, random::random_array};

use super::{
    objects::{self, Trouble},
    pool::Conn,
};
use crate::KeystoreError;

/// Makes 32 random bytes and seals them under a new key in the token with this label and id; the sealed bytes lie beside it.
/// Both exist, or there is no such key.
pub(super) fn make(conn: &Conn<'_>, key_label: &str, sealed_label: &str, id: &[u8]) -> Result<(), Trouble> {
    let secret = random_array::<32>().map(Zeroizing::new).map_err(KeystoreError::Crypto)?;
    let key = objects::make_aes(conn, key_label, id)?;
    let sealed = objects::seal(conn, key, key_label.as_bytes(), secret.as_ref())?;
    objects::make_fact(conn, sealed_label, &sealed).map(|_| ())
}

/// Opens them; none when they are not what was sealed under this label.
pub(super) fn open(
    conn: &Conn<'_>,
    key: ObjectHandle,
    key_label: &str,
    sealed: &[u8],
) -> Result<Option<Zeroizing<[u8; 32]>>, Trouble> {
    let opened = objects::open(conn, key, key_label.as_bytes(), sealed)?;
    Ok(opened.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok()).map(Zeroizing::new))
}
