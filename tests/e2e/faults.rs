//! kill -9 of every process of a cell with messages under way, and the loss of all of Redis. The client is honest and
//! asks again; the carrier counts.

use std::fs;

use serde_json::json;

use crate::{
    cell::{BOUND, Cell},
    load::{Load, balanced, settled},
};

/// Messages in one round, and the moment of the fault.
const ROUND: u32 = 120;
const MOMENT: usize = 30;

/// One round: a fault in the middle of the load. Returns the ids that the cell accepted.
async fn round(cell: &Cell, number: u32, fault: impl AsyncFnOnce(&Cell)) -> Vec<String> {
    let mut load = Load::start(cell, number * ROUND..(number + 1) * ROUND).await;
    load.reach(MOMENT).await;
    fault(cell).await;
    load.finish().await
}

#[tokio::test]
async fn no_service_that_is_killed_loses_a_message_or_sends_one_twice() {
    let mut cell = Cell::start().await;
    let mut ids = Vec::new();
    for (number, service) in (0..).zip(["routing", "privacy", "identity", "audit", "ingress"]) {
        ids.extend(round(&cell, number, async |cell| cell.kill(service).await).await);
        assert_eq!(settled(&cell, &ids, false).await, 0, "after {service}");
        balanced(&cell, ids.len(), 0).await;
        let (parts, twice) = (cell.count("parts").await, cell.count("duplicates").await);
        assert_eq!((parts, twice), (u64::try_from(ids.len()).unwrap(), 0), "after {service}");
    }
    cell.stop().await;
    assert_eq!(cell.json(["audit", "verify"]).await[0]["verified"], true);
}

#[tokio::test]
async fn a_killed_connector_leaves_only_what_was_on_the_wire_in_doubt() {
    let mut cell = Cell::start().await;
    // Answers take a moment, so that some are outstanding when the connector dies.
    cell.behave(json!({"response_delay_ms": 200})).await;
    let ids = round(&cell, 0, async |cell| cell.kill("carrier").await).await;
    cell.behave(json!({"response_delay_ms": 0})).await;
    let in_doubt = settled(&cell, &ids, true).await;
    // In doubt is what was written and not answered. Most came after the kill: calling everything unknown is a failure.
    assert!(in_doubt * 2 <= ids.len(), "{in_doubt} of {} in doubt", ids.len());
    balanced(&cell, ids.len(), in_doubt).await;
    let (parts, twice) = (cell.count("parts").await, cell.count("duplicates").await);
    assert_eq!(twice, 0);
    let all = u64::try_from(ids.len()).unwrap();
    let doubt = u64::try_from(in_doubt).unwrap();
    assert!((all - doubt..=all).contains(&parts), "{parts} of {all} parts, {doubt} in doubt");
    cell.stop().await;
}

#[tokio::test]
async fn a_broker_and_a_redis_that_are_killed_lose_nothing() {
    let mut cell = Cell::start().await;
    let mut ids = round(&cell, 0, async |cell| cell.kill("nats-server").await).await;
    assert_eq!(settled(&cell, &ids, false).await, 0, "after the broker");
    ids.extend(round(&cell, 1, async |cell| cell.kill("redis-server").await).await);
    assert_eq!(settled(&cell, &ids, false).await, 0, "after Redis");
    balanced(&cell, ids.len(), 0).await;
    let (parts, twice) = (cell.count("parts").await, cell.count("duplicates").await);
    assert_eq!((parts, twice), (u64::try_from(ids.len()).unwrap(), 0));
    cell.stop().await;
}

#[tokio::test]
async fn redis_may_burn_while_traffic_runs() {
    let mut cell = Cell::start().await;
    // Receipts come late, so that some are outstanding when Redis forgets which message they are for.
    cell.behave(json!({"receipt_delay_ms": 1_500})).await;
    let mut ids = round(&cell, 0, async |cell| {
        assert_eq!(cell.redis(&["FLUSHALL"]).await, "OK");
    })
    .await;
    // Once by itself, and once asked for.
    ids.extend(
        round(&cell, 1, async |cell| {
            assert_eq!(cell.redis(&["FLUSHALL"]).await, "OK");
            let printed = cell.run(["rebuild"]).await;
            assert!(!printed.is_empty());
        })
        .await,
    );
    assert_eq!(settled(&cell, &ids, false).await, 0);
    balanced(&cell, ids.len(), 0).await;
    let (parts, twice) = (cell.count("parts").await, cell.count("duplicates").await);
    assert_eq!((parts, twice), (u64::try_from(ids.len()).unwrap(), 0));
    assert_eq!(cell.count("receipts_lost").await, 0);
    // A rebuild of an idle cell changes nothing.
    let before = cell.ended(ids.first().unwrap()).await;
    cell.redis(&["FLUSHALL"]).await;
    cell.run(["rebuild"]).await;
    sotto_testkit::eventually(BOUND, "the same journey", async || {
        cell.ended(ids.first().unwrap()).await == before
    })
    .await;
    cell.stop().await;
}

#[tokio::test]
async fn redis_keeps_nothing_on_disk_and_a_cell_needs_none_of_it() {
    let mut cell = Cell::start().await;
    let kept = cell.root().join("data/redis");
    let ids = Load::start(&cell, 0..30).await.finish().await;
    assert_eq!(settled(&cell, &ids, false).await, 0);
    cell.stop().await;
    assert_eq!(
        fs::read_dir(&kept).unwrap().count(),
        0,
        "messages and marks of recipients die with the process"
    );
    // A cell of the time when it kept a file.
    fs::create_dir(kept.join("appendonlydir")).unwrap();
    fs::write(kept.join("appendonlydir/appendonly.aof.manifest"), "no manifest").unwrap();
    cell.start_again().await;
    assert_eq!(settled(&cell, &ids, false).await, 0, "known again from the log");
    balanced(&cell, ids.len(), 0).await;
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 0);
    cell.stop().await;
}

#[tokio::test]
async fn cut_links_and_a_carrier_that_never_answers_end_in_doubt_and_not_in_a_second_submit() {
    let mut cell = Cell::start().await;
    cell.behave(json!({"never_answer_share": 0.1})).await;
    let mut load = Load::start(&cell, 0..ROUND).await;
    load.reach(MOMENT).await;
    cell.tell_carrier("/drop-links", "").await;
    let ids = load.finish().await;
    let in_doubt = settled(&cell, &ids, true).await;
    let unanswered = cell.count("unanswered").await;
    assert!(unanswered >= 1);
    assert_eq!(cell.count("duplicates").await, 0);
    balanced(&cell, ids.len(), in_doubt).await;
    // A late answer or receipt is still taken: none is lost.
    assert_eq!(cell.count("receipts_lost").await, 0);
    cell.stop().await;
}
