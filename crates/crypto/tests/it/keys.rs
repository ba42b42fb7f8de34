use sotto_crypto::{AeadKey, CryptoError, MacKey, aead, compare, hash, random};

use crate::{array, flips, run};

#[test]
fn hkdf_agrees_with_rfc_5869() {
    // Appendix A.1; the published output has 42 bytes, of which a key is the first 32.
    let key = AeadKey::derive(&[0x0b; 22], &run::<13>(0), &run::<10>(0xf0)).unwrap();
    assert_eq!(key.expose(), &array("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"));
}

#[test]
fn sha256_agrees_with_fips_180_in_one_piece_or_many() {
    let digest = array("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(hash::sha256(b"abc"), digest);
    let mut pieces = hash::Sha256::new();
    for piece in [b"a", b"b", b"c"] {
        pieces.update(piece);
    }
    assert_eq!(pieces.finish(), digest);
}

#[test]
fn a_tag_depends_on_key_label_fields_and_their_borders() {
    let key = MacKey::from_bytes(run(0));
    let tag = key.mac("sotto.test.v1", &[b"ab", b"c"]);
    assert!(key.verify("sotto.test.v1", &[b"ab", b"c"], &tag));
    for flipped in flips(&tag) {
        assert!(!key.verify("sotto.test.v1", &[b"ab", b"c"], &flipped));
    }
    assert!(!key.verify("sotto.test.v1", &[b"ab", b"c"], &tag[..31]));
    assert!(!key.verify("sotto.test.v1", &[b"a", b"bc"], &tag));
    assert!(!key.verify("sotto.test.v1", &[b"ab", b"c", b""], &tag));
    assert!(!key.verify("sotto.test.v2", &[b"ab", b"c"], &tag));
    assert!(!MacKey::from_bytes(run(1)).verify("sotto.test.v1", &[b"ab", b"c"], &tag));
    assert_eq!(key.keyed_id("sotto.test.v1", &[b"ab", b"c"]), tag[..16]);
    assert_eq!(format!("{key:?}"), "MacKey");
}

#[test]
fn a_small_store_opens_only_with_its_key_and_context() {
    let key = AeadKey::generate().unwrap();
    let sealed = aead::seal(&key, b"context", b"secret").unwrap();
    assert_eq!(aead::open(&key, b"context", &sealed).unwrap().as_slice(), b"secret");
    assert_eq!(aead::open(&key, b"other", &sealed).unwrap_err(), CryptoError::Refused);
    assert_eq!(aead::open(&key, b"context", &sealed[..27]).unwrap_err(), CryptoError::TooShort);
    assert_eq!(aead::open(&key, b"context", &sealed[..11]).unwrap_err(), CryptoError::TooShort);
    for flipped in flips(&sealed) {
        assert_eq!(aead::open(&key, b"context", &flipped).unwrap_err(), CryptoError::Refused);
    }
}

#[test]
fn random_bytes_differ() {
    assert_ne!(random::random_array::<16>().unwrap(), random::random_array::<16>().unwrap());
}

#[test]
fn comparison_sees_content_and_length() {
    assert!(compare::equal(b"abc", b"abc"));
    assert!(!compare::equal(b"abc", b"abd"));
    assert!(!compare::equal(b"abc", b"ab"));
}
