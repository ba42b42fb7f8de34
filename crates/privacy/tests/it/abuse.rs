//! What stands for a number to the whole cell: of one day, for ingress alone, and found nowhere.

use std::time::Duration;

use sotto_privacy::{app::KeyState, domain::bucket::Contents, error::KeyError};

use crate::world::{World, tenant};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn the_key_is_the_same_for_all_who_ask_on_a_day_and_another_on_the_next() {
    let world = World::new();
    let keys = world.open();
    let first = keys.make_abuse("ingress").await.unwrap();
    assert_eq!(first.bucket, "abuse/2026-11-25");
    assert_eq!(first.dies_at.unix_millis(), 1_795_564_800_000);
    assert!(first.use_until < first.dies_at);
    // Also by a process that starts later.
    drop(keys);
    let keys = world.open();
    let again = keys.make_abuse("ingress").await.unwrap();
    assert_eq!(again.key.expose(), first.key.expose());
    // It is not one of any tenant's.
    let of_index = keys.make_index("ingress", tenant("acme")).await.unwrap();
    assert_ne!(of_index.pseudonyms.expose(), first.key.expose());
    let listed = keys.pseudonym_keys("ingress", tenant("acme")).await.unwrap();
    assert!(listed.iter().all(|one| one.bucket.starts_with("index/")));

    world.clock.advance(DAY);
    keys.sweep().await.unwrap();
    let next = keys.make_abuse("ingress").await.unwrap();
    assert_eq!(next.bucket, "abuse/2026-11-26");
    assert_ne!(next.key.expose(), first.key.expose());
    // That of the day before is gone, and is not made again.
    let living = keys.inventory("operator", None).await.unwrap().keys;
    let before = living.iter().find(|one| one.bucket == first.bucket).unwrap();
    assert!(matches!(before.state, KeyState::Destroyed { .. }), "{before:?}");
}

#[tokio::test]
async fn an_operator_gives_the_day_another_key_and_only_ingress_gets_it() {
    let world = World::new();
    let keys = world.open();
    let first = keys.make_abuse("ingress").await.unwrap();
    let made = keys.rotate("operator", Some(Contents::Abuse)).await.unwrap();
    assert_eq!(made.iter().map(|one| one.bucket.as_str()).collect::<Vec<_>>(), ["abuse/2026-11-25.2"]);
    assert_eq!(keys.ended("ingress").await.unwrap().superseded, [first.bucket.as_str()]);
    let second = keys.make_abuse("ingress").await.unwrap();
    assert_eq!(second.bucket, "abuse/2026-11-25.2");
    assert_ne!(second.key.expose(), first.key.expose());
    for other in ["carrier", "routing", "operator"] {
        assert!(matches!(keys.make_abuse(other).await, Err(KeyError::NotThisService)), "{other}");
    }
}
