//! Numbers acts and hands them to the broker, without ever holding up a key.
//!
//! Not `sotto_bus::AuditTrail`: that one needs a connected broker, and buckets must die (with the time of their death
//! in the log) and keys be served while the broker is still away.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sotto_bus::{
    AuditCategory, Bus, BusOptions, ConnectError, NatsConfig, Publisher, PublisherConfig, Service, Subject,
    Topology, topology::Cell,
};
use sotto_core::{Classified, Clock, ErrorClass};
use sotto_crypto::MacKey;
use sotto_metrics::Metrics;
use sotto_proto::pipeline::v1::{AuditBatch, AuditRecord};
use sotto_runtime::{Stop, config::CellConfig, telemetry::chain};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use crate::{
    error::PrivacyError,
    ports::{AuditEntry, AuditTrail},
};

/// Acts that wait for the broker. An hour of a broker's absence fits: a few a minute, 64 refusals at most.
const WAITING: usize = 8192;

/// The category of every act of this service.
const CATEGORY: AuditCategory = AuditCategory::Keys;

/// Acts that one publish carries.
const AT_A_TIME: usize = 256;

/// Pause before the broker is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the last acts may take after a stop is asked for. Shorter than any grace.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The end of the queue that takes acts.
#[derive(Debug)]
pub struct AuditQueue {
    producer: String,
    numbers: Mutex<Numbers>,
    queue: mpsc::Sender<AuditRecord>,
}

#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    lost: u64,
}

impl AuditQueue {
    /// A queue for this run of the process, and the end that the broker's publisher reads.
    pub fn new(instance: &str) -> (Self, mpsc::Receiver<AuditRecord>) {
        let (queue, records) = mpsc::channel(WAITING);
        let producer = format!("privacy/{instance}");
        (Self { producer, numbers: Mutex::default(), queue }, records)
    }
}

impl AuditTrail for AuditQueue {
    fn tell(&self, entry: AuditEntry) {
        // Numbered and queued under one lock, so that the queue is in the order of the numbers.
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.last += 1;
        let record = AuditRecord {
            producer: self.producer.clone(),
            sequence: numbers.last,
            at_s: entry.at.unix_seconds(),
            category: CATEGORY.name().to_owned(),
            action: entry.action.to_owned(),
            actor: entry.actor.to_owned(),
            tenant: entry.tenant.map(String::from).unwrap_or_default(),
            object: entry.object,
            outcome: entry.outcome.to_owned(),
        };
        if self.queue.try_send(record).is_ok() {
            if numbers.lost > 0 {
                tracing::warn!(
                    lost = numbers.lost,
                    "audit records are queued again; the lost ones show as a gap"
                );
                numbers.lost = 0;
            }
            return;
        }
        numbers.lost += 1;
        if numbers.lost == 1 {
            tracing::error!(first = numbers.last, "audit records are being lost: the broker takes none");
        }
    }
}

/// How the broker is reached.
#[derive(Debug)]
pub struct Broker {
    /// Address and credentials.
    pub nats: NatsConfig,
    /// The cell.
    pub cell: CellConfig,
    /// This run of the process.
    pub instance: String,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where the connection's measures are served.
    pub metrics: Metrics,
}

/// Publishes acts until their queue is closed and empty. An absent broker is waited for; keys are served meanwhile. When it is
/// reached, `reached` tells it to who reads the index.
///
/// # Errors
/// When the broker can never be used as configured.
pub async fn publish(
    broker: Broker,
    mut records: mpsc::Receiver<AuditRecord>,
    reached: watch::Sender<Option<Bus>>,
    stop: Stop,
) -> Result<(), PrivacyError> {
    let publishing = async {
        let bus = connect(&broker).await?;
        broker.metrics.take_in(bus.metrics());
        reached.send_replace(Some(bus.clone()));
        let publisher = Publisher::<AuditBatch>::new(&bus, PublisherConfig::default());
        let mut batch = Vec::new();
        while records.recv_many(&mut batch, AT_A_TIME).await > 0 {
            store(&publisher, std::mem::take(&mut batch)).await;
        }
        // Everything is stored already; this only says good-bye to the broker.
        bus.close(LAST_WORDS).await;
        Ok(())
    };
    tokio::select! {
        ended = publishing => ended,
        () = last_words(&stop) => {
            let waiting = records.len();
            tracing::error!(waiting, "the broker is away at the end: acts that still waited are not in the log");
            Ok(())
        }
    }
}

async fn last_words(stop: &Stop) {
    stop.requested().await;
    sleep(LAST_WORDS).await;
}

async fn connect(broker: &Broker) -> Result<Bus, PrivacyError> {
    let key = MacKey::generate().map_err(PrivacyError::Random)?;
    let options = BusOptions {
        service: Service::Privacy,
        instance: broker.instance.clone(),
        cell: Cell { id: broker.cell.id.clone(), shards: broker.cell.shards, replicas: broker.cell.replicas },
        topology: Topology::embedded().map_err(PrivacyError::Topology)?,
        clock: Arc::clone(&broker.clock),
        // This service consumes nothing and so quarantines nothing.
        digest: Arc::new(move |bytes| key.mac("sotto.quarantine.v1", &[bytes])),
    };
    let mut told = false;
    loop {
        match Bus::connect(&broker.nats, options.clone()).await {
            Ok(bus) => return Ok(bus),
            Err(error @ ConnectError::Unreachable { .. }) => {
                if !told {
                    tracing::warn!(error = chain(&error), "the broker is away: audit records wait for it");
                    told = true;
                }
                sleep(PAUSE).await;
            }
            Err(error) => return Err(PrivacyError::Connect(error)),
        }
    }
}

/// Until it is stored. A batch in doubt is sent again: the log knows a record by its producer and number.
async fn store(publisher: &Publisher<AuditBatch>, batch: Vec<AuditRecord>) {
    let mut told = false;
    while let Err(error) =
        publisher.publish_all(&Subject::Audit(Service::Privacy, CATEGORY), batch.clone()).await
    {
        if !told {
            tracing::error!(
                error = chain(&error),
                records = batch.len(),
                "audit records cannot be published yet"
            );
            told = true;
        }
        sleep(match error.class() {
            ErrorClass::Retry { after } => after,
            ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => PAUSE,
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use sotto_core::Timestamp;

    use super::*;

    fn entry(object: usize) -> AuditEntry {
        AuditEntry {
            at: Timestamp::from_unix_millis(1_999),
            action: "bucket.destroyed",
            actor: "privacy",
            tenant: None,
            object: object.to_string(),
            outcome: "ok",
        }
    }

    #[test]
    fn records_are_numbered_from_one_and_what_is_lost_leaves_a_gap() {
        let (queue, mut records) = AuditQueue::new("run-1");
        for number in 0..WAITING + 3 {
            queue.tell(entry(number));
        }
        let mut read = Vec::new();
        while let Ok(record) = records.try_recv() {
            read.push(record.sequence);
        }
        assert_eq!(read, (1..=8192).collect::<Vec<u64>>());
        queue.tell(entry(0));
        let next = records.try_recv().unwrap();
        assert_eq!(next.sequence, 8192 + 4, "three are missing");
        assert_eq!((next.producer.as_str(), next.category.as_str(), next.at_s), ("privacy/run-1", "keys", 1));
    }
}
