//! Reading a log that lies somewhere: a folder, a web server, a map in a test.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::{
    hash::{Hash, perfect_root},
    proof::Nodes,
    tile::{
        BundleError, TILE_WIDTH, TileError, bundle_path, decode_bundle, decode_tile, tile_path, width_at,
    },
};

/// Where the resources of a log come from, by their C2SP path (`checkpoint`, `tile/0/000`, …).
pub trait Source {
    /// The resource's bytes; `None` when it does not exist.
    ///
    /// # Errors
    /// When it exists and cannot be read, or when that is not known.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;
}

impl<F: Fn(&str) -> io::Result<Option<Vec<u8>>>> Source for F {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self(path)
    }
}

/// A log in a folder.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Reads below `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }
}

impl Source for Directory {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.0.join(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Tiles read so far, by level and index.
type Tiles = HashMap<(u8, u64), Rc<[Hash]>>;

/// The subtree hashes of a log of a given size, read from its tiles. Nothing read is trusted: what is built
/// from it must lead to a signed root.
#[derive(Debug)]
pub struct TileNodes<'a, S: ?Sized> {
    source: &'a S,
    size: u64,
    // A proof needs a handful of tiles, some of them several times; a reader lives for one request.
    tiles: RefCell<Tiles>,
}

impl<'a, S: Source + ?Sized> TileNodes<'a, S> {
    /// Reads the tiles of a tree with `size` leaves.
    pub fn new(source: &'a S, size: u64) -> Self {
        Self { source, size, tiles: RefCell::default() }
    }

    /// The hashes of one tile, as many as the tree's size says.
    pub(crate) fn tile_hashes(&self, level: u8, index: u64) -> Result<Vec<Hash>, ReadError> {
        self.tile(level, index).map(|tile| tile.to_vec())
    }

    fn tile(&self, level: u8, index: u64) -> Result<Rc<[Hash]>, ReadError> {
        if let Some(tile) = self.tiles.borrow().get(&(level, index)) {
            return Ok(Rc::clone(tile));
        }
        let width = width_at(self.size, level, index);
        let path = |width| tile_path(level, index, width);
        let tile: Rc<[Hash]> = match read_at(self.source, width, path)? {
            Found::Exact(bytes) => {
                decode_tile(&bytes, width).map_err(|source| ReadError::Tile { path: path(width), source })?
            }
            Found::Full(bytes) => {
                let mut tile = decode_tile(&bytes, TILE_WIDTH)
                    .map_err(|source| ReadError::Tile { path: path(TILE_WIDTH), source })?;
                tile.truncate(usize::try_from(width).unwrap_or(usize::MAX));
                tile
            }
        }
        .into();
        self.tiles.borrow_mut().insert((level, index), Rc::clone(&tile));
        Ok(tile)
    }
}

impl<S: Source + ?Sized> Nodes for TileNodes<'_, S> {
    type Error = ReadError;

    fn node(&self, level: u8, index: u64) -> Result<Hash, ReadError> {
        // A tile holds every eighth level; the levels between are hashed from it.
        let (tile_level, above) = (level / 8, u32::from(level % 8));
        let in_tile = TILE_WIDTH >> above;
        let tile = self.tile(tile_level, index / in_tile)?;
        let missing = || ReadError::Missing { path: tile_path(tile_level, index / in_tile, TILE_WIDTH) };
        let start = usize::try_from((index % in_tile) << above).map_err(|_| missing())?;
        let hashes = tile.get(start..start + (1 << above)).ok_or_else(missing)?;
        perfect_root(hashes).ok_or_else(missing)
    }
}

/// The bytes of entry bundle `index` in a tree of `size` leaves, and the number of entries that count. A full
/// bundle may hold more than that: those are not under this tree.
///
/// # Errors
/// [`ReadError`].
pub fn read_bundle<S: Source + ?Sized>(source: &S, size: u64, index: u64) -> Result<Vec<Vec<u8>>, ReadError> {
    let width = width_at(size, 0, index);
    let path = |width| bundle_path(index, width);
    let (bytes, held) = match read_at(source, width, path)? {
        Found::Exact(bytes) => (bytes, width),
        Found::Full(bytes) => (bytes, TILE_WIDTH),
    };
    let entries =
        decode_bundle(&bytes, held).map_err(|source| ReadError::Bundle { path: path(held), source })?;
    Ok(entries.into_iter().take(usize::try_from(width).unwrap_or(usize::MAX)).map(<[u8]>::to_vec).collect())
}

enum Found {
    Exact(Vec<u8>),
    Full(Vec<u8>),
}

/// A partial resource may be gone once the full one is there (tlog-tiles, "Partial Tiles").
fn read_at<S: Source + ?Sized>(
    source: &S,
    width: u64,
    path: impl Fn(u64) -> String,
) -> Result<Found, ReadError> {
    let read = |width| {
        source.read(&path(width)).map_err(|error| ReadError::Read { path: path(width), source: error })
    };
    if width == 0 {
        return Err(ReadError::Missing { path: path(TILE_WIDTH) });
    }
    if let Some(bytes) = read(width)? {
        return Ok(Found::Exact(bytes));
    }
    match read(TILE_WIDTH)? {
        Some(bytes) => Ok(Found::Full(bytes)),
        None => Err(ReadError::Missing { path: path(width) }),
    }
}

/// A resource of the log could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It does not exist.
    #[error("{path} is missing")]
    Missing {
        /// Its path.
        path: String,
    },
    /// It could not be read.
    #[error("{path} cannot be read")]
    Read {
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It is no tile of this place.
    #[error("{path} is damaged")]
    Tile {
        /// Its path.
        path: String,
        /// Why.
        source: TileError,
    },
    /// It is no bundle of this place.
    #[error("{path} is damaged")]
    Bundle {
        /// Its path.
        path: String,
        /// Why.
        source: BundleError,
    },
}
