//! A service's named keys in one encrypted file.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sotto_crypto::{
    MacKey, Zeroizing,
    hpke::{OpeningKey, Sealed, SubmissionBinding},
    random::random_array,
    sign::{SIGNATURE_LEN, SigningKey},
};

use crate::{
    KeyInfo, KeyKind, KeyRole, Keystore, KeystoreError, UnlockSecret,
    codec::{MAX_NAME, Reader, Writer, check_name},
    file::{FileKind, KeyFile},
};

/// The most bytes one key takes: kind, role, label, id, time, key.
const MAX_ENTRY: usize = 1 + 1 + 2 * (1 + MAX_NAME) + 8 + 32;

/// The software keystore of one slot.
///
/// Any number of processes may use a slot; a change locks the file, starts from what it says and shows in the others
/// after [`Keystore::reload`].
pub struct SoftKeystore {
    file: KeyFile,
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    generation: u64,
    keys: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    label: String,
    id: String,
    role: KeyRole,
    created_at_ms: i64,
    key: Key,
}

#[derive(Clone)]
enum Key {
    Ed25519(Arc<SigningKey>),
    HmacSha256(Arc<MacKey>),
    X25519(Arc<OpeningKey>),
}

impl SoftKeystore {
    /// Makes the empty keystore of a slot (a service's name); a file that stands there is never overwritten.
    ///
    /// # Errors
    /// [`KeystoreError::Exists`], [`KeystoreError::Name`], [`KeystoreError::Io`].
    pub fn create(path: &Path, secret: UnlockSecret, slot: &str) -> Result<Self, KeystoreError> {
        let file = KeyFile::new(path, slot, FileKind::Slot, secret)?;
        let lock = file.lock_to_write()?;
        let state = State { generation: 1, keys: Vec::new() };
        file.create(&state.encode()?)?;
        drop(lock);
        Ok(Self { file, state: Mutex::new(state) })
    }

    /// Opens the keystore of a slot.
    ///
    /// # Errors
    /// [`KeystoreError::Mode`], [`KeystoreError::Format`], [`KeystoreError::Refused`], [`KeystoreError::Io`].
    pub fn open(path: &Path, secret: UnlockSecret, slot: &str) -> Result<Self, KeystoreError> {
        let file = KeyFile::new(path, slot, FileKind::Slot, secret)?;
        // Who has the file alone tidies what a crash left; nobody waits for that chance.
        let (lock, alone) = match file.try_lock() {
            Err(KeystoreError::InUse { .. }) => (file.lock_to_read()?, false),
            lock => (lock?, true),
        };
        let state = State::load(&file)?;
        if alone {
            file.recover()?;
        }
        drop(lock);
        Ok(Self { file, state: Mutex::new(state) })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, KeystoreError>,
    ) -> Result<T, KeystoreError> {
        let lock = self.file.lock_to_write()?;
        let mut next = State::load(&self.file)?;
        let answer = change(&mut next)?;
        next.generation += 1;
        self.file.replace(next.generation, &next.encode()?)?;
        *self.state() = next;
        drop(lock);
        Ok(answer)
    }

    fn key(&self, key_id: &str) -> Result<Key, KeystoreError> {
        let state = self.state();
        let entry = state.keys.iter().find(|entry| entry.id == key_id).ok_or(KeystoreError::UnknownKey)?;
        Ok(entry.key.clone())
    }

    // A state is only ever replaced whole, so one behind a panic is sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keystore for SoftKeystore {
    fn generate(&self, label: &str, kind: KeyKind, now_ms: i64) -> Result<KeyInfo, KeystoreError> {
        check_name(label)?;
        self.change(|state| {
            let ring: Vec<_> = state.keys.iter().filter(|entry| entry.label == label).collect();
            if ring.iter().any(|entry| entry.key.kind() != kind) {
                return Err(KeystoreError::Kind);
            }
            if ring.iter().any(|entry| entry.role == KeyRole::Next) {
                return Err(KeystoreError::NextExists);
            }
            let role = if ring.is_empty() { KeyRole::Current } else { KeyRole::Next };
            let (id, key) = Key::generate(kind)?;
            let entry = Entry { label: label.to_owned(), id, role, created_at_ms: now_ms, key };
            let info = entry.info();
            state.keys.push(entry);
            Ok(info)
        })
    }

    fn promote(&self, label: &str) -> Result<KeyInfo, KeystoreError> {
        self.change(|state| {
            let mut promoted = Err(KeystoreError::NoNext);
            for entry in state.keys.iter_mut().filter(|entry| entry.label == label) {
                match entry.role {
                    KeyRole::Next => {
                        entry.role = KeyRole::Current;
                        promoted = Ok(entry.info());
                    }
                    KeyRole::Current | KeyRole::Previous => entry.role = KeyRole::Previous,
                }
            }
            promoted
        })
    }

    fn retire(&self, key_id: &str) -> Result<(), KeystoreError> {
        self.change(|state| {
            let at =
                state.keys.iter().position(|entry| entry.id == key_id).ok_or(KeystoreError::UnknownKey)?;
            if state.keys.get(at).is_some_and(|entry| entry.role == KeyRole::Current) {
                return Err(KeystoreError::Current);
            }
            state.keys.remove(at);
            Ok(())
        })
    }

    fn keys(&self, label: &str) -> Result<Vec<KeyInfo>, KeystoreError> {
        // The file keeps the order of making; the newest comes first within a role.
        let mut ring: Vec<_> =
            self.state().keys.iter().rev().filter(|entry| entry.label == label).map(Entry::info).collect();
        ring.sort_by_key(|info| info.role);
        Ok(ring)
    }

    fn reload(&self) -> Result<(), KeystoreError> {
        let lock = self.file.lock_to_read()?;
        let state = State::load(&self.file)?;
        *self.state() = state;
        drop(lock);
        Ok(())
    }

    fn check_file(&self) -> Result<(), KeystoreError> {
        let lock = self.file.lock_to_read()?;
        // Keys are used while the disk is read. Others write too: the commands of the operator.
        let known = self.state().generation;
        let checked = self.file.check(known);
        drop(lock);
        checked
    }

    fn sign(&self, key_id: &str, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], KeystoreError> {
        match self.key(key_id)? {
            Key::Ed25519(key) => key.sign(message).map_err(KeystoreError::Sign),
            Key::HmacSha256(_) | Key::X25519(_) => Err(KeystoreError::Kind),
        }
    }

    fn mac(&self, key_id: &str, purpose: &str, fields: &[&[u8]]) -> Result<[u8; 32], KeystoreError> {
        match self.key(key_id)? {
            Key::HmacSha256(key) => Ok(key.mac(purpose, fields)),
            Key::Ed25519(_) | Key::X25519(_) => Err(KeystoreError::Kind),
        }
    }

    fn open_submission(
        &self,
        key_id: &str,
        binding: &SubmissionBinding<'_>,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        match self.key(key_id)? {
            Key::X25519(key) => key
                .open_submission(binding, &sealed.encapsulated_key, &sealed.ciphertext)
                .map_err(KeystoreError::Crypto),
            Key::Ed25519(_) | Key::HmacSha256(_) => Err(KeystoreError::Kind),
        }
    }
}

impl fmt::Debug for SoftKeystore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftKeystore")
            .field("slot", &self.file.slot())
            .field("path", &self.file.path())
            .finish_non_exhaustive()
    }
}

impl Key {
    fn generate(kind: KeyKind) -> Result<(String, Self), KeystoreError> {
        match kind {
            KeyKind::Ed25519 => {
                let key = SigningKey::generate().map_err(KeystoreError::Sign)?;
                Ok((key.public().thumbprint(), Self::Ed25519(Arc::new(key))))
            }
            KeyKind::HmacSha256 => {
                let id = random_array::<16>().map_err(KeystoreError::Crypto)?;
                let key = MacKey::generate().map_err(KeystoreError::Crypto)?;
                Ok((URL_SAFE_NO_PAD.encode(id), Self::HmacSha256(Arc::new(key))))
            }
            KeyKind::X25519 => {
                let key = OpeningKey::generate().map_err(KeystoreError::Crypto)?;
                Ok((key.public().thumbprint(), Self::X25519(Arc::new(key))))
            }
        }
    }

    fn kind(&self) -> KeyKind {
        match self {
            Self::Ed25519(_) => KeyKind::Ed25519,
            Self::HmacSha256(_) => KeyKind::HmacSha256,
            Self::X25519(_) => KeyKind::X25519,
        }
    }

    fn bytes(&self) -> &[u8; 32] {
        match self {
            Self::Ed25519(key) => key.expose_seed(),
            Self::HmacSha256(key) => key.expose(),
            Self::X25519(key) => key.expose(),
        }
    }
}

impl Entry {
    fn info(&self) -> KeyInfo {
        let (public, sealing) = match &self.key {
            Key::Ed25519(key) => (Some(key.public()), None),
            Key::HmacSha256(_) => (None, None),
            Key::X25519(key) => (None, Some(key.public())),
        };
        KeyInfo {
            id: self.id.clone(),
            kind: self.key.kind(),
            role: self.role,
            created_at_ms: self.created_at_ms,
            public,
            sealing,
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let kind = reader.u8()?;
        let role = match reader.u8()? {
            1 => KeyRole::Next,
            2 => KeyRole::Current,
            3 => KeyRole::Previous,
            _ => return None,
        };
        let label = reader.name()?.to_owned();
        let id = reader.name()?.to_owned();
        let created_at_ms = reader.i64()?;
        let bytes = Zeroizing::new(reader.array()?);
        let key = match kind {
            1 => Key::Ed25519(Arc::new(SigningKey::from_seed(&bytes).ok()?)),
            2 => Key::HmacSha256(Arc::new(MacKey::from_bytes(*bytes))),
            3 => Key::X25519(Arc::new(OpeningKey::from_bytes(*bytes).ok()?)),
            _ => return None,
        };
        Some(Self { label, id, role, created_at_ms, key })
    }
}

impl State {
    fn load(file: &KeyFile) -> Result<Self, KeystoreError> {
        let content = file.load()?;
        let mut reader = Reader::new(&content.plaintext);
        let mut keys = Vec::new();
        while !reader.rest().is_empty() {
            keys.push(
                Entry::decode(&mut reader).ok_or_else(|| file.unsound("a key's record does not parse"))?,
            );
        }
        Ok(Self { generation: content.generation, keys })
    }

    fn encode(&self) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let mut writer = Writer::with_capacity(self.keys.len() * MAX_ENTRY);
        for entry in &self.keys {
            writer.u8(match entry.key.kind() {
                KeyKind::Ed25519 => 1,
                KeyKind::HmacSha256 => 2,
                KeyKind::X25519 => 3,
            });
            writer.u8(match entry.role {
                KeyRole::Next => 1,
                KeyRole::Current => 2,
                KeyRole::Previous => 3,
            });
            writer.name(&entry.label)?;
            writer.name(&entry.id)?;
            writer.i64(entry.created_at_ms);
            writer.bytes(entry.key.bytes());
        }
        Ok(writer.finish())
    }
}
