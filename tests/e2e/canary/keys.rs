//! Only connectors have what is stored opened: nothing that another service has may ask for it, and none holds its keys but
//! ingress, while it seals.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use sotto_bus::{Service, StreamReader};
use sotto_crypto::{
    AeadKey,
    envelope::{self, Binding},
};
use sotto_proto::{
    Batch as _, WorkDelivery,
    message::v1::{MessageClass, SendRequest},
    pipeline::v1::{KeyWrap, WorkBatch},
    privacy::v1::{UnwrapKeysRequest, key_service_client::KeyServiceClient, unwrapped_key::Result as Answer},
};
use sotto_runtime::{grpc, tls::Tls};
use sotto_testkit::{canary::Memory, eventually};
use tonic::{Code, Status};

use crate::{
    cell::{BOUND, Cell},
    load::{accepted_at_last, otp},
    quarantine::bus,
};

/// Asks privacy to open wraps, with this certificate.
pub(crate) async fn ask(cell: &Cell, tls: &Tls, wraps: Vec<KeyWrap>) -> Result<Vec<Answer>, Status> {
    let endpoint = format!("https://{}", cell.address("privacy.grpc"));
    let channel = grpc::channel(&endpoint, tls, "privacy.sotto.internal", BOUND).unwrap();
    let request = UnwrapKeysRequest { account: "simulator".to_owned(), wraps, reply_key: Bytes::new() };
    let answer = KeyServiceClient::new(channel).unwrap_keys(request).await?.into_inner();
    Ok(answer.keys.into_iter().map(|one| one.result.unwrap()).collect())
}

/// The keys in clear, with the certificate of a service.
pub(crate) async fn unwrap(cell: &Cell, service: &str, wraps: Vec<KeyWrap>) -> Result<Vec<[u8; 32]>, Status> {
    let key = |answer| match answer {
        Answer::Key(key) => <[u8; 32]>::try_from(key.as_ref()).unwrap(),
        Answer::Refusal(refusal) => panic!("refused: {refusal}"),
        Answer::Sealed(_) => panic!("it was not asked for sealed keys"),
    };
    Ok(ask(cell, &cell.tls(service), wraps).await?.into_iter().map(key).collect())
}

/// What waits for the carrier.
pub(crate) async fn waiting(cell: &Cell) -> Vec<WorkDelivery> {
    let bus = bus(cell, Service::Operator).await;
    let reader: StreamReader<WorkBatch> = StreamReader::new(&bus, "WAITING").unwrap();
    let state = reader.state().await.unwrap();
    let mut reading = reader.read(state.first.max(1), state.last);
    let mut items = Vec::new();
    while let Some(stored) = reading.next().await.unwrap() {
        items.extend(stored.batch.into_items().into_iter().map(Result::unwrap));
    }
    assert!(bus.close(BOUND).await);
    items
}

fn text_of(item: &WorkDelivery, key: &[u8; 32]) -> Vec<u8> {
    let facts = &item.item.facts;
    let binding = Binding {
        cell: "vn",
        tenant: facts.tenant.as_str(),
        class: facts.class.name(),
        message_id: facts.message.as_bytes(),
        schema: 1,
    };
    envelope::open(&AeadKey::from_bytes(*key), &binding, &item.item.envelope.0).unwrap().to_vec()
}

fn holds(cell: &Cell, process: &str, key: &[u8; 32]) -> Option<String> {
    Memory::of(cell.pid(process)).unwrap().holds(key).unwrap()
}

#[tokio::test]
async fn nobody_but_a_connector_opens_what_waits_and_nobody_else_holds_its_keys() {
    let mut cell = Cell::start().await;
    cell.run(["stop", "--carrier", "simulator"]).await;
    eventually(BOUND, "the stop", async || cell.json(["carriers"]).await[0]["bound_by"] == "stopped").await;
    let (client, token) = (cell.messages(), cell.token("shop").await);
    let send = async |n: u32, class: MessageClass| {
        let mut request: SendRequest = otp(n);
        let message = request.message.as_mut().unwrap();
        message.class = class.into();
        message.text = format!("Don hang {n:06}");
        accepted_at_last(&client, &token, request).await
    };
    let classes = [MessageClass::Otp, MessageClass::Transactional, MessageClass::Promotional];
    let mut ids = Vec::new();
    for (n, class) in (0..).zip(classes) {
        ids.push(send(n, class).await);
    }
    eventually(BOUND, "all to wait for the carrier", async || waiting(&cell).await.len() == ids.len()).await;
    let items = waiting(&cell).await;
    let wraps: BTreeMap<_, _> = items.iter().map(|one| (one.wrap.key_id, one.wrap.clone())).collect();
    let wire: Vec<_> = wraps.values().map(|wrap| KeyWrap::from(wrap.as_ref())).collect();
    let opened = unwrap(&cell, "carrier", wire.clone()).await.unwrap();
    let keys: BTreeMap<_, _> = wraps.keys().copied().zip(opened).collect();
    // They are the keys: what is stored opens. And while a session lasts, one that seals stands in the memory of ingress.
    for item in &items {
        let text = text_of(item, &keys[&item.wrap.key_id]);
        assert!(text.windows(8).any(|window| window == b"Don hang"));
    }
    eventually(BOUND, "a key that seals in the memory of ingress", async || {
        send(9, MessageClass::Transactional).await;
        let items = waiting(&cell).await;
        let wrap = KeyWrap::from(items.last().unwrap().wrap.as_ref());
        let key = unwrap(&cell, "carrier", vec![wrap]).await.unwrap();
        holds(&cell, "ingress", &key[0]).is_some()
    })
    .await;

    // They are not where nobody has any business with them.
    for process in ["routing", "audit", "identity", "nats-server", "redis-server"] {
        for key in keys.values() {
            assert_eq!(holds(&cell, process, key), None, "{process}");
        }
    }
    // With all that ingress has, nobody opens a wrap.
    for service in ["ingress", "routing", "identity", "audit", "operator"] {
        let refused = unwrap(&cell, service, wire.clone()).await.unwrap_err();
        assert!(matches!(refused.code(), Code::PermissionDenied | Code::Unauthenticated), "{refused:?}");
    }
    // They still open for whom they are meant.
    cell.run(["stop", "--carrier", "simulator", "--lift"]).await;
    for id in ids {
        assert_eq!(cell.ended(&id).await["state"], "delivered");
    }
    cell.stop().await;
}

/// What ingress has once a session is over opens nothing that is stored: neither its certificate nor its memory.
#[tokio::test]
async fn when_a_session_is_over_its_key_is_nowhere_in_the_memory_of_ingress() {
    let mut cell = Cell::start_with(async |root| {
        let config = root.join("config/privacy.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{text}\n[session]\nlifetime = \"10 s\"\n")).unwrap();
        None
    })
    .await;
    cell.run(["stop", "--carrier", "simulator"]).await;
    eventually(BOUND, "the stop", async || cell.json(["carriers"]).await[0]["bound_by"] == "stopped").await;
    let (client, token) = (cell.messages(), cell.token("shop").await);
    // Keys of one session after the other: there is more than one place where the last could lie.
    let sent = AtomicU32::new(0);
    let keys: Mutex<BTreeMap<[u8; 16], [u8; 32]>> = Mutex::default();
    eventually(BOUND, "keys of three sessions", async || {
        accepted_at_last(&client, &token, otp(sent.fetch_add(1, Ordering::SeqCst))).await;
        for item in waiting(&cell).await {
            if keys.lock().unwrap().contains_key(&item.wrap.key_id) {
                continue;
            }
            let wrap = vec![KeyWrap::from(item.wrap.as_ref())];
            let key = unwrap(&cell, "carrier", wrap).await.unwrap()[0];
            keys.lock().unwrap().insert(item.wrap.key_id, key);
        }
        keys.lock().unwrap().len() >= 3
    })
    .await;
    eventually(2 * BOUND, "the memory of ingress to be without them", async || {
        keys.lock().unwrap().values().all(|key| holds(&cell, "ingress", key).is_none())
    })
    .await;
    cell.stop().await;
}
