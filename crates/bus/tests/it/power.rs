//! The power fails: what was acknowledged is there when it comes back, because it was synced. With the broker's own habit
//! of syncing every two minutes the same test loses records; were it not so, it would prove nothing.
//!
//! Needs root and loop devices: `make power-loss`.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use sotto_bus::{Service, StreamReader};
use sotto_core::Lane;
use sotto_testkit::{Disk, eventually};
use tokio_util::task::TaskTracker;

use crate::cell::{BOUND, TestCell, Texts, accepted, publisher};

/// Records acknowledged between two cuts, at least.
const RECORDS: usize = 300;

/// Writes through power cuts, and returns how many acknowledged records are missing, after each cut.
async fn missing_after_cuts(sync: &str, cuts: usize) -> Vec<usize> {
    let disk = Disk::new();
    let change = ("sync_interval: always", sync);
    let mut cell = TestCell::stored_in(disk.path().join("store"), change).await;
    let publisher = publisher(&cell.bus(Service::Ingress).await);
    let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
    let ended = Arc::new(AtomicBool::new(false));
    let writers = TaskTracker::new();
    for writer in 0..4 {
        let (publisher, ended, acknowledged) =
            (publisher.clone(), Arc::clone(&ended), Arc::clone(&acknowledged));
        writers.spawn(async move {
            for n in 0.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let item = format!("{writer}-{n}");
                if publisher.publish(&accepted(Lane::Otp), item.clone()).await.is_ok() {
                    acknowledged.lock().unwrap().push(item);
                }
            }
        });
    }
    let mut missing = Vec::new();
    for _ in 0..cuts {
        let before = acknowledged.lock().unwrap().len();
        let count = || acknowledged.lock().unwrap().len();
        eventually(BOUND, "traffic", || async { count() > before + RECORDS }).await;
        disk.cut_power();
        // Whatever is acknowledged from here on was promised by a broker that could store nothing.
        cell.server.kill().await;
        let promised = acknowledged.lock().unwrap().clone();
        disk.restore_power().await;
        cell.server.restart().await;
        let stored = stored(&cell).await;
        missing.push(promised.iter().filter(|item| !stored.contains(*item)).count());
    }
    ended.store(true, Ordering::Relaxed);
    missing
}

/// Everything in the stream; nothing if it is gone itself.
async fn stored(cell: &TestCell) -> HashSet<String> {
    let operator = cell.bus(Service::Operator).await;
    let reader = StreamReader::<Texts>::new(&operator, "INTAKE").unwrap();
    let Ok(state) = reader.state().await else { return HashSet::new() };
    let mut reading = reader.read(1, state.last);
    let mut stored = HashSet::new();
    while let Some(batch) = reading.next().await.unwrap() {
        stored.extend(batch.batch.texts);
    }
    stored
}

#[tokio::test]
async fn acknowledged_records_survive_a_power_cut() {
    assert_eq!(missing_after_cuts("sync_interval: always", 4).await, [0; 4]);
}

#[tokio::test]
async fn without_our_sync_the_same_cut_loses_records() {
    let missing = missing_after_cuts("sync_interval: \"2m\"", 1).await;
    assert!(missing.iter().all(|missing| *missing > 0), "{missing:?}: the cut proves nothing");
}
