//! EVENTS, CARRIED and AUDIT on the broker, for the trim.

use std::collections::BTreeMap;

use sotto_bus::{Bus, CARRIED, Publisher, PublisherConfig, ReadError, StoredMessage, StreamReader, Subject};
use sotto_core::{ShardId, Shards, Timestamp, delivery::Event};
use sotto_proto::{
    Batch as _, LogEvent,
    pipeline::v1::{AuditBatch, EventBatch},
};
use sotto_tlog::{Frontier, Hash};

use crate::{
    domain::EventRange,
    ports::{EventsUnavailable, Held, Shelf, StoredEvents},
    service::ACTS,
};

/// Batches that are read at a time.
const AT_A_TIME: usize = 64;

/// Events that are carried in one batch.
const TOGETHER: usize = 1_000;

/// The three streams.
#[derive(Debug)]
pub struct BrokerShelf {
    events: StreamReader<EventBatch>,
    carried: StreamReader<EventBatch>,
    acts: StreamReader<AuditBatch>,
    publisher: Publisher<EventBatch>,
    shards: Shards,
    max_bytes: u64,
}

/// Not all that was stored is there.
#[derive(Debug, thiserror::Error)]
#[error("CARRIED holds {found} of the {stored} events that were stored in it")]
struct Incomplete {
    found: usize,
    stored: usize,
}

/// Anything that is wrong with the broker.
fn unavailable<E: std::error::Error + Send + Sync + 'static>(error: E) -> EventsUnavailable {
    EventsUnavailable(Box::new(error))
}

impl BrokerShelf {
    /// On this connection.
    ///
    /// # Errors
    /// When the list of streams does not have all of them.
    pub fn new(bus: &Bus) -> Result<Self, ReadError> {
        let events = bus.topology().streams.iter().find(|stream| stream.name == "EVENTS");
        Ok(Self {
            events: StreamReader::new(bus, "EVENTS")?,
            carried: StreamReader::new(bus, CARRIED)?,
            acts: StreamReader::new(bus, ACTS.0)?,
            publisher: Publisher::new(bus, PublisherConfig::default()),
            shards: bus.cell().shards,
            max_bytes: events.and_then(|stream| u64::try_from(stream.max_bytes).ok()).unwrap_or(u64::MAX),
        })
    }
}

async fn read(
    reader: &StreamReader<EventBatch>,
    from: u64,
    through: u64,
    most: usize,
) -> Result<Vec<StoredEvents>, EventsUnavailable> {
    // Nothing was ever stored, or nothing is left.
    if through < from.max(1) {
        return Ok(Vec::new());
    }
    // Both are known to be stored, so a broker that lags is asked again.
    let mut reading = reader.read_stored(from, through);
    let mut batches = Vec::new();
    while batches.len() < most {
        let Some(message) = reading.next_message().await.map_err(unavailable)? else { break };
        batches.push(stored(message));
    }
    Ok(batches)
}

fn stored(message: StoredMessage) -> StoredEvents {
    let StoredMessage { sequence, stored_at, payload, .. } = message;
    let leaf = Hash::leaf(&payload);
    let items = <EventBatch as prost::Message>::decode(payload).map(EventBatch::into_items);
    let readable = items.is_ok();
    let (mut events, mut whole) = (Vec::new(), readable);
    for item in items.unwrap_or_default() {
        match item {
            Ok(event) => events.push(event),
            Err(_) => whole = false,
        }
    }
    StoredEvents { sequence, stored_at, leaf, events, whole }
}

impl Shelf for BrokerShelf {
    async fn held(&self) -> Result<Held, EventsUnavailable> {
        let state = self.events.state().await.map_err(unavailable)?;
        Ok(Held { first: state.first, last: state.last, bytes: state.bytes, max_bytes: self.max_bytes })
    }

    async fn read(&self, from: u64, through: u64) -> Result<Vec<StoredEvents>, EventsUnavailable> {
        read(&self.events, from, through, AT_A_TIME).await
    }

    async fn carry(&self, after: u64, events: Vec<Event>) -> Result<Option<EventRange>, EventsUnavailable> {
        let held = self.carried.state().await.map_err(unavailable)?;
        for sequence in held.first.max(after + 1)..=held.last {
            self.carried.delete(sequence).await.map_err(unavailable)?;
        }
        let mut of_shards: BTreeMap<ShardId, Vec<LogEvent>> = BTreeMap::new();
        let count = events.len();
        for event in events {
            of_shards.entry(self.shards.of(&event.message)).or_default().push(LogEvent::Delivery(event));
        }
        if count == 0 {
            return Ok(None);
        }
        for (shard, mut events) in of_shards {
            while !events.is_empty() {
                let rest = events.split_off(events.len().min(TOGETHER));
                let subject = Subject::Carried(shard);
                self.publisher.publish_all(&subject, events).await.map_err(unavailable)?;
                events = rest;
            }
        }
        let (first, last) = (held.last + 1, self.carried.state().await.map_err(unavailable)?.last);
        let (mut tree, mut found) = (Frontier::new(), 0);
        for batch in self.carried(first, last).await? {
            tree.push(batch.leaf);
            found += batch.events.len();
        }
        if found != count {
            return Err(unavailable(Incomplete { found, stored: count }));
        }
        Ok(Some(EventRange { first, last, root: tree.root(), batches: tree.size() }))
    }

    async fn carried(&self, first: u64, last: u64) -> Result<Vec<StoredEvents>, EventsUnavailable> {
        read(&self.carried, first, last, usize::MAX).await
    }

    async fn trim(&self, before: u64) -> Result<(), EventsUnavailable> {
        self.events.purge_before(before).await.map_err(unavailable)
    }

    async fn forget_acts(&self, before: Timestamp) -> Result<(), EventsUnavailable> {
        let held = self.acts.state().await.map_err(unavailable)?;
        // What is acknowledged is durable in the log.
        let logged = self.acts.consumer(ACTS.1).await.map_err(unavailable)?.acknowledged;
        let (mut keep, mut end) = (held.first, logged + 1);
        while keep < end {
            let middle = keep + (end - keep) / 2;
            let stored = self.acts.read(middle, middle).next_message().await.map_err(unavailable)?;
            match stored.filter(|stored| stored.stored_at < before) {
                Some(old) => keep = old.sequence + 1,
                None => end = middle,
            }
        }
        if keep <= held.first {
            return Ok(());
        }
        self.acts.purge_before(keep).await.map_err(unavailable)
    }

    async fn forget(&self, before: Option<u64>) -> Result<(), EventsUnavailable> {
        let held = self.carried.state().await.map_err(unavailable)?;
        let before = before.unwrap_or(held.last + 1);
        if held.messages == 0 || held.first >= before {
            return Ok(());
        }
        self.carried.purge_before(before).await.map_err(unavailable)
    }
}
