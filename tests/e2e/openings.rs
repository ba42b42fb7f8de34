//! Keys are opened by connectors that announced it: over retries, deaths and doubt nobody is suspected, and who has stolen a
//! connector's certificate is told of with the account that they opened for.

use serde_json::{Value, json};
use sotto_proto::pipeline::v1::KeyWrap;
use sotto_testkit::eventually;

use crate::{
    canary::keys::{unwrap, waiting},
    cell::{BOUND, Cell},
    load::{Load, balanced, settled},
};

const MESSAGES: u32 = 120;

/// How often the stranger opens.
const STOLEN: usize = 3;

/// Has privacy tell what it has counted, which it does each minute and at its end.
async fn count(cell: &Cell) {
    cell.restart("privacy").await;
}

async fn act(cell: &Cell, action: &str) -> Value {
    cell.json(["audit", "act", action, "--wait", "40"]).await.pop().unwrap()
}

#[tokio::test]
async fn openings_balance_but_for_those_of_a_stranger_who_is_told_of() {
    let mut cell = Cell::start().await;
    // Refused for now, and never answered; with a connector and a privacy that die with messages in their hands.
    cell.behave(json!({"refuse_share": 0.1, "refuse_status": 0x08, "never_answer_share": 0.02, "response_delay_ms": 50})).await;
    let mut load = Load::start(&cell, 0..MESSAGES).await;
    load.reach(30).await;
    cell.kill("carrier").await;
    count(&cell).await;
    let ids = load.finish().await;
    cell.behave(json!({"refuse_share": 0.0, "never_answer_share": 0.0, "response_delay_ms": 0})).await;
    let in_doubt = settled(&cell, &ids, true).await;
    balanced(&cell, ids.len(), in_doubt).await;
    count(&cell).await;
    let opened = act(&cell, "session_key.opened").await;
    assert!(opened["object"].as_str().unwrap().starts_with("account=simulator,keys="), "{opened}");
    assert_eq!(opened["tenant"], "acme", "{opened}");

    // Somebody with the certificate of connectors, and with what waits.
    cell.run(["stop", "--carrier", "simulator"]).await;
    eventually(BOUND, "the stop", async || cell.json(["carriers"]).await[0]["bound_by"] == "stopped").await;
    let more = Load::start(&cell, MESSAGES..MESSAGES + 1).await.finish().await;
    eventually(BOUND, "it to wait for the carrier", async || waiting(&cell).await.len() == 1).await;
    let wrap = KeyWrap::from(waiting(&cell).await[0].wrap.as_ref());
    assert_eq!(unwrap(&cell, "carrier", vec![wrap; STOLEN]).await.unwrap().len(), STOLEN);
    count(&cell).await;
    let told = act(&cell, "openings.unjustified").await;
    let object = told["object"].as_str().unwrap();
    assert!(object.starts_with(&format!("account=simulator,keys={STOLEN},")), "{told}");
    assert_eq!(told["tenant"], "acme", "{told}");
    // That is all that was ever told: nothing of what connectors did.
    let alarms = cell.log("audit").lines().filter(|line| line.contains("openings do not balance")).count();
    assert_eq!(alarms, 1, "{}", cell.log("audit"));
    // Once, also after a start that reads the log again.
    cell.kill("audit").await;
    cell.run(["stop", "--carrier", "simulator", "--lift"]).await;
    settled(&cell, &more, true).await;
    count(&cell).await;
    let again = act(&cell, "openings.unjustified").await;
    assert_eq!(again["object"], told["object"]);
    cell.stop().await;
    assert_eq!(cell.json(["audit", "verify"]).await[0]["verified"], true);
}
