//! Finds the ranges of events in the files of the log.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use sotto_tlog::{TILE_WIDTH, read_bundle};

use crate::{
    adapters::wire,
    domain::{Entry, EventRange},
    error::LogError,
    log::Published,
    ports::Disk,
};

/// The ranges from a sequence on, in their order, a bundle of entries at a time.
#[derive(Debug)]
pub struct Ranges {
    disk: Arc<dyn Disk>,
    size: u64,
    from: u64,
    bundles: Range<u64>,
    ready: VecDeque<EventRange>,
}

impl Ranges {
    /// Those that `published` covers, from the one on that holds sequence `from` and is in `bundle`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, published: &Published, bundle: u64, from: u64) -> Self {
        let size = published.checkpoint.size;
        Self { disk, size, from, bundles: bundle..size.div_ceil(TILE_WIDTH), ready: VecDeque::new() }
    }
}

impl Iterator for Ranges {
    type Item = Result<EventRange, LogError>;

    /// Blocks while it reads a bundle.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(range) = self.ready.pop_front() {
                return Some(Ok(range));
            }
            let ranges = match ranges_of(&*self.disk, self.size, self.bundles.next()?) {
                Ok(ranges) => ranges,
                Err(error) => return Some(Err(error)),
            };
            let from = self.from;
            self.ready.extend(ranges.into_iter().map(|(_, range)| range).filter(|range| range.last >= from));
        }
    }
}

/// The ranges in one bundle, each with the index of its entry.
///
/// # Errors
/// [`LogError`] when the file is not one of a log.
pub fn ranges_of(disk: &dyn Disk, size: u64, bundle: u64) -> Result<Vec<(u64, EventRange)>, LogError> {
    let mut ranges = Vec::new();
    let entries = read_bundle(disk, size, bundle).map_err(LogError::Read)?;
    for (index, bytes) in (bundle * TILE_WIDTH..).zip(entries) {
        match wire::decode(&bytes).map_err(|_| LogError::Entry { index })? {
            Entry::EventRange(range) => ranges.push((index, range)),
            Entry::Act(_) | Entry::Gap(_) | Entry::ClosingBalance(_) => {}
        }
    }
    Ok(ranges)
}
