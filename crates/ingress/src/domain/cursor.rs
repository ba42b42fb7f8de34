//! How far a watcher has come in the log of events.

use std::{fmt, str::FromStr};

/// Everything up to this sequence of EVENTS was told. One place in one log: it holds for every process of the cell, and
/// says nothing of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u64);

/// Text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is one that an earlier answer gave, unchanged")]
pub struct InvalidCursor;

const VERSION: &str = "e1-";

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}{:x}", self.0)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;
    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let number = text.strip_prefix(VERSION).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        // One spelling each.
        number.map(Self).filter(|cursor| cursor.to_string() == text).ok_or(InvalidCursor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn survives_text(number: u64) {
            prop_assert_eq!(Cursor(number).to_string().parse(), Ok(Cursor(number)));
        }

        #[test]
        fn has_one_spelling(text in "(e1-)?[0-9a-fA-F+ -]{0,20}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["", "e1-", "e2-1", "e1-01", "e1-A", "e1-10000000000000000", "1"] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
    }
}
