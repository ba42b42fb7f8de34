//! A register of leases on the broker: the latest word on each key, compared and set by its sequence.
//!
//! Only reading and writing. Who may take what, and when, is decided by those who hold leases: time is told by nobody
//! here, because no two machines agree on it.

use std::{fmt, time::Duration};

use async_nats::StatusCode;
use bytes::Bytes;
use futures::StreamExt as _;
use prost::Message as _;
use serde_json::json;
use sotto_core::{AccountId, Classified, ErrorClass};
use sotto_proto::pipeline::v1;
use tokio::time::{self, Instant};

use crate::{
    Bus, PublishError, ReadError,
    api::ApiError,
    publish::{Outgoing, names},
    read::stored,
    subject,
    topology::stream_name,
};

const STREAM: &str = "LEASES";
/// How long one question or one write may take. Far below any lease: what is not known by then is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// "Wrong last sequence", with and without the sequence in its words.
const WRONG_SEQUENCE: [u64; 2] = [10_071, 10_164];

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

/// Why a lease is not known to be written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else wrote meanwhile. Certainly not written.
    #[error("the lease was written by another")]
    Taken,
    /// Not written, or not known to be.
    #[error("the lease could not be written")]
    Publish(#[source] PublishError),
}

impl Classified for LeaseError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Taken => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::Publish(error) => error.class(),
        }
    }
}

/// The register.
#[derive(Clone)]
pub struct Leases {
    bus: Bus,
    stream: String,
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Leases {
    /// The register of this cell.
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone(), stream: stream_name(&bus.cell().id, STREAM) }
    }

    /// The latest word on every key of an account, in no order. A copy that lags may answer with an older word: writing
    /// finds that out.
    pub async fn of(&self, account: &AccountId) -> Result<Vec<Lease>, ReadError> {
        let subject = format!("$JS.API.DIRECT.GET.{}", self.stream);
        let failed = || ReadError::Api {
            stream: self.stream.clone(),
            source: ApiError::NoAnswer { subject: subject.clone() },
        };
        let asked = async {
            self.bus.connected().await;
            let client = self.bus.client();
            let inbox = client.new_inbox();
            let mut answers = client.subscribe(inbox.clone()).await.map_err(|_gone| failed())?;
            let wanted = format!("{}lease.{account}.*", subject::prefix(&self.bus.cell().id));
            let request = json!({ "multi_last": [wanted] }).to_string();
            let sent = client.publish_with_reply(subject.clone(), inbox, Bytes::from(request)).await;
            sent.map_err(|_gone| failed())?;
            let mut leases = Vec::new();
            while let Some(message) = answers.next().await {
                match message.status {
                    None | Some(StatusCode::OK) => {}
                    // 404: no key has a word yet. 204: the end of the answer.
                    Some(status) if status == StatusCode::NOT_FOUND || status.as_u16() == 204 => {
                        return Ok(leases);
                    }
                    Some(_) => return Err(failed()),
                }
                let (message, _) = stored(message).ok_or_else(failed)?;
                leases.extend(self.read(&message.subject, message.sequence, &message.payload));
            }
            Err(failed())
        };
        tokio::select! {
            asked = time::timeout(PATIENCE, asked) => asked.map_err(|_elapsed| failed())?,
            () = self.bus.connection().refused(&subject) => Err(ReadError::Api {
                stream: self.stream.clone(),
                source: ApiError::NotAllowed { subject: subject.clone() },
            }),
        }
    }

    /// A word that cannot be read is no word: whoever wrote it is not of this version, and CAS by its sequence fails.
    fn read(&self, subject: &str, sequence: u64, payload: &[u8]) -> Option<Lease> {
        let key = LeaseKey::parse(subject.rsplit('.').next()?)?;
        let record = v1::LeaseRecord::decode(payload).ok()?;
        let record = LeaseRecord {
            holder: record.holder,
            ttl: Duration::from_millis(record.ttl_ms.into()),
            released: record.released,
        };
        Some(Lease { key, sequence, record })
    }

    /// Writes a key if its latest word still has the sequence `expected` (0: it has none). Returns its new sequence.
    pub async fn write(
        &self,
        account: &AccountId,
        key: &LeaseKey,
        record: &LeaseRecord,
        expected: u64,
    ) -> Result<u64, LeaseError> {
        let record = v1::LeaseRecord {
            holder: record.holder.clone(),
            ttl_ms: u32::try_from(record.ttl.as_millis()).unwrap_or(u32::MAX),
            released: record.released,
        };
        let subject = format!("{}lease.{account}.{key}", subject::prefix(&self.bus.cell().id));
        let mut outgoing = Outgoing::new(&self.bus, &subject, record.encode_to_vec().into(), 1, None);
        outgoing.headers.insert(names::EXPECTED, expected.to_string().as_str());
        match self.bus.store(&outgoing, PATIENCE, Instant::now() + PATIENCE).await {
            Ok(stored) => Ok(stored.stream_sequence),
            Err(PublishError::Refused { code, .. }) if WRONG_SEQUENCE.contains(&code) => {
                Err(LeaseError::Taken)
            }
            Err(error) => Err(LeaseError::Publish(error)),
        }
    }
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
