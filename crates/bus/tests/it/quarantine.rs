//! What cannot be handled is kept aside, with no unsealed byte.

use std::sync::Arc;

use prost::Message as _;
use sotto_bus::{
    Delivery, Handler, Outcome, Publisher, PublisherConfig, Quarantine, Service, Worker, topology,
};
use sotto_core::Lane;
use sotto_proto::{
    Batch as _,
    message::v1::{Encoding, MessageClass},
    pipeline::v1::{Facts, KeyWrap, WorkBatch, WorkItem},
};
use sotto_testkit::eventually;

use crate::cell::{BOUND, Script, TestCell, Texts, accepted, accounts, publisher, quick, route, texts, vn};

/// Not protobuf, and a text that must not be found again.
const MALFORMED: &[u8] = b"\xff\xff\xff Ma OTP cua ban la 482913";

#[tokio::test]
async fn malformed_bytes_on_every_consumer_go_to_quarantine_without_them() {
    let cell = TestCell::start().await;
    let publishing = [Service::Ingress, Service::Routing, Service::Carrier];
    let consumers = cell.topology.consumers(&vn(), &accounts()).unwrap();
    let mut workers = Vec::new();
    let mut expected = Vec::new();
    for spec in &consumers {
        // One wildcard token in a filter stands for a shard; in acts, for who tells and the category.
        for filter in &spec.filters {
            let subject = match filter.split_once(".audit.") {
                Some((cell, _)) => format!("{cell}.audit.carrier.keys"),
                None => filter.replace('*', "0"),
            };
            if expected.contains(&subject) {
                continue;
            }
            let service = publishing
                .into_iter()
                .find(|service| {
                    let allowed = topology::permissions(&cell.topology, *service, &vn()).publish;
                    allowed.iter().any(|pattern| crate::permissions::matches(pattern, &subject))
                })
                .unwrap();
            let raw = cell.raw(service).await;
            let answer = raw.client.request(subject.clone(), MALFORMED.into()).await.unwrap();
            assert!(String::from_utf8_lossy(&answer.payload).contains("\"seq\""));
            expected.push(subject);
        }
        let bus = cell.bus(spec.service).await;
        let stream = spec.stream.strip_prefix("VN_").unwrap();
        let name = std::slice::from_ref(&spec.name);
        let worker = Worker::<Texts>::start(&bus, stream, name, Script::all_done(), quick()).await.unwrap();
        workers.push(worker);
    }
    let wanted = expected.len();
    eventually(BOUND, "every record", || async { cell.quarantined().await.len() >= wanted }).await;
    let records = cell.quarantined().await;
    for subject in &expected {
        let record = &records.iter().find(|found| found.record.subject == *subject).unwrap().record;
        assert_eq!(record.error, "not a valid protobuf message");
        assert_eq!(record.size, u64::try_from(MALFORMED.len()).unwrap());
        assert_eq!(record.digest.as_ref(), [u8::try_from(MALFORMED.len()).unwrap(); 32]);
        assert_eq!(record.sealed, None);
        let debug = format!("{record:?}");
        assert!(!debug.contains("482913"), "{debug}");
    }
    for stream in ["INTAKE", "WAITING"] {
        eventually(BOUND, "the work queue to be empty", || async { cell.messages(stream).await == 0 }).await;
    }
    for worker in workers {
        assert!(worker.stop(BOUND).await);
    }
}

#[tokio::test]
async fn an_unreadable_item_does_not_hold_up_its_neighbours() {
    let cell = TestCell::start().await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    publisher.publish_all(&accepted(Lane::Otp), texts(&["a", "bad", "b"])).await.unwrap();
    publisher.publish(&accepted(Lane::Otp), "bad".to_owned()).await.unwrap();
    let script = Script::all_done();
    let worker = route(&cell.bus(Service::Routing).await, &script, quick()).await;
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
    assert_eq!(script.items(), texts(&["a", "b"]));
    let errors: Vec<_> = cell.quarantined().await.into_iter().map(|found| found.record.error).collect();
    assert_eq!(errors.len(), 2);
    assert!(errors.contains(&"item 2 of 3: field `texts` is invalid".to_owned()), "{errors:?}");
}

#[tokio::test]
async fn an_empty_batch_is_no_batch() {
    let cell = TestCell::start().await;
    let raw = cell.raw(Service::Ingress).await;
    raw.client.request("sotto.v1.vn.accepted.otp.0", "".into()).await.unwrap();
    let worker = route(&cell.bus(Service::Routing).await, &Script::all_done(), quick()).await;
    eventually(BOUND, "the record", || async { cell.quarantined().await.len() == 1 }).await;
    assert!(worker.stop(BOUND).await);
}

#[tokio::test]
async fn what_comes_from_outside_leaves_one_record_and_no_byte() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Carrier).await;
    for octets in [MALFORMED, MALFORMED, b"another"] {
        bus.keep_aside("deliver_sm.a", "a receipt without an id".to_owned(), octets).await.unwrap();
    }
    let records = cell.quarantined().await;
    assert_eq!(records.len(), 2, "the same again is one");
    let first = &records.first().unwrap().record;
    assert_eq!((first.subject.as_str(), first.service.as_str()), ("deliver_sm.a", "carrier"));
    assert_eq!(first.error, "a receipt without an id");
    assert_eq!(first.size, u64::try_from(MALFORMED.len()).unwrap());
    assert!(!format!("{first:?}").contains("482913"));
}

/// Refuses every work item.
struct Refusing;

impl Handler<WorkBatch> for Refusing {
    async fn handle(&self, delivery: Delivery<WorkBatch>) -> Vec<Outcome> {
        vec![Outcome::Quarantine { why: "no one wants it".to_owned() }; delivery.items.len()]
    }
}

#[tokio::test]
async fn a_sealed_item_is_kept_whole_and_can_be_listed_and_shown() {
    let cell = TestCell::start().await;
    let batch = sealed_batch();
    let items: Vec<_> = batch.clone().into_items().into_iter().map(Result::unwrap).collect();
    let ingress = cell.bus(Service::Ingress).await;
    let publisher = Publisher::<WorkBatch>::new(&ingress, PublisherConfig::default());
    publisher.publish_all(&accepted(Lane::Otp), items).await.unwrap();
    let routing = cell.bus(Service::Routing).await;
    let consumers = ["routing-otp".to_owned()];
    let worker = Worker::start(&routing, "INTAKE", &consumers, Arc::new(Refusing), quick()).await.unwrap();
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);

    let quarantine = Quarantine::new(&cell.bus(Service::Operator).await).unwrap();
    assert_eq!(quarantine.count().await.unwrap(), 2);
    let listed = quarantine.list(1, 1).await.unwrap();
    assert_eq!(listed.len(), 1);
    let first = quarantine.show(listed.first().unwrap().sequence).await.unwrap().unwrap();
    assert_eq!(first, listed.first().unwrap().record);
    assert_eq!((first.error.as_str(), first.service.as_str()), ("no one wants it", "routing"));
    assert_eq!(first.stream, "VN_INTAKE");
    let sealed = first.sealed.unwrap();
    assert_eq!(sealed.items, batch.items.get(..1).unwrap());
    assert_eq!(sealed.key_wraps, batch.key_wraps);
    assert_eq!(quarantine.show(99).await.unwrap(), None);
}

/// What an unreadable neighbour's record could be mistaken for, and what a newer peer may send.
#[tokio::test]
async fn every_sealed_item_of_a_message_is_kept_read_or_not() {
    let cell = TestCell::start().await;
    let mut batch = sealed_batch();
    // Its key's wrap is missing: this version cannot read it.
    let mut orphan = batch.items[0].clone();
    orphan.envelope = [vec![1, 1], vec![8; 16], vec![9; 60]].concat().into();
    batch.items.insert(0, orphan);
    let ingress = cell.raw(Service::Ingress).await;
    let subject = accepted(Lane::Otp).in_cell(&vn().id);
    ingress.client.request(subject, batch.encode_to_vec().into()).await.unwrap();
    let routing = cell.bus(Service::Routing).await;
    let consumers = ["routing-otp".to_owned()];
    let worker = Worker::start(&routing, "INTAKE", &consumers, Arc::new(Refusing), quick()).await.unwrap();
    eventually(BOUND, "the stream to be empty", || async { cell.messages("INTAKE").await == 0 }).await;
    assert!(worker.stop(BOUND).await);
    let records = cell.quarantined().await;
    let errors: Vec<_> = records.iter().map(|found| found.record.error.as_str()).collect();
    assert_eq!(errors, ["item 1 of 3: field `key_wraps` is missing", "no one wants it", "no one wants it"]);
    let sealed: Vec<_> = records.into_iter().flat_map(|found| found.record.sealed.unwrap().items).collect();
    assert_eq!(sealed, batch.items);
}

fn sealed_batch() -> WorkBatch {
    let key_id = vec![7_u8; 16];
    let mut envelope = vec![1_u8, 1];
    envelope.extend(&key_id);
    envelope.extend([9; 60]);
    let item = |n: u8| WorkItem {
        facts: Some(Facts {
            message_id: vec![n; 16].into(),
            tenant: "acme".to_owned(),
            class: MessageClass::Otp.into(),
            country: "VN".to_owned(),
            operator_range: "8498".to_owned(),
            encoding: Encoding::Gsm7.into(),
            parts: 1,
            units: 10,
            accepted_at_ms: 1_795_493_815_007,
            expires_at_ms: 1_795_493_915_007,
            content_mac: Vec::new().into(),
            send_at_ms: 0,
        }),
        envelope: envelope.clone().into(),
        ..WorkItem::default()
    };
    WorkBatch {
        key_wraps: vec![KeyWrap {
            key_id: key_id.into(),
            tenant: "acme".to_owned(),
            class: MessageClass::Otp.into(),
            bucket: "otp/2026-11-24T06".to_owned(),
            wrapped: vec![5; 40].into(),
        }],
        items: vec![item(0x81), item(0x82)],
    }
}
