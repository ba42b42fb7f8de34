//! Searches for planted secrets in every encoding in which one could leak.
//!
//! A search that finds nothing proves something only after it has found what was planted: see [`Canary::prove`].
//! What is packed by gzip or zlib, by S2 or by Snappy's framing is unpacked wherever it stands and searched too. Blocks without
//! a header (LZ4, LZF, bare Snappy) leave the first place of a word as it is. Encrypted files hide what they hold.

mod encodings;
mod memory;
mod scan;
mod unpack;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

pub use memory::Memory;
use scan::Scanner;

/// How a secret was written where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Encoding {
    /// Plain text.
    Utf8,
    /// UTF-16, high byte first: UCS-2 in short messages.
    Utf16Be,
    /// UTF-16, low byte first.
    Utf16Le,
    /// GSM-7 septets packed into octets, at any of the eight bit positions (3GPP TS 23.038 §6.1.2.1).
    PackedGsm7,
    /// Digits in semi-octets, low half first: addresses in short messages (3GPP TS 23.040 §9.1.2.3).
    SwappedBcd,
    /// Digits in semi-octets, high half first.
    PlainBcd,
    /// Hexadecimal, lower or upper case, of any byte form above, packed septets at any bit position.
    Hex,
    /// Base64, standard or URL alphabet, at any of the three positions, of text, UTF-16, and packed septets
    /// or semi-octets that are long enough (eight characters, nine digits).
    Base64,
    /// Bytes as decimal numbers between commas, as Rust's `Debug` prints them.
    DecimalList,
}

/// A secret that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The label that the secret was given, not the secret.
    pub label: String,
    /// How it was written.
    pub encoding: Encoding,
    /// The file, or the name given to the bytes.
    pub place: String,
    /// The byte at which it starts.
    pub offset: usize,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {:?} in {} at byte {}", self.label, self.encoding, self.place, self.offset)
    }
}

/// Secrets to search for.
#[derive(Debug)]
pub struct Canary {
    secrets: Vec<(String, String)>,
    scanner: Scanner,
}

impl Canary {
    /// Secrets with a label each. Give the shortest form that identifies one: a number without its country code
    /// (`912345678`), a rare word of a body. At least six characters, or chance finds them too.
    ///
    /// # Panics
    /// When a secret is shorter than six characters.
    pub fn new<L: Into<String>, S: Into<String>>(secrets: impl IntoIterator<Item = (L, S)>) -> Self {
        let secrets: Vec<(String, String)> =
            secrets.into_iter().map(|(label, secret)| (label.into(), secret.into())).collect();
        let mut scanner = Scanner::default();
        for (index, (label, secret)) in secrets.iter().enumerate() {
            assert!(secret.chars().count() >= 6, "the canary {label:?} is shorter than six characters");
            for (encoding, pattern) in encodings::patterns(secret) {
                scanner.add(index, encoding, pattern);
            }
        }
        Self { secrets, scanner }
    }

    /// What is found in `bytes`, which are called `place`, and in what is packed in them; each secret once an encoding.
    pub fn search_bytes(&self, place: &str, bytes: &[u8]) -> Vec<Finding> {
        let mut found = self.search_plain(place, bytes);
        for (at, packing, inside) in unpack::unpacked(bytes) {
            found.extend(self.search_plain(&format!("{place}, {packing} at byte {at}"), &inside));
        }
        found
    }

    fn search_plain(&self, place: &str, bytes: &[u8]) -> Vec<Finding> {
        let found = self.scanner.scan(bytes).into_iter().filter_map(|hit| {
            let (label, _) = self.secrets.get(hit.secret)?;
            let (encoding, place) = (hit.encoding, place.to_owned());
            Some(Finding { label: label.clone(), encoding, place, offset: hit.offset })
        });
        found.collect()
    }

    /// What is found in the memory of a process that this test started: all that it has written to, and what is packed in it.
    ///
    /// # Errors
    /// When it cannot be read, or has ended.
    pub fn search_memory(&self, name: &str, process: u32) -> io::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let mut memory = Memory::of(process)?;
        while let Some((place, bytes)) = memory.piece()? {
            findings.extend(self.search_bytes(&format!("memory of {name}, {place}"), &bytes));
        }
        Ok(findings)
    }

    /// What is found in the files under `path`, and in their names.
    ///
    /// # Errors
    /// When something cannot be read: a search that skips files proves nothing. A file that disappears meanwhile is
    /// no error.
    pub fn search_files(&self, path: &Path) -> io::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        // What is asked for must exist.
        fs::symlink_metadata(path)?;
        let mut waiting: Vec<PathBuf> = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            let place = path.display().to_string();
            findings.extend(self.search_bytes(&format!("the name {place}"), place.as_bytes()));
            match look(&path) {
                Ok(Found::Folder(inside)) => waiting.extend(inside),
                Ok(Found::File(bytes)) => findings.extend(self.search_bytes(&place, &bytes)),
                Ok(Found::Other) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(io::Error::new(e.kind(), format!("{place}: {e}"))),
            }
        }
        Ok(findings)
    }

    /// Plants every secret in every encoding amid other bytes and demands that each is found. Call it in the test,
    /// before trusting that a search found nothing.
    ///
    /// # Panics
    /// When something planted is not found.
    pub fn prove(&self) {
        for (label, secret) in &self.secrets {
            for (encoding, planted) in encodings::planted(secret) {
                let mut bytes = vec![0xa7; 37];
                bytes.extend_from_slice(&planted);
                bytes.extend_from_slice(&[0x5c; 41]);
                let found = self.search_bytes("a plant", &bytes);
                let seen =
                    found.iter().any(|finding| finding.label == *label && finding.encoding == encoding);
                assert!(seen, "{label:?} was planted as {encoding:?} and not found");
            }
            // Packed, amid a text that packs well.
            let text = format!("{}{secret} and more", "what stands before it. ".repeat(9));
            for (packing, mut packed) in unpack::packed(text.as_bytes()) {
                packed.splice(0..0, [0xa7; 37]);
                let found = self.search_bytes("a plant", &packed);
                let seen = found.iter().any(|finding| {
                    finding.label == *label
                        && finding.encoding == Encoding::Utf8
                        && finding.place.contains(packing)
                });
                assert!(seen, "{label:?} was packed by {packing} and not found");
            }
        }
    }
}

enum Found {
    Folder(Vec<PathBuf>),
    File(Vec<u8>),
    Other,
}

fn look(path: &Path) -> io::Result<Found> {
    let about = fs::symlink_metadata(path)?;
    if about.is_dir() {
        let inside: Result<Vec<_>, _> =
            fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect();
        Ok(Found::Folder(inside?))
    } else if about.is_file() {
        Ok(Found::File(fs::read(path)?))
    } else {
        Ok(Found::Other)
    }
}
