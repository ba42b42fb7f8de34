//! Validity is kept at every hop: what outlives it ends as expired, and the carrier never hears of it.

use serde_json::{Value, json};
use sotto_testkit::eventually;

use crate::cell::{BOUND, Cell, SENDER, number};

async fn send(cell: &Cell, n: u32, validity: &str) -> String {
    let to = number(n);
    let arguments = ["send", "--client", "shop", "--from", SENDER, "--text", "Ma 482913", "--to", &to];
    let told = cell.json([&arguments[..], &["--validity", validity]].concat()).await.pop().unwrap();
    told["message_id"].as_str().unwrap().to_owned()
}

async fn until(cell: &Cell, bound_by: &str) {
    eventually(BOUND, bound_by, || async { cell.json(["carriers"]).await[0]["bound_by"] == bound_by }).await;
}

fn kinds(told: &Value) -> Vec<&str> {
    told["journey"].as_array().unwrap().iter().map(|step| step["kind"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_outlives_its_validity_expires_at_every_hop() {
    let mut cell = Cell::start().await;
    until(&cell, "nothing").await;
    // Handed back and forth between a paused account and routing.
    cell.run(["carriers", "pause", "simulator"]).await;
    until(&cell, "paused").await;
    let paused = send(&cell, 1, "5").await;
    let told = cell.ended(&paused).await;
    assert_eq!((&told["state"], kinds(&told).contains(&"submitting")), (&json!("expired"), false), "{told}");
    cell.run(["carriers", "resume", "simulator"]).await;
    until(&cell, "nothing").await;

    // Held in the account's queue; whoever takes it from there finds its time over.
    cell.run(["stop", "--carrier", "simulator", "--reason", "a test"]).await;
    until(&cell, "stopped").await;
    let (held, kept) = (send(&cell, 2, "5").await, send(&cell, 3, "300").await);
    let expires_at = async || {
        let told = cell.json(["message", "show", &held, "--client", "shop"]).await.pop().unwrap();
        told["expires_at"].as_str().unwrap().parse::<sotto_core::Timestamp>().unwrap()
    };
    let expires_at = expires_at().await;
    eventually(BOUND, "its time to be over", || async {
        sotto_core::Clock::now(&sotto_core::SystemClock) > expires_at
    })
    .await;
    cell.run(["stop", "--carrier", "simulator", "--lift"]).await;
    let told = cell.ended(&held).await;
    assert_eq!((&told["state"], kinds(&told).contains(&"submitting")), (&json!("expired"), false), "{told}");
    assert_eq!(cell.ended(&kept).await["state"], "delivered");
    let parts = cell.carrier("/messages?limit=10").await;
    let reached: Vec<_> = parts.as_array().unwrap().iter().map(|part| part["destination"].clone()).collect();
    assert_eq!(reached, [json!(number(3)[1..])]);
    let told = cell.ledger().await;
    assert_eq!(
        (&told["balanced"], &told["expired"], &told["delivered"]),
        (&json!(true), &json!(2), &json!(1)),
        "{told}"
    );
    cell.stop().await;
}
