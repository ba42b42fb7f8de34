//! Clients over the broker: the same answers as over gRPC, to sealed requests alone.

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use prost::Message as _;
use serde_json::json;
use sotto_bus::{ClientConnection, Service as Party, StreamReader, SubmitError};
use sotto_core::{Clock as _, SystemClock};
use sotto_crypto::hpke::{SealingKey, SubmissionBinding};
use sotto_ingress::adapters::publishers::INTAKE_RING;
use sotto_keystore::{KeyInfo, KeyKind, Keystore as _, SoftKeystore, UnlockSecret};
use sotto_proto::{
    MAX_SUBMIT_BYTES, MAX_SUBMIT_MESSAGES,
    message::v1::{
        SealedSubmission, SendError, SendResponse, SendStreamRequest, Submission, SubmitRequest,
        SubmitResponse, send_stream_response::Result as Answer, submit_request::Form,
        submit_response::Result as Outcome,
    },
    pipeline::v1::WorkBatch,
};
use sotto_testkit::Pki;
use tonic::Code;

use crate::{
    cell::{BOUND, Broker},
    clients::{World, and, code, with_key},
    tokens,
};

fn keystore(pki: &Pki) -> SoftKeystore {
    let secret = UnlockSecret::read(&pki.dir().join("unlock")).unwrap();
    SoftKeystore::open(&pki.dir().join("ingress.sks"), secret, "ingress").unwrap()
}

fn intake_key(pki: &Pki) -> KeyInfo {
    keystore(pki).current(INTAKE_RING).unwrap()
}

fn keyed(key: &str) -> SendStreamRequest {
    SendStreamRequest { reference: 7, message: Some(code()), idempotency_key: key.to_owned() }
}

fn submission(messages: Vec<SendStreamRequest>) -> Submission {
    Submission { access_token: tokens::token(&tokens::claims("acme", SystemClock.now())), messages }
}

fn seal_for(key: &SealingKey, cell: &str, tenant: &str, plaintext: &[u8]) -> SealedSubmission {
    let sealed = key.seal_submission(&SubmissionBinding { cell, tenant }, plaintext).unwrap();
    SealedSubmission {
        key_id: key.thumbprint(),
        encapsulated_key: sealed.encapsulated_key.to_vec().into(),
        ciphertext: sealed.ciphertext.into(),
    }
}

fn wire(form: Form) -> Bytes {
    SubmitRequest { form: Some(form) }.encode_to_vec().into()
}

/// Sealed as a client of `acme` does.
fn sealed(pki: &Pki, submission: &Submission) -> Bytes {
    let key = intake_key(pki).sealing.unwrap();
    wire(Form::Sealed(seal_for(&key, "vn", "acme", &submission.encode_to_vec())))
}

type Results = Vec<(u64, Result<SendResponse, SendError>)>;

async fn ask(client: &ClientConnection, request: Bytes) -> Result<Results, SendError> {
    let answer = client.submit(request, BOUND).await.unwrap();
    read(&answer)
}

#[expect(clippy::unwrap_in_result, reason = "an answer that cannot be read fails the test")]
fn read(answer: &[u8]) -> Result<Results, SendError> {
    match SubmitResponse::decode(answer).unwrap().result.unwrap() {
        Outcome::Error(error) => Err(error),
        Outcome::Results(all) => Ok(all
            .results
            .into_iter()
            .map(|one| match one.result.unwrap() {
                Answer::Accepted(accepted) => (one.reference, Ok(accepted)),
                Answer::Error(error) => (one.reference, Err(error)),
            })
            .collect()),
    }
}

/// Code and reasons of what was refused.
fn why(error: &SendError) -> (Code, Vec<&str>) {
    (Code::from(error.code), error.field_violations.iter().map(|it| it.reason.as_str()).collect())
}

async fn accepted(pki: &Pki, broker: &Broker) -> u64 {
    let bus = broker.bus(pki, Party::Operator).await;
    StreamReader::<WorkBatch>::new(&bus, "INTAKE").unwrap().state().await.unwrap().messages
}

#[tokio::test]
async fn each_message_has_the_result_that_it_has_over_grpc() {
    let world = World::start("").await;
    let client = world.broker.client(&world.pki, "acme").await;
    let over_grpc = world.client().send(with_key("first")).await.unwrap();

    let mut bad = keyed("bad");
    bad.message.as_mut().unwrap().to = "+841261234567".to_owned();
    let mut other = keyed("first");
    other.message.as_mut().unwrap().text.push('!');
    let messages = vec![keyed("first"), keyed("second"), bad, other, keyed(""), keyed("third")];
    let messages: Vec<_> =
        messages.into_iter().zip(1..).map(|(it, reference)| SendStreamRequest { reference, ..it }).collect();
    let results = ask(&client, sealed(&world.pki, &submission(messages.clone()))).await.unwrap();

    assert_eq!(results.iter().map(|(reference, _)| *reference).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    let of = |reference: usize| results[reference - 1].1.clone();
    // One key, one message, whichever way it came.
    let first = of(1).unwrap();
    assert_eq!((first.message_id, first.repeated), (over_grpc.message_id, true));
    let second = of(2).unwrap();
    assert_eq!((second.repeated, second.parts), (false, 1));
    assert_eq!(why(&of(3).unwrap_err()), (Code::InvalidArgument, vec!["NUMBER_RENUMBERED"]));
    assert_eq!(why(&of(4).unwrap_err()).0, Code::AlreadyExists);
    assert_eq!(why(&of(5).unwrap_err()), (Code::InvalidArgument, vec!["IDEMPOTENCY_KEY_MISSING"]));
    assert!(of(6).is_ok());
    let seen = world.client().get(&second.message_id).await.unwrap();
    assert_eq!(seen.message_id, second.message_id);
    world.stop().await;
}

#[tokio::test]
async fn a_captured_request_that_comes_again_sends_nothing() {
    let world = World::start("").await;
    let client = world.broker.client(&world.pki, "acme").await;
    let request = sealed(&world.pki, &submission(vec![keyed("once")]));
    let first = ask(&client, request.clone()).await.unwrap()[0].1.clone().unwrap();
    let stored = accepted(&world.pki, &world.broker).await;
    for _ in 0..3 {
        let again = ask(&client, request.clone()).await.unwrap()[0].1.clone().unwrap();
        assert_eq!((again.message_id, again.repeated), (first.message_id.clone(), true));
    }
    assert_eq!(accepted(&world.pki, &world.broker).await, stored);
    // On another tenant's subject, by that tenant's client, it does not even open.
    let rival = world.broker.client(&world.pki, "other").await;
    let refused = ask(&rival, request).await.unwrap_err();
    assert_eq!(why(&refused), (Code::InvalidArgument, vec!["NOT_OPENABLE"]));
    world.stop().await;
}

#[tokio::test]
async fn what_is_no_request_is_told_why() {
    let world = World::start("").await;
    let client = world.broker.client(&world.pki, "acme").await;
    let pki = &world.pki;
    let key = intake_key(pki).sealing.unwrap();
    let good = submission(vec![keyed("k")]);
    let plain = good.encode_to_vec();
    let form = |sealed: SealedSubmission| wire(Form::Sealed(sealed));
    let invalid = |reason: &'static str| (Code::InvalidArgument, vec![reason]);
    let sealed_well = seal_for(&key, "vn", "acme", &plain);
    let mut altered = sealed_well.clone();
    let mut bytes = altered.ciphertext.to_vec();
    bytes[0] ^= 1;
    altered.ciphertext = bytes.into();
    let stranger = SealingKey::from_jwk_x("eaYx7t4b-cmPEgMs3q3Q56B5OY_HhriMyEbsia-FpRo").unwrap();
    let too_many = (0..=MAX_SUBMIT_MESSAGES).map(|n| keyed(&n.to_string())).collect();
    for (what, request, told) in [
        ("nothing", Bytes::new(), invalid("FORM_MISSING")),
        ("not protobuf", Bytes::from_static(b"\xff\xff"), invalid("MALFORMED")),
        (
            "a field that is not there",
            and(&SubmitRequest { form: None }, &[0x98, 0x06, 1]),
            invalid("UNKNOWN_FIELD"),
        ),
        ("too large", form(seal_for(&key, "vn", "acme", &vec![0; MAX_SUBMIT_BYTES])), invalid("TOO_LARGE")),
        ("an unknown key", form(seal_for(&stranger, "vn", "acme", &plain)), invalid("INTAKE_KEY_UNKNOWN")),
        ("for another cell", form(seal_for(&key, "de", "acme", &plain)), invalid("NOT_OPENABLE")),
        ("for another tenant", form(seal_for(&key, "vn", "other", &plain)), invalid("NOT_OPENABLE")),
        ("altered", form(altered), invalid("NOT_OPENABLE")),
        (
            "no encapsulated key",
            form(SealedSubmission { encapsulated_key: Bytes::new(), ..sealed_well }),
            invalid("NOT_OPENABLE"),
        ),
        ("sealed, but no protobuf", form(seal_for(&key, "vn", "acme", b"\xff")), invalid("MALFORMED")),
        (
            "sealed, with an unknown field",
            form(seal_for(&key, "vn", "acme", &and(&good, &[0x98, 0x06, 1]))),
            invalid("UNKNOWN_FIELD"),
        ),
        ("no message", sealed(pki, &submission(vec![])), invalid("MESSAGE_COUNT")),
        ("too many messages", sealed(pki, &submission(too_many)), invalid("MESSAGE_COUNT")),
        ("in clear", wire(Form::Clear(good.clone())), (Code::PermissionDenied, vec![])),
    ] {
        let refused = ask(&client, request).await.unwrap_err();
        assert_eq!(why(&refused), told, "{what}: {}", refused.message);
        assert!(!format!("{refused:?}").contains("482913"), "{what}");
    }
    assert_eq!(accepted(pki, &world.broker).await, 0);
    world.stop().await;
}

#[tokio::test]
async fn the_token_inside_decides_as_over_grpc() {
    let world = World::start("").await;
    let client = world.broker.client(&world.pki, "acme").await;
    let now = SystemClock.now().unix_seconds();
    let claims = |name: &str, value| {
        let mut claims = tokens::claims("acme", SystemClock.now());
        claims[name] = value;
        tokens::token(&claims)
    };
    for (what, token, code) in [
        ("none", String::new(), Code::Unauthenticated),
        ("no token", "x".to_owned(), Code::Unauthenticated),
        ("expired", claims("exp", json!(now - 31)), Code::Unauthenticated),
        ("another audience", claims("aud", json!("another-cell")), Code::Unauthenticated),
        ("another scope", claims("scope", json!("message:read")), Code::PermissionDenied),
        ("another tenant", claims("tenant", json!("other")), Code::PermissionDenied),
    ] {
        let submission = Submission { access_token: token, messages: vec![keyed("k")] };
        let refused = ask(&client, sealed(&world.pki, &submission)).await.unwrap_err();
        assert_eq!(why(&refused).0, code, "{what}: {}", refused.message);
    }
    // The senders are those of the token.
    let submission =
        Submission { access_token: claims("senders", json!(["OTHER"])), messages: vec![keyed("k")] };
    let refused = ask(&client, sealed(&world.pki, &submission)).await.unwrap()[0].1.clone().unwrap_err();
    assert_eq!(why(&refused), (Code::InvalidArgument, vec!["SENDER_UNKNOWN"]));
    assert_eq!(accepted(&world.pki, &world.broker).await, 0);
    world.stop().await;
}

#[tokio::test]
async fn requests_in_clear_need_a_waiver_that_lives() {
    let world = World::start(
        "publishers.clear_until.acme = '2999-01-01T00:00:00Z'\n\
         publishers.clear_until.other = '2020-01-01T00:00:00+07:00'",
    )
    .await;
    let acme = world.broker.client(&world.pki, "acme").await;
    let results = ask(&acme, wire(Form::Clear(submission(vec![keyed("k")])))).await.unwrap();
    assert!(results[0].1.is_ok());
    let other = world.broker.client(&world.pki, "other").await;
    let token = tokens::token(&tokens::claims("other", SystemClock.now()));
    let submission = Submission { access_token: token, messages: vec![keyed("k")] };
    let refused = ask(&other, wire(Form::Clear(submission))).await.unwrap_err();
    assert_eq!(why(&refused).0, Code::PermissionDenied);
    world.stop().await;
}

#[tokio::test]
async fn both_keys_open_while_one_takes_the_place_of_the_other() {
    let world = World::start("").await;
    let client = world.broker.client(&world.pki, "acme").await;
    // Rotated before this process reads its keystore again: what it has opens on.
    let old = intake_key(&world.pki);
    let keystore = keystore(&world.pki);
    keystore.generate(INTAKE_RING, KeyKind::X25519, 1).unwrap();
    keystore.promote(INTAKE_RING).unwrap();
    let with = |key: &KeyInfo, id: &str| {
        let plain = submission(vec![keyed(id)]).encode_to_vec();
        wire(Form::Sealed(seal_for(&key.sealing.unwrap(), "vn", "acme", &plain)))
    };
    assert!(ask(&client, with(&old, "a")).await.unwrap()[0].1.is_ok());
    let new = keystore.current(INTAKE_RING).unwrap();
    let refused = ask(&client, with(&new, "b")).await.unwrap_err();
    assert_eq!(why(&refused), (Code::InvalidArgument, vec!["INTAKE_KEY_UNKNOWN"]));
    world.stop().await;
}

#[tokio::test]
async fn above_the_bound_requests_are_refused_and_none_is_without_answer() {
    let world = World::start("publishers.in_flight_of_tenant = 1").await;
    let client = world.broker.client(&world.pki, "acme").await;
    let requests: Vec<_> =
        (0..40).map(|n| sealed(&world.pki, &submission(vec![keyed(&format!("k{n}"))]))).collect();
    let mut asked: FuturesUnordered<_> =
        requests.iter().map(|request| client.submit(request.clone(), BOUND)).collect();
    let (mut sent, mut refused) = (0, 0);
    while let Some(answer) = asked.next().await {
        match read(&answer.unwrap()) {
            Ok(results) => sent += usize::from(results[0].1.is_ok()),
            Err(error) => {
                assert_eq!(why(&error).0, Code::ResourceExhausted);
                assert!(error.retry_after.is_some());
                refused += 1;
            }
        }
    }
    assert!(sent > 0 && refused > 0 && sent + refused == 40, "{sent} sent, {refused} refused");
    // Another tenant has room of its own, and later there is room again.
    assert!(ask(&client, requests[39].clone()).await.unwrap()[0].1.is_ok());
    world.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_broker_that_is_away() {
    let mut world = World::start("").await;
    world.broker.server.kill().await;
    world.stop().await;
}

#[tokio::test]
async fn what_had_come_before_a_stop_is_answered() {
    let world = World::start("").await;
    let client = world.broker.client(&world.pki, "acme").await;
    let requests: Vec<_> =
        (0..40).map(|n| sealed(&world.pki, &submission(vec![keyed(&format!("k{n}"))]))).collect();
    let mut asked: FuturesUnordered<_> =
        requests.iter().map(|request| client.submit(request.clone(), BOUND).boxed()).collect();
    // At least one is on its way.
    let first = asked.next().await.unwrap();
    assert!(read(&first.unwrap()).is_ok());
    let stopping = world.stop();
    let answering = async {
        let mut answered = 0;
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(answer) => {
                    assert!(read(&answer).unwrap()[0].1.is_ok());
                    answered += 1;
                }
                // It came to the broker after this ingress had gone: certainly not accepted.
                Err(SubmitError::NobodyAnswers) => {}
                Err(other) => unreachable!("{other}"),
            }
        }
        answered
    };
    let ((), answered) = tokio::join!(stopping, answering);
    assert!(answered > 0);
}
