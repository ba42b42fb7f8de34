//! What ingress keeps in Redis, on a real one: lost, restarted, gone for a moment, silent.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use sotto_core::{
    Facts, ManualClock, MessageClass, MessageId, Restored, ShardId, Timestamp,
    delivery::{Event, EventKind},
    text::Encoding,
};
use sotto_ingress::{
    adapters::store::{Answers, Store},
    app::{
        projection::Folder,
        sweep::{SweepError, Sweeper},
    },
    domain::idempotency::Entry,
    ports::{Claimed, Claims as _, Gate as _, Log, LogError, Records as _, StoreError},
};
use sotto_proto::WorkDelivery;
use sotto_testkit::{ChaosProxy, Pki, RedisServer, eventually};
use tokio::time::Instant;

use crate::{
    cell::{self, BOUND, TERMS},
    fakes::NOW,
};

pub(crate) fn facts(number: u8, keyed: bool) -> Facts {
    Facts {
        message: MessageId::from_keyed_hash([number; 16]),
        tenant: "acme".parse().unwrap(),
        class: MessageClass::Otp,
        country: "VN".parse().unwrap(),
        operator_range: "8491".parse().unwrap(),
        encoding: Encoding::Gsm7,
        parts: 1,
        units: 10,
        accepted_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(300)),
        content_mac: keyed.then_some([number; 32]),
        send_at: None,
    }
}

pub(crate) fn event(facts: &Facts, kind: EventKind) -> Event {
    Event { message: facts.message, at: facts.accepted_at.plus(Duration::from_secs(1)), kind }
}

pub(crate) fn accepted(facts: &Facts) -> Event {
    Event {
        message: facts.message,
        at: facts.accepted_at,
        kind: EventKind::Accepted(Box::new(facts.clone())),
    }
}

pub(crate) struct World {
    pki: Pki,
    pub(crate) redis: RedisServer,
    pub(crate) clock: Arc<ManualClock>,
}

impl World {
    pub(crate) async fn start() -> Self {
        let pki = Pki::new();
        let redis = cell::redis(&pki).await;
        Self { pki, redis, clock: Arc::new(ManualClock::new(NOW)) }
    }

    pub(crate) fn store(&self) -> Store {
        self.store_at(self.redis.address().port())
    }

    fn store_at(&self, port: u16) -> Store {
        cell::store(&self.pki, port, self.clock.clone())
    }
}

pub(crate) fn shard_of(facts: &Facts) -> ShardId {
    cell::shards().of(&facts.message)
}

pub(crate) async fn make_ready(store: &Store) {
    for shard in cell::shards().iter() {
        let rebuild = store.start_rebuild(shard, "p").await.unwrap().unwrap();
        assert!(store.finish_rebuild(&rebuild).await.unwrap());
    }
}

fn claim_of(facts: &Facts) -> Entry {
    Entry { stored: false, ..Entry::of(facts).unwrap() }
}

fn until() -> Timestamp {
    // Redis judges by its own clock, which is not moved by hand.
    Timestamp::from_unix_seconds(4_000_000_000)
}

#[tokio::test]
async fn a_key_is_claimed_once_and_only_where_nothing_is_missing() {
    let world = World::start().await;
    let (one, other) = (world.store(), world.store());
    let facts = facts(1, true);
    let claim = claim_of(&facts);
    let id = facts.message;
    assert_eq!(one.claim(&id, claim.clone(), until()).await, Err(StoreError::Rebuilding));
    make_ready(&one).await;
    assert_eq!(one.claim(&id, claim.clone(), until()).await, Ok(Claimed::Free));
    let second = Entry { content: [9; 32], ..claim.clone() };
    assert_eq!(other.claim(&id, second, until()).await, Ok(Claimed::Used(claim)));
    one.begin(&facts, Some(until())).await;
    let stored = Entry::of(&facts).unwrap();
    assert_eq!(other.look(&id, None).await, Ok(Claimed::Used(stored.clone())));
    let found = other.find(&id).await.unwrap();
    assert_eq!((found.journal.unwrap().id(), found.entry, found.whole), (id, Some(stored), true));

    // A window that one replica has closed is closed for the other.
    let next = MessageId::from_keyed_hash([2; 16]);
    assert_eq!(one.look(&next, Some(Duration::from_secs(60))).await, Ok(Claimed::Free));
    let late = Entry { content: [2; 32], ..claim_of(&self::facts(2, true)) };
    assert_eq!(other.claim(&next, late, until()).await, Ok(Claimed::Moved));
}

#[tokio::test]
async fn a_flush_and_a_restart_make_everything_unready() {
    let mut world = World::start().await;
    let store = world.store();
    let id = facts(1, true).message;
    let shard = shard_of(&facts(1, true));
    make_ready(&store).await;
    world.redis.flush_all().await;
    assert!(!store.is_ready(shard).await.unwrap());
    assert_eq!(store.claim(&id, claim_of(&facts(1, true)), until()).await, Err(StoreError::Rebuilding));
    assert!(!store.find(&id).await.unwrap().whole);

    make_ready(&store).await;
    // An append-only file, where one is kept, brings the marker back, but an unknown part of the last second is lost.
    world.redis.restart().await;
    eventually(BOUND, "Redis", async || store.is_ready(shard).await == Ok(false)).await;
    make_ready(&store).await;

    // A rebuild that a flush overtook has built nothing.
    let rebuild = store.start_rebuild(shard, "p").await.unwrap().unwrap();
    world.redis.flush_all().await;
    assert!(!store.finish_rebuild(&rebuild).await.unwrap());
    assert!(!store.is_ready(shard).await.unwrap());
}

#[tokio::test]
async fn one_process_rebuilds_a_shard_at_a_time() {
    let world = World::start().await;
    let (one, other) = (world.store(), world.store());
    let shard = shard_of(&facts(1, true));
    let rebuild = one.start_rebuild(shard, "one").await.unwrap().unwrap();
    assert!(other.start_rebuild(shard, "other").await.unwrap().is_none());
    assert!(one.go_on(&rebuild, None).await.unwrap());
    // The same process may begin anew: its last try failed.
    let rebuild = one.start_rebuild(shard, "one").await.unwrap().unwrap();

    // Somebody lacks something that this rebuild may have read past: it must not end well.
    other.forget(shard).await.unwrap();
    assert!(!one.go_on(&rebuild, None).await.unwrap());
    assert!(!one.finish_rebuild(&rebuild).await.unwrap());
    let taken = other.start_rebuild(shard, "other").await.unwrap().unwrap();
    assert!(!one.finish_rebuild(&rebuild).await.unwrap());
    assert!(other.finish_rebuild(&taken).await.unwrap());
    assert!(one.is_ready(shard).await.unwrap());
}

#[tokio::test]
async fn a_hiccup_of_redis_needs_no_rebuild() {
    let world = World::start().await;
    let proxy = ChaosProxy::start(world.redis.address()).await;
    let store = world.store_at(proxy.address().port());
    let other = world.store();
    make_ready(&other).await;
    let (keyed, plain) = (facts(1, true), facts(2, false));
    assert!(store.find(&keyed.message).await.unwrap().whole);
    proxy.cut();
    store.begin(&keyed, Some(until())).await;
    store.begin(&plain, None).await;
    assert_eq!(store.find(&keyed.message).await, Err(StoreError::Down));
    assert!(store.catch_up().await.is_err());
    assert_eq!(store.behind(), []);

    proxy.pass();
    eventually(BOUND, "Redis", async || store.is_ready(shard_of(&keyed)).await == Ok(true)).await;
    // Whoever accepted them can tell at once; the others when they are written.
    assert!(store.find(&plain.message).await.unwrap().journal.is_some());
    assert!(other.find(&plain.message).await.unwrap().journal.is_none());
    assert_eq!(store.catch_up().await, Ok(2));
    assert_eq!(store.catch_up().await, Ok(0));
    assert!(other.find(&plain.message).await.unwrap().journal.is_some());
    assert_eq!(other.look(&keyed.message, None).await, Ok(Claimed::Used(Entry::of(&keyed).unwrap())));
    assert!(store.find(&keyed.message).await.unwrap().whole);
}

#[tokio::test]
async fn a_silent_redis_holds_up_one_request_at_a_time() {
    let world = World::start().await;
    let proxy = ChaosProxy::start(world.redis.address()).await;
    let store = world.store_at(proxy.address().port());
    make_ready(&store).await;
    proxy.stall();
    let id = facts(1, true).message;
    assert_eq!(store.find(&id).await, Err(StoreError::Down));
    // Five rests long: every one of them waits only if it is the one that finds out.
    let begun = Instant::now();
    let mut asked: u32 = 0;
    while begun.elapsed() < Duration::from_millis(2_500) {
        let waves = join_all((0..20).map(|_| async {
            let asked_at = Instant::now();
            assert_eq!(store.find(&id).await, Err(StoreError::Down));
            asked_at.elapsed() > Duration::from_millis(500)
        }));
        asked += u32::try_from(waves.await.into_iter().filter(|waited| *waited).count()).unwrap();
        tokio::task::yield_now().await;
    }
    assert!((1..=5).contains(&asked), "{asked} requests waited for a server that does not answer");
    proxy.pass();
    eventually(BOUND, "Redis", async || store.find(&id).await.is_ok()).await;
}

#[tokio::test]
async fn without_redis_the_pace_is_kept_by_each_process() {
    let mut world = World::start().await;
    let store = world.store();
    let tenant = "acme".parse().unwrap();
    for _ in 0..3 {
        store.pass(&tenant).await.unwrap();
    }
    assert!(store.pass(&tenant).await.is_err(), "ten a second, three at once");
    world.redis.stop().await;
    // Half of it, rounded up; and no clock that is set can change that.
    let tenant = "other".parse().unwrap();
    store.pass(&tenant).await.unwrap();
    store.pass(&tenant).await.unwrap();
    world.clock.set(NOW.minus(Duration::from_secs(86_400)));
    let wait = store.pass(&tenant).await.unwrap_err();
    assert!(wait <= Duration::from_millis(200), "{wait:?}");
}

#[tokio::test]
async fn a_redis_that_may_throw_keys_away_is_told() {
    let mut world = World::start().await;
    let store = world.store();
    assert_eq!(store.condition().await, Answers::Well);
    assert_eq!(world.redis.command("CONFIG SET maxmemory-policy allkeys-lru").await, "+OK");
    assert_eq!(store.condition().await, Answers::ButEvicts);
    world.redis.stop().await;
    assert_eq!(store.condition().await, Answers::Not);
}

#[tokio::test]
async fn an_acceptance_off_the_log_notes_the_key_as_used() {
    let world = World::start().await;
    let store = world.store();
    make_ready(&store).await;
    // Of today: Redis forgets by its own clock.
    let now = sotto_core::Clock::now(&sotto_core::SystemClock);
    world.clock.set(now);
    let facts = Facts { accepted_at: now, expires_at: now.plus(Duration::from_secs(300)), ..facts(1, true) };
    let shard = shard_of(&facts);
    // Claimed; then whoever claimed it died between the broker's acknowledgement and its note.
    store.claim(&facts.message, claim_of(&facts), until()).await.unwrap();
    let folder = Folder::new(store.clone());
    let event = accepted(&facts);
    assert_eq!(folder.fold(shard, &[(7, vec![&event])]).await.unwrap(), [[Ok(())]]);
    let stored = Entry::of(&facts).unwrap();
    assert_eq!(store.look(&facts.message, None).await, Ok(Claimed::Used(stored)));
    assert_eq!(store.folded(shard).await, Ok(7));
    // An earlier batch that comes again does not turn it back.
    assert_eq!(folder.fold(shard, &[(3, Vec::new())]).await.unwrap(), [[]]);
    assert_eq!(store.folded(shard).await, Ok(7));
}

#[derive(Debug, Default)]
struct Closings(std::sync::Mutex<Vec<Event>>);

impl Log for Closings {
    fn accept(&self, _: ShardId, _: WorkDelivery) -> futures::future::BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async { Err(LogError::Refused) })
    }

    fn append(
        &self,
        _: ShardId,
        events: Vec<Event>,
    ) -> futures::future::BoxFuture<'_, Result<u64, LogError>> {
        self.0.lock().unwrap().extend(events);
        Box::pin(async { Ok(9) })
    }
}

#[tokio::test]
async fn what_a_restored_cell_may_have_sent_does_not_simply_expire() {
    let world = World::start().await;
    let store = world.store();
    make_ready(&store).await;
    let (log, facts) = (Arc::new(Closings::default()), facts(1, false));
    let restored = Some(Restored { at: facts.accepted_at });
    let sweeper = Sweeper::new(store.clone(), log.clone(), world.clock.clone(), restored);
    store.begin(&facts, None).await;
    world.clock.set(facts.expires_at.plus(TERMS.grace));
    assert_eq!(sweeper.sweep(shard_of(&facts)).await, Ok(1));
    let closing: Vec<_> = log.0.lock().unwrap().iter().map(|event| event.kind.name()).collect();
    assert_eq!(closing, ["accepted", "doubted"]);
}

#[tokio::test]
async fn a_stuck_projection_does_not_make_silence_end_again_and_again() {
    let world = World::start().await;
    let store = world.store();
    make_ready(&store).await;
    let (log, facts) = (Arc::new(Closings::default()), facts(1, false));
    let shard = shard_of(&facts);
    let sweeper = Sweeper::new(store.clone(), log.clone(), world.clock.clone(), None);
    store.begin(&facts, None).await;
    assert_eq!(sweeper.sweep(shard).await, Ok(0), "its time has not come");
    world.clock.set(facts.expires_at.plus(TERMS.grace));
    assert_eq!(sweeper.sweep(shard).await, Ok(1));
    let closing: Vec<_> = log.0.lock().unwrap().iter().map(|event| event.kind.name()).collect();
    assert_eq!(closing, ["accepted", "expired"]);

    // Ten minutes later the projection has read nothing.
    world.clock.advance(Duration::from_secs(600));
    assert_eq!(sweeper.sweep(shard).await, Ok(0));
    // It has read that far, and yet the message lives: the closing was lost on the way, say.
    store.set_folded(shard, 9, &[]).await.unwrap();
    assert_eq!(sweeper.sweep(shard).await, Ok(1));
    world.redis.flush_all().await;
    assert_eq!(sweeper.sweep(shard).await, Ok(0), "the place is unknown: it waits");
    let fresh = Sweeper::new(store.clone(), log, world.clock.clone(), None);
    assert_eq!(fresh.sweep(shard).await, Err(SweepError::Store(StoreError::Rebuilding)));
}
