//! Long messages of which the parts are not sent one by one, or hold less than they were counted with.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use sotto_bus::Outcome;
use sotto_core::{
    carriers::Concatenation,
    delivery::{EventKind, Outcome as End, PartState, Stage},
    work::AttemptEnd,
};
use sotto_testkit::eventually;
use tokio::time::Instant;

use super::{Process, assert_once, lose, recipient, until_outcome};
use crate::testing::{BOUND, Reply, TestCarrier, World, id, item, settings};

/// An account that joins long messages in this way.
async fn joining(world: &World, carrier: &TestCarrier, how: Concatenation) -> Process {
    let mut settings = settings("a", carrier.port);
    settings.concatenation = how;
    let process = Process::of(world, settings, world.redis.store(), Arc::clone(&world.clock));
    process.until_ready().await;
    process
}

#[tokio::test]
async fn a_message_that_goes_whole_is_one_submit_whose_receipt_is_of_all_its_parts() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = joining(&world, &carrier, Concatenation::Payload).await;
    let item = item(1, 3, "a");
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    assert_eq!(carrier.seen(), [(recipient(1), 1)]);
    assert_eq!(world.log.names(id(1)), ["submitting", "submitted", "submitted", "submitted"]);
    assert_eq!(world.log.fold(&item.item.facts).parts(), [PartState::Submitted { attempt: 1 }; 3]);
    let used = process.account.line.snapshot(Instant::now()).used;
    let submitted = process.account.tally.counts();
    assert_eq!((used, submitted), (3, vec![("submitted".to_owned(), 3)]), "counted in parts");
    // Delivered once more by the broker: nothing happens.
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    assert_eq!((carrier.seen().len(), world.log.names(id(1)).len()), (1, 4));
    // Its id stands for all parts, also after the loss of Redis.
    assert!(carrier.receipt("c0", "ENROUTE").await);
    assert_eq!(world.log.names(id(1)).len(), 7);
    lose(&world.redis).await;
    eventually(BOUND, "the rebuild", || async { process.rebuilder.ensure().await.is_ok_and(|all| all) })
        .await;
    assert!(carrier.receipt("c0", "DELIVRD").await);
    until_outcome(&world, &item, End::Delivered).await;
}

#[tokio::test]
async fn a_receipt_before_the_answer_is_of_all_parts_too() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::ReceiptFirst).await);
    let process = joining(&world, &carrier, Concatenation::Payload).await;
    let item = item(1, 3, "a");
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    until_outcome(&world, &item, End::Delivered).await;
    let receipts = world.log.names(id(1)).iter().filter(|name| **name == "receipt").count();
    assert_eq!(receipts, 3, "each told once");
}

#[tokio::test]
async fn a_late_answer_lifts_the_doubt_of_all_parts() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Hold).await);
    let process = joining(&world, &carrier, Concatenation::Payload).await;
    let item = item(1, 2, "a");
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    assert_eq!(world.log.fold(&item.item.facts).stage(), Stage::InDoubt);
    carrier.answer_held();
    eventually(BOUND, "the late answer", || async {
        world.log.fold(&item.item.facts).parts() == [PartState::Submitted { attempt: 1 }; 2]
    })
    .await;
    assert!(carrier.receipt("c0", "DELIVRD").await);
    until_outcome(&world, &item, End::Delivered).await;
}

#[tokio::test]
async fn a_refusal_of_the_whole_sends_the_whole_back() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Refuse(0x58)).await);
    let process = joining(&world, &carrier, Concatenation::Payload).await;
    assert_eq!(process.handle(&[item(1, 2, "a")]).await, [Outcome::Done]);
    let back = world.log.given_back().remove(0).item;
    assert_eq!((back.pinned, back.wanted_parts()), (false, vec![1, 2]));
    assert_eq!(back.history.last().unwrap().end, AttemptEnd::Throttled);
    assert!(process.account.ready(false).now_or_never().is_none(), "the account pauses");
}

/// With a window of one, a message of several parts needs one place only, and does not wait for more.
#[tokio::test]
async fn a_whole_message_needs_one_place_in_the_window() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let mut settings = settings("a", carrier.port);
    settings.concatenation = Concatenation::Payload;
    settings.window = 1;
    let process = Process::of(&world, settings, world.redis.store(), Arc::clone(&world.clock));
    process.until_ready().await;
    let items = [item(1, 3, "a"), item(2, 2, "a")];
    let handled = tokio::time::timeout(Duration::from_secs(5), process.handle(&items)).await;
    assert_eq!(handled, Ok(vec![Outcome::Done, Outcome::Done]));
    assert_once(&[&carrier], &[1, 2], 1);
}

#[tokio::test]
async fn what_needs_more_parts_than_were_accepted_goes_to_another_account() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = joining(&world, &carrier, Concatenation::Udh16).await;
    // 305 septets: two parts of 153, three of 152.
    let full = item(1, 2, "a");
    assert_eq!(process.handle(std::slice::from_ref(&full)).await, [Outcome::Done]);
    assert!(carrier.seen().is_empty());
    let back = world.log.given_back().remove(0).item;
    assert_eq!(back.history.last().unwrap().end, AttemptEnd::NotAllowed);
    assert_eq!(back.wanted_parts(), [1, 2]);
    let unsent = |event: &sotto_core::delivery::Event| matches!(event.kind, EventKind::Unsent { .. });
    assert!(world.log.of(id(1)).last().is_some_and(unsent));
}
