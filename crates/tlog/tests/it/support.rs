//! A log in a map, and the keys and leaves of the published vectors.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, PoisonError},
};

use sotto_crypto::sign::SigningKey;
use sotto_tlog::{Checkpoint, Edge, Hash, NoteError, Source, VerifierKey};

/// Origin of the worked vector.
pub(crate) const ORIGIN: &str = "log.example.vn/audit-2026h2";

/// The key of the worked vector: seed 00 01 .. 1f.
pub(crate) fn key() -> (SigningKey, VerifierKey) {
    let seed: Vec<u8> = (0..32).collect();
    let key = SigningKey::from_seed(&seed.try_into().unwrap()).unwrap();
    let verifier = VerifierKey::new(ORIGIN, key.public()).unwrap();
    (key, verifier)
}

/// The eight classic test leaves of Certificate Transparency.
pub(crate) fn leaves() -> Vec<Vec<u8>> {
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
        .map(|leaf| hex::decode(leaf).unwrap())
        .to_vec()
}

/// `count` different entries.
pub(crate) fn entries(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("entry {n}").into_bytes()).collect()
}

/// A log in memory.
#[derive(Default)]
pub(crate) struct Memory(pub(crate) Mutex<BTreeMap<String, Vec<u8>>>);

impl Memory {
    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), bytes);
    }

    pub(crate) fn remove(&self, path: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(path)
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Writes a log of these entries, signed at its end.
    pub(crate) fn of(entries: &[Vec<u8>]) -> Self {
        let log = Self::default();
        let mut edge = Edge::new();
        for entry in entries {
            for resource in edge.push(entry.clone()).unwrap() {
                log.put(&resource.path, resource.bytes);
            }
        }
        for resource in edge.partials().unwrap() {
            log.put(&resource.path, resource.bytes);
        }
        log.put("checkpoint", checkpoint(edge.size(), edge.root()).into_bytes());
        log
    }
}

impl Source for Memory {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned())
    }
}

/// A signed checkpoint.
pub(crate) fn checkpoint(size: u64, root: Hash) -> String {
    let (signing, verifier) = key();
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size, root };
    checkpoint
        .sign::<NoteError>(&verifier, |text| Ok(signing.sign(text).unwrap().to_vec()))
        .unwrap()
        .to_string()
}
