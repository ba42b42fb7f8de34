//! Finds many patterns in one pass.

use std::collections::BTreeSet;

use super::Encoding;

/// Bytes to find; only the bits set in the mask count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    bytes: Vec<(u8, u8)>,
}

impl Pattern {
    /// All bits count.
    pub(super) fn exact(bytes: &[u8]) -> Self {
        Self { bytes: bytes.iter().map(|byte| (*byte, 0xff)).collect() }
    }

    /// Pairs of value and mask.
    pub(super) fn masked(bytes: Vec<(u8, u8)>) -> Self {
        Self { bytes: bytes.into_iter().map(|(value, mask)| (value & mask, mask)).collect() }
    }

    /// The first two bytes next to each other of which all bits count.
    fn anchor(&self) -> Option<(usize, [u8; 2])> {
        self.bytes.windows(2).enumerate().find_map(|(at, pair)| match pair {
            [(first, 0xff), (second, 0xff)] => Some((at, [*first, *second])),
            _ => None,
        })
    }

    fn matches(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.bytes.len()
            && self.bytes.iter().zip(bytes).all(|((value, mask), byte)| byte & mask == *value)
    }
}

/// A place where a pattern matched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hit {
    pub(super) secret: usize,
    pub(super) encoding: Encoding,
    pub(super) offset: usize,
}

#[derive(Debug)]
struct Entry {
    secret: usize,
    encoding: Encoding,
    pattern: Pattern,
    anchor: usize,
}

/// All patterns, by the value of their anchor: with thousands of them, few are looked at for a byte.
#[derive(Debug)]
pub(super) struct Scanner(Vec<Vec<Entry>>);

impl Default for Scanner {
    fn default() -> Self {
        Self((0..=u16::MAX).map(|_| Vec::new()).collect())
    }
}

impl Scanner {
    pub(super) fn add(&mut self, secret: usize, encoding: Encoding, pattern: Pattern) {
        let Some((anchor, pair)) = pattern.anchor() else { return };
        if let Some(entries) = self.0.get_mut(usize::from(u16::from_be_bytes(pair))) {
            entries.push(Entry { secret, encoding, pattern, anchor });
        }
    }

    /// The first place of each secret and encoding.
    pub(super) fn scan(&self, bytes: &[u8]) -> Vec<Hit> {
        let mut seen = BTreeSet::new();
        let mut hits = Vec::new();
        for (at, pair) in bytes.windows(2).enumerate() {
            let [first, second] = *pair else { continue };
            let Some(entries) = self.0.get(usize::from(u16::from_be_bytes([first, second]))) else {
                continue;
            };
            for Entry { secret, encoding, pattern, anchor } in entries {
                let Some(offset) = at.checked_sub(*anchor) else { continue };
                let Some(part) = bytes.get(offset..offset + pattern.bytes.len()) else { continue };
                if pattern.matches(part) && seen.insert((*secret, *encoding)) {
                    hits.push(Hit { secret: *secret, encoding: *encoding, offset });
                }
            }
        }
        hits
    }
}
