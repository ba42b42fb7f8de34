use sotto_crypto::{
    AeadKey,
    wrap::{UnwrapError, WRAPPED_LEN, WrapBinding, unwrap_key, wrap_key},
};

use crate::{flips, run};

/// The wrapped key of docs/formats/envelope.md §4, made by Python's cryptography.
const GOLDEN: &str = "0101606162636465666768696a6bac290b06039196a10188733d098b52041f3dfc02032b87191663d1a3b7df19e46b5fa09dbf20ab187931f5dad746d967";
const DOCUMENT: &str = include_str!("../../../../docs/formats/envelope.md");

const KEY_ID: [u8; 16] =
    [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f];
const BINDING: WrapBinding<'_> =
    WrapBinding { cell: "vn-1", tenant: "acme", class: "otp", bucket: "otp/2026-11-24T05", key_id: &KEY_ID };

fn bucket() -> AeadKey {
    AeadKey::from_bytes(run(0x40))
}

#[test]
fn the_documented_wrap_opens() {
    let session = unwrap_key(&bucket(), &BINDING, &hex::decode(GOLDEN).unwrap()).unwrap();
    assert_eq!(session.expose(), &run::<32>(0));
    assert!(DOCUMENT.replace('\n', "").contains(GOLDEN), "the document shows another vector");
}

#[test]
fn what_is_wrapped_unwraps_and_no_two_wraps_are_alike() {
    let session = AeadKey::generate().unwrap();
    let first = wrap_key(&bucket(), &BINDING, &session).unwrap();
    let second = wrap_key(&bucket(), &BINDING, &session).unwrap();
    assert_ne!(first, second);
    for wrapped in [first, second] {
        assert_eq!(wrapped.len(), WRAPPED_LEN);
        assert_eq!(unwrap_key(&bucket(), &BINDING, &wrapped).unwrap().expose(), session.expose());
    }
}

#[test]
fn any_flipped_bit_and_any_other_length_is_refused() {
    let golden = hex::decode(GOLDEN).unwrap();
    for flipped in flips(&golden) {
        assert!(unwrap_key(&bucket(), &BINDING, &flipped).is_err());
    }
    for end in 0..golden.len() {
        assert!(unwrap_key(&bucket(), &BINDING, &golden[..end]).is_err());
    }
    assert_eq!(
        unwrap_key(&bucket(), &BINDING, &[golden.as_slice(), &[0]].concat()).unwrap_err(),
        UnwrapError::Length
    );
    assert_eq!(unwrap_key(&bucket(), &BINDING, &[1, 2]).unwrap_err(), UnwrapError::Suite(2));
    assert_eq!(unwrap_key(&bucket(), &BINDING, &[7, 2]).unwrap_err(), UnwrapError::Version(7));
}

#[test]
fn every_field_of_the_binding_counts() {
    let golden = hex::decode(GOLDEN).unwrap();
    let other_id = run(0x21);
    let others = [
        WrapBinding { cell: "vn-2", ..BINDING },
        WrapBinding { tenant: "other", ..BINDING },
        WrapBinding { class: "promotional", ..BINDING },
        WrapBinding { bucket: "otp/2026-11-24T06", ..BINDING },
        WrapBinding { key_id: &other_id, ..BINDING },
        WrapBinding { cell: "vn-1a", tenant: "cme", ..BINDING },
    ];
    for other in others {
        assert_eq!(unwrap_key(&bucket(), &other, &golden).unwrap_err(), UnwrapError::Refused);
    }
    assert_eq!(
        unwrap_key(&AeadKey::from_bytes(run(0)), &BINDING, &golden).unwrap_err(),
        UnwrapError::Refused
    );
}
