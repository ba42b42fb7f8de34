//! Sealing to a public key: HPKE base mode, one message a key encapsulation (RFC 9180 §6.1), for requests that come
//! over the broker.
//!
//! One suite: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305. Every HPKE library has it, appendix A.2 has its
//! vectors, and it needs no AES instructions to be both fast and free of timing leaks. `ring` keeps X25519 keys for
//! one exchange only, so this is the `hpke` crate's.
//!
//! Base mode tells nothing of who sealed: that must be said by what is sealed. What a message belongs to goes into
//! `info`; the AAD is empty, as §8.1 proposes for single messages.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hpke::{
    Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256, single_shot_open, single_shot_seal,
};
use zeroize::Zeroizing;

use crate::{CryptoError, canonical, hash::sha256, random::random_array};

/// Bytes in a private key, a public key and an encapsulated key (RFC 9180 §7.1).
pub const KEY_LEN: usize = 32;

/// Session keys that are sealed at one time.
pub const MOST_KEYS: usize = 256;

/// Bytes that sealing adds to a plaintext.
pub const TAG_LEN: usize = 16;

const SUBMISSION: &[u8] = b"sotto.submission.v1";
const SESSION_KEYS: &[u8] = b"sotto.session-keys.v1";

/// What a sealed submission belongs to: it opens only where every field is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubmissionBinding<'a> {
    /// The cell (region).
    pub cell: &'a str,
    /// The tenant, as the subject names it.
    pub tenant: &'a str,
}

impl SubmissionBinding<'_> {
    fn info(&self, key_id: &str) -> Vec<u8> {
        canonical::encode(&[SUBMISSION, self.cell.as_bytes(), self.tenant.as_bytes(), key_id.as_bytes()])
    }
}

fn info_of_keys(key_id: &str) -> Vec<u8> {
    canonical::encode(&[SESSION_KEYS, key_id.as_bytes()])
}

/// A sealed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The ephemeral public key (`enc`).
    pub encapsulated_key: [u8; KEY_LEN],
    /// Ciphertext and tag.
    pub ciphertext: Vec<u8>,
}

/// An X25519 private key that opens; wiped on drop.
pub struct OpeningKey {
    secret: Zeroizing<[u8; KEY_LEN]>,
    public: SealingKey,
}

impl OpeningKey {
    /// Makes a fresh random key.
    ///
    /// # Errors
    /// [`CryptoError::Random`].
    pub fn generate() -> Result<Self, CryptoError> {
        Self::from_bytes(random_array()?)
    }

    /// Takes over the bytes of a key (RFC 7748 §5: any 32 bytes).
    ///
    /// # Errors
    /// [`CryptoError::Key`], for no bytes known.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Result<Self, CryptoError> {
        let secret = Zeroizing::new(bytes);
        let key = private(&secret)?;
        let mut public = [0; KEY_LEN];
        public.copy_from_slice(&X25519HkdfSha256::sk_to_pk(&key).to_bytes());
        Ok(Self { secret, public: SealingKey(public) })
    }

    /// The key itself, for a keystore's file.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.secret
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> SealingKey {
        self.public
    }

    /// Opens what was sealed to this key's public half for `binding`.
    ///
    /// # Errors
    /// [`CryptoError::Refused`] when key, binding or a single bit differs.
    pub fn open_submission(
        &self,
        binding: &SubmissionBinding<'_>,
        encapsulated_key: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        self.open(&binding.info(&self.public.thumbprint()), b"", encapsulated_key, ciphertext)
    }

    /// Opens session keys that were sealed to this key's public half.
    ///
    /// # Errors
    /// [`CryptoError::Refused`] when the key or a single bit differs.
    pub fn open_keys(
        &self,
        encapsulated_key: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<[u8; KEY_LEN]>>, CryptoError> {
        let info = info_of_keys(&self.public.thumbprint());
        let opened = self.open(&info, b"", encapsulated_key, ciphertext)?;
        let (keys, rest) = opened.as_chunks();
        if rest.is_empty() { Ok(Zeroizing::new(keys.to_vec())) } else { Err(CryptoError::Refused) }
    }

    fn open(
        &self,
        info: &[u8],
        aad: &[u8],
        encapsulated_key: &[u8],
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated_key)
            .map_err(|_| CryptoError::Refused)?;
        single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &private(&self.secret)?,
            &encapsulated,
            info,
            ciphertext,
            aad,
        )
        .map(Zeroizing::new)
        .map_err(|_| CryptoError::Refused)
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

fn private(bytes: &[u8; KEY_LEN]) -> Result<<X25519HkdfSha256 as Kem>::PrivateKey, CryptoError> {
    <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(bytes).map_err(|_| CryptoError::Key)
}

/// An X25519 public key that seals.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SealingKey([u8; KEY_LEN]);

impl SealingKey {
    /// Takes the 32 bytes of RFC 7748 §5; a point of small order shows when something is sealed.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// Reads the `x` of a JWK (RFC 8037 §2): base64url without padding.
    ///
    /// # Errors
    /// [`CryptoError::Key`] for anything else.
    pub fn from_jwk_x(x: &str) -> Result<Self, CryptoError> {
        let bytes = URL_SAFE_NO_PAD.decode(x).map_err(|_| CryptoError::Key)?;
        bytes.try_into().map(Self).map_err(|_| CryptoError::Key)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The `x` of its JWK.
    #[must_use]
    pub fn jwk_x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Its JWK thumbprint (RFC 7638), the `kid` of every key of ours.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let jwk = format!(r#"{{"crv":"X25519","kty":"OKP","x":"{}"}}"#, self.jwk_x());
        URL_SAFE_NO_PAD.encode(sha256(jwk.as_bytes()))
    }

    /// Seals `plaintext` for `binding`, so that only the holder of the private half reads it.
    ///
    /// # Panics
    /// When the operating system gives no randomness: nothing may be sealed without.
    ///
    /// # Errors
    /// [`CryptoError::Key`] when this is no public key that anybody has.
    pub fn seal_submission(
        &self,
        binding: &SubmissionBinding<'_>,
        plaintext: &[u8],
    ) -> Result<Sealed, CryptoError> {
        self.seal(&binding.info(&self.thumbprint()), plaintext)
    }

    /// Seals session keys, in their order, for whoever asked for them: what passes by then opens nothing.
    ///
    /// # Panics
    /// As [`Self::seal_submission`].
    ///
    /// # Errors
    /// As [`Self::seal_submission`].
    pub fn seal_keys<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a [u8; KEY_LEN]>,
    ) -> Result<Sealed, CryptoError> {
        let keys = keys.into_iter();
        // Never moved to a larger place, which would leave a copy behind.
        let mut plaintext = Zeroizing::new(Vec::with_capacity(MOST_KEYS * KEY_LEN));
        for key in keys.take(MOST_KEYS) {
            plaintext.extend_from_slice(key);
        }
        self.seal(&info_of_keys(&self.thumbprint()), &plaintext)
    }

    fn seal(&self, info: &[u8], plaintext: &[u8]) -> Result<Sealed, CryptoError> {
        let public =
            <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&self.0).map_err(|_| CryptoError::Key)?;
        let (encapsulated, ciphertext) = single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            info,
            plaintext,
            b"",
        )
        .map_err(|_| CryptoError::Key)?;
        let mut encapsulated_key = [0; KEY_LEN];
        encapsulated_key.copy_from_slice(&encapsulated.to_bytes());
        Ok(Sealed { encapsulated_key, ciphertext })
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.jwk_x())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    fn key(text: &str) -> [u8; KEY_LEN] {
        bytes(text).try_into().unwrap()
    }

    #[test]
    fn session_keys_open_for_whoever_asked_and_nobody_else() {
        let (asked, other) = (OpeningKey::generate().unwrap(), OpeningKey::generate().unwrap());
        for count in [0, 1, 2, MOST_KEYS] {
            let keys: Vec<[u8; KEY_LEN]> = (0..count).map(|_| random_array().unwrap()).collect();
            let sealed = asked.public().seal_keys(&keys).unwrap();
            assert_eq!(sealed.ciphertext.len(), count * KEY_LEN + TAG_LEN);
            let Sealed { encapsulated_key, ciphertext } = &sealed;
            assert_eq!(*asked.open_keys(encapsulated_key, ciphertext).unwrap(), keys);
            assert_eq!(other.open_keys(encapsulated_key, ciphertext), Err(CryptoError::Refused));
            let mut changed = ciphertext.clone();
            changed[0] ^= 1;
            assert_eq!(asked.open_keys(encapsulated_key, &changed), Err(CryptoError::Refused));
            assert!(!keys.iter().any(|key| ciphertext.windows(KEY_LEN).any(|window| window == key)));
        }
        // What was sealed for something else is no key.
        let binding = SubmissionBinding { cell: "vn", tenant: "acme" };
        let Sealed { encapsulated_key, ciphertext } =
            asked.public().seal_submission(&binding, &[7; KEY_LEN]).unwrap();
        assert_eq!(asked.open_keys(&encapsulated_key, &ciphertext), Err(CryptoError::Refused));
    }

    /// Appendix A.2.1 of RFC 9180: base mode of this suite, sequence number 0.
    #[test]
    fn the_vector_of_rfc_9180_opens() {
        let recipient =
            OpeningKey::from_bytes(key("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb"))
                .unwrap();
        assert_eq!(
            recipient.public().as_bytes(),
            &key("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a")
        );
        let opened = recipient
            .open(
                b"Ode on a Grecian Urn",
                b"Count-0",
                &bytes("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"),
                &bytes("1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"),
            )
            .unwrap();
        assert_eq!(opened.as_slice(), b"Beauty is truth, truth beauty");
    }
}
