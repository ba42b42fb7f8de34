//! Numbers acts and hands them to the broker, without ever holding up a key.
//!
//! Not `sotto_bus::AuditTrail`: that one needs a connected broker, and buckets must die (with the time of their death
//! in the log) and keys be served while the broker is still away.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
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
    /// The number of the last act that is stored.
    stored: watch::Receiver<u64>,
}

/// The end that the broker's publisher reads.
#[derive(Debug)]
pub struct Queued {
    records: mpsc::Receiver<AuditRecord>,
    stored: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    lost: u64,
}

impl AuditQueue {
    /// A queue for this run of the process, and its other end.
    pub fn new(instance: &str) -> (Self, Queued) {
        let (queue, records) = mpsc::channel(WAITING);
        let (tell_stored, stored) = watch::channel(0);
        let producer = format!("privacy/{instance}");
        (Self { producer, numbers: Mutex::default(), queue, stored }, Queued { records, stored: tell_stored })
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

    fn stored(&self) -> BoxFuture<'_, ()> {
        let last = self.numbers.lock().unwrap_or_else(PoisonError::into_inner).last;
        let mut stored = self.stored.clone();
        Box::pin(async move {
            if stored.wait_for(|stored| *stored >= last).await.is_err() {
                // The publisher ended, and the process with it: nothing more will be stored.
                std::future::pending::<()>().await;
            }
        })
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
    queued: Queued,
    reached: watch::Sender<Option<Bus>>,
    stop: Stop,
) -> Result<(), PrivacyError> {
    let Queued { mut records, stored } = queued;
    let publishing = async {
        let bus = connect(&broker).await?;
        broker.metrics.take_in(bus.metrics());
        reached.send_replace(Some(bus.clone()));
        let publisher = Publisher::<AuditBatch>::new(&bus, PublisherConfig::default());
        let mut batch = Vec::new();
        while records.recv_many(&mut batch, AT_A_TIME).await > 0 {
            let last = batch.last().map_or(0, |record| record.sequence);
            store(&publisher, std::mem::take(&mut batch)).await;
            stored.send_replace(last);
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
    use futures::FutureExt as _;
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
        let (queue, Queued { mut records, .. }) = AuditQueue::new("run-1");
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

    #[test]
    fn who_waits_until_an_act_is_stored_waits_for_that_act_and_for_none_after_it() {
        let (queue, Queued { stored, .. }) = AuditQueue::new("run-1");
        assert!(queue.stored().now_or_never().is_some(), "nothing was told");
        queue.tell(entry(1));
        queue.tell(entry(2));
        let second = queue.stored();
        queue.tell(entry(3));
        stored.send_replace(1);
        let mut second = Box::pin(second);
        assert!((&mut second).now_or_never().is_none());
        stored.send_replace(2);
        assert!(second.now_or_never().is_some());
        assert!(queue.stored().now_or_never().is_none(), "the third");
        drop(stored);
        assert!(queue.stored().now_or_never().is_none(), "it never will be");
    }
}
