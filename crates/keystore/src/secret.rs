//! The secret that opens a slot's files: 32 random bytes in a file of their own.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use sotto_crypto::{AeadKey, Zeroizing, random::random_array};

use crate::{KeystoreError, file};

const SECRET_LEN: usize = 32;

/// An unlock secret; wiped on drop.
pub struct UnlockSecret(Zeroizing<[u8; SECRET_LEN]>);

impl UnlockSecret {
    /// Makes a fresh secret and its file, mode 600; a file that stands there is never overwritten.
    ///
    /// # Errors
    /// [`KeystoreError::Exists`], [`KeystoreError::Io`], [`KeystoreError::Crypto`].
    pub fn create(path: &Path) -> Result<Self, KeystoreError> {
        let secret = Self(random_array().map(Zeroizing::new).map_err(KeystoreError::Crypto)?);
        let mut file = create_private(path)?;
        file.write_all(secret.0.as_ref()).map_err(KeystoreError::io("write", path))?;
        file.sync_all().map_err(KeystoreError::io("write", path))?;
        file::sync_folder(path)?;
        Ok(secret)
    }

    /// Reads the secret from its file.
    ///
    /// # Errors
    /// [`KeystoreError::Mode`] when others may read it; [`KeystoreError::Format`] when it has not 32 bytes.
    pub fn read(path: &Path) -> Result<Self, KeystoreError> {
        let bytes = read_private(path)?;
        let secret = <[u8; SECRET_LEN]>::try_from(bytes.as_slice()).map_err(|_| KeystoreError::Format {
            path: path.to_owned(),
            reason: "an unlock secret has 32 bytes",
        })?;
        Ok(Self(Zeroizing::new(secret)))
    }

    /// The key of a file whose header has this salt.
    pub(crate) fn file_key(&self, salt: &[u8], info: &[u8]) -> Result<AeadKey, KeystoreError> {
        AeadKey::derive(self.0.as_ref(), salt, info).map_err(KeystoreError::Crypto)
    }
}

impl fmt::Debug for UnlockSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlockSecret")
    }
}

/// Makes a file that only its owner may use and that did not exist.
pub(crate) fn create_private(path: &Path) -> Result<File, KeystoreError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            KeystoreError::Exists { path: path.to_owned() }
        } else {
            KeystoreError::io("create", path)(error)
        }
    })
}

/// Reads a file after checking that only its owner may use it.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let failed = KeystoreError::io("read", path);
    let read = || {
        let mut file = File::open(path)?;
        // Asked of the open file, so that nobody swaps the path between the question and the reading.
        let facts = file.metadata()?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(facts.len()).unwrap_or_default()));
        file.read_to_end(&mut bytes)?;
        Ok((facts.permissions().mode() & 0o777, bytes))
    };
    let (mode, bytes) = read().map_err(failed)?;
    if mode & 0o077 != 0 {
        return Err(KeystoreError::Mode { path: path.to_owned(), mode });
    }
    Ok(bytes)
}
