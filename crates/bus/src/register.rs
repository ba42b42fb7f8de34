//! A register on the broker: the latest word on each key of a stream with retention `latest`, compared and set by its
//! sequence.
//!
//! Only reading and writing. Who may write what, and when, is decided by those who write: time is told by nobody here,
//! because no two machines agree on it.

use std::{fmt, time::Duration};

use async_nats::StatusCode;
use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::json;
use sotto_core::{Classified, ErrorClass};
use tokio::time::{self, Instant, MissedTickBehavior};

use crate::{
    Bus, PublishError, ReadError,
    api::ApiError,
    publish::{Outgoing, names},
    read::stored,
    subject,
    topology::stream_name,
};

/// How long one question or one write may take. What is not known by then is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// "Wrong last sequence", with and without the sequence in its words.
const WRONG_SEQUENCE: [u64; 2] = [10_071, 10_164];

/// The latest word on a key, with the sequence by which it is compared and set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The subject after the cell's prefix, such as `lease.acme-sms.bind-1`.
    pub key: String,
    /// Its sequence: the revision, which only grows.
    pub sequence: u64,
    /// What it says.
    pub payload: Bytes,
}

/// Why a word is not known to be written.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Somebody else wrote meanwhile. Certainly not written.
    #[error("the key was written by another")]
    Conflict,
    /// Not written, or not known to be.
    #[error("the key could not be written")]
    Publish(#[source] PublishError),
}

impl Classified for RegisterError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Conflict => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::Publish(error) => error.class(),
        }
    }
}

/// A register of this cell.
#[derive(Clone)]
pub struct Register {
    bus: Bus,
    stream: String,
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Register").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Register {
    /// The register in the stream of this name, such as `LEASES`.
    pub fn new(bus: &Bus, name: &str) -> Self {
        Self { bus: bus.clone(), stream: stream_name(&bus.cell().id, name) }
    }

    /// The latest word on a key; `None`: it has none, or none any more.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        Ok(self.all(key).await?.pop())
    }

    /// The latest word on every key that a pattern names (`*`, `>`), in no order; 1,024 keys at most. A copy of the stream
    /// that lags may answer with an older word: writing finds that out.
    pub async fn all(&self, pattern: &str) -> Result<Vec<Entry>, ReadError> {
        let subject = format!("$JS.API.DIRECT.GET.{}", self.stream);
        let failed = || ReadError::Api {
            stream: self.stream.clone(),
            source: ApiError::NoAnswer { subject: subject.clone() },
        };
        let prefix = subject::prefix(&self.bus.cell().id);
        let asked = async {
            self.bus.connected().await;
            let client = self.bus.client();
            let inbox = client.new_inbox();
            let mut answers = client.subscribe(inbox.clone()).await.map_err(|_gone| failed())?;
            let request = json!({ "multi_last": [format!("{prefix}{pattern}")] }).to_string();
            let sent = client.publish_with_reply(subject.clone(), inbox, Bytes::from(request)).await;
            sent.map_err(|_gone| failed())?;
            let mut entries = Vec::new();
            while let Some(message) = answers.next().await {
                match message.status {
                    None | Some(StatusCode::OK) => {}
                    // 404: no key has a word yet. 204: the end of the answer.
                    Some(status) if status == StatusCode::NOT_FOUND || status.as_u16() == 204 => {
                        return Ok(entries);
                    }
                    Some(_) => return Err(failed()),
                }
                let (message, _) = stored(message).ok_or_else(failed)?;
                let key = message.subject.strip_prefix(&prefix).ok_or_else(failed)?.to_owned();
                entries.push(Entry { key, sequence: message.sequence, payload: message.payload });
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

    /// Writes a key for the first time. Returns its sequence.
    pub async fn create(&self, key: &str, payload: Bytes) -> Result<u64, RegisterError> {
        self.update(key, payload, 0).await
    }

    /// Writes a key if its latest word still has the sequence `expected` (0: it has none). Returns its new sequence.
    pub async fn update(&self, key: &str, payload: Bytes, expected: u64) -> Result<u64, RegisterError> {
        self.write(key, payload, Some(expected)).await
    }

    /// Writes a key whatever stands there. Returns its new sequence.
    pub async fn put(&self, key: &str, payload: Bytes) -> Result<u64, RegisterError> {
        self.write(key, payload, None).await
    }

    async fn write(&self, key: &str, payload: Bytes, expected: Option<u64>) -> Result<u64, RegisterError> {
        let subject = format!("{}{key}", subject::prefix(&self.bus.cell().id));
        let mut outgoing = Outgoing::new(&self.bus, &subject, payload, 1, None);
        if let Some(expected) = expected {
            outgoing.headers.insert(names::EXPECTED, expected.to_string().as_str());
        }
        match self.bus.store(&outgoing, PATIENCE, Instant::now() + PATIENCE).await {
            Ok(stored) => Ok(stored.stream_sequence),
            Err(PublishError::Refused { code, .. }) if WRONG_SEQUENCE.contains(&code) => {
                Err(RegisterError::Conflict)
            }
            Err(error) => Err(RegisterError::Publish(error)),
        }
    }

    /// Reads every key of a pattern once in `every`, for ever. Each item is the whole state, or that it could not be heard:
    /// who must not act on what is old counts the time since the last that came.
    pub fn watch(
        &self,
        pattern: &str,
        every: Duration,
    ) -> impl Stream<Item = Result<Vec<Entry>, ReadError>> + Send + use<> {
        let (register, pattern) = (self.clone(), pattern.to_owned());
        let mut ticks = time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        stream::unfold((register, pattern, ticks), async |(register, pattern, mut ticks)| {
            ticks.tick().await;
            let read = register.all(&pattern).await;
            Some((read, (register, pattern, ticks)))
        })
    }
}
