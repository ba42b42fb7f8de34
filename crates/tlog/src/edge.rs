//! The right edge of a tree: all that is needed to append to it.

use crate::{
    hash::{Hash, fold_right, perfect_root},
    source::{ReadError, Source, TileNodes, read_bundle},
    tile::{
        BundleError, MAX_ENTRY, TILE_WIDTH, bundle_path, encode_bundle, encode_tile, tile_path, width_at,
    },
};

const WIDTH: usize = 256;

/// A file of the log: its C2SP path and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its path.
    pub path: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The partial tile of every level and the partial bundle. Memory: under 8 KiB a level and one bundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    /// By level: the hashes of the partial tile, 0 to 255.
    levels: Vec<Vec<Hash>>,
    entries: Vec<Vec<u8>>,
}

impl Edge {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the edge of the tree with `size` leaves. Compare [`Self::root`] with a signed one before use.
    ///
    /// # Errors
    /// [`EdgeError::Read`]; [`EdgeError::Entry`] when the bundle does not belong to its tile.
    pub fn load<S: Source + ?Sized>(source: &S, size: u64) -> Result<Self, EdgeError> {
        let nodes = TileNodes::new(source, size);
        let mut edge = Self { size, ..Self::default() };
        for level in 0..8_u8 {
            let hashes = size >> (8 * u32::from(level));
            if hashes == 0 {
                break;
            }
            let index = hashes / TILE_WIDTH;
            let tile = match width_at(size, level, index) {
                0 => Vec::new(),
                _ => nodes.tile_hashes(level, index).map_err(EdgeError::Read)?,
            };
            edge.levels.push(tile);
        }
        let bundle = size / TILE_WIDTH;
        if !size.is_multiple_of(TILE_WIDTH) {
            edge.entries = read_bundle(source, size, bundle).map_err(EdgeError::Read)?;
        }
        let leaves: Vec<Hash> = edge.entries.iter().map(|entry| Hash::leaf(entry)).collect();
        if edge.levels.first().map_or(&[][..], Vec::as_slice) != leaves {
            return Err(EdgeError::Entry { bundle });
        }
        Ok(edge)
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut right = None;
        for tile in &self.levels {
            let mut peaks = Vec::new();
            let mut rest = tile.as_slice();
            while !rest.is_empty() {
                let (peak, tail) = rest.split_at(1 << rest.len().ilog2());
                peaks.extend(perfect_root(peak));
                rest = tail;
            }
            right = fold_right(&peaks, right);
        }
        right.unwrap_or_else(Hash::empty)
    }

    /// Appends an entry and returns what is complete by it, if anything: the full bundle first, then full tiles
    /// from level 0 up.
    ///
    /// # Errors
    /// [`EdgeError::TooLong`]; nothing is appended.
    pub fn push(&mut self, entry: Vec<u8>) -> Result<Vec<Resource>, EdgeError> {
        if entry.len() > MAX_ENTRY {
            return Err(EdgeError::TooLong(BundleError::TooLong));
        }
        let mut full = Vec::new();
        let mut carried = Some(Hash::leaf(&entry));
        let at = self.size;
        self.entries.push(entry);
        if self.entries.len() == WIDTH {
            full.push(self.bundle(at / TILE_WIDTH)?);
            self.entries.clear();
        }
        self.size += 1;
        let mut level = 0_u8;
        while let Some(hash) = carried.take() {
            if self.levels.len() == usize::from(level) {
                self.levels.push(Vec::new());
            }
            let Some(tile) = self.levels.get_mut(usize::from(level)) else { break };
            tile.push(hash);
            if tile.len() == WIDTH {
                let index = at.checked_shr(8 * (u32::from(level) + 1)).unwrap_or(0);
                full.push(Resource { path: tile_path(level, index, TILE_WIDTH), bytes: encode_tile(tile) });
                carried = perfect_root(tile);
                tile.clear();
                level += 1;
            }
        }
        Ok(full)
    }

    /// The partial bundle and the partial tiles of every level, for a checkpoint of this size.
    ///
    /// # Errors
    /// [`EdgeError::TooLong`], never after [`Self::push`].
    pub fn partials(&self) -> Result<Vec<Resource>, EdgeError> {
        let mut partial = Vec::new();
        if !self.entries.is_empty() {
            partial.push(self.bundle(self.size / TILE_WIDTH)?);
        }
        for (level, tile) in (0_u8..).zip(&self.levels).filter(|(_, tile)| !tile.is_empty()) {
            let hashes = self.size.checked_shr(8 * u32::from(level)).unwrap_or(0);
            let path = tile_path(level, hashes / TILE_WIDTH, hashes % TILE_WIDTH);
            partial.push(Resource { path, bytes: encode_tile(tile) });
        }
        Ok(partial)
    }

    fn bundle(&self, index: u64) -> Result<Resource, EdgeError> {
        let bytes = encode_bundle(self.entries.iter().map(Vec::as_slice)).map_err(EdgeError::TooLong)?;
        let width = u64::try_from(self.entries.len()).unwrap_or(TILE_WIDTH);
        Ok(Resource { path: bundle_path(index, width), bytes })
    }
}

/// The edge could not be read or grown.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// A resource could not be had.
    #[error("the edge of the tree cannot be read")]
    Read(#[source] ReadError),
    /// A bundle and its tile disagree.
    #[error("the entries of bundle {bundle} are not those of their tile")]
    Entry {
        /// The bundle's index.
        bundle: u64,
    },
    /// An entry does not fit in a bundle.
    #[error("the entry cannot be stored")]
    TooLong(#[source] BundleError),
}
