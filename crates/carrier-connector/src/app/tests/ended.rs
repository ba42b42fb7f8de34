//! Keys that an operator ended.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sotto_bus::Outcome;
use sotto_core::delivery::{EventKind, ExpiryCause, Outcome as End};
use sotto_testkit::eventually;
use tokio::task::JoinSet;

use super::{Process, assert_once};
use crate::{
    app::ended::forget_ended,
    ports::{Ended, Keys, Unwrapped},
    testing::{BOUND, Reply, TestCarrier, World, id, item},
};

#[tokio::test]
async fn a_held_key_is_forgotten_when_its_bucket_is_destroyed_and_not_before() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    let keys: Arc<dyn Keys> = Arc::<crate::testing::TestKeys>::clone(&world.keys);
    let mut tasks = JoinSet::new();
    tasks.spawn(forget_ended(vec![Arc::clone(&process.account)], keys));
    let first = item(1, 1, "a");
    // Of one session: they hang on one key.
    let of_session = |seed| {
        let mut item = item(seed, 1, "a");
        item.wrap = Arc::clone(&first.wrap);
        item
    };
    assert_eq!(process.handle(&[of_session(1)]).await, [Outcome::Done]);
    // Privacy would refuse now; what is held needs no question, also when the key has a successor or another bucket died.
    *world.keys.answer.lock().unwrap() = Some(Unwrapped::Destroyed);
    let bucket = first.wrap.bucket.clone();
    let names = |name: &str| HashSet::from([name.to_owned()]);
    *world.keys.ended.lock().unwrap() =
        Ended { destroyed: names("otp/2026-11-24T07"), superseded: names(&bucket) };
    let asked = || world.keys.asked_for_ended.load(Ordering::SeqCst);
    let before = asked();
    eventually(BOUND, "what ended to be asked for and heeded", || async { asked() >= before + 2 }).await;
    assert_eq!(process.handle(&[of_session(2)]).await, [Outcome::Done]);
    assert_once(&[&carrier], &[1, 2], 1);

    *world.keys.ended.lock().unwrap() = Ended { destroyed: names(&bucket), superseded: HashSet::new() };
    eventually(Duration::from_secs(5), "the key to be forgotten", || async {
        !process.account.ring.holds_any()
    })
    .await;
    assert_eq!(process.handle(&[of_session(3)]).await, [Outcome::Done]);
    let expired = EventKind::Expired { cause: ExpiryCause::KeyDestroyed };
    assert_eq!(world.log.of(id(3)).last().unwrap().kind, expired);
    assert_eq!(world.log.fold(&item(3, 1, "a").item.facts).outcome(), Some(End::Expired));
    assert_once(&[&carrier], &[1, 2], 1);
}
