//! Entries of the index on a real broker, and the way from a number to its messages.

use std::sync::atomic::Ordering;

use serde_json::json;
use sotto_bus::{Bus, Service as Party, StreamReader, Topology};
use sotto_core::{
    Clock as _, MessageId, SystemClock,
    index::{Indexed, PSEUDONYM_LABEL, hour_begins},
};
use sotto_crypto::{
    AeadKey, MacKey,
    envelope::{self, Binding},
};
use sotto_proto::{
    Batch as _, IndexDelivery,
    pipeline::v1::{AuditBatch, IndexBatch},
    privacy::v1::{FindSubjectResponse, IndexedMessage},
};
use sotto_testkit::{eventually, eventually_ok};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    cell::{BOUND, INDEX, PSEUDONYMS, SEALING},
    clients::{World, with_key},
    tokens,
};

const NUMBER: &str = "+84912345678";

fn pseudonym(key: [u8; 32]) -> [u8; 16] {
    MacKey::from_bytes(key).keyed_id(PSEUDONYM_LABEL, &[&NUMBER.as_bytes()[1..]])
}

async fn entries(bus: &Bus) -> Vec<IndexDelivery> {
    let reader: StreamReader<IndexBatch> = StreamReader::new(bus, "INDEX").unwrap();
    let last = reader.state().await.unwrap().last;
    let (mut reading, mut all) = (reader.read(1, last), Vec::new());
    while let Some(stored) = reading.next().await.unwrap() {
        all.extend(stored.batch.into_items().into_iter().map(Result::unwrap));
    }
    all
}

/// Action and outcome of what ingress told of the index.
async fn told(bus: &Bus) -> Vec<(String, String)> {
    let reader: StreamReader<AuditBatch> = StreamReader::new(bus, "AUDIT").unwrap();
    let last = reader.state().await.unwrap().last;
    let (mut reading, mut all) = (reader.read(1, last), Vec::new());
    while let Some(stored) = reading.next().await.unwrap() {
        let records = stored.batch.records.into_iter().filter(|one| one.action.starts_with("index."));
        all.extend(records.map(|one| (one.action, one.outcome)));
    }
    all
}

fn acts(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(action, outcome)| ((*action).to_owned(), (*outcome).to_owned())).collect()
}

/// Until the process has found that there is an index.
async fn indexed(world: &World, bus: &Bus) {
    let client = world.client();
    eventually(BOUND, "an entry", async || {
        client.send(with_key("")).await.unwrap();
        !entries(bus).await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_message_has_an_entry_that_opens_with_its_keys_before_it_is_accepted() {
    let world = World::start("").await;
    let bus = world.broker.bus(&world.pki, Party::Operator).await;
    indexed(&world, &bus).await;
    let sent = world.client().send(with_key("k")).await.unwrap();
    let id: MessageId = sent.message_id.parse().unwrap();
    let all = entries(&bus).await;
    let IndexDelivery { entry, key } = all.iter().find(|one| one.entry.message == id).unwrap();
    assert_eq!((key.bucket.as_str(), key.tenant.as_str(), key.key_id), (INDEX[0], "acme", [9; 16]));
    let binding =
        Binding { cell: "vn", tenant: "acme", class: "index", message_id: id.as_bytes(), schema: 1 };
    let opened = envelope::open(&AeadKey::from_bytes(SEALING), &binding, &entry.envelope.0).unwrap();
    let opened = Indexed::from_bytes(&opened).unwrap();
    assert_eq!(opened.pseudonym.0, pseudonym(PSEUDONYMS[0]));
    assert!(SystemClock.now().since(hour_begins(opened.hour)).as_secs() < 2 * 3600);
    // Neither the number nor what stands for it is to be seen.
    let reader: StreamReader<IndexBatch> = StreamReader::new(&bus, "INDEX").unwrap();
    let last = reader.state().await.unwrap().last;
    let mut reading = reader.read(1, last);
    let holds = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|part| part == what);
    while let Some(stored) = reading.next_message().await.unwrap() {
        assert!(!holds(&stored.payload, &NUMBER.as_bytes()[1..]));
        assert!(!holds(&stored.payload, &pseudonym(PSEUDONYMS[0])));
    }
    assert_eq!(told(&bus).await, acts(&[]));
    bus.close(BOUND).await;
    world.stop().await;
}

#[tokio::test]
async fn messages_are_accepted_without_an_entry_while_privacy_gives_no_key_and_that_is_told() {
    let world = World::start("").await;
    let bus = world.broker.bus(&world.pki, Party::Operator).await;
    world.peers.keys.indexless.store(true, Ordering::SeqCst);
    let client = world.client();
    let unindexed = client.send(with_key("k")).await.unwrap().message_id;
    eventually(BOUND, "the gap in the audit log", async || {
        client.send(with_key("")).await.unwrap();
        told(&bus).await == acts(&[("index.interrupted", "no_key")])
    })
    .await;
    world.peers.keys.indexless.store(false, Ordering::SeqCst);
    indexed(&world, &bus).await;
    eventually(BOUND, "its end", async || {
        told(&bus).await == acts(&[("index.interrupted", "no_key"), ("index.resumed", "ok")])
    })
    .await;
    assert!(entries(&bus).await.iter().all(|one| one.entry.message.to_string() != unindexed));
    bus.close(BOUND).await;
    world.stop().await;
}

#[tokio::test]
async fn a_cell_from_before_the_index_takes_messages_as_it_did() {
    let mut before = Topology::embedded().unwrap();
    before.streams.retain(|stream| stream.name != "INDEX");
    let world = World::start_in("", &before).await;
    let bus = world.broker.bus(&world.pki, Party::Operator).await;
    let client = world.client();
    let sent = client.send(with_key("k")).await.unwrap();
    client.get(&sent.message_id).await.unwrap();
    eventually(BOUND, "a word of it", async || told(&bus).await == acts(&[("index.interrupted", "missing")]))
        .await;
    bus.close(BOUND).await;
    world.stop().await;
}

#[tokio::test]
async fn a_number_finds_messages_by_every_key_that_lives_and_does_not_leave_ingress() {
    let world = World::start("").await;
    let mut claims = tokens::claims("acme", SystemClock.now());
    claims["scope"] = json!("subject:read");
    let officer = world.client_with(&claims);
    let id = MessageId::from_keyed_hash([7; 16]);
    *world.peers.keys.found.lock().unwrap() = FindSubjectResponse {
        messages: vec![IndexedMessage { message_id: id.as_bytes().to_vec().into(), hour: 480_000 }],
        next: 77,
    };
    let found = eventually_ok(BOUND, "an answer", async || officer.find(NUMBER, "").await).await;
    assert_eq!(found.next_page_token, "77");
    let [message] = found.messages.as_slice() else { panic!("{found:?}") };
    assert_eq!(message.message_id, id.to_string());
    assert_eq!(message.accepted_from.map(|at| at.seconds), Some(480_000 * 3600));
    officer.find(NUMBER, "77").await.unwrap();
    let asked = world.peers.keys.asked.lock().unwrap().clone();
    let [first, second] = asked.as_slice() else { panic!("{}", asked.len()) };
    assert_eq!((first.tenant.as_str(), first.client.as_str(), first.from), ("acme", "client-1", 0));
    assert_eq!(second.from, 77);
    let by: Vec<_> =
        first.pseudonyms.iter().map(|one| (one.bucket.as_str(), one.pseudonym.to_vec())).collect();
    assert_eq!(by, [0, 1].map(|at| (INDEX[at], pseudonym(PSEUDONYMS[at]).to_vec())));

    // Who may send and read may not ask by number, and who may ask by number may do nothing else.
    let refused = world.client().find(NUMBER, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(officer.send(with_key("")).await.unwrap_err().code(), Code::PermissionDenied);
    for (number, token, field, reason) in [
        ("0912345678", "", "number", "NUMBER_NOT_INTERNATIONAL"),
        (NUMBER, "x", "page_token", "PAGE_TOKEN_INVALID"),
    ] {
        let refused = officer.find(number, token).await.unwrap_err();
        let bad = refused.get_details_bad_request().unwrap().field_violations.remove(0);
        assert_eq!((bad.field.as_str(), bad.reason.as_str()), (field, reason));
        assert!(!refused.message().contains("912345678"));
    }
    world.stop().await;
}
