//! The forms in which a secret could be written.

use std::collections::BTreeSet;

use base64::{Engine as _, alphabet, engine::general_purpose};

use super::{Encoding, scan::Pattern};

/// Characters of base64 that must be settled by a secret alone; fewer are met by chance. Packed septets settle so many
/// from eight characters on, semi-octets from nine digits on.
const FEWEST: usize = 5;

/// What to search for, for one secret.
pub(super) fn patterns(secret: &str) -> Vec<(Encoding, Pattern)> {
    let mut patterns = Vec::new();
    for (encoding, bytes) in byte_forms(secret) {
        patterns.push((encoding, Pattern::exact(&bytes)));
        for text in hex(&bytes) {
            patterns.push((Encoding::Hex, Pattern::exact(text.as_bytes())));
        }
        patterns
            .extend(base64_parts(&bytes).into_iter().map(|part| (Encoding::Base64, Pattern::exact(&part))));
    }
    patterns.push((Encoding::DecimalList, Pattern::exact(decimal_list(secret.as_bytes()).as_bytes())));
    if let Some(septets) = septets(secret) {
        for bit in 0..8 {
            let octets = masked_bits(&septet_bits(&septets), bit);
            patterns.extend(texts_of(&octets));
            patterns.push((Encoding::PackedGsm7, Pattern::masked(octets)));
        }
    }
    if let Some(digits) = digits(secret) {
        for start in 0..2 {
            for half in [Half::LowFirst, Half::HighFirst] {
                let octets = semi_octets(&digits, start, half);
                // The other half of a first or last octet may be any semi-octet.
                let texts: BTreeSet<_> =
                    (0..0x10).flat_map(|other| base64_of(&filled(&octets, other))).collect();
                patterns.extend(texts.iter().map(|text| (Encoding::Base64, Pattern::exact(text))));
                patterns.push((half.encoding(), Pattern::masked(octets)));
            }
        }
        // As hex, semi-octets high half first are the digits themselves; low half first they are swapped in pairs.
        for start in 0..2 {
            let pairs = digits.get(start..).unwrap_or_default().chunks_exact(2);
            let swapped: String = pairs.flat_map(|pair| pair.iter().rev()).map(ToString::to_string).collect();
            patterns.push((Encoding::Hex, Pattern::exact(swapped.as_bytes())));
        }
    }
    patterns
}

/// Bytes to plant, for one secret: what another program would write.
pub(super) fn planted(secret: &str) -> Vec<(Encoding, Vec<u8>)> {
    let mut planted = byte_forms(secret);
    for (_, bytes) in byte_forms(secret) {
        planted.extend(hex(&bytes).into_iter().map(|text| (Encoding::Hex, text.into_bytes())));
        planted.extend(base64_planted(&bytes));
    }
    planted.push((Encoding::DecimalList, format!("{:?}", secret.as_bytes()).into_bytes()));
    if let Some(alone) = septets(secret) {
        planted.extend(hex(&packed(&alone)).into_iter().map(|text| (Encoding::Hex, text.into_bytes())));
        let mut all_packed = Vec::new();
        for before in 0..8 {
            let text = format!("{}{secret}9ab", "x1y2z3w4".get(..before).unwrap_or_default());
            let septets = septets(&text).unwrap_or_default();
            all_packed.push(packed(&septets));
            // User data after a header starts at a septet boundary reached by fill bits (3GPP TS 23.040 §9.2.3.24).
            let mut filled = vec![false; before];
            filled.extend(septet_bits(&septets));
            all_packed.push(bits_to_octets(&filled));
        }
        for octets in all_packed {
            planted.extend(hex(&octets).map(|text| (Encoding::Hex, text.into_bytes())));
            // Whatever the position, five octets in a row are the secret's alone.
            if alone.len() >= 8 {
                planted.extend(base64_planted(&octets));
            }
            planted.push((Encoding::PackedGsm7, octets));
        }
    }
    if let Some(digits) = digits(secret) {
        for before in 0..2 {
            let mut number = vec![8; before];
            number.extend_from_slice(&digits);
            for half in [Half::LowFirst, Half::HighFirst] {
                let octets: Vec<u8> = number.chunks(2).map(|pair| half.octet(pair)).collect();
                // High half first, hex is the digits themselves: found as text.
                let as_hex = match half {
                    Half::LowFirst => Encoding::Hex,
                    Half::HighFirst => Encoding::Utf8,
                };
                planted.extend(hex(&octets).into_iter().map(|text| (as_hex, text.into_bytes())));
                if digits.len() >= 9 {
                    planted.extend(base64_planted(&octets));
                }
                planted.push((half.encoding(), octets));
            }
        }
    }
    planted
}

/// Bytes in base64 with others before and after, so that all three positions and partial groups are planted.
fn base64_planted(bytes: &[u8]) -> Vec<(Encoding, Vec<u8>)> {
    let mut planted = Vec::new();
    for before in 0..3 {
        let mut with_others = vec![0xfb; before];
        with_others.extend_from_slice(bytes);
        with_others.extend_from_slice(&[0xff; 4]);
        for engine in [general_purpose::STANDARD, general_purpose::URL_SAFE_NO_PAD] {
            planted.push((Encoding::Base64, engine.encode(&with_others).into_bytes()));
        }
    }
    planted
}

fn byte_forms(secret: &str) -> Vec<(Encoding, Vec<u8>)> {
    let units: Vec<u16> = secret.encode_utf16().collect();
    vec![
        (Encoding::Utf8, secret.as_bytes().to_vec()),
        (Encoding::Utf16Be, units.iter().flat_map(|unit| unit.to_be_bytes()).collect()),
        (Encoding::Utf16Le, units.iter().flat_map(|unit| unit.to_le_bytes()).collect()),
    ]
}

fn hex(bytes: &[u8]) -> [String; 2] {
    let lower: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let upper = lower.to_ascii_uppercase();
    [lower, upper]
}

fn decimal_list(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(ToString::to_string).collect();
    numbers.join(", ")
}

/// The characters of base64 that depend on the secret alone, at each of the three positions, in both alphabets.
fn base64_parts(bytes: &[u8]) -> Vec<Vec<u8>> {
    let engines = [
        general_purpose::GeneralPurpose::new(&alphabet::STANDARD, general_purpose::NO_PAD),
        general_purpose::GeneralPurpose::new(&alphabet::URL_SAFE, general_purpose::NO_PAD),
    ];
    let mut parts = Vec::new();
    for before in 0..3_usize {
        let mut text = vec![0; before];
        text.extend_from_slice(bytes);
        // Character k holds bits 6k to 6k + 5: keep those that lie within the secret.
        let first = (before * 8).div_ceil(6);
        let end = (text.len() * 8) / 6;
        for engine in &engines {
            let encoded = engine.encode(&text);
            parts.extend(encoded.as_bytes().get(first..end).map(<[u8]>::to_vec));
        }
    }
    parts.sort();
    parts.dedup();
    parts
}

/// Octets of which some bits are known, as hex and as base64.
fn texts_of(octets: &[(u8, u8)]) -> Vec<(Encoding, Pattern)> {
    let nibbles: Vec<_> = octets
        .iter()
        .flat_map(|(value, mask)| [(value >> 4, mask >> 4), (value & 0xf, mask & 0xf)])
        .collect();
    let known = longest_known(&nibbles, 0xf);
    let digit = |value: &u8| char::from_digit(u32::from(*value), 16).unwrap_or('0');
    let lower: String = known.iter().map(digit).collect();
    let mut texts: Vec<_> = [lower.to_ascii_uppercase(), lower]
        .map(|text| (Encoding::Hex, Pattern::exact(text.as_bytes())))
        .into_iter()
        .collect();
    texts.extend(base64_of(octets).iter().map(|text| (Encoding::Base64, Pattern::exact(text))));
    texts
}

/// The characters of base64 that the known bits settle, at each of the three positions, in both alphabets.
fn base64_of(octets: &[(u8, u8)]) -> Vec<Vec<u8>> {
    let mut texts = Vec::new();
    for before in 0..3 {
        let mut all = vec![(0, 0); before];
        all.extend_from_slice(octets);
        let mut sixes = Vec::new();
        for three in all.chunks(3) {
            let join = |part: fn(&(u8, u8)) -> u8| {
                let at = |index: usize| three.get(index).map_or(0, part);
                u32::from_be_bytes([0, at(0), at(1), at(2)])
            };
            let (values, masks) = (join(|(value, _)| *value), join(|(_, mask)| *mask));
            for shift in [18, 12, 6, 0] {
                let six = |bits: u32| u8::try_from(bits >> shift & 0x3f).unwrap_or(0);
                sixes.push((six(values), six(masks)));
            }
        }
        let known = longest_known(&sixes, 0x3f);
        if known.len() < FEWEST {
            continue;
        }
        for alphabet in [&alphabet::STANDARD, &alphabet::URL_SAFE] {
            let characters = alphabet.as_str().as_bytes();
            texts.push(known.iter().filter_map(|six| characters.get(usize::from(*six)).copied()).collect());
        }
    }
    texts.sort();
    texts.dedup();
    texts
}

/// Octets whose unknown semi-octets are all `other`.
fn filled(octets: &[(u8, u8)], other: u8) -> Vec<(u8, u8)> {
    octets.iter().map(|(value, mask)| (value | ((other << 4 | other) & !mask), 0xff)).collect()
}

/// The longest run of digits of which every bit is known.
fn longest_known(digits: &[(u8, u8)], whole: u8) -> Vec<u8> {
    let runs = digits.split(|(_, mask)| *mask != whole);
    let longest = runs.max_by_key(|run| run.len()).unwrap_or_default();
    longest.iter().map(|(value, _)| *value).collect()
}

/// The secret in the GSM 7-bit default alphabet, if it fits (3GPP TS 23.038 §6.2.1; extensions are not needed for
/// canaries).
fn septets(text: &str) -> Option<Vec<u8>> {
    text.chars()
        .map(|c| match c {
            '@' => Some(0x00),
            '$' => Some(0x02),
            '_' => Some(0x11),
            ' '..='#' | '%'..='?' | 'A'..='Z' | 'a'..='z' => u8::try_from(c).ok(),
            _ => None,
        })
        .collect()
}

/// Septets as bits, lowest first, in the order in which they are packed.
fn septet_bits(septets: &[u8]) -> Vec<bool> {
    septets.iter().flat_map(|septet| (0..7).map(move |bit| septet >> bit & 1 == 1)).collect()
}

fn packed(septets: &[u8]) -> Vec<u8> {
    bits_to_octets(&septet_bits(septets))
}

fn bits_to_octets(bits: &[bool]) -> Vec<u8> {
    bits.chunks(8)
        .map(|octet| octet.iter().enumerate().fold(0, |sum, (bit, set)| sum | u8::from(*set) << bit))
        .collect()
}

/// Bits that start at bit `start` of the first octet; the bits around them do not count.
fn masked_bits(bits: &[bool], start: usize) -> Vec<(u8, u8)> {
    let mut octets = vec![(0_u8, 0_u8); (start + bits.len()).div_ceil(8)];
    for (index, set) in bits.iter().enumerate() {
        let at = start + index;
        if let Some((value, mask)) = octets.get_mut(at / 8) {
            *value |= u8::from(*set) << (at % 8);
            *mask |= 1 << (at % 8);
        }
    }
    octets
}

fn digits(secret: &str) -> Option<Vec<u8>> {
    let number = secret.strip_prefix('+').unwrap_or(secret);
    number.chars().map(|c| c.to_digit(10).and_then(|digit| u8::try_from(digit).ok())).collect()
}

/// Which half of an octet holds the earlier digit.
#[derive(Clone, Copy)]
enum Half {
    LowFirst,
    HighFirst,
}

impl Half {
    fn encoding(self) -> Encoding {
        match self {
            Self::LowFirst => Encoding::SwappedBcd,
            Self::HighFirst => Encoding::PlainBcd,
        }
    }

    /// An odd last digit is filled with 0xf.
    fn octet(self, pair: &[u8]) -> u8 {
        let (first, second) = (pair.first().copied().unwrap_or(0xf), pair.get(1).copied().unwrap_or(0xf));
        match self {
            Self::LowFirst => second << 4 | first,
            Self::HighFirst => first << 4 | second,
        }
    }

    fn shift(self, second: bool) -> u8 {
        match self {
            Self::LowFirst => u8::from(second) * 4,
            Self::HighFirst => u8::from(!second) * 4,
        }
    }
}

/// Digits that start at semi-octet `start` of the first octet; the semi-octets around them do not count.
fn semi_octets(digits: &[u8], start: usize, half: Half) -> Vec<(u8, u8)> {
    let mut octets = vec![(0_u8, 0_u8); (start + digits.len()).div_ceil(2)];
    for (index, digit) in digits.iter().enumerate() {
        let at = start + index;
        let shift = half.shift(at % 2 == 1);
        if let Some((value, mask)) = octets.get_mut(at / 2) {
            *value |= digit << shift;
            *mask |= 0xf << shift;
        }
    }
    octets
}
