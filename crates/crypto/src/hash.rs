//! SHA-256 (FIPS 180-4).

use std::fmt;

use ring::digest;

use crate::canonical;

/// Bytes in a SHA-256 digest.
pub const SHA256_LEN: usize = 32;

/// Returns the SHA-256 digest of `data`.
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; SHA256_LEN] {
    let mut hasher = Sha256::new();
    hasher.update(data);
    hasher.finish()
}

/// The first 16 bytes of SHA-256 over the fields `label` and `name` (docs/formats/envelope.md): a stable stand-in for a
/// name that need not be told. Whoever can guess the name can check the guess.
#[must_use]
pub fn labelled_id(label: &str, name: &[u8]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    canonical::each([label.as_bytes(), name], |piece| hasher.update(piece));
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finish()[..16]);
    id
}

/// A SHA-256 digest over data that comes in pieces.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Starts an empty digest.
    #[must_use]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Adds `data`.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Returns the digest of everything added.
    #[must_use]
    pub fn finish(self) -> [u8; SHA256_LEN] {
        let mut out = [0; SHA256_LEN];
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sha256").finish_non_exhaustive()
    }
}
