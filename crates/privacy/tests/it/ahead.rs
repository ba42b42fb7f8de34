//! Keys are made before they are needed, of what is used.

use std::time::Duration;

use sotto_core::MessageClass;
use sotto_keystore::BucketKeystore as _;
use sotto_privacy::app::Keys;

use crate::world::{MINUTE, NOW, World, account, tenant};

const DAY: Duration = Duration::from_secs(86_400);

async fn ahead(keys: &Keys) -> Vec<String> {
    keys.clone().make_ahead().await.unwrap()
}

#[tokio::test]
async fn the_next_key_of_everything_that_is_used_is_there_before_it_is_needed() {
    let world = World::new();
    let keys = world.open();
    assert_eq!(ahead(&keys).await, Vec::<String>::new(), "nothing is used yet");
    world.otp_key(&keys).await;
    let until = NOW.plus(10 * MINUTE);
    keys.make("ingress", tenant("bank"), MessageClass::Transactional, until).await.unwrap();
    keys.make_inbound("carrier", &account("vina"), tenant("acme")).await.unwrap();
    keys.make_index("ingress", tenant("acme")).await.unwrap();
    // 04:17 on the 24th. Codes live 17 minutes, the others three days and two minutes, the index 90 days.
    let next =
        ["otp/2026-11-24T06", "transactional/2026-11-29@bank", "inbound/2026-11-29", "index/2027-02-24"];
    assert_eq!(ahead(&keys).await, next);
    assert_eq!(ahead(&keys).await, Vec::<String>::new(), "they are there");
    // A restart makes none twice.
    drop(keys);
    let keys = world.open();
    assert_eq!(ahead(&keys).await, Vec::<String>::new());

    world.clock.advance(60 * MINUTE);
    let before = keys.inventory("operator", None).await.unwrap().keys.len();
    let made = world.otp_key(&keys).await;
    assert_eq!(made.wrap.bucket, "otp/2026-11-24T06");
    assert_eq!(keys.inventory("operator", None).await.unwrap().keys.len(), before, "it was made before");
    assert_eq!(ahead(&keys).await, ["otp/2026-11-24T07"]);
}

#[tokio::test]
async fn what_nobody_uses_any_more_gets_no_more_keys() {
    let world = World::new();
    let keys = world.open();
    world.otp_key(&keys).await;
    keys.make_index("ingress", tenant("acme")).await.unwrap();
    assert_eq!(ahead(&keys).await.len(), 2);
    for _ in 0..4 {
        world.clock.advance(60 * MINUTE);
        keys.sweep().await.unwrap();
        assert_eq!(ahead(&keys).await, Vec::<String>::new());
    }
    world.clock.advance(2 * DAY);
    assert_eq!(ahead(&keys).await, Vec::<String>::new());
}

#[tokio::test]
async fn in_the_place_of_one_that_was_destroyed_before_its_time_comes_another() {
    let world = World::new();
    let keys = world.open();
    world.otp_key(&keys).await;
    assert_eq!(ahead(&keys).await, ["otp/2026-11-24T06"]);
    drop(keys);
    world.buckets().destroy_bucket("otp/2026-11-24T06", NOW.unix_millis()).unwrap();
    let keys = world.open();
    assert_eq!(ahead(&keys).await, ["otp/2026-11-24T06.2"]);
    assert_eq!(ahead(&keys).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_makes_none_of_its_time() {
    let world = World::new();
    let keys = world.open();
    world.otp_key(&keys).await;
    ahead(&keys).await;
    world.jump(3 * DAY);
    assert_eq!(ahead(&keys).await, Vec::<String>::new());
    world.mend();
    assert_eq!(ahead(&keys).await, Vec::<String>::new());
}
