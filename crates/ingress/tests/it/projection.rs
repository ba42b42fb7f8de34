//! Many batches of the log in one question to Redis, by one process or by two, and nothing overtakes another.

use std::sync::Arc;

use sotto_bus::{
    Publisher, PublisherConfig, Quarantine, Service as Party, StreamReader, Subject, Worker, WorkerConfig,
    topology::consumer_name,
};
use sotto_core::{
    Facts,
    delivery::{EventKind, Illegal, Stage},
};
use sotto_ingress::{
    adapters::store::Store,
    app::projection::{DELIVERIES, Folder, Projection},
    ports::Records as _,
};
use sotto_proto::{Batch, WireError, pipeline::v1::EventBatch};
use sotto_testkit::eventually;
use tokio::sync::Notify;

use crate::{
    cell::{self, BOUND},
    rebuild::{World, first, routed, stage},
    store::{event, make_ready},
};

/// A batch of a service whose protocol nobody knows.
#[derive(Clone, PartialEq, prost::Message)]
struct Garbage {
    #[prost(string, repeated, tag = "2")]
    words: Vec<String>,
}

impl Batch for Garbage {
    type Item = String;

    fn from_items(items: &[String]) -> Self {
        Self { words: items.to_vec() }
    }

    fn into_items(self) -> Vec<Result<String, WireError>> {
        self.words.into_iter().map(Ok).collect()
    }

    fn item_size(item: &String) -> usize {
        item.len() + 8
    }
}

/// The workers of one process, as the service starts them.
async fn fold(world: &World, store: &Store) -> Vec<Worker<EventBatch>> {
    let bus = world.broker.bus(&world.pki, Party::Ingress).await;
    let log = StreamReader::new(&bus, "EVENTS").unwrap();
    let projection = Projection::new(Folder::new(store.clone()), log, Arc::new(Notify::new()));
    let mut workers = Vec::new();
    for shard in cell::shards().iter() {
        let config = WorkerConfig { concurrency: DELIVERIES, ..WorkerConfig::default() };
        let consumer = [consumer_name::projection(shard)];
        let worker = Worker::start(&bus, "EVENTS", &consumer, Arc::new(projection.clone()), config).await;
        workers.push(worker.unwrap());
    }
    workers
}

async fn until_routed(store: &Store, all: &[Facts]) {
    eventually(BOUND, "every message to be routed", async || {
        for facts in all {
            if stage(&store.find(&facts.message).await.unwrap()) != Some(Stage::Routed) {
                return false;
            }
        }
        true
    })
    .await;
}

async fn scripts(world: &World) -> usize {
    let stats = world.redis.section("commandstats").await;
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.and_then(|calls| calls.split(',').next()?.parse().ok()).unwrap()
}

#[tokio::test]
async fn what_lies_behind_a_batch_is_folded_with_it() {
    let world = World::start().await;
    let store = world.store();
    make_ready(&store).await;
    let all: Vec<Facts> = (1..=60).map(|number| world.facts(number)).collect();
    for facts in &all {
        world.log(facts, [first(facts)]).await;
        world.log(facts, [routed()]).await;
    }
    let before = scripts(&world).await;
    let workers = fold(&world, &store).await;
    eventually(BOUND, "the log to be folded", async || {
        let mut folded = 0;
        for shard in cell::shards().iter() {
            folded = folded.max(store.folded(shard).await.unwrap());
        }
        folded == 120
    })
    .await;
    let asked = scripts(&world).await - before;
    assert!(asked <= 20, "{asked} scripts for 120 batches");
    until_routed(&store, &all).await;
    for worker in workers {
        assert!(worker.stop(BOUND).await);
    }
}

#[tokio::test]
async fn what_is_wrong_behind_a_batch_is_kept_aside_once_and_holds_nothing_up() {
    let world = World::start().await;
    let store = world.store();
    make_ready(&store).await;
    let garbage = world.broker.bus(&world.pki, Party::Carrier).await;
    let garbage: Publisher<Garbage> = Publisher::new(&garbage, PublisherConfig::default());
    let all: Vec<Facts> = (1..=30).map(|number| world.facts(number)).collect();
    for facts in &all {
        world.log(facts, [first(facts)]).await;
    }
    // A message of one part has no second one; and what nobody can read.
    let (attempt, account) = (1, "one".parse().unwrap());
    let foreign = EventKind::Submitted { attempt, account, part: 2, carrier_id: String::new() };
    world.log(&all[7], [routed(), foreign]).await;
    for shard in cell::shards().iter() {
        garbage.publish(&Subject::Event(shard), "\u{7f}no item".to_owned()).await.unwrap();
    }
    for facts in &all {
        world.log(facts, [routed()]).await;
    }
    let workers = fold(&world, &store).await;
    until_routed(&store, &all).await;
    let operator = world.broker.bus(&world.pki, Party::Operator).await;
    let quarantine = Quarantine::new(&operator).unwrap();
    eventually(BOUND, "three records", async || quarantine.count().await.unwrap() == 3).await;
    for worker in workers {
        assert!(worker.stop(BOUND).await);
    }
    assert_eq!(quarantine.count().await.unwrap(), 3);
}

#[tokio::test]
async fn what_is_wrong_is_told_again_after_a_death_although_more_was_folded() {
    let world = World::start().await;
    let store = world.store();
    make_ready(&store).await;
    let facts = world.facts(1);
    let shard = cell::shards().of(&facts.message);
    let (attempt, account) = (1, "one".parse().unwrap());
    let foreign = EventKind::Submitted { attempt, account, part: 2, carrier_id: String::new() };
    let [accepted, wrong, routed] = [first(&facts), foreign, routed()].map(|kind| event(&facts, kind));
    let batches = [(1, vec![&accepted]), (2, vec![&wrong]), (3, vec![&routed])];
    let told =
        |verdicts: Vec<Vec<Result<(), Illegal>>>| verdicts.iter().map(|v| v[0].is_err()).collect::<Vec<_>>();
    let fold = async |batches| {
        // A process that knows nothing from before.
        told(Folder::new(store.clone()).fold(shard, batches).await.unwrap())
    };
    assert_eq!(fold(&batches).await, [false, true, false]);
    assert_eq!(fold(&batches[1..]).await, [true, false]);
    assert_eq!(store.folded(shard).await, Ok(3));
}

#[tokio::test]
async fn two_processes_that_fold_by_turns_lose_nothing() {
    let world = World::start().await;
    let stores = [world.store(), world.store()];
    make_ready(&stores[0]).await;
    let workers = [fold(&world, &stores[0]).await, fold(&world, &stores[1]).await];
    let all: Vec<Facts> = (1..=100).map(|number| world.facts(number)).collect();
    let log = async |kind: fn(&Facts) -> EventKind| {
        for facts in &all {
            world.log(facts, [kind(facts)]).await;
        }
    };
    // Both are written at the same time: an event may overtake its acceptance.
    tokio::join!(log(first), log(|_| routed()));
    until_routed(&stores[1], &all).await;
    for worker in workers.into_iter().flatten() {
        assert!(worker.stop(BOUND).await);
    }
}

#[tokio::test]
async fn a_redis_that_went_back_is_folded_again_from_there() {
    let world = World::start().await;
    let store = world.store();
    make_ready(&store).await;
    let all: Vec<Facts> = (1..=40).map(|number| world.facts(number)).collect();
    let shard = cell::shards().of(&all[0].message);
    let of_shard: Vec<Facts> =
        all.into_iter().filter(|facts| cell::shards().of(&facts.message) == shard).collect();
    for facts in &of_shard {
        world.log(facts, [first(facts)]).await;
    }
    let workers = fold(&world, &store).await;
    let last = of_shard.len() as u64;
    eventually(BOUND, "the log to be folded", async || store.folded(shard).await == Ok(last)).await;
    // As after its disk lost the last second: neither the journals nor the place.
    let lost = &of_shard[of_shard.len() - 1];
    assert_eq!(world.redis.command(&format!("SET sotto:ingress:{{s{shard}}}:folded 1")).await, "+OK");
    assert_eq!(
        world.redis.command(&format!("DEL sotto:ingress:{{s{shard}}}:m:{}", lost.message)).await,
        ":1"
    );
    for facts in &of_shard {
        world.log(facts, [routed()]).await;
    }
    until_routed(&store, &of_shard).await;
    for worker in workers {
        assert!(worker.stop(BOUND).await);
    }
}
