//! What every keystore promises, whatever stands behind it: each test runs on the file and on a token of an HSM.

use std::sync::Arc;

use sotto_crypto::{
    AeadKey,
    hpke::SubmissionBinding,
    wrap::{UnwrapError, WrapBinding},
};
use sotto_keystore::{BucketInfo, BucketKeystore, KeyKind, KeyRole, Keystore, KeystoreError};

pub(crate) const HOUR: &str = "otp/2026-11-24T06";
pub(crate) const DIES: i64 = 1_795_500_000_000;
pub(crate) const NOW: i64 = DIES - 3_600_000;

/// Where keystores are made and opened.
pub(crate) trait Place {
    /// A new slot.
    fn create_keys(&self) -> Arc<dyn Keystore>;
    /// The same as another process opens it.
    fn open_keys(&self) -> Arc<dyn Keystore>;
    /// New buckets.
    fn create_buckets(&self) -> Arc<dyn BucketKeystore>;
    /// The same as another process opens them.
    fn open_buckets(&self) -> Result<Arc<dyn BucketKeystore>, KeystoreError>;
    /// Everything that was opened has been dropped: what opens next is another process.
    fn restart(&self);
}

/// Declares the suite's tests for a place.
macro_rules! suite {
    ($each:ident) => {
        $each! {
            keys_survive_a_restart
            a_signing_key_is_next_then_current_then_previous_then_gone
            rings_do_not_mix_and_kinds_do_not_change
            names_are_short_visible_ascii
            two_processes_lose_no_key_to_one_another
            a_wrap_opens_after_a_restart_and_never_after_destruction
            a_bucket_is_made_once_and_keeps_its_time
            what_a_bucket_derives_is_the_same_until_its_destruction
            what_is_no_wrap_of_the_bucket_is_refused
            wraps_are_counted_by_blocks_across_restarts
            a_second_opener_of_the_buckets_is_refused_while_the_first_lives
            threads_share_the_buckets_and_lose_nothing
            who_unwraps_while_the_bucket_dies_gets_the_key_or_hears_that_it_is_gone
        }
    };
}
pub(crate) use suite;

pub(crate) fn binding(bucket: &str) -> WrapBinding<'_> {
    WrapBinding { cell: "vn-1", tenant: "acme", class: "otp", bucket, key_id: b"0123456789abcdef" }
}

fn ring(keys: &dyn Keystore) -> Vec<(KeyRole, String)> {
    keys.keys("token").unwrap().into_iter().map(|key| (key.role, key.id)).collect()
}

pub(crate) fn keys_survive_a_restart(place: &dyn Place) {
    let first = place.create_keys();
    let token = first.generate("token", KeyKind::Ed25519, 1_000).unwrap();
    let ids = first.generate("ids", KeyKind::HmacSha256, -1).unwrap();
    let tag = first.mac(&ids.id, "sotto.test.v1", &[b"a", b"b"]).unwrap();
    let intake = first.generate("intake", KeyKind::X25519, 2_000).unwrap();
    let binding = SubmissionBinding { cell: "vn", tenant: "acme" };
    let sealed = intake.sealing.unwrap().seal_submission(&binding, b"text").unwrap();
    drop(first);
    place.restart();

    let second = place.open_keys();
    assert_eq!(second.current("token").unwrap(), token);
    assert_eq!(second.current("ids").unwrap(), ids);
    assert_eq!(token.id, token.public.unwrap().thumbprint());
    let signature = second.sign(&token.id, b"text").unwrap();
    token.public.unwrap().verify(b"text", &signature).unwrap();
    assert_eq!(second.mac(&ids.id, "sotto.test.v1", &[b"a", b"b"]).unwrap(), tag);
    assert_ne!(second.mac(&ids.id, "sotto.test.v1", &[b"ab"]).unwrap(), tag, "borders of fields count");
    assert_eq!(second.current("intake").unwrap(), intake);
    assert_eq!(intake.id, intake.sealing.unwrap().thumbprint());
    assert_eq!(second.open_submission(&intake.id, &binding, &sealed).unwrap().as_slice(), b"text");
    let elsewhere = SubmissionBinding { tenant: "other", ..binding };
    assert!(matches!(second.open_submission(&intake.id, &elsewhere, &sealed), Err(KeystoreError::Crypto(_))));
    second.check().unwrap();
}

pub(crate) fn a_signing_key_is_next_then_current_then_previous_then_gone(place: &dyn Place) {
    let keys = place.create_keys();
    let id = |now| keys.generate("token", KeyKind::Ed25519, now).unwrap().id;
    let first = id(1);
    assert!(matches!(keys.promote("token"), Err(KeystoreError::NoNext)));
    let second = id(2);
    assert!(matches!(keys.generate("token", KeyKind::Ed25519, 3), Err(KeystoreError::NextExists)));
    assert_eq!(ring(&*keys), [(KeyRole::Next, second.clone()), (KeyRole::Current, first.clone())]);

    assert_eq!(keys.promote("token").unwrap().id, second);
    let third = id(4);
    keys.promote("token").unwrap();
    let fourth = id(5);
    let expected = [
        (KeyRole::Next, fourth),
        (KeyRole::Current, third.clone()),
        (KeyRole::Previous, second.clone()),
        (KeyRole::Previous, first.clone()),
    ];
    assert_eq!(ring(&*keys), expected);
    drop(keys);
    place.restart();
    let keys = place.open_keys();
    assert_eq!(ring(&*keys), expected);

    keys.sign(&first, b"still honoured").unwrap();
    keys.retire(&first).unwrap();
    assert!(matches!(keys.sign(&first, b"text"), Err(KeystoreError::UnknownKey)));
    assert!(matches!(keys.retire(&first), Err(KeystoreError::UnknownKey)));
    assert!(matches!(keys.retire(&third), Err(KeystoreError::Current)));
    assert_eq!(place.open_keys().keys("token").unwrap().len(), 3);
}

pub(crate) fn rings_do_not_mix_and_kinds_do_not_change(place: &dyn Place) {
    let keys = place.create_keys();
    let token = keys.generate("token", KeyKind::Ed25519, 1).unwrap();
    let ids = keys.generate("ids", KeyKind::HmacSha256, 1).unwrap();
    keys.generate("ids", KeyKind::HmacSha256, 2).unwrap();
    keys.promote("ids").unwrap();
    assert_eq!(keys.current("token").unwrap(), token);
    assert!(matches!(keys.generate("token", KeyKind::HmacSha256, 3), Err(KeystoreError::Kind)));
    assert!(matches!(keys.sign(&ids.id, b"text"), Err(KeystoreError::Kind)));
    assert!(matches!(keys.mac(&token.id, "sotto.test.v1", &[]), Err(KeystoreError::Kind)));
    let intake = keys.generate("intake", KeyKind::X25519, 1).unwrap();
    assert!(matches!(keys.sign(&intake.id, b"text"), Err(KeystoreError::Kind)));
    assert!(matches!(keys.mac(&intake.id, "sotto.test.v1", &[]), Err(KeystoreError::Kind)));
    let binding = SubmissionBinding { cell: "vn", tenant: "acme" };
    let sealed = intake.sealing.unwrap().seal_submission(&binding, b"text").unwrap();
    assert!(matches!(keys.open_submission(&token.id, &binding, &sealed), Err(KeystoreError::Kind)));
    assert!(matches!(keys.current("nothing"), Err(KeystoreError::UnknownKey)));
}

pub(crate) fn names_are_short_visible_ascii(place: &dyn Place) {
    let keys = place.create_keys();
    for label in ["", "with space", "chữ", "line\n", &"x".repeat(65)] {
        assert!(matches!(keys.generate(label, KeyKind::Ed25519, 1), Err(KeystoreError::Name)), "{label:?}");
    }
    keys.generate(&"x".repeat(64), KeyKind::Ed25519, 1).unwrap();
    assert_eq!(place.open_keys().keys(&"x".repeat(64)).unwrap().len(), 1);
}

pub(crate) fn two_processes_lose_no_key_to_one_another(place: &dyn Place) {
    let left = place.create_keys();
    let right = place.open_keys();
    let token = left.generate("token", KeyKind::Ed25519, 1).unwrap();
    let ids = right.generate("ids", KeyKind::HmacSha256, 2).unwrap();
    assert_eq!(right.current("token").unwrap(), token);
    left.reload().unwrap();
    assert_eq!(left.current("ids").unwrap(), ids);
    // What one has destroyed the other does not use.
    left.generate("ids", KeyKind::HmacSha256, 3).unwrap();
    left.promote("ids").unwrap();
    right.retire(&ids.id).unwrap();
    left.reload().unwrap();
    assert!(matches!(left.mac(&ids.id, "sotto.test.v1", &[]), Err(KeystoreError::UnknownKey)));
}

pub(crate) fn a_wrap_opens_after_a_restart_and_never_after_destruction(place: &dyn Place) {
    let buckets = place.create_buckets();
    let made = buckets.create_bucket(HOUR, DIES, NOW).unwrap();
    let session = AeadKey::generate().unwrap();
    let wrapped = buckets.wrap_session_key(&binding(HOUR), &session).unwrap();
    drop(buckets);
    place.restart();

    let buckets = place.open_buckets().unwrap();
    buckets.check().unwrap();
    // The restart wasted what was left of a block of wraps.
    assert_eq!(buckets.buckets().unwrap(), [BucketInfo { wraps_at_most: 1 << 16, ..made }]);
    let opened = buckets.unwrap_session_key(&binding(HOUR), &wrapped).unwrap();
    assert_eq!(opened.expose(), session.expose());

    let receipt = buckets.destroy_bucket(HOUR, DIES).unwrap();
    assert_eq!((receipt.bucket.as_str(), receipt.created_at_ms, receipt.dies_at_ms), (HOUR, NOW, DIES));
    assert_eq!((receipt.destroyed_at_ms, receipt.wraps_at_most), (DIES, 1 << 16));
    assert_eq!(buckets.destroy_bucket(HOUR, DIES + 1).unwrap(), receipt);
    let later = "otp/2026-11-24T07";
    buckets.create_bucket(later, DIES + 1, NOW).unwrap();
    assert!(buckets.destroy_bucket(later, DIES + 1).unwrap().generation > receipt.generation);
    drop(buckets);
    place.restart();

    let buckets = place.open_buckets().unwrap();
    assert_eq!(buckets.destroyed().unwrap().first(), Some(&receipt));
    assert_eq!(buckets.buckets().unwrap(), []);
    for refused in [
        buckets.unwrap_session_key(&binding(HOUR), &wrapped).map(|_| ()),
        buckets.wrap_session_key(&binding(HOUR), &session).map(|_| ()),
        buckets.create_bucket(HOUR, DIES, NOW).map(|_| ()),
    ] {
        assert!(matches!(refused, Err(KeystoreError::BucketDestroyed)));
    }
}

pub(crate) fn a_bucket_is_made_once_and_keeps_its_time(place: &dyn Place) {
    let buckets = place.create_buckets();
    let made = buckets.create_bucket(HOUR, DIES, NOW).unwrap();
    assert_eq!(buckets.create_bucket(HOUR, DIES, NOW + 1).unwrap(), made);
    assert!(matches!(buckets.create_bucket(HOUR, DIES + 1, NOW), Err(KeystoreError::BucketTime)));
    assert!(matches!(buckets.create_bucket("late", NOW, NOW), Err(KeystoreError::BucketTime)));
    assert!(matches!(buckets.create_bucket("", DIES, NOW), Err(KeystoreError::Name)));
    assert!(matches!(buckets.destroy_bucket("never", NOW), Err(KeystoreError::BucketUnknown)));
    let refused = buckets.unwrap_session_key(&binding("never"), &[]).map(|_| ());
    assert!(matches!(refused, Err(KeystoreError::BucketUnknown)));
}

pub(crate) fn what_a_bucket_derives_is_the_same_until_its_destruction(place: &dyn Place) {
    const DAY: &str = "index/2026-11-24";
    let buckets = place.create_buckets();
    let made = buckets.create_deriving_bucket(DAY, DIES, NOW).unwrap();
    assert_eq!(buckets.create_deriving_bucket(DAY, DIES, NOW + 1).unwrap(), made);
    buckets.create_deriving_bucket("index/2026-11-25", DIES, NOW).unwrap();
    let derived = |buckets: &dyn BucketKeystore, bucket, purpose, fields: &[&[u8]]| {
        *buckets.derive_key(bucket, purpose, fields).unwrap()
    };
    let key = derived(&*buckets, DAY, "sotto.test.v1", &[b"acme", b"x"]);
    for (bucket, purpose, fields) in [
        ("index/2026-11-25", "sotto.test.v1", &[b"acme".as_slice(), b"x"]),
        (DAY, "sotto.test.v2", &[b"acme", b"x"]),
        (DAY, "sotto.test.v1", &[b"acm", b"ex"]),
    ] {
        assert_ne!(derived(&*buckets, bucket, purpose, fields), key, "{bucket} {purpose}");
    }
    drop(buckets);
    place.restart();
    let buckets = place.open_buckets().unwrap();
    assert_eq!(derived(&*buckets, DAY, "sotto.test.v1", &[b"acme", b"x"]), key);

    let gone = buckets.destroy_bucket(DAY, DIES).unwrap();
    assert_eq!((gone.bucket.as_str(), gone.wraps_at_most), (DAY, 0));
    let refused = buckets.derive_key(DAY, "sotto.test.v1", &[]).map(drop);
    assert!(matches!(refused, Err(KeystoreError::BucketDestroyed)));
    let again = buckets.create_deriving_bucket(DAY, DIES, NOW).map(drop);
    assert!(matches!(again, Err(KeystoreError::BucketDestroyed)));
    let never = buckets.derive_key("never", "sotto.test.v1", &[]).map(drop);
    assert!(matches!(never, Err(KeystoreError::BucketUnknown)));
}

pub(crate) fn what_is_no_wrap_of_the_bucket_is_refused(place: &dyn Place) {
    let buckets = place.create_buckets();
    buckets.create_bucket(HOUR, DIES, NOW).unwrap();
    buckets.create_bucket("otp/2026-11-24T07", DIES, NOW).unwrap();
    let session = AeadKey::generate().unwrap();
    let wrapped = buckets.wrap_session_key(&binding(HOUR), &session).unwrap();
    let unwrap = |binding: &WrapBinding<'_>, wrapped: &[u8]| {
        let error = buckets.unwrap_session_key(binding, wrapped).unwrap_err();
        if let KeystoreError::Unwrap(error) = error { Some(error) } else { None }
    };
    for elsewhere in [
        WrapBinding { tenant: "other", ..binding(HOUR) },
        WrapBinding { cell: "vn-2", ..binding(HOUR) },
        WrapBinding { class: "promotional", ..binding(HOUR) },
        WrapBinding { key_id: b"0123456789abcdeg", ..binding(HOUR) },
        binding("otp/2026-11-24T07"),
    ] {
        assert_eq!(unwrap(&elsewhere, &wrapped), Some(UnwrapError::Refused));
    }
    for at in [2, 14, 61] {
        let mut altered = wrapped;
        altered[at] ^= 1;
        assert_eq!(unwrap(&binding(HOUR), &altered), Some(UnwrapError::Refused));
    }
    assert_eq!(unwrap(&binding(HOUR), &wrapped[..61]), Some(UnwrapError::Length));
    assert_eq!(unwrap(&binding(HOUR), &[&[2], &wrapped[1..]].concat()), Some(UnwrapError::Version(2)));
    assert_eq!(unwrap(&binding(HOUR), &[&[1, 9], &wrapped[2..]].concat()), Some(UnwrapError::Suite(9)));
    let opened = buckets.unwrap_session_key(&binding(HOUR), &wrapped).unwrap();
    assert_eq!(opened.expose(), session.expose(), "it works on after that");
}

pub(crate) fn wraps_are_counted_by_blocks_across_restarts(place: &dyn Place) {
    let buckets = place.create_buckets();
    buckets.create_bucket(HOUR, DIES, NOW).unwrap();
    let session = AeadKey::generate().unwrap();
    for _ in 0..3 {
        buckets.wrap_session_key(&binding(HOUR), &session).unwrap();
    }
    drop(buckets);
    place.restart();
    let buckets = place.open_buckets().unwrap();
    buckets.wrap_session_key(&binding(HOUR), &session).unwrap();
    assert_eq!(buckets.destroy_bucket(HOUR, DIES).unwrap().wraps_at_most, 2 << 16);
}

pub(crate) fn a_second_opener_of_the_buckets_is_refused_while_the_first_lives(place: &dyn Place) {
    let first = place.create_buckets();
    assert!(matches!(place.open_buckets(), Err(KeystoreError::InUse { .. })));
    drop(first);
    place.restart();
    place.open_buckets().unwrap();
}

pub(crate) fn threads_share_the_buckets_and_lose_nothing(place: &dyn Place) {
    let buckets = place.create_buckets();
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
    place.restart();
    let buckets = place.open_buckets().unwrap();
    assert_eq!((buckets.buckets().unwrap().len(), buckets.destroyed().unwrap().len()), (8, 8));
    let mut generations: Vec<_> =
        buckets.destroyed().unwrap().into_iter().map(|gone| gone.generation).collect();
    generations.sort_unstable();
    generations.dedup();
    assert_eq!(generations.len(), 8, "each destruction has a generation of its own");
}

pub(crate) fn who_unwraps_while_the_bucket_dies_gets_the_key_or_hears_that_it_is_gone(place: &dyn Place) {
    let buckets = place.create_buckets();
    buckets.create_bucket(HOUR, DIES, NOW).unwrap();
    let session = AeadKey::generate().unwrap();
    let wrapped = buckets.wrap_session_key(&binding(HOUR), &session).unwrap();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let buckets = Arc::clone(&buckets);
            std::thread::spawn(move || {
                loop {
                    match buckets.unwrap_session_key(&binding(HOUR), &wrapped) {
                        Ok(_) => {}
                        Err(error) => {
                            assert!(matches!(error, KeystoreError::BucketDestroyed), "{error}");
                            return;
                        }
                    }
                }
            })
        })
        .collect();
    buckets.destroy_bucket(HOUR, DIES).unwrap();
    assert!(matches!(
        buckets.unwrap_session_key(&binding(HOUR), &wrapped),
        Err(KeystoreError::BucketDestroyed)
    ));
    for reader in readers {
        reader.join().unwrap();
    }
}
