//! What goes onto the wire comes back the same; what should not be there is refused, and nothing personal is printed.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;

use bytes::Bytes;
use proptest::{prelude::*, strategy::ValueTree as _};
use prost::Message as _;
use sotto_core::{
    AccountId, Facts, MessageClass, MessageId, Timestamp, WorkItem,
    delivery::{Event, EventKind, ExpiryCause, ReceiptState, RejectCause},
    inbound::{Inbound, InboundWrap, OptOut},
    index::{IndexEntry, IndexKey},
    text::Encoding,
    work::{Attempt, AttemptEnd, Envelope, KeyWrap},
};
use sotto_proto::{
    Batch, InboundDelivery, IndexDelivery, LogEvent, WireError, WorkDelivery, message::v1 as public,
    pipeline::v1 as wire,
};

fn facts() -> impl Strategy<Value = Facts> {
    (any::<[u8; 16]>(), 1_u8..=10, any::<Option<[u8; 32]>>(), 0_i64..4_000_000_000_000).prop_map(
        |(id, parts, content_mac, at)| Facts {
            message: MessageId::from_keyed_hash(id),
            tenant: "acme".parse().unwrap(),
            class: MessageClass::Promotional,
            country: "VN".parse().unwrap(),
            operator_range: "8498".parse().unwrap(),
            encoding: Encoding::Ucs2,
            parts,
            units: 70,
            accepted_at: Timestamp::from_unix_millis(at),
            expires_at: Timestamp::from_unix_millis(at + 300_000),
            content_mac,
            send_at: (parts > 1).then(|| Timestamp::from_unix_millis(at + 1)),
        },
    )
}

fn account() -> AccountId {
    "viettel-otp".parse().unwrap()
}

fn wrap(key_id: [u8; 16]) -> Arc<KeyWrap> {
    Arc::new(KeyWrap {
        key_id,
        tenant: "acme".parse().unwrap(),
        class: MessageClass::Otp,
        bucket: "otp/2026-11-24T06".to_owned(),
        wrapped: Bytes::from_static(&[9; 62]),
    })
}

fn delivery() -> impl Strategy<Value = WorkDelivery> {
    (facts(), 0_u8..3, any::<bool>(), 0_u16..40).prop_map(|(facts, key, pinned, attempt)| {
        let key_id = [key; 16];
        let mut envelope = vec![1, 1];
        envelope.extend_from_slice(&key_id);
        envelope.extend_from_slice(&[0; 60]);
        let mut item = WorkItem::accepted(facts, Envelope(envelope.into()));
        item.parts = vec![1];
        item.attempt = attempt;
        item.pinned = pinned;
        item.account = pinned.then(account);
        item.not_before = pinned.then(|| Timestamp::from_unix_millis(77));
        item.history.push(Attempt {
            number: 1,
            account: account(),
            end: AttemptEnd::Throttled,
            status: 0x58,
        });
        WorkDelivery { item, wrap: wrap(key_id) }
    })
}

fn event_kind() -> impl Strategy<Value = EventKind> {
    let attempt = 1_u16..;
    let part = 1_u8..;
    prop_oneof![
        facts().prop_map(|facts| EventKind::Accepted(Box::new(facts))),
        attempt.clone().prop_map(|attempt| EventKind::Routed {
            attempt,
            account: account(),
            table_version: "00ff".to_owned()
        }),
        (attempt.clone(), part.clone()).prop_map(|(attempt, part)| EventKind::Submitting {
            attempt,
            account: account(),
            parts: vec![part]
        }),
        (attempt.clone(), part.clone()).prop_map(|(attempt, part)| EventKind::Submitted {
            attempt,
            account: account(),
            part,
            carrier_id: "A1".to_owned()
        }),
        (attempt.clone(), part.clone(), any::<u32>()).prop_map(|(attempt, part, status)| {
            EventKind::Refused { attempt, account: account(), part, status, retried: true }
        }),
        attempt.clone().prop_map(|attempt| EventKind::Unsent {
            attempt,
            account: account(),
            end: AttemptEnd::LinkDown,
            parts: vec![1]
        }),
        (attempt.clone(), part.clone()).prop_map(|(attempt, part)| EventKind::NoResponse {
            attempt,
            account: account(),
            part
        }),
        (attempt, part, proptest::sample::select(ReceiptState::ALL.to_vec())).prop_map(
            |(attempt, part, state)| EventKind::Receipt {
                attempt,
                account: account(),
                part,
                state,
                error: "000".to_owned()
            }
        ),
        proptest::sample::select(ExpiryCause::ALL.to_vec()).prop_map(|cause| EventKind::Expired { cause }),
        proptest::sample::select(RejectCause::ALL.to_vec()).prop_map(|cause| EventKind::Rejected { cause }),
        Just(EventKind::Cancelled),
        Just(EventKind::ClosedUnknown),
        Just(EventKind::Doubted),
    ]
}

proptest! {
    #[test]
    fn work_survives_the_wire(items in proptest::collection::vec(delivery(), 0..20)) {
        let bytes = wire::WorkBatch::from_items(&items).encode_to_vec();
        let batch = wire::WorkBatch::decode(bytes.as_slice()).unwrap();
        prop_assert!(batch.key_wraps.len() <= 3, "each wrap travels once");
        let back: Result<Vec<_>, _> = batch.into_items().into_iter().collect();
        prop_assert_eq!(back.unwrap(), items.clone());
        let estimate: usize = items.iter().map(wire::WorkBatch::item_size).sum();
        prop_assert!(bytes.len() <= estimate + 3 * 256, "{} > {}", bytes.len(), estimate);
    }

    #[test]
    fn events_survive_the_wire(kinds in proptest::collection::vec(event_kind(), 0..20)) {
        let events: Vec<_> = kinds
            .into_iter()
            .map(|kind| LogEvent::Delivery(Event {
                message: MessageId::from_keyed_hash([3; 16]),
                at: Timestamp::from_unix_millis(5),
                kind,
            }))
            .collect();
        let bytes = wire::EventBatch::from_items(&events).encode_to_vec();
        let back: Result<Vec<_>, _> =
            wire::EventBatch::decode(bytes.as_slice()).unwrap().into_items().into_iter().collect();
        prop_assert_eq!(back.unwrap(), events);
    }

    #[test]
    fn any_bytes_are_refused_or_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(batch) = wire::WorkBatch::decode(bytes.as_slice()) {
            drop(batch.into_items());
        }
        if let Ok(batch) = wire::EventBatch::decode(bytes.as_slice()) {
            drop(batch.into_items());
        }
    }
}

#[test]
fn parked_receipts_survive_the_wire() {
    let parked = LogEvent::ParkedReceipt {
        at: Timestamp::from_unix_millis(5),
        account: account(),
        carrier_id: "0123456789".to_owned(),
        state: ReceiptState::Delivered,
        error: "000".to_owned(),
    };
    let batch = wire::EventBatch::from_items(std::slice::from_ref(&parked));
    assert_eq!(batch.into_items(), [Ok(parked)]);
}

#[test]
fn messages_from_handsets_survive_the_wire() {
    let mut envelope = vec![1, 1];
    envelope.extend_from_slice(&[7; 16]);
    let wrap = InboundWrap {
        key_id: [7; 16],
        tenant: "acme".parse().unwrap(),
        bucket: "inbound/2026-11-30".to_owned(),
        wrapped: bytes::Bytes::from_static(b"wrap"),
    };
    let item = |opt_out| InboundDelivery {
        item: Inbound {
            id: MessageId::from_keyed_hash([3; 16]),
            tenant: "acme".parse().unwrap(),
            account: account(),
            received_at: Timestamp::from_unix_millis(5),
            envelope: Envelope(envelope.clone().into()),
            opt_out,
        },
        wrap: Arc::new(wrap.clone()),
    };
    let items: Vec<_> = OptOut::ALL.into_iter().map(Some).chain([None]).map(item).collect();
    let batch = wire::InboundBatch::from_items(&items);
    assert_eq!(batch.key_wraps.len(), 1);
    assert_eq!(batch.clone().into_items(), items.into_iter().map(Ok).collect::<Vec<_>>());
    let mut alone = batch.clone();
    alone.key_wraps.clear();
    assert!(alone.into_items().iter().all(|item| *item == Err(WireError::Missing("key_wraps"))));
    let mut unknown = batch;
    unknown.items.truncate(1);
    unknown.items[0].opt_out = "HELLO".to_owned();
    assert_eq!(unknown.into_items(), [Err(WireError::Invalid("inbound.opt_out"))]);
}

#[test]
fn entries_of_the_index_survive_the_wire_and_name_their_key_once() {
    let key = |id, tenant: &str| {
        let bucket = "index/2027-02-27".to_owned();
        Arc::new(IndexKey { key_id: [id; 16], tenant: tenant.parse().unwrap(), bucket })
    };
    let (acme, other) = (key(1, "acme"), key(2, "other"));
    let item = |id, key: &Arc<IndexKey>| IndexDelivery {
        entry: IndexEntry::new(MessageId::from_keyed_hash([id; 16]), vec![id; 78]),
        key: Arc::clone(key),
    };
    let items = [item(1, &acme), item(2, &other), item(3, &acme)];
    let batch = wire::IndexBatch::from_items(&items);
    assert_eq!(batch.groups.len(), 2);
    let back: Vec<_> = batch.clone().into_items().into_iter().map(Result::unwrap).collect();
    assert_eq!(back, [items[0].clone(), items[2].clone(), items[1].clone()]);
    let mut wrong = batch;
    wrong.groups[0].key_id = Bytes::from_static(&[1; 15]);
    wrong.groups[1].entries[0].message_id = Bytes::from_static(&[1; 15]);
    assert!(wrong.into_items().iter().all(Result::is_err));
}

#[test]
fn an_opt_out_survives_the_wire() {
    for keyword in OptOut::ALL {
        let event = LogEvent::OptOut {
            message: MessageId::from_keyed_hash([3; 16]),
            at: Timestamp::from_unix_millis(5),
            tenant: "acme".parse().unwrap(),
            account: account(),
            keyword,
        };
        let batch = wire::EventBatch::from_items(std::slice::from_ref(&event));
        assert_eq!(batch.into_items(), [Ok(event)]);
    }
}

#[test]
fn an_item_without_its_wrap_is_refused_and_its_peers_are_not() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut next = || delivery().new_tree(&mut runner).unwrap().current();
    let (mut one, mut two) = (next(), next());
    for (delivery, key) in [(&mut one, 1), (&mut two, 2)] {
        let mut envelope = vec![1, 1];
        envelope.extend_from_slice(&[key; 16]);
        delivery.item.envelope = Envelope(envelope.into());
        delivery.wrap = wrap([key; 16]);
    }
    let mut batch = wire::WorkBatch::from_items(&[one.clone(), two]);
    batch.key_wraps.truncate(1);
    assert_eq!(batch.into_items(), [Ok(one), Err(WireError::Missing("key_wraps"))]);
}

#[test]
fn sensitive_messages_print_nothing() {
    let message = public::OutboundMessage {
        to: "+84912345678".to_owned(),
        from: "ACMEBANK".to_owned(),
        text: "482913".to_owned(),
        ..Default::default()
    };
    let request = public::SendRequest {
        message: Some(message),
        idempotency_key: "84912345678-1".to_owned(),
        ..Default::default()
    };
    let streamed = public::SendStreamRequest {
        reference: 1,
        message: request.message.clone(),
        idempotency_key: request.idempotency_key.clone(),
    };
    let submission =
        public::Submission { access_token: "eyJhbGciOi".to_owned(), messages: vec![streamed.clone()] };
    let content = wire::SealedContent {
        to: "84912345678".to_owned(),
        from: "ACMEBANK".to_owned(),
        text: "482913".to_owned(),
    };
    let printed = format!("{request:?} {streamed:?} {submission:?} {content:?}");
    for secret in ["84912345678", "ACMEBANK", "482913", "eyJhbGciOi"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
