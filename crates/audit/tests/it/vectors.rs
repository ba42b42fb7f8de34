//! The vectors of `docs/formats/audit-log.md`, which another library made.

use std::{fs, sync::Arc};

use sotto_audit::{
    adapters::{folder::Folder, wire},
    domain::{Act, Category, Entry, EventRange, Gap},
};
use sotto_tlog::{Directory, Hash, Receipt, Source as _, VerifierKey, fsck};

/// The text between a line that holds `from` and the end of its code block.
fn block<'a>(document: &'a str, from: &str) -> &'a str {
    let (_, rest) = document.split_once(from).unwrap();
    let (_, rest) = rest.split_once("```\n").unwrap();
    rest.split_once("```").unwrap().0
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[test]
fn the_documents_log_is_read_and_written_byte_by_byte() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/formats/audit-log.md");
    let document = fs::read_to_string(document).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let put = |path: &str, bytes: &[u8]| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let checkpoint = block(&document, "The file `checkpoint`:");
    put("checkpoint", checkpoint.as_bytes());
    put("tile/entries/000.p/3", &bytes(block(&document, "The file `tile/entries/000.p/3`:")));
    put("tile/0/000.p/3", &bytes(block(&document, "The file `tile/0/000.p/3`:")));

    let key: VerifierKey = block(&document, "The verifier key:").trim().parse().unwrap();
    let mut entries = Vec::new();
    let report =
        fsck(&Directory::new(folder.path()), &key, None, |_, entry| entries.push(entry.to_vec())).unwrap();
    assert_eq!(report.checkpoint.size, 3);
    let producer = "identity/0011223344556677".to_owned();
    let expected = [
        Entry::Gap(Gap { producer: producer.clone(), first: 1, last: 1 }),
        Entry::Act(Act {
            producer,
            sequence: 2,
            at_s: 1_795_493_815,
            category: Category::Authentication,
            action: "token.issued".to_owned(),
            actor: "client-1".to_owned(),
            tenant: "acme".to_owned(),
            object: String::new(),
            outcome: "ok".to_owned(),
        }),
        Entry::EventRange(EventRange {
            first: 1,
            last: 1,
            root: Hash::leaf(b"a stored EventBatch"),
            batches: 1,
        }),
    ];
    for (entry, expected) in entries.iter().zip(&expected) {
        assert_eq!(wire::decode(entry).as_ref(), Ok(expected));
        assert_eq!(wire::encode(expected), *entry);
    }
    let receipt: Receipt = block(&document, "The receipt of entry 1:").parse().unwrap();
    assert_eq!(receipt.index, 1);
    receipt.verify(&Hash::leaf(&entries[1]), &key).unwrap();
    // The service's own reader sees the same files.
    let disk = Arc::new(Folder::open(folder.path()).unwrap());
    assert_eq!(disk.read("checkpoint").unwrap().unwrap(), checkpoint.as_bytes());
}
