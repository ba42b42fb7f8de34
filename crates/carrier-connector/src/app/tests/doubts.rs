//! Parts in doubt, and the receipts that find them under ids that nobody told.

use std::{sync::Arc, time::Duration};

use sotto_bus::Outcome;
use sotto_core::delivery::{Outcome as End, PartState, Stage};
use sotto_proto::LogEvent;
use sotto_testkit::eventually;

use super::{Process, lose, recipient, until_outcome};
use crate::testing::{BOUND, Reply, TestCarrier, World, id, item, settings};

/// How long receipts are waited for here.
const WAIT: Duration = Duration::from_secs(60);

/// An account whose receipts may be told by our reference, or by their recipient.
async fn matching(world: &World, carrier: &TestCarrier, reference: bool, recipient: bool) -> Process {
    let mut settings = settings("a", carrier.port);
    settings.user_message_reference = reference;
    settings.match_by_recipient = recipient;
    settings.receipt_wait = WAIT;
    let process = Process::of(world, settings, world.redis.store(), Arc::clone(&world.clock));
    process.until_ready().await;
    process
}

fn parked(world: &World) -> usize {
    world.log.events().iter().filter(|event| matches!(event, LogEvent::ParkedReceipt { .. })).count()
}

#[tokio::test]
async fn a_reference_that_a_receipt_repeats_lifts_the_doubt_of_its_part() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Hold).await);
    let process = matching(&world, &carrier, true, false).await;
    let item = item(1, 3, "a");
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    assert_eq!(world.log.fold(&item.item.facts).stage(), Stage::InDoubt);
    let to = recipient(1);
    let reference = |part| carrier.references()[&(to.clone(), part)];
    let states = || world.log.fold(&item.item.facts).parts().to_vec();
    // Without a reference, with another one, or for another recipient it may be of anything.
    assert!(carrier.receipt_for("x1", &to, None).await);
    assert!(carrier.receipt_for("x2", &to, Some(reference(1).unwrap().wrapping_sub(1))).await);
    assert!(carrier.receipt_for("x3", &recipient(2), reference(1)).await);
    assert_eq!((parked(&world), states()), (3, vec![PartState::NoResponse { attempt: 1 }; 3]));
    // Written in the carrier's own country.
    assert!(carrier.receipt_for("x4", &to.replacen("84", "0", 1), reference(2)).await);
    let (doubt, done) = (PartState::NoResponse { attempt: 1 }, PartState::Delivered { attempt: 1 });
    assert_eq!((parked(&world), states()), (3, vec![doubt, done, doubt]));
    // Its id is known from now on, its reference is not waited for any more.
    assert!(carrier.receipt("x4", "DELIVRD").await);
    assert_eq!(parked(&world), 3);
    assert!(carrier.receipt_for("x5", &to, reference(2)).await);
    assert_eq!(parked(&world), 4);
    assert!(carrier.receipt_for("x6", &to, reference(3)).await);
    assert!(carrier.receipt_for("x7", &to, reference(1)).await);
    until_outcome(&world, &item, End::Delivered).await;
    assert_eq!(world.log.names(id(1)).iter().filter(|name| **name == "receipt").count(), 4);
    assert!(world.log.given_back().is_empty());
}

#[tokio::test]
async fn a_receipt_of_the_only_part_in_doubt_finds_it_by_its_recipient() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Hold).await);
    let process = matching(&world, &carrier, false, true).await;
    let (early, two, one) = (item(1, 1, "a"), item(2, 2, "a"), item(3, 1, "a"));
    process.until_done(&early).await;
    // Who knows what was submitted to it before.
    assert!(carrier.receipt_for("x1", &recipient(1), None).await);
    world.clock.advance(WAIT);
    // At once: a carrier that is silent for long is bound to anew.
    assert_eq!(process.handle(&[two.clone(), one.clone()]).await, [Outcome::Done, Outcome::Done]);
    assert_eq!(carrier.references()[&(recipient(3), 1)], None, "none is sent");
    // Two parts fit.
    assert!(carrier.receipt_for("x2", &recipient(2), None).await);
    assert_eq!(parked(&world), 2);
    assert!(carrier.receipt_for("x3", &recipient(3), None).await);
    until_outcome(&world, &one, End::Delivered).await;
    for item in [&early, &two] {
        assert_eq!(world.log.fold(&item.item.facts).stage(), Stage::InDoubt);
    }
}

#[tokio::test]
async fn what_redis_lost_is_not_guessed() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Hold).await);
    let process = matching(&world, &carrier, true, true).await;
    process.until_done(&item(1, 1, "a")).await;
    world.clock.advance(WAIT);
    lose(&world.redis).await;
    eventually(BOUND, "the rebuild", || async { process.rebuilder.ensure().await.is_ok_and(|all| all) })
        .await;
    let item = item(2, 1, "a");
    process.until_done(&item).await;
    assert!(carrier.receipt_for("x1", &recipient(2), None).await);
    assert_eq!((parked(&world), world.log.fold(&item.item.facts).stage()), (1, Stage::InDoubt));
    let reference = carrier.references()[&(recipient(2), 1)];
    assert!(reference.is_some());
    assert!(carrier.receipt_for("x2", &recipient(2), reference).await);
    until_outcome(&world, &item, End::Delivered).await;
}

#[tokio::test]
async fn what_is_answered_is_not_in_doubt() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Hold).await);
    let process = matching(&world, &carrier, true, true).await;
    let (late, answered, refused) = (item(1, 1, "a"), item(2, 1, "a"), item(3, 1, "a"));
    process.until_done(&late).await;
    world.clock.advance(WAIT / 2);
    carrier.reply(Reply::Ok);
    process.until_done(&answered).await;
    carrier.answer_held();
    eventually(BOUND, "the late answer", || async {
        world.log.fold(&late.item.facts).stage() == Stage::Submitted
    })
    .await;
    carrier.reply(Reply::Refuse(0x45));
    process.until_done(&refused).await;
    for seed in 1..=3 {
        let reference = carrier.references().get(&(recipient(seed), 1)).copied().flatten();
        eventually(BOUND, "a receipt that is parked", || async {
            let before = parked(&world);
            carrier.receipt_for(&format!("x{before}"), &recipient(seed), reference).await
                && parked(&world) > before
        })
        .await;
    }
    assert!((1..=3).all(|seed| !world.log.names(id(seed)).contains(&"receipt")));
    assert!(carrier.receipt("c0", "DELIVRD").await);
    until_outcome(&world, &late, End::Delivered).await;
}

/// A receipt that goes before its answer is of a submit that has none yet.
#[tokio::test]
async fn a_receipt_before_the_answer_is_told_once() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::ReceiptFirst).await);
    let process = matching(&world, &carrier, true, true).await;
    let item = item(1, 2, "a");
    process.until_done(&item).await;
    until_outcome(&world, &item, End::Delivered).await;
    assert_eq!(world.log.names(id(1)).iter().filter(|name| **name == "receipt").count(), 2);
}
