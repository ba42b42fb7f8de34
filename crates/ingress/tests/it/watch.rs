//! Watchers: old cursors, other tenants, what overtakes its acceptance.

use std::{collections::BTreeMap, time::Duration};

use sotto_bus::{Publisher, PublisherConfig, Service, Subject};
use sotto_core::{
    Clock as _, Facts, MessageClass, MessageId, SystemClock, Timestamp,
    delivery::{Event, EventKind},
    text::Encoding,
};
use sotto_proto::{LogEvent, message::v1::WatchEventsRequest, pipeline::v1::EventBatch};
use tokio::time::timeout;
use tonic::Code;

use crate::{
    cell::{BOUND, shards},
    clients::World,
};

fn facts(number: u32, tenant: &str, at: Timestamp) -> Facts {
    let mut hash = [0; 16];
    hash[..4].copy_from_slice(&number.to_be_bytes());
    Facts {
        message: MessageId::from_keyed_hash(hash),
        tenant: tenant.parse().unwrap(),
        class: MessageClass::Transactional,
        country: "VN".parse().unwrap(),
        operator_range: "8498".parse().unwrap(),
        encoding: Encoding::Gsm7,
        parts: 1,
        units: 5,
        accepted_at: at,
        expires_at: at.plus(Duration::from_secs(86_400)),
        content_mac: None,
        send_at: None,
    }
}

/// Stores events as routing does, some hundred at a time, in their order in each shard.
async fn publish(world: &World, events: Vec<(EventKind, MessageId, Timestamp)>) {
    let bus = world.broker.bus(&world.pki, Service::Routing).await;
    let publisher: Publisher<EventBatch> = Publisher::new(&bus, PublisherConfig::default());
    let mut by_shard: BTreeMap<Subject, Vec<LogEvent>> = BTreeMap::new();
    for (kind, message, at) in events {
        let event = LogEvent::Delivery(Event { message, at, kind });
        by_shard.entry(Subject::Event(shards().of(&message))).or_default().push(event);
    }
    for (subject, events) in by_shard {
        for events in events.chunks(500) {
            publisher.publish_all(&subject, events.to_vec()).await.unwrap();
        }
    }
    assert!(bus.close(BOUND).await);
}

fn accepted(facts: &Facts) -> (EventKind, MessageId, Timestamp) {
    (EventKind::Accepted(Box::new(facts.clone())), facts.message, facts.accepted_at)
}

fn after(cursor: &str) -> WatchEventsRequest {
    WatchEventsRequest { after: cursor.to_owned(), ..WatchEventsRequest::default() }
}

#[tokio::test]
async fn what_overtakes_its_acceptance_is_told_and_nobody_hears_of_others() {
    let world = World::start("").await;
    let now = SystemClock.now();
    let (ours, theirs) = (facts(1, "acme", now), facts(2, "globex", now));
    let mut told = world.client().watch(after("")).await.unwrap();
    timeout(BOUND, told.message()).await.unwrap().unwrap();
    let routed = |facts: &Facts| {
        let kind = EventKind::Routed {
            attempt: 1,
            account: "mobi".parse().unwrap(),
            table_version: "0123456789abcdef".to_owned(),
        };
        (kind, facts.message, now)
    };
    publish(&world, vec![accepted(&theirs), routed(&ours), routed(&theirs), accepted(&ours)]).await;
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        let answer = timeout(BOUND, told.message()).await.unwrap().unwrap().unwrap();
        assert!(answer.message_id.is_empty() || answer.message_id == ours.message.to_string());
        kinds.extend(answer.steps.into_iter().map(|step| step.kind));
    }
    kinds.sort();
    assert_eq!(kinds, ["accepted", "routed"]);
    drop(told);
    world.stop().await;
}

#[tokio::test]
async fn a_cursor_that_is_too_old_is_refused_and_a_bad_one_too() {
    let world = World::start("").await;
    let client = world.client();
    let mut told = client.watch(after("")).await.unwrap();
    let start = timeout(BOUND, told.message()).await.unwrap().unwrap().unwrap().cursor;
    drop(told);
    // Older than what is kept of an ended message.
    let long_ago = SystemClock.now().minus(Duration::from_secs(40 * 86_400));
    publish(&world, vec![accepted(&facts(1, "acme", long_ago))]).await;
    let mut told = client.watch(after(&start)).await.unwrap();
    let refused = loop {
        match timeout(BOUND, told.message()).await.unwrap() {
            Ok(Some(answer)) => assert!(answer.message_id.is_empty()),
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let refused = client.watch(after("soon")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let request = WatchEventsRequest { message_id: "1".to_owned(), ..WatchEventsRequest::default() };
    assert_eq!(client.watch(request).await.unwrap_err().code(), Code::InvalidArgument);
    drop(told);
    world.stop().await;
}
