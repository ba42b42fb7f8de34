//! Client secrets: 256 random bits in a form that scanners of leaked text recognise.
//!
//! `sotto_<env>_<43 base62 digits>_<8 hex digits>`: the number in base 62, most significant digit first, and the
//! CRC-32 (ISO-HDLC) of everything before the last `_`. The check tells a secret from a look-alike without asking us.

use std::fmt::Write as _;

use sotto_core::Sensitive;

/// Random bytes in a secret.
pub const SECRET_LEN: usize = 32;

/// Digits of a 256-bit number in base 62.
const DIGITS: usize = 43;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Whether `name` may be the environment's name in secrets: 1 to 12 letters and digits, lower case.
pub fn is_environment(name: &str) -> bool {
    (1..=12).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Writes a secret.
#[must_use]
pub fn render(environment: &str, random: &[u8; SECRET_LEN]) -> Sensitive<String> {
    let mut text = format!("sotto_{environment}_");
    text.reserve(DIGITS + 9);
    for digit in base62(random) {
        text.push(char::from(digit));
    }
    let check = crc32(text.as_bytes());
    // Writing to a String cannot fail.
    let _ok = write!(text, "_{check:08x}");
    Sensitive::new(text)
}

/// Whether `text` has the form of a secret of ours, with the right check. Says nothing about whose it is.
pub fn is_well_formed(text: &str) -> bool {
    let Some((body, check)) = text.rsplit_once('_') else { return false };
    let Some((environment, digits)) = body.strip_prefix("sotto_").and_then(|rest| rest.rsplit_once('_'))
    else {
        return false;
    };
    is_environment(environment)
        && digits.len() == DIGITS
        && digits.bytes().all(|b| b.is_ascii_alphanumeric())
        && check == format!("{:08x}", crc32(body.as_bytes()))
}

fn base62(number: &[u8; SECRET_LEN]) -> [u8; DIGITS] {
    let mut rest = *number;
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        // Long division by 62, byte by byte: the remainder is below 62, so it fits with the next byte in 16 bits.
        let mut remainder = 0_u16;
        for byte in &mut rest {
            let value = remainder * 256 + u16::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or_default();
            remainder = value % 62;
        }
        *digit = ALPHABET.get(usize::from(remainder)).copied().unwrap_or_default();
    }
    digits
}

/// CRC-32/ISO-HDLC, as in ISO 3309 and zip files.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_check_agrees_with_the_catalogue_of_crcs() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    /// Computed with Python: `int.from_bytes(...)` in base 62, `zlib.crc32`.
    #[test]
    fn secrets_have_their_published_form() {
        let counting = std::array::from_fn(|at| u8::try_from(at).unwrap());
        for (environment, random, secret) in [
            ("dev", [0; SECRET_LEN], "sotto_dev_0000000000000000000000000000000000000000000_8eea8a5a"),
            ("live", [0xff; SECRET_LEN], "sotto_live_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1_38d33735"),
            ("t1", counting, "sotto_t1_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf_2e966783"),
        ] {
            assert_eq!(render(environment, &random).expose(), secret);
        }
    }

    proptest! {
        #[test]
        fn a_secret_is_recognised_and_a_typing_error_is_not(
            random: [u8; SECRET_LEN], at in 0_usize..60, to in "[0-9A-Za-z_]",
        ) {
            let secret = render("dev", &random);
            prop_assert!(is_well_formed(secret.expose()));
            prop_assert_eq!(secret.expose().len(), 10 + DIGITS + 9);
            let mut typed = secret.expose().clone();
            typed.replace_range(at..=at, &to);
            prop_assert_eq!(is_well_formed(&typed), typed == *secret.expose());
        }
    }
}
