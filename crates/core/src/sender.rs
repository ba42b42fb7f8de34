//! What a recipient sees as the sender.

use std::fmt;

use crate::{Classified, ErrorClass, Sensitive};

/// The most characters of a brandname: what handsets show and SMPP peers take (3GPP TS 23.040 §9.1.2.5).
const MAX_BRANDNAME: usize = 11;
/// Digits of a short code.
const SHORT_CODE: std::ops::RangeInclusive<usize> = 3..=8;
/// Digits of an international number (ITU-T E.164 §6.2.1); up to eight of them need a `+` in front, or they are a
/// short code.
const NUMBER: std::ops::RangeInclusive<usize> = 7..=15;

/// Why a sender was refused. Says what to mend, never the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SenderError {
    /// There is no sender.
    #[error("the sender is empty: give a brandname, a short code or a number")]
    Empty,
    /// A brandname with too many characters.
    #[error("a brandname has at most {MAX_BRANDNAME} characters: shorten it")]
    TooLong,
    /// A brandname with a character that not every carrier and handset passes on.
    #[error(
        "a brandname may have the letters A-Z and a-z, digits, spaces and . - _ & only: write it without accents and other signs"
    )]
    Character,
    /// A brandname without a letter.
    #[error("a brandname needs at least one letter; a number needs + and its country code, or digits alone")]
    NoLetter,
    /// Spaces that make one brandname look like another.
    #[error("a brandname may not begin or end with a space or have two in a row: remove the extra spaces")]
    Spaces,
    /// Digits that are neither a short code nor an international number.
    #[error("a numeric sender is a short code of {} to {} digits or + and an international number of {} to {} digits, country code first", SHORT_CODE.start(), SHORT_CODE.end(), NUMBER.start(), NUMBER.end())]
    Digits,
}

impl Classified for SenderError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

/// What kind of address a sender is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SenderKind {
    /// A brandname; recipients cannot reply to it.
    Brandname,
    /// An international number.
    Number,
    /// A short code of one country or operator.
    ShortCode,
}

/// A sender: a brandname, an international number or a short code. Printing it shows `[SENDER]`.
#[derive(Clone, PartialEq, Eq)]
pub struct SenderId {
    kind: SenderKind,
    address: Sensitive<String>,
}

impl SenderId {
    /// Reads a sender. Digits alone are a short code (3 to 8) or an international number (9 to 15); with a `+` in
    /// front always a number (7 to 15); everything else is a brandname.
    pub fn parse(input: &str) -> Result<Self, SenderError> {
        if input.is_empty() {
            return Err(SenderError::Empty);
        }
        let digits = input.strip_prefix('+').unwrap_or(input);
        let kind = if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            check_brandname(input)?;
            SenderKind::Brandname
        } else if digits.len() == input.len() && SHORT_CODE.contains(&digits.len()) {
            SenderKind::ShortCode
        } else if NUMBER.contains(&digits.len()) && !digits.starts_with('0') {
            SenderKind::Number
        } else {
            return Err(SenderError::Digits);
        };
        Ok(Self { kind, address: Sensitive::new(digits.to_owned()) })
    }

    /// What kind of address it is.
    pub const fn kind(&self) -> SenderKind {
        self.kind
    }

    /// The address in clear as SMPP carries it: ASCII, a number without `+`.
    pub fn address(&self) -> &str {
        self.address.expose()
    }
}

impl fmt::Debug for SenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[SENDER]")
    }
}

impl fmt::Display for SenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[SENDER]")
    }
}

/// The alphabet is what ASCII and the GSM default alphabet share and carriers register: a brandname in it has
/// the same characters on the wire, at the carrier and on the handset.
fn check_brandname(name: &str) -> Result<(), SenderError> {
    let allowed = |character: char| character.is_ascii_alphanumeric() || " .-_&".contains(character);
    if !name.chars().all(allowed) {
        Err(SenderError::Character)
    } else if name.len() > MAX_BRANDNAME {
        Err(SenderError::TooLong)
    } else if !name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
        Err(SenderError::NoLetter)
    } else if name.starts_with(' ') || name.ends_with(' ') || name.contains("  ") {
        Err(SenderError::Spaces)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_three_kinds() {
        for (input, kind, address) in [
            ("VIETBANK", SenderKind::Brandname, "VIETBANK"),
            ("A", SenderKind::Brandname, "A"),
            ("H&M V-n_1.a", SenderKind::Brandname, "H&M V-n_1.a"),
            ("3M", SenderKind::Brandname, "3M"),
            ("156", SenderKind::ShortCode, "156"),
            ("00112233", SenderKind::ShortCode, "00112233"),
            ("84981234567", SenderKind::Number, "84981234567"),
            ("+84981234567", SenderKind::Number, "84981234567"),
            ("+2908123", SenderKind::Number, "2908123"),
            ("+123456789012345", SenderKind::Number, "123456789012345"),
        ] {
            let sender = SenderId::parse(input).unwrap();
            assert_eq!((sender.kind(), sender.address()), (kind, address), "{input}");
        }
    }

    #[test]
    fn refuses_with_the_reason() {
        for (input, error) in [
            ("", SenderError::Empty),
            ("12", SenderError::Digits),
            ("+12345", SenderError::Digits),
            ("0981234567", SenderError::Digits),
            ("1234567890123456", SenderError::Digits),
            ("ABCDEFGHIJKL", SenderError::TooLong),
            ("NGÂN HÀNG", SenderError::Character),
            ("VΙETBANK", SenderError::Character),
            ("a@b", SenderError::Character),
            ("a\n", SenderError::Character),
            ("+", SenderError::Character),
            ("12-34", SenderError::NoLetter),
            (" ", SenderError::NoLetter),
            (" BANK", SenderError::Spaces),
            ("BANK ", SenderError::Spaces),
            ("MY  BANK", SenderError::Spaces),
        ] {
            assert_eq!(SenderId::parse(input), Err(error), "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_printed_shows_the_sender(input in "[A-Za-z]{5,11}|[0-9]{9,18}|\\PC{8,20}") {
            let printed = match SenderId::parse(&input) {
                Ok(sender) => format!("{sender} {sender:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!printed.contains(&input));
        }
    }
}
