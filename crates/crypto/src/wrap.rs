//! The wrap of a session data key under a bucket key, version 1: 62 bytes that travel with every batch.
//!
//! When the bucket key is destroyed, every wrap under it, and with it every message, is unreadable.
//! Byte by byte in `docs/formats/envelope.md`.

use std::fmt;

use zeroize::Zeroizing;

use crate::{AeadKey, CryptoError, aead, canonical, key::KEY_LEN};

/// The version byte of this format.
pub const VERSION: u8 = 1;

/// The suite byte for AES-256-GCM with a random 96-bit nonce. 2 is reserved for AES-KWP (SP 800-38F) in an HSM.
pub const SUITE_AES_256_GCM: u8 = 1;

/// Bytes in a wrapped key: version, suite, nonce, ciphertext, tag.
pub const WRAPPED_LEN: usize = 2 + aead::NONCE_LEN + KEY_LEN + aead::TAG_LEN;

/// The most wraps one bucket key may ever make: 2^32 random nonces (SP 800-38D §8.3). The keystore counts.
pub const MAX_WRAPS: u64 = 1 << 32;

const LABEL: &[u8] = b"sotto.wrap.v1";
const HEADER: [u8; 2] = [VERSION, SUITE_AES_256_GCM];

/// What a wrapped session key belongs to. It unwraps only where every field is the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WrapBinding<'a> {
    /// The cell (region).
    pub cell: &'a str,
    /// The tenant's id.
    pub tenant: &'a str,
    /// The class's stable name: `otp`, `transactional`, `promotional`.
    pub class: &'a str,
    /// The bucket's id, which names its hour or day of death.
    pub bucket: &'a str,
    /// The session key's id.
    pub key_id: &'a [u8; 16],
}

impl WrapBinding<'_> {
    /// The additional authenticated data of a wrap.
    #[must_use]
    pub fn context(&self) -> Vec<u8> {
        canonical::encode(&[
            LABEL,
            self.cell.as_bytes(),
            self.tenant.as_bytes(),
            self.class.as_bytes(),
            self.bucket.as_bytes(),
            self.key_id,
            &HEADER,
        ])
    }
}

impl fmt::Debug for WrapBinding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrapBinding")
            .field("cell", &self.cell)
            .field("class", &self.class)
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

/// Wraps `session` under `bucket`. The caller holds the number of wraps below [`MAX_WRAPS`].
///
/// # Errors
/// [`CryptoError::Random`].
pub fn wrap_key(
    bucket: &AeadKey,
    binding: &WrapBinding<'_>,
    session: &AeadKey,
) -> Result<[u8; WRAPPED_LEN], CryptoError> {
    let sealed = aead::seal(bucket, &binding.context(), session.expose())?;
    let mut rest = [0; WRAPPED_LEN - HEADER.len()];
    rest.copy_from_slice(&sealed);
    Ok(framed(&rest))
}

/// Puts the header before nonce, ciphertext and tag, for a bucket key that is used elsewhere (an HSM).
#[must_use]
pub fn framed(sealed: &[u8; WRAPPED_LEN - HEADER.len()]) -> [u8; WRAPPED_LEN] {
    let mut out = [0; WRAPPED_LEN];
    let (header, rest) = out.split_at_mut(HEADER.len());
    header.copy_from_slice(&HEADER);
    rest.copy_from_slice(sealed);
    out
}

/// Unwraps a session key.
///
/// # Errors
/// [`UnwrapError::Refused`] when bucket key, binding or a single bit differs; the others before any key is used.
pub fn unwrap_key(
    bucket: &AeadKey,
    binding: &WrapBinding<'_>,
    wrapped: &[u8],
) -> Result<AeadKey, UnwrapError> {
    let opened =
        aead::open(bucket, &binding.context(), sealed(wrapped)?).map_err(|_| UnwrapError::Refused)?;
    let mut session = Zeroizing::new([0; KEY_LEN]);
    session.copy_from_slice(&opened);
    Ok(AeadKey::from_bytes(*session))
}

/// Nonce, ciphertext and tag of a wrap of this version and suite.
///
/// # Errors
/// All of [`UnwrapError`] but [`UnwrapError::Refused`].
pub fn sealed(wrapped: &[u8]) -> Result<&[u8; WRAPPED_LEN - HEADER.len()], UnwrapError> {
    let [version, suite, sealed @ ..] = wrapped else { return Err(UnwrapError::Length) };
    if *version != VERSION {
        return Err(UnwrapError::Version(*version));
    }
    if *suite != SUITE_AES_256_GCM {
        return Err(UnwrapError::Suite(*suite));
    }
    sealed.try_into().map_err(|_| UnwrapError::Length)
}

/// A session key could not be unwrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// A version this code does not know.
    #[error("unknown wrap version {0}")]
    Version(u8),
    /// A suite this code does not know.
    #[error("unknown wrap suite {0}")]
    Suite(u8),
    /// Not 62 bytes.
    #[error("a wrapped key has 62 bytes")]
    Length,
    /// Wrong bucket key, wrong binding or altered bytes.
    #[error("the wrapped key does not belong to this bucket and binding")]
    Refused,
}
