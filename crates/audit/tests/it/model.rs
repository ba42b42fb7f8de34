//! A disk that may lose, at a crash, every name that was not made durable; a signer; and a stream of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use sotto_audit::{
    domain::{Act, Category},
    error::SignerError,
    ports::{Disk, EventLeaf, Events, EventsUnavailable, Signer},
};
use sotto_crypto::sign::SigningKey;
use sotto_keystore::KeystoreError;
use sotto_tlog::{Hash, Source, VerifierKey};

pub(crate) const ORIGIN: &str = "sotto.internal/audit/vn";

/// A file: its bytes are durable once written; its name may still be lost.
#[derive(Clone, Debug)]
enum Change {
    Put(String, Vec<u8>),
    Remove(String),
}

#[derive(Debug, Default)]
struct State {
    durable: BTreeMap<String, Vec<u8>>,
    /// Since the last crash, in order.
    unsettled: Vec<Change>,
    /// Operations until it fails; `None` for never.
    left: Option<usize>,
    operations: usize,
}

/// The disk model. Renames of one folder may reach the medium in any combination until they are made durable.
#[derive(Debug, Default)]
pub(crate) struct ModelDisk(Mutex<State>);

impl ModelDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails after so many more operations, and from then on.
    pub(crate) fn fail_after(&self, operations: usize) {
        self.state().left = Some(operations);
    }

    /// Works again.
    pub(crate) fn heal(&self) {
        self.state().left = None;
    }

    pub(crate) fn operations(&self) -> usize {
        self.state().operations
    }

    /// What a restarted machine finds: each change that was not made durable is kept or lost as `keep` says.
    pub(crate) fn crash(&self, keep: impl Fn(usize) -> bool) -> Arc<Self> {
        let state = self.state();
        let mut files = state.durable.clone();
        for (number, change) in state.unsettled.iter().enumerate() {
            if keep(number) {
                apply(&mut files, change);
            }
        }
        drop(state);
        Arc::new(Self(Mutex::new(State { durable: files, ..State::default() })))
    }

    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        match &mut state.left {
            Some(0) => return Err(io::Error::other("the disk is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        state.operations += 1;
        Ok(state)
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let mut files = state.durable.clone();
        state.unsettled.iter().for_each(|change| apply(&mut files, change));
        files
    }
}

/// The folders that a path lies in, innermost first; the last one is the root.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    Path::new(path).ancestors().skip(1).filter_map(Path::to_str)
}

fn apply(files: &mut BTreeMap<String, Vec<u8>>, change: &Change) {
    match change {
        Change::Put(path, bytes) => {
            files.insert(path.clone(), bytes.clone());
        }
        Change::Remove(path) => {
            let folder = format!("{path}/");
            files.retain(|name, _| name != path && !name.starts_with(&folder));
        }
    }
}

impl Source for ModelDisk {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.files().get(path).cloned())
    }
}

impl Disk for ModelDisk {
    fn put(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.step()?.unsettled.push(Change::Put(path.to_owned(), bytes.to_vec()));
        Ok(())
    }

    fn settle(&self, paths: &[String]) -> io::Result<()> {
        // Folders are what is made durable, with every change of names in them.
        let folders: BTreeSet<&str> = paths.iter().flat_map(|path| ancestors(path)).collect();
        let mut state = self.step()?;
        let (settled, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.unsettled).into_iter().partition(|change| {
                let (Change::Put(path, _) | Change::Remove(path)) = change;
                ancestors(path).next().is_some_and(|folder| folders.contains(folder))
            });
        state.unsettled = rest;
        settled.iter().for_each(|change| apply(&mut state.durable, change));
        Ok(())
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{folder}/");
        let mut names: Vec<String> = self
            .files()
            .keys()
            .filter_map(|path| path.strip_prefix(&prefix)?.split('/').next().map(str::to_owned))
            .collect();
        names.dedup();
        Ok(names)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.step()?.unsettled.push(Change::Remove(path.to_owned()));
        Ok(())
    }
}

/// A signer with a key in memory.
#[derive(Debug)]
pub(crate) struct TestSigner {
    key: SigningKey,
    begun: AtomicBool,
}

impl TestSigner {
    pub(crate) fn new(seed: u8) -> Arc<Self> {
        Arc::new(Self { key: SigningKey::from_seed(&[seed; 32]).unwrap(), begun: AtomicBool::new(false) })
    }
}

impl TestSigner {
    /// One that accepts a log that was begun, and one that was not.
    pub(crate) fn begun(seed: u8) -> Arc<Self> {
        let signer = Self::new(seed);
        signer.begun.store(true, Ordering::SeqCst);
        signer
    }
}

impl Signer for TestSigner {
    fn origin(&self) -> &str {
        ORIGIN
    }

    fn current(&self) -> Result<VerifierKey, SignerError> {
        VerifierKey::new(ORIGIN, self.key.public()).map_err(SignerError::Name)
    }

    fn accepted(&self) -> Result<Vec<VerifierKey>, SignerError> {
        Ok(vec![self.current()?])
    }

    fn has_begun(&self) -> Result<bool, SignerError> {
        Ok(self.begun.load(Ordering::SeqCst))
    }

    fn note_begun(&self) -> Result<(), SignerError> {
        assert!(!self.begun.swap(true, Ordering::SeqCst), "noted once");
        Ok(())
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, SignerError> {
        let signature =
            self.key.sign(text).map_err(|error| SignerError::Keystore(KeystoreError::Sign(error)))?;
        Ok(signature.to_vec())
    }
}

/// A stream of events in memory: batches by sequence, with holes where there are none.
#[derive(Debug, Default)]
pub(crate) struct TestEvents {
    pub(crate) batches: Mutex<BTreeMap<u64, Vec<u8>>>,
    pub(crate) away: AtomicBool,
    /// Whether it does not answer, as a broker that is gone, and how often it was asked meanwhile.
    pub(crate) silent: AtomicBool,
    pub(crate) unanswered: AtomicUsize,
}

impl Events for TestEvents {
    async fn leaves(&self, from: u64, through: u64, max: usize) -> Result<Vec<EventLeaf>, EventsUnavailable> {
        if self.away.load(Ordering::SeqCst) {
            return Err(EventsUnavailable("away".into()));
        }
        if self.silent.load(Ordering::SeqCst) {
            self.unanswered.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let range = batches.range(from..=through).take(max);
        Ok(range
            .map(|(sequence, bytes)| EventLeaf { sequence: *sequence, hash: Hash::leaf(bytes) })
            .collect())
    }
}

pub(crate) fn act(producer: &str, sequence: u64) -> Act {
    Act {
        producer: producer.to_owned(),
        sequence,
        at_s: 1_795_493_815,
        category: Category::Keys,
        action: "key.unwrapped".to_owned(),
        actor: "carrier".to_owned(),
        tenant: "acme".to_owned(),
        object: "otp/2026-11-24T06".to_owned(),
        outcome: "ok".to_owned(),
    }
}
