//! Lanes reorder under load.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use sotto_bus::{Delivery, Handler, Outcome, Service, WorkerConfig};
use sotto_core::Lane;
use sotto_testkit::eventually;
use tokio::sync::Semaphore;

use crate::cell::{BOUND, TestCell, Texts, accepted, publisher, quick, route};

/// One permit lets one batch through, whether the worker asks for room or handles it.
struct Narrow {
    order: Mutex<Vec<String>>,
    go: Semaphore,
    asked: AtomicUsize,
}

impl Handler<Texts> for Narrow {
    async fn handle(&self, delivery: Delivery<Texts>) -> Vec<Outcome> {
        self.order.lock().unwrap().extend(delivery.items.iter().cloned());
        self.go.acquire().await.unwrap().forget();
        vec![Outcome::Done; delivery.items.len()]
    }

    async fn ready(&self) -> usize {
        self.asked.fetch_add(1, Ordering::SeqCst);
        1
    }
}

#[tokio::test]
async fn urgent_messages_overtake_those_that_wait() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    publisher.publish(&accepted(Lane::Promotional), "first".to_owned()).await.unwrap();
    let bus = cell.bus(Service::Routing).await;
    let narrow =
        Arc::new(Narrow { order: Mutex::default(), go: Semaphore::new(0), asked: AtomicUsize::new(0) });
    let worker = route(&bus, &narrow, WorkerConfig { concurrency: 1, ..quick() }).await;
    eventually(BOUND, "the first to start", || async { narrow.order.lock().unwrap().len() == 1 }).await;
    // All of these are published while the one slot is taken, least urgent first.
    for lane in [Lane::Promotional, Lane::Transactional, Lane::Otp] {
        for n in 0..5 {
            publisher.publish(&accepted(lane), format!("{lane}-{n}")).await.unwrap();
        }
    }
    narrow.go.add_permits(100);
    eventually(BOUND, "all to be handled", || async { narrow.order.lock().unwrap().len() == 16 }).await;
    let order = narrow.order.lock().unwrap().clone();
    let expected: Vec<_> = std::iter::once("first".to_owned())
        .chain(Lane::ALL.iter().flat_map(|lane| (0..5).map(move |n| format!("{lane}-{n}"))))
        .collect();
    assert_eq!(order, expected);
    assert!(narrow.asked.load(Ordering::SeqCst) >= 16, "room is asked for before each pull");
    assert!(worker.stop(BOUND).await);
}

/// Otherwise busy for ever with advertising; answers for the rest at once.
struct Saturated {
    promotional: AtomicUsize,
    otp: AtomicUsize,
    go: Semaphore,
}

impl Handler<Texts> for Saturated {
    async fn handle(&self, delivery: Delivery<Texts>) -> Vec<Outcome> {
        if delivery.subject == accepted(Lane::Otp) {
            self.otp.fetch_add(1, Ordering::SeqCst);
        } else {
            self.promotional.fetch_add(1, Ordering::SeqCst);
            self.go.acquire().await.unwrap().forget();
        }
        vec![Outcome::Done; delivery.items.len()]
    }
}

#[tokio::test]
async fn a_lane_that_may_not_deliver_holds_up_no_other() {
    let cell = TestCell::changed(&[("max_ack_pending = 1024", "max_ack_pending = 2")]).await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    for n in 0..10 {
        publisher.publish(&accepted(Lane::Promotional), format!("p{n}")).await.unwrap();
    }
    let busy = Arc::new(Saturated {
        promotional: AtomicUsize::new(0),
        otp: AtomicUsize::new(0),
        go: Semaphore::new(0),
    });
    // More slots than the broker lets out: the pull for the third message is not answered.
    let worker =
        route(&cell.bus(Service::Routing).await, &busy, WorkerConfig { concurrency: 8, ..quick() }).await;
    eventually(BOUND, "two to start", || async { busy.promotional.load(Ordering::SeqCst) == 2 }).await;
    let mut longest = std::time::Duration::ZERO;
    for n in 1..=40 {
        let sent = tokio::time::Instant::now();
        publisher.publish(&accepted(Lane::Otp), "code".to_owned()).await.unwrap();
        eventually(BOUND, "the code", || async { busy.otp.load(Ordering::SeqCst) == n }).await;
        longest = longest.max(sent.elapsed());
    }
    assert!(longest < std::time::Duration::from_secs(1), "a code waited {longest:?}");
    assert_eq!(busy.promotional.load(Ordering::SeqCst), 2);
    busy.go.add_permits(100);
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
}

#[tokio::test]
async fn an_idle_worker_takes_each_lane_at_once() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    let bus = cell.bus(Service::Routing).await;
    let narrow =
        Arc::new(Narrow { order: Mutex::default(), go: Semaphore::new(1_000), asked: AtomicUsize::new(0) });
    let worker = route(&bus, &narrow, WorkerConfig { concurrency: 1, ..quick() }).await;
    let start = tokio::time::Instant::now();
    for round in 0..5 {
        for lane in Lane::ALL {
            publisher.publish(&accepted(lane), "x".to_owned()).await.unwrap();
        }
        let count = (round + 1) * 3;
        eventually(BOUND, "the round", || async { narrow.order.lock().unwrap().len() == count }).await;
    }
    // A pull waits at the broker for each lane: nothing waits for a pull to time out.
    assert!(start.elapsed() < std::time::Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(worker.stop(BOUND).await);
}
