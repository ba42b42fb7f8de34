//! Where a page of a tenant's messages ends.

use std::{fmt, str::FromStr};

use sotto_core::{MessageId, Timestamp};

/// A place in the order of acceptances: by time, then by id. It says nothing of a tenant: whose messages are listed says the
/// token of each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// When the message was accepted.
    pub at: Timestamp,
    /// Its id; none: before everything that was accepted after `at`.
    pub id: Option<MessageId>,
}

/// Text that is no page token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a page token is one that an earlier answer gave, unchanged")]
pub struct InvalidPageToken;

const VERSION: &str = "p1-";

impl fmt::Display for Place {
    /// `p1-<milliseconds, hexadecimal>-<id>`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}{:x}-", self.at.unix_millis())?;
        self.id.map_or(Ok(()), |id| fmt::Display::fmt(&id, f))
    }
}

impl FromStr for Place {
    type Err = InvalidPageToken;
    fn from_str(text: &str) -> Result<Self, InvalidPageToken> {
        let read = || {
            let (millis, id) = text.strip_prefix(VERSION)?.split_once('-')?;
            let at = Timestamp::from_unix_millis(i64::from_str_radix(millis, 16).ok()?);
            let id = if id.is_empty() { None } else { Some(id.parse().ok()?) };
            Some(Self { at, id })
        };
        // One spelling each, and no time before 1970.
        let is_exact = |place: &Self| place.to_string() == text && place.at.unix_millis() >= 0;
        read().filter(is_exact).ok_or(InvalidPageToken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn survives_text(millis in 0..i64::MAX, id in option::of(any::<[u8; 16]>())) {
            let place =
                Place { at: Timestamp::from_unix_millis(millis), id: id.map(MessageId::from_keyed_hash) };
            prop_assert_eq!(place.to_string().parse(), Ok(place));
        }

        #[test]
        fn has_one_spelling(text in "(p1-)?[0-9a-fA-F+ -]{0,50}") {
            if let Ok(place) = text.parse::<Place>() {
                prop_assert_eq!(place.to_string(), text);
            }
        }
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["", "p1-", "p1-1", "p1-01-", "p1--1-", "p2-1-", "p1-1-x", "e1-1"] {
            assert_eq!(text.parse::<Place>(), Err(InvalidPageToken), "{text}");
        }
    }
}
