use std::{collections::HashSet, sync::Arc, thread};

use proptest::prelude::*;
use sotto_crypto::{
    AeadKey,
    envelope::{
        Binding, EnvelopeHeader, FormatError, HEADER_LEN, MAX_SEALS, OpenError, PADDING_BLOCK, SealError,
        Sealer, open,
    },
};

use crate::{array, flips, run};

/// The envelope of docs/formats/envelope.md §4, made by Python's cryptography.
const GOLDEN: &str = "0101202122232425262728292a2b2c2d2e2f00000000000000000000000798047d3f747f3f95445fef2f3354b1647b00c0866b6525e6c5ea85e1965fbf9d7482e835dae1a79909e91af25f28c59e";
const DOCUMENT: &str = include_str!("../../../../docs/formats/envelope.md");

const MESSAGE: [u8; 16] =
    [0x01, 0x91, 0xf5, 0xa0, 0xc0, 0xde, 0x7a, 0xbc, 0x81, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
const BINDING: Binding<'_> =
    Binding { cell: "vn-1", tenant: "acme", class: "otp", message_id: &MESSAGE, schema: 1 };

fn key() -> AeadKey {
    AeadKey::from_bytes(run(0))
}

fn sealer(limit: u64) -> Sealer {
    Sealer::new(run(0x20), key(), limit)
}

#[test]
fn the_documented_envelope_is_made_and_opened() {
    let sealer = sealer(MAX_SEALS);
    for _ in 0..7 {
        sealer.seal(&BINDING, b"").unwrap();
    }
    assert_eq!(hex::encode(sealer.seal(&BINDING, b"xin chao").unwrap()), GOLDEN);
    assert_eq!(open(&key(), &BINDING, &hex::decode(GOLDEN).unwrap()).unwrap().as_slice(), b"xin chao");
    assert!(DOCUMENT.replace('\n', "").contains(GOLDEN), "the document shows another vector");
}

#[test]
fn the_header_names_key_and_counter() {
    let header = EnvelopeHeader::parse(&hex::decode(GOLDEN).unwrap()).unwrap();
    assert_eq!(header, EnvelopeHeader { key_id: run(0x20), counter: 7 });
}

proptest! {
    #[test]
    fn what_is_sealed_opens(plaintext in prop::collection::vec(any::<u8>(), 0..200), schema: u16, id: [u8; 16]) {
        let binding = Binding { schema, message_id: &id, ..BINDING };
        let envelope = sealer(1).seal(&binding, &plaintext).unwrap();
        let opened = open(&key(), &binding, &envelope).unwrap();
        prop_assert_eq!(opened.as_slice(), plaintext.as_slice());
        prop_assert_eq!(envelope.len(), HEADER_LEN + (plaintext.len() / PADDING_BLOCK + 1) * PADDING_BLOCK + 16);
    }

    #[test]
    fn plaintexts_of_zeros_and_marks_keep_their_length(
        plaintext in prop::collection::vec(prop::sample::select(vec![0_u8, 0x80]), 0..80),
    ) {
        let envelope = sealer(1).seal(&BINDING, &plaintext).unwrap();
        let opened = open(&key(), &BINDING, &envelope).unwrap();
        prop_assert_eq!(opened.as_slice(), plaintext.as_slice());
    }

    #[test]
    fn hostile_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), head: bool) {
        let bytes = if head { [&[1, 1], bytes.as_slice()].concat() } else { bytes };
        prop_assert!(open(&key(), &BINDING, &bytes).is_err());
    }
}

#[test]
fn any_flipped_bit_is_refused() {
    for flipped in flips(&hex::decode(GOLDEN).unwrap()) {
        assert!(open(&key(), &BINDING, &flipped).is_err());
    }
}

#[test]
fn any_other_length_is_refused() {
    let golden = hex::decode(GOLDEN).unwrap();
    for end in 0..golden.len() {
        assert!(open(&key(), &BINDING, &golden[..end]).is_err());
    }
    for more in 1..=2 * PADDING_BLOCK {
        assert!(open(&key(), &BINDING, &[golden.as_slice(), &vec![0; more]].concat()).is_err());
    }
}

#[test]
fn every_field_of_the_binding_counts() {
    let golden = hex::decode(GOLDEN).unwrap();
    let id = run(0);
    let others = [
        Binding { cell: "vn-2", ..BINDING },
        Binding { tenant: "acmf", ..BINDING },
        Binding { class: "promotional", ..BINDING },
        Binding { message_id: &id, ..BINDING },
        Binding { schema: 2, ..BINDING },
        // The same characters, with the border between two fields elsewhere.
        Binding { cell: "vn-1a", tenant: "cme", ..BINDING },
        Binding { tenant: "acmeo", class: "tp", ..BINDING },
    ];
    for other in others {
        assert_eq!(open(&key(), &other, &golden).unwrap_err(), OpenError::Refused);
    }
    assert_eq!(open(&AeadKey::from_bytes(run(1)), &BINDING, &golden).unwrap_err(), OpenError::Refused);
}

#[test]
fn the_shape_is_judged_before_any_key() {
    let golden = hex::decode(GOLDEN).unwrap();
    let with = |at: usize, byte: u8| {
        let mut copy = golden.clone();
        copy[at] = byte;
        EnvelopeHeader::parse(&copy).unwrap_err()
    };
    assert_eq!(with(0, 2), FormatError::Version(2));
    assert_eq!(with(1, 2), FormatError::Suite(2));
    assert_eq!(with(18, 1), FormatError::Nonce);
    assert_eq!(EnvelopeHeader::parse(&golden[..HEADER_LEN + 16]).unwrap_err(), FormatError::Length);
    assert_eq!(EnvelopeHeader::parse(&[2]).unwrap_err(), FormatError::Length);
    assert_eq!(EnvelopeHeader::parse(&[2, 9]).unwrap_err(), FormatError::Version(2));
}

#[test]
fn nonces_never_repeat_across_threads_and_the_limit_holds() {
    const THREADS: usize = 4;
    const LIMIT: usize = 2000;
    let sealer = Arc::new(sealer(u64::try_from(LIMIT).unwrap()));
    let handles: Vec<_> = (0..THREADS)
        .map(|_| {
            let sealer = Arc::clone(&sealer);
            thread::spawn(move || {
                let mut nonces = Vec::new();
                loop {
                    match sealer.seal(&BINDING, b"x") {
                        Ok(envelope) => nonces.push(array::<12>(&hex::encode(&envelope[18..30]))),
                        Err(SealError::Exhausted) => return nonces,
                        Err(SealError::Crypto(error)) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    let nonces: Vec<_> = handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect();
    assert_eq!(nonces.len(), LIMIT);
    assert_eq!(nonces.iter().collect::<HashSet<_>>().len(), LIMIT);
    assert_eq!(sealer.remaining(), 0);
}

#[test]
fn no_limit_goes_above_the_bound() {
    assert_eq!(sealer(u64::MAX).remaining(), MAX_SEALS);
}

#[test]
fn nothing_secret_is_printed() {
    let sealer = sealer(3);
    assert_eq!(format!("{sealer:?}"), "Sealer { remaining: 3, .. }");
    assert_eq!(format!("{:?}", key()), "AeadKey");
    assert!(!format!("{BINDING:?}").contains("acme"));
}
