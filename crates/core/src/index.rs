//! The index: by what a number's messages are found again, and nothing else is.

use std::fmt;

use bytes::Bytes;

use crate::{MessageId, TenantId, Timestamp, work::Envelope};

/// The name that stands in buckets and bindings where a class stands for messages.
pub const CLASS: &str = "index";

/// What a pseudonym is the tag of, beside the number's digits.
pub const PSEUDONYM_LABEL: &str = "sotto.pseudonym.v1";

const HOUR_MS: i64 = 3_600_000;

/// What stands for a number under one key of one tenant: 16 bytes of a keyed digest. Printing it shows `[PSEUDONYM]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pseudonym(pub [u8; 16]);

impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[PSEUDONYM]")
    }
}

/// What an index envelope holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexed {
    /// Whose number it was.
    pub pseudonym: Pseudonym,
    /// The hour in which the message was accepted, since the Unix epoch.
    pub hour: u32,
}

impl Indexed {
    /// Bytes of [`Self::to_bytes`].
    pub const LEN: usize = 20;

    /// What is told of a message that was accepted then.
    pub fn new(pseudonym: Pseudonym, accepted_at: Timestamp) -> Self {
        let hour = u32::try_from(accepted_at.unix_millis().div_euclid(HOUR_MS)).unwrap_or_default();
        Self { pseudonym, hour }
    }

    /// The pseudonym, then the hour as a big-endian number.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (pseudonym, hour) = bytes.split_at_mut(16);
        pseudonym.copy_from_slice(&self.pseudonym.0);
        hour.copy_from_slice(&self.hour.to_be_bytes());
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote; none of another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (pseudonym, hour) = bytes.split_first_chunk::<16>()?;
        Some(Self { pseudonym: Pseudonym(*pseudonym), hour: u32::from_be_bytes(hour.try_into().ok()?) })
    }
}

/// The beginning of an hour since the Unix epoch.
pub fn hour_begins(hour: u32) -> Timestamp {
    Timestamp::from_unix_millis(i64::from(hour) * HOUR_MS)
}

/// Which key sealed an index envelope. It is derived from that of its bucket, so there is no wrap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IndexKey {
    /// The key's id.
    pub key_id: [u8; 16],
    /// The tenant.
    pub tenant: TenantId,
    /// The bucket, for example `index/2027-02-27`.
    pub bucket: String,
}

/// An entry of the index: the message's id, and sealed who got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The message.
    pub message: MessageId,
    /// An [`Indexed`], sealed.
    pub envelope: Envelope,
}

impl IndexEntry {
    /// An entry of this message.
    pub fn new(message: MessageId, envelope: Vec<u8>) -> Self {
        Self { message, envelope: Envelope(Bytes::from(envelope)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_nothing_of_the_pseudonym() {
        let indexed = Indexed { pseudonym: Pseudonym([7; 16]), hour: 1 };
        assert_eq!(format!("{indexed:?}"), "Indexed { pseudonym: [PSEUDONYM], hour: 1 }");
    }

    proptest! {
        #[test]
        fn survives_its_bytes(pseudonym in any::<[u8; 16]>(), at in 0_i64..4_000_000_000_000) {
            let indexed = Indexed::new(Pseudonym(pseudonym), Timestamp::from_unix_millis(at));
            prop_assert_eq!(Indexed::from_bytes(&indexed.to_bytes()), Some(indexed));
            let from = hour_begins(indexed.hour).unix_millis();
            prop_assert!(from <= at && at < from + HOUR_MS);
        }

        #[test]
        fn other_lengths_are_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(Indexed::from_bytes(&bytes).is_some(), bytes.len() == Indexed::LEN);
        }
    }
}
