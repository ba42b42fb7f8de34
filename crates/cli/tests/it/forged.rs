//! What a broken or hostile service could put into the log, published with a service's own keys.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use sotto_bus::{
    Bus, BusOptions, NatsConfig, Publisher, PublisherConfig, Service, Subject, Topic, Topology,
    topology::Cell as BusCell,
};
use sotto_core::{
    Facts, MessageClass, MessageId, Shards, SystemClock, Timestamp,
    delivery::{Event, EventKind, ExpiryCause},
    text::Encoding,
};
use sotto_proto::{
    Batch, LogEvent, WireError,
    message::v1 as message,
    pipeline::v1::{self as pipeline, EventBatch, WorkBatch},
};
use sotto_testkit::eventually_ok;

use crate::cell::{Cell, LONG};

/// Bytes that are no batch of ours.
#[derive(Clone, PartialEq, prost::Message)]
struct Garbage {
    #[prost(fixed32, tag = "1")]
    noise: u32,
}

impl Batch for Garbage {
    type Item = u32;

    fn from_items(items: &[u32]) -> Self {
        Self { noise: items.iter().copied().sum() }
    }

    fn into_items(self) -> Vec<Result<u32, WireError>> {
        vec![Ok(self.noise)]
    }

    fn item_size(_: &u32) -> usize {
        4
    }
}

/// It is in quarantine: the ledger says so and balances, now and ever after.
pub(crate) async fn a_malformed_batch_is_counted_and_breaks_no_check(cell: &Cell) {
    publish::<Garbage>(cell, vec![7]).await;
    let listed = eventually_ok(LONG, "the batch to be in quarantine", || async {
        let mut listed = cell.json(&["quarantine", "list"]).await.json();
        listed.retain(|record| record["stream"] == "TEST_EVENTS");
        if listed.is_empty() { Err("nothing is there") } else { Ok(listed) }
    })
    .await;
    let number = listed[0]["number"].to_string();
    let shown = cell.json(&["quarantine", "show", &number]).await.json();
    assert_eq!(shown[0], listed[0]);
    assert!(
        cell.sotto(&["quarantine", "show", &number]).await.well().contains("stream TEST_EVENTS, sequence ")
    );
    let told = cell.json(&["ledger", "check"]).await.json();
    assert_eq!((&told[0]["balanced"], &told[0]["unreadable_in_quarantine"]), (&true.into(), &1.into()));
    let said = cell.sotto(&["ledger", "check"]).await.well();
    assert!(said.contains("1 unreadable record(s), all in quarantine"), "{said}");
}

/// What a service keeps aside of a message that it could not handle: its sealed item.
#[derive(Clone, PartialEq, prost::Message)]
struct KeptAside {
    #[prost(message, optional, tag = "10")]
    sealed: Option<WorkBatch>,
}

impl Batch for KeptAside {
    type Item = WorkBatch;

    fn from_items(items: &[WorkBatch]) -> Self {
        Self { sealed: items.first().cloned() }
    }

    fn into_items(self) -> Vec<Result<WorkBatch, WireError>> {
        self.sealed.into_iter().map(Ok).collect()
    }

    fn item_size(_: &WorkBatch) -> usize {
        1_000
    }
}

/// Routing gave up on it before it told any event: it was accepted all the same, and waits for an operator.
pub(crate) async fn a_message_kept_aside_before_its_first_event_is_counted(cell: &Cell) {
    let before = cell.json(&["ledger", "check"]).await.json().remove(0);
    let (key_id, at) = (vec![7_u8; 16], 1_795_000_000_000);
    let mut envelope = vec![1_u8, 1];
    envelope.extend(&key_id);
    envelope.extend([9; 60]);
    let facts = pipeline::Facts {
        message_id: vec![0x81; 16].into(),
        tenant: "acme".to_owned(),
        class: message::MessageClass::Otp.into(),
        country: "VN".to_owned(),
        operator_range: "8498".to_owned(),
        encoding: message::Encoding::Gsm7.into(),
        parts: 1,
        units: 1,
        accepted_at_ms: at,
        expires_at_ms: at + 300_000,
        ..pipeline::Facts::default()
    };
    let wrap = pipeline::KeyWrap {
        key_id: key_id.into(),
        tenant: "acme".to_owned(),
        class: message::MessageClass::Otp.into(),
        bucket: "otp/2026-11-24T06".to_owned(),
        wrapped: vec![5; 40].into(),
    };
    let item =
        pipeline::WorkItem { facts: Some(facts), envelope: envelope.into(), ..pipeline::WorkItem::default() };
    let batch = WorkBatch { key_wraps: vec![wrap], items: vec![item] };
    assert!(batch.clone().into_items().iter().all(Result::is_ok));
    publish_on::<KeptAside>(cell, &Subject::Quarantine(Topic::Accepted), vec![batch]).await;
    let after = cell.json(&["ledger", "check"]).await.json().remove(0);
    let number = |told: &serde_json::Value, what: &str| told[what].as_u64().unwrap();
    assert_eq!(after["balanced"], true, "{after}");
    assert_eq!(number(&after, "accepted"), number(&before, "accepted") + 1, "{after}");
    assert_eq!(number(&after, "quarantined"), number(&before, "quarantined") + 1, "{after}");
}

/// Nobody has it, and all that the log says of its end is that time went by.
pub(crate) async fn a_message_that_only_silence_ended_is_lost(cell: &Cell) {
    let at = Timestamp::from_unix_seconds(1_795_000_000);
    let facts = Facts {
        message: MessageId::from_keyed_hash([7; 16]),
        tenant: "acme".parse().unwrap(),
        class: MessageClass::Otp,
        country: "VN".parse().unwrap(),
        operator_range: "8498".parse().unwrap(),
        encoding: Encoding::Gsm7,
        parts: 1,
        units: 1,
        accepted_at: at,
        expires_at: at.plus(Duration::from_secs(300)),
        content_mac: None,
        send_at: None,
    };
    let id = facts.message;
    let kinds = [EventKind::Accepted(Box::new(facts)), EventKind::Expired { cause: ExpiryCause::Silence }];
    let events = kinds.map(|kind| LogEvent::Delivery(Event { message: id, at, kind }));
    publish::<EventBatch>(cell, events.to_vec()).await;

    let said = cell.json(&["ledger", "check"]).await;
    let told: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&told["balanced"], &told["lost_and_expired_in_silence"]), (&false.into(), &1.into()));
    assert_eq!(told["lost"], serde_json::json!([id.to_string()]));
    let (error, fix) = said.refused();
    assert!(error.contains("1 message(s) lost") && fix.contains("docs/runbooks"), "{error}; {fix}");
    let said = cell.sotto(&["ledger", "check"]).await;
    assert!(said.out.contains(&format!("lost: {id} (counted as expired")), "{said:?}");
    said.refused();
}

fn shards() -> Shards {
    Shards::new(NonZeroU16::new(2).unwrap())
}

async fn publish<B: Batch + 'static>(cell: &Cell, items: Vec<B::Item>) {
    publish_on::<B>(cell, &Subject::Event(shards().iter().next().unwrap()), items).await;
}

/// A connection with the keys that the cell has for one of its services or tools.
pub(crate) async fn connected(cell: &Cell, service: Service) -> Bus {
    let name = service.name();
    let config = NatsConfig {
        url: cell.running()["nats"].as_str().unwrap().to_owned(),
        ca_file: cell.path("tls/ca.pem"),
        cert_file: cell.path(&format!("tls/{name}.pem")),
        key_file: cell.path(&format!("tls/{name}.key")),
        nkey_seed_file: cell.path(&format!("nats/nkeys/{name}.current.seed")),
        connect_timeout_ms: 5_000,
    };
    let options = BusOptions {
        service,
        instance: "test".to_owned(),
        cell: BusCell { id: "test".parse().unwrap(), shards: shards(), replicas: sotto_core::Replicas::One },
        topology: Topology::embedded().unwrap(),
        clock: Arc::new(SystemClock),
        digest: Arc::new(|_| [0; 32]),
    };
    Bus::connect(&config, options).await.unwrap()
}

async fn publish_on<B: Batch + 'static>(cell: &Cell, subject: &Subject, items: Vec<B::Item>) {
    let bus = connected(cell, Service::Routing).await;
    let publisher = Publisher::<B>::new(&bus, PublisherConfig::default());
    for item in items {
        publisher.publish(subject, item).await.unwrap();
    }
    assert!(bus.close(LONG).await);
}
