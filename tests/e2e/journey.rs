//! One message, then several kinds of messages, from the client's call to the receipt, the ledger and the audit log.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sotto_proto::message::v1::{
    Encoding, MessageClass, MessageState, OutboundMessage, SendRequest, SendStreamRequest,
    send_stream_response,
};
use sotto_testkit::{eventually, tools, workspace};
use tokio_stream::StreamExt as _;

use crate::{
    cell::{BOUND, Cell, SENDER, carrier_with, number, text, with_token},
    load,
    metrics::{self, Sent},
};

const VIETNAMESE: &str = "Mã xác thực của bạn là 482913. Không chia sẻ mã này với bất kỳ ai.";

fn send(n: u32, text: &str, class: MessageClass) -> SendRequest {
    let message = OutboundMessage {
        to: number(n),
        from: SENDER.to_owned(),
        text: text.to_owned(),
        class: class.into(),
        validity: None,
        ..Default::default()
    };
    SendRequest { message: Some(message), idempotency_key: String::new(), ..Default::default() }
}

fn kinds(told: &Value) -> Vec<&str> {
    told["journey"].as_array().unwrap().iter().map(|step| step["kind"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_message_crosses_the_platform_and_everything_tells_the_same_story() {
    let mut cell = Cell::start().await;
    let token = cell.token("shop").await;
    let mut client = cell.messages();

    let accepted =
        client.send(with_token(send(1, VIETNAMESE, MessageClass::Otp), &token)).await.unwrap().into_inner();
    assert_eq!(
        (accepted.encoding(), accepted.parts, accepted.units, accepted.repeated),
        (Encoding::Ucs2, 1, 66, false)
    );
    let told = cell.ended(&accepted.message_id).await;
    assert_eq!(told["state"], "delivered");
    assert_eq!(kinds(&told), ["accepted", "routed", "submitting", "submitted", "receipt"]);
    assert_eq!(told["parts"], json!([{"part": 1, "state": "delivered", "carrier_error": "000"}]));
    assert!(!told.to_string().contains("482913"), "{told}");

    // What the carrier got: the text, the sender, a receipt asked for, an end to its validity.
    let at_carrier = cell.carrier("/messages").await;
    let [part] = at_carrier.as_array().unwrap().as_slice() else { panic!("{at_carrier}") };
    assert_eq!(part["text"], VIETNAMESE);
    assert_eq!((part["source"].as_str(), part["destination"].as_str()), (Some(SENDER), Some("84910000001")));
    assert_eq!((part["data_coding"].as_u64(), part["registered_delivery"].as_u64()), (Some(8), Some(1)));
    assert_ne!(part["validity_period"], "");

    // 161 letters are two parts, 153 brackets three; their parts share a reference and arrive in order.
    for (n, body, parts) in [(2, "a".repeat(161), 2), (3, "[".repeat(153), 3), (4, "ệ".repeat(135), 3)] {
        let request = with_token(send(n, &body, MessageClass::Transactional), &token);
        let accepted = client.send(request).await.unwrap().into_inner();
        assert_eq!(accepted.parts, parts);
        let told = cell.ended(&accepted.message_id).await;
        assert_eq!(told["state"], "delivered", "{told}");
        let all = cell.carrier("/messages").await;
        let got: Vec<_> =
            all.as_array().unwrap().iter().filter(|part| part["destination"] == number(n)[1..]).collect();
        let text: String = got.iter().map(|part| part["text"].as_str().unwrap()).collect();
        assert_eq!(text, body);
        let places: Vec<_> =
            got.iter().map(|part| part["concatenation"]["index"].as_u64().unwrap()).collect();
        assert_eq!(places, (1..=u64::from(parts)).collect::<Vec<_>>());
        let references: BTreeSet<_> =
            got.iter().map(|part| part["concatenation"]["reference"].as_u64()).collect();
        assert_eq!(references.len(), 1);
    }

    // A carrier that refuses for good, and one that cannot deliver.
    cell.behave(json!({"refuse_share": 1.0, "refuse_status": 0x0B})).await;
    let refused = client.send(with_token(send(5, "hi", MessageClass::Otp), &token)).await.unwrap();
    let told = cell.ended(&refused.into_inner().message_id).await;
    assert_eq!(told["state"], "rejected", "{told}");
    assert!(kinds(&told).contains(&"refused"), "{told}");
    cell.behave(json!({"refuse_share": 0.0, "receipt_state": "UNDELIV"})).await;
    let lost = client.send(with_token(send(6, "hi", MessageClass::Otp), &token)).await.unwrap();
    assert_eq!(cell.ended(&lost.into_inner().message_id).await["state"], "undelivered");

    let ledger = cell.ledger().await;
    assert_eq!(ledger["balanced"], true, "{ledger}");
    for (what, count) in [("accepted", 6), ("delivered", 4), ("rejected", 1), ("undelivered", 1)] {
        assert_eq!(ledger[what], count, "{what}: {ledger}");
    }
    the_audit_log_holds_it(&cell, &told).await;
    // Parts of six messages, one of which was refused.
    let sent = Sent { otp: 3, transactional: 3, parts_taken: 10, parts_refused: 1 };
    metrics::are_what_happened(&cell, sent).await;
    // Nothing that a sound cell says is refused by another part of it.
    assert_eq!(cell.json(["quarantine", "list"]).await, Vec::<Value>::new());
    cell.stop().await;
    assert_eq!(cell.try_run(["message", "show", "x", "--client", "shop"]).await.status.code(), Some(1));
    verified_by_others(&cell).await;
}

/// Every event of the journey has a proof that the tool checks.
async fn the_audit_log_holds_it(cell: &Cell, told: &Value) {
    let sequences: BTreeSet<u64> = told["journey"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["event_sequence"].as_u64().unwrap())
        .filter(|sequence| *sequence > 0)
        .collect();
    assert!(sequences.len() > 1, "{told}");
    for sequence in sequences {
        let proven = cell.run(["audit", "prove", &sequence.to_string(), "--wait", "30"]).await;
        assert!(proven.contains("proof checked"), "{proven}");
    }
    let missing = cell.try_run(["audit", "prove", "999999", "--wait", "0"]).await;
    assert!(!missing.status.success());
}

/// The log on disk verifies offline: by our tool, and by a program that shares no code with us.
async fn verified_by_others(cell: &Cell) {
    let told = cell.json(["audit", "verify"]).await.pop().unwrap();
    assert_eq!((&told["verified"], &told["gaps"], &told["unreadable"]), (&json!(true), &json!(0), &json!(0)));
    let key = std::fs::read_to_string(cell.root().join("audit/log.vkey")).unwrap();
    let output = tokio::process::Command::new(tools::python())
        .arg("-B")
        .arg(workspace().join("crates/audit/tests/verify.py"))
        .arg(cell.root().join("data/audit"))
        .arg(key.trim())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[tokio::test]
async fn a_stream_answers_each_request_and_goes_on_after_a_refusal() {
    let mut cell = Cell::start().await;
    let token = cell.token("shop").await;
    let requests: Vec<_> = (0..300_u32)
        .map(|n| {
            let request = load::otp(n);
            let mut message = request.message.unwrap();
            if n % 50 == 7 {
                message.to = "+8421".to_owned();
            }
            SendStreamRequest {
                reference: u64::from(n),
                message: Some(message),
                idempotency_key: request.idempotency_key,
            }
        })
        .collect();
    let mut client = cell.messages();
    let stream = client.send_stream(with_token(tokio_stream::iter(requests), &token)).await.unwrap();
    let mut stream = stream.into_inner();
    let mut ids = Vec::new();
    let mut refused = BTreeSet::new();
    let mut seen = BTreeSet::new();
    while let Some(response) = stream.next().await {
        let response = response.unwrap();
        assert!(seen.insert(response.reference), "two answers to {}", response.reference);
        match response.result.unwrap() {
            send_stream_response::Result::Accepted(accepted) => ids.push(accepted.message_id),
            send_stream_response::Result::Error(error) => {
                assert_eq!(error.field_violations.first().unwrap().field, "message.to");
                refused.insert(response.reference);
            }
        }
    }
    assert_eq!(seen.len(), 300);
    assert_eq!(refused, (0..6).map(|n| n * 50 + 7).collect());
    assert_eq!(load::settled(&cell, &ids, false).await, 0);
    load::balanced(&cell, 294, 0).await;
    assert_eq!((cell.count("parts").await, cell.count("duplicates").await), (294, 0));

    // The same keys again: the same messages, and nothing new at the carrier.
    let again = load::Load::start(&cell, 0..7).await.finish().await;
    assert!(again.iter().all(|id| ids.contains(id)));
    let repeated = client.send(with_token(load::otp(3), &token)).await.unwrap().into_inner();
    assert!(repeated.repeated);
    let mut other = load::otp(3);
    other.message.as_mut().unwrap().text.push('!');
    let reused = client.send(with_token(other, &token)).await.unwrap_err();
    assert_eq!(reused.code(), tonic::Code::AlreadyExists);
    assert_eq!(cell.count("submits").await, 294);
    cell.stop().await;
}

#[tokio::test]
async fn a_cell_that_stops_with_messages_waiting_goes_on_where_it_was() {
    let mut cell = Cell::start().await;
    // The carrier takes nothing now, and says so.
    cell.behave(json!({"refuse_share": 1.0, "refuse_status": 0x58})).await;
    let ids = load::Load::start(&cell, 0..40).await.finish().await;
    let waiting = cell.ledger().await;
    assert_eq!((&waiting["balanced"], &waiting["accepted"]), (&json!(true), &json!(40)), "{waiting}");
    cell.stop().await;
    cell.start_again().await;
    assert_eq!(load::settled(&cell, &ids, false).await, 0);
    load::balanced(&cell, 40, 0).await;
    assert_eq!((cell.count("parts").await, cell.count("duplicates").await), (40, 0));
    let all = load::states(&cell, &ids).await;
    assert!(all.iter().all(|(_, state)| *state == MessageState::Delivered));
    cell.stop().await;
    // Everything was taken down in order: nothing of it runs.
    eventually(BOUND, "an end", async || !cell.root().join("run/cell.json").exists()).await;
}

#[tokio::test]
async fn a_receipt_that_never_comes_is_asked_for() {
    let mut cell = Cell::start_with(async |root| {
        let silent = json!({"receipts": false, "receipt_delay_ms": 0, "receipt_state": "UNDELIV"});
        Some(carrier_with(root, 50, "query_after = \"1 s\"\n", &silent).await)
    })
    .await;
    let token = cell.token("shop").await;
    let asked = send(1, VIETNAMESE, MessageClass::Transactional);
    let accepted = cell.messages().send(with_token(asked, &token)).await.unwrap().into_inner();
    let told = cell.ended(&accepted.message_id).await;
    assert_eq!(told["state"], "undelivered");
    assert_eq!(kinds(&told), ["accepted", "routed", "submitting", "submitted", "receipt"]);
    assert_eq!((cell.count("receipts_sent").await, cell.count("submits").await), (0, 1));
    assert!(cell.count("queries").await >= 1);
    cell.ledger().await;
    cell.stop().await;
}
