//! The whole process while broker, Redis and clients go away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::Duration,
};

use sotto_bus::{Service as Party, StreamReader};
use sotto_proto::{Batch as _, message::v1::MessageState, pipeline::v1::WorkBatch};
use sotto_testkit::{eventually, eventually_ok};
use tokio::time::{Instant, timeout};
use tonic::Code;

use crate::{
    cell::BOUND,
    clients::{SHORT, World, with_key},
};

#[tokio::test]
async fn a_broker_that_is_away_is_told_soon_and_as_certain() {
    let mut world = World::start("").await;
    let client = world.client();
    world.broker.server.stop().await;
    for _ in 0..3 {
        let begun = Instant::now();
        let refused = client.send(with_key("k")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().starts_with("the message was not accepted"), "{refused:?}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    world.broker.server.restart().await;
    let sent = eventually_ok(BOUND, "the broker", async || client.send(with_key("k")).await).await;
    assert!(!sent.repeated);
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_on_a_silent_broker_finds_its_message_by_its_key() {
    let world = World::start("").await;
    let client = world.client();
    client.send(with_key("before")).await.unwrap();
    world.broker.server.freeze().await;
    // Twice: the second joins the first, which nobody waits for any more.
    for _ in 0..2 {
        assert!(timeout(SHORT, client.send(with_key("k"))).await.is_err());
    }
    world.broker.server.thaw();
    let sent = eventually_ok(BOUND, "the message", async || {
        let sent = client.send(with_key("k")).await.map_err(|status| status.to_string())?;
        if sent.repeated { Ok(sent) } else { Err("it was sent anew".to_owned()) }
    })
    .await;
    let found = client.get(&sent.message_id).await.unwrap();
    assert_eq!(found.state(), MessageState::Accepted);
    world.stop().await;
}

#[tokio::test]
async fn a_silent_broker_leaves_messages_in_doubt_and_refuses_the_next_at_once() {
    let world = World::start("").await;
    let client = world.client();
    client.send(with_key("before")).await.unwrap();
    world.broker.server.freeze().await;
    let doubtful = client.send(with_key("k")).await.unwrap_err();
    assert_eq!(doubtful.code(), Code::Unavailable);
    assert!(doubtful.message().contains("not known"), "{doubtful:?}");
    let begun = Instant::now();
    let certain = client.send(with_key("k2")).await.unwrap_err();
    assert!(certain.message().starts_with("the message was not accepted"), "{certain:?}");
    assert!(begun.elapsed() < SHORT);
    world.broker.server.thaw();
    eventually(BOUND, "the broker", async || client.send(with_key("k")).await.is_ok()).await;
    world.stop().await;
}

#[tokio::test]
async fn without_redis_keyed_messages_wait_the_others_go_on_and_nothing_is_forgotten() {
    let mut world = World::start("").await;
    let client = world.client();
    let first = client.send(with_key("k")).await.unwrap();
    world.redis.stop().await;
    let refused = client.send(with_key("k")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let plain = client.send(with_key("")).await.unwrap();
    assert_eq!(client.get(&plain.message_id).await.unwrap_err().code(), Code::Unavailable);

    world.redis.restart().await;
    world.redis.flush_all().await;
    for id in [&first.message_id, &plain.message_id] {
        let found = eventually_ok(BOUND, "the message", async || client.get(id).await).await;
        assert_eq!(found.state(), MessageState::Accepted);
    }
    let again = eventually_ok(BOUND, "the key", async || client.send(with_key("k")).await).await;
    assert_eq!((again.message_id, again.repeated), (first.message_id, true));
    world.stop().await;
}

#[tokio::test]
async fn keys_keep_their_one_message_while_everything_around_goes_away() {
    const KEYS: usize = 60;
    let mut world = World::start("").await;
    let clients: Vec<_> = (0..4).map(|_| world.client()).collect();
    let rounds = std::sync::atomic::AtomicUsize::new(0);
    // Every client sends every key, again and again until the end, and notes each id that it hears.
    let sending = clients.iter().map(async |client| {
        let mut heard: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        while rounds.load(Ordering::SeqCst) < 4 {
            for number in 0..KEYS {
                if let Ok(sent) = client.send(with_key(&format!("k{number}"))).await {
                    heard.entry(number).or_default().insert(sent.message_id);
                }
            }
        }
        // At the end everything is back, and every key is answered.
        for number in 0..KEYS {
            let key = format!("k{number}");
            let sent = eventually_ok(BOUND, "the key", async || client.send(with_key(&key)).await).await;
            heard.entry(number).or_default().insert(sent.message_id);
        }
        heard
    });
    let trouble = async {
        let settled = async || {
            let client = clients[0].clone();
            eventually(BOUND, "keyed messages again", async || client.send(with_key("k0")).await.is_ok())
                .await;
            rounds.fetch_add(1, Ordering::SeqCst);
        };
        settled().await;
        world.redis.flush_all().await;
        settled().await;
        world.broker.server.restart().await;
        settled().await;
        world.redis.restart().await;
        settled().await;
    };
    let (heard, ()) = tokio::join!(futures::future::join_all(sending), trouble);
    let mut ids: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for (number, heard) in heard.into_iter().flatten() {
        ids.entry(number).or_default().extend(heard);
    }
    assert_eq!(ids.len(), KEYS);
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");

    // And the log has exactly those: nothing that nobody heard of, nothing missing.
    let bus = world.broker.bus(&world.pki, Party::Ingress).await;
    let reader = StreamReader::<WorkBatch>::new(&bus, "INTAKE").unwrap();
    let mut reading = reader.read(1, u64::MAX);
    let mut stored = BTreeSet::new();
    while let Some(batch) = reading.next().await.unwrap() {
        let items = batch.batch.into_items().into_iter().map(Result::unwrap);
        stored.extend(items.map(|delivery| delivery.item.facts.message.to_string()));
    }
    assert_eq!(stored, ids.into_values().flatten().collect());
    world.stop().await;
}
