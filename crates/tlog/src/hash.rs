//! Merkle tree hashes (RFC 9162 §2.1.1) and the compact range that grows a root leaf by leaf.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sotto_crypto::hash::{SHA256_LEN, Sha256, sha256};

/// Bytes in a tree hash.
pub const HASH_LEN: usize = SHA256_LEN;

/// The hash of a leaf, a node or a tree. Prints as base64, as in a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; HASH_LEN]);

impl Hash {
    /// The root of the tree without leaves: SHA-256 of nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self(sha256(b""))
    }

    /// The hash of a leaf: `SHA-256(0x00 || entry)`.
    #[must_use]
    pub fn leaf(entry: &[u8]) -> Self {
        Self::tagged(0x00, &[entry])
    }

    /// The hash of a node: `SHA-256(0x01 || left || right)`.
    #[must_use]
    pub fn node(left: &Self, right: &Self) -> Self {
        Self::tagged(0x01, &[&left.0, &right.0])
    }

    fn tagged(tag: u8, parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(&[tag]);
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finish())
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_LEN] {
        &self.0
    }

    /// From exactly 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// From base64 as a checkpoint and a receipt spell it (RFC 4648 §4, padded, canonical).
    #[must_use]
    pub fn from_base64(text: &str) -> Option<Self> {
        // The length first: a hostile line is not decoded into memory.
        if text.len() != 44 {
            return None;
        }
        Self::from_slice(&STANDARD.decode(text).ok()?)
    }
}

impl From<[u8; HASH_LEN]> for Hash {
    fn from(bytes: [u8; HASH_LEN]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A compact range from leaf 0: one hash for each perfect subtree, widest first. Grows by appending leaves and
/// knows its root; memory is at most 64 hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf's hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each trailing one bit of the size is a perfect subtree of the same width on the left.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = Hash::node(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size = self.size.saturating_add(1);
    }

    /// The root of the tree so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        fold_right(&self.peaks, None).unwrap_or_else(Hash::empty)
    }
}

impl Extend<Hash> for Frontier {
    fn extend<T: IntoIterator<Item = Hash>>(&mut self, leaves: T) {
        leaves.into_iter().for_each(|leaf| self.push(leaf));
    }
}

impl FromIterator<Hash> for Frontier {
    fn from_iter<T: IntoIterator<Item = Hash>>(leaves: T) -> Self {
        let mut frontier = Self::new();
        frontier.extend(leaves);
        frontier
    }
}

/// Joins subtrees, widest first, from the right: the shape RFC 9162 §2.1.1 gives to a size that is no power of 2.
pub(crate) fn fold_right(peaks: &[Hash], rightmost: Option<Hash>) -> Option<Hash> {
    peaks.iter().rev().fold(rightmost, |right, left| {
        Some(match right {
            Some(right) => Hash::node(left, &right),
            None => *left,
        })
    })
}

/// The root of a full binary tree over `hashes`, whose number must be a power of 2; `None` for no hashes.
pub(crate) fn perfect_root(hashes: &[Hash]) -> Option<Hash> {
    let mut level = hashes.to_vec();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .filter_map(|pair| match pair {
                [left, right] => Some(Hash::node(left, right)),
                [single] => Some(*single),
                _ => None,
            })
            .collect();
    }
    level.first().copied()
}
