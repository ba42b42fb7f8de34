//! Group commit.

use std::{collections::HashSet, sync::Arc};

use futures::future::join_all;
use sotto_bus::{AuditCategory, PublishError, Publisher, PublisherConfig, Service, StreamReader, Subject};
use sotto_core::{AccountId, Classified as _, ErrorClass, Lane};
use sotto_testkit::eventually;
use tokio::{
    task::unconstrained,
    time::{Duration, Instant},
};
use tokio_util::task::TaskTracker;

use crate::{
    cell::{BOUND, TestCell, Texts, accepted, publisher, texts},
    gate::Gate,
};

#[tokio::test]
async fn one_at_a_time_each_is_a_batch_of_its_own() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    for n in 1..=3 {
        let stored = publisher.publish(&accepted(Lane::Otp), format!("m{n}")).await.unwrap();
        assert_eq!(stored.stream_sequence, n);
    }
    assert_eq!(cell.messages("INTAKE").await, 3);
}

#[tokio::test]
async fn under_load_many_share_a_batch_and_keep_their_order() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    let subject = accepted(Lane::Otp);
    let sent: Vec<_> = (0..3_000).map(|n| format!("m{n:04}")).collect();
    // Unconstrained: tokio's cooperative budget would make the futures of one task queue by the dozen.
    let all = join_all(sent.iter().map(|item| publisher.publish(&subject, item.clone())));
    let stored = unconstrained(all).await;
    let sequences: HashSet<_> = stored.into_iter().map(|stored| stored.unwrap().stream_sequence).collect();
    let messages = cell.messages("INTAKE").await;
    assert_eq!(u64::try_from(sequences.len()).unwrap(), messages);
    assert!(messages <= 30, "{messages} messages for 3000 items");
    assert_eq!(everything(&cell).await, sent);
}

#[tokio::test]
async fn what_belongs_together_stays_together() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let publisher =
        Publisher::<Texts>::new(&bus, PublisherConfig { max_items: 5, ..PublisherConfig::default() });
    let subject = accepted(Lane::Otp);
    let groups: Vec<_> = (0..20).map(|g| (0..3).map(|n| format!("{g}-{n}")).collect::<Vec<_>>()).collect();
    let stored = join_all(groups.iter().map(|group| publisher.publish_all(&subject, group.clone()))).await;
    let stored: HashSet<_> = stored.into_iter().map(|stored| stored.unwrap().stream_sequence).collect();
    // Two groups of three do not fit into five.
    assert_eq!(stored.len(), 20);
    let none = publisher.publish_all(&subject, Vec::new()).await.unwrap_err();
    assert!(matches!(none, PublishError::TooLarge { items: 0, .. }));
    let many = publisher.publish_all(&subject, texts(&["x"; 6])).await.unwrap_err();
    assert!(matches!(many, PublishError::TooLarge { items: 6, .. }));
    let big = publisher.publish(&subject, "x".repeat(600_000)).await.unwrap_err();
    assert_eq!(big.class(), ErrorClass::Reject);
}

#[tokio::test]
async fn a_full_subject_refuses_and_its_neighbour_does_not() {
    let cell =
        TestCell::changed(&[("max_messages_per_subject = 10_000", "max_messages_per_subject = 3")]).await;
    let publisher = publisher(&cell.bus(Service::Routing).await);
    let account: AccountId = "mobi".parse().unwrap();
    let dead = Subject::Waiting(account.clone(), Lane::Promotional);
    for _ in 0..3 {
        publisher.publish(&dead, "x".to_owned()).await.unwrap();
    }
    let error = publisher.publish(&dead, "x".to_owned()).await.unwrap_err();
    assert!(matches!(error, PublishError::Full { .. }), "{error:?}");
    assert!(matches!(error.class(), ErrorClass::Retry { .. }));
    publisher.publish(&Subject::Waiting(account, Lane::Otp), "x".to_owned()).await.unwrap();
}

#[tokio::test]
async fn a_full_stream_refuses_and_keeps_what_it_has() {
    let cell = TestCell::changed(&[("max_bytes = 8_589_934_592", "max_bytes = 40_000")]).await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    let mut stored = 0;
    let error = loop {
        match publisher.publish(&accepted(Lane::Otp), "x".repeat(5_000)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100);
    };
    assert!(matches!(error, PublishError::Full { .. }), "{error:?}");
    assert_eq!(cell.messages("INTAKE").await, stored);
}

#[tokio::test]
async fn a_refused_subject_is_told_at_once() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Privacy).await);
    let before = Instant::now();
    let error = publisher.publish(&accepted(Lane::Otp), "x".to_owned()).await.unwrap_err();
    assert!(matches!(error, PublishError::NotAllowed { .. }), "{error:?}");
    assert!(before.elapsed() < Duration::from_secs(4), "not by a timeout");
    publisher.publish(&Subject::Audit(Service::Privacy, AuditCategory::Keys), "x".to_owned()).await.unwrap();
}

#[tokio::test]
async fn too_many_subjects_are_refused() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let publisher =
        Publisher::<Texts>::new(&bus, PublisherConfig { max_subjects: 1, ..PublisherConfig::default() });
    publisher.publish(&accepted(Lane::Otp), "x".to_owned()).await.unwrap();
    let error = publisher.publish(&accepted(Lane::Promotional), "x".to_owned()).await.unwrap_err();
    assert_eq!(error, PublishError::TooManySubjects { limit: 1 });
}

#[tokio::test]
async fn closing_stores_what_was_taken_and_takes_nothing_more() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let publisher = Arc::new(publisher(&bus));
    let subject = accepted(Lane::Otp);
    let sent: Vec<_> = (0..500).map(|n| format!("m{n}")).collect();
    let all = unconstrained(join_all(sent.iter().map(|item| publisher.publish(&subject, item.clone()))));
    let (stored, closed) = tokio::join!(all, publisher.close(BOUND));
    assert!(closed);
    assert!(stored.iter().all(Result::is_ok));
    assert_eq!(publisher.publish(&subject, "late".to_owned()).await, Err(PublishError::Closed));
    assert_eq!(everything(&cell).await.len(), 500);
    assert!(bus.close(BOUND).await);
}

#[tokio::test]
async fn away_until_the_deadline_is_certainly_not_stored() {
    let mut cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let config = PublisherConfig { deadline: Duration::from_millis(300), ..PublisherConfig::default() };
    let publisher = Publisher::<Texts>::new(&bus, config);
    let state = bus.state();
    cell.server.kill().await;
    eventually(BOUND, "the loss", || async { !state.borrow().connected }).await;
    let error = publisher.publish(&accepted(Lane::Otp), "x".to_owned()).await.unwrap_err();
    assert!(matches!(error, PublishError::Unavailable { .. }) && !error.is_in_doubt(), "{error:?}");
    cell.server.restart().await;
    eventually(BOUND, "the return", || async { state.borrow().connected }).await;
    assert_eq!(cell.messages("INTAKE").await, 0);
}

#[tokio::test]
async fn sent_and_never_answered_is_in_doubt() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let config = PublisherConfig {
        attempt: Duration::from_millis(200),
        deadline: Duration::from_millis(500),
        ..PublisherConfig::default()
    };
    let publisher = Publisher::<Texts>::new(&bus, config);
    publisher.publish(&accepted(Lane::Otp), "warm".to_owned()).await.unwrap();
    cell.server.freeze().await;
    let error = publisher.publish(&accepted(Lane::Otp), "x".to_owned()).await.unwrap_err();
    assert!(error.is_in_doubt(), "{error:?}");
    cell.server.thaw();
}

#[tokio::test]
async fn a_refusal_after_an_unanswered_attempt_is_in_doubt() {
    let cell =
        TestCell::changed(&[("max_messages_per_subject = 10_000", "max_messages_per_subject = 1")]).await;
    let gate = Gate::start(cell.server.address()).await;
    let bus = cell.bus_through(Service::Routing, gate.port()).await;
    let publisher = publisher(&bus);
    let subject = Subject::Waiting("mobi".parse().unwrap(), Lane::Otp);
    publisher.publish(&subject, "first".to_owned()).await.unwrap();
    gate.hold_answers();
    let passed = gate.passed();
    let tasks = TaskTracker::new();
    let waiting = {
        let (publisher, subject) = (publisher.clone(), subject.clone());
        tasks.spawn(async move { publisher.publish(&subject, "x".repeat(10_000)).await })
    };
    // It is sent, and what the broker says of it gets lost with the connection.
    eventually(BOUND, "the attempt", || async { gate.passed() > passed + 10_000 }).await;
    gate.break_and_pass();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.is_in_doubt(), "{error:?}");
}

#[tokio::test]
async fn a_long_queue_fails_at_its_deadline_and_not_one_batch_after_the_other() {
    let mut cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let config = PublisherConfig {
        deadline: Duration::from_secs(1),
        max_items: 10,
        queue: 100,
        ..PublisherConfig::default()
    };
    let publisher = Publisher::<Texts>::new(&bus, config);
    let state = bus.state();
    cell.server.kill().await;
    eventually(BOUND, "the loss", || async { !state.borrow().connected }).await;
    let before = Instant::now();
    let subject = accepted(Lane::Otp);
    // Some wait outside of the queue.
    let all = (0..500).map(|n| publisher.publish(&subject, format!("m{n}")));
    let failed = unconstrained(join_all(all)).await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    for result in failed {
        assert!(matches!(result, Err(PublishError::Unavailable { .. })), "{result:?}");
    }
    cell.server.restart().await;
    eventually(BOUND, "the return", || async { state.borrow().connected }).await;
    publisher.publish(&subject, "after".to_owned()).await.unwrap();
    assert_eq!(everything(&cell).await, ["after"]);
}

/// Every item of INTAKE, in order.
async fn everything(cell: &TestCell) -> Vec<String> {
    let operator = cell.bus(Service::Operator).await;
    let reader = StreamReader::<Texts>::new(&operator, "INTAKE").unwrap();
    let state = reader.state().await.unwrap();
    let mut reading = reader.read(1, state.last);
    let mut items = Vec::new();
    while let Some(stored) = reading.next().await.unwrap() {
        items.extend(stored.batch.texts);
    }
    items
}
