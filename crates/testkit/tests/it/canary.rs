use std::fs;

use sotto_testkit::canary::{Canary, Encoding, Memory};

/// "Zyxwvut is the word, and 912345678 the number. " three times, packed with Python's modules.
const PACKED: [(&str, &str); 2] = [
    (
        "gzip",
        "1f8b08000000000002038baaac282f2b2d51c82c5628c9485528cf2f4ad15148cc4b51b034343236313533b7008be795e626a516e92944d1543900550fdf3c8d000000",
    ),
    (
        "zlib",
        "789c8baaac282f2b2d51c82c5628c9485528cf2f4ad15148cc4b51b034343236313533b7008be795e626a516e92944d1543900e5da2d8b",
    ),
];

fn canary() -> Canary {
    Canary::new([
        ("number", "912345678"),
        ("short code body", "482913"),
        ("word", "Zyxwvut"),
        ("body", "Mã xác nhận 482913"),
    ])
}

#[test]
fn finds_everything_it_plants() {
    canary().prove();
}

#[test]
fn finds_what_standards_spell_out() {
    let canary = canary();
    let number = |bytes: &[u8], encoding| {
        let found = canary.search_bytes("bytes", bytes);
        assert!(
            found.iter().any(|f| f.label == "number" && f.encoding == encoding),
            "{encoding:?}: {found:?}"
        );
    };
    // +84912345678 as a TP-DA address: length 11, type 91, semi-octets swapped (3GPP TS 23.040 §9.1.2.5).
    number(&[11, 0x91, 0x48, 0x19, 0x32, 0x54, 0x76, 0xf8], Encoding::SwappedBcd);
    number(b"da=0B914819325476F8", Encoding::Hex);
}

#[test]
fn packs_septets_as_the_known_example() {
    // "hellohello" is E8329BFD4697D9EC37, the usual worked example of GSM-7 packing.
    let canary = Canary::new([("word", "hellohello")]);
    let found = canary.search_bytes("bytes", &[0xe8, 0x32, 0x9b, 0xfd, 0x46, 0x97, 0xd9, 0xec, 0x37]);
    assert!(found.iter().any(|f| f.encoding == Encoding::PackedGsm7), "{found:?}");
}

#[test]
fn finds_packed_forms_in_the_texts_that_carry_bytes() {
    // "hellohello" packed after one other septet, in hex and in base64: made with Python's base64 and bytes.hex.
    let canary = Canary::new([("word", "hellohello"), ("number", "912345678")]);
    let find = |text: &str, label: &str, encoding| {
        let found = canary.search_bytes("bytes", text.as_bytes());
        assert!(found.iter().any(|f| f.label == label && f.encoding == encoding), "{text}: {found:?}");
    };
    find("ud=787499CD7EA3CB6CF61B", "word", Encoding::Hex);
    find("Enh0mc1+o8ts9hs=", "word", Encoding::Base64);
    // The address 0B914819325476F8 of a recipient.
    find("C5FIGTJUdvg=", "number", Encoding::Base64);
}

#[test]
fn finds_nothing_in_other_data() {
    // Not a secret, not random: every 16-bit pattern in order.
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_be_bytes).collect();
    assert_eq!(canary().search_bytes("all pairs", &bytes), []);
}

#[test]
fn searches_files_and_their_names() {
    let folder = tempfile::TempDir::new().unwrap();
    let inner = folder.path().join("stream").join("912345678");
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("1.blk"), [b"\x00\x01".as_slice(), b"Zyxwvut", b"\xff"].concat()).unwrap();
    fs::write(inner.join("2.blk"), "nothing").unwrap();
    let found = canary().search_files(folder.path()).unwrap();
    assert!(
        found.iter().any(|f| f.label == "word" && f.place.ends_with("1.blk") && f.offset == 2),
        "{found:?}"
    );
    assert!(found.iter().any(|f| f.label == "number" && f.place.starts_with("the name ")), "{found:?}");
    assert!(!found.iter().any(|f| f.place.ends_with("/2.blk") && !f.place.starts_with("the name ")));
    assert!(canary().search_files(&folder.path().join("missing")).is_err());
}

#[test]
fn searches_what_is_packed() {
    let canary = canary();
    for (packing, hex) in PACKED {
        let packed: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let around = [b"\x1f\x8b\x08 no gzip \x78\x9c".as_slice(), &packed, b"more"].concat();
        let found = canary.search_bytes("bytes", &around);
        for label in ["word", "number"] {
            assert!(
                found.iter().any(|f| f.label == label && f.place.contains(packing)),
                "{packing} {label}: {found:?}"
            );
        }
    }
}

#[tokio::test]
async fn searches_the_memory_of_a_process() {
    let folder = tempfile::TempDir::new().unwrap();
    let log = folder.path().join("log");
    let hold = "read line; read other";
    let mut shell = tokio::process::Command::new("sh")
        .args(["-c", hold])
        .stdin(std::process::Stdio::piped())
        .stdout(fs::File::create(log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let id = shell.id().unwrap();
    let nothing = canary().search_memory("sh", id).unwrap();
    assert!(nothing.is_empty(), "{nothing:?}");
    tokio::io::AsyncWriteExt::write_all(shell.stdin.as_mut().unwrap(), b"Zyxwvut 912345678\n").await.unwrap();
    sotto_testkit::eventually(std::time::Duration::from_secs(20), "the word in memory", async || {
        let found = canary().search_memory("sh", id).unwrap();
        ["word", "number"].iter().all(|label| found.iter().any(|f| f.label == *label))
    })
    .await;
    assert!(Memory::of(id).unwrap().holds(b"Zyxwvut 912345678").unwrap().is_some());
    shell.kill().await.unwrap();
    assert!(canary().search_memory("sh", id).is_err(), "a process that has ended was not searched");
}
