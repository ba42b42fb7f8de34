//! Numbers acts and hands them to the broker, without ever holding up a message (AUD-1).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sotto_bus::{AuditCategory, Publisher, Subject};
use sotto_core::{Clock, TenantId};
use sotto_proto::pipeline::v1::{AuditBatch, AuditRecord};
use tokio::sync::mpsc;

pub use sotto_bus::AuditCategory as Category;

/// Acts that wait for the broker: hours of its absence, as denials are summed up.
const WAITING: usize = 8192;

/// Denials are told as sums over this time.
const SUM_OVER: Duration = Duration::from_secs(10);

/// The end of the queue that takes acts. Clones share it.
#[derive(Clone, Debug)]
pub struct AuditTrail(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    producer: String,
    clock: Arc<dyn Clock>,
    numbers: Mutex<Numbers>,
    queue: mpsc::Sender<AuditRecord>,
    denied: Mutex<BTreeMap<&'static str, u64>>,
}

#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    lost: u64,
}

impl AuditTrail {
    /// A trail for this run of the process, and the end that [`publish`] reads.
    pub fn new(instance: &str, clock: Arc<dyn Clock>) -> (Self, mpsc::Receiver<AuditRecord>) {
        let (queue, records) = mpsc::channel(WAITING);
        let inner = Inner {
            producer: format!("ingress/{instance}"),
            clock,
            numbers: Mutex::default(),
            queue,
            denied: Mutex::default(),
        };
        (Self(Arc::new(inner)), records)
    }

    /// Tells an act. Returns at once; what the queue does not hold leaves a gap in the numbers.
    pub fn tell(
        &self,
        category: Category,
        action: &str,
        actor: &str,
        tenant: Option<&TenantId>,
        object: String,
        outcome: &str,
    ) {
        // Numbered and queued under one lock, so that the queue is in the order of the numbers.
        let mut numbers = self.0.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.last += 1;
        let record = AuditRecord {
            producer: self.0.producer.clone(),
            sequence: numbers.last,
            at_s: self.0.clock.now().unix_seconds(),
            category: category.name().to_owned(),
            action: action.to_owned(),
            actor: if actor.is_empty() { "ingress" } else { actor }.to_owned(),
            tenant: tenant.map(ToString::to_string).unwrap_or_default(),
            object,
            outcome: outcome.to_owned(),
        };
        if self.0.queue.try_send(record).is_ok() {
            numbers.lost = 0;
            return;
        }
        numbers.lost += 1;
        if numbers.lost == 1 {
            tracing::error!(first = numbers.last, "audit records are being lost: the broker takes none");
        }
    }

    /// Counts a denied call; a flood of them makes one record in ten seconds for each reason.
    pub fn denied(&self, reason: &'static str) {
        let mut denied = self.0.denied.lock().unwrap_or_else(PoisonError::into_inner);
        *denied.entry(reason).or_insert(0) += 1;
    }

    fn tell_denied(&self) {
        let denied = std::mem::take(&mut *self.0.denied.lock().unwrap_or_else(PoisonError::into_inner));
        for (reason, times) in denied {
            self.tell(Category::Authentication, "token.denied", "", None, format!("{times} calls"), reason);
        }
    }
}

/// Publishes acts until every trail is gone or `stop` completes, and then what is still queued.
pub async fn publish(
    trail: AuditTrail,
    mut records: mpsc::Receiver<AuditRecord>,
    publisher: Publisher<AuditBatch>,
    stop: impl Future<Output = ()>,
) {
    let mut sums = tokio::time::interval(SUM_OVER);
    tokio::pin!(stop);
    loop {
        let record = tokio::select! {
            record = records.recv() => record,
            _ = sums.tick() => {
                trail.tell_denied();
                continue;
            }
            () = &mut stop => break,
        };
        let Some(record) = record else { return };
        store(&publisher, record).await;
    }
    trail.tell_denied();
    records.close();
    while let Some(record) = records.recv().await {
        store(&publisher, record).await;
    }
}

async fn store(publisher: &Publisher<AuditBatch>, record: AuditRecord) {
    let category = Category::ALL.into_iter().find(|category| category.name() == record.category);
    let subject = Subject::Audit(sotto_bus::Service::Ingress, category.unwrap_or(AuditCategory::Lifecycle));
    if let Err(error) = publisher.publish(&subject, record).await {
        // Its number shows as a gap in the audit log.
        tracing::warn!(%error, "an audit record was not stored");
    }
}

#[cfg(test)]
mod tests {
    use sotto_core::{ManualClock, Timestamp};

    use super::*;

    #[test]
    fn acts_are_numbered_and_denials_are_summed_up() {
        let clock = Arc::new(ManualClock::new(Timestamp::from_unix_seconds(7)));
        let (trail, mut records) = AuditTrail::new("run", clock);
        for _ in 0..1000 {
            trail.denied("expired");
        }
        trail.denied("signature");
        trail.tell_denied();
        trail.tell_denied();
        let told: Vec<_> = std::iter::from_fn(|| records.try_recv().ok()).collect();
        let told: Vec<_> =
            told.iter().map(|it| (it.sequence, it.outcome.as_str(), it.object.as_str())).collect();
        assert_eq!(told, [(1, "expired", "1000 calls"), (2, "signature", "1 calls")]);
    }

    #[test]
    fn what_is_lost_leaves_a_gap() {
        let (trail, mut records) = AuditTrail::new("run", Arc::new(ManualClock::default()));
        let tell = || trail.tell(Category::Lifecycle, "x", "", None, String::new(), "ok");
        for _ in 0..WAITING + 2 {
            tell();
        }
        while records.try_recv().is_ok() {}
        tell();
        assert_eq!(records.try_recv().unwrap().sequence, WAITING as u64 + 3);
    }
}
