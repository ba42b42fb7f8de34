//! Messages that are sent later: not before their time, once, whatever is killed meanwhile. The carrier tells when it got them.

use std::time::Duration;

use serde_json::{Value, json};
use sotto_core::{Clock as _, SystemClock, Timestamp};
use sotto_testkit::eventually;

use crate::cell::{BOUND, Cell, SENDER, number, text};

/// Beyond what waits in routing's hands, so that it is put on the schedule.
const AHEAD: Duration = Duration::from_secs(75);

async fn send(cell: &Cell, n: u32, at: Timestamp, more: &[&str]) -> Value {
    let (to, at) = (number(n), at.to_string());
    let arguments =
        ["send", "--client", "shop", "--from", SENDER, "--class", "transactional", "--text", "Hen gap"];
    let arguments = [&arguments[..], &["--to", &to, "--at", &at], more].concat();
    cell.json(arguments).await.pop().unwrap()
}

async fn state(cell: &Cell, id: &Value) -> Value {
    let shown = cell.json(["message", "show", id.as_str().unwrap(), "--client", "shop"]).await;
    shown[0]["state"].clone()
}

#[tokio::test]
async fn scheduled_messages_are_sent_at_their_time_and_not_before() {
    let mut cell = Cell::start().await;
    let begun = SystemClock.now();
    let (later, soon) = (begun.plus(AHEAD), begun.plus(Duration::from_secs(12)));
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(send(&cell, n, later, &[]).await["message_id"].clone());
    }
    let near = send(&cell, 100, soon, &[]).await["message_id"].clone();
    let month = send(&cell, 101, begun.plus(Duration::from_secs(29 * 86_400)), &[]).await;
    assert_eq!(month["send_at"], begun.plus(Duration::from_secs(29 * 86_400)).to_string());
    assert_eq!(state(&cell, &ids[0]).await, "scheduled");
    // One is called back, and one is only asked about.
    let gone = ids.pop().unwrap();
    cell.run(["message", "cancel", gone.as_str().unwrap(), "--client", "shop"]).await;
    let asked = send(&cell, 200, later, &["--dry-run"]).await;
    let route = &asked["route"];
    assert_eq!((&route["prefix"], &route["candidates"][0]["barrier"]), (&json!("8"), &json!("")), "{asked}");
    assert_eq!(
        (&asked["message_id"], route["reason"].as_str().unwrap().contains("rejected")),
        (&json!(""), false)
    );
    // Redis forgets the journals, and whoever sends what is due dies.
    assert_eq!(cell.redis(&["FLUSHALL"]).await, "OK");
    cell.kill("ingress").await;
    eventually(BOUND, "the list to be restored", || async {
        let listed = ["--json", "message", "list", "--client", "shop", "--state", "scheduled"];
        let listed = cell.try_run(listed).await;
        listed.status.success() && (20..=21).contains(&text(&listed.stdout).lines().count())
    })
    .await;

    cell.ended(near.as_str().unwrap()).await;
    eventually(BOUND * 3, "all of them", || async { cell.count("parts").await >= 20 }).await;
    for id in &ids {
        assert_eq!(cell.ended(id.as_str().unwrap()).await["state"], "delivered");
    }
    let parts = cell.carrier("/messages?limit=1000").await;
    for part in parts.as_array().unwrap() {
        let at = Timestamp::from_unix_millis(part["at"].as_i64().unwrap());
        let due = if part["destination"] == number(100)[1..] { soon } else { later };
        assert!(at >= due, "{} before its time", due.since(at).as_millis());
    }
    assert_eq!((parts.as_array().unwrap().len(), cell.count("duplicates").await), (20, 0));
    let told = cell.ledger().await;
    assert_eq!(
        (&told["accepted"], &told["waiting"], &told["cancelled"]),
        (&json!(22), &json!(1), &json!(1)),
        "{told}"
    );
    assert_eq!(told["balanced"], true, "{told}");
    assert_eq!(state(&cell, &month["message_id"]).await, "scheduled");
    cell.stop().await;
}
