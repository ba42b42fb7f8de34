//! What could not be handled: recorded with its sealed item if there is one, and with no unsealed byte.

mod sealed;

use std::{any::TypeId, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use sotto_proto::{
    Batch,
    pipeline::v1::{QuarantineRecord, WorkBatch},
};

use tokio::time::Instant;

use crate::{
    Bus, PublishError, Subject, Topic,
    publish::{Outgoing, names},
    read::{ReadError, StreamReader},
    topology::stream_name,
};

/// How long one attempt to store a record may take, and all of them.
const ATTEMPT: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(10);

/// A quarantined thing and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Quarantined {
    /// Its sequence in QUARANTINE: its name for operators.
    pub sequence: u64,
    /// The record.
    pub record: QuarantineRecord,
}

/// Reads QUARANTINE. For [`crate::Service::Operator`].
#[derive(Debug)]
pub struct Quarantine(StreamReader<QuarantineRecord>);

impl Quarantine {
    /// On this bus.
    pub fn new(bus: &Bus) -> Result<Self, ReadError> {
        StreamReader::new(bus, "QUARANTINE").map(Self)
    }

    /// How many things are kept aside.
    pub async fn count(&self) -> Result<u64, ReadError> {
        Ok(self.0.state().await?.messages)
    }

    /// At most `most` records from sequence `from`, oldest first.
    pub async fn list(&self, from: u64, most: usize) -> Result<Vec<Quarantined>, ReadError> {
        let last = self.0.state().await?.last;
        let mut reading = self.0.read(from, last);
        let mut found = Vec::new();
        while found.len() < most
            && let Some(stored) = reading.next().await?
        {
            found.push(Quarantined { sequence: stored.sequence, record: stored.batch });
        }
        Ok(found)
    }

    /// One record; none if there is none with this sequence.
    pub async fn show(&self, sequence: u64) -> Result<Option<QuarantineRecord>, ReadError> {
        Ok(self.0.read(sequence, sequence).next().await?.map(|stored| stored.batch))
    }
}

impl Bus {
    /// Keeps a record of something that came from outside and leads to nothing: where it came from, what was wrong with it,
    /// its size and keyed digest. The same again within the broker's window for duplicates leaves one record.
    pub async fn keep_aside(&self, from: &str, why: String, bytes: &[u8]) -> Result<(), PublishError> {
        let digest = self.digest(bytes);
        let record = QuarantineRecord {
            subject: from.to_owned(),
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            digest: Bytes::copy_from_slice(&digest),
            error: why,
            deliveries: 1,
            at_ms: self.clock().now().unix_millis(),
            service: self.service().name().to_owned(),
            ..QuarantineRecord::default()
        };
        // It would have become an event.
        let subject = Subject::Quarantine(Topic::Event).in_cell(&self.cell().id);
        let mut outgoing = Outgoing::new(self, &subject, record.encode_to_vec().into(), 1, None);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let id = format!("quarantine-{}-{from}-{digest}", self.service().name());
        outgoing.headers.insert(names::MESSAGE_ID, id.as_str());
        self.store(&outgoing, ATTEMPT, Instant::now() + DEADLINE).await.map(drop)
    }
}

/// Where the thing came from.
pub(crate) struct Origin<'a> {
    pub(crate) subject: &'a str,
    pub(crate) payload: &'a Bytes,
    pub(crate) sequence: u64,
    pub(crate) deliveries: u64,
}

/// Why something is kept aside.
pub(crate) struct Cause {
    why: String,
    /// Which part of the message, as it is stored; tells records of one message apart.
    part: String,
    /// A `WorkBatch` of one sealed item, encoded.
    sealed: Option<Vec<u8>>,
}

impl Cause {
    /// The whole message: nothing of it is kept.
    pub(crate) fn whole(why: String) -> Self {
        Self { why, part: "all".to_owned(), sealed: None }
    }

    /// The item at this place of the message cannot be read. It is kept as it came if it is a work item: a newer peer's
    /// reader, or an operator with its key's wrap, may still make sense of it.
    pub(crate) fn unreadable<B: Batch>(why: String, index: usize, payload: &Bytes) -> Self {
        let sealed = is_work::<B>().then(|| sealed::item(payload, index)).flatten();
        Self { why, part: format!("{index}-unreadable"), sealed }
    }

    /// A handler gave the item at this place of the message up. It is kept if it is a work item: those are sealed.
    pub(crate) fn given_up<B: Batch>(why: String, index: usize, item: &B::Item) -> Self {
        let batch = B::from_items(std::slice::from_ref(item));
        let sealed = is_work::<B>().then(|| batch.encode_to_vec());
        Self { why, part: format!("{index}-given-up"), sealed }
    }

    pub(crate) fn why(&self) -> &str {
        &self.why
    }

    pub(crate) fn outgoing(self, bus: &Bus, topic: Topic, origin: &Origin<'_>) -> Outgoing {
        let stream = stream_of(bus, origin.subject);
        // Two services that read one stream each leave a record.
        let id = format!("quarantine-{}-{stream}-{}-{}", bus.service().name(), origin.sequence, self.part);
        let record = QuarantineRecord {
            subject: origin.subject.to_owned(),
            stream,
            sequence: origin.sequence,
            size: u64::try_from(origin.payload.len()).unwrap_or(u64::MAX),
            digest: Bytes::copy_from_slice(&bus.digest(origin.payload)),
            error: self.why,
            deliveries: origin.deliveries,
            at_ms: bus.clock().now().unix_millis(),
            service: bus.service().name().to_owned(),
            sealed: None,
        };
        let mut bytes = record.encode_to_vec();
        if let Some(sealed) = self.sealed {
            sealed::append(&mut bytes, &sealed);
        }
        let subject = Subject::Quarantine(topic).in_cell(&bus.cell().id);
        let mut outgoing = Outgoing::new(bus, &subject, bytes.into(), 1, None);
        // A batch that comes again because its acknowledgement got lost leaves one record.
        outgoing.headers.insert(names::MESSAGE_ID, id.as_str());
        outgoing
    }
}

fn is_work<B: Batch>() -> bool {
    TypeId::of::<B>() == TypeId::of::<WorkBatch>()
}

/// The stream that holds a subject.
fn stream_of(bus: &Bus, subject: &str) -> String {
    let topic = subject.split('.').nth(3).unwrap_or_default();
    let stream = bus
        .topology()
        .streams
        .iter()
        .find(|stream| stream.subjects.iter().any(|held| held.split('.').next() == Some(topic)));
    stream.map(|stream| stream_name(&bus.cell().id, &stream.name)).unwrap_or_default()
}
