//! Inclusion and consistency proofs: made from subtree hashes, verified from nothing but the proof
//! (RFC 9162 §2.1.3 and §2.1.4).

use std::convert::Infallible;

use crate::hash::{Hash, fold_right, perfect_root};

/// Where the hashes of perfect subtrees come from.
pub trait Nodes {
    /// Why a hash could not be had.
    type Error;

    /// The hash over leaves `index << level` to `(index + 1) << level`, all of which exist.
    ///
    /// # Errors
    /// When the hash cannot be read.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// Leaf hashes in memory, for small trees. A leaf that is not there counts as absent from the tree.
#[derive(Clone, Copy, Debug)]
pub struct Leaves<'a>(pub &'a [Hash]);

impl Nodes for Leaves<'_> {
    type Error = Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        let start = index.checked_shl(u32::from(level)).and_then(|at| usize::try_from(at).ok());
        let width = 1_usize.checked_shl(u32::from(level));
        let leaves = start
            .zip(width)
            .and_then(|(start, width)| self.0.get(start..start.checked_add(width)?))
            .unwrap_or_default();
        Ok(perfect_root(leaves).unwrap_or_else(Hash::empty))
    }
}

/// The root of the first `size` leaves (RFC 9162 §2.1.1).
///
/// # Errors
/// When a hash cannot be read.
pub fn root<N: Nodes>(nodes: &N, size: u64) -> Result<Hash, N::Error> {
    subtree(nodes, 0, size)
}

/// The inclusion proof of leaf `index` in the tree of `size` leaves (RFC 9162 §2.1.3.1): leaf to root.
/// Empty when `index` is outside the tree.
///
/// # Errors
/// When a hash cannot be read.
pub fn inclusion_path<N: Nodes>(nodes: &N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    let mut path = Vec::new();
    if index >= size {
        return Ok(path);
    }
    let (mut low, mut high) = (0, size);
    // Walks from the root down; the proof is told from the leaf up.
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            path.push(subtree(nodes, middle, high)?);
            high = middle;
        } else {
            path.push(subtree(nodes, low, middle)?);
            low = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of `old` leaves is a prefix of the tree of `new` leaves (RFC 9162 §2.1.4.1).
/// Empty when the sizes are equal, when `old` is 0 or when `old` is beyond `new`.
///
/// # Errors
/// When a hash cannot be read.
pub fn consistency_path<N: Nodes>(nodes: &N, old: u64, new: u64) -> Result<Vec<Hash>, N::Error> {
    let mut path = Vec::new();
    if old == 0 || old >= new {
        return Ok(path);
    }
    let (mut low, mut high) = (0, new);
    // The verifier knows the old root itself, so it is left out while the old tree is one whole subtree.
    let mut known = true;
    while old < high {
        let middle = low + split(high - low);
        if old <= middle {
            path.push(subtree(nodes, middle, high)?);
            high = middle;
        } else {
            path.push(subtree(nodes, low, middle)?);
            low = middle;
            known = false;
        }
    }
    if !known {
        path.push(subtree(nodes, low, high)?);
    }
    path.reverse();
    Ok(path)
}

/// The largest power of 2 below `n`, which is at least 2.
fn split(n: u64) -> u64 {
    1 << (u64::BITS - 1 - (n - 1).leading_zeros())
}

/// The hash over leaves `low` to `high`, where `low` is a multiple of a power of 2 no smaller than the width.
fn subtree<N: Nodes>(nodes: &N, low: u64, high: u64) -> Result<Hash, N::Error> {
    let mut peaks = Vec::new();
    let mut at = low;
    while at < high {
        let level = u64::BITS - 1 - (high - at).leading_zeros();
        peaks.push(nodes.node(u8::try_from(level).unwrap_or(u8::MAX), at >> level)?);
        at += 1 << level;
    }
    Ok(fold_right(&peaks, None).unwrap_or_else(Hash::empty))
}

/// Checks that `leaf` is at `index` of the tree with `size` leaves and `root` (RFC 9162 §2.1.3.2).
///
/// # Errors
/// [`ProofError`] when it is not proven.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    path: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange);
    }
    let mut walk = Walk { at: index, last: size - 1 };
    let mut hash = *leaf;
    for sibling in path {
        hash = match walk.step()? {
            Side::Left => Hash::node(sibling, &hash),
            Side::Right => Hash::node(&hash, sibling),
        };
    }
    walk.finish()?;
    if hash == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// Checks that the tree of `old_size` leaves is a prefix of the tree of `new_size` leaves (RFC 9162 §2.1.4.2).
///
/// # Errors
/// [`ProofError`] when it is not proven; an empty old tree has no proof.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    path: &[Hash],
) -> Result<(), ProofError> {
    if old_size == 0 || old_size > new_size {
        return Err(ProofError::OutOfRange);
    }
    if old_size == new_size {
        return match (path.is_empty(), old_root == new_root) {
            (false, _) => Err(ProofError::Length),
            (true, false) => Err(ProofError::Root),
            (true, true) => Ok(()),
        };
    }
    // A whole old tree is itself the first hash of the proof (step 2).
    let (first, rest) = if old_size.is_power_of_two() {
        (old_root, path)
    } else {
        path.split_first().ok_or(ProofError::Length)?
    };
    let shift = (old_size - 1).trailing_ones();
    let mut walk = Walk {
        at: (old_size - 1).checked_shr(shift).unwrap_or(0),
        last: (new_size - 1).checked_shr(shift).unwrap_or(0),
    };
    let (mut old, mut new) = (*first, *first);
    for sibling in rest {
        match walk.step()? {
            Side::Left => {
                old = Hash::node(sibling, &old);
                new = Hash::node(sibling, &new);
            }
            Side::Right => new = Hash::node(&new, sibling),
        }
    }
    walk.finish()?;
    if old == *old_root && new == *new_root { Ok(()) } else { Err(ProofError::Root) }
}

/// On which side of the hash so far the next sibling stands.
enum Side {
    Left,
    Right,
}

/// The pair `fn`, `sn` of both verification algorithms.
struct Walk {
    at: u64,
    last: u64,
}

impl Walk {
    fn step(&mut self) -> Result<Side, ProofError> {
        if self.last == 0 {
            return Err(ProofError::Length);
        }
        let side = if self.at & 1 == 1 || self.at == self.last {
            // A right edge that is a left child has no sibling on these levels.
            let skipped = if self.at == 0 { 0 } else { self.at.trailing_zeros() };
            self.at >>= skipped;
            self.last >>= skipped;
            Side::Left
        } else {
            Side::Right
        };
        self.at >>= 1;
        self.last >>= 1;
        Ok(side)
    }

    fn finish(&self) -> Result<(), ProofError> {
        if self.last == 0 { Ok(()) } else { Err(ProofError::Length) }
    }
}

/// A proof was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Index or size does not belong to the tree.
    #[error("the index or size is outside the tree")]
    OutOfRange,
    /// The proof has too few or too many hashes.
    #[error("the proof has a wrong number of hashes for this index and size")]
    Length,
    /// The hashes lead to another root.
    #[error("the proof leads to another root: the entry, the proof or the tree was altered")]
    Root,
}
