use sotto_crypto::{MacKey, hpke::SubmissionBinding};
use sotto_keystore::{KeyKind, KeyRole, Keystore, KeystoreError, SoftKeystore};

use crate::{Home, contains};

fn create(home: &Home) -> SoftKeystore {
    SoftKeystore::create(&home.at("identity.sks"), home.secret(), "identity").unwrap()
}

fn open(home: &Home) -> SoftKeystore {
    SoftKeystore::open(&home.at("identity.sks"), home.secret(), "identity").unwrap()
}

fn ring(keys: &SoftKeystore) -> Vec<(KeyRole, String)> {
    keys.keys("token").unwrap().into_iter().map(|key| (key.role, key.id)).collect()
}

#[test]
fn keys_survive_a_restart() {
    let home = Home::new();
    let first = create(&home);
    let token = first.generate("token", KeyKind::Ed25519, 1_000).unwrap();
    let ids = first.generate("ids", KeyKind::HmacSha256, -1).unwrap();
    let tag = first.mac(&ids.id, "sotto.test.v1", &[b"a", b"b"]).unwrap();
    let intake = first.generate("intake", KeyKind::X25519, 2_000).unwrap();
    let binding = SubmissionBinding { cell: "vn", tenant: "acme" };
    let sealed = intake.sealing.unwrap().seal_submission(&binding, b"text").unwrap();

    let second = open(&home);
    assert_eq!(second.current("token").unwrap(), token);
    assert_eq!(second.current("ids").unwrap(), ids);
    assert_eq!(token.id, token.public.unwrap().thumbprint());
    let signature = second.sign(&token.id, b"text").unwrap();
    token.public.unwrap().verify(b"text", &signature).unwrap();
    assert_eq!(second.mac(&ids.id, "sotto.test.v1", &[b"a", b"b"]).unwrap(), tag);
    assert_eq!(second.current("intake").unwrap(), intake);
    assert_eq!(intake.id, intake.sealing.unwrap().thumbprint());
    assert_eq!(second.open_submission(&intake.id, &binding, &sealed).unwrap().as_slice(), b"text");
    let elsewhere = SubmissionBinding { tenant: "other", ..binding };
    assert!(matches!(second.open_submission(&intake.id, &elsewhere, &sealed), Err(KeystoreError::Crypto(_))));
}

#[test]
fn a_signing_key_is_next_then_current_then_previous_then_gone() {
    let home = Home::new();
    let keys = create(&home);
    let id = |now| keys.generate("token", KeyKind::Ed25519, now).unwrap().id;
    let first = id(1);
    assert!(matches!(keys.promote("token"), Err(KeystoreError::NoNext)));
    let second = id(2);
    assert!(matches!(keys.generate("token", KeyKind::Ed25519, 3), Err(KeystoreError::NextExists)));
    assert_eq!(ring(&keys), [(KeyRole::Next, second.clone()), (KeyRole::Current, first.clone())]);

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
    assert_eq!(ring(&keys), expected);
    assert_eq!(ring(&open(&home)), expected);

    keys.sign(&first, b"still honoured").unwrap();
    keys.retire(&first).unwrap();
    assert!(matches!(keys.sign(&first, b"text"), Err(KeystoreError::UnknownKey)));
    assert!(matches!(keys.retire(&first), Err(KeystoreError::UnknownKey)));
    assert!(matches!(keys.retire(&third), Err(KeystoreError::Current)));
    assert_eq!(open(&home).keys("token").unwrap().len(), 3);
}

#[test]
fn rings_do_not_mix_and_kinds_do_not_change() {
    let home = Home::new();
    let keys = create(&home);
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

#[test]
fn names_are_short_visible_ascii() {
    let home = Home::new();
    let keys = create(&home);
    for label in ["", "with space", "chữ", "line\n", &"x".repeat(65)] {
        assert!(matches!(keys.generate(label, KeyKind::Ed25519, 1), Err(KeystoreError::Name)), "{label:?}");
    }
    keys.generate(&"x".repeat(64), KeyKind::Ed25519, 1).unwrap();
    assert_eq!(open(&home).keys(&"x".repeat(64)).unwrap().len(), 1);
}

#[test]
fn two_processes_lose_no_key_to_one_another() {
    let home = Home::new();
    let left = create(&home);
    let right = open(&home);
    let token = left.generate("token", KeyKind::Ed25519, 1).unwrap();
    let ids = right.generate("ids", KeyKind::HmacSha256, 2).unwrap();
    assert_eq!(right.current("token").unwrap(), token);
    assert!(left.current("ids").is_err());
    left.reload().unwrap();
    assert_eq!(left.current("ids").unwrap(), ids);
}

#[test]
fn a_retired_key_is_gone_from_the_file() {
    let home = Home::new();
    let keys = create(&home);
    let first = keys.generate("ids", KeyKind::HmacSha256, 1).unwrap();
    // The document's layout: kind, role, label, id, time, then the 32 bytes of the only key.
    let plain = home.decrypt(&home.at("identity.sks"));
    let secret: [u8; 32] = plain[plain.len() - 32..].try_into().unwrap();
    assert_eq!(
        MacKey::from_bytes(secret).mac("sotto.test.v1", &[]),
        keys.mac(&first.id, "sotto.test.v1", &[]).unwrap()
    );
    keys.generate("ids", KeyKind::HmacSha256, 2).unwrap();
    keys.promote("ids").unwrap();
    assert!(contains(&home.decrypt(&home.at("identity.sks")), &secret));
    keys.retire(&first.id).unwrap();
    assert!(!contains(&home.decrypt(&home.at("identity.sks")), &secret));
}

#[test]
fn nothing_secret_is_printed() {
    let home = Home::new();
    let keys = create(&home);
    keys.generate("ids", KeyKind::HmacSha256, 1).unwrap();
    assert!(format!("{keys:?}").starts_with("SoftKeystore { slot: \"identity\", path: "));
    assert!(format!("{keys:?}").ends_with(".sks\", .. }"));
    assert_eq!(format!("{:?}", home.secret()), "UnlockSecret");
}
