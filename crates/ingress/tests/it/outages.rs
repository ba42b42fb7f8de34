//! The whole process while broker, Redis and clients go away.

use std::time::Duration;

use sotto_proto::message::v1::MessageState;
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
    world.broker.server.thaw().await;
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
    world.broker.server.thaw().await;
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
