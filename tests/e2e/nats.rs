//! A client over NATS: let in by the tool, sealed on the way, and counted by the carrier.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use sotto_bus::{ClientConnection, ClientIdentity, NatsConfig};
use sotto_testkit::eventually;

use crate::cell::{BOUND, Cell, SENDER, number, text};

fn arguments<'a>(client: &'a str, to: &'a str, key: &'a str) -> Vec<&'a str> {
    let text = "Your code is 482913";
    let mut all =
        vec!["--json", "nats-send", "--client", client, "--from", SENDER, "--to", to, "--text", text];
    if !key.is_empty() {
        all.extend(["--idempotency-key", key]);
    }
    all
}

async fn send(cell: &Cell, client: &str, to: &str, key: &str) -> Value {
    serde_json::from_str(&cell.run(arguments(client, to, key)).await).unwrap()
}

/// What is said when it fails: error and fix.
async fn refused(cell: &Cell, client: &str, to: &str) -> String {
    let output = cell.try_run(arguments(client, to, "")).await;
    assert!(!output.status.success(), "{}", text(&output.stdout));
    text(&output.stderr)
}

/// A connection as this client, by what the tool wrote for it.
pub(crate) async fn connect(cell: &Cell, client: &str) -> ClientConnection {
    let folder = cell.root().join(format!("clients/{client}.nats"));
    let told: Value =
        serde_json::from_slice(&std::fs::read(folder.join("connection.json")).unwrap()).unwrap();
    let config = NatsConfig {
        url: cell.nats_url(),
        ca_file: folder.join("ca.pem"),
        cert_file: folder.join("cert.pem"),
        key_file: folder.join("cert.key"),
        nkey_seed_file: folder.join("nkey.seed"),
        connect_timeout_ms: 5_000,
    };
    let word = |name: &str| told[name].as_str().unwrap().to_owned();
    let identity = ClientIdentity {
        cell: word("cell").parse().unwrap(),
        tenant: word("tenant").parse().unwrap(),
        client: word("client_id"),
    };
    ClientConnection::connect(&config, identity).await.unwrap()
}

#[tokio::test]
async fn a_key_is_replaced_without_a_gap_and_gone_when_it_is_retired() {
    let mut cell = Cell::start().await;
    cell.run(["client", "nats", "add", "shop"]).await;
    let held = cell.root().join("clients/shop.nats/intake-key.json");
    let old = std::fs::read(&held).unwrap();
    let rotated = cell.json(["intake-key", "rotate"]).await;
    let new = std::fs::read(&held).unwrap();
    assert_ne!(old, new);
    send(&cell, "shop", &number(1), "").await;
    // A client that nobody told yet.
    std::fs::write(&held, &old).unwrap();
    send(&cell, "shop", &number(2), "").await;

    let keys = cell.json(["intake-key", "list"]).await;
    let of = |role: &str| keys.iter().find(|key| key["role"] == role).unwrap()["key_id"].as_str().unwrap();
    assert_eq!((of("current"), keys.len()), (rotated[0]["key_id"].as_str().unwrap(), 2));
    let current = cell.try_run(["intake-key", "retire", of("current")]).await;
    assert!(!current.status.success(), "clients seal to it");
    cell.run(["intake-key", "retire", of("previous")]).await;
    // Ingress forgets it at its next look into the keystore.
    eventually(BOUND, "the old key to be gone", async || {
        let output = cell.try_run(arguments("shop", &number(3), "")).await;
        !output.status.success() && text(&output.stderr).contains("sealed.key_id")
    })
    .await;
    std::fs::write(&held, &new).unwrap();
    send(&cell, "shop", &number(4), "").await;
    cell.stop().await;
}

#[tokio::test]
async fn a_client_over_nats_sends_one_sms_a_key() {
    let mut cell = Cell::start().await;
    let early = refused(&cell, "shop", &number(1)).await;
    assert!(early.contains("sotto client nats add shop"), "{early}");
    let added = cell.json(["client", "nats", "add", "shop"]).await;
    assert_eq!(added[0]["admitted"], true, "a running broker lets it in at once");

    let first = send(&cell, "shop", &number(1), "order-1").await;
    let again = send(&cell, "shop", &number(1), "order-1").await;
    assert_eq!((&first["message_id"], &again["repeated"]), (&again["message_id"], &true.into()));
    // Without a key of the caller's each call is a message of its own.
    let other = send(&cell, "shop", &number(3), "").await;
    assert_ne!(first["message_id"], other["message_id"]);
    for sent in [&first, &other] {
        assert_eq!(cell.ended(sent["message_id"].as_str().unwrap()).await["state"], "delivered");
    }
    assert_eq!((cell.count("parts").await, cell.count("duplicates").await), (2, 0));

    // The same errors as over gRPC, and the cell's own words for what is wrong.
    let invalid = refused(&cell, "shop", "+841261234567").await;
    assert!(invalid.contains("message.to"), "{invalid}");
    // A broker that is killed and comes back is asked again by both sides.
    cell.kill("nats-server").await;
    eventually(BOUND, "a message through the new broker", async || {
        cell.try_run(arguments("shop", &number(5), "order-5")).await.status.success()
    })
    .await;

    // What is added while the cell stands still is let in when it runs.
    cell.new_client("late", "globex", SENDER).await;
    cell.stop().await;
    assert_eq!(cell.json(["client", "nats", "add", "late"]).await[0]["admitted"], false);
    cell.start_again().await;
    cell.wait_until_ready().await;
    let late = send(&cell, "late", &number(2), "").await;
    assert_eq!(late["parts"], 1);
    // Of two clients one is taken out, its open connection too; the other stays.
    let open = connect(&cell, "shop").await;
    assert!(open.submit(Bytes::new(), BOUND).await.is_ok(), "told that it asked for nothing");
    cell.run(["client", "nats", "remove", "shop"]).await;
    eventually(BOUND, "the connection to be cut", async || {
        open.submit(Bytes::new(), Duration::from_millis(200)).await.is_err()
    })
    .await;
    let gone = refused(&cell, "shop", &number(1)).await;
    assert!(gone.contains("client nats add shop"), "{gone}");
    send(&cell, "late", &number(2), "").await;
    let twice = cell.try_run(["client", "nats", "remove", "shop"]).await;
    assert!(!twice.status.success());
    assert_eq!(cell.ledger().await["balanced"], true);
    cell.stop().await;
}
