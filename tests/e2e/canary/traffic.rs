//! Messages with markers, by every way into the cell and to every end.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use serde_json::json;
use sotto_core::{Clock as _, SystemClock};
use sotto_proto::message::v1::{
    CancelMessageRequest, FindMessagesRequest, MessageClass, OutboundMessage, SendRequest, SendStreamRequest,
    Submission, SubmitRequest, SubmitResponse, submit_request::Form, submit_response::Result as Outcome,
};
use sotto_testkit::eventually;
use tonic::Request;

use crate::{
    cell::{BOUND, Carriers, Cell, simulator, simulator_arguments, with_token, write_durably},
    load::accepted_at_last,
    nats::connect,
};

pub(super) const NUMBERS: [&str; 4] = ["917345682", "986204713", "903817264", "977460538"];
pub(super) const SENDER: &str = "ZANZIBARCO";
pub(super) const WORD: &str = "Quetzalcoatl";
pub(super) const CODE: &str = "739164025";
pub(super) const KEY: &str = "Xylophon";
pub(super) const HANDSET: &str = "934715826";
pub(super) const HANDSET_WORD: &str = "Nezahualcoyotl";
pub(super) const WAIVED_WORD: &str = "Tlahuizcalpan";
pub(super) const WAIVED_SENDER: &str = "QUAUHTEMOC";
/// Beside a code, in what is planted.
pub(super) const PLANT: &str = "plant";

/// Messages of the short form; `SOTTO_CANARIES` at build time makes it long (`make canaries MESSAGES=10000`).
const FEWEST: u32 = 200;

/// How long each may take a cell of unoptimised programs, on top of what all wait for.
const EACH: Duration = Duration::from_millis(100);

/// How many are sent at once.
const CONCURRENT: usize = 8;

fn messages() -> u32 {
    option_env!("SOTTO_CANARIES").map_or(FEWEST, |count| count.parse().unwrap())
}

/// Two accounts behind one carrier that is noisy in every way, and a tenant that may send in clear over NATS.
pub(super) async fn carriers(root: &Path) -> Carriers {
    let noise = json!({
        "early_receipts": 0.05,
        "late_receipts": 0.05,
        "late_receipt_delay_ms": 3_000,
        "duplicate_receipts": 0.05,
        "orphan_receipts": 0.05,
        "garbage": 0.05,
        "refuse_share": 0.1,
        "refuse_status": 0x64,
        "never_answer_share": 0.03,
        "receipt_echoes_text": true,
    });
    let arguments = simulator_arguments(root, &noise);
    let (process, port, admin) = simulator(&root.join("own-simulator.log"), arguments).await;
    let path = |name: &str| root.join(name).display().to_string();
    let account = |id: &str| {
        format!(
            "[[account]]\nid = \"{id}\"\nhost = \"localhost\"\nport = {port}\nsystem_id = \"sotto\"\n\
             password_file = \"{}\"\ntls_ca_file = \"{}\"\ntls_server_name = \"simulator.sotto.internal\"\n\
             simulator = true\nwindow = 20\ntps = 500\nresponse_timeout = \"1 s\"\nquery_after = \"2 s\"\n\
             user_message_reference = true\nmatch_by_recipient = true\ninbound = {{ 9029 = \"zanzibar\" }}\n\n",
            path("secrets/simulator"),
            path("tls/ca.pem"),
        )
    };
    let route = "[[route]]\nprefix = \"84\"\n\
                 accounts = [{ id = \"first\", weight = 1 }, { id = \"second\", weight = 1 }]\n";
    let file = root.join("own-carriers.toml");
    write_durably(&file, &format!("{}{}{route}", account("first"), account("second")));
    let ingress = root.join("config/ingress.toml");
    let waiver = "\n[publishers]\nclear_until = { waived = \"2999-01-01T00:00:00Z\" }\n\n[recipients]\ncodes_per_day = 1000\n";
    std::fs::write(&ingress, std::fs::read_to_string(&ingress).unwrap() + waiver).unwrap();
    Carriers::with_simulator(file, process, admin)
}

fn outbound(n: u32, class: MessageClass, text: String) -> OutboundMessage {
    let number = NUMBERS[usize::try_from(n).unwrap() % NUMBERS.len()];
    OutboundMessage {
        to: format!("+84{number}"),
        from: SENDER.to_owned(),
        text,
        class: class.into(),
        ..Default::default()
    }
}

/// The n-th: of all classes, in both alphabets, in one part and in several.
fn message(n: u32) -> SendRequest {
    let mark = format!("{WORD}{n:05}");
    let (class, text) = match n % 6 {
        0 | 1 => (MessageClass::Otp, format!("Ma cua {mark} la {CODE}")),
        2 => (MessageClass::Transactional, format!("Đơn hàng {mark} đã được giao, mã {CODE}")),
        3 => (MessageClass::Promotional, format!("{mark} giam gia")),
        4 => (MessageClass::Transactional, format!("{mark} {} {mark}", "dai dong ".repeat(30))),
        _ => (MessageClass::Transactional, format!("{} {mark} {CODE}", "rất dài ".repeat(20))),
    };
    let idempotency_key = format!("order-{KEY}-{n}");
    SendRequest { message: Some(outbound(n, class, text)), idempotency_key, ..Default::default() }
}

/// Sends the messages, looking in the middle of them, and takes every other feature through its paces.
pub(super) async fn pass_every_feature(cell: &Cell, look: impl AsyncFn()) {
    cell.new_client("zanzibar", "zanzibar", SENDER).await;
    cell.new_client("waived", "waived", WAIVED_SENDER).await;
    for client in ["zanzibar", "waived"] {
        cell.run(["client", "nats", "add", client]).await;
    }
    let token = cell.token("zanzibar").await;
    by_handsets(cell).await;
    let half = messages() / 2;
    one_by_one(cell, &token, 0..half).await;
    look().await;
    in_a_stream(cell, &token, half..messages()).await;
    over_nats(cell).await;
    refused(cell, &token).await;
    called_back_and_later(cell, &token).await;
    // Everything but the message of next month comes to an end, or is in doubt.
    let bound = BOUND * 5 + EACH * messages();
    eventually(bound, "nothing to wait", async || cell.ledger().await["waiting"] == 1).await;
    let told = cell.ledger().await;
    assert_eq!(told["balanced"], true, "{told}");
    assert!(told["in_flight"].as_u64() > Some(0), "some are in doubt: {told}");
    cell.run(["message", "list", "--client", "zanzibar", "--limit", "1000"]).await;
    found_by_number(cell).await;
    cell.redis(&["FLUSHALL"]).await;
    cell.run(["rebuild"]).await;
    for command in
        [&["quarantine", "list"] as &[&str], &["carriers"], &["client", "list"], &["audit", "verify"]]
    {
        cell.run(command).await;
    }
}

/// Looked up by its number, which privacy must not see.
async fn found_by_number(cell: &Cell) {
    let officer = ["--tenant", "zanzibar", "--scope", "subject:read"];
    cell.run(["client", "create", "--name", "officer"].into_iter().chain(officer)).await;
    let token = cell.token_for("officer", "subject:read").await;
    for number in NUMBERS {
        let request = FindMessagesRequest { number: format!("+84{number}"), page_token: String::new() };
        let found = cell.messages().find_messages(with_token(request, &token)).await.unwrap();
        assert!(!found.into_inner().messages.is_empty());
    }
}

async fn by_handsets(cell: &Cell) {
    for text in [format!("TC {HANDSET_WORD}"), format!("{HANDSET_WORD} {}", "x".repeat(200))] {
        let body = json!({"partner": "sotto", "from": format!("84{HANDSET}"), "to": "9029", "text": text});
        cell.tell_carrier("/write", &body.to_string()).await;
    }
    eventually(BOUND, "what handsets wrote", async || cell.count("written_acked").await >= 3).await;
}

async fn one_by_one(cell: &Cell, token: &str, numbers: std::ops::Range<u32>) {
    let client = cell.messages();
    let first = numbers.start;
    let sending = stream::iter(numbers).map(|n| accepted_at_last(&client, token, message(n)));
    let ids: Vec<_> = sending.buffer_unordered(CONCURRENT).collect().await;
    // The same once more is the same message.
    assert!(ids.contains(&accepted_at_last(&client, token, message(first)).await));
}

async fn in_a_stream(cell: &Cell, token: &str, numbers: std::ops::Range<u32>) {
    let count = numbers.len();
    let requests = numbers.map(|n| {
        let SendRequest { message, idempotency_key, .. } = message(n);
        SendStreamRequest { reference: n.into(), message, idempotency_key }
    });
    let asked = with_token(stream::iter(requests.collect::<Vec<_>>()), token);
    let told = cell.messages().send_stream(asked).await.unwrap().into_inner();
    let answers: Vec<_> = told.try_collect().await.unwrap();
    assert_eq!(answers.len(), count);
}

/// Sealed, as the tool does it; and in clear, as only a waiver allows.
async fn over_nats(cell: &Cell) {
    let to = format!("+84{}", NUMBERS[1]);
    let text = format!("{WORD} {CODE}");
    let sealed = ["nats-send", "--client", "zanzibar", "--from", SENDER, "--to", &to, "--text", &text];
    cell.run(sealed.into_iter().chain(["--idempotency-key", &format!("nats-{KEY}")])).await;
    let message = OutboundMessage {
        from: WAIVED_SENDER.to_owned(),
        to: "+84868142597".to_owned(),
        text: WAIVED_WORD.to_owned(),
        class: MessageClass::Otp.into(),
        ..Default::default()
    };
    let submission = Submission {
        access_token: cell.token("waived").await,
        messages: vec![SendStreamRequest {
            reference: 1,
            message: Some(message),
            idempotency_key: "a".repeat(16),
        }],
    };
    let request = SubmitRequest { form: Some(Form::Clear(submission)) }.encode_to_vec();
    let answer = connect(cell, "waived").await.submit(Bytes::from(request), BOUND).await.unwrap();
    let answer = SubmitResponse::decode(answer).unwrap();
    assert!(matches!(answer.result, Some(Outcome::Results(_))), "{answer:?}");
}

/// At the edge, in several ways that repeat what was asked.
async fn refused(cell: &Cell, token: &str) {
    let mut client = cell.messages();
    let with = |change: &dyn Fn(&mut OutboundMessage)| {
        let mut request = message(0);
        change(request.message.as_mut().unwrap());
        request
    };
    for wrong in [
        with(&|message| message.text.push_str(" and other words")),
        with(&|message| message.to = format!("0{}", NUMBERS[0])),
        with(&|message| message.from = WORD.to_owned()),
        with(&|message| message.text = "Ự".repeat(4_000) + WORD),
        with(&|message| message.class = 99),
    ] {
        client.send(with_token(wrong, token)).await.unwrap_err();
    }
    // A token of another's making, with what it should not hold.
    let forged = format!("eyJ{WORD}.{CODE}.{SENDER}");
    client.send(with_token(message(0), &forged)).await.unwrap_err();
    client.send(Request::new(message(0))).await.unwrap_err();
    let dry = SendRequest { validate_only: true, idempotency_key: String::new(), ..message(3) };
    client.send(with_token(dry, token)).await.unwrap();
}

/// Cancelled while it waits; stopped by its sender; and for later, soon and next month, of which one is cancelled.
async fn called_back_and_later(cell: &Cell, token: &str) {
    let mut client = cell.messages();
    let send = async |n: u32, ahead: i64| {
        let mut request = message(n);
        request.idempotency_key = format!("later-{KEY}-{n}");
        let seconds = SystemClock.now().unix_seconds() + ahead;
        request.message.as_mut().unwrap().send_at =
            (ahead > 0).then_some(prost_types::Timestamp { seconds, nanos: 0 });
        accepted_at_last(&client.clone(), token, request).await
    };
    // 2, 4 and 10: what can be scheduled.
    send(2, 4).await;
    send(4, 29 * 86_400).await;
    let never = send(10, 29 * 86_400).await;
    let accounts = ["first", "second"];
    for account in accounts {
        cell.run(["stop", "--carrier", account]).await;
    }
    eventually(BOUND, "both accounts to stop", async || {
        cell.json(["carriers"]).await.iter().all(|one| one["bound_by"] == "stopped")
    })
    .await;
    let waits = send(0, 0).await;
    for id in [never, waits] {
        client.cancel_message(with_token(CancelMessageRequest { message_id: id }, token)).await.unwrap();
    }
    cell.run(["stop", "--sender", SENDER]).await;
    for account in accounts {
        cell.run(["stop", "--carrier", account, "--lift"]).await;
    }
    cell.run(["stop", "--sender", SENDER, "--lift"]).await;
}
