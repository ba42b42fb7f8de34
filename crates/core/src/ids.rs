//! Names and ids: checked once at the edge, then carried as types.

use std::{fmt, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

use crate::Timestamp;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be 1 to {max} characters of a-z, 0-9 and '-', starting with a letter or digit")]
pub struct InvalidName {
    kind: &'static str,
    max: usize,
}

/// Names become parts of NATS subjects, Redis keys and file names, so one alphabet fits all of them.
fn check_name(kind: &'static str, max: usize, name: &str) -> Result<(), InvalidName> {
    let ok = !name.is_empty()
        && name.len() <= max
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if ok { Ok(()) } else { Err(InvalidName { kind, max }) }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                check_name($kind, $max, name)?;
                Ok(Self(name.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                name.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// One region's own platform: broker, Redis, keys and connectors (`vn`).
    CellId, "a cell", 16
}
name_type! {
    /// A business that sends through Sotto.
    TenantId, "a tenant", 40
}
name_type! {
    /// One contract with a carrier: its binds, window and rate (`viettel-otp`).
    AccountId, "a carrier account", 40
}

impl TenantId {
    /// The owner of messages from handsets to numbers that the carriers file gives to nobody. No client is of this
    /// tenant.
    pub fn unowned() -> Self {
        Self(UNOWNED.into())
    }

    /// Whether it is the one that stands for nobody.
    pub fn is_unowned(&self) -> bool {
        self.0.as_ref() == UNOWNED
    }
}

const UNOWNED: &str = "unowned";

/// The id of a message: UUIDv7, or UUIDv8 derived from the client's idempotency key (RFC 9562).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(Uuid);

/// A message id that is not a UUID in its usual text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message id is a UUID such as 01936a5e-7c1b-7d2e-9f00-000000000001")]
pub struct InvalidMessageId;

impl MessageId {
    /// A new id for a message without idempotency key: UUIDv7 of `now` with the given randomness.
    pub fn new_v7(now: Timestamp, random: &[u8; 10]) -> Self {
        let millis = u64::try_from(now.unix_millis()).unwrap_or(0);
        Self(Builder::from_unix_timestamp_millis(millis, random).into_uuid())
    }

    /// The id for an idempotency key: the first 16 bytes of a keyed hash, in UUIDv8 form.
    pub const fn from_keyed_hash(hash: [u8; 16]) -> Self {
        Self(Builder::from_custom_bytes(hash).into_uuid())
    }

    /// From 16 bytes off the wire.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidMessageId> {
        Uuid::from_slice(bytes).map(Self).map_err(|_| InvalidMessageId)
    }

    /// The id's 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// When the id was made, if it says so (UUIDv7 only).
    pub fn made_at(&self) -> Option<Timestamp> {
        let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
        let millis = seconds.checked_mul(1000)?.checked_add(u64::from(nanos / 1_000_000))?;
        i64::try_from(millis).ok().map(Timestamp::from_unix_millis)
    }
}

impl FromStr for MessageId {
    type Err = InvalidMessageId;
    fn from_str(text: &str) -> Result<Self, InvalidMessageId> {
        // Only the hyphenated form: one id has one spelling.
        if text.len() != 36 {
            return Err(InvalidMessageId);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidMessageId)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One of the equal parts into which a cell divides its messages: the last token of hot subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

impl ShardId {
    /// The shard's number, from 0.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many shards a cell has. Fixed at the birth of the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shards(NonZeroU16);

impl Shards {
    /// So many shards.
    pub const fn new(count: NonZeroU16) -> Self {
        Self(count)
    }

    /// The number of shards.
    pub const fn count(self) -> u16 {
        self.0.get()
    }

    /// All shards in order.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..self.0.get()).map(ShardId)
    }

    /// The shard of a message. Uses the id's last eight bytes: random in UUIDv7, a keyed hash in UUIDv8.
    pub fn of(self, id: &MessageId) -> ShardId {
        let tail = id.as_bytes().iter().skip(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        ShardId(u16::try_from(tail % u64::from(self.0.get())).unwrap_or(0))
    }
}

/// How many brokers a cell has, and copies each message on them: one, or three of which any may be lost. Two would be worse
/// than one, since neither goes on without the other. Fixed at the birth of the cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Replicas {
    /// One broker, one copy.
    #[default]
    One,
    /// A cluster of three.
    Three,
}

impl Replicas {
    /// The number.
    pub const fn count(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Three => 3,
        }
    }
}

/// Why a number of replicas was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1, or 3 for a cluster of three brokers")]
pub struct InvalidReplicas;

impl TryFrom<u8> for Replicas {
    type Error = InvalidReplicas;
    fn try_from(count: u8) -> Result<Self, InvalidReplicas> {
        match count {
            1 => Ok(Self::One),
            3 => Ok(Self::Three),
            _ => Err(InvalidReplicas),
        }
    }
}

impl From<Replicas> for u8 {
    fn from(replicas: Replicas) -> Self {
        replicas.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cell_has_one_broker_or_three() {
        let read = |count: u8| Replicas::try_from(count).map(Replicas::count);
        assert_eq!((read(1), read(3)), (Ok(1), Ok(3)));
        for wrong in [0, 2, 4, 5] {
            assert_eq!(read(wrong), Err(InvalidReplicas));
        }
    }

    #[test]
    fn names_refuse_what_a_subject_cannot_carry() {
        for bad in ["", "A", "a.b", "a*", ">", "a b", "-a", "ă", &"a".repeat(41)] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad:?}");
        }
        assert_eq!("acme-bank-2".parse::<TenantId>().unwrap().as_str(), "acme-bank-2");
    }

    #[test]
    fn v7_carries_its_time_and_v8_does_not() {
        let now = Timestamp::from_unix_millis(1_795_493_815_007);
        assert_eq!(MessageId::new_v7(now, &[7; 10]).made_at(), Some(now));
        assert_eq!(MessageId::from_keyed_hash([0xab; 16]).made_at(), None);
    }

    proptest! {
        #[test]
        fn ids_survive_text(bytes: [u8; 16]) {
            let id = MessageId::from_keyed_hash(bytes);
            prop_assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
            prop_assert_eq!(MessageId::from_bytes(id.as_bytes()).unwrap(), id);
        }

        #[test]
        fn every_message_has_a_shard(bytes: [u8; 16], count in 1_u16..64) {
            let shards = Shards::new(NonZeroU16::new(count).unwrap());
            prop_assert!(shards.of(&MessageId::from_keyed_hash(bytes)).get() < count);
        }
    }
}
