//! Receipts of which nothing follows.

use std::{sync::Arc, time::Duration};

use sotto_core::delivery::Outcome as End;
use sotto_testkit::eventually;
use tokio::task::JoinSet;

use super::{Process, until_outcome};
use crate::{
    app::orphans::keep_orphans,
    testing::{BOUND, Reply, TestCarrier, World, item, settings},
};

#[tokio::test]
async fn a_receipt_whose_part_does_not_turn_up_in_time_goes_to_quarantine_and_no_other() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let mut settings = settings("a", carrier.port);
    settings.receipt_wait = Duration::from_secs(3);
    let process = Process::of(&world, settings, world.redis.store(), Arc::clone(&world.clock));
    process.until_ready().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_orphans(Arc::clone(&process.account)));
    // One that is early, and one of nobody.
    assert!(carrier.receipt("c0", "DELIVRD").await);
    assert!(carrier.receipt("c77", "UNDELIV").await);
    let item = item(1, 1, "a");
    process.until_done(&item).await;
    until_outcome(&world, &item, End::Delivered).await;
    assert!(world.log.aside().is_empty(), "its time is not over");
    eventually(BOUND, "the orphan", || async { !world.log.aside().is_empty() }).await;
    let [(why, _)] = &world.log.aside()[..] else { panic!("{:?}", world.log.aside()) };
    assert!(why.contains("c77, undeliverable"), "{why}");
}

#[tokio::test]
async fn a_receipt_that_says_nothing_is_refused_and_told() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let _process = Process::start(&world, "a", &carrier).await;
    // Without an id.
    assert!(!carrier.receipt("", "DELIVRD").await);
    eventually(BOUND, "the record", || async { !world.log.aside().is_empty() }).await;
    let (why, octets) = world.log.aside().remove(0);
    assert_eq!(why, "a receipt without an id: refused");
    assert!(!octets.is_empty());
    assert!(world.log.events().is_empty());
}
