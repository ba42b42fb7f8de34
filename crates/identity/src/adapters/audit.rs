//! Numbers acts and hands them to the broker, without ever holding up a token.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sotto_bus::{
    AuditCategory, Bus, BusOptions, NatsConfig, PublishError, Publisher, PublisherConfig, Subject,
};
use sotto_core::{Classified as _, ErrorClass, Timestamp};
use sotto_proto::pipeline::v1::{AuditBatch, AuditRecord};
use sotto_runtime::{Condition, Context, Stop, telemetry::chain};
use tokio::sync::mpsc;

use crate::{
    error::IdentityError,
    ports::{Act, AuditTrail, Category},
};

/// Acts that wait for the broker: minutes of its absence at a high load.
const WAITING: usize = 8192;

/// Acts in one batch.
const BATCH: usize = 256;

/// Between tries while the broker is away.
const PAUSE: Duration = Duration::from_secs(1);

/// At the end, how long the broker may take to store what is on its way.
const CLOSE: Duration = Duration::from_secs(2);

impl Category {
    const fn on_the_bus(self) -> AuditCategory {
        match self {
            Self::Authentication => AuditCategory::Authentication,
            Self::Keys => AuditCategory::Keys,
            Self::Configuration => AuditCategory::Configuration,
        }
    }
}

/// A numbered act on its way.
#[derive(Debug)]
pub struct Numbered(Category, AuditRecord);

impl Numbered {
    /// The record.
    pub fn record(&self) -> &AuditRecord {
        &self.1
    }
}

/// The end of the queue that takes acts.
#[derive(Debug)]
pub struct AuditQueue {
    producer: String,
    numbers: Mutex<Numbers>,
    queue: mpsc::Sender<Numbered>,
}

#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    lost: u64,
}

impl AuditQueue {
    /// A queue for this run of the process, and the end that [`publish`] reads.
    pub fn new(instance: &str) -> (Self, mpsc::Receiver<Numbered>) {
        let (queue, records) = mpsc::channel(WAITING);
        let producer = format!("identity/{instance}");
        (Self { producer, numbers: Mutex::default(), queue }, records)
    }
}

impl AuditTrail for AuditQueue {
    fn tell(&self, act: Act, now: Timestamp) {
        // Numbered and queued under one lock, so that the queue is in the order of the numbers.
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.last += 1;
        let record = AuditRecord {
            producer: self.producer.clone(),
            sequence: numbers.last,
            at_s: now.unix_seconds(),
            category: act.category.on_the_bus().name().to_owned(),
            action: act.action.to_owned(),
            actor: act.actor.map_or_else(|| "identity".to_owned(), |client| client.to_string()),
            tenant: act.tenant.map(String::from).unwrap_or_default(),
            object: act.object,
            outcome: act.outcome.to_owned(),
        };
        if self.queue.try_send(Numbered(act.category, record)).is_ok() {
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

/// Publishes acts until the queue's other end is gone and everything in it is stored. The broker may be away at the
/// start and later: acts wait meanwhile.
///
/// # Errors
/// When the broker's settings are wrong: no waiting mends that.
pub async fn publish(
    config: NatsConfig,
    options: BusOptions,
    mut queue: mpsc::Receiver<Numbered>,
    connected: Condition,
    context: Context,
) -> Result<(), IdentityError> {
    let Context { stop, metrics, .. } = context;
    let Some(bus) = connect(&config, &options, &stop).await? else {
        tracing::error!(lost = queue.len(), "the broker was never reached: audit records are lost");
        return Ok(());
    };
    connected.set(true);
    metrics.take_in(bus.metrics());
    let publisher = Publisher::<AuditBatch>::new(&bus, PublisherConfig::default());
    let mut taken = Vec::with_capacity(BATCH);
    'taking: while queue.recv_many(&mut taken, BATCH).await > 0 {
        // One publish for each run of one category, in the order of the numbers: the log sees no gap.
        let mut left = taken.len();
        for run in taken.chunk_by(|one, next| one.0 == next.0) {
            let Some(Numbered(category, _)) = run.first() else { continue };
            let records = run.iter().map(|act| act.1.clone()).collect();
            let lost = left;
            left -= run.len();
            tokio::select! {
                () = store(&publisher, *category, records) => {}
                () = too_late(&stop) => {
                    tracing::error!(lost = lost + queue.len(), "the broker is away at the end: audit records are lost");
                    break 'taking;
                }
            }
        }
        taken.clear();
    }
    publisher.close(CLOSE).await;
    bus.close(CLOSE).await;
    Ok(())
}

/// Completes some time after a stop was asked for: an absent broker does not hold up the end.
async fn too_late(stop: &Stop) {
    stop.requested().await;
    tokio::time::sleep(CLOSE).await;
}

/// `None` when a stop was asked for before the broker was reached.
async fn connect(
    config: &NatsConfig,
    options: &BusOptions,
    stop: &Stop,
) -> Result<Option<Bus>, IdentityError> {
    let mut told = false;
    loop {
        match Bus::connect(config, options.clone()).await {
            Ok(bus) => return Ok(Some(bus)),
            Err(error) if matches!(error.class(), ErrorClass::Retry { .. }) => {
                if !told {
                    tracing::warn!(error = chain(&error), "the broker is away: audit records wait");
                    told = true;
                }
            }
            Err(error) => return Err(IdentityError::Broker(error)),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.requested() => return Ok(None),
        }
    }
}

/// Tries until it is stored, or certainly cannot be.
async fn store(publisher: &Publisher<AuditBatch>, category: Category, records: Vec<AuditRecord>) {
    let subject = Subject::Audit(sotto_bus::Service::Identity, category.on_the_bus());
    let mut told = false;
    loop {
        match publisher.publish_all(&subject, records.clone()).await {
            Ok(_) => return,
            // A record that is stored twice counts once: it has a number.
            Err(error)
                if matches!(error.class(), ErrorClass::Retry { .. }) && error != PublishError::Closed =>
            {
                if !told {
                    tracing::warn!(error = chain(&error), "audit records wait");
                    told = true;
                }
            }
            Err(error) => {
                tracing::error!(error = chain(&error), lost = records.len(), "audit records are lost");
                return;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(object: usize) -> Act {
        let (action, object) = ("token.issued", object.to_string());
        Act { category: Category::Authentication, action, actor: None, tenant: None, object, outcome: "ok" }
    }

    #[test]
    fn records_are_numbered_from_one_and_what_is_lost_leaves_a_gap() {
        let (queue, mut records) = AuditQueue::new("run-1");
        let now = Timestamp::from_unix_millis(1_999);
        for number in 0..WAITING + 3 {
            queue.tell(act(number), now);
        }
        let mut read = Vec::new();
        while let Ok(Numbered(_, record)) = records.try_recv() {
            read.push(record.sequence);
        }
        assert_eq!(read, (1..=8192).collect::<Vec<u64>>());
        queue.tell(act(0), now);
        let Numbered(category, next) = records.try_recv().unwrap();
        assert_eq!(next.sequence, 8192 + 4, "three are missing");
        assert_eq!(
            (category, next.category.as_str(), next.at_s),
            (Category::Authentication, "authentication", 1)
        );
        assert_eq!((next.producer.as_str(), next.actor.as_str()), ("identity/run-1", "identity"));
    }
}
