//! Acts on their way to the audit log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sotto_bus::{Act, AuditCategory, AuditTrail, Delivery, Handler, Outcome, Service, StreamReader, Subject};
use sotto_core::Lane;
use sotto_proto::pipeline::v1::AuditBatch;
use sotto_testkit::eventually;
use tokio::sync::Semaphore;

use crate::cell::{BOUND, TestCell, Texts, accepted, publisher, quick, route};

fn act(category: AuditCategory) -> Act {
    Act {
        category,
        action: "test.acted",
        actor: "routing".to_owned(),
        tenant: None,
        object: String::new(),
        outcome: "ok",
    }
}

/// Subjects and numbers of the stored acts, in the order of the stream.
async fn stored(cell: &TestCell) -> Vec<(Option<Subject>, Vec<u64>)> {
    let operator = cell.bus(Service::Operator).await;
    let mut reading = StreamReader::<AuditBatch>::new(&operator, "AUDIT").unwrap().read(1, 1_000);
    let mut stored = Vec::new();
    while let Some(batch) = reading.next().await.unwrap() {
        stored.push((batch.subject, batch.batch.records.iter().map(|record| record.sequence).collect()));
    }
    stored
}

#[tokio::test]
async fn acts_are_stored_in_the_order_of_their_numbers_under_their_services_subject() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Routing).await;
    let trail = AuditTrail::start(&bus);
    for category in [AuditCategory::Keys, AuditCategory::Lifecycle, AuditCategory::Keys] {
        trail.tell(act(category));
    }
    assert!(bus.close(BOUND).await);
    let stored = stored(&cell).await;
    let subject = |category| Some(Subject::Audit(Service::Routing, category));
    assert!(
        stored.iter().all(|(at, _)| {
            *at == subject(AuditCategory::Keys) || *at == subject(AuditCategory::Lifecycle)
        })
    );
    let numbers: Vec<_> = stored.into_iter().flat_map(|(_, numbers)| numbers).collect();
    assert_eq!(numbers, [1, 2, 3]);
}

/// Tells an act when it is let go.
struct Telling {
    trail: AuditTrail,
    started: AtomicBool,
    go: Semaphore,
}

impl Handler<Texts> for Telling {
    async fn handle(&self, delivery: Delivery<Texts>) -> Vec<Outcome> {
        self.started.store(true, Ordering::SeqCst);
        self.go.acquire().await.unwrap().forget();
        self.trail.tell(act(AuditCategory::Payload));
        vec![Outcome::Done; delivery.items.len()]
    }
}

#[tokio::test]
async fn what_the_last_handlers_of_a_drain_tell_is_stored() {
    let cell = TestCell::start().await;
    publisher(&cell.bus(Service::Ingress).await).publish(&accepted(Lane::Otp), "a".to_owned()).await.unwrap();
    let bus = cell.bus(Service::Routing).await;
    let trail = AuditTrail::start(&bus);
    let telling = Arc::new(Telling { trail, started: AtomicBool::new(false), go: Semaphore::new(0) });
    let worker = route(&bus, &telling, quick()).await;
    eventually(BOUND, "the handler", || async { telling.started.load(Ordering::SeqCst) }).await;
    let let_go = async {
        eventually(BOUND, "the close", || async { worker.is_stopping() }).await;
        telling.go.add_permits(1);
    };
    let (closed, ()) = tokio::join!(bus.close(Duration::from_secs(20)), let_go);
    assert!(closed);
    assert_eq!(
        stored(&cell).await,
        [(Some(Subject::Audit(Service::Routing, AuditCategory::Payload)), vec![1])]
    );
}
