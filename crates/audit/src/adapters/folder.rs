//! The log in a folder of the file system.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use sotto_tlog::{Directory, Source};

use crate::{error::LogError, ports::Disk};

/// New files are written under this name and renamed into place; there is one writer, so one name does.
const NEXT: &str = "next";

/// A folder that this process alone writes.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    reader: Directory,
    /// Held while the process lives.
    _lock: File,
}

impl Folder {
    /// Takes the folder, making it if it is not there.
    ///
    /// # Errors
    /// [`LogError::InUse`] while another process writes it; [`LogError::Disk`].
    pub fn open(root: &Path) -> Result<Self, LogError> {
        let shown = root.display().to_string();
        fs::create_dir_all(root).map_err(LogError::disk("make", &shown))?;
        let lock = File::create(root.join("lock")).map_err(LogError::disk("open the lock in", &shown))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::InUse { path: root.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(LogError::disk("lock", &shown)(error)),
        }
        Ok(Self { root: root.to_owned(), reader: Directory::new(root), _lock: lock })
    }
}

impl Source for Folder {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.reader.read(path)
    }
}

impl Disk for Folder {
    fn put(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let (next, place) = (self.root.join(NEXT), self.root.join(path));
        let mut file = File::create(&next)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(next, place)
    }

    fn settle(&self, paths: &[String]) -> io::Result<()> {
        // Every folder up to the root: any of them may be new.
        let folders: BTreeSet<&Path> =
            paths.iter().flat_map(|path| Path::new(path).ancestors().skip(1)).collect();
        for folder in folders.into_iter().rev() {
            File::open(self.root.join(folder))?.sync_all()?;
        }
        Ok(())
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let place = self.root.join(path);
        let removed = match fs::symlink_metadata(&place) {
            Ok(about) if about.is_dir() => fs::remove_dir_all(&place),
            Ok(_) => fs::remove_file(&place),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
