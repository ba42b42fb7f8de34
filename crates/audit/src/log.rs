//! The log on its disk: opened with everything checked, grown so that a crash at any point loses nothing that was
//! promised.
//!
//! Order of a growth: entry bundles, hash tiles, names durable, signature, checkpoint, its name durable. Only the
//! checkpoint makes entries part of the log: what a crash left beyond it is cleared away at the next start.

use std::{collections::BTreeSet, sync::Arc};

use sotto_runtime::failpoint;
use sotto_tlog::{
    CHECKPOINT_PATH, Checkpoint, Edge, Hash, ReadError, Resource, TILE_WIDTH, bundle_path, read_bundle,
    tile_path,
};

use crate::{
    adapters::wire,
    domain::{Act, ClosingBalance, Entry, EventRange, Index},
    error::LogError,
    ports::{Disk, Signer},
};

/// The most acts in one growth; each may bring a gap with it.
pub const MAX_ACTS: usize = 256;

/// The most ranges of events in one growth.
pub const MAX_RANGES: usize = 4;

/// Bundles beyond the edge that one growth can touch: `(2 * MAX_ACTS + MAX_RANGES + 1) / 256`, rounded up.
const MAX_TOUCHED: u64 = 3;

/// What is to be added to the log, within [`MAX_ACTS`] and [`MAX_RANGES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Acts in the order in which they came.
    pub acts: Vec<Act>,
    /// Ranges that follow the last one in the log.
    pub ranges: Vec<EventRange>,
    /// A balance that closes some of the ranges in the log.
    pub balance: Option<ClosingBalance>,
}

/// The newest state of the log that anyone may rely on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// The signed note.
    pub note: Arc<str>,
}

/// The log, by its one writer.
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    signer: Arc<dyn Signer>,
    edge: Edge,
    index: Index,
    published: Published,
    /// Paths of the partial files of the published size: those that did not change are not written again.
    partials: BTreeSet<String>,
}

impl Log {
    /// Opens the log, or begins one on an empty disk. Reads all of it: the leaves must lead to the signed root, and
    /// what the sequencer must know is folded from them.
    ///
    /// # Errors
    /// [`LogError`]; nothing of the log is changed then.
    pub fn open(disk: Arc<dyn Disk>, signer: Arc<dyn Signer>, producers: usize) -> Result<Self, LogError> {
        let published = match read(&*disk, CHECKPOINT_PATH)? {
            Some(bytes) => accept(&bytes, &*signer)?,
            None => begin(&*disk, &*signer)?,
        };
        // After the checkpoint, so that a crash in between leaves a log that can be opened.
        if !signer.has_begun().map_err(LogError::Sign)? {
            signer.note_begun().map_err(LogError::Sign)?;
        }
        let size = published.checkpoint.size;
        let edge = Edge::load(&*disk, size).map_err(LogError::Edge)?;
        let index = rebuild(&*disk, &published.checkpoint, producers)?;
        if edge.root() != published.checkpoint.root {
            return Err(LogError::Root);
        }
        clear_beyond(&*disk, size)?;
        let partials = edge.partials().map_err(LogError::Edge)?.into_iter().map(|file| file.path).collect();
        Ok(Self { disk, signer, edge, index, published, partials })
    }

    /// What the sequencer must know of the log.
    #[must_use]
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// The newest checkpoint.
    #[must_use]
    pub const fn published(&self) -> &Published {
        &self.published
    }

    /// Appends what `growth` adds and publishes the checkpoint that covers it: when this returns it is durable.
    /// Acts that are in the log already add nothing.
    ///
    /// # Errors
    /// [`LogError`]: whether the growth is in the log is not known. The log must be opened again.
    pub fn append(mut self, growth: Growth) -> Result<Self, LogError> {
        let mut entries: Vec<Entry> = growth.acts.into_iter().flat_map(|act| self.index.admit(act)).collect();
        for range in growth.ranges {
            entries.push(self.index.commit(range).map_err(LogError::Unsound)?);
        }
        if let Some(balance) = growth.balance {
            entries.push(self.index.close(balance).map_err(LogError::Unsound)?);
        }
        if entries.is_empty() {
            return Ok(self);
        }
        let mut full = Vec::new();
        for entry in &entries {
            full.extend(self.edge.push(wire::encode(entry)).map_err(LogError::Edge)?);
        }
        let mut partial = self.edge.partials().map_err(LogError::Edge)?;
        let partials = partial.iter().map(|file| file.path.clone()).collect();
        partial.retain(|file| !self.partials.contains(&file.path));
        self.store(full.iter().chain(&partial))?;
        let checkpoint = Checkpoint {
            origin: self.signer.origin().to_owned(),
            size: self.edge.size(),
            root: self.edge.root(),
        };
        failpoint("audit.stored");
        self.published = publish(&*self.disk, &*self.signer, checkpoint)?;
        self.partials = partials;
        for file in &full {
            // The full file answers for them from now on (tlog-tiles, "Partial Tiles"); what stays is only litter.
            if let Err(error) = self.disk.remove(&partial_folder(&file.path)) {
                tracing::warn!(path = file.path, %error, "partial files cannot be cleared away");
            }
        }
        Ok(self)
    }

    fn store<'a>(&self, files: impl Iterator<Item = &'a Resource>) -> Result<(), LogError> {
        let (bundles, tiles): (Vec<_>, Vec<_>) =
            files.partition(|file| file.path.starts_with("tile/entries/"));
        let mut paths = Vec::new();
        for file in bundles.into_iter().chain(tiles) {
            self.disk.put(&file.path, &file.bytes).map_err(LogError::disk("write", &file.path))?;
            paths.push(file.path.clone());
        }
        self.disk.settle(&paths).map_err(LogError::disk("make durable", "tile"))
    }
}

/// Signs a checkpoint and puts it in the place of the last one.
fn publish(disk: &dyn Disk, signer: &dyn Signer, checkpoint: Checkpoint) -> Result<Published, LogError> {
    let key = signer.current().map_err(LogError::Sign)?;
    let note = checkpoint.sign(&key, |text| signer.sign(text)).map_err(LogError::Sign)?.to_string();
    // Before anyone sees it: a signer that signs wrongly must not replace a checkpoint that verifies.
    Checkpoint::open(note.as_bytes(), &key).map_err(LogError::Checkpoint)?;
    disk.put(CHECKPOINT_PATH, note.as_bytes()).map_err(LogError::disk("write", CHECKPOINT_PATH))?;
    disk.settle(&[CHECKPOINT_PATH.to_owned()]).map_err(LogError::disk("make durable", CHECKPOINT_PATH))?;
    Ok(Published { checkpoint, note: note.into() })
}

/// Takes the checkpoint of the disk, signed by any key that was ever this log's.
fn accept(bytes: &[u8], signer: &dyn Signer) -> Result<Published, LogError> {
    let mut refusal = LogError::NoCheckpoint;
    for key in signer.accepted().map_err(LogError::Sign)? {
        match Checkpoint::open(bytes, &key) {
            Ok(checkpoint) => {
                return Ok(Published { checkpoint, note: String::from_utf8_lossy(bytes).into() });
            }
            Err(error) => refusal = LogError::Checkpoint(error),
        }
    }
    Err(refusal)
}

/// Begins a log with the signed checkpoint of nothing.
fn begin(disk: &dyn Disk, signer: &dyn Signer) -> Result<Published, LogError> {
    if !disk.names("tile").map_err(LogError::disk("list", "tile"))?.is_empty() {
        return Err(LogError::NoCheckpoint);
    }
    // A folder that was wiped looks like a new one; the keystore remembers.
    if signer.has_begun().map_err(LogError::Sign)? {
        return Err(LogError::Gone);
    }
    publish(disk, signer, Checkpoint { origin: signer.origin().to_owned(), size: 0, root: Hash::empty() })
}

/// Folds the index from every entry, which must be the ones that were signed.
fn rebuild(disk: &dyn Disk, checkpoint: &Checkpoint, producers: usize) -> Result<Index, LogError> {
    let mut index = Index::new(producers);
    let mut leaves = sotto_tlog::Frontier::new();
    for bundle in 0..checkpoint.size.div_ceil(TILE_WIDTH) {
        for bytes in read_bundle(disk, checkpoint.size, bundle).map_err(LogError::Read)? {
            leaves.push(Hash::leaf(&bytes));
            let entry = wire::decode(&bytes).map_err(|_| LogError::Entry { index: index.size() })?;
            index.fold(&entry).map_err(LogError::Unsound)?;
        }
    }
    if leaves.root() == checkpoint.root { Ok(index) } else { Err(LogError::Root) }
}

/// Removes what a crash left beyond the checkpoint: it was never part of the log, and a later tree of the same size
/// would find it in its place.
fn clear_beyond(disk: &dyn Disk, size: u64) -> Result<(), LogError> {
    clear_column(disk, size, bundle_path)?;
    for level in 0..8_u8 {
        clear_column(disk, size >> (8 * u32::from(level)), |index, width| tile_path(level, index, width))?;
    }
    Ok(())
}

/// Clears one level of tiles, of which `count` hashes are real.
fn clear_column(disk: &dyn Disk, count: u64, path: impl Fn(u64, u64) -> String) -> Result<(), LogError> {
    let (edge, width) = (count / TILE_WIDTH, count % TILE_WIDTH);
    let remove = |path: &str| disk.remove(path).map_err(LogError::disk("remove", path));
    // The full tile before the edge answers for its partial ones.
    if let Some(before) = edge.checked_sub(1) {
        remove(&partial_folder(&path(before, TILE_WIDTH)))?;
    }
    let mut index = edge;
    loop {
        let full = path(index, TILE_WIDTH);
        let folder = partial_folder(&full);
        let partials = disk.names(&folder).map_err(LogError::disk("list", &folder))?;
        let left = read(disk, &full)?.is_some() || !partials.is_empty();
        // Names that were not made durable may be lost in any pattern: one that is missing does not end the search.
        if index > edge + MAX_TOUCHED && !left {
            return Ok(());
        }
        remove(&full)?;
        for name in partials {
            let real = index == edge && name.parse::<u64>().is_ok_and(|held| held <= width);
            if !real {
                remove(&format!("{folder}/{name}"))?;
            }
        }
        if index > edge {
            remove(&folder)?;
        }
        index += 1;
    }
}

fn partial_folder(full: &str) -> String {
    format!("{full}.p")
}

fn read(disk: &dyn Disk, path: &str) -> Result<Option<Vec<u8>>, LogError> {
    disk.read(path).map_err(|source| LogError::Read(ReadError::Read { path: path.to_owned(), source }))
}
