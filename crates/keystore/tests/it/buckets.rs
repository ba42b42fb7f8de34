//! What only the bucket file has.

use sotto_crypto::AeadKey;
use sotto_keystore::{BucketKeystore as _, KeystoreError, SoftBuckets};

use crate::{
    Home, contains,
    suite::{DIES, HOUR, NOW, binding},
};

fn create(home: &Home) -> SoftBuckets {
    SoftBuckets::create(&home.at("buckets.sks"), home.secret(), "privacy").unwrap()
}

fn open(home: &Home) -> Result<SoftBuckets, KeystoreError> {
    SoftBuckets::open(&home.at("buckets.sks"), home.secret(), "privacy")
}

#[test]
fn the_destroyed_key_is_gone_from_the_file_and_the_others_are_not() {
    let home = Home::new();
    let buckets = create(&home);
    buckets.create_bucket(HOUR, DIES, NOW).unwrap();
    // The document's layout: with one living bucket the content ends with its 32 bytes.
    let plain = home.decrypt(&home.at("buckets.sks"));
    let dying = &plain[plain.len() - 32..];
    buckets.create_bucket("otp/2026-11-24T07", DIES + 3_600_000, NOW).unwrap();
    let both = home.decrypt(&home.at("buckets.sks"));
    let staying = &both[both.len() - 32..];
    assert!(contains(&both, dying));

    buckets.destroy_bucket(HOUR, DIES).unwrap();
    let left = home.decrypt(&home.at("buckets.sks"));
    assert!(!contains(&left, dying));
    assert!(contains(&left, staying));
    assert_eq!(home.names(), ["buckets.sks", "buckets.sks.lock", "unlock"], "no older file may stay behind");
}

#[test]
fn wraps_are_counted_on_disk_by_blocks_across_restarts() {
    let home = Home::new();
    let buckets = create(&home);
    buckets.create_bucket(HOUR, DIES, NOW).unwrap();
    let session = AeadKey::generate().unwrap();
    let before = buckets.generation();
    for _ in 0..3 {
        buckets.wrap_session_key(&binding(HOUR), &session).unwrap();
    }
    assert_eq!(buckets.generation(), before + 1, "one write reserves a block");
    drop(buckets);
    let buckets = open(&home).unwrap();
    buckets.wrap_session_key(&binding(HOUR), &session).unwrap();
    assert_eq!(buckets.generation(), before + 2, "the wraps before the restart stay counted");
    assert_eq!(buckets.destroy_bucket(HOUR, DIES).unwrap().wraps_at_most, 2 << 16);
}
