//! Bucket keys in one encrypted file that is never backed up.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sotto_crypto::{
    AeadKey, MacKey, Zeroizing,
    wrap::{MAX_WRAPS, WRAPPED_LEN, WrapBinding, unwrap_key, wrap_key},
};

use crate::{
    BucketInfo, BucketKeystore, Destruction, Fate, KeystoreError, UnlockSecret,
    codec::{MAX_NAME, Reader, Writer, check_name},
    file::{FileKind, KeyFile},
};

/// Wraps are counted on disk by blocks of this many: a restart wastes what is left of one, and never counts too few.
pub(crate) const WRAP_BLOCK: u64 = 1 << 16;

const LIVING: u8 = 1;
const DESTROYED: u8 = 2;

/// The most bytes one record takes: mark, id, three numbers and a key, or five numbers.
const MAX_RECORD: usize = 1 + 1 + MAX_NAME + 3 * 8 + 32;

/// The software keystore of the buckets. It holds the file's lock for its whole life: one process, one writer.
pub struct SoftBuckets {
    file: KeyFile,
    state: Mutex<State>,
    _lock: File,
}

#[derive(Clone)]
struct State {
    generation: u64,
    living: BTreeMap<String, Bucket>,
    destroyed: BTreeMap<String, Destruction>,
}

#[derive(Clone)]
struct Bucket {
    created_at_ms: i64,
    dies_at_ms: i64,
    key: Arc<AeadKey>,
    /// Wraps the file allows; on disk.
    reserved: u64,
    /// Wraps made or wasted; at most `reserved`, in memory only.
    made: u64,
}

impl SoftBuckets {
    /// Makes the empty bucket file of a slot; a file that stands there is never overwritten.
    ///
    /// # Errors
    /// [`KeystoreError::Exists`], [`KeystoreError::InUse`], [`KeystoreError::Name`], [`KeystoreError::Io`].
    pub fn create(path: &Path, secret: UnlockSecret, slot: &str) -> Result<Self, KeystoreError> {
        let file = KeyFile::new(path, slot, FileKind::Buckets, secret)?;
        let lock = file.try_lock()?;
        let state = State { generation: 1, living: BTreeMap::new(), destroyed: BTreeMap::new() };
        file.create(&state.encode()?)?;
        Ok(Self { file, state: Mutex::new(state), _lock: lock })
    }

    /// Opens the bucket file of a slot and erases what a crash left of an older one.
    ///
    /// # Errors
    /// [`KeystoreError::InUse`], [`KeystoreError::Mode`], [`KeystoreError::Format`], [`KeystoreError::Refused`].
    pub fn open(path: &Path, secret: UnlockSecret, slot: &str) -> Result<Self, KeystoreError> {
        let file = KeyFile::new(path, slot, FileKind::Buckets, secret)?;
        let lock = file.try_lock()?;
        let state = State::load(&file)?;
        file.recover()?;
        Ok(Self { file, state: Mutex::new(state), _lock: lock })
    }

    /// How often the file was written. A number below one that was seen before betrays a restored old file.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Puts a changed state on disk, then in place.
    fn commit(&self, state: &mut State, mut next: State) -> Result<(), KeystoreError> {
        next.generation = state.generation + 1;
        self.file.replace(next.generation, &next.encode()?)?;
        *state = next;
        Ok(())
    }

    // A state is only ever replaced whole, so one behind a panic is sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BucketKeystore for SoftBuckets {
    fn create_bucket(&self, bucket: &str, dies_at_ms: i64, now_ms: i64) -> Result<BucketInfo, KeystoreError> {
        check_name(bucket)?;
        let mut state = self.state();
        if state.destroyed.contains_key(bucket) {
            return Err(KeystoreError::BucketDestroyed);
        }
        if let Some(living) = state.living.get(bucket) {
            return if living.dies_at_ms == dies_at_ms {
                Ok(living.info(bucket))
            } else {
                Err(KeystoreError::BucketTime)
            };
        }
        if dies_at_ms <= now_ms {
            return Err(KeystoreError::BucketTime);
        }
        let key = AeadKey::generate().map_err(KeystoreError::Crypto)?;
        let made = Bucket { created_at_ms: now_ms, dies_at_ms, key: Arc::new(key), reserved: 0, made: 0 };
        let info = made.info(bucket);
        let mut next = state.clone();
        next.living.insert(bucket.to_owned(), made);
        self.commit(&mut state, next)?;
        Ok(info)
    }

    // The file keeps 32 bytes of every bucket: what is done with them follows from its name, which its maker chose.
    fn create_deriving_bucket(
        &self,
        bucket: &str,
        dies_at_ms: i64,
        now_ms: i64,
    ) -> Result<BucketInfo, KeystoreError> {
        self.create_bucket(bucket, dies_at_ms, now_ms)
    }

    fn derive_key(
        &self,
        bucket: &str,
        purpose: &str,
        fields: &[&[u8]],
    ) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        let state = self.state();
        let key = MacKey::from_bytes(*state.bucket(bucket)?.key.expose());
        Ok(Zeroizing::new(key.mac(purpose, fields)))
    }

    fn wrap_session_key(
        &self,
        binding: &WrapBinding<'_>,
        session: &AeadKey,
    ) -> Result<[u8; WRAPPED_LEN], KeystoreError> {
        let mut state = self.state();
        let bucket = state.bucket(binding.bucket)?;
        if bucket.made == bucket.reserved {
            if bucket.reserved >= MAX_WRAPS {
                return Err(KeystoreError::WrapLimit);
            }
            let mut next = state.clone();
            if let Some(bucket) = next.living.get_mut(binding.bucket) {
                bucket.reserved += WRAP_BLOCK;
            }
            self.commit(&mut state, next)?;
        }
        let bucket = state.living.get_mut(binding.bucket).ok_or(KeystoreError::BucketUnknown)?;
        bucket.made += 1;
        wrap_key(&bucket.key, binding, session).map_err(KeystoreError::Crypto)
    }

    fn unwrap_session_key(
        &self,
        binding: &WrapBinding<'_>,
        wrapped: &[u8],
    ) -> Result<AeadKey, KeystoreError> {
        // Under the lock: when a destruction is reported, no thread uses the key any more.
        let state = self.state();
        unwrap_key(&state.bucket(binding.bucket)?.key, binding, wrapped).map_err(KeystoreError::Unwrap)
    }

    fn destroy_bucket(&self, bucket: &str, now_ms: i64) -> Result<Destruction, KeystoreError> {
        let mut state = self.state();
        if let Some(done) = state.destroyed.get(bucket) {
            return Ok(done.clone());
        }
        let mut next = state.clone();
        let (id, dying) = next.living.remove_entry(bucket).ok_or(KeystoreError::BucketUnknown)?;
        let destruction = Destruction {
            bucket: id.clone(),
            created_at_ms: dying.created_at_ms,
            dies_at_ms: dying.dies_at_ms,
            destroyed_at_ms: now_ms,
            wraps_at_most: dying.reserved,
            generation: state.generation + 1,
        };
        next.destroyed.insert(id, destruction.clone());
        self.commit(&mut state, next)?;
        Ok(destruction)
    }

    fn check_file(&self) -> Result<(), KeystoreError> {
        // Keys are used while the disk is read; a file that is written meanwhile is a newer one.
        let known = self.state().generation;
        self.file.check(known)
    }

    fn buckets(&self) -> Result<Vec<BucketInfo>, KeystoreError> {
        Ok(self.state().living.iter().map(|(id, bucket)| bucket.info(id)).collect())
    }

    fn destroyed(&self) -> Result<Vec<Destruction>, KeystoreError> {
        Ok(self.state().destroyed.values().cloned().collect())
    }

    fn fate(&self, bucket: &str) -> Fate {
        match self.state().bucket(bucket) {
            Ok(_) => Fate::Living,
            Err(KeystoreError::BucketDestroyed) => Fate::Destroyed,
            Err(_) => Fate::Unknown,
        }
    }
}

impl fmt::Debug for SoftBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftBuckets")
            .field("slot", &self.file.slot())
            .field("path", &self.file.path())
            .finish_non_exhaustive()
    }
}

impl Bucket {
    fn info(&self, bucket: &str) -> BucketInfo {
        BucketInfo {
            bucket: bucket.to_owned(),
            created_at_ms: self.created_at_ms,
            dies_at_ms: self.dies_at_ms,
            wraps_at_most: self.made,
        }
    }
}

impl State {
    fn bucket(&self, bucket: &str) -> Result<&Bucket, KeystoreError> {
        self.living.get(bucket).ok_or_else(|| {
            if self.destroyed.contains_key(bucket) {
                KeystoreError::BucketDestroyed
            } else {
                KeystoreError::BucketUnknown
            }
        })
    }

    fn load(file: &KeyFile) -> Result<Self, KeystoreError> {
        let content = file.load()?;
        let mut state =
            Self { generation: content.generation, living: BTreeMap::new(), destroyed: BTreeMap::new() };
        let mut reader = Reader::new(&content.plaintext);
        while !reader.rest().is_empty() {
            state.read_record(&mut reader).ok_or_else(|| file.unsound("a bucket's record does not parse"))?;
        }
        Ok(state)
    }

    fn read_record(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mark = reader.u8()?;
        let bucket = reader.name()?.to_owned();
        let created_at_ms = reader.i64()?;
        let dies_at_ms = reader.i64()?;
        let wraps = reader.u64()?;
        match mark {
            LIVING => {
                let key = Zeroizing::new(reader.array()?);
                let key = Arc::new(AeadKey::from_bytes(*key));
                // What was reserved before counts as made: nobody knows how much of it was.
                let living = Bucket { created_at_ms, dies_at_ms, key, reserved: wraps, made: wraps };
                self.living.insert(bucket, living);
            }
            DESTROYED => {
                let destroyed_at_ms = reader.i64()?;
                let generation = reader.u64()?;
                let destruction = Destruction {
                    bucket: bucket.clone(),
                    created_at_ms,
                    dies_at_ms,
                    destroyed_at_ms,
                    wraps_at_most: wraps,
                    generation,
                };
                self.destroyed.insert(bucket, destruction);
            }
            _ => return None,
        }
        Some(())
    }

    fn encode(&self) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let mut writer = Writer::with_capacity((self.living.len() + self.destroyed.len()) * MAX_RECORD);
        for (id, bucket) in &self.living {
            writer.u8(LIVING);
            writer.name(id)?;
            writer.i64(bucket.created_at_ms);
            writer.i64(bucket.dies_at_ms);
            writer.u64(bucket.reserved);
            writer.bytes(bucket.key.expose());
        }
        for (id, gone) in &self.destroyed {
            writer.u8(DESTROYED);
            writer.name(id)?;
            writer.i64(gone.created_at_ms);
            writer.i64(gone.dies_at_ms);
            writer.u64(gone.wraps_at_most);
            writer.i64(gone.destroyed_at_ms);
            writer.u64(gone.generation);
        }
        Ok(writer.finish())
    }
}
