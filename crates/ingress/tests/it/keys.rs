//! Session keys from a privacy on the wire.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::future::join_all;
use sotto_core::{Clock, ManualClock, MessageClass, SystemClock, Timestamp};
use sotto_ingress::{
    adapters::keys::SessionKeys,
    metrics::IngressMetrics,
    ports::{KeyError, KeySource as _},
};
use sotto_metrics::Metrics;
use sotto_proto::privacy::v1::ListEndedBucketsResponse;
use sotto_runtime::{Readiness, Stop, Tasks, grpc::channel};
use sotto_testkit::{Pki, eventually_ok};
use tokio::time::Instant;

use crate::cell::{self, BOUND, Peers};

struct World {
    peers: Peers,
    keys: SessionKeys,
    clock: Arc<ManualClock>,
    possible: Readiness,
    metrics: Metrics,
}

impl World {
    async fn start() -> Self {
        let pki = Pki::new();
        let peers = Peers::start(&pki).await;
        let endpoint = format!("https://localhost:{}", peers.privacy);
        let tls = cell::tls(&pki, "ingress");
        let channel = channel(&endpoint, &tls, "privacy.sotto.internal", BOUND).unwrap();
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let possible = Readiness::default();
        let metrics = Metrics::default();
        let keys = SessionKeys::new(
            channel,
            Duration::from_secs(2),
            clock.clone(),
            Tasks::new(Stop::default()),
            possible.condition("privacy"),
            IngressMetrics::new(&metrics),
        );

        Self { peers, keys, clock, possible, metrics }
    }

    async fn key(&self, needed_until: Timestamp) -> Result<(), KeyError> {
        let tenant = "acme".parse().unwrap();
        self.keys.session(&tenant, MessageClass::Otp, needed_until.into()).await.map(drop)
    }

    fn made(&self) -> u32 {
        self.peers.keys.made.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn one_key_serves_one_hour_of_needs_whatever_their_order() {
    let world = World::start().await;
    let now = world.clock.now();
    // Falling by a second each: two hours' worth meet three buckets at most.
    for second in (0..7200).rev() {
        world.key(now.plus(Duration::from_secs(600 + second))).await.unwrap();
    }
    assert!((2..=3).contains(&world.made()), "{}", world.made());
    // Hits and misses of the cache are counted. A key may have been renewed without a miss.
    let counted = |result: &str| format!("sotto_ingress_session_keys_total{{result=\"{result}\"}}");
    let page = world.metrics.page();
    let number = |result: &str| -> u32 {
        let line = page.lines().find_map(|line| line.strip_prefix(&counted(result)));
        line.unwrap().trim().parse().unwrap()
    };
    assert!((2..=world.made()).contains(&number("fetched")), "{page}");
    assert_eq!(number("held") + number("fetched"), 7200, "{page}");
    // Many at once for a new tenant's first message are one request.
    let tenant = "other".parse().unwrap();
    let need = now.plus(Duration::from_secs(600));
    let all = join_all((0..50).map(|_| world.keys.session(&tenant, MessageClass::Otp, need.into()))).await;
    assert!(all.into_iter().all(|one| one.is_ok()));
    assert!(world.made() <= 4);
}

#[tokio::test]
async fn days_of_needs_take_a_key_a_day_once_they_are_known() {
    let world = World::start().await;
    let (tenant, now) = ("acme".parse().unwrap(), world.clock.now());
    let all = async || {
        // Every ten minutes of three days, falling.
        for minutes in (1..=3 * 24 * 6).rev() {
            let need = now.plus(Duration::from_secs(600 * minutes));
            let session =
                world.keys.session(&tenant, MessageClass::Transactional, need.into()).await.unwrap();
            assert!(session.dies_at >= need && session.dies_at.since(need) < Duration::from_secs(86_400));
        }
    };
    all().await;
    // An hour at a time at worst, as nobody says where the day's first hour is.
    assert!(world.made() <= 74, "{}", world.made());
    let before = world.made();
    all().await;
    assert_eq!(world.made(), before, "what was learned of a bucket stays known");
}

#[tokio::test]
async fn a_key_whose_bucket_ended_seals_no_more_and_others_do() {
    let world = World::start().await;
    let need = world.clock.now().plus(Duration::from_secs(600));
    world.key(need).await.unwrap();
    let say = |destroyed: &[&str], superseded: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let ended = ListEndedBucketsResponse { destroyed: owned(destroyed), superseded: owned(superseded) };
        *world.peers.keys.ended.lock().unwrap() = ended;
    };
    for (number, (destroyed, superseded)) in (1..).zip([
        (&["other"][..], &["another"][..]),
        (&["any/2026-11-24"], &[]),
        (&[], &["any/2026-11-24"]),
    ]) {
        say(destroyed, superseded);
        world.keys.forget_ended().await.unwrap();
        world.key(need).await.unwrap();
        assert_eq!(world.made(), number, "{destroyed:?} {superseded:?}");
    }
    // Nobody says anything: what is held serves.
    say(&[], &[]);
    world.peers.keys.down.store(true, Ordering::SeqCst);
    assert_eq!(world.keys.forget_ended().await, Err(KeyError::Unavailable));
    world.key(need).await.unwrap();
    assert_eq!(world.made(), 3);
}

#[tokio::test]
async fn what_is_held_serves_while_privacy_is_away_and_nobody_waits_for_it() {
    let world = World::start().await;
    let need = world.clock.now().plus(Duration::from_secs(600));
    world.key(need).await.unwrap();
    world.peers.keys.down.store(true, Ordering::SeqCst);
    world.key(need).await.unwrap();
    // Four fifths of its time are over by its own clocks only; by the wall clock it has ended.
    world.clock.advance(Duration::from_secs(301));
    let later = world.clock.now().plus(Duration::from_secs(600));
    let begun = Instant::now();
    let refused = join_all((0..50).map(|_| world.key(later))).await;
    assert!(refused.into_iter().all(|one| one == Err(KeyError::Unavailable)));
    assert!(begun.elapsed() < Duration::from_secs(2), "one asks, the others hear the same");
    assert!(!world.possible.is_ready());
    world.keys.wipe();

    world.peers.keys.down.store(false, Ordering::SeqCst);
    world.clock.set(SystemClock.now());
    let need = world.clock.now().plus(Duration::from_secs(600));
    eventually_ok(BOUND, "a key", async || world.key(need).await).await;
    assert!(world.possible.is_ready());
}
