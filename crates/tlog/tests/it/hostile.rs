//! Parsers of outside bytes: nothing makes them panic, and what they read they write back unchanged.

use std::io;

use proptest::{collection::vec, prelude::*};
use sotto_tlog::{
    Checkpoint, Edge, Hash, Note, Receipt, VerifierKey, decode_bundle, decode_tile, fsck, verify_consistency,
    verify_inclusion,
};

use crate::support::{Memory, entries, key};

/// The root that the signed checkpoint of a log of `size` entries names.
fn root(size: u64) -> Hash {
    Edge::load(&Memory::of(&entries(size)), size).unwrap().root()
}

/// Text near to the formats, so that more than the first check is reached.
fn near() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("\n".to_owned()),
        Just("\u{2014} ".to_owned()),
        Just(" ".to_owned()),
        Just("+".to_owned()),
        Just("8".to_owned()),
        Just("c2sp.org/tlog-proof@v1\n".to_owned()),
        Just("index ".to_owned()),
        Just("extra ".to_owned()),
        Just("log.example.vn/audit-2026h2".to_owned()),
        Just("XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=".to_owned()),
        Just("lAMI/QLWtnkZ".to_owned()),
        ".{0,4}",
    ];
    vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn text_never_panics(text in near()) {
        if let Ok(note) = Note::parse(text.as_bytes()) {
            prop_assert_eq!(note.to_string(), text.clone());
        }
        if let Ok(checkpoint) = Checkpoint::parse_text(&text) {
            prop_assert_eq!(checkpoint.to_string(), text.clone());
        }
        if let Ok(receipt) = text.parse::<Receipt>() {
            prop_assert_eq!(receipt.to_string(), text.clone());
        }
        if let Ok(key) = text.parse::<VerifierKey>() {
            prop_assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn bytes_never_panic(bytes in vec(any::<u8>(), 0..400), width in 0..4_u64) {
        drop(Note::parse(&bytes));
        drop(decode_tile(&bytes, width));
        if let Ok(entries) = decode_bundle(&bytes, width) {
            prop_assert_eq!(u64::try_from(entries.len()).unwrap(), width);
        }
    }

    #[test]
    fn proofs_never_panic_nor_verify(index: u64, size: u64, old: u64, count in 0..70_usize) {
        let hash = Hash::leaf(b"x");
        let path = vec![hash; count];
        prop_assert!(verify_inclusion(&hash, index, size, &path, &Hash::empty()).is_err());
        prop_assert!(verify_consistency(old, &hash, size, &Hash::empty(), &path).is_err());
    }

    #[test]
    fn a_source_of_noise_is_refused(bytes in vec(any::<u8>(), 0..70), size in 1..600_u64) {
        let noise = |_: &str| -> io::Result<Option<Vec<u8>>> { Ok(Some(bytes.clone())) };
        if let Ok(edge) = Edge::load(&noise, size) {
            // A tree of whole tiles has no entry at its edge that could betray a tile of the right length: then its root, which
            // the signed checkpoint names, is another.
            prop_assert!(size.is_multiple_of(256));
            prop_assert_ne!(edge.root(), root(size));
        }
    }
}

#[test]
fn noise_of_the_right_length_has_another_root() {
    let noise = |_: &str| -> io::Result<Option<Vec<u8>>> { Ok(Some(vec![0; 64])) };
    let edge = Edge::load(&noise, 512).unwrap();
    assert_ne!(edge.root(), root(512));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_change_to_any_file_is_found(file: prop::sample::Index, at: prop::sample::Index, flip in 1..=255_u8) {
        let (_, verifier) = key();
        let log = Memory::of(&entries(259));
        let path = file.get(&log.paths()).clone();
        let mut bytes = log.remove(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        log.put(&path, bytes);
        prop_assert!(fsck(&log, &verifier, None, |_, _| ()).is_err(), "{} at {}", path, at);
    }
}
