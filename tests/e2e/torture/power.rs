//! What a disk can do to a cell under load. Its power fails, again and again: what was said is so when it comes back. It
//! is full: nothing is promised that cannot be kept, and work goes on once there is room and the broker was restarted.
//!
//! Needs root and loop devices: `make power-loss`. That such a cut loses what is not synced is shown by
//! `crates/bus/tests/it/power.rs`.

use std::{fs, path::PathBuf, sync::Arc};

use sotto_testkit::{Disk, eventually};
use tempfile::TempDir;

use super::{Struck, Torture, now, smsc::WINDOW};
use crate::cell::BOUND;

/// How often.
const CUTS: usize = 3;

/// Messages accepted between two cuts, at least.
const MESSAGES: usize = 150;

#[tokio::test]
async fn a_cell_whose_power_fails_keeps_what_it_said() {
    let disk = Disk::new();
    let outside = TempDir::with_prefix("sotto-carrier-").unwrap();
    let mut torture = Torture::start(&disk.path(), outside.path()).await;
    let mut checkpoints = Vec::new();
    for cut in 0..CUTS {
        let enough = torture.traffic.accepted() + MESSAGES;
        torture.traffic.reach(enough).await;
        let (processes, checkpoint) = (torture.cell.pids(), outside.path().join(format!("checkpoint-{cut}")));
        fs::copy(torture.cell.root().join("data/audit/checkpoint"), &checkpoint).unwrap();
        checkpoints.push(checkpoint);
        torture.struck.push(Struck { what: "power cut".to_owned(), at: now(), explains: WINDOW });
        disk.cut_power();
        torture.cell.kill_all(&processes).await;
        disk.restore_power().await;
        torture.cell.start_again().await;
        torture.cell.wait_until_ready().await;
        torture.traffic.renew(&torture.cell).await;
    }
    let mut cell = torture.judge(0, None).await;
    cell.stop().await;
    // What was signed before a cut is still part of the log.
    for checkpoint in checkpoints {
        let words = ["audit", "verify", "--checkpoint", checkpoint.to_str().unwrap()];
        assert_eq!(cell.json(words).await[0]["verified"], true);
    }
}

/// Fills a disk on a thread of its own: the way to the carrier is in this process, and must not stand still meanwhile.
pub(super) async fn fill(disk: &Arc<Disk>) -> PathBuf {
    let disk = Arc::clone(disk);
    tokio::task::spawn_blocking(move || disk.fill()).await.unwrap()
}

#[tokio::test]
async fn a_cell_whose_disk_was_full_loses_nothing_and_goes_on_with_a_restarted_broker() {
    let disk = Arc::new(Disk::new());
    let outside = TempDir::with_prefix("sotto-carrier-").unwrap();
    let mut torture = Torture::start(&disk.path(), outside.path()).await;
    torture.traffic.reach(MESSAGES).await;
    let at = now();
    let filling = fill(&disk).await;
    eventually(BOUND, "requests to pile up", || async { torture.traffic.piles_up() }).await;
    fs::remove_file(&filling).unwrap();
    // What it could not write once, nats-server does not try again: a stream that met the full disk refuses until a restart.
    sotto_testkit::process::signal(torture.cell.running("nats-server").await, "TERM");
    let enough = torture.traffic.accepted() + MESSAGES;
    torture.traffic.reach(enough).await;
    torture.cell.wait_until_ready().await;
    // Answers that neither log nor Redis took were kept by the connector: nothing is in doubt.
    torture.struck.push(Struck { what: "full disk".to_owned(), at, explains: 0 });
    let mut cell = torture.judge(0, None).await;
    cell.stop().await;
    assert_eq!(cell.json(["audit", "verify"]).await[0]["verified"], true);
}
