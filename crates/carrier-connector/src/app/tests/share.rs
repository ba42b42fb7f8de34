//! A connector takes what it can send soon; the rest is for others.

use std::sync::Arc;

use tokio::time::timeout;

use super::Process;
use crate::testing::{BOUND, Reply, TestCarrier, World, item, settings};

#[tokio::test]
async fn as_many_batches_are_taken_as_fit_into_the_window() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let mut settings = settings("a", carrier.port);
    settings.window = 8;
    let process = Process::of(&world, settings, world.redis.store(), Arc::clone(&world.clock));
    let ready = async || timeout(BOUND, process.account.ready(false)).await.unwrap();
    assert_eq!(ready().await, 8, "nothing is known of batches yet");
    let items: Vec<_> = (1..=3).map(|seed| item(seed, 1, "a")).collect();
    process.handle(&items).await;
    assert_eq!(ready().await, 3, "of three parts each");
    // Smaller ones are believed by and by.
    process.handle(&[item(4, 1, "a")]).await;
    assert_eq!(ready().await, 4);
    for seed in 5..20 {
        process.handle(&[item(seed, 1, "a")]).await;
    }
    assert_eq!(ready().await, 8);
}
