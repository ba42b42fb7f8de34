//! Bucket keys in a token.
//!
//! A bucket lives while its key is there and no tombstone of it is. The tombstone is made first and the key destroyed then, so
//! that a crash between the two leaves a bucket that is dead and whose key the next opening destroys.

mod state;

use std::{
    fmt,
    fs::{File, TryLockError},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use cryptoki::object::ObjectHandle;
use sotto_crypto::{
    AeadKey, MacKey, Zeroizing,
    random::random_array,
    wrap::{self, MAX_WRAPS, UnwrapError, WRAPPED_LEN, WrapBinding},
};

use state::{BUCKET, Bucket, FLOOR, GONE, State, WRAPS, gone_label, read, wraps_of};

use super::{
    Token,
    objects::{self, ID_LEN, Object, Trouble, label},
    pool::Conn,
};
use crate::{
    BucketInfo, BucketKeystore, Destruction, Fate, KeystoreError, buckets::WRAP_BLOCK, codec::check_name,
};

/// Tombstones that a token keeps. Beyond that the oldest deaths become one fact: no bucket that would have died by then is
/// ever made again. At a bucket an hour and four a day that is nine days, and the audit log has every death for good.
const TOMBSTONES: usize = 256;

/// The word in the label of the fact that a slot was made.
const SLOT: &str = "slot";

/// The bucket keystore of a slot in a token. One process at a time on a machine: it holds a lock on its PIN file.
pub struct Pkcs11Buckets {
    token: Token,
    slot: String,
    state: Mutex<State>,
    /// Somebody has ended using a bucket's key.
    released: Condvar,
    /// Held for a change of what the token holds.
    changing: Mutex<()>,
    _lock: File,
}

/// Marks a token as the keystore of a slot.
pub(super) fn make_slot(token: &Token, slot: &str) -> Result<(), KeystoreError> {
    check_name(slot)?;
    token.attempt(
        || {},
        |conn| match token.list(conn, slot) {
            Ok(_) => {
                Err(KeystoreError::Exists { path: format!("{slot} in {}", token.label()).into() }.into())
            }
            Err(Trouble::Own(KeystoreError::Slot { .. })) => {
                objects::make_fact(conn, &label(SLOT, slot, &[]), &[])?;
                Ok(token.sync()?)
            }
            Err(trouble) => Err(trouble),
        },
    )
}

impl Pkcs11Buckets {
    /// Makes the empty bucket keystore of a slot in a token that has none.
    ///
    /// # Errors
    /// [`KeystoreError::Exists`], [`KeystoreError::InUse`], [`KeystoreError::Name`], and what a token says.
    pub fn create(token: Token, slot: &str) -> Result<Self, KeystoreError> {
        make_slot(&token, slot)?;
        Self::open(token, slot)
    }

    /// Opens the bucket keystore of a slot, and ends what a crash left half done.
    ///
    /// # Errors
    /// [`KeystoreError::InUse`]; [`KeystoreError::Slot`] when the token has none; what a token says.
    pub fn open(token: Token, slot: &str) -> Result<Self, KeystoreError> {
        check_name(slot)?;
        let path = token.pin_file();
        let lock = File::open(path).map_err(KeystoreError::io("open", path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => KeystoreError::InUse { path: path.to_owned() },
            TryLockError::Error(error) => KeystoreError::io("lock", path)(error),
        })?;
        let keystore = Self {
            token,
            slot: slot.to_owned(),
            state: Mutex::default(),
            released: Condvar::new(),
            changing: Mutex::new(()),
            _lock: lock,
        };
        keystore.token.attempt(
            || keystore.forget(),
            |conn| {
                keystore.sync(conn)?;
                keystore.tidy(conn)
            },
        )?;
        Ok(keystore)
    }

    /// One more with every destruction. A number below one that was seen before betrays a restored old token.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.state().generation
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers that are whole between statements; handles that prove themselves at each use.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self) {
        self.state().epoch = 0;
    }

    /// Reads the token when what is known is of another epoch. Who uses a key now goes on counting.
    fn sync(&self, conn: &Conn<'_>) -> Result<(), Trouble> {
        if self.state().epoch == conn.epoch {
            return Ok(());
        }
        let objects = self.token.list(conn, &self.slot)?;
        let mut next = read(&objects)
            .ok_or_else(|| self.token.unsound("the objects of the buckets contradict one another"))?;
        let mut state = self.state();
        for (name, bucket) in &mut next.living {
            if let Some(before) = state.living.get(name) {
                bucket.users = before.users;
                bucket.made = before.made.min(bucket.reserved);
                bucket.dying |= before.dying;
            }
        }
        next.epoch = conn.epoch;
        *state = next;
        Ok(())
    }

    /// Destroys keys of buckets that have a tombstone, and facts of buckets that have no key.
    fn tidy(&self, conn: &Conn<'_>) -> Result<(), Trouble> {
        let objects = self.token.list(conn, &self.slot)?;
        let living: Vec<_> =
            self.state().living.iter().filter(|(_, it)| !it.dying).map(|(name, _)| name.clone()).collect();
        let of_dead = |object: &&Object| {
            let words = object.words(BUCKET).or_else(|| object.words(WRAPS));
            words.is_some_and(|words| !living.iter().any(|name| words.first() == Some(&name.as_str())))
        };
        let mut left = objects.iter().filter(of_dead).peekable();
        if left.peek().is_none() {
            return Ok(());
        }
        left.try_for_each(|object| objects::destroy(conn, object.handle))?;
        self.token.sync()?;
        self.state().living.retain(|_, bucket| !bucket.dying);
        Ok(())
    }

    fn changes(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a bucket's key. While it does, the bucket's destruction waits.
    fn with_key<T>(
        &self,
        bucket: &str,
        act: impl Fn(&Conn<'_>, ObjectHandle) -> Result<T, Trouble>,
    ) -> Result<T, KeystoreError> {
        // What is dead is so without asking the token.
        if self.state().destroyed.contains_key(bucket) {
            return Err(KeystoreError::BucketDestroyed);
        }
        self.token.attempt(
            || self.forget(),
            |conn| {
                self.sync(conn)?;
                let key = {
                    let mut state = self.state();
                    let bucket = state.usable(bucket)?;
                    bucket.users += 1;
                    bucket.key
                };
                let done = act(conn, key);
                if let Some(bucket) = self.state().living.get_mut(bucket) {
                    bucket.users = bucket.users.saturating_sub(1);
                }
                self.released.notify_all();
                done
            },
        )
    }

    /// Takes one of the wraps that are reserved; reserves more when none is left.
    fn count_wrap(&self, bucket: &str) -> Result<(), KeystoreError> {
        if self.state().usable(bucket).is_ok_and(Bucket::count) {
            return Ok(());
        }
        let _alone = self.changes();
        self.token.attempt(
            || self.forget(),
            |conn| {
                self.sync(conn)?;
                let reserved = {
                    let mut state = self.state();
                    let bucket = state.usable(bucket)?;
                    // Somebody may have done it while we waited.
                    if bucket.count() {
                        return Ok(());
                    }
                    bucket.reserved
                };
                if reserved >= MAX_WRAPS {
                    return Err(KeystoreError::WrapLimit.into());
                }
                let objects = self.token.list(conn, &self.slot)?;
                let next = reserved + WRAP_BLOCK;
                objects::make_fact(conn, &label(WRAPS, &self.slot, &[&bucket, &next]), &[])?;
                wraps_of(&objects, bucket).try_for_each(|(_, older)| objects::destroy(conn, older))?;
                self.token.sync()?;
                let mut state = self.state();
                let bucket = state.usable(bucket)?;
                // What was reserved before counts as made: nobody knows how much of it was.
                (bucket.made, bucket.reserved) = (reserved + 1, next);
                Ok(())
            },
        )
    }

    /// Ends the life of a bucket that nobody uses any more.
    fn bury(&self, conn: &Conn<'_>, bucket: &str, now_ms: i64) -> Result<Destruction, Trouble> {
        self.sync(conn)?;
        let objects = self.token.list(conn, &self.slot)?;
        let tombstone = {
            let state = self.state();
            match (state.destroyed.get(bucket), state.living.get(bucket)) {
                // One that an attempt made which broke off.
                (Some(done), _) => done.clone(),
                (None, None) => return Err(KeystoreError::BucketUnknown.into()),
                (None, Some(dying)) => Destruction {
                    bucket: bucket.to_owned(),
                    created_at_ms: dying.created_at_ms,
                    dies_at_ms: dying.dies_at_ms,
                    destroyed_at_ms: now_ms,
                    wraps_at_most: dying.reserved,
                    generation: state.generation + 1,
                },
            }
        };
        if !self.state().destroyed.contains_key(bucket) {
            objects::make_fact(conn, &gone_label(&self.slot, &tombstone), &[])?;
            self.token.sync()?;
            let mut state = self.state();
            state.generation = tombstone.generation;
            state.destroyed.insert(bucket.to_owned(), tombstone.clone());
        }
        let of_bucket = |object: &&Object| {
            let words = object.words(BUCKET).or_else(|| object.words(WRAPS));
            words.is_some_and(|words| words.first() == Some(&bucket))
        };
        objects.iter().filter(of_bucket).try_for_each(|object| objects::destroy(conn, object.handle))?;
        self.token.sync()?;
        self.state().living.remove(bucket);
        Ok(tombstone)
    }

    /// Puts one fact in the place of the oldest tombstones when there are too many. Those of keys that were destroyed before
    /// their time stay until it: the fact would end every bucket that dies no later.
    fn fold(&self, conn: &Conn<'_>, now_ms: i64) -> Result<(), Trouble> {
        let (forgotten, floor, generation) = {
            let state = self.state();
            let Some(excess) = state.destroyed.len().checked_sub(TOMBSTONES).filter(|excess| *excess > 0)
            else {
                return Ok(());
            };
            // Several at once: each fold lists the token.
            let excess = excess + TOMBSTONES / 8;
            let over = state.destroyed.values().filter(|gone| gone.dies_at_ms <= now_ms);
            let mut deaths: Vec<_> = over.map(|gone| (gone.dies_at_ms, gone.bucket.clone())).collect();
            deaths.sort();
            deaths.truncate(excess);
            if deaths.is_empty() {
                return Ok(());
            }
            let floor = deaths.iter().map(|(dies_at_ms, _)| *dies_at_ms).chain(state.floor).max();
            (deaths, floor.unwrap_or(i64::MIN), state.generation)
        };
        let objects = self.token.list(conn, &self.slot)?;
        objects::make_fact(conn, &label(FLOOR, &self.slot, &[&floor, &generation]), &[])?;
        self.token.sync()?;
        {
            let mut state = self.state();
            state.floor = Some(floor);
            for (_, bucket) in &forgotten {
                state.destroyed.remove(bucket);
            }
        }
        let stale = |object: &&Object| {
            object.words(FLOOR).is_some()
                || object.words(GONE).is_some_and(|words| {
                    forgotten.iter().any(|(_, bucket)| words.first() == Some(&bucket.as_str()))
                })
        };
        objects.iter().filter(stale).try_for_each(|object| objects::destroy(conn, object.handle))
    }

    /// Makes a bucket with a key of this type, unless it is there.
    fn make(
        &self,
        bucket: &str,
        make_key: impl Fn(&Conn<'_>, &str, &[u8]) -> Result<ObjectHandle, Trouble>,
        dies_at_ms: i64,
        now_ms: i64,
    ) -> Result<BucketInfo, KeystoreError> {
        check_name(bucket)?;
        let known = |state: &State| -> Option<Result<BucketInfo, KeystoreError>> {
            if state.destroyed.contains_key(bucket) {
                return Some(Err(KeystoreError::BucketDestroyed));
            }
            let living = state.living.get(bucket)?;
            Some(match (living.dying, living.dies_at_ms == dies_at_ms) {
                (true, _) => Err(KeystoreError::BucketDestroyed),
                (false, false) => Err(KeystoreError::BucketTime),
                (false, true) => Ok(living.info(bucket)),
            })
        };
        // Asked for each session key: what is known needs no token.
        if let Some(known) = known(&self.state()) {
            return known;
        }
        let _alone = self.changes();
        let id = random_array::<ID_LEN>().map_err(KeystoreError::Crypto)?;
        self.token.attempt(
            || self.forget(),
            |conn| {
                self.sync(conn)?;
                {
                    let state = self.state();
                    if let Some(known) = known(&state) {
                        return Ok(known?);
                    }
                    if state.floor.is_some_and(|floor| dies_at_ms <= floor) {
                        return Err(KeystoreError::BucketDestroyed.into());
                    }
                }
                if dies_at_ms <= now_ms {
                    return Err(KeystoreError::BucketTime.into());
                }
                let words: [&dyn fmt::Display; 3] = [&bucket, &now_ms, &dies_at_ms];
                let key = make_key(conn, &label(BUCKET, &self.slot, &words), &id)?;
                self.token.sync()?;
                let made = Bucket {
                    created_at_ms: now_ms,
                    dies_at_ms,
                    key,
                    reserved: 0,
                    made: 0,
                    users: 0,
                    dying: false,
                };
                let info = made.info(bucket);
                self.state().living.insert(bucket.to_owned(), made);
                Ok(info)
            },
        )
    }
}

impl BucketKeystore for Pkcs11Buckets {
    fn create_bucket(&self, bucket: &str, dies_at_ms: i64, now_ms: i64) -> Result<BucketInfo, KeystoreError> {
        self.make(bucket, objects::make_aes, dies_at_ms, now_ms)
    }

    fn create_deriving_bucket(
        &self,
        bucket: &str,
        dies_at_ms: i64,
        now_ms: i64,
    ) -> Result<BucketInfo, KeystoreError> {
        self.make(bucket, objects::make_mac, dies_at_ms, now_ms)
    }

    fn derive_key(
        &self,
        bucket: &str,
        purpose: &str,
        fields: &[&[u8]],
    ) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        let input = MacKey::input(purpose, fields);
        let tag = self.with_key(bucket, |conn, key| objects::tag(conn, key, &input))?;
        tag.as_slice()
            .try_into()
            .map(Zeroizing::new)
            .map_err(|_| self.token.unsound("a tag has not 32 bytes"))
    }

    fn wrap_session_key(
        &self,
        binding: &WrapBinding<'_>,
        session: &AeadKey,
    ) -> Result<[u8; WRAPPED_LEN], KeystoreError> {
        self.count_wrap(binding.bucket)?;
        let context = binding.context();
        let sealed =
            self.with_key(binding.bucket, |conn, key| objects::seal(conn, key, &context, session.expose()))?;
        let sized = sealed.as_slice().try_into();
        sized.map(wrap::framed).map_err(|_| self.token.unsound("a wrap has another length"))
    }

    fn unwrap_session_key(
        &self,
        binding: &WrapBinding<'_>,
        wrapped: &[u8],
    ) -> Result<AeadKey, KeystoreError> {
        // A bucket that is dead or unknown is told before what is wrong with the wrap, as of a file.
        let sealed = wrap::sealed(wrapped);
        let context = binding.context();
        let opened = self.with_key(binding.bucket, |conn, key| {
            let sealed = sealed.map_err(KeystoreError::Unwrap)?;
            objects::open(conn, key, &context, sealed)
        })?;
        let refused = || KeystoreError::Unwrap(UnwrapError::Refused);
        let opened = opened.ok_or_else(refused)?;
        let key = <[u8; 32]>::try_from(opened.as_slice()).map(Zeroizing::new).map_err(|_| refused())?;
        Ok(AeadKey::from_bytes(*key))
    }

    fn destroy_bucket(&self, bucket: &str, now_ms: i64) -> Result<Destruction, KeystoreError> {
        {
            let state = self.state();
            if !state.living.contains_key(bucket) {
                return state.destroyed.get(bucket).cloned().ok_or(KeystoreError::BucketUnknown);
            }
        }
        let _alone = self.changes();
        // From here on nobody begins to use the key; who does now is waited for.
        let mut state = self.state();
        if let Some(living) = state.living.get_mut(bucket) {
            living.dying = true;
        }
        let waited = self.released.wait_timeout_while(state, self.token.wait(), |state| {
            state.living.get(bucket).is_some_and(|bucket| bucket.users > 0)
        });
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        if waited.timed_out() {
            return Err(KeystoreError::Busy { label: self.token.label().to_owned() });
        }
        let destroyed = self.token.attempt(|| self.forget(), |conn| self.bury(conn, bucket, now_ms))?;
        // It is destroyed already: that older ones take place is no failure of this.
        let _folded = self.token.attempt(|| self.forget(), |conn| self.fold(conn, now_ms));
        Ok(destroyed)
    }

    fn check(&self) -> Result<(), KeystoreError> {
        self.token.check()
    }

    fn buckets(&self) -> Result<Vec<BucketInfo>, KeystoreError> {
        Ok(self.state().living.iter().map(|(id, bucket)| bucket.info(id)).collect())
    }

    fn destroyed(&self) -> Result<Vec<Destruction>, KeystoreError> {
        let state = self.state();
        let whole = state.destroyed.values().filter(|gone| !state.living.contains_key(&gone.bucket));
        Ok(whole.cloned().collect())
    }

    fn fate(&self, bucket: &str) -> Fate {
        match self.state().usable(bucket) {
            Ok(_) => Fate::Living,
            Err(KeystoreError::BucketDestroyed) => Fate::Destroyed,
            Err(_) => Fate::Unknown,
        }
    }
}

impl fmt::Debug for Pkcs11Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11Buckets")
            .field("slot", &self.slot)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}
