//! The check of a whole log, from its files and its verifier key alone.

use crate::{
    checkpoint::{Checkpoint, CheckpointError},
    edge::{Edge, EdgeError, Resource},
    note::VerifierKey,
    source::{ReadError, Source, read_bundle},
    tile::{CHECKPOINT_PATH, TILE_WIDTH},
};

/// What was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The verified checkpoint.
    pub checkpoint: Checkpoint,
    /// Entry bundles read.
    pub bundles: u64,
    /// Hash tiles read and compared.
    pub tiles: u64,
}

/// Re-reads every entry and tile below the checkpoint, recomputes the tree and compares: signature, each tile,
/// root. `entry` sees every entry in order, with its index, *before* the root is known to match: judge what it
/// collects only after this returns.
///
/// `checkpoint` replaces the log's own, for a copy kept elsewhere: the log must contain that tree.
///
/// # Errors
/// The first [`Fault`] met.
pub fn fsck<S: Source + ?Sized>(
    source: &S,
    key: &VerifierKey,
    checkpoint: Option<&[u8]>,
    mut entry: impl FnMut(u64, &[u8]),
) -> Result<Report, Fault> {
    let checkpoint = match checkpoint {
        Some(bytes) => Checkpoint::open(bytes, key),
        None => Checkpoint::open(&read_checkpoint(source)?, key),
    }
    .map_err(Fault::Checkpoint)?;
    let mut edge = Edge::new();
    let mut report = Report { checkpoint, bundles: 0, tiles: 0 };
    let size = report.checkpoint.size;
    let mut index = 0;
    for bundle in 0..size.div_ceil(TILE_WIDTH) {
        for bytes in read_bundle(source, size, bundle).map_err(Fault::Read)? {
            entry(index, &bytes);
            index += 1;
            let full = edge.push(bytes).map_err(Fault::Edge)?;
            compare(source, &full, &mut report)?;
        }
        report.bundles += 1;
    }
    compare_partials(source, &edge, &mut report)?;
    if edge.root() == report.checkpoint.root { Ok(report) } else { Err(Fault::Root) }
}

fn read_checkpoint<S: Source + ?Sized>(source: &S) -> Result<Vec<u8>, Fault> {
    let path = || CHECKPOINT_PATH.to_owned();
    match source.read(CHECKPOINT_PATH) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(Fault::Read(ReadError::Missing { path: path() })),
        Err(source) => Err(Fault::Read(ReadError::Read { path: path(), source })),
    }
}

/// Compares computed full tiles with stored ones. Bundles are where they were computed from.
fn compare<S: Source + ?Sized>(source: &S, computed: &[Resource], report: &mut Report) -> Result<(), Fault> {
    for resource in computed.iter().filter(|resource| !resource.path.starts_with("tile/entries/")) {
        let stored = read(source, &resource.path)?;
        let stored = stored.ok_or_else(|| Fault::Read(ReadError::Missing { path: resource.path.clone() }))?;
        if stored != resource.bytes {
            return Err(Fault::Tile { path: resource.path.clone() });
        }
        report.tiles += 1;
    }
    Ok(())
}

/// Compares the partial tiles; a full tile may stand in for a partial one that was cleared away.
fn compare_partials<S: Source + ?Sized>(source: &S, edge: &Edge, report: &mut Report) -> Result<(), Fault> {
    for resource in edge.partials().map_err(Fault::Edge)? {
        if resource.path.starts_with("tile/entries/") {
            continue;
        }
        let full = resource.path.split(".p/").next().unwrap_or_default();
        let same = match read(source, &resource.path)? {
            Some(stored) => stored == resource.bytes,
            None => match read(source, full)? {
                Some(stored) => stored.starts_with(&resource.bytes),
                None => return Err(Fault::Read(ReadError::Missing { path: resource.path })),
            },
        };
        if !same {
            return Err(Fault::Tile { path: resource.path });
        }
        report.tiles += 1;
    }
    Ok(())
}

fn read<S: Source + ?Sized>(source: &S, path: &str) -> Result<Option<Vec<u8>>, Fault> {
    source.read(path).map_err(|error| Fault::Read(ReadError::Read { path: path.to_owned(), source: error }))
}

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The checkpoint.
    #[error("the log's checkpoint was refused")]
    Checkpoint(#[source] CheckpointError),
    /// A resource is missing or damaged.
    #[error("a part of the log cannot be read")]
    Read(#[source] ReadError),
    /// A tile holds other hashes than the entries and tiles below it.
    #[error("{path} does not belong to the entries below it")]
    Tile {
        /// Its path.
        path: String,
    },
    /// The entries lead to another root than was signed.
    #[error("the entries do not lead to the signed root: an entry was altered, added or removed")]
    Root,
    /// The tree could not be rebuilt.
    #[error("the tree cannot be rebuilt from its entries")]
    Edge(#[source] EdgeError),
}
