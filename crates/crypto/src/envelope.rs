//! The message envelope, version 1: how `{number, sender, body}` is sealed from ingress to connector.
//!
//! Byte by byte in `docs/formats/envelope.md`, with a vector that any other library can check. Nonces follow
//! the deterministic construction of SP 800-38D §8.2.1: a [`Sealer`] owns its key and counts from zero.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    AeadKey, CryptoError,
    aead::{self, NONCE_LEN, TAG_LEN},
    canonical,
};

/// The version byte of this format.
pub const VERSION: u8 = 1;

/// The suite byte for AES-256-GCM with a 96-bit nonce.
pub const SUITE_AES_256_GCM: u8 = 1;

/// Bytes before the ciphertext: version, suite, key id, nonce.
pub const HEADER_LEN: usize = 2 + KEY_ID_LEN + NONCE_LEN;

/// Bytes in the id of a session data key.
pub const KEY_ID_LEN: usize = 16;

/// The plaintext is padded to a multiple of this many bytes, so that an envelope tells little of the length.
pub const PADDING_BLOCK: usize = 32;

/// The most messages one key ever seals (2^32, the bound this product sets; SP 800-38D §8.3 asks no less).
pub const MAX_SEALS: u64 = 1 << 32;

const LABEL: &[u8] = b"sotto.envelope.v1";
const PADDING_MARK: u8 = 0x80;

/// What an envelope belongs to. It opens only where every field is the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Binding<'a> {
    /// The cell (region) of the message.
    pub cell: &'a str,
    /// The tenant's id.
    pub tenant: &'a str,
    /// The class's stable name: `otp`, `transactional`, `promotional`.
    pub class: &'a str,
    /// The message's id (UUID, 16 bytes in network order).
    pub message_id: &'a [u8; 16],
    /// The version of the plaintext's schema.
    pub schema: u16,
}

impl Binding<'_> {
    fn context(&self, header: &[u8; HEADER_LEN]) -> Vec<u8> {
        let (_, rest) = header.split_at(2);
        let (key_id, _) = rest.split_at(KEY_ID_LEN);
        canonical::encode(&[
            LABEL,
            self.cell.as_bytes(),
            self.tenant.as_bytes(),
            self.class.as_bytes(),
            self.message_id,
            &self.schema.to_be_bytes(),
            key_id,
            header,
        ])
    }
}

impl fmt::Debug for Binding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding")
            .field("cell", &self.cell)
            .field("class", &self.class)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// The public first 30 bytes of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeHeader {
    /// The session data key that opens it.
    pub key_id: [u8; KEY_ID_LEN],
    /// How many envelopes that key had sealed before.
    pub counter: u64,
}

impl EnvelopeHeader {
    /// Reads the header and checks the shape of what follows; nothing is authenticated yet.
    ///
    /// # Errors
    /// [`FormatError`], for bytes that no version-1 sealer makes.
    pub fn parse(envelope: &[u8]) -> Result<Self, FormatError> {
        split(envelope).map(|(header, _, _)| header)
    }

    fn encode(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let (head, nonce) = out.split_at_mut(2 + KEY_ID_LEN);
        head[0] = VERSION;
        head[1] = SUITE_AES_256_GCM;
        head[2..].copy_from_slice(&self.key_id);
        nonce.copy_from_slice(&self.nonce());
        out
    }

    fn nonce(self) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&self.counter.to_be_bytes());
        nonce
    }
}

fn split(envelope: &[u8]) -> Result<(EnvelopeHeader, &[u8; HEADER_LEN], &[u8]), FormatError> {
    // The first two bytes are judged before the length: a later version may be shorter.
    let [version, suite, ..] = envelope else { return Err(FormatError::Length) };
    if *version != VERSION {
        return Err(FormatError::Version(*version));
    }
    if *suite != SUITE_AES_256_GCM {
        return Err(FormatError::Suite(*suite));
    }
    let (bytes, sealed) = envelope.split_first_chunk::<HEADER_LEN>().ok_or(FormatError::Length)?;
    let padded = sealed.len().checked_sub(TAG_LEN).ok_or(FormatError::Length)?;
    if padded == 0 || !padded.is_multiple_of(PADDING_BLOCK) {
        return Err(FormatError::Length);
    }
    let mut key_id = [0; KEY_ID_LEN];
    key_id.copy_from_slice(&bytes[2..2 + KEY_ID_LEN]);
    let mut counter = [0; 8];
    counter.copy_from_slice(&bytes[HEADER_LEN - 8..]);
    let header = EnvelopeHeader { key_id, counter: u64::from_be_bytes(counter) };
    // What does not encode back to itself has something in the nonce's fixed field.
    if header.encode() != *bytes {
        return Err(FormatError::Nonce);
    }
    Ok((header, bytes, sealed))
}

/// Seals messages with one session data key. It owns the key, so no other counter can exist in this process.
pub struct Sealer {
    key_id: [u8; KEY_ID_LEN],
    key: AeadKey,
    next: AtomicU64,
    limit: u64,
}

impl Sealer {
    /// Takes over a key made for this process alone; `limit` messages at most, and never above [`MAX_SEALS`].
    ///
    /// A key whose sealer is gone must never get a second one: its counter would start again at zero.
    #[must_use]
    pub fn new(key_id: [u8; KEY_ID_LEN], key: AeadKey, limit: u64) -> Self {
        Self { key_id, key, next: AtomicU64::new(0), limit: limit.min(MAX_SEALS) }
    }

    /// The id of the key.
    #[must_use]
    pub fn key_id(&self) -> &[u8; KEY_ID_LEN] {
        &self.key_id
    }

    /// How many messages it may still seal.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.next.load(Ordering::Relaxed))
    }

    /// Seals `plaintext` so that it opens only with this key and `binding`.
    ///
    /// # Errors
    /// [`SealError::Exhausted`] when the key has sealed its limit: fetch the next key.
    pub fn seal(&self, binding: &Binding<'_>, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        // The counter is taken before anything can fail: a number is spent, never reused.
        let counter = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                (next < self.limit).then_some(next + 1)
            })
            .map_err(|_| SealError::Exhausted)?;
        let header = EnvelopeHeader { key_id: self.key_id, counter };
        let header_bytes = header.encode();

        let padded = (plaintext.len() / PADDING_BLOCK + 1) * PADDING_BLOCK;
        let mut out = Vec::with_capacity(HEADER_LEN + padded + TAG_LEN);
        out.extend_from_slice(&header_bytes);
        out.extend_from_slice(plaintext);
        out.push(PADDING_MARK);
        out.resize(HEADER_LEN + padded, 0);
        let (_, body) = out.split_at_mut(HEADER_LEN);
        match aead::seal_in_place(&self.key, header.nonce(), &binding.context(&header_bytes), body) {
            Ok(tag) => {
                out.extend_from_slice(&tag);
                Ok(out)
            }
            Err(error) => {
                out.zeroize();
                Err(SealError::Crypto(error))
            }
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}

/// Opens an envelope with the key that its header names.
///
/// # Errors
/// [`OpenError::Refused`] when key, binding or a single bit differs; [`OpenError::Format`] before any key is used.
pub fn open(key: &AeadKey, binding: &Binding<'_>, envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (header, header_bytes, sealed) = split(envelope).map_err(OpenError::Format)?;
    let mut plaintext = aead::open_parts(key, header.nonce(), &binding.context(header_bytes), sealed)
        .map_err(|_| OpenError::Refused)?;
    // The padding is authenticated, so judging it tells a forger nothing.
    let end = plaintext.iter().rposition(|byte| *byte != 0).ok_or(OpenError::Padding)?;
    if plaintext.get(end) != Some(&PADDING_MARK) || plaintext.len() - end > PADDING_BLOCK {
        return Err(OpenError::Padding);
    }
    plaintext.truncate(end);
    Ok(plaintext)
}

/// The bytes are not a version-1 envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A version this code does not know.
    #[error("unknown envelope version {0}")]
    Version(u8),
    /// A suite this code does not know.
    #[error("unknown envelope suite {0}")]
    Suite(u8),
    /// Too short, or not padded to whole blocks.
    #[error("impossible envelope length")]
    Length,
    /// The fixed field of the nonce is not zero.
    #[error("the envelope's nonce has a fixed field that is not zero")]
    Nonce,
}

/// A message could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key has sealed as many messages as it may.
    #[error("the session key has sealed its last message")]
    Exhausted,
    /// The primitive refused the input.
    #[error("sealing failed")]
    Crypto(#[source] CryptoError),
}

/// An envelope could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is no envelope of a known version.
    #[error("the envelope has an unknown format")]
    Format(#[source] FormatError),
    /// Wrong key, wrong binding or altered bytes.
    #[error("the envelope does not belong to this key and message")]
    Refused,
    /// Authentic, yet padded by another rule: its sealer is broken.
    #[error("the envelope's plaintext is not padded by the rule")]
    Padding,
}
