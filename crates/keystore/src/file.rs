//! One encrypted file: header, key derivation, and replacement that a crash cannot tear.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use sotto_crypto::{Zeroizing, aead, random::random_array};

use crate::{
    KeystoreError,
    codec::{Reader, Writer, check_name},
    secret::{UnlockSecret, create_private, read_private},
};

const MAGIC: &[u8; 8] = b"SOTTOKEY";
const VERSION: u8 = 1;
const SUITE_HKDF_SHA256_AES_256_GCM: u8 = 1;
const SALT_LEN: usize = 32;
const KEY_INFO: &[u8] = b"sotto.keystore.v1";

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A service's named keys.
    Slot,
    /// Bucket keys and tombstones.
    Buckets,
}

impl FileKind {
    fn byte(self) -> u8 {
        match self {
            Self::Slot => 1,
            Self::Buckets => 2,
        }
    }
}

/// A keystore file and what opens it.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: PathBuf,
    slot: String,
    kind: FileKind,
    secret: UnlockSecret,
}

/// The decrypted content and how often the file had been written.
pub(crate) struct Content {
    pub(crate) generation: u64,
    pub(crate) plaintext: Zeroizing<Vec<u8>>,
}

impl KeyFile {
    pub(crate) fn new(
        path: &Path,
        slot: &str,
        kind: FileKind,
        secret: UnlockSecret,
    ) -> Result<Self, KeystoreError> {
        check_name(slot)?;
        Ok(Self { path: path.to_owned(), slot: slot.to_owned(), kind, secret })
    }

    /// Writes the first generation where no file is.
    pub(crate) fn create(&self, plaintext: &[u8]) -> Result<(), KeystoreError> {
        // A link fails where a file stands, so that of two creators one hears `Exists` and nothing is overwritten.
        let new = self.beside("new");
        self.discard(&new)?;
        self.write_new(&new, 1, plaintext)?;
        let linked = fs::hard_link(&new, &self.path);
        fs::remove_file(&new).map_err(KeystoreError::io("remove", &new))?;
        linked.map_err(|error| {
            if error.kind() == ErrorKind::AlreadyExists {
                KeystoreError::Exists { path: self.path.clone() }
            } else {
                KeystoreError::io("create", &self.path)(error)
            }
        })?;
        sync_folder(&self.path)
    }

    /// Reads and decrypts the file.
    pub(crate) fn load(&self) -> Result<Content, KeystoreError> {
        let bytes = read_private(&self.path)?;
        let mut reader = Reader::new(&bytes);
        let header = self.parse_header(&mut reader).map_err(|reason| self.unsound(reason))?;
        let sealed = reader.rest();
        let (context, _) = bytes.split_at(bytes.len() - sealed.len());
        let key = self.secret.file_key(&header.salt, KEY_INFO)?;
        let plaintext = aead::open(&key, context, sealed)
            .map_err(|_| KeystoreError::Refused { path: self.path.clone() })?;
        Ok(Content { generation: header.generation, plaintext })
    }

    /// The file as it is now must be at least as new as what is known of it.
    pub(crate) fn check(&self, known: u64) -> Result<(), KeystoreError> {
        let found = self.load()?.generation;
        if found < known {
            return Err(KeystoreError::Older { path: self.path.clone(), found, known });
        }
        Ok(())
    }

    /// Replaces the content: whoever reads finds the old file or the new one, whole. The old one is overwritten.
    pub(crate) fn replace(&self, generation: u64, plaintext: &[u8]) -> Result<(), KeystoreError> {
        self.recover()?;
        let (new, old) = (self.beside("new"), self.beside("old"));
        self.write_new(&new, generation, plaintext)?;
        fs::hard_link(&self.path, &old).map_err(KeystoreError::io("link", &old))?;
        fs::rename(&new, &self.path).map_err(KeystoreError::io("replace", &self.path))?;
        sync_folder(&self.path)?;
        self.recover()
    }

    /// Erases what an interrupted replacement left: a new file that never counted, an old one that counts no more.
    pub(crate) fn recover(&self) -> Result<(), KeystoreError> {
        self.discard(&self.beside("new"))?;
        self.discard(&self.beside("old"))
    }

    fn discard(&self, leftover: &Path) -> Result<(), KeystoreError> {
        if self.is_current(leftover)? {
            // The crash came between two names: this is a second name of the living file.
            fs::remove_file(leftover).map_err(KeystoreError::io("remove", leftover))
        } else {
            erase(leftover)
        }
    }

    /// Takes the lock of this file, or says that another process has it.
    pub(crate) fn try_lock(&self) -> Result<File, KeystoreError> {
        let (path, lock) = self.lock_file()?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(KeystoreError::InUse { path: self.path.clone() }),
            Err(TryLockError::Error(error)) => Err(KeystoreError::io("lock", &path)(error)),
        }
    }

    /// Waits for the lock as the one writer.
    pub(crate) fn lock_to_write(&self) -> Result<File, KeystoreError> {
        let (path, lock) = self.lock_file()?;
        lock.lock().map_err(KeystoreError::io("lock", &path))?;
        Ok(lock)
    }

    /// Waits for the lock as one of many readers.
    pub(crate) fn lock_to_read(&self) -> Result<File, KeystoreError> {
        let (path, lock) = self.lock_file()?;
        lock.lock_shared().map_err(KeystoreError::io("lock", &path))?;
        Ok(lock)
    }

    /// The error for content that does not parse although it is authentic.
    pub(crate) fn unsound(&self, reason: &'static str) -> KeystoreError {
        KeystoreError::Format { path: self.path.clone(), reason }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn slot(&self) -> &str {
        &self.slot
    }

    fn parse_header(&self, reader: &mut Reader<'_>) -> Result<Header, &'static str> {
        const SHORT: &str = "it ends inside its header";
        if &reader.array::<8>().ok_or(SHORT)? != MAGIC {
            return Err("it does not begin like one");
        }
        if reader.u8().ok_or(SHORT)? != VERSION {
            return Err("its version is not known");
        }
        if reader.u8().ok_or(SHORT)? != self.kind.byte() {
            return Err("it is of another kind");
        }
        if reader.u8().ok_or(SHORT)? != SUITE_HKDF_SHA256_AES_256_GCM {
            return Err("its suite is not known");
        }
        if reader.name().ok_or(SHORT)? != self.slot {
            return Err("it belongs to another slot");
        }
        let generation = reader.u64().ok_or(SHORT)?;
        let salt = reader.array().ok_or(SHORT)?;
        Ok(Header { generation, salt })
    }

    fn write_new(&self, path: &Path, generation: u64, plaintext: &[u8]) -> Result<(), KeystoreError> {
        // A fresh salt, so a fresh key, for every write: no bound on the number of writes.
        let salt = random_array::<SALT_LEN>().map_err(KeystoreError::Crypto)?;
        let mut header = Writer::with_capacity(128);
        header.bytes(MAGIC);
        header.u8(VERSION);
        header.u8(self.kind.byte());
        header.u8(SUITE_HKDF_SHA256_AES_256_GCM);
        header.name(&self.slot)?;
        header.u64(generation);
        header.bytes(&salt);
        let header = header.finish();
        let key = self.secret.file_key(&salt, KEY_INFO)?;
        let sealed = aead::seal(&key, &header, plaintext).map_err(KeystoreError::Crypto)?;

        let failed = KeystoreError::io("write", path);
        let mut file = create_private(path)?;
        file.write_all(&header)
            .and_then(|()| file.write_all(&sealed))
            .and_then(|()| file.sync_all())
            .map_err(failed)
    }

    fn is_current(&self, other: &Path) -> Result<bool, KeystoreError> {
        match (fs::metadata(other), fs::metadata(&self.path)) {
            (Ok(other), Ok(current)) => Ok(other.dev() == current.dev() && other.ino() == current.ino()),
            (Err(error), _) | (_, Err(error)) if error.kind() == ErrorKind::NotFound => Ok(false),
            (Err(error), _) => Err(KeystoreError::io("read", other)(error)),
            (_, Err(error)) => Err(KeystoreError::io("read", &self.path)(error)),
        }
    }

    fn lock_file(&self) -> Result<(PathBuf, File), KeystoreError> {
        // A file of its own: a lock on the data would go with the inode that each replacement leaves behind.
        let path = self.beside("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(KeystoreError::io("open", &path))?;
        Ok((path, file))
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".");
        name.push(suffix);
        PathBuf::from(name)
    }
}

struct Header {
    generation: u64,
    salt: [u8; SALT_LEN],
}

/// Makes a change of names in the file's folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), KeystoreError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(KeystoreError::io("sync", folder))
}

/// Overwrites a file with zeros and removes it; a file that is not there is erased already.
fn erase(path: &Path) -> Result<(), KeystoreError> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(KeystoreError::io("erase", path)(error)),
    };
    let mut overwrite = || {
        let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
        file.write_all(&vec![0; length])?;
        file.sync_all()?;
        fs::remove_file(path)
    };
    overwrite().map_err(KeystoreError::io("erase", path))?;
    sync_folder(path)
}
