//! C2SP tlog-tiles: paths, hash tiles and entry bundles.

use crate::hash::{HASH_LEN, Hash};

/// Hashes in a full tile, entries in a full bundle.
pub const TILE_WIDTH: u64 = 256;

/// Longest entry that a bundle can hold, bytes.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// Where the newest checkpoint is.
pub const CHECKPOINT_PATH: &str = "checkpoint";

/// Width of the tile or bundle `index` at `level` in a tree of `size` leaves: 0 (it does not exist) to 256.
#[must_use]
pub fn width_at(size: u64, level: u8, index: u64) -> u64 {
    let hashes = size.checked_shr(u32::from(level).saturating_mul(8)).unwrap_or(0);
    match index.checked_mul(TILE_WIDTH) {
        Some(start) => hashes.saturating_sub(start).min(TILE_WIDTH),
        None => 0,
    }
}

/// The path of a hash tile: `tile/<L>/<N>`, with `.p/<W>` when `width` is not 256.
#[must_use]
pub fn tile_path(level: u8, index: u64, width: u64) -> String {
    format!("tile/{level}/{}{}", number_path(index), partial_suffix(width))
}

/// The path of an entry bundle: `tile/entries/<N>`, with `.p/<W>` when `width` is not 256.
#[must_use]
pub fn bundle_path(index: u64, width: u64) -> String {
    format!("tile/entries/{}{}", number_path(index), partial_suffix(width))
}

/// Three digits a path element, all but the last with an `x`: 1234067 is `x001/x234/067`.
fn number_path(index: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

fn partial_suffix(width: u64) -> String {
    if width == TILE_WIDTH { String::new() } else { format!(".p/{width}") }
}

/// Encodes a hash tile.
#[must_use]
pub fn encode_tile(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(Hash::as_bytes).copied().collect()
}

/// Decodes a hash tile that must hold exactly `width` hashes.
///
/// # Errors
/// [`TileError`].
pub fn decode_tile(bytes: &[u8], width: u64) -> Result<Vec<Hash>, TileError> {
    let (chunks, rest) = bytes.as_chunks::<HASH_LEN>();
    if !rest.is_empty() || u64::try_from(chunks.len()) != Ok(width) {
        return Err(TileError { width });
    }
    Ok(chunks.iter().map(|chunk| Hash::from(*chunk)).collect())
}

/// A tile of another size than its place in the tree demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tile does not hold exactly {width} hashes of 32 bytes")]
pub struct TileError {
    width: u64,
}

/// Encodes an entry bundle: each entry after its length, big-endian, 16 bits.
///
/// # Errors
/// [`BundleError::TooLong`].
pub fn encode_bundle<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, BundleError> {
    let mut bundle = Vec::new();
    for entry in entries {
        let length = u16::try_from(entry.len()).map_err(|_| BundleError::TooLong)?;
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(entry);
    }
    Ok(bundle)
}

/// Decodes an entry bundle that must hold exactly `width` entries.
///
/// # Errors
/// [`BundleError`].
pub fn decode_bundle(bytes: &[u8], width: u64) -> Result<Vec<&[u8]>, BundleError> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, tail) = tail.split_at_checked(length).ok_or(BundleError::Truncated)?;
        entries.push(entry);
        rest = tail;
    }
    if !rest.is_empty() {
        return Err(BundleError::Truncated);
    }
    if u64::try_from(entries.len()) != Ok(width) {
        return Err(BundleError::Count { width });
    }
    Ok(entries)
}

/// An entry bundle could not be written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// An entry is longer than its length field can say.
    #[error("an entry is longer than 65535 bytes")]
    TooLong,
    /// The bundle ends inside an entry.
    #[error("the bundle ends inside an entry")]
    Truncated,
    /// Another number of entries than its place in the tree demands.
    #[error("the bundle does not hold exactly {width} entries")]
    Count {
        /// The number it must hold.
        width: u64,
    },
}
