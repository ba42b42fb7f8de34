//! Reading streams beside their consumers.

use futures::future::join_all;
use sotto_bus::{AuditCategory, ConsumerState, Outcome, ReadError, Service, StreamReader, Subject, Worker};
use sotto_core::Lane;
use sotto_testkit::eventually;

use crate::cell::{BOUND, Script, TestCell, Texts, accepted, publisher, quick, texts, vn};

#[tokio::test]
async fn a_range_is_read_in_order_over_many_answers() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Carrier).await);
    let shards: Vec<_> = vn().shards.iter().map(Subject::Event).collect();
    let shards = &shards;
    let publisher = &publisher;
    // One task a shard, one message after the other: 600 messages, more than two answers.
    join_all(shards.iter().map(|shard| async move {
        for n in 0..300 {
            publisher.publish(shard, format!("m{n}")).await.unwrap();
        }
    }))
    .await;
    let operator = cell.bus(Service::Operator).await;
    let reader = StreamReader::<Texts>::new(&operator, "EVENTS").unwrap();
    let state = reader.state().await.unwrap();
    assert_eq!((state.messages, state.first, state.last), (600, 1, 600));
    let mut reading = reader.read(3, 599);
    let mut sequences = Vec::new();
    let mut of_first_shard = 0;
    while let Some(stored) = reading.next().await.unwrap() {
        sequences.push(stored.sequence);
        of_first_shard += usize::from(stored.subject.as_ref() == shards.first());
    }
    assert_eq!(sequences, (3..=599).collect::<Vec<_>>());
    assert!((290..=300).contains(&of_first_shard));
    assert!(reader.read(601, 700).next().await.unwrap().is_none());
    assert!(reader.read(5, 4).next().await.unwrap().is_none());
}

#[tokio::test]
async fn gaps_of_a_work_queue_are_skipped() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    for n in 0..10 {
        let lane = if n % 2 == 0 { Lane::Otp } else { Lane::Promotional };
        publisher.publish(&accepted(lane), format!("m{n}")).await.unwrap();
    }
    let bus = cell.bus(Service::Routing).await;
    let consumers = ["routing-otp".to_owned()];
    let worker = sotto_bus::Worker::<Texts>::start(&bus, "INTAKE", &consumers, Script::all_done(), quick())
        .await
        .unwrap();
    eventually(BOUND, "the otp lane to be empty", || async { cell.messages("INTAKE").await == 5 }).await;
    assert!(worker.stop(BOUND).await);
    // Ingress and the connector read it too: they rebuild from here.
    for service in [Service::Ingress, Service::Carrier, Service::Operator] {
        let reader = StreamReader::<Texts>::new(&cell.bus(service).await, "INTAKE").unwrap();
        let mut reading = reader.read(1, 10);
        let mut found = Vec::new();
        while let Some(stored) = reading.next().await.unwrap() {
            found.extend(stored.batch.texts);
        }
        assert_eq!(found, texts(&["m1", "m3", "m5", "m7", "m9"]));
    }
}

#[tokio::test]
async fn how_far_a_consumer_has_come_is_told() {
    let cell = TestCell::start().await;
    let identity = cell.bus(Service::Identity).await;
    let acts = publisher(&identity);
    for n in 0..5 {
        acts.publish(&Subject::Audit(Service::Identity, AuditCategory::Keys), format!("m{n}")).await.unwrap();
    }
    let bus = cell.bus(Service::Audit).await;
    let reader = StreamReader::<Texts>::new(&bus, "AUDIT").unwrap();
    assert_eq!(reader.consumer("audit-acts").await.unwrap(), ConsumerState::default());
    let script = Script::new(|given| {
        let later = Outcome::Retry { after: std::time::Duration::from_secs(20) };
        given.items.iter().map(|item| if item == "m2" { later.clone() } else { Outcome::Done }).collect()
    });
    let consumers = ["audit-acts".to_owned()];
    let worker = Worker::<Texts>::start(&bus, "AUDIT", &consumers, script, quick()).await.unwrap();
    let all_but_one = ConsumerState { acknowledged: 2, delivered: 5 };
    eventually(BOUND, "all but one", || async {
        let pending = cell.consumer("VN_AUDIT.audit-acts").await["num_ack_pending"] == 1;
        pending && reader.consumer("audit-acts").await.unwrap() == all_but_one
    })
    .await;
    assert!(worker.stop(BOUND).await);
}

#[tokio::test]
async fn who_may_not_read_is_told_so() {
    let cell = TestCell::start().await;
    let privacy = cell.bus(Service::Privacy).await;
    publisher(&privacy)
        .publish(&Subject::Audit(Service::Privacy, AuditCategory::Keys), "x".to_owned())
        .await
        .unwrap();
    let reader = StreamReader::<Texts>::new(&privacy, "AUDIT").unwrap();
    let error = reader.read(1, 1).next().await.unwrap_err();
    assert!(matches!(error, ReadError::Api { .. }), "{error:?}");
    assert!(matches!(StreamReader::<Texts>::new(&privacy, "NOTHING"), Err(ReadError::NoStream(_))));
}

#[tokio::test]
async fn tells_which_subjects_have_messages() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Routing).await);
    let waiting = |account: &str, lane| Subject::Waiting(account.parse().unwrap(), lane);
    for (account, lane) in [("mobi", Lane::Otp), ("gone", Lane::Promotional), ("gone", Lane::Promotional)] {
        publisher.publish(&waiting(account, lane), "m".to_owned()).await.unwrap();
    }
    let reader = StreamReader::<Texts>::new(&cell.bus(Service::Carrier).await, "WAITING").unwrap();
    let found = reader.subjects().await.unwrap();
    assert_eq!(found.most, Some(10_000));
    let found: Vec<_> = found.messages.into_iter().collect();
    assert_eq!(found, [(waiting("gone", Lane::Promotional), 2), (waiting("mobi", Lane::Otp), 1)]);
    let acts = StreamReader::<Texts>::new(&cell.bus(Service::Audit).await, "AUDIT").unwrap();
    assert_eq!(acts.subjects().await.unwrap().most, None);
}
