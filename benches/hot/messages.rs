//! The messages that the benches are made of.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sotto_core::{
    Facts, MessageClass, MessageId, Timestamp, WorkItem,
    delivery::{Event, EventKind, ReceiptState},
    text::Encoding,
    work::{Envelope, KeyWrap},
};
use sotto_proto::WorkDelivery;

pub(crate) const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_000_000);

/// A one-time code as a bank writes it: Vietnamese, one part of UCS-2.
pub(crate) const CODE: &str = "Mã xác thực của bạn là 482913. Không chia sẻ mã này.";

pub(crate) fn id(n: u64) -> MessageId {
    let mut id = [7; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    MessageId::from_keyed_hash(id)
}

pub(crate) fn facts(n: u64) -> Facts {
    Facts {
        message: id(n),
        tenant: "acme".parse().unwrap(),
        class: MessageClass::Otp,
        country: "VN".parse().unwrap(),
        operator_range: "8498".parse().unwrap(),
        encoding: Encoding::Ucs2,
        parts: 1,
        units: 53,
        accepted_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(300)),
        content_mac: Some([3; 32]),
        send_at: None,
    }
}

/// A batch as it waits for an account; all its envelopes are sealed with one key.
pub(crate) fn deliveries(count: u64) -> Vec<WorkDelivery> {
    let key_id = [5; 16];
    let wrap = Arc::new(KeyWrap {
        key_id,
        tenant: "acme".parse().unwrap(),
        class: MessageClass::Otp,
        bucket: "otp/2026-11-24T06".to_owned(),
        wrapped: Bytes::from_static(&[9; 62]),
    });
    let one = |n| {
        let mut envelope = vec![1, 1];
        envelope.extend_from_slice(&key_id);
        envelope.extend_from_slice(&[0; 140]);
        let mut item = WorkItem::accepted(facts(n), Envelope(envelope.into()));
        item.attempt = 1;
        item.account = Some("viettel-otp".parse().unwrap());
        WorkDelivery { item, wrap: Arc::clone(&wrap) }
    };
    (0..count).map(one).collect()
}

/// The whole life of a message that is delivered at once.
pub(crate) fn life(n: u64) -> Vec<Event> {
    let facts = facts(n);
    let (attempt, part) = (1, 1);
    let account = || "viettel-otp".parse().unwrap();
    let kinds = [
        EventKind::Accepted(Box::new(facts.clone())),
        EventKind::Routed { attempt, account: account(), table_version: "00ff".to_owned() },
        EventKind::Submitting { attempt, account: account(), parts: vec![part] },
        EventKind::Submitted { attempt, account: account(), part, carrier_id: "0A1B2C3D".to_owned() },
        EventKind::Receipt {
            attempt,
            account: account(),
            part,
            state: ReceiptState::Delivered,
            error: "000".to_owned(),
        },
    ];
    kinds.map(|kind| Event { message: facts.message, at: NOW, kind }).into()
}
