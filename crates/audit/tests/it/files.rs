//! The log in a real folder, read by a verifier that shares no code with it: `tests/verify.py`, from the
//! specifications alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
};

use sotto_audit::{
    adapters::{folder::Folder, wire},
    domain::{Act, Entry, EventRange},
    error::LogError,
    log::{Growth, Log},
    ports::Signer as _,
};
use sotto_core::{Classified as _, ErrorClass};
use sotto_tlog::{Directory, Hash, fsck};

use crate::model::{TestSigner, act};

fn open(folder: &Path) -> Result<Log, LogError> {
    Log::open(Arc::new(Folder::open(folder)?), TestSigner::new(1), 64)
}

/// Grows a log in a folder to about 700 entries, in steps, and closes it.
fn grown(folder: &Path) {
    let mut log = open(folder).unwrap();
    let mut next = 1;
    for (step, count) in (0..).zip([1, 100, 155, 1, 200, 243]) {
        let acts = (next..next + count).map(|sequence| act("privacy/1", sequence)).collect();
        let range =
            EventRange { first: step * 10 + 1, last: step * 10 + 10, root: Hash::leaf(b"x"), batches: 9 };
        log = log.append(Growth { acts, ranges: vec![range], balance: None }).unwrap();
        next += count;
    }
}

fn independent(folder: &Path) -> Result<String, String> {
    let output = run_verifier(folder);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn run_verifier(folder: &Path) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify.py");
    let key = TestSigner::new(1).current().unwrap().to_string();
    let python = sotto_testkit::tools::python();
    Command::new(python).arg("-B").arg(script).arg(folder).arg(key).output().unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

#[test]
fn an_independent_verifier_accepts_the_log_and_finds_every_alteration() {
    let folder = tempfile::tempdir().unwrap();
    grown(folder.path());
    let key = TestSigner::new(1).current().unwrap();
    let report = fsck(&Directory::new(folder.path()), &key, None, |_, _| ()).unwrap();
    assert_eq!(report.checkpoint.size, 706);
    let root: String = report.checkpoint.root.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(independent(folder.path()), Ok(format!("706 {root}")));
    // What the newest checkpoint rests on; partial files of older sizes stay beside it for those who hold those.
    let current = ["checkpoint", "000", "001", "194", "2"];
    let mut altered = 0;
    for path in files(folder.path()) {
        if !current.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        fs::write(&path, changed).unwrap();
        assert!(independent(folder.path()).is_err(), "{}", path.display());
        fs::write(&path, bytes).unwrap();
        altered += 1;
    }
    assert_eq!(altered, 1 + 4 + 2 + 1, "checkpoint, full and partial files of level 0 and bundles, level 1");
    independent(folder.path()).unwrap();
}

#[test]
fn a_folder_has_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let first = Folder::open(folder.path()).unwrap();
    assert!(matches!(Folder::open(folder.path()), Err(LogError::InUse { .. })));
    drop(first);
    Folder::open(folder.path()).unwrap();
}

#[test]
fn a_log_goes_on_where_it_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    grown(folder.path());
    let before = open(folder.path()).unwrap();
    let (size, published) = (before.index().size(), before.published().clone());
    assert_eq!(before.index().marks().through(), 60);
    drop(before);
    // Told again after a restart: nothing new.
    let log = open(folder.path()).unwrap();
    assert_eq!(log.published(), &published);
    let log =
        log.append(Growth { acts: vec![act("privacy/1", 700)], ranges: Vec::new(), balance: None }).unwrap();
    assert_eq!(log.index().size(), size);
    let log =
        log.append(Growth { acts: vec![act("privacy/1", 701)], ranges: Vec::new(), balance: None }).unwrap();
    assert_eq!(log.index().size(), size + 1);
}

#[test]
fn a_wiped_folder_is_no_new_log() {
    let folder = tempfile::tempdir().unwrap();
    let signer = TestSigner::new(1);
    let open = || Log::open(Arc::new(Folder::open(folder.path())?), Arc::<TestSigner>::clone(&signer), 64);
    let log = open().unwrap();
    drop(log.append(Growth { acts: vec![act("privacy/1", 1)], ranges: Vec::new(), balance: None }).unwrap());
    drop(open().unwrap());
    let wiped = |names: &[&str]| {
        for name in names {
            let path = folder.path().join(name);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        open().unwrap_err()
    };
    assert!(matches!(wiped(&["checkpoint"]), LogError::NoCheckpoint));
    let gone = wiped(&["tile"]);
    assert!(matches!(gone, LogError::Gone), "{gone}");
    assert_eq!(gone.class(), ErrorClass::Reject);
    assert!(gone.to_string().contains("restore the folder from its backup"), "{gone}");
    assert!(!folder.path().join("checkpoint").exists());
}

#[test]
fn leaves_hold_nothing_that_looks_like_a_person() {
    let folder = tempfile::tempdir().unwrap();
    grown(folder.path());
    let key = TestSigner::new(1).current().unwrap();
    // The texts of the entries: their hashes and numbers hold every byte there is by chance.
    let mut texts = Vec::new();
    fsck(&Directory::new(folder.path()), &key, None, |_, entry| match wire::decode(entry).unwrap() {
        Entry::Act(act) => {
            let Act { producer, action, actor, tenant, object, outcome, .. } = act;
            texts.extend([producer, action, actor, tenant, object, outcome]);
        }
        Entry::Gap(gap) => texts.push(gap.producer),
        Entry::EventRange(_) | Entry::ClosingBalance(_) => {}
    })
    .unwrap();
    assert_eq!(texts.len(), 700 * 6);
    for text in texts {
        let longest = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap();
        assert!(longest < 9, "a run of {longest} digits could be a number: {text}");
        assert!(!text.contains('@') && text.is_ascii(), "{text}");
    }
}
