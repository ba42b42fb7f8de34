use std::sync::Arc;

use sotto_crypto::{
    AeadKey,
    wrap::{UnwrapError, WrapBinding},
};
use sotto_keystore::{BucketKeystore, KeystoreError, SoftBuckets};

use crate::{Home, contains};

const HOUR: &str = "otp/2026-11-24T06";
const DIES: i64 = 1_795_500_000_000;
const NOW: i64 = DIES - 3_600_000;

fn create(home: &Home) -> SoftBuckets {
    SoftBuckets::create(&home.at("buckets.sks"), home.secret(), "privacy").unwrap()
}

fn open(home: &Home) -> Result<SoftBuckets, KeystoreError> {
    SoftBuckets::open(&home.at("buckets.sks"), home.secret(), "privacy")
}

fn binding(bucket: &str) -> WrapBinding<'_> {
    WrapBinding { cell: "vn-1", tenant: "acme", class: "otp", bucket, key_id: b"0123456789abcdef" }
}

#[test]
fn a_wrap_opens_after_a_restart_and_never_after_destruction() {
    let home = Home::new();
    let buckets = create(&home);
    let made = buckets.create_bucket(HOUR, DIES, NOW).unwrap();
    let session = AeadKey::generate().unwrap();
    let wrapped = buckets.wrap_session_key(&binding(HOUR), &session).unwrap();
    drop(buckets);

    let buckets = open(&home).unwrap();
    assert_eq!(buckets.buckets().unwrap(), [made]);
    let opened = buckets.unwrap_session_key(&binding(HOUR), &wrapped).unwrap();
    assert_eq!(opened.expose(), session.expose());
    let other = WrapBinding { tenant: "other", ..binding(HOUR) };
    assert!(matches!(
        buckets.unwrap_session_key(&other, &wrapped),
        Err(KeystoreError::Unwrap(UnwrapError::Refused))
    ));

    let receipt = buckets.destroy_bucket(HOUR, DIES).unwrap();
    assert_eq!((receipt.bucket.as_str(), receipt.created_at_ms, receipt.dies_at_ms), (HOUR, NOW, DIES));
    assert_eq!((receipt.destroyed_at_ms, receipt.wraps_at_most), (DIES, 1 << 16));
    assert_eq!(receipt.generation, buckets.generation());
    assert_eq!(buckets.destroy_bucket(HOUR, DIES + 1).unwrap(), receipt);
    drop(buckets);

    let buckets = open(&home).unwrap();
    assert_eq!(buckets.destroyed().unwrap(), [receipt]);
    assert_eq!(buckets.buckets().unwrap(), []);
    for refused in [
        buckets.unwrap_session_key(&binding(HOUR), &wrapped).map(|_| ()),
        buckets.wrap_session_key(&binding(HOUR), &session).map(|_| ()),
        buckets.create_bucket(HOUR, DIES, NOW).map(|_| ()),
    ] {
        assert!(matches!(refused, Err(KeystoreError::BucketDestroyed)));
    }
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
fn a_bucket_is_made_once_and_keeps_its_time() {
    let home = Home::new();
    let buckets = create(&home);
    let made = buckets.create_bucket(HOUR, DIES, NOW).unwrap();
    let generation = buckets.generation();
    assert_eq!(buckets.create_bucket(HOUR, DIES, NOW + 1).unwrap(), made);
    assert_eq!(buckets.generation(), generation, "nothing to write");
    assert!(matches!(buckets.create_bucket(HOUR, DIES + 1, NOW), Err(KeystoreError::BucketTime)));
    assert!(matches!(buckets.create_bucket("late", NOW, NOW), Err(KeystoreError::BucketTime)));
    assert!(matches!(buckets.create_bucket("", DIES, NOW), Err(KeystoreError::Name)));
    assert!(matches!(buckets.destroy_bucket("never", NOW), Err(KeystoreError::BucketUnknown)));
    let refused = buckets.unwrap_session_key(&binding("never"), &[]).map(|_| ());
    assert!(matches!(refused, Err(KeystoreError::BucketUnknown)));
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

#[test]
fn a_second_opener_is_refused_while_the_first_lives() {
    let home = Home::new();
    let first = create(&home);
    assert!(matches!(open(&home), Err(KeystoreError::InUse { .. })));
    drop(first);
    open(&home).unwrap();
}

#[test]
fn threads_share_one_file_and_lose_nothing() {
    let home = Home::new();
    let buckets = Arc::new(create(&home));
    let handles: Vec<_> = (0..4)
        .map(|thread| {
            let buckets = Arc::clone(&buckets);
            std::thread::spawn(move || {
                for hour in 0..4 {
                    let id = format!("otp/{thread}-{hour}");
                    buckets.create_bucket(&id, DIES, NOW).unwrap();
                    if hour % 2 == 0 {
                        buckets.destroy_bucket(&id, NOW).unwrap();
                    }
                }
            })
        })
        .collect();
    for handle in handles {
        handle.join().unwrap();
    }
    drop(buckets);
    let buckets = open(&home).unwrap();
    assert_eq!((buckets.buckets().unwrap().len(), buckets.destroyed().unwrap().len()), (8, 8));
    assert_eq!(buckets.generation(), 1 + 16 + 8);
}
