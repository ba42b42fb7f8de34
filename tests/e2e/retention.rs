//! What is old enough goes from EVENTS, and the cell still accounts for every message: by what the log signed of those that
//! ended, and by the events that were carried of the others.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use sotto_bus::{Service, StreamReader};
use sotto_core::{Clock as _, SystemClock};
use sotto_proto::pipeline::v1::EventBatch;
use sotto_testkit::{eventually, eventually_ok};

use crate::{
    cell::{BOUND, Cell, SENDER, number, slow_carrier, text},
    load::{Load, settled},
    quarantine::bus,
};

/// Runs the retention, with a message more each time, until events up to `beyond` are closed. Returns how many messages
/// it sent.
async fn closed_beyond(cell: &Cell, beyond: u64, from: u32) -> (u64, u32) {
    let next = AtomicU32::new(from);
    let closed = eventually_ok(BOUND, "old events to be closed", async || {
        // The clock is believed as far as the newest event.
        let n = next.fetch_add(1, Ordering::SeqCst);
        Load::start(cell, n..n + 1).await.finish().await;
        let ran = cell.try_run(["retention", "run", "--json"]).await;
        if !ran.status.success() {
            return Err(text(&ran.stderr));
        }
        let told: Value = serde_json::from_slice(&ran.stdout).unwrap();
        let through = told["closed_through"].as_u64().unwrap();
        if through > beyond { Ok(through) } else { Err(told.to_string()) }
    })
    .await;
    (closed, next.into_inner() - from)
}

async fn last_event(cell: &Cell) -> u64 {
    let bus = bus(cell, Service::Audit).await;
    let state = StreamReader::<EventBatch>::new(&bus, "EVENTS").unwrap().state().await.unwrap();
    assert!(bus.close(BOUND).await);
    state.last
}

fn count(ledger: &Value, name: &str) -> u64 {
    ledger[name].as_u64().unwrap()
}

#[tokio::test]
async fn old_events_go_and_every_message_is_still_accounted_for() {
    let mut cell = Cell::start_with(async |root| Some(slow_carrier(root, 200).await)).await;
    let times = cell.root().join("run/times");
    fs::create_dir_all(&times).unwrap();
    // Seconds instead of months.
    fs::write(times.join("events"), "1000").unwrap();
    // Before the first event too.
    assert_eq!(cell.ledger().await["accepted"], 0);
    let plan = cell.json(["retention", "plan"]).await;
    let events = plan.iter().find(|line| line["stream"] == "EVENTS").unwrap();
    assert_eq!((&events["kept_seconds"], &events["closed_through"]), (&(90 * 86_400).into(), &0.into()));

    let ended = Load::start(&cell, 0..40).await.finish().await;
    assert_eq!(settled(&cell, &ended, false).await, 0);
    // These go on beyond the cut.
    cell.run(["stop", "--carrier", "slow"]).await;
    eventually(BOUND, "the stop", async || cell.json(["carriers"]).await[0]["bound_by"] == "stopped").await;
    let mut open = Load::start(&cell, 100..110).await.finish().await;
    eventually(BOUND, "the messages to wait", async || count(&cell.ledger().await, "waiting") == 10).await;
    let (through, more) = closed_beyond(&cell, last_event(&cell).await, 1_000).await;
    let mut sent = 50 + u64::from(more);
    let ledger = cell.ledger().await;
    assert_eq!(ledger["closed"]["through"], through);
    assert_eq!(count(&ledger, "closed_messages"), 40, "{ledger}");
    assert_eq!((count(&ledger, "accepted"), count(&ledger, "delivered")), (sent, 40));
    let printed = cell.run(["audit", "verify"]).await;
    assert!(printed.contains("verified"), "{printed}");
    let gone = cell.try_run(["audit", "prove", "1", "--wait", "0"]).await;
    assert!(text(&gone.stderr).contains("they were trimmed"), "{}", text(&gone.stderr));

    // What waited is delivered, and found over a second cut.
    cell.run(["stop", "--carrier", "slow", "--lift"]).await;
    open.extend(Load::start(&cell, 200..205).await.finish().await);
    sent += 5;
    assert_eq!(settled(&cell, &open, false).await, 0);
    let mut from = 2_000;
    for place in ["audit.carried", "audit.closed", "audit.forgotten"] {
        let armed = cell.root().join("run/failpoints").join(place);
        fs::create_dir_all(armed.parent().unwrap()).unwrap();
        let beyond = last_event(&cell).await;
        fs::write(&armed, "").unwrap();
        let (_, more) = closed_beyond(&cell, beyond, from).await;
        assert!(!armed.exists(), "{place} was not reached");
        (sent, from) = (sent + u64::from(more), from + 1_000);
        cell.wait_until_ready().await;
        let ledger = eventually_ok(BOUND, "the ledger", async || {
            let ledger = cell.ledger().await;
            if count(&ledger, "delivered") == sent { Ok(ledger) } else { Err(ledger.to_string()) }
        })
        .await;
        assert_eq!(count(&ledger, "accepted"), sent, "{place}: {ledger}");
        assert!(count(&ledger, "closed_messages") >= 55, "{place}: {ledger}");
    }
    assert_eq!(cell.count("parts").await, sent);
    assert_eq!(cell.count("duplicates").await, 0);

    // What nobody signed is missed, by name.
    let bus = bus(&cell, Service::Audit).await;
    let reader = StreamReader::<EventBatch>::new(&bus, "EVENTS").unwrap();
    let held = reader.state().await.unwrap();
    let plan = cell.json(["retention", "plan"]).await;
    let events = plan.iter().find(|line| line["stream"] == "EVENTS").unwrap();
    assert_eq!(events["closed_through"], held.first - 1);
    reader.purge_before(held.first + 2).await.unwrap();
    assert!(bus.close(BOUND).await);
    let missed = text(&cell.try_run(["ledger", "check"]).await.stderr);
    let named = format!("events {} to {} are missing", held.first, held.first + 1);
    assert!(missed.contains(&named), "{missed}");
    // Nor is anything closed over the hole.
    let refused = eventually_ok(BOUND, "the hole to be old enough", async || {
        Load::start(&cell, 9_000..9_001).await.finish().await;
        let ran = cell.try_run(["retention", "run"]).await;
        if ran.status.success() { Err(text(&ran.stdout)) } else { Ok(text(&ran.stderr)) }
    })
    .await;
    assert!(refused.contains("are not those that the log committed to"), "{refused}");
    cell.stop().await;
}

#[tokio::test]
async fn a_cancellation_outlives_its_events_and_redis() {
    let mut cell = Cell::start().await;
    let times = cell.root().join("run/times");
    fs::create_dir_all(&times).unwrap();
    fs::write(times.join("events"), "1000").unwrap();
    // It lies on the schedule until then, and would be sent.
    let at = SystemClock.now().plus(Duration::from_secs(20 * 86_400)).to_string();
    let to = number(1);
    let wanted =
        ["send", "--client", "shop", "--from", SENDER, "--class", "transactional", "--text", "Hen gap"];
    let sent = cell.json(wanted.into_iter().chain(["--to", &to, "--at", &at])).await.pop().unwrap();
    let id = sent["message_id"].as_str().unwrap();
    cell.run(["message", "cancel", id, "--client", "shop"]).await;
    let (_, more) = closed_beyond(&cell, last_event(&cell).await, 1_000).await;
    let ledger = cell.ledger().await;
    let counted =
        (count(&ledger, "accepted"), count(&ledger, "cancelled"), count(&ledger, "closed_messages"));
    assert_eq!(counted.0, u64::from(more) + 1, "{ledger}");
    assert_eq!(counted.1, 1, "{ledger}");
    assert!(counted.2 <= u64::from(more), "{ledger}");

    assert_eq!(cell.redis(&["FLUSHALL"]).await, "OK");
    eventually(BOUND, "the message to be known as cancelled", || async {
        let shown = cell.try_run(["message", "show", id, "--client", "shop", "--json"]).await;
        let shown = serde_json::from_slice::<Value>(&shown.stdout).unwrap_or_default();
        shown["state"] == "cancelled"
    })
    .await;
    // And by those who would send it.
    let pattern = format!("sotto:carrier:*:sent:{id}");
    eventually(BOUND, "its mark", || async {
        let key = cell.redis(&["--scan", "--pattern", &pattern]).await;
        !key.is_empty() && cell.redis(&["GET", &key]).await == "x"
    })
    .await;
    assert_eq!(cell.ledger().await["cancelled"], 1);
    cell.stop().await;
}
