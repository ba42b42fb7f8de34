//! Keys live across restarts and die on time, whatever happens around them.

use std::{sync::Arc, time::Duration};

use sotto_core::MessageClass;
use sotto_keystore::BucketKeystore as _;
use sotto_privacy::{app::Refusal, error::KeyError};

use crate::world::{MINUTE, NOW, World, account, open_one, refusal, refused, tenant};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_key_made_before_a_restart_opens_after_it() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    drop(keys);
    let keys = world.open();
    keys.sweep().await.unwrap();
    let opened = open_one(&keys, &made.wrap).await.result.unwrap();
    assert_eq!(opened.expose(), made.key.expose());
}

#[tokio::test]
async fn the_bucket_key_is_on_disk_before_the_wrap_is_handed_out() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    // A crash now: nothing is closed in order. The lock is on the file itself, so a copy stands for the disk.
    let copy = World::new();
    std::fs::copy(world.buckets_file(), copy.buckets_file()).unwrap();
    std::fs::copy(world.secret_file(), copy.secret_file()).unwrap();
    assert_eq!(refusal(&copy.open(), &made.wrap).await, None);
}

#[tokio::test]
async fn nothing_dies_before_its_time_and_everything_at_it() {
    let world = World::new();
    let keys = world.open();
    let otp = world.otp_key(&keys).await;
    let until = NOW.plus(10 * MINUTE);
    let day = keys.make("ingress", tenant("acme"), MessageClass::Promotional, until).await.unwrap();
    world.clock.set(otp.dies_at.minus(Duration::from_millis(1)));
    assert_eq!(keys.sweep().await.unwrap(), 0);
    assert_eq!(refusal(&keys, &otp.wrap).await, None);

    world.clock.set(otp.dies_at);
    assert_eq!(keys.sweep().await.unwrap(), 1);
    assert_eq!(keys.sweep().await.unwrap(), 0);
    assert_eq!(refusal(&keys, &otp.wrap).await, Some(Refusal::Destroyed));
    assert_eq!(refusal(&keys, &day.wrap).await, None);
    world.clock.set(day.dies_at);
    assert_eq!(keys.sweep().await.unwrap(), 1);
    assert_eq!(refusal(&keys, &day.wrap).await, Some(Refusal::Destroyed));
    let told: Vec<_> =
        world.told.take().into_iter().filter(|one| one.starts_with("bucket.destroyed")).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("bucket.destroyed otp/2026-11-24T05,generation="), "{told:?}");
    assert!(told[1].starts_with("bucket.destroyed promotional/2026-11-25,generation="), "{told:?}");
}

#[tokio::test]
async fn a_request_for_a_dead_bucket_destroys_it_and_it_is_told_once() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    world.clock.set(made.dies_at);
    let mut at_once = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (keys, wrap) = (keys.clone(), made.wrap.clone());
        at_once.spawn(async move {
            keys.sweep().await.unwrap();
            refusal(&keys, &wrap).await
        });
    }
    while let Some(refused) = at_once.join_next().await {
        assert_eq!(refused.unwrap(), Some(Refusal::Destroyed));
    }
    let told = world.told.take();
    assert_eq!(told.iter().filter(|one| one.starts_with("bucket.destroyed")).count(), 1, "{told:?}");
}

#[tokio::test]
async fn what_died_while_nobody_ran_is_destroyed_at_the_start() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    drop(keys);
    world.clock.set(made.dies_at.plus(MINUTE));
    let keys = world.open();
    assert_eq!(keys.sweep().await.unwrap(), 1);
    drop(keys);
    let buckets = world.buckets();
    assert_eq!(buckets.buckets().unwrap(), []);
    assert_eq!(buckets.destroyed().unwrap()[0].bucket, made.wrap.bucket);
}

#[tokio::test]
async fn the_clock_going_back_brings_nothing_back() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    world.clock.set(made.dies_at);
    keys.sweep().await.unwrap();
    world.clock.set(NOW);
    assert_eq!(refusal(&keys, &made.wrap).await, Some(Refusal::Destroyed));
    let again = world.otp_key(&keys).await;
    assert_eq!(again.wrap.bucket, format!("{}.2", made.wrap.bucket), "the bucket's name is spent");
    assert_eq!(again.dies_at, made.dies_at);
    drop(keys);
    let keys = world.open();
    assert_eq!(refusal(&keys, &made.wrap).await, Some(Refusal::Destroyed));
}

fn destructions(world: &World) -> Vec<String> {
    world.told.take().into_iter().filter(|one| one.starts_with("bucket.destroyed")).collect()
}

#[tokio::test]
async fn a_destruction_is_told_again_after_a_restart_within_a_week() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    world.clock.set(made.dies_at);
    keys.sweep().await.unwrap();
    let first = destructions(&world);
    drop(keys);
    world.clock.advance(7 * DAY - MINUTE);
    let keys = world.open();
    keys.tell_again().await.unwrap();
    assert_eq!(destructions(&world), first, "the same words, so that it is one fact");
    drop(keys);
    world.clock.advance(2 * MINUTE);
    world.open().tell_again().await.unwrap();
    assert_eq!(destructions(&world), Vec::<String>::new());
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_destroys_nothing_that_lives() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    world.jump(DAY);
    let error = refused(keys.sweep().await);
    assert!(matches!(error, KeyError::Clock { ahead } if ahead == DAY), "{error:?}");
    assert_eq!(refusal(&keys, &made.wrap).await, None, "and it opens: its time has not come");
    let until = NOW.plus(10 * MINUTE);
    let other = keys.make("ingress", tenant("acme"), MessageClass::Otp, until).await.unwrap();
    assert_eq!(other.dies_at, made.dies_at, "and so are keys made");
    assert_eq!(world.told.take(), Vec::<String>::new());

    // What dies meanwhile by the clock that nobody sets is destroyed all the same.
    world.clock.set(made.dies_at.plus(DAY));
    assert!(matches!(refused(keys.sweep().await), KeyError::Clock { .. }));
    assert_eq!(refusal(&keys, &made.wrap).await, Some(Refusal::Destroyed));
    let told = world.told.take();
    assert_eq!(told.iter().filter(|one| one.starts_with("bucket.destroyed")).count(), 1, "{told:?}");

    world.mend();
    assert_eq!(keys.sweep().await.unwrap(), 0);
}

/// What holds when somebody restores `buckets.sks` from before a destruction (docs/services/privacy.md): the service
/// opens nothing with it and destroys the key again before serving. Whoever holds the old file and the unlock secret
/// can open it outside the service: hence no backup of that file.
#[tokio::test]
async fn a_restored_key_file_opens_nothing_and_dies_again() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    let backup = std::fs::read(world.buckets_file()).unwrap();
    world.clock.set(made.dies_at);
    keys.sweep().await.unwrap();
    drop(keys);
    let generation = world.buckets().generation();

    std::fs::write(world.buckets_file(), &backup).unwrap();
    let restored = world.buckets();
    assert_eq!(restored.buckets().unwrap().len(), 1, "the old file does hold the key");
    assert!(restored.generation() < generation, "and betrays itself by its generation");
    drop(restored);

    let keys = world.open();
    // Even before any sweep.
    assert_eq!(refusal(&keys, &made.wrap).await, Some(Refusal::Destroyed));
    assert_eq!(keys.sweep().await.unwrap(), 0, "destroyed by the request already");
    drop(keys);
    assert_eq!(world.buckets().buckets().unwrap(), []);
}

#[tokio::test]
async fn many_makers_and_openers_at_once_agree() {
    let world = World::new();
    let keys = Arc::new(world.open());
    let mut makers = tokio::task::JoinSet::new();
    for number in 0..32_u64 {
        let keys = Arc::clone(&keys);
        makers.spawn(async move {
            let class = MessageClass::ALL[usize::try_from(number % 4).unwrap()];
            let until = NOW.plus(Duration::from_secs(60 + number));
            let made = keys.make("ingress", tenant(&format!("t{}", number % 5)), class, until).await.unwrap();
            let opened =
                keys.open("carrier", account("vina"), vec![Some(made.wrap.clone()); 8]).await.unwrap();
            for opened in opened {
                assert_eq!(opened.result.unwrap().expose(), made.key.expose());
            }
            made.wrap.key_id
        });
    }
    let ids = makers.join_all().await;
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 32);
    drop(keys);
    assert_eq!(world.buckets().buckets().unwrap().len(), 4, "one bucket a class");
}
