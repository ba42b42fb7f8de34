//! What a service tells the audit log: numbered without gaps, in order, and never waited for.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sotto_core::{Classified as _, ErrorClass, TenantId};
use sotto_proto::pipeline::v1::{AuditBatch, AuditRecord};
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

use crate::{AuditCategory, Bus, PublishError, Publisher, PublisherConfig, Service, Subject};

/// Acts that wait for the broker: an hour of its absence at two a second.
const WAITING: usize = 8_192;

/// Acts that one publish carries.
const AT_A_TIME: usize = 256;

/// Pause before the broker is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// One security-relevant act. Nothing personal: client ids, key ids, accounts, stable words.
#[derive(Clone, Debug)]
pub struct Act {
    /// Which kind.
    pub category: AuditCategory,
    /// What was done, for example `token.issued`.
    pub action: &'static str,
    /// Who did it: a client id or a service.
    pub actor: String,
    /// The tenant concerned; none for the cell itself.
    pub tenant: Option<TenantId>,
    /// What it was done to.
    pub object: String,
    /// `ok` or a stable error name.
    pub outcome: &'static str,
}

/// Tells acts to the audit log. Cheap to clone; clones share one numbering.
///
/// Telling never waits. When the broker is away for so long that the queue is full, acts are dropped and their numbers
/// with them: the log shows the hole, and an error is logged here. Closing the bus stores what was told, also by handlers
/// that end during the close.
#[derive(Clone)]
pub struct AuditTrail(Arc<Inner>);

struct Inner {
    producer: String,
    bus: Bus,
    numbers: Mutex<u64>,
    queue: mpsc::Sender<AuditRecord>,
    losing: AtomicBool,
}

impl fmt::Debug for AuditTrail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditTrail").field("producer", &self.0.producer).finish_non_exhaustive()
    }
}

impl AuditTrail {
    /// A trail of this process: its producer is `<service>/<instance>`, its count starts at 1.
    pub fn start(bus: &Bus) -> Self {
        let (queue, records) = mpsc::channel(WAITING);
        let publisher = Publisher::new(bus, PublisherConfig::default());
        // When the bus closes, handlers end first: what the last of them told is still stored before publishers end.
        let telling = publish(bus.service(), publisher, records, bus.telling().stop.clone());
        bus.telling().tasks.spawn(telling);
        Self(Arc::new(Inner {
            producer: format!("{}/{}", bus.service(), bus.instance()),
            bus: bus.clone(),
            numbers: Mutex::new(0),
            queue,
            losing: AtomicBool::new(false),
        }))
    }

    /// Tells an act.
    pub fn tell(&self, act: Act) {
        // Numbered and queued under one lock, so that the queue is in the order of the numbers.
        let mut last = self.0.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        let record = AuditRecord {
            producer: self.0.producer.clone(),
            sequence: *last,
            at_s: self.0.bus.clock().now().unix_seconds(),
            category: act.category.name().to_owned(),
            action: act.action.to_owned(),
            actor: act.actor,
            tenant: act.tenant.map(String::from).unwrap_or_default(),
            object: act.object,
            outcome: act.outcome.to_owned(),
        };
        let queued = self.0.queue.try_send(record).is_ok();
        let was_losing = self.0.losing.swap(!queued, Ordering::Relaxed);
        if !queued && !was_losing {
            tracing::error!(first = *last, "audit records are being lost: the broker takes none");
        } else if queued && was_losing {
            tracing::warn!(from = *last, "audit records are queued again; the lost ones show as a gap");
        }
    }
}

async fn publish(
    service: Service,
    publisher: Publisher<AuditBatch>,
    mut records: mpsc::Receiver<AuditRecord>,
    stop: CancellationToken,
) {
    let mut batch = Vec::new();
    loop {
        let told = tokio::select! {
            biased;
            told = records.recv_many(&mut batch, AT_A_TIME) => told,
            // Nothing more is taken; what waits is still stored.
            () = stop.cancelled(), if !records.is_closed() => {
                records.close();
                continue;
            }
        };
        if told == 0 {
            return;
        }
        // In the order of the numbers, so that the log sees no gap: one publish for each run of one category.
        for run in batch.chunk_by(|one, next| one.category == next.category) {
            let category = AuditCategory::ALL
                .into_iter()
                .find(|category| run.first().is_some_and(|record| record.category == category.name()));
            if let Some(category) = category
                && !store(&publisher, &Subject::Audit(service, category), run.to_vec()).await
            {
                return;
            }
        }
        batch.clear();
    }
}

/// Stores the records, however long the broker is away. A repeat of what is in doubt does no harm: the log knows each
/// record by its producer and number. Returns false when the bus is closed.
async fn store(publisher: &Publisher<AuditBatch>, subject: &Subject, records: Vec<AuditRecord>) -> bool {
    loop {
        let Err(error) = publisher.publish_all(subject, records.clone()).await else { return true };
        match error.class() {
            ErrorClass::Retry { .. } if matches!(error, PublishError::Closed) => return false,
            ErrorClass::Retry { .. } => {
                tracing::warn!(%error, "audit records wait for the broker");
                time::sleep(PAUSE).await;
            }
            ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
                tracing::error!(%error, records = records.len(), "audit records are lost: they show as a gap");
                return true;
            }
        }
    }
}
