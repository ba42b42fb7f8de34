//! Two connectors of one account: binds and rate stay within the contract whatever happens to one of them, and nothing is
//! sent twice.

use std::{fs, os::unix::process::ExitStatusExt as _, path::Path};

use serde_json::json;
use sotto_testkit::{Process, eventually, tools};

use crate::{
    cell::{BOUND, Carriers, Cell, carrier_with},
    load::{Load, balanced, settled},
};

/// Parts a second of the account.
const TPS: u32 = 50;

/// Messages of the test: half a minute's work, and more.
const MESSAGES: u32 = 1_800;

/// Binds of the contract. The carrier would take any number, and counts.
const BINDS: u64 = 3;

/// Another connector with the first one's surroundings, under its own name.
fn another(cell: &Cell, name: &str) -> Process {
    let environment = fs::read(format!("/proc/{}/environ", cell.pid("carrier"))).unwrap();
    let environment: Vec<_> = String::from_utf8(environment)
        .unwrap()
        .split('\0')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| !name.ends_with("ADMIN__ADDRESS_FILE") && !name.ends_with("REPLICA"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .chain([("SOTTO__CONNECTOR__REPLICA".to_owned(), name.to_owned())])
        .collect();
    // Paths in the configuration are seen from the cell's folder; `env` becomes the program it starts.
    let root = cell.root();
    let program = tools::built("sotto-carrier");
    let arguments = [
        "-C".as_ref(),
        root.as_os_str(),
        program.as_os_str(),
        "--config".as_ref(),
        "config/carrier.toml".as_ref(),
    ];
    Process::start(
        Path::new("/usr/bin/env"),
        arguments,
        environment,
        &root.join(format!("logs/carrier-{name}.log")),
    )
}

async fn carriers(root: &Path) -> Option<Carriers> {
    Some(carrier_with(root, TPS, &format!("binds = {BINDS}\n"), &json!({})).await)
}

async fn bound(cell: &Cell) {
    eventually(BOUND, "all binds", || async { cell.count("links").await == BINDS }).await;
}

/// Waits until the carrier has got so many parts.
async fn reach(cell: &Cell, parts: u64) {
    eventually(BOUND, &format!("{parts} parts"), || async { cell.count("parts").await >= parts }).await;
}

/// No second of the carrier's clock holds more parts than the contract allows, but for what its own haste moves: a tenth of
/// a second.
async fn assert_rate_held(cell: &Cell) {
    let parts = cell.carrier("/messages?limit=100000").await;
    let mut times: Vec<i64> =
        parts.as_array().unwrap().iter().map(|part| part["at"].as_i64().unwrap()).collect();
    times.sort_unstable();
    let most = usize::try_from(TPS + TPS / 10).unwrap();
    for (index, start) in times.iter().enumerate() {
        let in_a_second = times.iter().skip(index).take_while(|at| **at < start + 1_000).count();
        assert!(in_a_second <= most, "{in_a_second} parts in a second");
    }
}

#[tokio::test]
async fn two_connectors_share_an_account_and_outlive_one_another() {
    let mut cell = Cell::start_with(carriers).await;
    bound(&cell).await;
    let mut second = another(&cell, "second");
    second.wait_for_log(BOUND, "bound account=").await;
    bound(&cell).await;
    let load = Load::start(&cell, 0..MESSAGES).await;
    reach(&cell, 150).await;
    // It stands still: before others may take its bind, the kernel ends it, and with it the connection that it could not
    // close. The other goes on with the whole rate.
    second.signal("STOP");
    assert_eq!(second.wait(BOUND).await.signal(), Some(9));
    bound(&cell).await;
    // A third joins, gets its share and dies: the first takes all binds again when the lease is over.
    let mut third = another(&cell, "third");
    third.wait_for_log(BOUND, "bound account=").await;
    bound(&cell).await;
    reach(&cell, 1_400).await;
    third.kill().await;
    let ids = load.finish().await;
    let in_doubt = settled(&cell, &ids, true).await;
    bound(&cell).await;
    // In doubt is at most what the two faults found on the wire.
    assert!(in_doubt <= 2 * 3 * 10, "{in_doubt}");
    balanced(&cell, ids.len(), in_doubt).await;
    let parts = cell.count("parts").await;
    let all = u64::from(MESSAGES);
    assert!((all - u64::try_from(in_doubt).unwrap()..=all).contains(&parts), "{parts} of {all} parts");
    assert_eq!((cell.count("duplicates").await, cell.count("most_links").await), (0, BINDS));
    assert_rate_held(&cell).await;
    cell.stop().await;
}
