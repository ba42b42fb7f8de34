//! Redis out of the log, in windows, by one process at a time (INV-9).

use std::{sync::Arc, time::Duration};

use sotto_bus::{Publisher, PublisherConfig, Service as Party, Subject};
use sotto_core::{
    Clock as _, Facts, ManualClock, SystemClock, WorkItem,
    delivery::{EventKind, Outcome, Stage},
    work::{Envelope, KeyWrap},
};
use sotto_ingress::{
    adapters::{audit::AuditTrail, store::Store},
    app::rebuild::Rebuilder,
    domain::idempotency::Entry,
    metrics::IngressMetrics,
    ports::{Claimed, Claims as _, Records as _},
};
use sotto_metrics::Metrics;
use sotto_proto::{
    LogEvent, WorkDelivery,
    pipeline::v1::{EventBatch, WorkBatch},
};
use sotto_testkit::{Pki, RedisServer, eventually};
use tokio::sync::Notify;

use crate::{
    cell::{self, BOUND, Broker, TERMS},
    store::{event, facts},
};

pub(crate) struct World {
    pub(crate) pki: Pki,
    pub(crate) redis: RedisServer,
    pub(crate) broker: Broker,
    clock: Arc<ManualClock>,
    events: Publisher<EventBatch>,
    work: Publisher<WorkBatch>,
}

impl World {
    pub(crate) async fn start() -> Self {
        let pki = Pki::new();
        let (redis, broker) = tokio::join!(cell::redis(&pki), Broker::start(&pki));
        let ingress = broker.bus(&pki, Party::Ingress).await;
        let events = Publisher::new(&ingress, PublisherConfig::default());
        let work = Publisher::new(&ingress, PublisherConfig::default());
        // Redis forgets by its own clock: these messages are of today.
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        Self { pki, redis, broker, clock, events, work }
    }

    pub(crate) fn facts(&self, number: u8) -> Facts {
        let now = self.clock.now();
        Facts { accepted_at: now, expires_at: now.plus(Duration::from_secs(300)), ..facts(number, true) }
    }

    pub(crate) fn store(&self) -> Store {
        cell::store(&self.pki, self.redis.address().port(), self.clock.clone())
    }

    async fn rebuilder(&self, store: &Store, name: &str) -> Rebuilder {
        let bus = self.broker.bus(&self.pki, Party::Ingress).await;
        let audit = AuditTrail::start(&bus, IngressMetrics::new(&Metrics::default()));
        Rebuilder::new(bus, store.clone(), audit, name, Arc::new(Notify::new())).in_windows_of(3)
    }

    /// One batch of events of one message, as the log takes it.
    pub(crate) async fn log(&self, facts: &Facts, kinds: impl IntoIterator<Item = EventKind>) {
        let shard = cell::shards().of(&facts.message);
        let events = kinds.into_iter().map(|kind| LogEvent::Delivery(event(facts, kind)));
        self.events.publish_all(&Subject::Event(shard), events.collect()).await.unwrap();
    }

    async fn intake(&self, facts: &Facts) {
        let wrap = KeyWrap {
            key_id: [1; 16],
            tenant: facts.tenant.clone(),
            class: facts.class,
            bucket: "otp/2026-11-24T05".to_owned(),
            wrapped: bytes::Bytes::from_static(&[0; 62]),
        };
        let mut envelope = vec![1, 1];
        envelope.extend([1; 16]);
        let item = WorkItem::accepted(facts.clone(), Envelope(envelope.into()));
        let subject = Subject::Accepted(facts.lane(), cell::shards().of(&facts.message));
        self.work.publish(&subject, WorkDelivery { item, wrap: Arc::new(wrap) }).await.unwrap();
    }
}

pub(crate) fn first(facts: &Facts) -> EventKind {
    EventKind::Accepted(Box::new(facts.clone()))
}

pub(crate) fn routed() -> EventKind {
    EventKind::Routed { attempt: 1, account: "one".parse().unwrap(), table_version: "t".to_owned() }
}

pub(crate) fn stage(found: &sotto_ingress::ports::Found) -> Option<Stage> {
    Some(found.journal.as_ref()?.delivery()?.stage())
}

#[tokio::test]
async fn everything_that_lives_comes_back_in_whatever_windows_it_is_read() {
    let world = World::start().await;
    let all: Vec<Facts> = (1..=20).map(|number| world.facts(number)).collect();
    // Accepted and not routed; accepted twice by a retry in doubt; routed; ended; an event before its acceptance.
    world.intake(&all[0]).await;
    for facts in &all[1..] {
        world.log(facts, [first(facts)]).await;
    }
    for facts in &all[1..10] {
        world.log(facts, [routed()]).await;
    }
    for facts in &all[1..5] {
        world.log(facts, [EventKind::Cancelled]).await;
    }
    let early = world.facts(21);
    world.log(&early, [routed()]).await;
    for facts in &all[10..15] {
        world.log(facts, [routed()]).await;
    }
    world.log(&early, [first(&early)]).await;

    let store = world.store();
    let rebuilder = world.rebuilder(&store, "one").await;
    for _ in 0..2 {
        rebuilder.look().await.unwrap();
        for shard in cell::shards().iter() {
            assert!(store.is_ready(shard).await.unwrap());
        }
        let expected = |number: usize| match number {
            0 | 15.. => Stage::Accepted,
            1..5 => Stage::Ended(Outcome::Cancelled),
            5..15 => Stage::Routed,
        };
        for (number, facts) in all.iter().enumerate() {
            let found = store.find(&facts.message).await.unwrap();
            assert_eq!(stage(&found), Some(expected(number)), "{number}");
            assert_eq!(found.entry, Entry::of(facts), "{number}");
            assert!(found.whole);
        }
        assert_eq!(stage(&store.find(&early.message).await.unwrap()), Some(Stage::Routed));
        // And again from nothing.
        world.redis.flush_all().await;
        assert!(!store.find(&all[0].message).await.unwrap().whole);
    }
}

#[tokio::test]
async fn what_ended_long_ago_stays_forgotten_but_its_key_is_remembered() {
    let world = World::start().await;
    let facts = world.facts(1);
    world.log(&facts, [first(&facts)]).await;
    world.log(&facts, [EventKind::Cancelled]).await;
    for number in 2..8 {
        let other = world.facts(number);
        world.log(&other, [first(&other)]).await;
    }
    world.clock.advance(TERMS.keep + Duration::from_secs(60));
    let store = world.store();
    let rebuilder = world.rebuilder(&store, "one").await;
    rebuilder.look().await.unwrap();
    let found = store.find(&facts.message).await.unwrap();
    assert_eq!(found.journal, None);
    assert_eq!(store.look(&facts.message, None).await, Ok(Claimed::Used(Entry::of(&facts).unwrap())));
    // Another day, and the key is forgotten too.
    world.clock.advance(2 * TERMS.keep);
    world.redis.flush_all().await;
    rebuilder.look().await.unwrap();
    assert_eq!(store.look(&facts.message, None).await, Ok(Claimed::Free));
    assert_eq!(stage(&store.find(&world.facts(2).message).await.unwrap()), Some(Stage::Accepted));
}

#[tokio::test]
async fn while_one_process_rebuilds_another_waits_for_it() {
    let world = World::start().await;
    let facts = world.facts(1);
    world.log(&facts, [first(&facts)]).await;
    let (store, other) = (world.store(), world.store());
    let mut rebuilds = Vec::new();
    for shard in cell::shards().iter() {
        rebuilds.push(other.start_rebuild(shard, "other").await.unwrap().unwrap());
    }
    let rebuilder = world.rebuilder(&store, "one").await;
    rebuilder.look().await.unwrap();
    assert!(!store.find(&facts.message).await.unwrap().whole, "nothing to do but to wait");

    // An operator's rebuild takes the place of the one under way, which may not end well any more.
    let (progress, mut steps) = tokio::sync::mpsc::unbounded_channel();
    rebuilder.rebuild_all(&progress).await.unwrap();
    for rebuild in &rebuilds {
        assert!(!other.finish_rebuild(rebuild).await.unwrap());
    }
    assert!(store.find(&facts.message).await.unwrap().journal.is_some());
    drop(progress);
    let mut done = 0;
    while let Some(step) = steps.recv().await {
        done += u32::from(step.done);
    }
    assert_eq!(done, 2);
}

#[tokio::test]
async fn a_rebuild_that_broke_off_is_gone_on_with_and_only_in_the_same_redis() {
    let mut world = World::start().await;
    let all: Vec<Facts> = (1..=10).map(|number| world.facts(number)).collect();
    for facts in &all {
        world.log(facts, [first(facts)]).await;
    }
    // One that says that it came as far as the fifth, and wrote nothing: what is skipped is seen by that.
    let broke_off = async |store: &Store| {
        for shard in cell::shards().iter() {
            let rebuild = store.start_rebuild(shard, "one").await.unwrap().unwrap();
            assert_eq!(rebuild.done(), 0);
            assert!(store.go_on(&rebuild, Some(5)).await.unwrap());
        }
    };
    let there = async |store: &Store| {
        let mut there = 0;
        for facts in &all {
            there += usize::from(store.find(&facts.message).await.unwrap().journal.is_some());
        }
        there
    };
    let store = world.store();
    let rebuilder = world.rebuilder(&store, "one").await;
    broke_off(&store).await;
    rebuilder.look().await.unwrap();
    assert_eq!(there(&store).await, 5);
    // Ended, it is no beginning of another.
    world.redis.flush_all().await;
    rebuilder.look().await.unwrap();
    assert_eq!(there(&store).await, 10);
    // Lost in between: all of it again. (This Redis keeps a file, so that what it says is there after a restart.)
    for shard in cell::shards().iter() {
        store.forget(shard).await.unwrap();
    }
    broke_off(&store).await;
    world
        .redis
        .command("EVAL \"for _, key in ipairs(redis.call('KEYS', '*:m:*')) do redis.call('DEL', key) end\" 0")
        .await;
    world.redis.restart().await;
    eventually(BOUND, "a rebuild", async || {
        rebuilder.look().await.is_ok()
            && store.is_ready(cell::shards().iter().next().unwrap()).await == Ok(true)
    })
    .await;
    assert_eq!(there(&store).await, 10);
}
