//! What workers make of outcomes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use sotto_bus::{Outcome, Service, Subject, Worker, topology::consumer_name};
use sotto_core::{Clock as _, Lane, ManualClock, SystemClock};
use sotto_testkit::eventually;
use tokio::time::Instant;

use crate::cell::{BOUND, Script, TestCell, Texts, accepted, publisher, quick, route, texts, vn};

/// A consumer of EVENTS that delivers the next batch only after the one before.
const ONE_AT_A_TIME: (&str, &str) =
    ("ack_wait_s = 30\n  max_ack_pending = 64\n", "ack_wait_s = 30\n  max_ack_pending = 1\n");

#[tokio::test]
async fn what_is_done_is_gone() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    publisher.publish_all(&accepted(Lane::Otp), texts(&["a", "b"])).await.unwrap();
    publisher.publish(&accepted(Lane::Promotional), "c".to_owned()).await.unwrap();
    let bus = cell.bus(Service::Routing).await;
    let script = Script::all_done();
    let worker = route(&bus, &script, quick()).await;
    eventually(BOUND, "everything to be handled", || async { script.items().len() == 3 }).await;
    publisher.publish(&accepted(Lane::Transactional), "d".to_owned()).await.unwrap();
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert_eq!(script.items(), texts(&["a", "b", "c", "d"]));
    assert!(worker.stop(BOUND).await);
    assert!(bus.close(BOUND).await);
}

#[tokio::test]
async fn a_batch_to_retry_soon_comes_again_after_its_delay() {
    let cell = TestCell::start().await;
    publisher(&cell.bus(Service::Ingress).await)
        .publish_all(&accepted(Lane::Otp), texts(&["a", "b"]))
        .await
        .unwrap();
    let bus = cell.bus(Service::Routing).await;
    let times = Arc::new(std::sync::Mutex::new(Vec::new()));
    let delay = Duration::from_millis(400);
    let script = {
        let times = Arc::clone(&times);
        Script::new(move |given| {
            times.lock().unwrap().push(Instant::now());
            let outcome = if given.delivery == 1 { Outcome::Retry { after: delay } } else { Outcome::Done };
            vec![outcome; given.items.len()]
        })
    };
    let worker = route(&bus, &script, quick()).await;
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
    let given = script.given();
    assert_eq!(given.len(), 2);
    assert!(given.iter().all(|given| given.items == texts(&["a", "b"]) && given.subject == "accepted.otp.0"));
    let times = times.lock().unwrap().clone();
    assert!(*times.get(1).unwrap() - *times.first().unwrap() >= delay);
}

#[tokio::test]
async fn what_is_left_of_a_batch_goes_back_as_a_new_one() {
    let cell = TestCell::start().await;
    publisher(&cell.bus(Service::Ingress).await)
        .publish_all(&accepted(Lane::Otp), texts(&["a", "later", "b", "later"]))
        .await
        .unwrap();
    let bus = cell.bus(Service::Routing).await;
    let script = Script::new(|given| {
        let again = Outcome::Retry { after: Duration::from_millis(50) };
        let first = given.subject.starts_with("accepted");
        let outcome = |item: &String| if item == "later" && first { again.clone() } else { Outcome::Done };
        given.items.iter().map(outcome).collect()
    });
    let worker = route(&bus, &script, quick()).await;
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
    let given = script.given();
    assert_eq!(given.len(), 2, "{given:?}");
    let second = given.last().unwrap();
    // What was accepted once is not accepted again: it comes back by the retry subject.
    assert_eq!((second.subject.as_str(), &second.items), ("retry.otp.0", &texts(&["later", "later"])));
}

#[tokio::test]
async fn a_long_delay_is_kept_across_deliveries() {
    let cell = TestCell::start().await;
    publisher(&cell.bus(Service::Ingress).await).publish(&accepted(Lane::Otp), "a".to_owned()).await.unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let bus = cell.bus_at(Service::Routing, Arc::clone(&clock)).await;
    let script = Script::new(|given| {
        let first = given.subject.starts_with("accepted");
        vec![if first { Outcome::Retry { after: Duration::from_secs(60) } } else { Outcome::Done }]
    });
    let worker = route(&bus, &script, quick()).await;
    // Put back, delivered, and laid down again with a nak: still one message, handled once.
    let laid_down = || async {
        let info = cell.consumer("VN_INTAKE.routing-otp").await;
        let at = |name: &str| info.pointer(name).unwrap().as_u64().unwrap();
        at("/delivered/stream_seq") == 2 && cell.messages("INTAKE").await == 1
    };
    eventually(BOUND, "the message to be put back", laid_down).await;
    assert_eq!(script.given().len(), 1);
    assert!(worker.stop(BOUND).await);
    // Another instance, a minute later by the clock. The broker's own delay is at most 30 s of real time, so the test
    // lets the first instance's nak run out by giving it up.
    clock.advance(Duration::from_secs(61));
    let other = route(&bus, &script, quick()).await;
    eventually(Duration::from_secs(40), "the stream to be empty", || async {
        cell.messages("INTAKE").await == 0
    })
    .await;
    assert_eq!(script.given().len(), 2);
    assert!(other.stop(BOUND).await);
}

#[tokio::test]
async fn many_retries_never_look_like_failures() {
    let cell = TestCell::start().await;
    publisher(&cell.bus(Service::Ingress).await)
        .publish_all(&accepted(Lane::Otp), texts(&["a", "b"]))
        .await
        .unwrap();
    let bus = cell.bus(Service::Routing).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let script = {
        let calls = Arc::clone(&calls);
        Script::new(move |given| {
            let early = calls.fetch_add(1, Ordering::SeqCst) < 12;
            let outcome =
                if early { Outcome::Retry { after: Duration::from_millis(1) } } else { Outcome::Done };
            vec![outcome; given.items.len()]
        })
    };
    let worker = route(&bus, &script, quick()).await;
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
    assert_eq!(cell.quarantined().await, Vec::new());
    let given = script.given();
    assert_eq!(given.len(), 13);
    assert!(given.iter().all(|given| given.items.len() == 2 && given.delivery <= 3), "{given:?}");
}

#[tokio::test]
async fn a_panicking_item_ends_alone_in_quarantine() {
    let cell = TestCell::start().await;
    publisher(&cell.bus(Service::Ingress).await)
        .publish_all(&accepted(Lane::Otp), texts(&["a", "crash", "b"]))
        .await
        .unwrap();
    let bus = cell.bus(Service::Routing).await;
    let script = Script::new(|given| {
        assert!(!given.items.contains(&"crash".to_owned()), "crashed as told");
        vec![Outcome::Done; given.items.len()]
    });
    let worker = route(&bus, &script, quick()).await;
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
    let together = script.given().iter().filter(|given| given.items.len() == 3).count();
    assert_eq!(together, 3, "three deliveries of the batch");
    let alone = |item: &str| script.given().iter().filter(|given| given.items == texts(&[item])).count();
    assert_eq!((alone("a"), alone("b"), alone("crash")), (1, 1, 3));
    let quarantined = cell.quarantined().await;
    assert_eq!(quarantined.len(), 1);
    let record = &quarantined.first().unwrap().record;
    assert_eq!(record.subject, "sotto.v1.vn.retry.otp.0");
    assert!(record.error.contains("failed 3 times"), "{}", record.error);
    assert_eq!(record.sealed, None);
}

#[tokio::test]
async fn a_single_message_gets_six_tries() {
    let cell = TestCell::start().await;
    publisher(&cell.bus(Service::Ingress).await)
        .publish(&accepted(Lane::Otp), "crash".to_owned())
        .await
        .unwrap();
    let bus = cell.bus(Service::Routing).await;
    let script = Script::new(|_| panic!("crashed as told"));
    let worker = route(&bus, &script, quick()).await;
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
    assert_eq!(script.given().len(), 6);
    assert_eq!(cell.quarantined().await.len(), 1);
}

#[tokio::test]
async fn in_a_log_a_panicking_item_is_isolated_in_place_and_order_is_kept() {
    let cell = TestCell::changed(&[ONE_AT_A_TIME]).await;
    let shard = vn().shards.iter().next().unwrap();
    let publisher = publisher(&cell.bus(Service::Carrier).await);
    publisher.publish_all(&Subject::Event(shard), texts(&["a", "crash", "b"])).await.unwrap();
    publisher.publish(&Subject::Event(shard), "c".to_owned()).await.unwrap();
    let bus = cell.bus(Service::Ingress).await;
    let script = Script::new(|given| {
        assert!(!given.items.contains(&"crash".to_owned()), "crashed as told");
        vec![Outcome::Done; given.items.len()]
    });
    let consumer = [consumer_name::projection(shard)];
    let worker =
        Worker::<Texts>::start(&bus, "EVENTS", &consumer, Arc::clone(&script), quick()).await.unwrap();
    eventually(BOUND, "the last event", || async { script.items().contains(&"c".to_owned()) }).await;
    assert!(worker.stop(BOUND).await);
    let done: Vec<_> = script.items().into_iter().filter(|item| item != "crash").collect();
    // Three times together with the crashing one, then one by one, in order.
    assert_eq!(done, texts(&["a", "b", "a", "b", "a", "b", "a", "b", "c"]));
    assert_eq!(cell.quarantined().await.len(), 1);
    // A log keeps what it has.
    assert_eq!(cell.messages("EVENTS").await, 2);
}

#[tokio::test]
async fn in_a_log_a_retry_repeats_the_batch_and_holds_the_next() {
    let cell = TestCell::changed(&[ONE_AT_A_TIME]).await;
    let shard = vn().shards.iter().next().unwrap();
    let publisher = publisher(&cell.bus(Service::Routing).await);
    publisher.publish_all(&Subject::Event(shard), texts(&["a", "b"])).await.unwrap();
    publisher.publish(&Subject::Event(shard), "c".to_owned()).await.unwrap();
    let bus = cell.bus(Service::Ingress).await;
    let script = Script::new(|given| {
        let away = given.items.len() == 2 && given.delivery < 8;
        let outcome = if away { Outcome::Retry { after: Duration::from_millis(5) } } else { Outcome::Done };
        vec![outcome; given.items.len()]
    });
    let consumer = [consumer_name::projection(shard)];
    let worker =
        Worker::<Texts>::start(&bus, "EVENTS", &consumer, Arc::clone(&script), quick()).await.unwrap();
    eventually(BOUND, "the last event", || async { script.items().contains(&"c".to_owned()) }).await;
    assert!(worker.stop(BOUND).await);
    let given = script.given();
    assert_eq!(given.len(), 9, "{given:?}");
    assert_eq!(given.last().unwrap().items, texts(&["c"]));
    assert_eq!(cell.quarantined().await, Vec::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_given_back_and_returns_at_once_is_never_lost_sight_of() {
    let cell = TestCell::changed(&[(
        "ack_wait_s = 30\n  max_ack_pending = 64\n",
        "ack_wait_s = 60\n  max_ack_pending = 64\n",
    )])
    .await;
    let shard = vn().shards.iter().next().unwrap();
    let publisher = publisher(&cell.bus(Service::Routing).await);
    for n in 0..30 {
        publisher.publish(&Subject::Event(shard), format!("m{n}")).await.unwrap();
    }
    let bus = cell.bus(Service::Ingress).await;
    let done = Arc::new(AtomicUsize::new(0));
    let script = {
        let done = Arc::clone(&done);
        Script::new(move |given| {
            if given.delivery < 40 {
                return vec![Outcome::Retry { after: Duration::ZERO }];
            }
            done.fetch_add(1, Ordering::SeqCst);
            vec![Outcome::Done]
        })
    };
    let consumer = [consumer_name::projection(shard)];
    let config = sotto_bus::WorkerConfig { concurrency: 64, ..quick() };
    let worker =
        Worker::<Texts>::start(&bus, "EVENTS", &consumer, Arc::clone(&script), config).await.unwrap();
    eventually(BOUND, "all to be handled", || async { done.load(Ordering::SeqCst) == 30 }).await;
    assert!(worker.stop(BOUND).await);
}

#[tokio::test]
async fn an_item_that_ends_its_process_is_isolated_by_the_next_one() {
    let cell = TestCell::changed(&[(
        "ack_wait_s = 30\n  max_ack_pending = 1024",
        "ack_wait_s = 1\n  max_ack_pending = 1024",
    )])
    .await;
    publisher(&cell.bus(Service::Ingress).await)
        .publish_all(&accepted(Lane::Otp), texts(&["a", "crash", "b"]))
        .await
        .unwrap();
    // Three processes take the batch and are never heard of again.
    let raw = cell.raw(Service::Routing).await;
    let mut inbox = raw.client.subscribe("_INBOX.routing.raw.pull").await.unwrap();
    for _ in 0..3 {
        let pull = r#"{"batch":1,"expires":20000000000}"#;
        let next = "$JS.API.CONSUMER.MSG.NEXT.VN_INTAKE.routing-otp";
        raw.client.publish_with_reply(next, "_INBOX.routing.raw.pull", pull.into()).await.unwrap();
        let message = tokio::time::timeout(BOUND, inbox.next()).await.unwrap().unwrap();
        assert_eq!(message.status, None);
    }
    let script = Script::new(|given| {
        assert!(!given.items.contains(&"crash".to_owned()), "crashed as told");
        vec![Outcome::Done; given.items.len()]
    });
    let worker = route(&cell.bus(Service::Routing).await, &script, quick()).await;
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
    let given = script.given();
    assert!(given.iter().all(|given| given.items.len() == 1), "never together again: {given:?}");
    let alone = |item: &str| given.iter().filter(|given| given.items == texts(&[item])).count();
    assert_eq!((alone("a"), alone("b"), alone("crash")), (1, 1, 3));
    assert_eq!(cell.quarantined().await.len(), 1);
}

#[tokio::test]
async fn a_handler_with_too_few_outcomes_repeats_the_rest() {
    let cell = TestCell::start().await;
    publisher(&cell.bus(Service::Ingress).await)
        .publish_all(&accepted(Lane::Otp), texts(&["a", "b"]))
        .await
        .unwrap();
    let bus = cell.bus(Service::Routing).await;
    let script = Script::new(|_| vec![Outcome::Done]);
    let worker = route(&bus, &script, quick()).await;
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
    assert_eq!(script.items(), texts(&["a", "b", "b"]));
}
