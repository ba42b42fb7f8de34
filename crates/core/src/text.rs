//! Message text as short messages: the GSM 7-bit default alphabet or UCS-2, cut into parts.
//!
//! The text is normalised to NFC first. If every character is in the default alphabet or its extension table the
//! text is sent in GSM-7, else in UCS-2 (3GPP TS 23.038 §6.2). Parts are filled greedily and never cut an
//! escape pair or a surrogate pair. The text passes through without an intermediate copy, and the parts wipe
//! themselves when dropped.

mod code;
mod gsm7;
mod refused;
#[cfg(test)]
mod tests;
mod transliterate;

use std::{fmt, str::Chars};

use serde::{Deserialize, Serialize};
use unicode_normalization::{IsNormalized, Recompositions, UnicodeNormalization, is_nfc_quick};

use crate::{Classified, ErrorClass, Sensitive};

pub use code::carries_code;
pub use transliterate::transliterate;

/// The most parts one message may have. A text beyond it is refused, never cut short.
pub const MAX_PARTS: u8 = 10;

/// How the characters of a message become octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// The GSM 7-bit default alphabet with its extension table (3GPP TS 23.038 §6.2.1).
    Gsm7,
    /// UTF-16 in big-endian order, which handsets read where TS 23.038 §6.2.3 says UCS2.
    Ucs2,
}

impl Encoding {
    /// The name in files and records: `gsm7` or `ucs2`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gsm7 => "gsm7",
            Self::Ucs2 => "ucs2",
        }
    }

    /// The `data_coding` octet (SMPP 3.4 §5.2.19): `0x00`, the carrier's default alphabet, or `0x08`, UCS2.
    pub const fn data_coding(self) -> u8 {
        match self {
            Self::Gsm7 => 0x00,
            Self::Ucs2 => 0x08,
        }
    }

    /// Units that fit a message of one part: septets (GSM-7) or UTF-16 code units (UCS-2).
    pub const fn single_limit(self) -> u32 {
        match self {
            Self::Gsm7 => 160,
            Self::Ucs2 => 70,
        }
    }

    /// Units that fit each part of a longer message, beside the six octets of [`concatenation_udh`].
    pub const fn part_limit(self) -> u32 {
        match self {
            Self::Gsm7 => 153,
            Self::Ucs2 => 67,
        }
    }

    /// The same beside the seven octets of [`wide_concatenation_udh`].
    pub const fn wide_part_limit(self) -> u32 {
        match self {
            Self::Gsm7 => 152,
            Self::Ucs2 => 66,
        }
    }
}

/// Why a text cannot be sent. Says where and what kind of character, never the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// There is no text.
    #[error("the text is empty: give at least one character")]
    Empty,
    /// The text needs more parts than one message may have.
    #[error("the text needs {parts} parts in {encoding}, more than {max}: shorten it{}", ucs2_hint(.encoding))]
    TooManyParts {
        /// Parts the text would need.
        parts: u32,
        /// Parts allowed.
        max: u8,
        /// The encoding the text needs: `gsm7` or `ucs2`.
        encoding: &'static str,
    },
    /// A control character that handsets do not show.
    #[error(
        "character {position} is the control character U+{code_point:04X}: only line feed and carriage return may be sent, remove it"
    )]
    Control {
        /// Which character of the text, from 1.
        position: usize,
        /// The control character's code point.
        code_point: u32,
    },
    /// A character that cannot be seen or that turns the direction of writing: a means to disguise words and links.
    #[error(
        "character {position} is the invisible or direction-changing character U+{code_point:04X}, which can disguise words and links: remove it"
    )]
    Invisible {
        /// Which character of the text, from 1.
        position: usize,
        /// The invisible character's code point.
        code_point: u32,
    },
}

fn ucs2_hint(encoding: &str) -> &'static str {
    if encoding == Encoding::Ucs2.as_str() {
        ", or write it without accents and symbols so that it fits gsm7"
    } else {
        ""
    }
}

impl Classified for TextError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

/// What a text will cost, without the parts themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The encoding the text needs.
    pub encoding: Encoding,
    /// Length of the whole text: septets (GSM-7, an extension character counts 2) or UTF-16 code units (UCS-2).
    pub units: u32,
    /// Parts, 1 to [`MAX_PARTS`].
    pub parts: u8,
}

/// One short message of a text: its payload without user data header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part(Sensitive<Vec<u8>>);

impl Part {
    /// The payload in clear: one septet an octet for GSM-7 (as SMPP peers expect under `data_coding` 0 unless they
    /// say otherwise), UTF-16BE for UCS-2.
    pub fn payload(&self) -> &[u8] {
        self.0.expose()
    }
}

/// A text cut into parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segmented {
    /// The encoding of all parts.
    pub encoding: Encoding,
    /// Length of the whole text in units of the encoding.
    pub units: u32,
    /// The parts in order, 1 to [`MAX_PARTS`]; with wide references perhaps more.
    pub parts: Vec<Part>,
}

/// The characters of a text in NFC. Nearly every text is in it already, which costs less to see than to make.
pub fn composed(text: &str) -> Composed<'_> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Composed::AsItIs(text.chars()),
        IsNormalized::No | IsNormalized::Maybe => Composed::Anew(text.nfc()),
    }
}

/// What [`composed`] gives.
pub enum Composed<'a> {
    /// It was in NFC.
    AsItIs(Chars<'a>),
    /// It was not, perhaps.
    Anew(Recompositions<Chars<'a>>),
}

impl fmt::Debug for Composed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Composed").finish_non_exhaustive()
    }
}

impl Iterator for Composed<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        match self {
            Self::AsItIs(characters) => characters.next(),
            Self::Anew(characters) => characters.next(),
        }
    }
}

/// Encoding, length and number of parts of a text.
pub fn count(text: &str) -> Result<Count, TextError> {
    if text.is_empty() {
        return Err(TextError::Empty);
    }
    // Looked for before NFC, so that the position is one the sender can count.
    refused::check(text)?;
    let mut in_gsm7 = true;
    let mut septets = Tally::new(Encoding::Gsm7);
    let mut utf16 = Tally::new(Encoding::Ucs2);
    for character in composed(text) {
        match gsm7::width(character) {
            Some(width) => septets.add(width),
            None => in_gsm7 = false,
        }
        utf16.add(utf16_width(character));
    }
    if in_gsm7 { septets.finish() } else { utf16.finish() }
}

/// Cuts a text into parts ready to be sent.
pub fn segment(text: &str) -> Result<Segmented, TextError> {
    segment_by(text, Encoding::part_limit)
}

/// The same for parts that are joined by [`wide_concatenation_udh`]. These may be more than [`count`] says, which counts
/// what is accepted and billed.
pub fn segment_wide(text: &str) -> Result<Segmented, TextError> {
    segment_by(text, Encoding::wide_part_limit)
}

fn segment_by(text: &str, part_limit: fn(Encoding) -> u32) -> Result<Segmented, TextError> {
    let Count { encoding, units, parts } = count(text)?;
    let limit = if parts == 1 { encoding.single_limit() } else { part_limit(encoding) };
    let mut writer = Writer::new(encoding, limit, parts);
    for character in composed(text) {
        writer.push(character);
    }
    Ok(Segmented { encoding, units, parts: writer.finish() })
}

/// The user data header of one part of a concatenated message with an 8-bit reference: `index` of `total`, from 1
/// (3GPP TS 23.040 §9.2.3.24.1).
pub const fn concatenation_udh(reference: u8, total: u8, index: u8) -> [u8; 6] {
    [0x05, 0x00, 0x03, reference, total, index]
}

/// The same with a 16-bit reference (3GPP TS 23.040 §9.2.3.24.8).
pub const fn wide_concatenation_udh(reference: u16, total: u8, index: u8) -> [u8; 7] {
    let [high, low] = reference.to_be_bytes();
    [0x06, 0x08, 0x04, high, low, total, index]
}

/// Reads a payload as a handset does: what is not in the encoding becomes U+FFFD. The result is in clear.
pub fn decode(encoding: Encoding, payload: &[u8]) -> String {
    match encoding {
        Encoding::Gsm7 => gsm7::decode(payload),
        Encoding::Ucs2 => {
            let (pairs, odd) = payload.as_chunks::<2>();
            let units = pairs.iter().map(|pair| u16::from_be_bytes(*pair));
            let half = (!odd.is_empty()).then_some(char::REPLACEMENT_CHARACTER);
            char::decode_utf16(units)
                .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
                .chain(half)
                .collect()
        }
    }
}

const fn utf16_width(character: char) -> u32 {
    if character.len_utf16() == 1 { 1 } else { 2 }
}

/// Counts a text in one encoding, both as one part and as several.
struct Tally {
    encoding: Encoding,
    units: u32,
    parts: u32,
    in_part: u32,
}

impl Tally {
    const fn new(encoding: Encoding) -> Self {
        Self { encoding, units: 0, parts: 1, in_part: 0 }
    }

    const fn add(&mut self, width: u32) {
        self.units = self.units.saturating_add(width);
        if self.in_part + width > self.encoding.part_limit() {
            self.parts = self.parts.saturating_add(1);
            self.in_part = 0;
        }
        self.in_part += width;
    }

    fn finish(self) -> Result<Count, TextError> {
        let parts = if self.units <= self.encoding.single_limit() { 1 } else { self.parts };
        match u8::try_from(parts) {
            Ok(parts) if parts <= MAX_PARTS => {
                Ok(Count { encoding: self.encoding, units: self.units, parts })
            }
            Ok(_) | Err(_) => {
                Err(TextError::TooManyParts { parts, max: MAX_PARTS, encoding: self.encoding.as_str() })
            }
        }
    }
}

/// Fills parts one after the other.
struct Writer {
    encoding: Encoding,
    limit: u32,
    room: u32,
    full: Vec<Part>,
    current: Vec<u8>,
}

impl Writer {
    /// Octets of the largest payload, GSM-7 unpacked or UCS-2: with so much room a part never moves in memory, so
    /// no copy of it is left behind.
    const LARGEST_PAYLOAD: usize = 160;

    fn new(encoding: Encoding, limit: u32, parts: u8) -> Self {
        Self {
            encoding,
            limit,
            room: limit,
            full: Vec::with_capacity(usize::from(parts)),
            current: Vec::with_capacity(Self::LARGEST_PAYLOAD),
        }
    }

    fn push(&mut self, character: char) {
        match self.encoding {
            Encoding::Gsm7 => {
                // `count` has seen that every character is in the alphabet.
                if let Some((escape, code)) = gsm7::encode(character) {
                    self.make_room(1 + u32::from(escape));
                    if escape {
                        self.current.push(gsm7::ESCAPE);
                    }
                    self.current.push(code);
                }
            }
            Encoding::Ucs2 => {
                self.make_room(utf16_width(character));
                for unit in character.encode_utf16(&mut [0; 2]) {
                    self.current.extend_from_slice(&unit.to_be_bytes());
                }
            }
        }
    }

    fn make_room(&mut self, width: u32) {
        if self.room < width {
            let next = Vec::with_capacity(Self::LARGEST_PAYLOAD);
            self.full.push(Part(std::mem::replace(&mut self.current, next).into()));
            self.room = self.limit;
        }
        self.room -= width;
    }

    fn finish(mut self) -> Vec<Part> {
        self.full.push(Part(self.current.into()));
        self.full
    }
}
