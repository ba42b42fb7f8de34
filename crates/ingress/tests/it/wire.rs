//! What clients meet: tokens judged, requests closed to what the schema does not have, paces, health.

use bytes::Bytes;
use serde_json::{Value, json};
use sotto_bus::{Publisher, PublisherConfig, Service as Party, Subject};
use sotto_core::{
    Clock as _, MessageId, SystemClock,
    delivery::{Event, EventKind},
};
use sotto_crypto::sign::SigningKey;
use sotto_proto::{
    LogEvent,
    message::v1::{Encoding, MessageState, OutboundMessage, PartState, SendRequest},
    pipeline::v1::EventBatch,
};
use sotto_testkit::{eventually, eventually_ok};
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::{
    cell::{self, BOUND},
    clients::{Client, World, and, around, code, with_key},
    tokens,
};

fn challenge(status: &Status) -> &str {
    status.metadata().get("www-authenticate").map_or("none", |value| value.to_str().unwrap())
}

fn violations(status: &Status) -> Vec<(String, String)> {
    let bad = status.get_details_bad_request().unwrap();
    bad.field_violations.into_iter().map(|it| (it.field, it.reason)).collect()
}

fn changed(name: &str, value: Value) -> Value {
    let mut claims = tokens::claims("acme", SystemClock.now());
    claims[name] = value;
    claims
}

#[tokio::test]
async fn tokens_are_judged_with_the_standard_errors() {
    let world = World::start("").await;
    let now = SystemClock.now().unix_seconds();
    let good = tokens::claims("acme", SystemClock.now());
    let stranger = SigningKey::from_seed(&[8; 32]).unwrap();
    for (why, token) in [
        ("expired", tokens::token(&changed("exp", json!(now - 31)))),
        ("not yet", tokens::token(&changed("iat", json!(now + 60)))),
        ("wrong audience", tokens::token(&changed("aud", json!("another-cell")))),
        ("wrong issuer", tokens::token(&changed("iss", json!("https://evil.test")))),
        ("no tenant", tokens::token(&changed("tenant", json!(7)))),
        ("forged", tokens::signed_by(&stranger, &good)),
        ("cut", tokens::token(&good)[1..].to_owned()),
        ("no token", "x".to_owned()),
        ("too long", "x".repeat(9_000)),
    ] {
        let client = Client::new(world.channel(), &token);
        for refused in [client.send(with_key("")).await.unwrap_err(), client.get("x").await.unwrap_err()] {
            assert_eq!(refused.code(), Code::Unauthenticated, "{why}: {refused:?}");
            assert_eq!(challenge(&refused), "Bearer error=\"invalid_token\"", "{why}");
        }
        let streamed = client.stream(futures::stream::empty()).await.unwrap_err();
        assert_eq!(streamed.code(), Code::Unauthenticated, "{why}");
    }

    let mut stub =
        sotto_proto::message::v1::message_service_client::MessageServiceClient::new(world.channel());
    let missing = stub.send(with_key("")).await.unwrap_err();
    assert_eq!((missing.code(), challenge(&missing)), (Code::Unauthenticated, "Bearer"));

    let reader = world.client_with(&changed("scope", json!("message:read")));
    let refused = reader.send(with_key("")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(challenge(&refused), "Bearer error=\"insufficient_scope\", scope=\"message:send\"");
    let sender = world.client_with(&changed("scope", json!("message:send")));
    let sent = sender.send(with_key("")).await.unwrap();
    assert_eq!(sender.get(&sent.message_id).await.unwrap_err().code(), Code::PermissionDenied);

    // A token within the skew is still good.
    let late = world.client_with(&changed("exp", json!(now - 5)));
    late.send(with_key("")).await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn a_message_is_found_by_its_tenant_alone() {
    let world = World::start("").await;
    let client = world.client();
    let sent = client.send(with_key("k")).await.unwrap();
    let found = client.get(&sent.message_id).await.unwrap();
    assert_eq!((found.message_id, found.state), (sent.message_id.clone(), MessageState::Accepted.into()));
    assert_eq!(found.country, "VN");
    let foreign = world.client_with(&tokens::claims("other", SystemClock.now()));
    let refused = foreign.get(&sent.message_id).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let invalid = client.get("not an id").await.unwrap_err();
    assert_eq!(violations(&invalid), [("message_id".to_owned(), "MESSAGE_ID_INVALID".to_owned())]);

    let again = client.send(with_key("k")).await.unwrap();
    assert_eq!((again.message_id, again.repeated), (sent.message_id, true));
    let mut other = with_key("k");
    other.message.as_mut().unwrap().text.push('!');
    assert_eq!(client.send(other).await.unwrap_err().code(), Code::AlreadyExists);
    world.stop().await;
}

#[tokio::test]
async fn nothing_is_read_of_strangers_nor_of_more_calls_than_there_may_be() {
    let world = World::start("load.in_flight = 1\nload.reads_in_flight = 1\nload.stall = '2 s'\n").await;
    let stranger = Client::new(world.channel(), "x");
    // Its request never comes to an end; the answer does not wait for that.
    let refused = timeout(BOUND, stranger.send_nothing()).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let client = world.client();
    let (one, two) = (client.send_nothing(), client.send_nothing());
    let others = async {
        eventually(BOUND, "a refusal", async || {
            let refused = client.get("x").await.unwrap_err();
            refused.code() == Code::ResourceExhausted
        })
        .await;
    };
    let (one, two, ()) = tokio::join!(one, two, others);
    // They are not waited for for ever.
    for given_up in [one.unwrap_err(), two.unwrap_err()] {
        assert_eq!(given_up.code(), Code::DeadlineExceeded, "{given_up:?}");
    }
    assert_eq!(client.get("x").await.unwrap_err().code(), Code::InvalidArgument);
    world.stop().await;
}

#[tokio::test]
async fn what_happens_to_a_message_is_told() {
    let world = World::start("").await;
    let client = world.client();
    let sent = client.send(with_key("")).await.unwrap();
    let message: MessageId = sent.message_id.parse().unwrap();
    // Routing's words, as the log has them.
    let routing = world.broker.bus(&world.pki, Party::Routing).await;
    let shard = cell::shards().of(&message);
    let event = |kind| LogEvent::Delivery(Event { message, at: SystemClock.now(), kind });
    let account = "one".parse().unwrap();
    let events = vec![
        event(EventKind::Routed { attempt: 1, account, table_version: "t1".to_owned() }),
        event(EventKind::Cancelled),
    ];
    let publisher = Publisher::<EventBatch>::new(&routing, PublisherConfig::default());
    let stored = publisher.publish_all(&Subject::Event(shard), events).await.unwrap();
    let found = eventually_ok(BOUND, "the end", async || {
        let found = client.get(&sent.message_id).await.map_err(|status| status.to_string())?;
        (found.state() == MessageState::Cancelled).then_some(found).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let told: Vec<_> = found
        .journey
        .iter()
        .map(|step| (step.kind.as_str(), step.account.as_str(), step.event_sequence))
        .collect();
    let sequence = stored.stream_sequence;
    assert_eq!(told, [("accepted", "", 0), ("routed", "one", sequence), ("cancelled", "", sequence)]);
    assert_eq!(found.parts.len(), 1);
    assert_eq!(found.parts[0].state(), PartState::Cancelled, "it was never submitted, and never will be");
    world.stop().await;
}

#[tokio::test]
async fn a_message_that_is_only_checked_is_told_its_cost_and_not_stored() {
    let world = World::start("").await;
    let client = world.client();
    let text = "M\u{e3} x\u{e1}c th\u{1ef1}c: 482913".to_owned();
    let asked = |transliterate| SendRequest {
        message: Some(OutboundMessage { text: text.clone(), transliterate, ..code() }),
        idempotency_key: "preview".to_owned(),
        validate_only: true,
    };
    let as_it_is = client.send(asked(false)).await.unwrap();
    assert_eq!((as_it_is.message_id.as_str(), as_it_is.encoding()), ("", Encoding::Ucs2));
    assert!(!as_it_is.transliterated && as_it_is.accepted_at.is_none() && as_it_is.expires_at.is_some());
    let plain = client.send(asked(true)).await.unwrap();
    assert_eq!((plain.encoding(), plain.parts, plain.transliterated), (Encoding::Gsm7, 1, true));
    // The key is not used up: another content may have it.
    let sent = client.send(with_key("preview")).await.unwrap();
    assert!(!sent.message_id.is_empty() && !sent.repeated);
    let faulty = SendRequest { validate_only: true, ..SendRequest::default() };
    assert_eq!(client.send(faulty).await.unwrap_err().code(), Code::InvalidArgument);
    world.stop().await;
}

#[tokio::test]
async fn a_request_holds_only_what_the_schema_has() {
    let world = World::start("").await;
    let client = world.client();
    let mut nested = prost::Message::encode_to_vec(&code());
    nested.extend([0x7a, 1, b'x']);
    let cases: Vec<(Bytes, &str, &str)> = vec![
        (and(&with_key(""), &[0x98, 0x06, 1]), "99", "UNKNOWN_FIELD"),
        (around(&nested), "message.15", "UNKNOWN_FIELD"),
        (around(&[0x1a, 2, 0xc3, 0x28]), "message.text", "NOT_UTF8"),
        (around(&[0x0a, 1, 0xff]), "message.to", "NOT_UTF8"),
        (around(&[0x18, 1]), "message.text", "WIRE_TYPE"),
        (Bytes::from_static(&[0x10, 1]), "idempotency_key", "WIRE_TYPE"),
        (Bytes::from_static(&[0x0a, 9, 1]), "", "MALFORMED"),
    ];
    for (bytes, field, reason) in cases {
        let refused = client.send_raw(bytes).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{reason} {field}: {refused:?}");
        assert_eq!(violations(&refused), [(field.to_owned(), reason.to_owned())]);
    }
    // The same bytes without fault are a message.
    client.send_raw(and(&with_key(""), &[])).await.unwrap();

    let long = OutboundMessage { text: "x".repeat(17 * 1024), ..code() };
    let refused = client
        .send(SendRequest { message: Some(long), idempotency_key: String::new(), ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    let empty = client.send(SendRequest::default()).await.unwrap_err();
    assert_eq!(violations(&empty), [("message".to_owned(), "MESSAGE_MISSING".to_owned())]);
    world.stop().await;
}

#[tokio::test]
async fn who_asks_too_fast_is_told_when_to_come_again() {
    let world = World::start(
        "rate.per_second = 1\nrate.burst = 2\nrate.reads_per_second = 1\nrate.reads_burst = 3\n",
    )
    .await;
    let client = world.client();
    let sent = client.send(with_key("")).await.unwrap();
    client.send(with_key("")).await.unwrap();
    let refused = client.send(with_key("")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
    // Another tenant has a pace of its own.
    world.client_with(&tokens::claims("other", SystemClock.now())).send(with_key("")).await.unwrap();

    for _ in 0..3 {
        client.get(&sent.message_id).await.unwrap();
    }
    let refused = client.get(&sent.message_id).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
    world.stop().await;
}

#[tokio::test]
async fn health_is_told_of_the_service_and_of_the_server_until_the_drain() {
    let world = World::start("").await;
    let mut health = HealthClient::new(world.channel());
    let mut watched = Vec::new();
    for service in ["", "sotto.message.v1.MessageService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        eventually(BOUND, "serving", async || {
            let now = health.clone().check(request.clone()).await;
            now.is_ok_and(|now| now.into_inner().status() == ServingStatus::Serving)
        })
        .await;
        let mut watch = health.watch(request).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        watched.push(watch);
    }
    world.context.stop.request();
    for mut watch in watched {
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    }
    drop(health);
    world.stop().await;
}

#[tokio::test]
async fn reflection_shows_the_public_packages_alone() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let world = World::start("").await;
    let mut client = ServerReflectionClient::new(world.channel());
    let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let requests = futures::stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("grpc.health.v1.Health".to_owned())),
        ask(MessageRequest::FileContainingSymbol("sotto.pipeline.v1.WorkBatch".to_owned())),
    ]);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let list = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = list else { panic!("{list:?}") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["sotto.message.v1.MessageService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }
    let file = answers.message().await.unwrap().unwrap().message_response;
    assert!(matches!(file, Some(MessageResponse::FileDescriptorResponse(_))), "{file:?}");
    let hidden = answers.message().await;
    assert!(hidden.is_err(), "{hidden:?}");
    drop(answers);
    world.stop().await;
}
