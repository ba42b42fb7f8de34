//! The check of a whole log finds every alteration.

use std::fs;

use sotto_tlog::{CheckpointError, Directory, Fault, Hash, NoteError, fsck};

use crate::support::{Memory, checkpoint, entries, key};

#[test]
fn a_true_log_passes_and_shows_its_entries() {
    let (_, verifier) = key();
    for size in [0, 1, 255, 256, 257, 700_u64] {
        let log = Memory::of(&entries(size));
        let mut seen = Vec::new();
        let report = fsck(&log, &verifier, None, |index, entry| seen.push((index, entry.to_vec()))).unwrap();
        assert_eq!(report.checkpoint.size, size);
        assert_eq!(report.bundles, size.div_ceil(256));
        assert_eq!(seen, (0..).zip(entries(size)).collect::<Vec<_>>());
    }
}

#[test]
fn one_flipped_bit_in_any_file_is_found() {
    let (_, verifier) = key();
    let log = Memory::of(&entries(520));
    for path in log.paths() {
        let original = log.remove(&path).unwrap();
        assert!(fsck(&log, &verifier, None, |_, _| ()).is_err(), "{path} missing");
        for at in [0, original.len() / 2, original.len() - 1] {
            let mut altered = original.clone();
            altered[at] ^= 1;
            log.put(&path, altered);
            assert!(fsck(&log, &verifier, None, |_, _| ()).is_err(), "{path} at {at}");
        }
        log.put(&path, [original.as_slice(), b"x"].concat());
        assert!(fsck(&log, &verifier, None, |_, _| ()).is_err(), "{path} longer");
        log.put(&path, original);
    }
    fsck(&log, &verifier, None, |_, _| ()).unwrap();
}

#[test]
fn a_log_rewritten_as_a_whole_is_told_by_a_kept_checkpoint() {
    let (_, verifier) = key();
    let log = Memory::of(&entries(300));
    let kept = log.remove("checkpoint").unwrap();
    let mut rewritten = entries(300);
    rewritten[7] = b"entry 8".to_vec();
    let rewritten = Memory::of(&rewritten);
    fsck(&rewritten, &verifier, None, |_, _| ()).unwrap();
    assert!(matches!(fsck(&rewritten, &verifier, Some(&kept), |_, _| ()), Err(Fault::Root)));
}

#[test]
fn an_older_checkpoint_still_verifies_against_the_grown_log() {
    let (_, verifier) = key();
    let kept = Memory::of(&entries(40)).remove("checkpoint").unwrap();
    let grown = Memory::of(&entries(600));
    let report = fsck(&grown, &verifier, Some(&kept), |_, _| ()).unwrap();
    assert_eq!(report.checkpoint.size, 40);
}

#[test]
fn a_checkpoint_beyond_the_entries_is_refused() {
    let (_, verifier) = key();
    let log = Memory::of(&entries(40));
    log.put("checkpoint", checkpoint(41, Hash::empty()).into_bytes());
    assert!(matches!(fsck(&log, &verifier, None, |_, _| ()), Err(Fault::Read(_))));
    // A size nobody could have stored ends at the first missing bundle.
    log.put("checkpoint", checkpoint(u64::MAX, Hash::empty()).into_bytes());
    assert!(matches!(fsck(&log, &verifier, None, |_, _| ()), Err(Fault::Read(_))));
    log.put("checkpoint", b"nothing\n\n".to_vec());
    assert!(matches!(
        fsck(&log, &verifier, None, |_, _| ()),
        Err(Fault::Checkpoint(CheckpointError::Note(NoteError::Form)))
    ));
}

#[test]
fn a_folder_is_read_by_its_paths() {
    let (_, verifier) = key();
    let folder = tempfile::tempdir().unwrap();
    let log = Memory::of(&entries(300));
    for path in log.paths() {
        let file = folder.path().join(&path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, log.remove(&path).unwrap()).unwrap();
    }
    let report = fsck(&Directory::new(folder.path()), &verifier, None, |_, _| ()).unwrap();
    assert_eq!((report.checkpoint.size, report.bundles, report.tiles), (300, 2, 3));
}
