//! Nothing personal at rest (INV-3): number, sender and text are searched for in everything that a cell leaves on disk
//! and in every trace that it sends, by a search that first finds what was planted.

use std::path::Path;

use serde_json::json;
use sotto_bus::{AuditCategory, Service, Subject};
use sotto_proto::message::v1::{MessageClass, OutboundMessage, SendRequest};
use sotto_testkit::{
    canary::{Canary, Finding},
    eventually,
};

use crate::{
    cell::{BOUND, Cell, with_token},
    collector, quarantine,
};

const NUMBER: &str = "+84917345682";
const SENDER: &str = "ZANZIBARCO";
const TEXT: &str = "Ma bimat 739164025 cua Quetzalcoatl";
const KEY: &str = "order-Xylophon";

/// Everything but the two places where the sender is configuration: identity's register of clients.
fn search(canary: &Canary, root: &Path) -> Vec<Finding> {
    let all = canary.search_files(root).unwrap();
    all.into_iter().filter(|found| !found.place.contains("data/identity/clients.json")).collect()
}

fn message(to: &str, from: &str, text: &str) -> SendRequest {
    let message = OutboundMessage {
        to: to.to_owned(),
        from: from.to_owned(),
        text: text.to_owned(),
        class: MessageClass::Otp.into(),
        validity: None,
        ..Default::default()
    };
    SendRequest { message: Some(message), idempotency_key: KEY.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn no_number_sender_or_text_is_found_at_rest() {
    // Long ones: six digits are found by chance among the checksums and ids that are written in hexadecimal.
    let canary = Canary::new([
        ("number", "917345682"),
        ("sender", SENDER),
        ("text", "Quetzalcoatl"),
        ("code", "739164025"),
        ("idempotency key", "Xylophon"),
    ]);
    canary.prove();
    let mut cell = Cell::start_with(async |root| {
        collector::listen_to_cell(root).await;
        None
    })
    .await;
    cell.new_client("zanzibar", "zanzibar", SENDER).await;
    let token = cell.token("zanzibar").await;
    let mut client = cell.messages();

    // Delivered, refused, undelivered, unanswered, repeated, and refused at the edge in several ways.
    let first = client.send(with_token(message(NUMBER, SENDER, TEXT), &token)).await.unwrap().into_inner();
    client.send(with_token(message(NUMBER, SENDER, TEXT), &token)).await.unwrap();
    cell.json(["message", "show", &first.message_id, "--client", "zanzibar", "--wait", "60"]).await;
    client.send(with_token(message(NUMBER, SENDER, "Quetzalcoatl 739164025"), &token)).await.unwrap_err();
    client.send(with_token(message("0917345682", SENDER, TEXT), &token)).await.unwrap_err();
    client.send(with_token(message(NUMBER, "Quetzalcoatl", TEXT), &token)).await.unwrap_err();
    for behaviour in [
        json!({"refuse_share": 1.0, "refuse_status": 0x0B}),
        json!({"refuse_share": 0.0, "receipt_state": "UNDELIV"}),
        json!({"never_answer_share": 1.0}),
    ] {
        cell.behave(behaviour).await;
        let mut request = message(NUMBER, SENDER, TEXT);
        request.idempotency_key.clear();
        client.send(with_token(request, &token)).await.unwrap();
        eventually(BOUND, "nothing to wait", async || cell.ledger().await["waiting"] == 0).await;
    }
    // The same over NATS: what the broker carries is sealed.
    cell.run(["client", "nats", "add", "zanzibar"]).await;
    let over_nats = ["nats-send", "--client", "zanzibar", "--from", SENDER, "--to", NUMBER, "--text", TEXT];
    cell.run(over_nats.into_iter().chain(["--idempotency-key", KEY])).await;
    cell.redis(&["FLUSHALL"]).await;
    cell.run(["rebuild"]).await;
    cell.run(["quarantine", "list"]).await;
    // The carrier did get it: the search is for something that was there.
    let at_carrier = cell.carrier("/messages").await.to_string();
    assert!(at_carrier.contains("Quetzalcoatl") && at_carrier.contains("84917345682"));
    // Traces did arrive, of the services that saw the message, and the logs are as talkative as they can be.
    let told = Canary::new([("ingress", "sotto-ingress"), ("carrier", "sotto-carrier")]);
    eventually(BOUND, "traces of both", async || {
        let found = told.search_files(&cell.root().join("traces")).unwrap();
        ["ingress", "carrier"].iter().all(|label| found.iter().any(|one| one.label == *label))
    })
    .await;
    assert!(cell.log("ingress").contains("DEBUG"));
    let found = search(&canary, &cell.root());
    assert!(found.is_empty(), "{found:#?}");

    // The same search is not blind: what is planted in the broker's and Redis's own files and in a log is found.
    let plant = "Quetzalcoatl 917345682 739164025";
    quarantine::publish(
        &cell,
        Service::Privacy,
        Subject::Audit(Service::Privacy, AuditCategory::Keys),
        plant,
    )
    .await;
    cell.redis(&["SET", "sotto:ingress:{s0}:plant", plant]).await;
    std::fs::write(cell.root().join("logs/plant.log"), SENDER).unwrap();
    cell.stop().await;
    let found = search(&canary, &cell.root());
    for place in ["data/nats", "data/redis", "logs/plant.log"] {
        assert!(found.iter().any(|one| one.place.contains(place)), "nothing found in {place}: {found:#?}");
    }
    let elsewhere: Vec<_> = found
        .iter()
        .filter(|one| !["data/nats", "data/redis", "logs/plant.log"].iter().any(|at| one.place.contains(at)))
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
    // Nor in what `sotto up` printed, nor where the sender is configuration anywhere but in the register.
    let register = canary.search_files(&cell.root().join("data/identity/clients.json")).unwrap();
    assert!(register.iter().all(|one| one.label == "sender") && !register.is_empty());
}
