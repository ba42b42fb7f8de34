//! The promises of the crate, on real files.

#![expect(clippy::unwrap_used, reason = "test code")]

mod buckets;
mod files;
mod format;
mod hsm;
mod pkcs11;
mod slots;
mod soft;
mod suite;

use std::{
    fs,
    path::{Path, PathBuf},
};

use sotto_crypto::{AeadKey, Zeroizing, aead};
use sotto_keystore::UnlockSecret;
use tempfile::TempDir;

/// A folder with an unlock secret.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        UnlockSecret::create(&home.at("unlock")).unwrap();
        home
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn secret(&self) -> UnlockSecret {
        UnlockSecret::read(&self.at("unlock")).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Decrypts a file by the document alone, without the keystore's code.
    fn decrypt(&self, file: &Path) -> Zeroizing<Vec<u8>> {
        let bytes = fs::read(file).unwrap();
        assert_eq!(&bytes[..9], b"SOTTOKEY\x01");
        let header = 12 + usize::from(bytes[11]) + 8 + 32;
        let secret = fs::read(self.at("unlock")).unwrap();
        let key = AeadKey::derive(&secret, &bytes[header - 32..header], b"sotto.keystore.v1").unwrap();
        aead::open(&key, &bytes[..header], &bytes[header..]).unwrap()
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
