//! What a token says of its buckets.

use std::{collections::BTreeMap, fmt};

use cryptoki::object::{ObjectClass, ObjectHandle};

use super::super::objects::{Object, label};
use crate::{BucketInfo, Destruction, KeystoreError};

/// The words in the label of a bucket's key.
pub(super) const BUCKET: &str = "bucket";
/// Of the fact how many wraps are reserved.
pub(super) const WRAPS: &str = "wraps";
/// Of a tombstone.
pub(super) const GONE: &str = "gone";
/// Of what stands for forgotten tombstones.
pub(super) const FLOOR: &str = "floor";

/// A token's buckets, as this process last read them and has used them since.
#[derive(Default)]
pub(super) struct State {
    /// In which the handles are good; 0: they must be looked up.
    pub(super) epoch: u64,
    pub(super) living: BTreeMap<String, Bucket>,
    pub(super) destroyed: BTreeMap<String, Destruction>,
    /// Every bucket that was to die by then is dead.
    pub(super) floor: Option<i64>,
    pub(super) generation: u64,
}

pub(super) struct Bucket {
    pub(super) created_at_ms: i64,
    pub(super) dies_at_ms: i64,
    pub(super) key: ObjectHandle,
    /// Wraps that the token allows.
    pub(super) reserved: u64,
    /// Wraps made or wasted; at most `reserved`.
    pub(super) made: u64,
    /// Calls that use the key now.
    pub(super) users: usize,
    /// Nobody may use the key any more.
    pub(super) dying: bool,
}

impl Bucket {
    pub(super) fn info(&self, bucket: &str) -> BucketInfo {
        BucketInfo {
            bucket: bucket.to_owned(),
            created_at_ms: self.created_at_ms,
            dies_at_ms: self.dies_at_ms,
            wraps_at_most: self.made,
        }
    }

    /// Counts a wrap, if one is reserved.
    pub(super) fn count(&mut self) -> bool {
        let left = self.made < self.reserved;
        self.made += u64::from(left);
        left
    }
}

impl State {
    /// A living bucket.
    pub(super) fn usable(&mut self, bucket: &str) -> Result<&mut Bucket, KeystoreError> {
        if self.destroyed.contains_key(bucket) {
            return Err(KeystoreError::BucketDestroyed);
        }
        match self.living.get_mut(bucket) {
            Some(living) if living.dying => Err(KeystoreError::BucketDestroyed),
            Some(living) => Ok(living),
            None => Err(KeystoreError::BucketUnknown),
        }
    }
}

/// What the objects of a token say; none when they contradict one another.
pub(super) fn read(objects: &[Object]) -> Option<State> {
    let mut state = State::default();
    for object in objects {
        if let Some(words) = object.words(FLOOR) {
            let [floor, generation] = words.as_slice() else { return None };
            state.floor = state.floor.max(Some(floor.parse().ok()?));
            state.generation = state.generation.max(generation.parse().ok()?);
        }
        if let Some(words) = object.words(GONE) {
            let gone = read_gone(&words)?;
            state.generation = state.generation.max(gone.generation);
            state.destroyed.insert(gone.bucket.clone(), gone);
        }
    }
    for object in objects.iter().filter(|object| object.class == ObjectClass::SECRET_KEY) {
        let Some(words) = object.words(BUCKET) else { continue };
        let [name, created_at_ms, dies_at_ms] = words.as_slice() else { return None };
        let reserved = wraps_of(objects, name).map(|(wraps, _)| wraps).max().unwrap_or(0);
        let bucket = Bucket {
            created_at_ms: created_at_ms.parse().ok()?,
            dies_at_ms: dies_at_ms.parse().ok()?,
            key: object.handle,
            reserved,
            made: reserved,
            users: 0,
            dying: state.destroyed.contains_key(*name),
        };
        if state.living.insert((*name).to_owned(), bucket).is_some() {
            return None;
        }
    }
    Some(state)
}

pub(super) fn gone_label(slot: &str, gone: &Destruction) -> String {
    let words: [&dyn fmt::Display; 6] = [
        &gone.bucket,
        &gone.created_at_ms,
        &gone.dies_at_ms,
        &gone.destroyed_at_ms,
        &gone.wraps_at_most,
        &gone.generation,
    ];
    label(GONE, slot, &words)
}

fn read_gone(words: &[&str]) -> Option<Destruction> {
    let [bucket, created_at_ms, dies_at_ms, destroyed_at_ms, wraps_at_most, generation] = words else {
        return None;
    };
    Some(Destruction {
        bucket: (*bucket).to_owned(),
        created_at_ms: created_at_ms.parse().ok()?,
        dies_at_ms: dies_at_ms.parse().ok()?,
        destroyed_at_ms: destroyed_at_ms.parse().ok()?,
        wraps_at_most: wraps_at_most.parse().ok()?,
        generation: generation.parse().ok()?,
    })
}

/// The facts that say how many wraps of a bucket are reserved.
pub(super) fn wraps_of<'a>(
    objects: &'a [Object],
    bucket: &'a str,
) -> impl Iterator<Item = (u64, ObjectHandle)> + 'a {
    objects.iter().filter_map(move |object| match object.words(WRAPS)?.as_slice() {
        [of, wraps] if *of == bucket => Some((wraps.parse().ok()?, object.handle)),
        _ => None,
    })
}
