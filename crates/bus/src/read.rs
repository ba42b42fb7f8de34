//! Reading a stream by sequence, beside its consumers: ledger check, rebuild, quarantine.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    marker::PhantomData,
    time::Duration,
};

use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};
use sotto_core::{Classified, ErrorClass, Replicas, Timestamp};
use tokio::time;

use crate::{
    Bus, Subject,
    api::ApiError,
    quorum::is_led,
    subject::prefixed,
    topology::{Retention, Stream, stream_name},
    wire::Subscription,
};

/// Messages asked for at a time; together with the bytes below one request cannot flood the connection.
const AT_A_TIME: u64 = 256;
const BYTES_AT_A_TIME: usize = 4 * 1_048_576;
/// How long the next message of an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers that may break off before reading fails.
const TRIES: u32 = 5;

/// Sequence not found, or message not found: it is gone.
const NO_SEQUENCE: u64 = 10_043;

/// The stream with what is still needed of events that were trimmed, as the list writes it. A cell may be without it.
pub const CARRIED: &str = "CARRIED";

/// Every subject.
const ALL: &str = ">";
/// How long a copy that lags is given before it is asked again.
const BEHIND: Duration = Duration::from_millis(200);

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The list of streams has no such stream.
    #[error("the list of streams has no stream {0}")]
    NoStream(String),
    /// The broker refused or did not answer.
    #[error("cannot read stream {stream}")]
    Api {
        /// The stream on the broker.
        stream: String,
        /// Why.
        #[source]
        source: ApiError,
    },
    /// The broker's answer broke off again and again.
    #[error("reading stream {stream} broke off at sequence {sequence}")]
    BrokeOff {
        /// The stream on the broker.
        stream: String,
        /// The last sequence that was read.
        sequence: u64,
    },
    /// A message that is not a batch.
    #[error("message {sequence} of stream {stream} is not a valid protobuf message")]
    Malformed {
        /// The stream on the broker.
        stream: String,
        /// Its sequence.
        sequence: u64,
    },
}

impl Classified for ReadError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NoStream(_) => ErrorClass::Bug,
            Self::Api { source, .. } => source.class(),
            Self::BrokeOff { .. } => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::Malformed { .. } => ErrorClass::Poison,
        }
    }
}

/// What a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// Messages in it.
    pub messages: u64,
    /// The lowest sequence in it; one above `last` when it is empty.
    pub first: u64,
    /// The highest sequence it ever gave.
    pub last: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What the subjects of a stream hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    /// Messages of each that has any. Subjects that are not this cell's are left out.
    pub messages: BTreeMap<Subject, u64>,
    /// What each may hold, as the broker has it; none: as much as the stream.
    pub most: Option<u64>,
}

/// How far a consumer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerState {
    /// Everything up to this sequence is acknowledged.
    pub acknowledged: u64,
    /// Everything up to this sequence was delivered, to somebody.
    pub delivered: u64,
}

/// A message as it is stored.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// Its sequence.
    pub sequence: u64,
    /// Its whole subject.
    pub subject: String,
    /// When the broker stored it.
    pub stored_at: Timestamp,
    /// Its bytes.
    pub payload: Bytes,
}

/// A decoded batch and its place.
#[derive(Clone, Debug)]
pub struct StoredBatch<B> {
    /// Its sequence.
    pub sequence: u64,
    /// Its subject; none if it is not one of this cell's.
    pub subject: Option<Subject>,
    /// The batch.
    pub batch: B,
}

/// Reads a stream by direct get (ADR-31), in the order of sequences.
pub struct StreamReader<B> {
    bus: Bus,
    stream: String,
    kind: PhantomData<fn() -> B>,
}

impl<B> fmt::Debug for StreamReader<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl<B: prost::Message + Default> StreamReader<B> {
    /// A reader of `stream`, as the list writes it.
    pub fn new(bus: &Bus, stream: &str) -> Result<Self, ReadError> {
        let known = bus.topology().streams.iter().any(|candidate| candidate.name == stream);
        if !known {
            return Err(ReadError::NoStream(stream.to_owned()));
        }
        Ok(Self { bus: bus.clone(), stream: stream_name(&bus.cell().id, stream), kind: PhantomData })
    }

    /// What the stream holds now.
    pub async fn state(&self) -> Result<StreamState, ReadError> {
        let api = format!("STREAM.INFO.{}", self.stream);
        let info = self.bus.api(&api, &json!({})).await;
        let info = info.map_err(|source| ReadError::Api { stream: self.stream.clone(), source })?;
        // Who was the leader tells of the past.
        if !is_led(&info) {
            let source = ApiError::NoAnswer { subject: format!("$JS.API.{api}") };
            return Err(ReadError::Api { stream: self.stream.clone(), source });
        }
        let number =
            |name: &str| info.get("state").and_then(|s| s.get(name)).and_then(Value::as_u64).unwrap_or(0);
        Ok(StreamState {
            messages: number("messages"),
            first: number("first_seq"),
            last: number("last_seq"),
            bytes: number("bytes"),
        })
    }

    /// Takes away everything before a sequence, for good. For the service that may.
    pub async fn purge_before(&self, sequence: u64) -> Result<(), ReadError> {
        let api = format!("STREAM.PURGE.{}", self.stream);
        let purged = self.bus.api(&api, &json!({ "seq": sequence })).await;
        purged.map_err(|source| ReadError::Api { stream: self.stream.clone(), source })?;
        Ok(())
    }

    /// Deletes one message, which need not be there. For the service that may.
    pub async fn delete(&self, sequence: u64) -> Result<(), ReadError> {
        let api = format!("STREAM.MSG.DELETE.{}", self.stream);
        match self.bus.api(&api, &json!({ "seq": sequence, "no_erase": true })).await {
            Ok(_) | Err(ApiError::Refused { code: NO_SEQUENCE, .. }) => Ok(()),
            Err(source) => Err(ReadError::Api { stream: self.stream.clone(), source }),
        }
    }

    /// How far `consumer` of this stream has come. For the service whose consumer it is.
    pub async fn consumer(&self, consumer: &str) -> Result<ConsumerState, ReadError> {
        let api = format!("CONSUMER.INFO.{}.{consumer}", self.stream);
        let info = self.bus.api(&api, &json!({})).await;
        let info = info.map_err(|source| ReadError::Api { stream: self.stream.clone(), source })?;
        let number = |path: &str| info.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        Ok(ConsumerState {
            acknowledged: number("/ack_floor/stream_seq"),
            delivered: number("/delivered/stream_seq"),
        })
    }

    /// The subjects that have messages in the stream, how many, and how many they may have.
    pub async fn subjects(&self) -> Result<Subjects, ReadError> {
        let api = format!("STREAM.INFO.{}", self.stream);
        let info = self.bus.api(&api, &json!({ "subjects_filter": ">" })).await;
        let info = info.map_err(|source| ReadError::Api { stream: self.stream.clone(), source })?;
        let cell = self.bus.cell();
        let held = info.get("state").and_then(|state| state.get("subjects")).and_then(Value::as_object);
        let read = |(subject, count): (&String, &Value)| {
            Some((Subject::parse(&cell.id, cell.shards, subject)?, count.as_u64()?))
        };
        // -1: no bound.
        let most = info.pointer("/config/max_msgs_per_subject").and_then(Value::as_u64);
        Ok(Subjects { messages: held.into_iter().flatten().filter_map(read).collect(), most })
    }

    /// The oldest message on a subject, if there is one and it can be read.
    pub async fn oldest(&self, subject: &Subject) -> Result<Option<B>, ReadError> {
        self.oldest_of(&subject.to_string()).await
    }

    /// The oldest message on all subjects of a pattern, written as in the list of streams (`accepted.otp.*`).
    pub async fn oldest_of(&self, pattern: &str) -> Result<Option<B>, ReadError> {
        let api = format!("DIRECT.GET.{}", self.stream);
        let request = json!({ "seq": 1, "next_by_subj": prefixed(&self.bus.cell().id, pattern) });
        let message = self.bus.api_message(&api, &request).await;
        let message = message.map_err(|source| ReadError::Api { stream: self.stream.clone(), source })?;
        if message.status == Some(StatusCode::NOT_FOUND) {
            return Ok(None);
        }
        Ok(B::decode(message.payload).ok())
    }

    /// What lies on a subject after a sequence, in one question, and how far that was: at most 256 messages, none missing
    /// between them. Those that are no batch are left out.
    pub async fn after(
        &self,
        subject: &Subject,
        sequence: u64,
    ) -> Result<(Vec<StoredBatch<B>>, u64), ReadError> {
        let of = subject.in_cell(&self.bus.cell().id);
        let mut reading = Reading { of, ..self.read(sequence + 1, u64::MAX) };
        reading.ask().await?;
        let readable = |message: StoredMessage| {
            let batch = B::decode(message.payload).ok()?;
            Some(StoredBatch { sequence: message.sequence, subject: Some(subject.clone()), batch })
        };
        Ok((reading.ready.into_iter().filter_map(readable).collect(), reading.last))
    }

    /// Reads messages from sequence `from` up to and including `to`; gaps are skipped.
    pub fn read(&self, from: u64, to: u64) -> Reading<B> {
        Reading {
            bus: self.bus.clone(),
            stream: self.stream.clone(),
            of: ALL.to_owned(),
            last: from.saturating_sub(1),
            to,
            stored: false,
            ready: VecDeque::new(),
            ended: from > to,
            kind: PhantomData,
        }
    }

    /// The same, where a message with the sequence `to` was stored once: [`Self::state`] told of it. A broker that knows of
    /// less is behind, and its end is not the end.
    pub fn read_stored(&self, from: u64, to: u64) -> Reading<B> {
        Reading { stored: true, ..self.read(from, to) }
    }
}

/// Messages of a range, in order.
pub struct Reading<B> {
    bus: Bus,
    stream: String,
    /// The subjects that are read.
    of: String,
    /// The last sequence that was taken over; the answer goes on after it.
    last: u64,
    to: u64,
    /// It is known that `to` was given to a message.
    stored: bool,
    ready: VecDeque<StoredMessage>,
    ended: bool,
    kind: PhantomData<fn() -> B>,
}

impl<B> fmt::Debug for Reading<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("stream", &self.stream)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

/// How an answer ended.
enum Answer {
    /// With its end mark.
    Whole,
    /// There is nothing at or after the sequence.
    Nothing,
    /// Messages or the end are missing.
    Broken,
}

impl<B: prost::Message + Default> Reading<B> {
    /// Messages that are here already: so many of [`Self::next`] wait for nobody.
    pub fn in_hand(&self) -> usize {
        self.ready.len()
    }

    /// The next batch, decoded; none at the end.
    pub async fn next(&mut self) -> Result<Option<StoredBatch<B>>, ReadError> {
        let Some(message) = self.next_message().await? else { return Ok(None) };
        let cell = self.bus.cell();
        let batch = B::decode(message.payload).map_err(|_unreadable| ReadError::Malformed {
            stream: self.stream.clone(),
            sequence: message.sequence,
        })?;
        let subject = Subject::parse(&cell.id, cell.shards, &message.subject);
        Ok(Some(StoredBatch { sequence: message.sequence, subject, batch }))
    }

    /// The next message as it is stored; none at the end.
    pub async fn next_message(&mut self) -> Result<Option<StoredMessage>, ReadError> {
        let mut tries = 0;
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            let before = self.last;
            match self.ask().await? {
                Answer::Whole if self.last > before => tries = 0,
                Answer::Nothing if self.is_end(tries).await? => self.ended = true,
                Answer::Nothing if tries < TRIES => {
                    tries += 1;
                    time::sleep(BEHIND).await;
                }
                Answer::Broken if self.last > before => tries = 0,
                Answer::Whole | Answer::Broken if tries < TRIES => tries += 1,
                Answer::Whole | Answer::Broken | Answer::Nothing => {
                    return Err(ReadError::BrokeOff { stream: self.stream.clone(), sequence: self.last });
                }
            }
            self.ended |= self.last >= self.to;
        }
    }

    /// Whether there is nothing more. In a cluster any copy answers, also one that lags or is cut off from the others.
    async fn is_end(&self, tries: u32) -> Result<bool, ReadError> {
        if self.bus.cell().replicas == Replicas::One || self.of != ALL || self.last >= self.to {
            return Ok(true);
        }
        let info = self.bus.api(&format!("STREAM.INFO.{}", self.stream), &json!({})).await;
        let info = info.map_err(|source| ReadError::Api { stream: self.stream.clone(), source })?;
        let number = |path: &str| info.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let (messages, last) = (number("/state/messages"), number("/state/last_seq"));
        // Sequences only grow: who knows of less than what was told before is cut off itself.
        if !is_led(&info) || (self.stored && last < self.to) {
            return Ok(false);
        }
        let more = messages > 0 && last > self.last;
        // Of a log nothing is taken away at its end; in a queue the last ones may be done.
        Ok(!more || (!self.is_log() && tries == TRIES))
    }

    /// Whether what was stored stays.
    fn is_log(&self) -> bool {
        let stream = |stream: &&Stream| stream_name(&self.bus.cell().id, &stream.name) == self.stream;
        let stream = self.bus.topology().streams.iter().find(stream);
        stream.is_some_and(|stream| matches!(stream.retention, Retention::Limits | Retention::Aged))
    }

    /// Asks for the next messages and takes them over as long as none is missing between them.
    async fn ask(&mut self) -> Result<Answer, ReadError> {
        let subject = format!("$JS.API.DIRECT.GET.{}", self.stream);
        let request = json!({
            "seq": self.last + 1,
            "batch": (self.to - self.last).min(AT_A_TIME),
            "max_bytes": BYTES_AT_A_TIME,
            "next_by_subj": self.of,
        });
        let failed = |source| ReadError::Api { stream: self.stream.clone(), source };
        let no_answer = || ApiError::NoAnswer { subject: subject.clone() };
        if time::timeout(2 * PATIENCE, self.bus.connected()).await.is_err() {
            return Err(failed(no_answer()));
        }
        let inbox = self.bus.client().new_inbox();
        let client = self.bus.client();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|_gone| failed(no_answer()))?;
        let refused = self.bus.connection().refused(&subject);
        let payload = Bytes::from(request.to_string().into_bytes());
        let sent = client.publish_with_reply(subject.clone(), inbox, payload).await;
        sent.map_err(|_gone| failed(no_answer()))?;
        tokio::select! {
            answer = self.take(&mut answers) => Ok(answer),
            () = refused => Err(ReadError::Api {
                stream: self.stream.clone(),
                source: ApiError::NotAllowed { subject },
            }),
        }
    }

    async fn take(&mut self, answers: &mut Subscription) -> Answer {
        let mut first = true;
        loop {
            let Ok(Some(message)) = time::timeout(PATIENCE, answers.next()).await else {
                return Answer::Broken;
            };
            match message.status {
                None | Some(StatusCode::OK) => {}
                Some(StatusCode::NOT_FOUND) => return Answer::Nothing,
                // 204: the end mark. Anything else (503: nobody there, 408: bad request) is no answer.
                Some(status) if status.as_u16() == 204 => {
                    let whole = header(message.headers.as_ref(), "Nats-Last-Sequence") == Some(self.last);
                    return if whole || first { Answer::Whole } else { Answer::Broken };
                }
                Some(_) => {
                    time::sleep(Duration::from_millis(200)).await;
                    return Answer::Broken;
                }
            }
            let Some((message, previous)) = stored(message) else { return Answer::Broken };
            // Each names the one before it; another name means that one was dropped on the way (slow consumer).
            if !first && previous.is_some_and(|previous| previous != self.last) {
                return Answer::Broken;
            }
            first = false;
            self.last = message.sequence;
            if message.sequence > self.to {
                return Answer::Whole;
            }
            self.ready.push_back(message);
        }
    }
}

fn header(headers: Option<&HeaderMap>, name: &str) -> Option<u64> {
    headers?.get_last(name)?.as_str().parse().ok()
}

/// A stored message and the sequence of the one sent before it in this answer.
pub(crate) fn stored(message: Message) -> Option<(StoredMessage, Option<u64>)> {
    let headers = message.headers.as_ref()?;
    let sequence = header(Some(headers), "Nats-Sequence")?;
    let subject = headers.get_last("Nats-Subject")?.as_str().to_owned();
    let previous = header(Some(headers), "Nats-Last-Sequence");
    let stored_at = headers.get_last("Nats-Time-Stamp")?.as_str().parse().ok()?;
    Some((StoredMessage { sequence, subject, stored_at, payload: message.payload }, previous))
}
