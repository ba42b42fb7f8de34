//! Signed notes, checkpoints and receipts against the worked vector and the example of the specification.

use sotto_crypto::sign::PublicKey;
use sotto_tlog::{
    Checkpoint, CheckpointError, Hash, Leaves, Note, NoteError, ProofError, Receipt, ReceiptError,
    VerifierKey, VerifierKeyError, check_origin, inclusion_path,
};

use crate::support::{ORIGIN, checkpoint, key, leaves};

const VKEY: &str = "log.example.vn/audit-2026h2+940308fd+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";
const LOG_LINE: &str = "\u{2014} log.example.vn/audit-2026h2 lAMI/QLWtnkZz7Eu7FCoAEtKWqF4cbmSueTy9L7SrfEWgWnHkDjuLddpuYRI5ujYe4GLuKy5qxjlhA6+5JrFa2t/egI=\n";
const WITNESS_LINE: &str = "\u{2014} witness.example.vn/w1 w3pklgAAAABq/YbAPJLA9udfvQndE7wkjHgBTVW6S4odyVfmxmGkTcJU/FWoVg+OQbm7ziqJt42aJJzT5ZxW3RjwIeJqhgJ2yCQMCA==\n";
const TEXT: &str = "log.example.vn/audit-2026h2\n8\nXcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=\n";

fn vector() -> String {
    format!("{TEXT}\n{LOG_LINE}{WITNESS_LINE}")
}

#[test]
fn the_worked_vector_is_made_and_read() {
    let (_, verifier) = key();
    assert_eq!(verifier.to_string(), VKEY);
    assert_eq!(VKEY.parse::<VerifierKey>().unwrap(), verifier);
    let hashes: Vec<Hash> = leaves().iter().map(|leaf| Hash::leaf(leaf)).collect();
    let root = sotto_tlog::root(&Leaves(&hashes), 8).unwrap();
    assert_eq!(checkpoint(8, root), format!("{TEXT}\n{LOG_LINE}"));
    let read = Checkpoint::open(vector().as_bytes(), &verifier).unwrap();
    assert_eq!(read, Checkpoint { origin: ORIGIN.to_owned(), size: 8, root });
    let note = Note::parse(vector().as_bytes()).unwrap();
    assert_eq!(note.signatures().len(), 2, "the witness's line is read and ignored");
    assert_eq!(note.to_string(), vector());
}

#[test]
fn an_altered_checkpoint_is_refused() {
    let (_, verifier) = key();
    let signature = Err(CheckpointError::Note(NoteError::Signature));
    assert_eq!(Checkpoint::open(vector().replace("\n8\n", "\n9\n").as_bytes(), &verifier), signature);
    assert_eq!(Checkpoint::open(vector().replace("\nXcna", "\nXcnb").as_bytes(), &verifier), signature);
    let unsigned = Err(CheckpointError::Note(NoteError::Unverified));
    assert_eq!(Checkpoint::open(format!("{TEXT}\n{WITNESS_LINE}").as_bytes(), &verifier), unsigned);
    let stranger = VerifierKey::new(ORIGIN, PublicKey::from_bytes([7; 32])).unwrap();
    assert_eq!(Checkpoint::open(vector().as_bytes(), &stranger), unsigned);
    // A true and a false signature of the same key: the whole note is refused.
    let mut false_line = LOG_LINE.to_owned();
    false_line.replace_range(60..61, if &LOG_LINE[60..61] == "A" { "B" } else { "A" });
    assert_eq!(Checkpoint::open(format!("{TEXT}\n{LOG_LINE}{false_line}").as_bytes(), &verifier), signature);
}

#[test]
fn a_key_signs_only_for_its_own_origin() {
    let (signing, verifier) = key();
    let foreign = Checkpoint { origin: "other.example/log".to_owned(), size: 0, root: Hash::empty() };
    let note = foreign.sign::<NoteError>(&verifier, |text| Ok(signing.sign(text).unwrap().to_vec())).unwrap();
    assert_eq!(Checkpoint::open(note.to_string().as_bytes(), &verifier), Err(CheckpointError::Origin));
}

#[test]
fn the_example_of_the_note_specification_is_read() {
    // Signed by a key of which only the id is published: read, kept, not verified.
    let note = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned \u{e8} subito sera.\n\n\u{2014} quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
    let parsed = Note::parse(note.as_bytes()).unwrap();
    assert_eq!(parsed.to_string(), note);
    assert_eq!(parsed.signatures()[0].id, [0x36, 0x7b, 0xa0, 0x4b]);
    assert_eq!(parsed.signatures()[0].signature.len(), 64);
}

#[test]
fn what_is_no_note_is_refused() {
    let cases = [
        ("", NoteError::Form),
        ("text\n", NoteError::Form),
        ("text\n\n", NoteError::Form),
        ("te\txt\n\n\u{2014} a AAAAAAA=\n", NoteError::Text),
        ("text\r\n\n\u{2014} a AAAAAAA=\n", NoteError::Text),
        ("text\n\n- a AAAAAAA=\n", NoteError::Form),
        ("text\n\n\u{2014} a+b AAAAAAA=\n", NoteError::Form),
        ("text\n\n\u{2014} a\u{a0}b AAAAAAA=\n", NoteError::Form),
        ("text\n\n\u{2014} a AAAAAA\n", NoteError::Form),
        ("text\n\n\u{2014} a AAAAAA==\n", NoteError::Form),
        ("text\n\n\u{2014} a AAAAAAB=\n", NoteError::Form),
        ("text\n\n\u{2014} a AAAAAAA=", NoteError::Form),
    ];
    for (note, error) in cases {
        assert_eq!(Note::parse(note.as_bytes()), Err(error), "{note:?}");
    }
    assert_eq!(Note::parse(b"te\xffxt\n\n"), Err(NoteError::Text));
    assert_eq!(Note::parse(&vec![b'a'; 1 << 20]), Err(NoteError::TooLong));
    // Of exactly the most bytes it is read, and then has no signature.
    let longest = 160 * 1024;
    assert_eq!(Note::parse(&vec![b'a'; longest]), Err(NoteError::Form));
    assert_eq!(Note::parse(&vec![b'a'; longest + 1]), Err(NoteError::TooLong));
    let lines = |count| format!("text\n\n{}", "\u{2014} a AAAAAAA=\n".repeat(count));
    assert_eq!(Note::parse(lines(64).as_bytes()).unwrap().signatures().len(), 64);
    assert_eq!(Note::parse(lines(65).as_bytes()), Err(NoteError::TooLong));
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let root = "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=";
    for text in [
        "".to_owned(),
        "\n".to_owned(),
        format!("a\n8\n{root}"),
        format!("\n8\n{root}\n"),
        format!("a\n08\n{root}\n"),
        format!("a\n+8\n{root}\n"),
        format!("a\n-1\n{root}\n"),
        format!("a\n\n{root}\n"),
        format!("a\n18446744073709551616\n{root}\n"),
        format!("a\n8\n{}\n", &root[..43]),
        format!("a\n8\n{root}=\n"),
        format!("a\n8\n{root}\nextension\n"),
    ] {
        assert_eq!(Checkpoint::parse_text(&text), Err(CheckpointError::Form), "{text:?}");
    }
    assert_eq!(Checkpoint::parse_text(TEXT).unwrap().to_string(), TEXT);
}

#[test]
fn what_is_no_verifier_key_is_refused() {
    for (key, error) in [
        ("", VerifierKeyError::Form),
        ("a+b", VerifierKeyError::Form),
        ("a+00000000+", VerifierKeyError::Form),
        ("a+00000000+AQ==", VerifierKeyError::Form),
        ("a+00000000+BAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4", VerifierKeyError::Type(4)),
        (
            "log.example.vn/audit-2026h2+940308fe+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
            VerifierKeyError::Id,
        ),
        (
            "log.example.vn/audit-2026h1+940308fd+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
            VerifierKeyError::Id,
        ),
        ("a b+940308fd+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4", VerifierKeyError::Name),
    ] {
        assert_eq!(key.parse::<VerifierKey>(), Err(error), "{key}");
    }
}

#[test]
fn origins_are_urls_without_scheme() {
    for good in ["sotto.internal/audit/vn", "example.com/log42", "a"] {
        assert!(check_origin(good), "{good}");
    }
    for bad in ["", "https://example.com/log", "a b", "a+b", "/a", "a/", "a\n", "\u{e2}", &"a".repeat(257)] {
        assert!(!check_origin(bad), "{bad:?}");
    }
}

#[test]
fn a_receipt_proves_its_leaf_and_no_other() {
    let (_, verifier) = key();
    let hashes: Vec<Hash> = leaves().iter().map(|leaf| Hash::leaf(leaf)).collect();
    let path = inclusion_path(&Leaves(&hashes), 5, 8).unwrap();
    let receipt = Receipt { extra: None, index: 5, path, checkpoint: vector() };
    let text = receipt.to_string();
    assert!(text.starts_with("c2sp.org/tlog-proof@v1\nindex 5\n"), "{text}");
    assert_eq!(text.lines().count(), 2 + 3 + 1 + 6);
    assert_eq!(text.parse::<Receipt>().unwrap(), receipt);
    assert_eq!(receipt.verify(&hashes[5], &verifier).unwrap().size, 8);
    assert_eq!(receipt.verify(&hashes[4], &verifier), Err(ReceiptError::Proof(ProofError::Root)));
    let with_extra = Receipt { extra: Some(b"x".to_vec()), ..receipt.clone() };
    assert_eq!(with_extra.to_string().parse::<Receipt>().unwrap(), with_extra);
    let forged = Receipt { checkpoint: vector().replace("\n8\n", "\n9\n"), ..receipt };
    assert!(matches!(forged.verify(&hashes[5], &verifier), Err(ReceiptError::Checkpoint(_))));
    for bad in [
        text.replacen("@v1", "@v2", 1),
        text.replacen("index 5", "index 05", 1),
        text.replacen("index 5\n", "", 1),
        text.replacen("index 5\n", "extra !\nindex 5\n", 1),
        text.replacen("index 5\n", &format!("index 5\n{}", format!("{}\n", hashes[0]).repeat(65)), 1),
        text.replacen("=\n", "\n", 1),
    ] {
        assert_eq!(bad.parse::<Receipt>(), Err(ReceiptError::Form), "{bad}");
    }
}
