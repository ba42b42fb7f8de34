//! Ed25519 (RFC 8032) and the public half in the forms of RFC 8037 (JWK) and RFC 8410 (PKCS #8).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::{CryptoError, hash::sha256, random::random_array};

/// Bytes in a seed (RFC 8032's private key).
pub const SEED_LEN: usize = 32;

/// Bytes in a public key.
pub const PUBLIC_LEN: usize = 32;

/// Bytes in a signature.
pub const SIGNATURE_LEN: usize = 64;

/// RFC 8410 §7: version 0, algorithm 1.3.101.112, an OCTET STRING in an OCTET STRING; the seed follows.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// An Ed25519 private key; the seed is wiped on drop.
pub struct SigningKey {
    seed: Zeroizing<[u8; SEED_LEN]>,
    public: PublicKey,
}

impl SigningKey {
    /// Makes a fresh random key.
    ///
    /// # Errors
    /// [`SignError::Random`].
    pub fn generate() -> Result<Self, SignError> {
        let seed = random_array().map(Zeroizing::new).map_err(SignError::Random)?;
        Self::from_seed(&seed)
    }

    /// Makes the key of a 32-byte seed.
    ///
    /// # Errors
    /// [`SignError::Key`], for no seed known.
    pub fn from_seed(seed: &[u8; SEED_LEN]) -> Result<Self, SignError> {
        let pair = pair(seed)?;
        let mut public = [0; PUBLIC_LEN];
        public.copy_from_slice(pair.public_key().as_ref());
        Ok(Self { seed: Zeroizing::new(*seed), public: PublicKey(public) })
    }

    /// Reads the 48-byte PKCS #8 form of RFC 8410 §7 that OpenSSL and most libraries write.
    ///
    /// # Errors
    /// [`SignError::Key`] for any other form.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SignError> {
        let seed = der.strip_prefix(&PKCS8_PREFIX).ok_or(SignError::Key)?;
        Self::from_seed(seed.try_into().map_err(|_| SignError::Key)?)
    }

    /// Writes the same form.
    #[must_use]
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([PKCS8_PREFIX.as_slice(), self.seed.as_slice()].concat())
    }

    /// The seed, for a keystore's file.
    #[must_use]
    pub fn expose_seed(&self) -> &[u8; SEED_LEN] {
        &self.seed
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs `message`.
    ///
    /// # Errors
    /// [`SignError::Key`], never for a key that was made here.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignError> {
        let mut out = [0; SIGNATURE_LEN];
        out.copy_from_slice(pair(&self.seed)?.sign(message).as_ref());
        Ok(out)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

fn pair(seed: &[u8; SEED_LEN]) -> Result<signature::Ed25519KeyPair, SignError> {
    signature::Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SignError::Key)
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; PUBLIC_LEN]);

impl PublicKey {
    /// Takes the 32 bytes of RFC 8032 §5.1.2; a point that is none shows when a signature is verified.
    #[must_use]
    pub fn from_bytes(bytes: [u8; PUBLIC_LEN]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; PUBLIC_LEN] {
        &self.0
    }

    /// The `x` of its JWK (RFC 8037 §2): base64url without padding.
    #[must_use]
    pub fn jwk_x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads the `x` of a JWK; none if it is not 32 bytes in base64url without padding.
    #[must_use]
    pub fn from_jwk_x(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// Its JWK thumbprint (RFC 7638, RFC 8037 appendix A.3), the `kid` of every key of ours.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.jwk_x());
        URL_SAFE_NO_PAD.encode(sha256(jwk.as_bytes()))
    }

    /// Verifies a signature over `message`.
    ///
    /// # Errors
    /// [`SignError::Signature`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignError> {
        UnparsedPublicKey::new(&signature::ED25519, self.0)
            .verify(message, signature)
            .map_err(|_| SignError::Signature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.jwk_x())
    }
}

/// Signing or verifying failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No random seed.
    #[error("no key could be made")]
    Random(#[source] CryptoError),
    /// The private key is not in the one form that is read.
    #[error("not an Ed25519 private key in PKCS #8 (RFC 8410)")]
    Key,
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Signature,
}
