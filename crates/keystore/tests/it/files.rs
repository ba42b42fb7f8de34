use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use sotto_keystore::{
    BucketKeystore as _, KeyKind, Keystore as _, KeystoreError, SoftBuckets, SoftKeystore, UnlockSecret,
};

use crate::Home;

fn slot(home: &Home) -> SoftKeystore {
    SoftKeystore::create(&home.at("audit.sks"), home.secret(), "audit").unwrap()
}

fn reopen(home: &Home) -> Result<SoftKeystore, KeystoreError> {
    SoftKeystore::open(&home.at("audit.sks"), home.secret(), "audit")
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn every_file_is_for_its_owner_alone() {
    let home = Home::new();
    let keys = slot(&home);
    keys.generate("checkpoint", KeyKind::Ed25519, 1).unwrap();
    for name in ["unlock", "audit.sks", "audit.sks.lock"] {
        assert_eq!(home.at(name).metadata().unwrap().mode() & 0o777, 0o600, "{name}");
    }
    for name in ["unlock", "audit.sks"] {
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601] {
            chmod(&home.at(name), mode);
            let refused = UnlockSecret::read(&home.at("unlock"))
                .and_then(|secret| SoftKeystore::open(&home.at("audit.sks"), secret, "audit"));
            assert!(matches!(refused, Err(KeystoreError::Mode { mode: seen, .. }) if seen == mode));
        }
        chmod(&home.at(name), 0o400);
    }
    reopen(&home).unwrap();
}

#[test]
fn another_secret_slot_or_kind_does_not_open_it() {
    let home = Home::new();
    slot(&home);
    let other = UnlockSecret::create(&home.at("other")).unwrap();
    let path = home.at("audit.sks");
    assert!(matches!(SoftKeystore::open(&path, other, "audit"), Err(KeystoreError::Refused { .. })));
    assert!(matches!(
        SoftKeystore::open(&path, home.secret(), "identity"),
        Err(KeystoreError::Format { reason: "it belongs to another slot", .. })
    ));
    assert!(matches!(
        SoftBuckets::open(&path, home.secret(), "audit"),
        Err(KeystoreError::Format { reason: "it is of another kind", .. })
    ));
    assert!(matches!(
        SoftKeystore::open(&home.at("absent.sks"), home.secret(), "audit"),
        Err(KeystoreError::Io { .. })
    ));
}

#[test]
fn any_altered_or_missing_byte_is_refused() {
    let home = Home::new();
    slot(&home).generate("checkpoint", KeyKind::Ed25519, 1).unwrap();
    let path = home.at("audit.sks");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut copy = whole.clone();
        copy[at] ^= 1;
        fs::write(&path, &copy).unwrap();
        assert!(reopen(&home).is_err(), "byte {at} altered");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(reopen(&home).is_err(), "cut at {at}");
    }
    fs::write(&path, [whole.as_slice(), &[0]].concat()).unwrap();
    assert!(reopen(&home).is_err(), "a byte more");
    fs::write(&path, &whole).unwrap();
    reopen(&home).unwrap();
}

#[test]
fn nothing_that_exists_is_overwritten() {
    let home = Home::new();
    let made = slot(&home).generate("checkpoint", KeyKind::Ed25519, 1).unwrap();
    let again = SoftKeystore::create(&home.at("audit.sks"), home.secret(), "audit");
    assert!(matches!(again, Err(KeystoreError::Exists { .. })));
    assert!(matches!(
        SoftBuckets::create(&home.at("audit.sks"), home.secret(), "audit"),
        Err(KeystoreError::Exists { .. })
    ));
    assert!(matches!(UnlockSecret::create(&home.at("unlock")), Err(KeystoreError::Exists { .. })));
    assert_eq!(reopen(&home).unwrap().current("checkpoint").unwrap(), made);
    assert_eq!(home.names(), ["audit.sks", "audit.sks.lock", "unlock"]);
}

#[test]
fn a_file_that_is_lost_altered_open_to_others_or_older_is_told_of_while_it_is_in_use() {
    let home = Home::new();
    let keys = slot(&home);
    let buckets = SoftBuckets::create(&home.at("buckets.sks"), home.secret(), "privacy").unwrap();
    let [older, older_buckets] = ["audit.sks", "buckets.sks"].map(|name| fs::read(home.at(name)).unwrap());
    keys.generate("checkpoint", KeyKind::Ed25519, 1).unwrap();
    buckets.create_bucket("otp/2026-11-24T05", 2, 1).unwrap();
    // Somebody else's change is none that is lost.
    reopen(&home).unwrap().generate("checkpoint", KeyKind::Ed25519, 2).unwrap();
    for (name, older) in [("audit.sks", &older), ("buckets.sks", &older_buckets)] {
        let check = || if name == "audit.sks" { keys.check_file() } else { buckets.check_file() };
        let path = home.at(name);
        let sound = fs::read(&path).unwrap();
        check().unwrap();
        chmod(&path, 0o640);
        assert!(matches!(check(), Err(KeystoreError::Mode { mode: 0o640, .. })), "{name}");
        chmod(&path, 0o600);
        let mut altered = sound.clone();
        *altered.last_mut().unwrap() ^= 1;
        fs::write(&path, altered).unwrap();
        assert!(matches!(check(), Err(KeystoreError::Refused { .. })), "{name}");
        fs::write(&path, older).unwrap();
        let told = check().unwrap_err();
        assert!(matches!(told, KeystoreError::Older { found: 1, known: 2, .. }), "{name}: {told}");
        fs::remove_file(&path).unwrap();
        assert!(matches!(check(), Err(KeystoreError::Io { .. })), "{name}");
        fs::write(&path, sound).unwrap();
        chmod(&path, 0o600);
        check().unwrap();
    }
}

#[test]
fn a_secret_has_its_length() {
    let home = Home::new();
    fs::write(home.at("unlock"), [7; 31]).unwrap();
    assert!(matches!(UnlockSecret::read(&home.at("unlock")), Err(KeystoreError::Format { .. })));
}

/// A replacement is: write `.new`, name the old file `.old`, rename `.new` over it, erase `.old`. Crash at each step.
#[test]
fn a_crash_at_any_step_leaves_the_old_file_or_the_new_one_whole() {
    let home = Home::new();
    let path = home.at("audit.sks");
    let (new, old) = (home.at("audit.sks.new"), home.at("audit.sks.old"));
    let keys = slot(&home);
    let first = keys.generate("checkpoint", KeyKind::Ed25519, 1).unwrap();
    let before = fs::read(&path).unwrap();
    keys.generate("checkpoint", KeyKind::Ed25519, 2).unwrap();
    let after = fs::read(&path).unwrap();
    let put = |path: &Path, bytes: &[u8]| {
        fs::write(path, bytes).unwrap();
        chmod(path, 0o600);
    };
    let opens_with = |count: usize, step: &str| {
        let keys = reopen(&home).unwrap();
        assert_eq!(keys.keys("checkpoint").unwrap().len(), count, "{step}");
        assert_eq!(keys.current("checkpoint").unwrap(), first, "{step}");
        assert_eq!(home.names(), ["audit.sks", "audit.sks.lock", "unlock"], "{step}");
    };

    put(&path, &before);
    put(&new, &after[..after.len() / 2]);
    opens_with(1, "inside the write of the new file");

    put(&new, &after);
    opens_with(1, "before the old file's second name");

    put(&new, &after);
    fs::hard_link(&path, &old).unwrap();
    opens_with(1, "before the rename");

    fs::rename(&path, &old).unwrap();
    put(&path, &after);
    opens_with(2, "before the old file is erased");

    // The first writing of a keystore links `.new` to its name: a crash leaves both.
    fs::hard_link(&path, &new).unwrap();
    opens_with(2, "after the link of a creation");

    // And the next change works.
    reopen(&home).unwrap().promote("checkpoint").unwrap();
    assert_eq!(reopen(&home).unwrap().keys("checkpoint").unwrap().len(), 2);
}

#[test]
fn the_file_that_was_replaced_is_overwritten() {
    let home = Home::new();
    let buckets = SoftBuckets::create(&home.at("buckets.sks"), home.secret(), "privacy").unwrap();
    buckets.create_bucket("day", 2, 1).unwrap();
    // A second name keeps the old file in sight.
    fs::hard_link(home.at("buckets.sks"), home.at("witness")).unwrap();
    buckets.destroy_bucket("day", 2).unwrap();
    let witness = fs::read(home.at("witness")).unwrap();
    assert!(!witness.is_empty() && witness.iter().all(|byte| *byte == 0));
}

#[test]
fn a_failed_write_changes_nothing() {
    let home = Home::new();
    let buckets = SoftBuckets::create(&home.at("buckets.sks"), home.secret(), "privacy").unwrap();
    buckets.create_bucket("day", 2, 1).unwrap();
    let generation = buckets.generation();
    // A folder where the new file should be written fails also for root.
    fs::create_dir(home.at("buckets.sks.new")).unwrap();
    assert!(matches!(buckets.destroy_bucket("day", 2), Err(KeystoreError::Io { .. })));
    assert_eq!((buckets.generation(), buckets.buckets().unwrap().len()), (generation, 1));
    fs::remove_dir(home.at("buckets.sks.new")).unwrap();
    assert_eq!(buckets.destroy_bucket("day", 2).unwrap().generation, generation + 1);
}
