//! Bad input and bad tokens: each gets the standard error that names the field and the fix, and nothing reaches a carrier.

use serde_json::{Value, json};
use sotto_crypto::sign::SigningKey;
use sotto_proto::message::v1::{
    GetMessageRequest, MessageClass, OutboundMessage, SendRequest, SendStreamRequest,
};
use sotto_testkit::eventually;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    cell::{BOUND, Cell, SENDER, with_token},
    load,
    tokens::{self, now, signed},
};

fn good() -> OutboundMessage {
    OutboundMessage {
        to: "+84912345678".to_owned(),
        from: SENDER.to_owned(),
        text: "hi".to_owned(),
        class: MessageClass::Otp.into(),
        validity: None,
        ..Default::default()
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// What is wrong, and the field and reason that must be named.
fn bad() -> Vec<(OutboundMessage, &'static str, &'static str)> {
    let to = |to: &str| OutboundMessage { to: to.to_owned(), ..good() };
    let from = |from: &str| OutboundMessage { from: from.to_owned(), ..good() };
    let text = |text: String| OutboundMessage { text, ..good() };
    let class = |class: i32| OutboundMessage { class, ..good() };
    let validity = |validity| OutboundMessage { validity, ..good() };
    vec![
        (to(""), "message.to", "NUMBER_EMPTY"),
        (to("0912345678"), "message.to", "NUMBER_NOT_INTERNATIONAL"),
        (to("+84 912 345 678"), "message.to", "NUMBER_NOT_DIGITS"),
        (to("+84091234567"), "message.to", "NUMBER_NATIONAL_PREFIX"),
        (to("+841261234567"), "message.to", "NUMBER_RENUMBERED"),
        (to("+842838221234"), "message.to", "NUMBER_NOT_MOBILE"),
        (to("+999912345678"), "message.to", "NUMBER_UNKNOWN_COUNTRY_CODE"),
        (to("+8491"), "message.to", "NUMBER_LENGTH"),
        (from(""), "message.from", "SENDER_EMPTY"),
        (from("OTHERBANK"), "message.from", "SENDER_UNKNOWN"),
        (from("ABCDEFGHIJKL"), "message.from", "SENDER_TOO_LONG"),
        (text(String::new()), "message.text", "TEXT_EMPTY"),
        (text("a".repeat(1_531)), "message.text", "TEXT_TOO_LONG"),
        (text("ệ".repeat(671)), "message.text", "TEXT_TOO_LONG"),
        (text("a\u{0}b".to_owned()), "message.text", "TEXT_CONTROL_CHARACTER"),
        (class(0), "message.class", "CLASS_UNKNOWN"),
        (class(99), "message.class", "CLASS_UNKNOWN"),
        (validity(seconds(1)), "message.validity", "VALIDITY_TOO_SHORT"),
        (validity(seconds(-5)), "message.validity", "VALIDITY_TOO_SHORT"),
        (validity(seconds(15 * 60 + 1)), "message.validity", "VALIDITY_TOO_LONG"),
    ]
}

fn violations(status: &Status) -> Vec<(String, String, String)> {
    let details = status.get_details_bad_request().map(|details| details.field_violations);
    details.unwrap_or_default().into_iter().map(|it| (it.field, it.reason, it.description)).collect()
}

#[tokio::test]
async fn every_bad_message_is_refused_with_its_field_and_its_fix() {
    let mut cell = Cell::start().await;
    let token = cell.token("shop").await;
    let mut client = cell.messages();
    for (message, field, reason) in bad() {
        let value = message.to.clone();
        let request =
            SendRequest { message: Some(message), idempotency_key: String::new(), ..Default::default() };
        let status = client.send(with_token(request, &token)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{reason}: {status:?}");
        let named = violations(&status);
        let found = named.iter().find(|(at, why, _)| at == field && why == reason);
        let (_, _, fix) = found.unwrap_or_else(|| panic!("{reason} is not in {named:?}"));
        assert!(fix.len() > 10, "{fix}");
        // The value itself is never repeated.
        assert!(value.len() < 6 || !format!("{status:?}").contains(&value), "{status:?}");
    }
    // All faults at once, not one at a time.
    let faults = OutboundMessage { to: String::new(), text: String::new(), class: 0, ..good() };
    let request =
        SendRequest { message: Some(faults), idempotency_key: "x".repeat(129), ..Default::default() };
    let status = client.send(with_token(request, &token)).await.unwrap_err();
    assert_eq!(violations(&status).len(), 4, "{status:?}");
    let status = client.send(with_token(SendRequest::default(), &token)).await.unwrap_err();
    assert_eq!(violations(&status).first().unwrap().1, "MESSAGE_MISSING");
    let unknown = GetMessageRequest { message_id: "nonsense".to_owned() };
    let status = client.get_message(with_token(unknown, &token)).await.unwrap_err();
    assert_eq!(violations(&status).first().unwrap().1, "MESSAGE_ID_INVALID");

    // Far too large: refused before it is understood, and the connection lives on.
    let huge = OutboundMessage { text: "a".repeat(200_000), ..good() };
    let request = SendRequest { message: Some(huge), idempotency_key: String::new(), ..Default::default() };
    let status = client.send(with_token(request.clone(), &token)).await.unwrap_err();
    let refused = [Code::OutOfRange, Code::ResourceExhausted, Code::InvalidArgument];
    assert!(refused.contains(&status.code()), "{status:?}");
    let requests =
        SendStreamRequest { reference: 1, message: request.message, idempotency_key: String::new() };
    let stream = client.send_stream(with_token(tokio_stream::iter([requests]), &token)).await;
    let ended = match stream {
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert!(refused.contains(&ended.code()), "{ended:?}");

    assert_eq!(cell.ledger().await["accepted"], 0);
    assert_eq!(cell.count("submits").await, 0);
    cell.stop().await;
}

/// Claims as identity makes them.
fn claims(scope: &str) -> Value {
    json!({
        "iss": tokens::ISSUER, "aud": "https://vn.sotto.internal", "sub": "client-x", "client_id": "client-x",
        "iat": now(), "exp": now() + 600, "jti": "forged-1", "scope": scope, "tenant": "acme",
        "senders": [SENDER],
    })
}

#[tokio::test]
async fn tokens_that_are_not_ours_not_now_or_not_for_this_get_the_standard_errors() {
    let mut cell = Cell::start().await;
    let mut client = cell.messages();
    let sound = cell.token("shop").await;
    let request =
        || SendRequest { message: Some(good()), idempotency_key: String::new(), ..Default::default() };
    let challenge = |status: &Status| {
        let told = status.metadata().get("www-authenticate");
        told.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };

    // None, nonsense, one signed by a stranger, one whose claims were changed, and one with `alg: none`.
    let status = client.send(request()).await.unwrap_err();
    assert_eq!((status.code(), challenge(&status).as_str()), (Code::Unauthenticated, "Bearer"));
    let stranger = SigningKey::generate().unwrap();
    let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "unknown"});
    let [head, body, signature] = sound.split('.').collect::<Vec<_>>()[..] else { panic!("no JWS") };
    let mut forged = claims("message:send");
    forged["tenant"] = json!("globex");
    let elsewhere = signed(&stranger, &header, &forged).split('.').nth(1).unwrap().to_owned();
    let none = signed(&stranger, &json!({"alg": "none", "typ": "at+jwt"}), &claims("message:send"));
    for (what, token) in [
        ("nonsense", "nonsense".to_owned()),
        ("a stranger's", signed(&stranger, &header, &claims("message:send"))),
        ("other claims", format!("{head}.{elsewhere}.{signature}")),
        ("no algorithm", none),
        ("cut", format!("{head}.{body}.")),
    ] {
        let status = client.send(with_token(request(), &token)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status:?}");
        assert_eq!(challenge(&status), "Bearer error=\"invalid_token\"", "{what}");
    }

    // A sound token without the scope.
    let reader = cell.token_for("shop", "message:read").await;
    let status = client.send(with_token(request(), &reader)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(challenge(&status).contains("insufficient_scope"), "{status:?}");
    let sender = cell.token_for("shop", "message:send").await;
    let ask = GetMessageRequest { message_id: "01a213de-7fe4-78d0-a911-cc22e075b387".to_owned() };
    let status = client.get_message(with_token(ask, &sender)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    // Another tenant does not see the message, and cannot tell whether there is one.
    let accepted = client.send(with_token(request(), &sound)).await.unwrap().into_inner();
    cell.ended(&accepted.message_id).await;
    cell.new_client("globex", "globex", "GLOBEX").await;
    let foreign = cell.token("globex").await;
    let ask = |id: &str| GetMessageRequest { message_id: id.to_owned() };
    let theirs = client.get_message(with_token(ask(&accepted.message_id), &foreign)).await.unwrap_err();
    let none = "01a213de-7fe4-78d0-a911-cc22e075b387";
    let absent = client.get_message(with_token(ask(none), &foreign)).await.unwrap_err();
    assert_eq!((theirs.code(), theirs.message()), (absent.code(), absent.message()));
    assert_eq!(theirs.code(), Code::NotFound);
    // Nor may it use a sender that is not its own.
    let status = client.send(with_token(request(), &foreign)).await.unwrap_err();
    assert_eq!(violations(&status).first().unwrap().1, "SENDER_UNKNOWN");

    // Identity refuses what it does not know, and a client that was disabled.
    let refused = tokens::request(&cell, "client-nobody", &stranger, "message:send").await;
    assert_eq!(refused, Err("invalid_client".to_owned()));
    let file = std::fs::read_to_string(cell.root().join("clients/globex.json")).unwrap();
    let told: Value = serde_json::from_str(&file).unwrap();
    cell.run(["client", "disable", told["client_id"].as_str().unwrap()]).await;
    let output = cell.try_run(["message", "show", none, "--client", "globex"]).await;
    assert!(!output.status.success());

    // All of it is in the audit log, and none of it names a number.
    assert_eq!(cell.ledger().await["accepted"], 1);
    assert!(!cell.log("ingress").contains("84912345678"));
    load::balanced(&cell, 1, 0).await;
    eventually(BOUND, "the acts in the audit log", async || {
        let verified = cell.json(["audit", "verify"]).await.pop().unwrap();
        verified["verified"] == true && verified["acts"].as_u64().unwrap() > 8
    })
    .await;
    cell.stop().await;
}
