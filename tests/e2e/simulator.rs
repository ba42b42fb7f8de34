//! A carrier that is made to misbehave by its orders, and what of it an account's settings make up for.

use serde_json::{Value, json};
use sotto_testkit::{canary::Canary, eventually};

use crate::cell::{BOUND, Cell, carrier_with, text};

const TO: &str = "+84917345682";

async fn send(cell: &Cell, text: &str) -> String {
    let words =
        ["send", "--client", "shop", "--from", "ACMEBANK", "--class", "otp", "--to", TO, "--text", text];
    let sent = cell.json(words).await.pop().unwrap();
    sent["message_id"].as_str().unwrap().to_owned()
}

fn kinds(told: &Value) -> Vec<&str> {
    told["journey"].as_array().unwrap().iter().map(|step| step["kind"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_carrier_that_answers_nothing_is_believed_by_its_receipts() {
    let canary = Canary::new([("number", "917345682"), ("text", "Quetzalcoatl")]);
    canary.prove();
    let keys = "concatenation = \"payload\"\nuser_message_reference = true\n";
    let mut cell = Cell::start_with(async |root| Some(carrier_with(root, 50, keys, &json!({})).await)).await;
    let admin = cell.carrier_admin();
    let order = async |words: &[&str]| {
        let words = ["simulator", "--admin", &admin].into_iter().chain(words.iter().copied());
        cell.json(words).await.pop().unwrap()
    };

    // A long message goes in one submit, and ends with its one receipt.
    let long = format!("Quetzalcoatl {}", "x".repeat(300));
    let id = send(&cell, &long).await;
    let told = cell.ended(&id).await;
    assert_eq!((&told["state"], told["parts"].as_array().unwrap().len()), (&json!("delivered"), 3));
    let told = order(&[]).await;
    assert_eq!((&told["counters"]["submits"], &told["counters"]["receipts_acked"]), (&json!(1), &json!(1)));
    assert_eq!(cell.carrier("/messages").await[0]["text"], json!(long));

    // From now on it takes everything and answers nothing. Its receipts say which message they are of.
    assert_eq!(order(&["never-answer", "1"]).await["never_answer_share"], json!(1.0));
    order(&["receipts", "orphan", "1"]).await;
    for text in [&long, "Quetzalcoatl"] {
        let told = cell.ended(&send(&cell, text).await).await;
        assert_eq!(told["state"], "delivered");
        assert!(!kinds(&told).contains(&"submitted"), "nobody answered: {told}");
    }
    order(&["recover"]).await;
    assert_eq!(cell.ended(&send(&cell, "Quetzalcoatl").await).await["state"], "delivered");
    eventually(BOUND, "orphans to be taken", || async {
        let told = order(&[]).await;
        let counters = &told["counters"];
        counters["orphans_sent"] == json!(2) && counters["receipts_acked"] == json!(6)
    })
    .await;

    // What makes no sense is told.
    let refused = cell.try_run(["simulator", "--admin", &admin, "garbage", "2"]).await;
    assert!(!refused.status.success() && text(&refused.stderr).contains("from 0 to 1"));
    let own = cell.try_run(["simulator"]).await;
    assert!(!own.status.success() && text(&own.stderr).contains("has no simulator"));
    assert_eq!(
        order(&["write", "--from", "84917345682", "--to", "9029", "--text", "hi"]).await,
        json!({"parts": 1})
    );
    cell.ledger().await;
    cell.stop().await;
    // Whom those messages went to is nowhere in clear: not in Redis either, by which their receipts found them.
    let found = canary.search_files(&cell.root()).unwrap();
    assert!(found.is_empty(), "{found:#?}");
}
