//! Several binds of one account: shared work, losses, pairs, places, and binds that are not ours any more.

use std::{collections::BTreeSet, sync::Arc};

use futures::FutureExt as _;
use sotto_bus::Outcome;
use sotto_core::{
    carriers::{Account as Settings, BindKind, Host},
    delivery::Outcome as End,
};
use sotto_testkit::eventually;

use super::{Process, assert_once, until_outcome};
use crate::testing::{BOUND, Reply, TestCarrier, World, id, item, settings, whole};

/// An account over several binds, all ours.
async fn over_many(world: &World, carrier: &TestCarrier, change: impl FnOnce(&mut Settings)) -> Process {
    let mut settings = settings("a", carrier.port);
    change(&mut settings);
    let process = Process::of(world, settings, world.redis.store(), Arc::clone(&world.clock));
    process.until_ready().await;
    process
}

#[tokio::test]
async fn several_binds_share_the_work_and_one_that_breaks_leaves_the_others() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Hold).await);
    let process = over_many(&world, &carrier, |settings| {
        settings.binds = 3;
        settings.window = 4;
    })
    .await;
    eventually(BOUND, "three binds", || async { carrier.links() == 3 }).await;
    // Three windows of four are filled at the same time: parts of one message always on one bind.
    let items: Vec<_> = (1..=6).map(|seed| item(seed, 2, "a")).collect();
    let account = Arc::clone(&process.account);
    let handling = account.handle(items);
    let filled = eventually(BOUND, "three full windows", || async { carrier.seen().len() == 12 });
    let (outcomes, ()) = tokio::join!(handling, async {
        filled.await;
        let by_link = carrier.by_link();
        assert_eq!(by_link.values().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4]);
        for parts in by_link.values() {
            let recipients: BTreeSet<_> = parts.iter().map(|(to, _)| to).collect();
            assert_eq!(recipients.len(), 2, "two whole messages");
        }
        carrier.answer_held();
    });
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Done));
    assert_once(&[&carrier], &[1, 2, 3, 4, 5, 6], 2);
    // One breaks: work goes on at once over the others, and it comes back.
    carrier.reply(Reply::Ok);
    carrier.cut_one();
    assert_eq!(process.handle(&[item(7, 1, "a")]).await, [Outcome::Done]);
    eventually(BOUND, "the third bind again", || async { carrier.links() == 3 }).await;
    // A receipt is taken on any of them.
    for number in 0..12 {
        assert!(carrier.receipt(&format!("c{number}"), "DELIVRD").await);
    }
    until_outcome(&world, &item(1, 2, "a"), End::Delivered).await;
}

#[tokio::test]
async fn a_transmitter_and_a_receiver_are_one_bind() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = over_many(&world, &carrier, |settings| settings.bind = BindKind::TransmitterReceiver).await;
    let item = item(1, 1, "a");
    assert_eq!(
        (process.handle(std::slice::from_ref(&item)).await, carrier.links()),
        (vec![Outcome::Done], 2)
    );
    assert!(carrier.receipt("c0", "DELIVRD").await);
    until_outcome(&world, &item, End::Delivered).await;
    // Without its other half a session is no bind: both are made anew.
    carrier.cut_one();
    eventually(BOUND, "both halves to end", || async { carrier.links() == 0 }).await;
    eventually(BOUND, "both halves again", || async { carrier.links() == 2 }).await;
}

#[tokio::test]
async fn binds_go_on_to_the_next_place() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = over_many(&world, &carrier, |settings| {
        let there = settings.hosts.first().unwrap().clone();
        settings.hosts = vec![Host { port: 1, ..there.clone() }, there];
        settings.binds = 2;
    })
    .await;
    eventually(BOUND, "both binds at the place that answers", || async { carrier.links() == 2 }).await;
    assert_eq!(process.handle(&[item(1, 1, "a")]).await, [Outcome::Done]);
}

#[tokio::test]
async fn nothing_is_written_on_a_bind_that_is_not_ours_any_more() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    process.held.end();
    process.account.line.set_slices(Vec::new(), true);
    eventually(BOUND, "the bind to be cut", || async { carrier.links() == 0 }).await;
    // Another replica has it: nothing is pulled, and what was pulled goes back as it is.
    assert!(process.account.ready(false).now_or_never().is_none());
    assert!(matches!(process.handle(&[item(1, 1, "a")]).await[..], [Outcome::Retry { .. }]));
    assert_eq!((carrier.seen().len(), world.log.names(id(1)).len()), (0, 0));
    process.held.hold();
    process.account.line.set_slices(whole(1000), false);
    eventually(BOUND, "the bind again", || async { process.account.line.is_up() }).await;
    process.until_done(&item(1, 1, "a")).await;
    assert_once(&[&carrier], &[1], 1);
}

#[tokio::test]
async fn what_waits_goes_back_when_no_replica_has_a_bind_up() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    // The bind is another replica's, which does not get it up either.
    process.held.end();
    process.account.line.set_slices(Vec::new(), false);
    eventually(BOUND, "the bind to be cut", || async { carrier.links() == 0 }).await;
    process.until_ready().await;
    let item = item(1, 1, "a");
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    assert_eq!((carrier.seen().len(), world.log.given_back().len()), (0, 1));
}
