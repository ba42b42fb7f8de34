//! Who holds which bind of a carrier account: a [`Register`] of leases.
//!
//! Only reading and writing. Who may take what, and when, is decided by those who hold leases.

use std::{fmt, time::Duration};

use prost::Message as _;
use sotto_core::AccountId;
use sotto_proto::pipeline::v1;

use crate::{Bus, Entry, ReadError, Register, RegisterError};

/// What is leased of an account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseKey {
    /// A bind of the contract, counted from 1.
    Bind(u16),
    /// The presence of a replica, by its name.
    Replica(String),
}

impl LeaseKey {
    fn parse(token: &str) -> Option<Self> {
        let (kind, name) = token.split_once('-')?;
        match kind {
            // One bind has one spelling.
            "bind" => name.parse().ok().filter(|number: &u16| number.to_string() == name).map(Self::Bind),
            "replica" => Some(Self::Replica(name.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(number) => write!(f, "bind-{number}"),
            Self::Replica(name) => write!(f, "replica-{name}"),
        }
    }
}

/// Who holds something, in their own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The replica's name.
    pub holder: String,
    /// For how long from when it was written.
    pub ttl: Duration,
    /// It has let go.
    pub released: bool,
    /// The bind is up, and its holder takes what waits.
    pub bound: bool,
}

/// The latest word on a key, with the sequence by which it is compared and set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The key.
    pub key: LeaseKey,
    /// Its sequence.
    pub sequence: u64,
    /// What it says.
    pub record: LeaseRecord,
}

/// The register of leases.
#[derive(Clone, Debug)]
pub struct Leases(Register);

impl Leases {
    /// The register of this cell.
    pub fn new(bus: &Bus) -> Self {
        Self(Register::new(bus, "LEASES"))
    }

    /// The latest word on every key of an account, in no order.
    pub async fn of(&self, account: &AccountId) -> Result<Vec<Lease>, ReadError> {
        let entries = self.0.all(&format!("lease.{account}.*")).await?;
        Ok(entries.into_iter().filter_map(read).collect())
    }

    /// Writes a key if its latest word still has the sequence `expected` (0: it has none). Returns its new sequence.
    pub async fn write(
        &self,
        account: &AccountId,
        key: &LeaseKey,
        record: &LeaseRecord,
        expected: u64,
    ) -> Result<u64, RegisterError> {
        let record = v1::LeaseRecord {
            holder: record.holder.clone(),
            ttl_ms: u32::try_from(record.ttl.as_millis()).unwrap_or(u32::MAX),
            released: record.released,
            bound: record.bound,
        };
        let payload = record.encode_to_vec().into();
        self.0.update(&format!("lease.{account}.{key}"), payload, expected).await
    }
}

/// A word that cannot be read is no word: whoever wrote it is not of this version, and writing by its sequence fails.
fn read(entry: Entry) -> Option<Lease> {
    let key = LeaseKey::parse(entry.key.rsplit('.').next()?)?;
    let record = v1::LeaseRecord::decode(entry.payload).ok()?;
    let record = LeaseRecord {
        holder: record.holder,
        ttl: Duration::from_millis(record.ttl_ms.into()),
        released: record.released,
        bound: record.bound,
    };
    Some(Lease { key, sequence: entry.sequence, record })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_text_and_have_one_spelling() {
        for key in [LeaseKey::Bind(1), LeaseKey::Bind(64), LeaseKey::Replica("a-b-3".to_owned())] {
            assert_eq!(LeaseKey::parse(&key.to_string()), Some(key));
        }
        for bad in ["bind-01", "bind-", "bind-70000", "bind", "other-1", ""] {
            assert_eq!(LeaseKey::parse(bad), None, "{bad}");
        }
    }
}
