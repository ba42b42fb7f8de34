//! Servers that go away, answers that get lost, deliveries that come twice.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use sotto_bus::{Delivery, Handler, Outcome, Service, StreamReader, WorkerConfig};
use sotto_core::Lane;
use sotto_testkit::{ChaosProxy, eventually};
use tokio::{sync::Semaphore, time::Duration};
use tokio_util::task::TaskTracker;

use crate::{
    cell::{BOUND, Script, TestCell, Texts, accepted, publisher, quick, route},
    gate::Gate,
};

#[tokio::test]
async fn a_publish_whose_answer_got_lost_is_stored_once() {
    let cell = TestCell::start().await;
    let gate = Gate::start(cell.server.address()).await;
    let publisher = publisher(&cell.bus_through(Service::Ingress, gate.port()).await);
    let tasks = TaskTracker::new();
    gate.hold_answers();
    let waiting = {
        let publisher = publisher.clone();
        tasks.spawn(async move { publisher.publish(&accepted(Lane::Otp), "once".to_owned()).await })
    };
    eventually(BOUND, "the message to be stored", || async { cell.messages("INTAKE").await == 1 }).await;
    assert!(!waiting.is_finished());
    gate.break_and_pass();
    let stored = waiting.await.unwrap().unwrap();
    assert_eq!(stored.stream_sequence, 1);
    assert_eq!(cell.messages("INTAKE").await, 1);
}

#[tokio::test]
async fn a_crashing_server_loses_nothing_that_was_acknowledged() {
    let mut cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let publisher = publisher(&bus);
    let tasks = TaskTracker::new();
    let ended = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (publisher, ended, sent) = (publisher.clone(), Arc::clone(&ended), Arc::clone(&sent));
            tasks.spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                    let item = format!("{writer}-{n}");
                    publisher.publish(&accepted(Lane::Otp), item.clone()).await.unwrap();
                    acknowledged.push(item);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                acknowledged
            })
        })
        .collect();
    for _ in 0..3 {
        let before = sent.load(Ordering::Relaxed);
        eventually(BOUND, "traffic", || async { sent.load(Ordering::Relaxed) > before + 100 }).await;
        cell.server.kill().await;
        cell.server.restart().await;
    }
    ended.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    let operator = cell.bus(Service::Operator).await;
    let reader = StreamReader::<Texts>::new(&operator, "INTAKE").unwrap();
    let mut reading = reader.read(1, reader.state().await.unwrap().last);
    let mut stored = Vec::new();
    while let Some(batch) = reading.next().await.unwrap() {
        stored.extend(batch.batch.texts);
    }
    let unique: HashSet<_> = stored.iter().collect();
    assert!(acknowledged.iter().all(|item| unique.contains(item)), "an acknowledged item is missing");
    assert_eq!(unique.len(), acknowledged.len(), "every publish was acknowledged in the end");
    // Repeats had the same id: the server's window knew them even after it crashed.
    assert_eq!(stored.len(), unique.len(), "an item is stored twice");
}

/// The broker drops a connection that does not take what is sent: a network path that carries nothing, or a process that
/// stands still. Many readings share the connection, so that more is under way than the kernel's buffers hold.
#[tokio::test]
async fn who_takes_nothing_is_dropped_by_the_broker_and_goes_on_without_a_gap() {
    let cell = TestCell::tuned("write_deadline: \"1s\"").await;
    let proxy = ChaosProxy::start(cell.server.address()).await;
    let bus = cell.bus_through(Service::Operator, proxy.address().port()).await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    let filling = "x".repeat(250_000);
    for n in 0..24 {
        publisher.publish(&accepted(Lane::Otp), format!("{n}:{filling}")).await.unwrap();
    }
    let reader = StreamReader::<Texts>::new(&bus, "INTAKE").unwrap();
    let begun = Arc::new(AtomicUsize::new(0));
    let tasks = TaskTracker::new();
    let readings: Vec<_> = (0..16)
        .map(|_| {
            let (mut reading, begun) = (reader.read(1, 24), Arc::clone(&begun));
            tasks.spawn(async move {
                let mut numbers = Vec::new();
                while let Some(stored) = reading.next().await.unwrap() {
                    begun.fetch_add(1, Ordering::Relaxed);
                    numbers.extend(
                        stored
                            .batch
                            .texts
                            .into_iter()
                            .filter_map(|text| text.split(':').next().map(str::to_owned)),
                    );
                }
                numbers
            })
        })
        .collect();
    eventually(BOUND, "a reading to have begun", || async { begun.load(Ordering::Relaxed) > 0 }).await;
    proxy.stall();
    eventually(BOUND, "the broker to drop the connection", || async {
        cell.server.log().contains("Slow Consumer Detected")
    })
    .await;
    proxy.pass();
    let whole: Vec<_> = (0..24).map(|n| n.to_string()).collect();
    for reading in readings {
        assert_eq!(reading.await.unwrap(), whole);
    }
}

#[tokio::test]
async fn a_worker_outlives_its_server() {
    let mut cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    let bus = cell.bus(Service::Routing).await;
    let script = Script::all_done();
    let worker = route(&bus, &script, quick()).await;
    let subject = accepted(Lane::Otp);
    for round in 0..3 {
        for n in 0..20 {
            publisher.publish(&subject, format!("{round}-{n}")).await.unwrap();
        }
        cell.server.kill().await;
        cell.server.restart().await;
    }
    let all = || async { script.items().into_iter().collect::<HashSet<_>>().len() == 60 };
    eventually(BOUND, "everything to be handled", all).await;
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
}

/// Holds every batch until it is let go, and counts.
struct Holding {
    started: AtomicUsize,
    ended: AtomicUsize,
    go: Semaphore,
}

impl Holding {
    fn new() -> Arc<Self> {
        Arc::new(Self { started: AtomicUsize::new(0), ended: AtomicUsize::new(0), go: Semaphore::new(0) })
    }

    async fn started(&self, count: usize) {
        eventually(BOUND, "handlers to start", || async { self.started.load(Ordering::SeqCst) == count })
            .await;
    }
}

impl Handler<Texts> for Holding {
    async fn handle(&self, delivery: Delivery<Texts>) -> Vec<Outcome> {
        self.started.fetch_add(1, Ordering::SeqCst);
        self.go.acquire().await.unwrap().forget();
        self.ended.fetch_add(1, Ordering::SeqCst);
        vec![Outcome::Done; delivery.items.len()]
    }
}

#[tokio::test]
async fn redelivered_while_its_handler_runs_it_is_not_started_twice() {
    let cell = TestCell::changed(&[(
        "ack_wait_s = 30\n  max_ack_pending = 1024",
        "ack_wait_s = 1\n  max_ack_pending = 1024",
    )])
    .await;
    publisher(&cell.bus(Service::Ingress).await).publish(&accepted(Lane::Otp), "a".to_owned()).await.unwrap();
    let proxy = ChaosProxy::start(cell.server.address()).await;
    let bus = cell.bus_through(Service::Routing, proxy.address().port()).await;
    let holding = Holding::new();
    let worker = route(&bus, &holding, quick()).await;
    holding.started(1).await;
    // No in-progress acknowledgement passes, so the broker gives the message up.
    proxy.cut();
    let state = bus.state();
    eventually(BOUND, "the loss", || async { !state.borrow().connected }).await;
    let pending = || async { number(&cell, "num_ack_pending").await == 0 };
    // The broker moves it back to be delivered when somebody pulls; nobody can. Then the connection returns.
    let _not_needed = tokio::time::timeout(Duration::from_secs(2), eventually(BOUND, "it", pending)).await;
    proxy.pass();
    let again = || async { number(&cell, "num_redelivered").await == 1 };
    eventually(BOUND, "the message to be delivered again", again).await;
    assert_eq!(holding.started.load(Ordering::SeqCst), 1);
    holding.go.add_permits(1);
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert_eq!(holding.started.load(Ordering::SeqCst), 1);
    assert!(worker.stop(BOUND).await);
}

#[tokio::test]
async fn redelivered_to_another_process_both_ends_are_taken() {
    let cell = TestCell::changed(&[(
        "ack_wait_s = 30\n  max_ack_pending = 1024",
        "ack_wait_s = 1\n  max_ack_pending = 1024",
    )])
    .await;
    publisher(&cell.bus(Service::Ingress).await).publish(&accepted(Lane::Otp), "a".to_owned()).await.unwrap();
    let proxy = ChaosProxy::start(cell.server.address()).await;
    let first_bus = cell.bus_through(Service::Routing, proxy.address().port()).await;
    let first = Holding::new();
    let first_worker = route(&first_bus, &first, quick()).await;
    first.started(1).await;
    proxy.cut();
    let second_bus = cell.bus(Service::Routing).await;
    let second = Holding::new();
    let second_worker = route(&second_bus, &second, quick()).await;
    // Both have it now. The first one's acknowledgement is late: it is for the earlier delivery.
    second.started(1).await;
    proxy.pass();
    first.go.add_permits(1);
    eventually(BOUND, "the first to end", || async { first.ended.load(Ordering::SeqCst) == 1 }).await;
    second.go.add_permits(1);
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(first_worker.stop(BOUND).await && second_worker.stop(BOUND).await);
    assert_eq!(cell.quarantined().await.len(), 0);
}

#[tokio::test]
async fn in_progress_acknowledgements_keep_a_long_batch() {
    let cell = TestCell::changed(&[(
        "ack_wait_s = 30\n  max_ack_pending = 1024",
        "ack_wait_s = 1\n  max_ack_pending = 1024",
    )])
    .await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    publisher.publish(&accepted(Lane::Otp), "a".to_owned()).await.unwrap();
    let bus = cell.bus(Service::Routing).await;
    let holding = Holding::new();
    let worker = route(&bus, &holding, quick()).await;
    holding.started(1).await;
    // The consumer's own clock: three acknowledgement waits pass.
    let start = tokio::time::Instant::now();
    let long = || async { start.elapsed() > Duration::from_secs(3) };
    eventually(BOUND, "three acknowledgement waits", long).await;
    assert_eq!(number(&cell, "num_redelivered").await, 0);
    holding.go.add_permits(1);
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert_eq!(holding.started.load(Ordering::SeqCst), 1);
    assert!(worker.stop(BOUND).await);
}

#[tokio::test]
async fn no_more_is_pulled_than_can_start() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    for n in 0..40 {
        publisher.publish(&accepted(Lane::Otp), format!("m{n}")).await.unwrap();
    }
    let bus = cell.bus(Service::Routing).await;
    let holding = Holding::new();
    let worker = route(&bus, &holding, WorkerConfig { concurrency: 3, ..quick() }).await;
    holding.started(3).await;
    assert_eq!(number(&cell, "num_ack_pending").await, 3);
    holding.go.add_permits(1);
    holding.started(4).await;
    eventually(BOUND, "one acknowledgement", || async { cell.messages("INTAKE").await == 39 }).await;
    assert_eq!(number(&cell, "num_ack_pending").await, 3);
    assert_eq!(bus.state().borrow().slow_consumers, 0);
    holding.go.add_permits(100);
    assert!(worker.stop(BOUND).await);
}

#[tokio::test]
async fn stopping_finishes_what_runs_and_leaves_the_rest() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    for n in 0..5 {
        publisher.publish(&accepted(Lane::Otp), format!("m{n}")).await.unwrap();
    }
    let bus = cell.bus(Service::Routing).await;
    let holding = Holding::new();
    let worker = route(&bus, &holding, WorkerConfig { concurrency: 2, ..quick() }).await;
    holding.started(2).await;
    assert!(!worker.stop(Duration::from_millis(50)).await, "two still run");
    holding.go.add_permits(10);
    assert!(worker.stop(BOUND).await);
    assert_eq!(holding.ended.load(Ordering::SeqCst), 2);
    assert_eq!(cell.messages("INTAKE").await, 3);
    // Another instance gets the rest without delay.
    let script = Script::all_done();
    let other = route(&cell.bus(Service::Routing).await, &script, quick()).await;
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(other.stop(BOUND).await);
    assert!(bus.close(BOUND).await);
}

async fn number(cell: &TestCell, name: &str) -> u64 {
    cell.consumer("VN_INTAKE.routing-otp").await.get(name).unwrap().as_u64().unwrap()
}
