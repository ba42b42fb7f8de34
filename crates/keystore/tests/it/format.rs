//! Files made by another library, as docs/formats/keystore.md describes them.

use std::{fs, os::unix::fs::PermissionsExt as _};

use sotto_crypto::{AeadKey, MacKey, aead, wrap::WrapBinding};
use sotto_keystore::{
    BucketKeystore as _, KeyRole, Keystore as _, KeystoreError, SoftBuckets, SoftKeystore, UnlockSecret,
};

use crate::Home;

const SLOT: &str = "534f54544f4b45590101010561756469740000000000000003202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4bba6f2691ab7138bdefabac6db8e25dfe5509c4cf2b2c1be98183c9d71dd4656c1ea97406b2458803886fa704c8990e6012fa325adebbe82246db8c93f9b20d3010d99d5aa4ca8c9302a18af8ae85014b75946e0ab428416cd544088005cf59af630b0e3d79bb40157e4a4d2b61c710eba84448991ee1d48b62ca0eaff9daf2be2d9377d1efdabec6e25afac7e0485f13ff8261615792d5b045ed8c963c8ccb63dd23b27582";
const BUCKETS: &str = "534f54544f4b455901020107707269766163790000000000000009202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4bba7c4386b33b69e6adf2e832fde4049a7372adbe46544dbee0d9779624a3122e588cb573dd76fe55f3159030d1b32e5000c4174bd0a3d07a40b5e3e388c07e478d328b93405f0ab51f6571b04b7899179ee217fdeb7e4234e106077836e6f7d003090f3e133733101f2460420a6710eba844489cce81b5e901ae6bc991139bd446ff1abf80a22c43157cc1217b824be66dba0be9577c";
const DOCUMENT: &str = include_str!("../../../../docs/formats/keystore.md");

fn put(home: &Home, name: &str, bytes: &[u8]) {
    fs::write(home.at(name), bytes).unwrap();
    fs::set_permissions(home.at(name), fs::Permissions::from_mode(0o600)).unwrap();
}

fn documented(hex_text: &str) -> (Home, UnlockSecret) {
    assert!(DOCUMENT.replace('\n', "").contains(hex_text), "the document shows another vector");
    let home = Home::new();
    put(&home, "unlock", &std::array::from_fn::<u8, 32, _>(|at| u8::try_from(at).unwrap()));
    put(
        &home,
        "file.sks",
        &(0..hex_text.len()).step_by(2).map(|at| byte(&hex_text[at..at + 2])).collect::<Vec<_>>(),
    );
    let secret = home.secret();
    (home, secret)
}

fn byte(text: &str) -> u8 {
    u8::from_str_radix(text, 16).unwrap()
}

#[test]
fn the_documented_slot_opens() {
    let (home, secret) = documented(SLOT);
    let keys = SoftKeystore::open(&home.at("file.sks"), secret, "audit").unwrap();
    let checkpoint = keys.current("checkpoint").unwrap();
    // The key of RFC 8032 §7.1 test 1, whose thumbprint RFC 8037 appendix A.3 prints.
    assert_eq!(checkpoint.public.unwrap().thumbprint(), checkpoint.id);
    assert_eq!(checkpoint.created_at_ms, 1000);
    let ids = &keys.keys("ids").unwrap()[0];
    assert_eq!((ids.role, ids.id.as_str(), ids.created_at_ms), (KeyRole::Next, "an-id", 2000));
    let same = MacKey::from_bytes(std::array::from_fn(|at| 0x60 + u8::try_from(at).unwrap()));
    assert_eq!(keys.mac("an-id", "sotto.test.v1", &[]).unwrap(), same.mac("sotto.test.v1", &[]));
}

#[test]
fn the_documented_buckets_open() {
    let (home, secret) = documented(BUCKETS);
    let buckets = SoftBuckets::open(&home.at("file.sks"), secret, "privacy").unwrap();
    assert_eq!(buckets.generation(), 9);
    let living = &buckets.buckets().unwrap()[0];
    assert_eq!(
        (living.bucket.as_str(), living.created_at_ms, living.dies_at_ms),
        ("otp/2026-11-24T06", 1000, 5000)
    );
    let gone = &buckets.destroyed().unwrap()[0];
    assert_eq!(
        (gone.bucket.as_str(), gone.created_at_ms, gone.dies_at_ms),
        ("otp/2026-11-24T05", 1000, 4000)
    );
    assert_eq!((gone.wraps_at_most, gone.destroyed_at_ms, gone.generation), (131_072, 4001, 8));
}

#[test]
fn the_last_wrap_of_a_bucket_key_is_the_last() {
    let binding = WrapBinding {
        cell: "vn-1",
        tenant: "acme",
        class: "otp",
        bucket: "otp/2026-11-24T06",
        key_id: b"0123456789abcdef",
    };
    let session = AeadKey::generate().unwrap();
    for (reserved, allowed) in [((1_u64 << 32) - (1 << 16), true), (1 << 32, false)] {
        let (home, secret) = documented(BUCKETS);
        let path = home.at("file.sks");
        let header = fs::read(&path).unwrap()[..12 + 7 + 8 + 32].to_vec();
        let mut content = home.decrypt(&path);
        // Mark, id, two times: then the number of wraps.
        content[1 + 18 + 16..][..8].copy_from_slice(&reserved.to_be_bytes());
        let key = AeadKey::derive(&fs::read(home.at("unlock")).unwrap(), &header[27..], b"sotto.keystore.v1")
            .unwrap();
        put(&home, "file.sks", &[header.as_slice(), &aead::seal(&key, &header, &content).unwrap()].concat());

        let buckets = SoftBuckets::open(&path, secret, "privacy").unwrap();
        match buckets.wrap_session_key(&binding, &session) {
            Ok(_) => assert!(allowed),
            Err(error) => assert!(!allowed && matches!(error, KeystoreError::WrapLimit)),
        }
    }
}
