//! Clients in one file, owned by this process alone (docs/services/identity.md, ADR 0003).
//!
//! The file carries a MAC made by the keystore, so that nobody without the keystore adds a client or changes a key
//! unseen. It is replaced whole, and durable before a change shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read as _, Write as _},
    ops::Bound,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::BoxFuture;
use sotto_core::{Classified, ErrorClass, TenantId, Timestamp};
use sotto_crypto::compare;
use sotto_keystore::{KeyKind, Keystore, KeystoreError};

use super::file_format::{self, FormatError};
use crate::{
    domain::{Client, ClientId},
    error::keystore_class,
    ports::{ClientStore, StoreError},
};

/// The keystore's ring that guards the file.
pub const STORE_RING: &str = "client-store";

/// The purpose of the file's MAC.
const PURPOSE: &str = "sotto.identity.clients.v1";

/// Clients that may be registered: the file is written whole for each change.
const MAX_CLIENTS: usize = 10_000;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileStoreError {
    /// The operating system refused an operation.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process serves this cell.
    #[error("{} is in use: only one identity process may run on a file of clients", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Others may read or write it.
    #[error("{} has mode {mode:o}: others may use it; chmod 600 it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It was there and is gone.
    #[error("{} is missing although clients were registered: restore it from a backup", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It was not written by this cell's identity, or changed since.
    #[error("{} was altered, or belongs to another keystore: restore it from a backup", path.display())]
    Altered {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{} is not a file of clients", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: FormatError,
    },
    /// The keystore failed.
    #[error("the keystore failed")]
    Keystore(#[source] KeystoreError),
    /// The work panicked or was dropped at the end of the process.
    #[error("work on the file did not end")]
    Blocking(#[source] tokio::task::JoinError),
}

impl Classified for FileStoreError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Io { .. }
            | Self::InUse { .. }
            | Self::Mode { .. }
            | Self::Missing { .. }
            | Self::Altered { .. }
            | Self::Format { .. } => ErrorClass::Reject,
            Self::Keystore(e) => keystore_class(e),
            Self::Blocking(_) => ErrorClass::Bug,
        }
    }
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// How often it has been written.
    pub generation: u64,
    /// The clients.
    pub clients: BTreeMap<ClientId, Client>,
    /// SHA-256 of each invitation that was redeemed.
    pub redeemed: BTreeSet<[u8; 32]>,
}

/// The clients of a cell.
#[derive(Clone, Debug)]
pub struct FileStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    keystore: Arc<dyn Keystore>,
    content: Mutex<Arc<Content>>,
    /// Held while a change is written: changes come one after another.
    writing: Mutex<()>,
    _lock: File,
}

impl FileStore {
    /// Opens the file, or makes an empty one at the cell's first start.
    ///
    /// # Errors
    /// When another process has it, or it is not what this keystore wrote.
    pub async fn open(
        path: PathBuf,
        keystore: Arc<dyn Keystore>,
        now: Timestamp,
    ) -> Result<Self, FileStoreError> {
        let open = move || Self::open_blocking(path, keystore, now);
        tokio::task::spawn_blocking(open).await.map_err(FileStoreError::Blocking)?
    }

    fn open_blocking(
        path: PathBuf,
        keystore: Arc<dyn Keystore>,
        now: Timestamp,
    ) -> Result<Self, FileStoreError> {
        let lock = lock(&path)?;
        // The ring tells how far the first start came: no key, nothing yet; one key, the file is being made; two, it
        // must be there. Otherwise whoever removes the file would make a used invitation good again.
        let mut keys = keystore.keys(STORE_RING).map_err(FileStoreError::Keystore)?.len();
        let add_key = |keys: &mut usize| {
            keystore.generate(STORE_RING, KeyKind::HmacSha256, now.unix_millis())?;
            *keys += 1;
            Ok(())
        };
        if keys == 0 {
            add_key(&mut keys).map_err(FileStoreError::Keystore)?;
        }
        let content = match read(&path, keystore.as_ref())? {
            Some(content) => content,
            None if keys > 1 => return Err(FileStoreError::Missing { path }),
            None => {
                let content = Content { generation: 1, ..Content::default() };
                write(&path, keystore.as_ref(), &content)?;
                content
            }
        };
        if keys == 1 {
            add_key(&mut keys).map_err(FileStoreError::Keystore)?;
        }
        let content = Mutex::new(Arc::new(content));
        Ok(Self(Arc::new(Inner { path, keystore, content, writing: Mutex::new(()), _lock: lock })))
    }

    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Content) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || inner.change(change)).await;
        done.map_err(|e| StoreError::Failed(Box::new(e)))?
    }
}

impl Inner {
    fn change<T>(&self, change: impl FnOnce(&mut Content) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Content::clone(&self.content());
        let answer = change(&mut next)?;
        if next != **self.content() {
            next.generation += 1;
            write(&self.path, self.keystore.as_ref(), &next).map_err(|e| StoreError::Failed(Box::new(e)))?;
            *self.content() = Arc::new(next);
        }
        drop(writing);
        Ok(answer)
    }

    // The content is only ever replaced whole, so one behind a panic is sound.
    fn content(&self) -> MutexGuard<'_, Arc<Content>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientStore for FileStore {
    fn find<'a>(&'a self, id: &'a ClientId) -> BoxFuture<'a, Result<Option<Client>, StoreError>> {
        let found = self.0.content().clients.get(id).cloned();
        Box::pin(std::future::ready(Ok(found)))
    }

    fn page<'a>(
        &'a self,
        tenant: Option<&'a TenantId>,
        after: Option<&'a ClientId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Client>, StoreError>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let content = Arc::clone(&self.0.content());
        let clients = content.clients.range((start, Bound::Unbounded)).map(|(_, client)| client);
        let clients = clients.filter(|client| tenant.is_none_or(|tenant| client.tenant == *tenant));
        let page = clients.take(limit).cloned().collect();
        Box::pin(std::future::ready(Ok(page)))
    }

    fn add(&self, client: Client, redeems: Option<[u8; 32]>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.change(move |content| {
            if redeems.is_some_and(|hash| !content.redeemed.insert(hash)) {
                return Err(StoreError::Redeemed);
            }
            if content.clients.len() >= MAX_CLIENTS {
                return Err(StoreError::Full);
            }
            content.clients.insert(client.id.clone(), client);
            Ok(())
        }))
    }

    fn disable<'a>(&'a self, id: &'a ClientId, now: Timestamp) -> BoxFuture<'a, Result<Client, StoreError>> {
        let id = id.clone();
        Box::pin(self.change(move |content| {
            let client = content.clients.get_mut(&id).ok_or(StoreError::UnknownClient)?;
            client.disabled_at.get_or_insert(now);
            Ok(client.clone())
        }))
    }
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileStoreError + use<'a> {
    move |source| FileStoreError::Io { operation, path: path.to_owned(), source }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Held as long as the process lives: two writers would undo each other's changes.
fn lock(path: &Path) -> Result<File, FileStoreError> {
    let beside = beside(path, ".lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&beside);
    let file = open.map_err(failed("open", &beside))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FileStoreError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(e)) => Err(failed("lock", &beside)(e)),
    }
}

fn read(path: &Path, keystore: &dyn Keystore) -> Result<Option<Content>, FileStoreError> {
    let read = || {
        let mut file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, io::Error>((mode, bytes))
    };
    let (mode, bytes) = match read() {
        Ok(read) => read,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("read", path)(e)),
    };
    if mode & 0o077 != 0 {
        return Err(FileStoreError::Mode { path: path.to_owned(), mode });
    }
    let format = |source| FileStoreError::Format { path: path.to_owned(), source };
    let altered = || FileStoreError::Altered { path: path.to_owned() };
    let file = file_format::open(&bytes).map_err(format)?;
    let mac = match keystore.mac(&file.mac_key, PURPOSE, &[file.content.as_bytes()]) {
        Ok(mac) => mac,
        Err(KeystoreError::UnknownKey | KeystoreError::Kind) => return Err(altered()),
        Err(e) => return Err(FileStoreError::Keystore(e)),
    };
    // Any key of the slot would do otherwise, such as the one that digests secrets which callers choose.
    let of_the_ring = keystore.keys(STORE_RING).map_err(FileStoreError::Keystore)?;
    if !of_the_ring.iter().any(|key| key.id == file.mac_key) || !compare::equal(&mac, &file.mac) {
        return Err(altered());
    }
    file_format::parse(&file.content).map(Some).map_err(format)
}

fn write(path: &Path, keystore: &dyn Keystore, content: &Content) -> Result<(), FileStoreError> {
    let format = |source| FileStoreError::Format { path: path.to_owned(), source };
    let text = file_format::render(content).map_err(format)?;
    let key = keystore.current(STORE_RING).map_err(FileStoreError::Keystore)?;
    let mac = keystore.mac(&key.id, PURPOSE, &[text.as_bytes()]).map_err(FileStoreError::Keystore)?;
    let bytes = file_format::wrap(text, key.id, &mac).map_err(format)?;

    let new = beside(path, ".new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed("remove", &new)(e)),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(failed("create", &new))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed("write", &new))?;
    fs::rename(&new, path).map_err(failed("replace", path))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}
