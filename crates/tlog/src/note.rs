//! C2SP signed notes: text, a blank line, signature lines.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sotto_crypto::{
    hash::Sha256,
    sign::{PUBLIC_LEN, PublicKey},
};

/// Longest note read, bytes. Room for 16 post-quantum signatures of 5 kB each, twice.
pub const MAX_NOTE: usize = 160 * 1024;

/// Most signatures read in a note; the specification asks for at least 16.
pub const MAX_SIGNATURES: usize = 64;

/// Longest key name accepted, bytes.
pub const KEY_NAME_MAX: usize = 256;

/// Signature type of plain Ed25519 over the text.
const ED25519: u8 = 0x01;

const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// Whether a key may have this name: not empty, no Unicode space, no `+`, no control character.
fn name_is_valid(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= KEY_NAME_MAX
        && !name.chars().any(|c| c.is_whitespace() || c == '+' || c.is_control())
}

/// An Ed25519 verifier key, written `<name>+<key id, hex>+<base64 of type and public key>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    public: PublicKey,
}

impl VerifierKey {
    /// The verifier key of a public key under a name.
    ///
    /// # Errors
    /// [`VerifierKeyError::Name`].
    pub fn new(name: &str, public: PublicKey) -> Result<Self, VerifierKeyError> {
        if !name_is_valid(name) {
            return Err(VerifierKeyError::Name);
        }
        Ok(Self { name: name.to_owned(), id: key_id(name, &public), public })
    }

    /// The key's name; for a log, its origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's id.
    #[must_use]
    pub const fn id(&self) -> [u8; 4] {
        self.id
    }
}

/// `SHA-256(name || 0x0A || type || public key)[..4]`.
fn key_id(name: &str, public: &PublicKey) -> [u8; 4] {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update(&[b'\n', ED25519]);
    hasher.update(public.as_bytes());
    let [a, b, c, d, ..] = hasher.finish();
    [a, b, c, d]
}

impl FromStr for VerifierKey {
    type Err = VerifierKeyError;

    fn from_str(text: &str) -> Result<Self, VerifierKeyError> {
        let (name, rest) = text.split_once('+').ok_or(VerifierKeyError::Form)?;
        let (id, key) = rest.split_once('+').ok_or(VerifierKeyError::Form)?;
        // One type byte and 32 bytes of key: longer ones are of types we do not verify.
        if key.len() > 8 * 1024 {
            return Err(VerifierKeyError::Form);
        }
        let key = STANDARD.decode(key).map_err(|_| VerifierKeyError::Form)?;
        let (kind, key) = key.split_first().ok_or(VerifierKeyError::Form)?;
        if *kind != ED25519 {
            return Err(VerifierKeyError::Type(*kind));
        }
        let key: [u8; PUBLIC_LEN] = key.try_into().map_err(|_| VerifierKeyError::Form)?;
        let key = Self::new(name, PublicKey::from_bytes(key))?;
        if id == hex_id(key.id) { Ok(key) } else { Err(VerifierKeyError::Id) }
    }
}

fn hex_id(id: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(id))
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519];
        key.extend_from_slice(self.public.as_bytes());
        write!(f, "{}+{}+{}", self.name, hex_id(self.id), STANDARD.encode(key))
    }
}

/// A verifier key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifierKeyError {
    /// Not `<name>+<id>+<key>`.
    #[error("a verifier key is written <name>+<8 hex digits>+<base64>")]
    Form,
    /// The name.
    #[error("a key's name is 1 to 256 bytes without spaces, control characters and '+'")]
    Name,
    /// The signature type.
    #[error("verifier keys of type {0:#04x} are not supported, only Ed25519 (0x01)")]
    Type(u8),
    /// The id is not that of name and key.
    #[error("the key id does not belong to this name and key")]
    Id,
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    /// The key's name.
    pub name: String,
    /// The key's id.
    pub id: [u8; 4],
    /// The signature in the form its type defines.
    pub signature: Vec<u8>,
}

/// A note as read: **not** verified until [`Note::verify`] says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// Makes a note with one Ed25519 signature by `key`; `sign` signs the text.
    ///
    /// # Errors
    /// What `sign` reports; [`NoteError::Text`] for a text that no note can carry.
    pub fn sign<E: From<NoteError>>(
        text: String,
        key: &VerifierKey,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        check_text(&text)?;
        let signature = sign(text.as_bytes())?;
        let signature = NoteSignature { name: key.name.clone(), id: key.id, signature };
        Ok(Self { text, signatures: vec![signature] })
    }

    /// Reads a note.
    ///
    /// # Errors
    /// [`NoteError`], never `Unverified` or `Signature`.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE {
            return Err(NoteError::TooLong);
        }
        let note = std::str::from_utf8(bytes).map_err(|_| NoteError::Text)?;
        // The last blank line parts text and signatures; the text keeps its final newline.
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(NoteError::Form)?;
        let text = format!("{text}\n");
        check_text(&text)?;
        let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Form)?;
        let signatures = signatures
            .split('\n')
            .take(MAX_SIGNATURES + 1)
            .map(parse_signature)
            .collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::TooLong);
        }
        Ok(Self { text, signatures })
    }

    /// Checks the note against a trusted key and returns its text. Signatures of other keys are ignored.
    ///
    /// # Errors
    /// [`NoteError::Unverified`] without a signature of this key, [`NoteError::Signature`] if one is false.
    pub fn verify(&self, key: &VerifierKey) -> Result<&str, NoteError> {
        let mut verified = false;
        for line in self.signatures.iter().filter(|line| line.name == key.name && line.id == key.id) {
            key.public.verify(self.text.as_bytes(), &line.signature).map_err(|_| NoteError::Signature)?;
            verified = true;
        }
        if verified { Ok(&self.text) } else { Err(NoteError::Unverified) }
    }

    /// The signature lines, unverified.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }
}

fn check_text(text: &str) -> Result<(), NoteError> {
    let clean = text.ends_with('\n') && !text.bytes().any(|byte| byte < 0x20 && byte != b'\n');
    if clean { Ok(()) } else { Err(NoteError::Text) }
}

fn parse_signature(line: &str) -> Result<NoteSignature, NoteError> {
    let rest = line.strip_prefix(SIGNATURE_PREFIX).ok_or(NoteError::Form)?;
    let (name, encoded) = rest.split_once(' ').ok_or(NoteError::Form)?;
    if !name_is_valid(name) {
        return Err(NoteError::Form);
    }
    let bytes = STANDARD.decode(encoded).map_err(|_| NoteError::Form)?;
    let (id, signature) = bytes.split_first_chunk::<4>().ok_or(NoteError::Form)?;
    if signature.is_empty() {
        return Err(NoteError::Form);
    }
    Ok(NoteSignature { name: name.to_owned(), id: *id, signature: signature.to_vec() })
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for line in &self.signatures {
            let bytes = [line.id.as_slice(), &line.signature].concat();
            writeln!(f, "{SIGNATURE_PREFIX}{} {}", line.name, STANDARD.encode(bytes))?;
        }
        Ok(())
    }
}

/// A note was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than is read, or with more signatures.
    #[error("the note is longer than {MAX_NOTE} bytes or has more than {MAX_SIGNATURES} signatures")]
    TooLong,
    /// Not UTF-8, a control character, or no newline at its end.
    #[error("the note's text is not UTF-8 lines without control characters")]
    Text,
    /// No blank line before the signatures, or a line that is no signature.
    #[error("the note is not text, a blank line and signature lines")]
    Form,
    /// The key signed, but not this text.
    #[error("the signature does not verify: the note was altered")]
    Signature,
    /// The key did not sign.
    #[error("the note is not signed by the expected key")]
    Unverified,
}
