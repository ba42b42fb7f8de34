//! Cancelled for certain, or not at all: what the client is told is what the mark and the log say.

use std::{sync::Arc, time::Duration};

use sotto_core::{
    ManualClock, MessageClass, MessageId, Restored, cancel,
    delivery::{Delivery, Event, EventKind, Outcome},
};
use sotto_ingress::{
    app::cancel::CancelError,
    domain::request::Asked,
    ports::{LogError, Marks as _, StoreError},
};
use sotto_testkit::Pki;

use crate::{
    cell,
    fakes::{NOW, Plan, World},
    tokens,
};

const KEEP: Duration = Duration::from_secs(1_200);

async fn sent(world: &World) -> MessageId {
    let asked = Asked {
        present: true,
        to: "+84912345678".to_owned().into(),
        from: "ACME".to_owned().into(),
        text: "Ma xac thuc: 482913".to_owned().into(),
        class: Some(MessageClass::Otp),
        ..Asked::default()
    };
    world.intake().send(&world.caller, asked, ()).await.unwrap().id
}

/// The message as everybody folds what was told of it.
fn folded(world: &World) -> Delivery {
    Delivery::fold(world.log.events.lock().unwrap().iter()).unwrap()
}

/// Something that happened, as the projection has read it.
fn happened(world: &World, id: MessageId, kind: EventKind) {
    let event = Event { message: id, at: NOW, kind };
    let mut redis = world.redis.lock();
    assert!(redis.journals.get_mut(&id).unwrap().take(event, 1).unwrap());
}

#[tokio::test]
async fn a_cancellation_is_in_the_log_before_it_is_told() {
    let world = World::new();
    let id = sent(&world).await;
    assert_eq!(world.canceller().cancel(&world.caller, &id).await, Ok(NOW));
    assert_eq!(folded(&world).outcome(), Some(Outcome::Cancelled));
    // Said again it says the same, before the projection has read it and after.
    world.clock.advance(Duration::from_secs(1));
    let again = world.canceller().cancel(&world.caller, &id).await.unwrap();
    assert_eq!(again, NOW.plus(Duration::from_secs(1)));
    happened(&world, id, EventKind::Cancelled);
    assert_eq!(world.canceller().cancel(&world.caller, &id).await, Ok(NOW));
}

#[tokio::test]
async fn nothing_is_told_that_is_not_certain() {
    let world = World::new();
    let id = sent(&world).await;
    let cancel = async || world.canceller().cancel(&world.caller, &id).await;
    let marks = |answers: Vec<Result<bool, StoreError>>| world.marks.0.lock().unwrap().extend(answers);
    marks(vec![Ok(false)]);
    assert_eq!(cancel().await, Err(CancelError::Submitted));
    assert!(world.log.events.lock().unwrap().is_empty(), "nothing is told of what was too late");
    for (plan, error) in [
        (Plan::LoseInDoubt, LogError::InDoubt),
        (Plan::StoreInDoubt, LogError::InDoubt),
        (Plan::Refuse(LogError::Refused), LogError::Refused),
    ] {
        world.log.plan([plan]);
        assert_eq!(cancel().await, Err(CancelError::Log(error)));
    }
    // Redis was lost while the log was told: a connector may have gone ahead, or Redis is being rebuilt.
    marks(vec![Ok(true), Ok(false)]);
    assert_eq!(cancel().await, Err(CancelError::Submitted));
    marks(vec![Ok(true), Err(StoreError::Rebuilding)]);
    assert_eq!(cancel().await, Err(CancelError::Store(StoreError::Rebuilding)));
    assert_eq!(cancel().await, Ok(NOW));
}

#[tokio::test]
async fn what_is_over_or_under_way_is_not_cancelled() {
    let world = World::new();
    let (canceller, account) = (world.canceller(), "one".parse().unwrap());
    let id = sent(&world).await;
    let stranger = tokens::caller("globex", NOW);
    assert_eq!(canceller.cancel(&stranger, &id).await, Err(CancelError::Unknown));
    let none = MessageId::from_keyed_hash([9; 16]);
    assert_eq!(canceller.cancel(&world.caller, &none).await, Err(CancelError::Unknown));
    happened(&world, id, EventKind::Submitting { attempt: 1, account, parts: vec![1] });
    assert_eq!(canceller.cancel(&world.caller, &id).await, Err(CancelError::Submitted));
    happened(&world, id, EventKind::ClosedUnknown);
    assert_eq!(canceller.cancel(&world.caller, &id).await, Err(CancelError::Ended(Outcome::Unknown)));
    let (before, late) = (sent(&world).await, sent(&world).await);
    *world.restored.lock().unwrap() = Some(Restored { at: NOW });
    assert_eq!(world.canceller().cancel(&world.caller, &before).await, Err(CancelError::Doubted));
    world.clock.advance(Duration::from_secs(300));
    assert_eq!(canceller.cancel(&world.caller, &late).await, Err(CancelError::Ended(Outcome::Expired)));
    assert!(world.log.events.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_mark_is_the_first_ones_and_stands_only_in_a_whole_redis() {
    let pki = Pki::new();
    let redis = cell::redis(&pki).await;
    let store = cell::store(&pki, redis.address().port(), Arc::new(ManualClock::new(NOW)));
    let (ours, theirs) = (MessageId::from_keyed_hash([1; 16]), MessageId::from_keyed_hash([2; 16]));
    assert_eq!(
        store.cancel(&ours, KEEP).await,
        Err(StoreError::Rebuilding),
        "no connector has declared it whole"
    );
    let run = redis
        .command("EVAL \"return {ok = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')}\" 0")
        .await;
    for shard in cell::shards().iter() {
        let (key, run) = (cancel::ready_key(shard), run.trim_start_matches('+'));
        assert_eq!(redis.command(&format!("SET {key} {run}|00ff")).await, "+OK");
    }
    // A connector was first at one of them.
    let key = |id: &MessageId| cancel::mark_key(cell::shards().of(id), id);
    assert_eq!(redis.command(&format!("SET {} 3", key(&theirs))).await, "+OK");
    for _ in 0..2 {
        assert_eq!(store.cancel(&ours, KEEP).await, Ok(true));
        assert_eq!(store.cancel(&theirs, KEEP).await, Ok(false));
    }
    let left = redis.command(&format!("PTTL {}", key(&ours))).await;
    let left = Duration::from_millis(left.trim_start_matches(':').parse().unwrap());
    assert!(left <= KEEP && left > KEEP / 2, "{left:?}");
    redis.flush_all().await;
    assert_eq!(store.cancel(&ours, KEEP).await, Err(StoreError::Rebuilding));
}
