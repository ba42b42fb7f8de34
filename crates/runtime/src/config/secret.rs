//! Secrets are kept in files of their own, never in the configuration or the environment.

use std::{fmt, fs, io::Read as _, path::PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, de};

/// Larger than any secret we know (a keystore's unlock secret, a password, a seed).
const MAX_BYTES: u64 = 64 * 1024;

/// Stands in for the path of a secret file while decoding looks for further errors; no path can hold a NUL, and
/// decoding refuses one that was given.
pub(super) const STAND_IN: &str = "\0stand-in";

/// The secret in the file that a key `x_file` names, read when the configuration is loaded.
#[derive(Clone)]
pub struct SecretFile {
    path: PathBuf,
    secret: SecretString,
}

impl SecretFile {
    /// A secret that is already in memory: for tests, and for callers that keep it elsewhere.
    pub fn in_memory(secret: impl Into<String>) -> Self {
        Self { path: PathBuf::new(), secret: SecretString::from(secret.into()) }
    }

    /// The secret, without the line break at the file's end. Each call site must have a reason to see it.
    pub fn expose(&self) -> &str {
        self.secret.expose_secret()
    }

    /// Where it was read.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    fn read(path: PathBuf) -> Result<Self, String> {
        let unreadable = |e: std::io::Error| format!("the file cannot be read: {e}");
        let file = fs::File::open(&path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        if !about.is_file() {
            return Err("must name a file that holds the secret".to_owned());
        }
        refuse_open_to_all(&about)?;
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
        // The whole text is moved into the secret, so nothing of it stays behind in the trimmed part.
        let secret = SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned());
        drop(SecretString::from(text));
        let bytes = u64::try_from(secret.expose_secret().len()).unwrap_or(u64::MAX);
        if bytes == 0 || bytes > MAX_BYTES {
            return Err(format!("the file must hold 1 to {MAX_BYTES} bytes of text"));
        }
        Ok(Self { path, secret })
    }
}

/// Refuses a file that others than this process's user may use or own.
#[cfg(unix)]
pub(super) fn only_ours(path: &std::path::Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let about = fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?;
    let mode = about.mode() & 0o777;
    if !about.is_file() {
        Err("must name a file".to_owned())
    } else if mode & 0o077 != 0 {
        Err(format!("has mode {mode:o}: others may use it"))
    } else if about.uid() != 0 && about.uid() != rustix::process::geteuid().as_raw() {
        Err(format!("belongs to user {}", about.uid()))
    } else {
        Ok(())
    }
}

#[cfg(not(unix))]
pub(super) fn only_ours(path: &std::path::Path) -> Result<(), String> {
    if path.is_file() { Ok(()) } else { Err("must name a file".to_owned()) }
}

#[cfg(unix)]
fn refuse_open_to_all(about: &fs::Metadata) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    if about.permissions().mode() & 0o007 == 0 {
        Ok(())
    } else {
        Err("the file is open to every user of this machine: chmod 600 it".to_owned())
    }
}

#[cfg(not(unix))]
fn refuse_open_to_all(_: &fs::Metadata) -> Result<(), String> {
    Ok(())
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for SecretFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        if path.as_os_str() == STAND_IN {
            return Ok(Self::in_memory(""));
        }
        if path.as_os_str().is_empty() {
            return Err(de::Error::custom("must name the file that holds the secret"));
        }
        Self::read(path).map_err(de::Error::custom)
    }
}
