//! Cancelled before the first byte, or not at all.

use std::sync::Arc;

use futures::FutureExt as _;
use sotto_bus::Outcome;
use sotto_core::{
    MessageId, cancel,
    delivery::{EventKind, Outcome as End, Stage},
};

use super::{Process, assert_once};
use crate::testing::{Reply, TestCarrier, TestRedis, World, id, item, shards};

/// SMPP 3.4 §5.1.3
const ESME_RSYSERR: u32 = 0x08;

/// What ingress does: the mark, unless there is one; returns whether it is the cancellation's.
async fn mark(redis: &TestRedis, message: MessageId) -> bool {
    let key = cancel::mark_key(shards().of(&message), &message);
    let script = "redis.call('SET', KEYS[1], 'x', 'NX') return {ok = redis.call('GET', KEYS[1])}";
    redis.server.command(&format!("EVAL \"{script}\" 1 {key}")).await == "+x"
}

#[tokio::test]
async fn a_cancelled_message_is_dropped_at_its_turn() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    assert!(mark(&world.redis, id(1)).await);
    world.log.write(EventKind::Cancelled, id(1));
    let items = [item(1, 2, "a"), item(2, 2, "a")];
    assert_eq!(process.handle(&items).await, [Outcome::Done, Outcome::Done]);
    assert_once(&[&carrier], &[2], 2);
    assert_eq!(world.log.fold(&items[0].item.facts).outcome(), Some(End::Cancelled));
    // Who asked may have died before it could tell.
    assert!(mark(&world.redis, id(3)).await);
    let silent = item(3, 1, "a");
    assert_eq!(process.handle(std::slice::from_ref(&silent)).await, [Outcome::Done]);
    assert_eq!(world.log.fold(&silent.item.facts).outcome(), Some(End::Cancelled));
    // Too late.
    assert!(!mark(&world.redis, id(2)).await);
}

#[tokio::test]
async fn a_cancellation_between_the_intent_and_the_first_byte_takes_the_intent_back() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    for (number, told) in [(1, true), (2, false)] {
        let (redis, log) = (Arc::clone(&world.redis), Arc::clone(&world.log));
        world.log.before(world.log.calls(), move || {
            async move {
                assert!(mark(&redis, id(number)).await);
                if told {
                    log.write(EventKind::Cancelled, id(number));
                }
            }
            .boxed()
        });
        let item = item(number, 2, "a");
        assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
        assert!(carrier.seen().is_empty());
        assert_eq!(world.log.fold(&item.item.facts).outcome(), Some(End::Cancelled));
        // The broker delivers it once more.
        assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
        assert!(carrier.seen().is_empty());
    }
}

#[tokio::test]
async fn what_the_carrier_sent_back_may_be_cancelled_and_what_it_has_in_part_may_not() {
    let world = World::start().await;
    let mut refusals = [true, true, false, true].into_iter();
    let carrier = TestCarrier::start(move |_| match refusals.next() {
        Some(true) => Reply::Refuse(ESME_RSYSERR),
        Some(false) | None => Reply::Ok,
    })
    .await;
    let process = Process::start(&world, "a", &carrier).await;
    let whole = item(1, 2, "a");
    assert_eq!(process.handle(std::slice::from_ref(&whole)).await, [Outcome::Done]);
    assert_eq!(world.log.fold(&whole.item.facts).stage(), Stage::Accepted, "on its way back to routing");
    assert!(mark(&world.redis, id(1)).await);
    let half = item(2, 2, "a");
    assert_eq!(process.handle(std::slice::from_ref(&half)).await, [Outcome::Done]);
    assert_eq!(carrier.seen().len(), 1);
    assert!(!mark(&world.redis, id(2)).await);
}

#[tokio::test]
async fn a_cancellation_survives_the_loss_of_redis() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    assert_eq!(process.handle(&[item(2, 1, "a")]).await, [Outcome::Done]);
    assert!(mark(&world.redis, id(1)).await);
    world.log.write(EventKind::Cancelled, id(1));
    // Of another one the intent was recorded, and its process died before it asked the fence.
    let account = process.account.settings.id.clone();
    world.log.write(EventKind::Submitting { attempt: 1, account, parts: vec![1] }, id(3));
    assert!(mark(&world.redis, id(3)).await);
    world.log.write(EventKind::Cancelled, id(3));
    world.redis.server.flush_all().await;
    for number in [1, 3] {
        let cancelled = item(number, 1, "a");
        process.until_done(&cancelled).await;
        assert_eq!(world.log.fold(&cancelled.item.facts).outcome(), Some(End::Cancelled), "{number}");
    }
    assert_once(&[&carrier], &[2], 1);
    assert!(!mark(&world.redis, id(2)).await, "what was submitted is still known as such");
}
