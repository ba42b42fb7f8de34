//! The files of a backup, with the digest of each: a copy is only what can be told to be one.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sotto_core::{CellId, Timestamp};
use sotto_crypto::hash::Sha256;

use super::APART;
use crate::{
    CliError,
    cell::CellDir,
    error::at,
    init::{files, hex},
};

/// The list of what a backup holds; written last, so that a copy that broke off has none.
const MANIFEST: &str = "backup.json";

/// Folders that no other run of a cell needs: processes and logs, and Redis, which follows from the log.
const LEFT_OUT: [&str; 3] = ["run", "logs", "data/redis"];

/// How a file with bucket keys begins, whatever it is called (docs/formats/keystore.md §1): magic, version, kind.
const BUCKET_KEYS: [u8; 10] = *b"SOTTOKEY\x01\x02";

/// How much is copied at a time.
const CHUNK: usize = 1 << 20;

/// What a backup holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// Version of this file's format: 1.
    version: u32,
    /// The cell.
    pub(super) cell: CellId,
    /// When the copy was begun; the cell did not run from then on.
    pub(super) made_at: Timestamp,
    /// Its files.
    pub(super) files: Vec<Copied>,
}

/// One file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Copied {
    /// In the cell's folder.
    path: String,
    /// Its length.
    bytes: u64,
    /// SHA-256, hexadecimal.
    sha256: String,
    /// Whether it lies in the folder of the secrets.
    apart: bool,
}

/// Copies the cell into a folder that is empty or not there yet, and what opens it into another one.
pub(super) fn put_aside(
    dir: &CellDir,
    cell: &CellId,
    folder: &Path,
    secrets: Option<&Path>,
    made_at: Timestamp,
) -> Result<Manifest, CliError> {
    for place in [Some(folder), secrets].into_iter().flatten() {
        let taken = fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_some());
        if taken {
            return Err(CliError::new(format!("{} is not empty", place.display()))
                .fix("name a folder that is empty or not there yet: each backup has one of its own"));
        }
        files::folder_of_owner(place)?;
    }
    let mut manifest = Manifest { version: 1, cell: cell.clone(), made_at, files: Vec::new() };
    for path in listed(dir.root())? {
        let apart = APART.iter().any(|folder| path.starts_with(folder));
        let Some(place) = (if apart { secrets } else { Some(folder) }) else { continue };
        let (bytes, sha256) = copy(&dir.path(&path), &place.join(&path))?;
        let path = path.display().to_string();
        manifest.files.push(Copied { path, bytes, sha256, apart });
    }
    let text =
        serde_json::to_string_pretty(&manifest).map_err(|error| CliError::caused_by(MANIFEST, &error))?;
    files::secret(&folder.join(MANIFEST), text.as_bytes())?;
    for place in [Some(folder), secrets].into_iter().flatten() {
        fs::File::open(place).and_then(|folder| folder.sync_all()).map_err(at(place))?;
    }
    Ok(manifest)
}

/// The files of a cell that belong into a backup, by their paths in its folder.
fn listed(root: &Path) -> Result<Vec<PathBuf>, CliError> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let whole = root.join(&folder);
        for entry in fs::read_dir(&whole).map_err(at(&whole))? {
            let entry = entry.map_err(at(&whole))?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().map_err(at(&entry.path()))?;
            if LEFT_OUT.iter().any(|left| path == Path::new(left)) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if !kind.is_file() {
                return Err(CliError::new(format!(
                    "{} is neither a file nor a folder",
                    entry.path().display()
                ))
                .fix("put what it leads to there, or copy the cell by other means: docs/OPERATIONS.md"));
            } else if !path.to_string_lossy().ends_with(".sks.lock") && !has_bucket_keys(&entry.path())? {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Keys that die on time are in no copy: what they open must stay unreadable once they are destroyed.
fn has_bucket_keys(path: &Path) -> Result<bool, CliError> {
    let mut head = Vec::with_capacity(BUCKET_KEYS.len());
    let file = fs::File::open(path).map_err(at(path))?;
    file.take(10).read_to_end(&mut head).map_err(at(path))?;
    Ok(head == BUCKET_KEYS)
}

impl Manifest {
    pub(super) fn read(folder: &Path) -> Result<Self, CliError> {
        let path = folder.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(|error| {
            at(&path)(error)
                .fix("name a folder that `sotto backup` wrote; one that broke off has no such file")
        })?;
        let manifest: Self = serde_json::from_str(&text).map_err(|error| {
            CliError::caused_by(format!("{} cannot be read", path.display()), &error)
                .fix("take another backup, or the version of sotto that made this one")
        })?;
        if manifest.version != 1 {
            return Err(CliError::new(format!("{} has format {}", path.display(), manifest.version))
                .fix("take the version of sotto that made this backup, or a newer one"));
        }
        Ok(manifest)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The files that are put back: secrets only from a folder of secrets that is named.
    fn wanted<'a>(
        &'a self,
        folder: &'a Path,
        secrets: Option<&'a Path>,
    ) -> impl Iterator<Item = (&'a Copied, PathBuf)> {
        self.files.iter().filter_map(move |file| {
            let place = if file.apart { secrets } else { Some(folder) };
            Some((file, place?.join(&file.path)))
        })
    }

    /// Every file is there and is what was copied. Nothing is written before that is known.
    pub(super) fn verify(&self, folder: &Path, secrets: Option<&Path>) -> Result<(), CliError> {
        for (file, from) in self.wanted(folder, secrets) {
            // A path of the cell's, and no way out of it.
            let plain =
                Path::new(&file.path).components().all(|it| matches!(it, std::path::Component::Normal(_)));
            let same = plain && through(&from, &mut std::io::sink())? == (file.bytes, file.sha256.clone());
            if !same {
                return Err(CliError::new(format!("{} is not what was copied", from.display()))
                    .fix("take another backup: this one was changed or is damaged"));
            }
        }
        Ok(())
    }

    /// Puts back the files that `which` names.
    pub(super) fn put_back(
        &self,
        folder: &Path,
        secrets: Option<&Path>,
        dir: &CellDir,
        which: impl Fn(&str) -> bool,
    ) -> Result<(), CliError> {
        for (file, from) in self.wanted(folder, secrets).filter(|(file, _)| which(&file.path)) {
            copy(&from, &dir.path(&file.path))?;
        }
        Ok(())
    }
}

/// Copies a file with its mode, durably, to where nothing is yet. Returns its length and digest.
fn copy(from: &Path, to: &Path) -> Result<(u64, String), CliError> {
    if let Some(folder) = to.parent() {
        files::folder_of_owner(folder)?;
    }
    let mode = fs::metadata(from).map_err(at(from))?.permissions().mode() & 0o777;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(to);
    let mut file = file.map_err(at(to))?;
    let copied = through(from, &mut file)?;
    file.sync_all().map_err(at(to))?;
    Ok(copied)
}

/// Reads a file into something. Returns its length and digest.
fn through(from: &Path, into: &mut dyn std::io::Write) -> Result<(u64, String), CliError> {
    let mut file = fs::File::open(from).map_err(at(from))?;
    let (mut digest, mut bytes) = (Sha256::new(), 0_u64);
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = file.read(&mut chunk).map_err(at(from))?;
        let Some(part) = chunk.get(..read).filter(|part| !part.is_empty()) else { break };
        digest.update(part);
        into.write_all(part).map_err(at(from))?;
        bytes += u64::try_from(read).unwrap_or(u64::MAX);
    }
    Ok((bytes, hex(&digest.finish())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_die_are_found_by_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        file("keystore/buckets.sks", b"SOTTOKEY\x01\x02\x01...");
        file("keystore/called-otherwise", b"SOTTOKEY\x01\x02\x01...");
        file("keystore/audit.sks", b"SOTTOKEY\x01\x01\x01...");
        file("keystore/audit.sks.lock", b"");
        file("data/redis/appendonly", b"x");
        file("data/nats/block", b"x");
        file("run/lock", b"");
        file("short", b"SOTTO");
        let found: Vec<_> = listed(folder.path()).unwrap();
        assert_eq!(found, ["data/nats/block", "keystore/audit.sks", "short"].map(PathBuf::from));
        std::os::unix::fs::symlink("short", folder.path().join("link")).unwrap();
        assert!(listed(folder.path()).unwrap_err().to_string().contains("link"));
    }

    #[test]
    fn a_backup_that_was_changed_or_broke_off_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let dir = CellDir::new(folder.path().join("cell"));
        files::public(&dir.path("a/file"), b"content").unwrap();
        files::secret(&dir.path("secrets/unlock"), b"opens").unwrap();
        let (place, apart) = (folder.path().join("backup"), folder.path().join("apart"));
        let now = Timestamp::from_unix_seconds(1);
        let made = put_aside(&dir, &"vn".parse().unwrap(), &place, Some(&apart), now).unwrap();
        assert_eq!((made.files.len(), made.bytes()), (2, 12));
        assert!(!place.join("secrets").exists() && apart.join("secrets/unlock").exists());
        assert!(
            put_aside(&dir, &"vn".parse().unwrap(), &place, None, now).is_err(),
            "never into another one"
        );
        let manifest = Manifest::read(&place).unwrap();
        manifest.verify(&place, Some(&apart)).unwrap();
        fs::write(place.join("a/file"), "Content").unwrap();
        let refusal = manifest.verify(&place, Some(&apart)).unwrap_err();
        assert!(refusal.to_string().contains("a/file"), "{refusal}");
        fs::remove_file(place.join(MANIFEST)).unwrap();
        assert!(Manifest::read(&place).is_err());
    }
}
