//! Symmetric keys: 32 bytes, wiped on drop, never printed, never cloned.

use std::fmt;

use ring::{hkdf, hmac};
use zeroize::Zeroizing;

use crate::{CryptoError, canonical, compare, random::random_array};

/// Bytes in every symmetric key here.
pub const KEY_LEN: usize = 32;

/// Bytes in an HMAC-SHA-256 tag.
pub const MAC_LEN: usize = 32;

/// An AES-256-GCM key. It has no `Clone`: whoever seals with it owns it, so its nonces have one source.
pub struct AeadKey(Zeroizing<[u8; KEY_LEN]>);

impl AeadKey {
    /// Makes a fresh random key.
    ///
    /// # Errors
    /// [`CryptoError::Random`].
    pub fn generate() -> Result<Self, CryptoError> {
        random_array().map(Self::from_bytes)
    }

    /// Takes over the bytes of a key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Derives a key by HKDF-SHA-256 (RFC 5869); `info` names the purpose.
    ///
    /// # Errors
    /// [`CryptoError::TooLong`], never for this output length.
    pub fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Result<Self, CryptoError> {
        let mut key = Self::from_bytes([0; KEY_LEN]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
            .extract(secret)
            .expand(&[info], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(key.0.as_mut()))
            .map_err(|_| CryptoError::TooLong)?;
        Ok(key)
    }

    /// The key itself, for the one hand-over that needs it (a session key to its ingress, a keystore's file).
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AeadKey")
    }
}

/// An HMAC-SHA-256 key (RFC 2104, FIPS 198-1) for keyed digests of ids, contents and pseudonyms.
pub struct MacKey(Zeroizing<[u8; KEY_LEN]>);

impl MacKey {
    /// Makes a fresh random key.
    ///
    /// # Errors
    /// [`CryptoError::Random`].
    pub fn generate() -> Result<Self, CryptoError> {
        random_array().map(Self::from_bytes)
    }

    /// Takes over the bytes of a key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key itself, for a keystore's file.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Returns the tag of `fields` under `label`; fields are length-prefixed, so their borders count.
    ///
    /// `label` names the purpose (`sotto.idempotency.v1`): tags of two purposes never meet.
    #[must_use]
    pub fn mac(&self, label: &str, fields: &[&[u8]]) -> [u8; MAC_LEN] {
        hmac_sha256(self.0.as_ref(), |context| {
            canonical::each(std::iter::once(label.as_bytes()).chain(fields.iter().copied()), |piece| {
                context.update(piece);
            });
        })
    }

    /// The bytes that [`MacKey::mac`] makes the HMAC-SHA-256 of, for a key that is used elsewhere (an HSM).
    #[must_use]
    pub fn input(label: &str, fields: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        let fields: Vec<_> = std::iter::once(label.as_bytes()).chain(fields.iter().copied()).collect();
        Zeroizing::new(canonical::encode(&fields))
    }

    /// Tells, in constant time, whether `tag` is the tag of `fields` under `label`.
    #[must_use]
    pub fn verify(&self, label: &str, fields: &[&[u8]], tag: &[u8]) -> bool {
        compare::equal(&self.mac(label, fields), tag)
    }

    /// Returns the first 16 bytes of [`MacKey::mac`]: enough for an id, where a collision takes 2^64 tries.
    #[must_use]
    pub fn keyed_id(&self, label: &str, fields: &[&[u8]]) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.mac(label, fields)[..16]);
        id
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey")
    }
}

fn hmac_sha256(key: &[u8], feed: impl FnOnce(&mut hmac::Context)) -> [u8; MAC_LEN] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    feed(&mut context);
    let mut tag = [0; MAC_LEN];
    tag.copy_from_slice(context.sign().as_ref());
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(key: &[u8], data: &[u8]) -> String {
        hex::encode(hmac_sha256(key, |context| context.update(data)))
    }

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let cases: [(&[u8], &[u8], &str); 5] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                &[0xaa; 131],
                b"This is a test using a larger than block-size key and a larger than block-size data. \
                  The key needs to be hashed before being used by the HMAC algorithm.",
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ];
        for (key, data, tag) in cases {
            assert_eq!(plain(key, data), tag);
        }
    }
}
