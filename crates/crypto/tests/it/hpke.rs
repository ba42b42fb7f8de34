use proptest::prelude::*;
use sotto_crypto::{
    CryptoError,
    hpke::{OpeningKey, SealingKey, SubmissionBinding, TAG_LEN},
};

use crate::{array, flips, run};

/// The submission of docs/formats/submission.md §4, sealed by Python's pyhpke.
const GOLDEN_ENC: &str = "b1f1b840de7a3241b02748cf9b05b74dc8c5e8451298738817bd76aa8ebe8c2b";
const GOLDEN: &str = "51fbf1e394151ba20ed63566dd17a28ae3f3d6c2931e3682";
const DOCUMENT: &str = include_str!("../../../../docs/formats/submission.md");

const BINDING: SubmissionBinding<'_> = SubmissionBinding { cell: "vn-1", tenant: "acme" };

fn key() -> OpeningKey {
    OpeningKey::from_bytes(run(0x40)).unwrap()
}

#[test]
fn the_documented_submission_opens() {
    let opened =
        key().open_submission(&BINDING, &array::<32>(GOLDEN_ENC), &hex::decode(GOLDEN).unwrap()).unwrap();
    assert_eq!(opened.as_slice(), b"xin chao");
    let document = DOCUMENT.replace('\n', "");
    for shown in [GOLDEN_ENC, GOLDEN, &key().public().thumbprint(), &key().public().jwk_x()] {
        assert!(document.contains(shown), "the document shows another vector than {shown}");
    }
}

#[test]
fn what_was_altered_or_belongs_elsewhere_does_not_open() {
    let sealed = key().public().seal_submission(&BINDING, b"xin chao").unwrap();
    let open = |enc: &[u8], ciphertext: &[u8]| key().open_submission(&BINDING, enc, ciphertext).map(drop);
    for altered in flips(&sealed.ciphertext) {
        assert_eq!(open(&sealed.encapsulated_key, &altered), Err(CryptoError::Refused));
    }
    for altered in flips(&sealed.encapsulated_key) {
        // X25519 ignores the highest bit (RFC 7748 §5), the KEM's context does not.
        assert_eq!(open(&altered, &sealed.ciphertext), Err(CryptoError::Refused));
    }
    for enc in [&b""[..], &[0; 31], &[0; 32], &[0; 33]] {
        assert_eq!(open(enc, &sealed.ciphertext), Err(CryptoError::Refused));
    }
    for short in 0..TAG_LEN {
        assert_eq!(open(&sealed.encapsulated_key, &sealed.ciphertext[..short]), Err(CryptoError::Refused));
    }
    for binding in
        [SubmissionBinding { cell: "vn-2", ..BINDING }, SubmissionBinding { tenant: "acme2", ..BINDING }]
    {
        let opened = key().open_submission(&binding, &sealed.encapsulated_key, &sealed.ciphertext);
        assert_eq!(opened.map(drop), Err(CryptoError::Refused));
    }
    let other = OpeningKey::generate().unwrap();
    let opened = other.open_submission(&BINDING, &sealed.encapsulated_key, &sealed.ciphertext);
    assert_eq!(opened.map(drop), Err(CryptoError::Refused));
}

#[test]
fn nothing_is_sealed_to_what_is_no_key() {
    // Points of small order (RFC 7748 §6.1): the shared secret would be known to everybody.
    for point in [[0; 32], array("0100000000000000000000000000000000000000000000000000000000000000")] {
        let sealed = SealingKey::from_bytes(point).seal_submission(&BINDING, b"text");
        assert_eq!(sealed, Err(CryptoError::Key));
    }
    for x in ["", "AAAA", "not base64url!", &format!("{}=", key().public().jwk_x())] {
        assert_eq!(SealingKey::from_jwk_x(x), Err(CryptoError::Key), "{x}");
    }
    assert_eq!(SealingKey::from_jwk_x(&key().public().jwk_x()), Ok(key().public()));
}

#[test]
fn nothing_secret_is_printed() {
    assert_eq!(format!("{:?}", key()), format!("OpeningKey {{ public: {:?}, .. }}", key().public()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_opens_and_no_two_are_alike(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let first = key().public().seal_submission(&BINDING, &text).unwrap();
        let second = key().public().seal_submission(&BINDING, &text).unwrap();
        prop_assert_ne!(&first, &second);
        let opened = key().open_submission(&BINDING, &second.encapsulated_key, &second.ciphertext).unwrap();
        prop_assert_eq!(opened.as_slice(), text.as_slice());
    }
}
