//! What only a slot's file has.

use sotto_crypto::MacKey;
use sotto_keystore::{KeyKind, Keystore as _, SoftKeystore};

use crate::{Home, contains};

fn create(home: &Home) -> SoftKeystore {
    SoftKeystore::create(&home.at("identity.sks"), home.secret(), "identity").unwrap()
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
