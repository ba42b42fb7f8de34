//! Nine kinds of noise that carriers make, at once, and an unbind: nothing is lost and nothing is sent twice, as the carrier counts.

use std::{ops::Range, path::Path};

use serde_json::{Value, json};
use sotto_testkit::eventually;
use tokio::time::{Duration, Instant};

use crate::{
    cell::{BOUND, Carriers, Cell, carrier_with},
    load::{Load, balanced, settled},
};

/// Messages of the short run; `SOTTO_SOAK_MINUTES` at build time makes it long, by rounds of as many.
const ROUND: u32 = 600;

/// A twentieth of each kind of noise. Ids are padded and in another base than those of the answers.
fn noise() -> Value {
    json!({
        "early_receipts": 0.05,
        "late_receipts": 0.05,
        "late_receipt_delay_ms": 3_000,
        "enroute_receipts": 0.05,
        "duplicate_receipts": 0.05,
        "orphan_receipts": 0.05,
        "slow_answers": 0.05,
        "slow_answer_delay_ms": 300,
        "garbage": 0.05,
        "refuse_share": 0.05,
        "refuse_status": 0x64,
        "receipt_echoes_text": true,
        "message_id_form": "hex",
        "receipt_id_form": "padded",
    })
}

async fn carriers(root: &Path) -> Option<Carriers> {
    let keys = "binds = 2\nmessage_id_in_response = \"hex\"\nmessage_id_in_receipt = \"decimal\"\n";
    Some(carrier_with(root, 200, keys, &noise()).await)
}

/// One round; the carrier unbinds in the middle of it.
async fn round(cell: &Cell, numbers: Range<u32>) -> Vec<String> {
    let half = numbers.len() / 2;
    let mut load = Load::start(cell, numbers).await;
    load.reach(half).await;
    cell.tell_carrier("/unbind", "").await;
    load.finish().await
}

#[tokio::test]
async fn a_twentieth_of_each_noise_loses_nothing_and_repeats_nothing() {
    let mut cell = Cell::start_with(carriers).await;
    let minutes = option_env!("SOTTO_SOAK_MINUTES").map_or(0, |minutes| minutes.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let (mut ids, mut rounds) = (Vec::new(), 0);
    loop {
        let sent = round(&cell, rounds * ROUND..(rounds + 1) * ROUND).await;
        rounds += 1;
        assert_eq!(settled(&cell, &sent, false).await, 0, "in doubt");
        ids.extend(sent);
        if Instant::now() >= end {
            break;
        }
    }
    let told = balanced(&cell, ids.len(), 0).await;
    let parts = u64::try_from(ids.len()).unwrap();
    assert_eq!((cell.count("parts").await, cell.count("duplicates").await), (parts, 0));
    // Each kind of noise was there, and every receipt was taken in the end: none is left to the carrier.
    eventually(BOUND, "every receipt to be taken", || async { cell.count("receipts_waiting").await == 0 })
        .await;
    let orphans = cell.count("orphans_sent").await;
    assert!(orphans >= parts / 25, "{orphans}");
    assert!(cell.count("receipts_acked").await >= parts + parts / 10 + orphans);
    assert_eq!((cell.count("receipts_lost").await, told["corrected"].as_u64()), (0, Some(0)));
    // What belongs to no message is counted, and nothing else is.
    eventually(BOUND, "the orphans in the ledger", || async {
        cell.ledger().await["orphan_receipts"].as_u64() == Some(orphans)
    })
    .await;
    cell.stop().await;
}
