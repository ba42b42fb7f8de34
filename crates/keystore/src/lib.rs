//! Private keys behind two traits: named keys of a service ([`Keystore`]) and buckets that die ([`BucketKeystore`]).
//!
//! Keys are used by operation and never handed out, so that a file and an HSM stand behind the same traits. The software
//! form is one encrypted file a slot and a separate one for the buckets, in `docs/formats/keystore.md`. The other one is a
//! token of an HSM (PKCS#11), in `docs/adr/0014-hsm.md`.
//!
//! Promises: a key is used only while its file or token says so (every change is there before it shows); a destroyed
//! bucket never comes back under its name; nothing here prints a key. Calls may wait for the disk or the HSM, and
//! bucket calls for one another: async callers use `spawn_blocking`. Times are unix milliseconds, given by the caller.

#![warn(missing_docs)]

mod buckets;
mod codec;
mod error;
mod file;
mod pkcs11;
mod secret;
mod slot;

use std::fmt;

use sotto_crypto::{
    AeadKey, Zeroizing,
    hpke::{Sealed, SealingKey, SubmissionBinding},
    sign::{PublicKey, SIGNATURE_LEN},
    wrap::{WRAPPED_LEN, WrapBinding},
};

pub use buckets::SoftBuckets;
pub use error::{DeviceError, KeystoreError, Remedy};
pub use pkcs11::{MacHome, Pkcs11Buckets, Pkcs11Keystore, Token, TokenSettings, prepare_token};
pub use secret::UnlockSecret;
pub use slot::SoftKeystore;

/// The named, rotating keys of one service.
///
/// A label (`token`, `checkpoint`, `idempotency`) is a ring: at most one key *next*, one *current*, and any number
/// *previous*. Every key has an id of its own, by which it is used.
pub trait Keystore: fmt::Debug + Send + Sync {
    /// Makes a key: the ring's current one if it is the first, else its next one.
    ///
    /// # Errors
    /// [`KeystoreError::NextExists`], [`KeystoreError::Kind`] when the ring holds keys of the other kind.
    fn generate(&self, label: &str, kind: KeyKind, now_ms: i64) -> Result<KeyInfo, KeystoreError>;

    /// Makes the next key current and the current one previous; returns the new current key.
    ///
    /// # Errors
    /// [`KeystoreError::NoNext`].
    fn promote(&self, label: &str) -> Result<KeyInfo, KeystoreError>;

    /// Forgets a key that is not current.
    ///
    /// # Errors
    /// [`KeystoreError::UnknownKey`], [`KeystoreError::Current`].
    fn retire(&self, key_id: &str) -> Result<(), KeystoreError>;

    /// The keys of a ring: next, current, then previous from the newest to the oldest.
    ///
    /// # Errors
    /// None of the software form.
    fn keys(&self, label: &str) -> Result<Vec<KeyInfo>, KeystoreError>;

    /// The ring's current key.
    ///
    /// # Errors
    /// [`KeystoreError::UnknownKey`] when the ring has no key yet.
    fn current(&self, label: &str) -> Result<KeyInfo, KeystoreError> {
        let keys = self.keys(label)?;
        keys.into_iter().find(|key| key.role == KeyRole::Current).ok_or(KeystoreError::UnknownKey)
    }

    /// Takes up what another process changed. When it fails, the keys stay as they were.
    ///
    /// # Errors
    /// When file or token cannot be read.
    fn reload(&self) -> Result<(), KeystoreError>;

    /// Whether the keys can be used now. A file that was read needs nothing more.
    ///
    /// # Errors
    /// [`KeystoreError::Away`], [`KeystoreError::Busy`].
    fn check(&self) -> Result<(), KeystoreError> {
        Ok(())
    }

    /// Whether a restart would find the keys. A file is read once, so that its loss would show only then: it must still be
    /// there, open, and be no older than what was read or written last. Of a token [`Self::check`] says enough.
    ///
    /// # Errors
    /// [`KeystoreError::Io`], [`KeystoreError::Mode`], [`KeystoreError::Owner`], [`KeystoreError::Format`],
    /// [`KeystoreError::Refused`], [`KeystoreError::Older`].
    fn check_file(&self) -> Result<(), KeystoreError> {
        Ok(())
    }

    /// Signs `message` by Ed25519 (RFC 8032) with the key of this id.
    ///
    /// # Errors
    /// [`KeystoreError::UnknownKey`], [`KeystoreError::Kind`].
    fn sign(&self, key_id: &str, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], KeystoreError>;

    /// Returns HMAC-SHA-256 over `fields` under `purpose`, as `sotto_crypto::MacKey::mac` does.
    ///
    /// # Errors
    /// [`KeystoreError::UnknownKey`], [`KeystoreError::Kind`].
    fn mac(&self, key_id: &str, purpose: &str, fields: &[&[u8]]) -> Result<[u8; 32], KeystoreError>;

    /// Opens a submission that was sealed to the key of this id, as `sotto_crypto::hpke` does.
    ///
    /// # Errors
    /// [`KeystoreError::UnknownKey`], [`KeystoreError::Kind`], [`KeystoreError::Crypto`] when it does not open.
    fn open_submission(
        &self,
        key_id: &str,
        binding: &SubmissionBinding<'_>,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, KeystoreError>;
}

/// Bucket keys: each dies at a time that its maker fixed, and everything wrapped under it with it.
pub trait BucketKeystore: fmt::Debug + Send + Sync {
    /// Makes the key of a bucket, or returns the facts of the one that lives.
    ///
    /// # Errors
    /// [`KeystoreError::BucketDestroyed`] forever after its destruction; [`KeystoreError::BucketTime`] when
    /// `dies_at_ms` is not after `now_ms` or is not the time the living bucket was made with.
    fn create_bucket(&self, bucket: &str, dies_at_ms: i64, now_ms: i64) -> Result<BucketInfo, KeystoreError>;

    /// Makes the key of a bucket that derives keys and wraps none, or returns the facts of the one that lives. In a token it is
    /// of another type, and does nothing else.
    ///
    /// # Errors
    /// As [`BucketKeystore::create_bucket`].
    fn create_deriving_bucket(
        &self,
        bucket: &str,
        dies_at_ms: i64,
        now_ms: i64,
    ) -> Result<BucketInfo, KeystoreError>;

    /// Derives a key from that of a bucket made by [`BucketKeystore::create_deriving_bucket`]: HMAC-SHA-256 over `fields` under
    /// `purpose`, as `sotto_crypto::MacKey::mac` does. The same again is the same, until the bucket is destroyed.
    ///
    /// # Errors
    /// [`KeystoreError::BucketUnknown`], [`KeystoreError::BucketDestroyed`].
    fn derive_key(
        &self,
        bucket: &str,
        purpose: &str,
        fields: &[&[u8]],
    ) -> Result<Zeroizing<[u8; 32]>, KeystoreError>;

    /// Wraps a session key under the bucket that the binding names.
    ///
    /// # Errors
    /// [`KeystoreError::BucketUnknown`], [`KeystoreError::BucketDestroyed`], [`KeystoreError::WrapLimit`].
    fn wrap_session_key(
        &self,
        binding: &WrapBinding<'_>,
        session: &AeadKey,
    ) -> Result<[u8; WRAPPED_LEN], KeystoreError>;

    /// Unwraps a session key with the bucket that the binding names.
    ///
    /// # Errors
    /// [`KeystoreError::BucketUnknown`], [`KeystoreError::BucketDestroyed`], [`KeystoreError::Unwrap`].
    fn unwrap_session_key(&self, binding: &WrapBinding<'_>, wrapped: &[u8])
    -> Result<AeadKey, KeystoreError>;

    /// Destroys the bucket's key and returns what a receipt says; again, it returns the same facts.
    ///
    /// # Errors
    /// [`KeystoreError::BucketUnknown`].
    fn destroy_bucket(&self, bucket: &str, now_ms: i64) -> Result<Destruction, KeystoreError>;

    /// Whether the bucket keys can be used now. A file that was read needs nothing more.
    ///
    /// # Errors
    /// [`KeystoreError::Away`], [`KeystoreError::Busy`].
    fn check(&self) -> Result<(), KeystoreError> {
        Ok(())
    }

    /// Whether a restart would find the keys. A file is read once, so that its loss would show only then: it must still be
    /// there, open, and be no older than what was read or written last. Of a token [`Self::check`] says enough.
    ///
    /// # Errors
    /// [`KeystoreError::Io`], [`KeystoreError::Mode`], [`KeystoreError::Owner`], [`KeystoreError::Format`],
    /// [`KeystoreError::Refused`], [`KeystoreError::Older`].
    fn check_file(&self) -> Result<(), KeystoreError> {
        Ok(())
    }

    /// The living buckets, by id.
    ///
    /// # Errors
    /// None of the software form.
    fn buckets(&self) -> Result<Vec<BucketInfo>, KeystoreError>;

    /// Every destruction there was, by bucket id.
    ///
    /// # Errors
    /// None of the software form.
    fn destroyed(&self) -> Result<Vec<Destruction>, KeystoreError>;

    /// What became of a bucket. One that a token has forgotten is unknown; its time was over then.
    fn fate(&self, bucket: &str) -> Fate;
}

/// What a key can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Signs by Ed25519; its id is the JWK thumbprint of its public half (RFC 7638).
    Ed25519,
    /// Makes HMAC-SHA-256 tags; its id is random.
    HmacSha256,
    /// Opens what is sealed to its public half by HPKE; its id is the JWK thumbprint of that (RFC 7638).
    X25519,
}

/// A key's place in its ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyRole {
    /// Published, so that verifiers know it before its first use.
    Next,
    /// The one to use.
    Current,
    /// Still honoured until it is retired.
    Previous,
}

/// The public facts of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its id.
    pub id: String,
    /// What it can do.
    pub kind: KeyKind,
    /// Its place in its ring.
    pub role: KeyRole,
    /// When it was made, unix milliseconds.
    pub created_at_ms: i64,
    /// The public half of a signing key.
    pub public: Option<PublicKey>,
    /// The public half of an opening key.
    pub sealing: Option<SealingKey>,
}

/// What became of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was never made here.
    Unknown,
    /// Its key is here.
    Living,
    /// Its key is destroyed, or is being destroyed: nothing uses it any more.
    Destroyed,
}

/// The public facts of a living bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its id.
    pub bucket: String,
    /// When it was made, unix milliseconds.
    pub created_at_ms: i64,
    /// When it must be destroyed, unix milliseconds.
    pub dies_at_ms: i64,
    /// No more session keys than this were wrapped under it yet; a restart rounds up.
    pub wraps_at_most: u64,
}

/// The facts of a bucket's destruction, for a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destruction {
    /// The bucket's id.
    pub bucket: String,
    /// When it was made, unix milliseconds.
    pub created_at_ms: i64,
    /// When it was to die, unix milliseconds.
    pub dies_at_ms: i64,
    /// When it was destroyed, unix milliseconds.
    pub destroyed_at_ms: i64,
    /// No more session keys than this were ever wrapped under it.
    pub wraps_at_most: u64,
    /// The first write of the file that lacks the key; a file with a lower number is an old copy.
    pub generation: u64,
}
