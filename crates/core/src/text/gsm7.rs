//! The GSM 7-bit default alphabet and its extension table (3GPP TS 23.038 §6.2.1 and §6.2.1.1).

/// Announces that the next septet is one of the extension table.
pub(super) const ESCAPE: u8 = 0x1B;

/// The default alphabet: a character's place is its septet.
const BASIC: [char; 128] = [
    '@', '£', '$', '¥', 'è', 'é', 'ù', 'ì', 'ò', 'Ç', '\n', 'Ø', 'ø', '\r', 'Å', 'å', //
    'Δ', '_', 'Φ', 'Γ', 'Λ', 'Ω', 'Π', 'Ψ', 'Σ', 'Θ', 'Ξ', '\u{1B}', 'Æ', 'æ', 'ß', 'É', //
    ' ', '!', '"', '#', '¤', '%', '&', '\'', '(', ')', '*', '+', ',', '-', '.', '/', //
    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', ':', ';', '<', '=', '>', '?', //
    '¡', 'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O', //
    'P', 'Q', 'R', 'S', 'T', 'U', 'V', 'W', 'X', 'Y', 'Z', 'Ä', 'Ö', 'Ñ', 'Ü', '§', //
    '¿', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', //
    'p', 'q', 'r', 's', 't', 'u', 'v', 'w', 'x', 'y', 'z', 'ä', 'ö', 'ñ', 'ü', 'à',
];

/// The extension table: the septet after [`ESCAPE`].
const EXTENSION: [(char, u8); 10] = [
    ('\u{0C}', 0x0A),
    ('^', 0x14),
    ('{', 0x28),
    ('}', 0x29),
    ('\\', 0x2F),
    ('[', 0x3C),
    ('~', 0x3D),
    (']', 0x3E),
    ('|', 0x40),
    ('€', 0x65),
];

/// Septets of the Latin-1 characters; [`NONE`] where the default alphabet has none.
const LATIN_1: [u8; 256] = invert();
const NONE: u8 = 0xFF;

const fn invert() -> [u8; 256] {
    let mut table = [NONE; 256];
    let mut septet = 0_u8;
    while septet < 128 {
        let character = BASIC[septet as usize] as usize;
        if character < 256 && septet != ESCAPE {
            table[character] = septet;
        }
        septet += 1;
    }
    table
}

/// The character's septet, and whether [`ESCAPE`] goes before it; `None` if the alphabet lacks the character.
pub(super) fn encode(character: char) -> Option<(bool, u8)> {
    if let Ok(latin_1) = u8::try_from(character) {
        let septet = LATIN_1[usize::from(latin_1)];
        if septet != NONE {
            return Some((false, septet));
        }
    } else if let Some(greek) = BASIC[0x10..0x1B].iter().position(|known| *known == character) {
        return u8::try_from(greek).ok().map(|offset| (false, 0x10 + offset));
    }
    EXTENSION.iter().find(|(known, _)| *known == character).map(|(_, septet)| (true, *septet))
}

/// Septets the character takes: 1, 2 with the escape, or `None` if the alphabet lacks it.
pub(super) fn width(character: char) -> Option<u32> {
    encode(character).map(|(escape, _)| 1 + u32::from(escape))
}

/// Reads unpacked septets. After an escape, a septet that the extension table lacks is read from the default
/// alphabet, and a second escape is a space (TS 23.038 §6.2.1.1, note 1 and §6.2.1, note 1).
pub(super) fn decode(septets: &[u8]) -> String {
    let mut text = String::with_capacity(septets.len());
    let mut escaped = false;
    for septet in septets {
        if *septet == ESCAPE {
            if escaped {
                text.push(' ');
            }
            escaped = !escaped;
            continue;
        }
        let extended = EXTENSION.iter().find(|(_, code)| escaped && code == septet).map(|(known, _)| *known);
        let basic = BASIC.get(usize::from(*septet)).copied().unwrap_or(char::REPLACEMENT_CHARACTER);
        text.push(extended.unwrap_or(basic));
        escaped = false;
    }
    text
}
