//! What a service tells the audit log: numbered without gaps, in order, and not waited for but where somebody asks to.

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
use tokio::{
    sync::{mpsc, oneshot},
    time,
};
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
/// Telling never waits, but by [`AuditTrail::tell_stored`]. When the broker is away for so long that the queue is full, acts are dropped and their numbers
/// with them: the log shows the hole, and an error is logged here. Closing the bus stores what was told, also by handlers
/// that end during the close.
#[derive(Clone)]
pub struct AuditTrail(Arc<Inner>);

struct Inner {
    producer: String,
    bus: Bus,
    numbers: Mutex<u64>,
    queue: mpsc::Sender<Queued>,
    losing: AtomicBool,
}

/// A record on its way to the broker.
struct Queued {
    record: AuditRecord,
    /// Answered when it is stored; dropped when it is lost.
    stored: Option<oneshot::Sender<()>>,
}

/// The act was not stored: too many wait for the broker, or the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the act could not be told to audit")]
pub struct Untold;

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
        self.queue(act, None);
    }

    /// Tells an act and waits until the broker has stored it, however long the broker is away.
    ///
    /// # Errors
    /// [`Untold`].
    pub async fn tell_stored(&self, act: Act) -> Result<(), Untold> {
        let (stored, answer) = oneshot::channel();
        self.queue(act, Some(stored));
        answer.await.map_err(|_| Untold)
    }

    fn queue(&self, act: Act, stored: Option<oneshot::Sender<()>>) {
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
        let queued = self.0.queue.try_send(Queued { record, stored }).is_ok();
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
    mut records: mpsc::Receiver<Queued>,
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
        let (records, waiting): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|queued| (queued.record, queued.stored)).unzip();
        let mut waiting = waiting.into_iter();
        // In the order of the numbers, so that the log sees no gap: one publish for each run of one category.
        for run in records.chunk_by(|one, next| one.category == next.category) {
            let category = AuditCategory::ALL
                .into_iter()
                .find(|category| run.first().is_some_and(|record| record.category == category.name()));
            let stored = match category {
                Some(category) => store(&publisher, &Subject::Audit(service, category), run.to_vec()).await,
                None => Stored::Lost,
            };
            if stored == Stored::Closed {
                return;
            }
            for answer in waiting.by_ref().take(run.len()).flatten().filter(|_| stored == Stored::Yes) {
                // Whoever waited may have given up.
                let _gone = answer.send(());
            }
        }
    }
}

/// What became of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Yes,
    /// They show as a gap.
    Lost,
    /// The bus is closed.
    Closed,
}

/// Stores the records, however long the broker is away. A repeat of what is in doubt does no harm: the log knows each
/// record by its producer and number.
async fn store(publisher: &Publisher<AuditBatch>, subject: &Subject, records: Vec<AuditRecord>) -> Stored {
    loop {
        let Err(error) = publisher.publish_all(subject, records.clone()).await else { return Stored::Yes };
        match error.class() {
            ErrorClass::Retry { .. } if matches!(error, PublishError::Closed) => return Stored::Closed,
            ErrorClass::Retry { .. } => {
                tracing::warn!(%error, "audit records wait for the broker");
                time::sleep(PAUSE).await;
            }
            ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
                tracing::error!(%error, records = records.len(), "audit records are lost: they show as a gap");
                return Stored::Lost;
            }
        }
    }
}
