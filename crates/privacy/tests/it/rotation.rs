//! Keys that sealed for long enough get successors by themselves.

use std::{fs, time::Duration};

use sotto_core::MessageClass;
use sotto_privacy::{
    app::{KeyState, Keys},
    error::KeyError,
};

use crate::world::{MINUTE, NOW, ROTATION, World, refusal, refused, tenant};

const DAY: Duration = Duration::from_secs(86_400);

/// The names of the keys that were made by schedule.
async fn due(keys: &Keys) -> Vec<String> {
    let made = keys.rotate_due().await.unwrap();
    made.into_iter().map(|key| key.bucket).collect()
}

async fn current(keys: &Keys) -> Vec<String> {
    let all = keys.inventory("operator", None).await.unwrap().keys;
    all.into_iter().filter(|key| key.state == KeyState::Current).map(|key| key.bucket).collect()
}

#[tokio::test]
async fn a_key_that_sealed_for_as_long_as_it_may_gets_a_successor_told_before_and_without_a_failure() {
    let world = World::new();
    let keys = world.open();
    let first = world.otp_key(&keys).await;
    world.clock.advance(ROTATION.otp - Duration::from_millis(1));
    world.told.take();
    assert_eq!(due(&keys).await, Vec::<String>::new(), "a millisecond is left");
    assert_eq!(world.told.take(), Vec::<String>::new());

    world.clock.advance(Duration::from_millis(1));
    assert_eq!(due(&keys).await, ["otp/2026-11-24T05.2"]);
    assert_eq!(
        world.told.by("schedule"),
        ["bucket.superseded otp/2026-11-24T05,by=otp/2026-11-24T05.2 ok"],
        "nobody else did it"
    );
    assert_eq!(refusal(&keys, &first.wrap).await, None, "what hangs on the old one opens");
    assert_eq!(keys.ended("ingress").await.unwrap().superseded, ["otp/2026-11-24T05"]);
    let second = world.otp_key(&keys).await;
    assert_eq!((second.wrap.bucket.as_str(), second.dies_at), ("otp/2026-11-24T05.2", first.dies_at));

    // After a restart it is not done again, and the next one is in its time.
    drop(keys);
    let keys = world.open();
    assert_eq!(due(&keys).await, Vec::<String>::new());
    world.clock.advance(ROTATION.otp);
    assert_eq!(due(&keys).await, ["otp/2026-11-24T05.3"]);
    assert_eq!(due(&keys).await, Vec::<String>::new(), "nothing hangs on it yet");
}

#[tokio::test]
async fn the_next_act_of_each_key_is_told() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    let until = NOW.plus(10 * MINUTE);
    keys.make("ingress", tenant("acme"), MessageClass::Promotional, until).await.unwrap();
    keys.clone().make_ahead().await.unwrap();
    let told = async || {
        let all = keys.inventory("operator", None).await.unwrap().keys;
        all.into_iter().map(|key| (key.bucket, key.rotates_at)).collect::<Vec<_>>()
    };
    let expected = [
        ("otp/2026-11-24T05", Some(NOW.plus(ROTATION.otp))),
        // Made ahead: nothing hangs on it.
        ("otp/2026-11-24T06", None),
        // It dies before.
        ("promotional/2026-11-25", None),
        ("promotional/2026-11-29", None),
    ];
    assert_eq!(told().await, expected.map(|(name, at)| (name.to_owned(), at)));
    world.clock.advance(ROTATION.otp);
    due(&keys).await;
    assert_eq!(told().await[..2], [(made.wrap.bucket, None), ("otp/2026-11-24T05.2".to_owned(), None)]);
}

#[tokio::test]
async fn keys_of_the_index_are_replaced_on_their_day_and_not_before_or_after() {
    let world = World::new();
    let keys = world.open();
    keys.make_index("ingress", tenant("acme")).await.unwrap();
    world.otp_key(&keys).await;
    keys.clone().make_ahead().await.unwrap();
    assert!(current(&keys).await.ends_with(&["index/2027-02-23".to_owned(), "index/2027-02-24".to_owned()]));
    world.clock.advance(ROTATION.index);
    assert_eq!(due(&keys).await, ["index/2027-02-23.2"], "that of tomorrow is not in use");
    world.clock.advance(DAY - ROTATION.index);
    keys.sweep().await.unwrap();
    assert_eq!(due(&keys).await, ["index/2027-02-24.2"], "that of yesterday is not in use any more");
}

#[tokio::test]
async fn a_tenants_own_keys_are_replaced_as_everybodys() {
    let world = World::new();
    let keys = world.open();
    world.otp_key(&keys).await;
    let until = NOW.plus(10 * MINUTE);
    keys.make("ingress", tenant("bank"), MessageClass::Otp, until).await.unwrap();
    world.clock.advance(ROTATION.otp);
    assert_eq!(due(&keys).await, ["otp/2026-11-24T05.2", "otp/2026-11-24T05.2@bank"]);
}

#[tokio::test]
async fn what_two_do_at_once_is_done_once() {
    let world = World::new();
    let keys = world.open();
    world.otp_key(&keys).await;
    world.clock.advance(ROTATION.otp);
    let (one, other) = tokio::join!(keys.rotate_due(), keys.rotate_due());
    one.unwrap();
    other.unwrap();
    assert_eq!(current(&keys).await, ["otp/2026-11-24T05.2"]);
    // No second process opens these keys.
    assert!(world.try_buckets().is_err());
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_rotates_nothing_and_one_that_is_set_back_only_waits() {
    let world = World::new();
    let keys = world.open();
    world.otp_key(&keys).await;
    world.jump(ROTATION.otp + MINUTE);
    assert_eq!(due(&keys).await, Vec::<String>::new(), "it did not seal for so long");
    world.mend();
    world.clock.set(NOW.minus(DAY));
    assert_eq!(due(&keys).await, Vec::<String>::new());
    world.clock.set(NOW.plus(ROTATION.otp));
    assert_eq!(due(&keys).await, ["otp/2026-11-24T05.2"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_is_told_and_tried_again_in_a_minute() {
    let world = World::new();
    let keys = world.open();
    world.otp_key(&keys).await;
    world.clock.advance(ROTATION.otp);
    world.told.take();
    // The disk refuses.
    let (file, aside) = (world.buckets_file(), world.buckets_file().with_extension("aside"));
    fs::rename(&file, &aside).unwrap();
    let told = "bucket.superseded otp/2026-11-24T05,by=otp/2026-11-24T05.2";
    assert!(matches!(refused(keys.clone().renew().await), KeyError::Keystore(_)));
    assert_eq!(world.told.by("schedule"), [format!("{told} ok"), format!("{told} not_done")]);
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(matches!(refused(keys.rotate_due().await), KeyError::NotRotated));
    }
    assert_eq!(world.told.by("schedule"), Vec::<String>::new(), "the log is not filled with it");
    fs::rename(&aside, &file).unwrap();
    assert!(matches!(refused(keys.rotate_due().await), KeyError::NotRotated));
    tokio::time::advance(MINUTE).await;
    assert_eq!(due(&keys).await, ["otp/2026-11-24T05.2"]);
    keys.renew().await.unwrap();
}
