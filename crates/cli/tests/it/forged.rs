//! What a broken or hostile service could put into the log, published with a service's own keys.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use sotto_bus::{
    Bus, BusOptions, NatsConfig, Publisher, PublisherConfig, Service, Subject, Topology,
    topology::Cell as BusCell,
};
use sotto_core::{
    Facts, MessageClass, MessageId, Shards, SystemClock, Timestamp,
    delivery::{Event, EventKind},
    text::Encoding,
};
use sotto_proto::{Batch, LogEvent, WireError, pipeline::v1::EventBatch};
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
    };
    let message = facts.message;
    let kinds = [EventKind::Accepted(Box::new(facts)), EventKind::Expired { in_silence: true }];
    let events = kinds.map(|kind| LogEvent::Delivery(Event { message, at, kind }));
    publish::<EventBatch>(cell, events.to_vec()).await;

    let said = cell.json(&["ledger", "check"]).await;
    let told: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&told["balanced"], &told["lost_and_expired_in_silence"]), (&false.into(), &1.into()));
    assert_eq!(told["lost"], serde_json::json!([message.to_string()]));
    let (error, fix) = said.refused();
    assert!(error.contains("1 message(s) lost") && fix.contains("docs/runbooks"), "{error}; {fix}");
    let said = cell.sotto(&["ledger", "check"]).await;
    assert!(said.out.contains(&format!("lost: {message} (counted as expired")), "{said:?}");
    said.refused();
}

async fn publish<B: Batch + 'static>(cell: &Cell, items: Vec<B::Item>) {
    let path = |file: &str| cell.path(file);
    let config = NatsConfig {
        url: cell.running()["nats"].as_str().unwrap().to_owned(),
        ca_file: path("tls/ca.pem"),
        cert_file: path("tls/routing.pem"),
        key_file: path("tls/routing.key"),
        nkey_seed_file: path("nats/nkeys/routing.current.seed"),
        connect_timeout_ms: 5_000,
    };
    let shards = Shards::new(NonZeroU16::new(2).unwrap());
    let options = BusOptions {
        service: Service::Routing,
        instance: "test".to_owned(),
        cell: BusCell { id: "test".parse().unwrap(), shards, replicas: 1 },
        topology: Topology::embedded().unwrap(),
        clock: Arc::new(SystemClock),
        digest: Arc::new(|_| [0; 32]),
    };
    let bus = Bus::connect(&config, options).await.unwrap();
    let publisher = Publisher::<B>::new(&bus, PublisherConfig::default());
    let subject = Subject::Event(shards.iter().next().unwrap());
    for item in items {
        publisher.publish(&subject, item).await.unwrap();
    }
    assert!(bus.close(LONG).await);
}
