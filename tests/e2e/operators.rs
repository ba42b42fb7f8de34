//! What operators see and hold back, in a whole cell. Whether it is heeded is said by the carrier.

use std::time::Duration;

use serde_json::{Value, json};
use sotto_core::{Clock as _, SystemClock, Timestamp};
use sotto_testkit::eventually;
use tonic::Code;

use crate::{
    cell::{BOUND, Cell, SENDER, carrier_with, number, with_token},
    load::{Load, balanced, otp, settled},
};

const MESSAGES: u32 = 400;

/// Within it every word must be heeded.
const HEEDED: Duration = Duration::from_secs(5);

async fn account(cell: &Cell) -> Value {
    cell.json(["carriers"]).await.pop().unwrap()
}

async fn until(cell: &Cell, bound_by: &str) {
    eventually(BOUND, bound_by, || async { account(cell).await["bound_by"] == bound_by }).await;
}

/// When the carrier got each part.
async fn parts(cell: &Cell) -> Vec<Timestamp> {
    let parts = cell.carrier("/messages?limit=100000").await;
    let at = |part: &Value| Timestamp::from_unix_millis(part["at"].as_i64().unwrap());
    parts.as_array().unwrap().iter().map(at).collect()
}

#[tokio::test]
async fn operators_see_carriers_and_hold_traffic_back() {
    let mut cell = Cell::start_with(async |root| Some(carrier_with(root, 50, "", &json!({})).await)).await;
    until(&cell, "nothing").await;
    let tried = cell.json(["carriers", "test", "slow"]).await;
    assert_eq!(tried.len(), 2, "{tried:?}");

    // Everything for one carrier is stopped in the middle of the work, and stays where it is.
    let load = Load::start(&cell, 0..MESSAGES).await;
    eventually(BOUND, "a hundred parts", || async { cell.count("parts").await >= 100 }).await;
    cell.run(["stop", "--carrier", "slow", "--reason", "a test"]).await;
    let heeded = SystemClock.now().plus(HEEDED);
    until(&cell, "stopped").await;
    eventually(BOUND, "some time to pass", || async {
        SystemClock.now() > heeded.plus(Duration::from_secs(3))
    })
    .await;
    let waiting = account(&cell).await;
    assert!(
        waiting["queues"].as_array().unwrap().iter().any(|queue| queue["batches"].as_u64() > Some(0)),
        "{waiting}"
    );
    let held = cell.json(["stop", "--list"]).await;
    assert_eq!(
        (held.len(), &held[0]["what"], &held[0]["reason"]),
        (1, &json!("carrier=slow"), &json!("a test"))
    );
    let lifted = SystemClock.now();
    cell.run(["stop", "--carrier", "slow", "--lift"]).await;
    let ids = load.finish().await;
    settled(&cell, &ids, false).await;
    let got = parts(&cell).await;
    assert_eq!((got.len(), cell.count("duplicates").await), (usize::try_from(MESSAGES).unwrap(), 0));
    assert!(got.iter().all(|at| *at < heeded || *at > lifted), "something went out while it was stopped");
    balanced(&cell, ids.len(), 0).await;

    // A tenant's new messages are refused for now, and others' are not.
    cell.new_client("other", "globex", "GLOBEX").await;
    cell.run(["stop", "--tenant", "acme"]).await;
    let (ours, theirs) = (cell.token("shop").await, cell.token("other").await);
    let mut ingress = cell.messages();
    let refused = eventually_refused(&cell, &ours).await;
    assert!(refused.message().contains("stopped"), "{refused}");
    let mut request = otp(9_000);
    request.message.as_mut().unwrap().from = "GLOBEX".to_owned();
    ingress.send(with_token(request, &theirs)).await.unwrap();
    cell.run(["stop", "--tenant", "acme", "--lift"]).await;
    eventually(BOUND, "the stop to be lifted", || async {
        cell.messages().send(with_token(otp(9_001), &ours)).await.is_ok()
    })
    .await;

    // Paused: nothing goes out, the bind stays. Drained: it ends. Resumed: what waited is sent.
    eventually(BOUND, "both", || async { cell.count("parts").await >= u64::from(MESSAGES) + 2 }).await;
    cell.run(["carriers", "pause", "slow"]).await;
    until(&cell, "paused").await;
    let sent = cell.messages().send(with_token(otp(9_002), &ours)).await.unwrap().into_inner();
    eventually(BOUND, "a way back", || async {
        let told = cell.json(["message", "show", &sent.message_id, "--client", "shop"]).await.pop().unwrap();
        told["journey"].as_array().unwrap().iter().any(|step| step["kind"] == "unsent")
    })
    .await;
    assert_eq!(cell.count("links").await, 1);
    cell.run(["carriers", "drain", "slow"]).await;
    eventually(BOUND, "the end of the bind", || async { cell.count("links").await == 0 }).await;
    until(&cell, "draining").await;
    assert!(!cell.try_run(["carriers", "test", "slow"]).await.status.success(), "no bind is up");
    let reached = async || {
        let parts = cell.carrier("/messages?limit=100000").await;
        parts.as_array().unwrap().iter().filter(|part| part["destination"] == number(9_002)[1..]).count()
    };
    assert_eq!(reached().await, 0);
    cell.run(["carriers", "resume", "slow"]).await;
    let ended = cell.ended(&sent.message_id).await;
    assert_eq!(ended["state"], "delivered");
    assert_eq!(reached().await, 1);

    // Whoever looks sees what goes over the wire, and nothing of whom or what it is about.
    let seen = {
        let mut looking = Box::pin(cell.json(["carriers", "trace", "slow", "--seconds", "2"]));
        let mut sending = cell.messages();
        let mut next = 9_100;
        loop {
            tokio::select! {
                seen = &mut looking => break seen,
                sent = sending.send(with_token(otp(next), &ours)) => drop(sent.unwrap()),
            };
            next += 1;
        }
    };
    for command in ["submit_sm", "submit_sm_resp", "deliver_sm", "deliver_sm_resp"] {
        assert!(seen.iter().any(|line| line["command"] == command), "no {command}");
    }
    let told = format!("{seen:?}");
    assert!(
        !told.contains(&number(9_100)[1..9]) && !told.contains(SENDER) && !told.contains("Ma xac"),
        "{told}"
    );

    // Each act is in the audit log, with what it concerned.
    cell.run(["audit", "act", "traffic.held", "--object", "carrier=slow,draining"]).await;
    cell.run(["audit", "act", "carrier.traced", "--object", "slow"]).await;
    cell.run(["audit", "act", "traffic.released", "--object", "tenant=acme"]).await;
    assert!(cell.json(["stop", "--list"]).await.is_empty());
    // A message to an operator's own handset, of which no ledger knows.
    let to = number(9_999);
    let tried = cell.json(["carriers", "test", "slow", "--to", &to, "--from", SENDER]).await;
    assert_eq!(
        tried.last().map(|step| (&step["what"], &step["outcome"])),
        Some((&json!("test message"), &json!("ok")))
    );
    let got = cell.carrier("/messages?limit=1").await;
    assert_eq!(
        (&got[0]["destination"], &got[0]["registered_delivery"]),
        (&json!(to[1..]), &json!(0)),
        "{got}"
    );
    let refused = cell.try_run(["carriers", "test", "slow", "--to", "+8412", "--from", SENDER]).await;
    assert!(!refused.status.success());
    cell.stop().await;
}

async fn eventually_refused(cell: &Cell, token: &str) -> tonic::Status {
    let said = SystemClock.now();
    let mut number = 8_000;
    loop {
        match cell.messages().send(with_token(otp(number), token)).await {
            Ok(_) => number += 1,
            Err(refused) => {
                assert_eq!(refused.code(), Code::Unavailable);
                return refused;
            }
        }
        assert!(SystemClock.now().since(said) < HEEDED, "accepted for too long");
    }
}
