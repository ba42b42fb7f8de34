//! An account over a real Redis and a real SMPP peer. The log is one that fails on command.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::join_all};
use sotto_bus::Outcome;
use sotto_core::{
    AccountId, ManualClock,
    carriers::Account as Settings,
    delivery::{EventKind, Outcome as End, PartState, RejectCause, Stage},
    work::{Attempt, AttemptEnd},
};
use sotto_proto::{LogEvent, WorkDelivery};
use sotto_runtime::{Stop, fuse::Fuses, health::Readiness};
use sotto_testkit::{ChaosProxy, eventually};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    account::Account,
    rebuild::Rebuilder,
    tenure::{Posts, posts},
};
use crate::{
    adapters::{
        ledger::Store,
        smpp::{check_files, keep_bound},
    },
    ports::Unwrapped,
    testing::{BOUND, NOW, Reply, TestCarrier, TestRedis, World, id, item, settings, shards, whole},
};

mod binds;
mod cancel;
mod doubts;
mod ended;
mod holds;
mod inbound;
mod joined;
mod orphans;
mod questions;
mod share;

/// A connector process of one account.
struct Process {
    account: Arc<Account>,
    rebuilder: Arc<Rebuilder>,
    _tasks: JoinSet<()>,
    held: Posts,
    folder: tempfile::TempDir,
}

impl Process {
    async fn start(world: &World, name: &str, carrier: &TestCarrier) -> Self {
        let process = Self::over(world, name, carrier.port, world.redis.store());
        process.until_ready().await;
        process
    }

    fn over(world: &World, name: &str, port: u16, store: Store) -> Self {
        Self::at(world, name, port, store, Arc::clone(&world.clock))
    }

    fn at(world: &World, name: &str, port: u16, store: Store, clock: Arc<ManualClock>) -> Self {
        Self::of(world, settings(name, port), store, clock)
    }

    fn of(world: &World, settings: Settings, store: Store, clock: Arc<ManualClock>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "secret").unwrap();
        std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let (account, rebuilder) = world.account_at(settings, store, clock);
        check_files(&account.settings, folder.path()).unwrap();
        let mut tasks = JoinSet::new();
        let condition = Readiness::default().condition("redis");
        tasks.spawn(Arc::clone(&rebuilder).watch(condition, world.stop.clone()));
        let drained = CancellationToken::new();
        let (held, posts) = posts(account.settings.binds, Duration::from_secs(15), &Fuses::start().unwrap());
        held.hold();
        account.line.set_slices(whole(account.settings.tps), false);
        for post in posts {
            let (account, folder) = (Arc::clone(&account), folder.path().to_owned());
            tasks.spawn(keep_bound(account, post, folder, world.stop.clone(), drained.clone()));
        }
        Self { account, rebuilder, _tasks: tasks, held, folder }
    }

    async fn until_ready(&self) {
        timeout(BOUND, self.account.ready(false)).await.unwrap();
    }

    async fn handle(&self, items: &[WorkDelivery]) -> Vec<Outcome> {
        timeout(BOUND, self.account.handle(items.to_vec())).await.unwrap()
    }

    /// Delivers an item again and again, as the broker does, until it is done.
    async fn until_done(&self, item: &WorkDelivery) {
        eventually(BOUND, "the item to be done", || async {
            self.handle(std::slice::from_ref(item)).await == [Outcome::Done]
        })
        .await;
    }
}

fn recipient(seed: u8) -> String {
    format!("84981{seed:06}")
}

/// No part twice, and all of these.
fn assert_once(carriers: &[&TestCarrier], seeds: &[u8], parts: u8) {
    let mut seen: Vec<_> = carriers.iter().flat_map(|carrier| carrier.seen()).collect();
    seen.sort();
    let mut all: Vec<_> =
        seeds.iter().flat_map(|seed| (1..=parts).map(|part| (recipient(*seed), part))).collect();
    all.sort();
    assert_eq!(seen, all);
}

async fn until_outcome(world: &World, item: &WorkDelivery, end: End) {
    eventually(BOUND, "the end", || async { world.log.fold(&item.item.facts).outcome() == Some(end) }).await;
}

#[tokio::test]
async fn a_long_message_goes_out_once_and_its_receipts_find_it() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    let item = item(1, 3, "a");
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    assert_once(&[&carrier], &[1], 3);
    let names = world.log.names(id(1));
    assert_eq!(names, ["submitting", "submitted", "submitted", "submitted"]);
    // Delivered once more by the broker: nothing happens.
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    assert_eq!((carrier.seen().len(), world.log.names(id(1)).len()), (3, 4));
    for number in 0..3 {
        assert!(carrier.receipt(&format!("c{number}"), "DELIVRD").await);
    }
    until_outcome(&world, &item, End::Delivered).await;
}

#[tokio::test]
async fn one_attempt_that_waits_at_two_accounts_is_submitted_by_one() {
    let world = World::start().await;
    let (one, two) = (TestCarrier::start(|_| Reply::Ok).await, TestCarrier::start(|_| Reply::Ok).await);
    let (a, b) = (Process::start(&world, "a", &one).await, Process::start(&world, "b", &two).await);
    let seeds: Vec<u8> = (1..=12).collect();
    let at = |name: &str| seeds.iter().map(|seed| item(*seed, 2, name)).collect::<Vec<_>>();
    let (at_a, at_b) = (at("a"), at("b"));
    let (by_a, by_b) = tokio::join!(a.handle(&at_a), b.handle(&at_b));
    assert_once(&[&one, &two], &seeds, 2);
    for (by_a, by_b) in by_a.iter().zip(&by_b) {
        assert!((*by_a == Outcome::Done) != (*by_b == Outcome::Done), "{by_a:?} {by_b:?}");
    }
    // The copies that lost go.
    for (item_a, item_b) in at_a.iter().zip(&at_b) {
        a.until_done(item_a).await;
        b.until_done(item_b).await;
    }
    assert_once(&[&one, &two], &seeds, 2);
    assert!(world.log.given_back().is_empty());
}

#[tokio::test]
async fn two_processes_of_one_account_share_the_work() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let processes =
        [Process::start(&world, "a", &carrier).await, Process::start(&world, "a", &carrier).await];
    let items: Vec<_> = (1..=20).map(|seed| item(seed, 1, "a")).collect();
    join_all(processes.iter().map(|process| process.handle(&items))).await;
    let all: Vec<u8> = (1..=20).collect();
    assert_once(&[&carrier], &all, 1);
}

/// Whichever call fails, and whether it stored what it was given or not: nothing is lost or sent twice.
#[tokio::test]
async fn the_log_may_fail_at_every_call() {
    for (script, calls) in [(Reply::Ok, 2), (Reply::Refuse(0x45), 3)] {
        for (call, stored) in (0..calls).flat_map(|call| [(call, false), (call, true)]) {
            let (world, carrier) = (World::start().await, TestCarrier::start(move |_| script).await);
            let process = Process::start(&world, "a", &carrier).await;
            let at = world.log.calls() + call;
            world.log.fail(at, stored);
            let item = item(1, 2, "a");
            let first = process.handle(std::slice::from_ref(&item)).await;
            assert!(matches!(first.as_slice(), [Outcome::Retry { .. }]), "call {call} of {script:?}");
            process.until_done(&item).await;
            let delivery = world.log.fold(&item.item.facts);
            if script == Reply::Ok {
                assert_once(&[&carrier], &[1], 2);
                assert_eq!(delivery.parts(), [PartState::Submitted { attempt: 1 }; 2], "call {call}");
            } else {
                assert_eq!(delivery.parts(), [PartState::Pending; 2], "call {call}");
                let back = world.log.given_back();
                assert!(!back.is_empty() && back.iter().all(|back| back.item.attempt == 1));
            }
        }
    }
}

async fn lose(redis: &TestRedis) {
    redis.server.flush_all().await;
}

/// Redis is emptied before and after every word to the log; receipts come right behind.
#[tokio::test]
async fn redis_may_burn_between_all_steps() {
    for (call, before, rebuilt) in [(0, true), (0, false), (1, true), (1, false)]
        .into_iter()
        .flat_map(|(call, before)| [(call, before, false), (call, before, true)])
    {
        let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
        let process = Process::start(&world, "a", &carrier).await;
        let (redis, rebuilder) = (Arc::clone(&world.redis), Arc::clone(&process.rebuilder));
        let hook = move || {
            async move {
                lose(&redis).await;
                if rebuilt {
                    // From the log as it is at this moment.
                    eventually(BOUND, "the rebuild", || async {
                        rebuilder.ensure().await.is_ok_and(|all| all)
                    })
                    .await;
                }
            }
            .boxed()
        };
        let at = world.log.calls() + call;
        if before {
            world.log.before(at, hook)
        } else {
            world.log.after(at, hook)
        }
        let item = item(1, 2, "a");
        process.until_done(&item).await;
        let step = format!("call {call}, before {before}, rebuilt {rebuilt}");
        assert_once(&[&carrier], &[1], 2);
        assert_eq!(
            world.log.fold(&item.item.facts).parts(),
            [PartState::Submitted { attempt: 1 }; 2],
            "{step}"
        );
        for number in 0..2 {
            let receipt = || carrier.receipt(["c0", "c1"][number], "DELIVRD");
            eventually(BOUND, "the receipt to be taken", receipt).await;
        }
        until_outcome(&world, &item, End::Delivered).await;
    }
}

/// The tie of a carrier's id is recorded, Redis is lost and rebuilt from a log that does not have it yet, and the
/// receipt comes before the log has.
#[tokio::test]
async fn a_receipt_in_the_gap_of_a_rebuild_finds_its_message() {
    let world = World::start().await;
    let carrier = Arc::new(TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    let (redis, rebuilder, peer) =
        (Arc::clone(&world.redis), Arc::clone(&process.rebuilder), Arc::clone(&carrier));
    // Before the submitted event is stored.
    world.log.before(world.log.calls() + 1, move || {
        async move {
            lose(&redis).await;
            eventually(BOUND, "the rebuild", || async { rebuilder.ensure().await.is_ok_and(|all| all) })
                .await;
            assert!(peer.receipt("c0", "DELIVRD").await);
        }
        .boxed()
    });
    let item = item(1, 1, "a");
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    until_outcome(&world, &item, End::Delivered).await;
    assert!(
        world.log.events().iter().any(|event| matches!(event, LogEvent::ParkedReceipt { .. })),
        "it was early"
    );
}

/// A receipt is parked, and Redis is lost and rebuilt before the log has it.
#[tokio::test]
async fn a_parked_receipt_survives_the_loss_of_redis_before_the_log_has_it() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    let (redis, rebuilder) = (Arc::clone(&world.redis), Arc::clone(&process.rebuilder));
    world.log.before(world.log.calls(), move || {
        async move {
            lose(&redis).await;
            eventually(BOUND, "the rebuild", || async { rebuilder.ensure().await.is_ok_and(|all| all) })
                .await;
        }
        .boxed()
    });
    assert!(carrier.receipt("c0", "DELIVRD").await);
    let item = item(1, 1, "a");
    process.until_done(&item).await;
    until_outcome(&world, &item, End::Delivered).await;
}

#[tokio::test]
async fn a_cut_between_parts_loses_none_and_doubles_none() {
    for cut_at in 0..4 {
        let (world, carrier) = (
            World::start().await,
            TestCarrier::start(move |number| if number == cut_at { Reply::Cut } else { Reply::Ok }).await,
        );
        let process = Process::start(&world, "a", &carrier).await;
        let item = item(1, 4, "a");
        process.until_done(&item).await;
        let delivery = world.log.fold(&item.item.facts);
        let back = world.log.given_back();
        let returned: BTreeSet<u8> = back.iter().flat_map(|back| back.item.wanted_parts()).collect();
        for (number, state) in (1_u8..).zip(delivery.parts()) {
            let seen = carrier.counts().get(&(recipient(1), number)).copied().unwrap_or(0);
            assert!(seen <= 1);
            assert_eq!(*state == PartState::Pending, returned.contains(&number), "part {number} {state:?}");
            assert!(seen == 0 || *state != PartState::Pending, "part {number} is with the carrier");
        }
        assert!(back.iter().all(|back| back.item.pinned), "the rest stays with this account");
        assert_eq!(delivery.parts()[cut_at], PartState::NoResponse { attempt: 1 });
    }
}

#[tokio::test]
async fn a_late_answer_lifts_the_doubt() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Hold).await);
    let process = Process::start(&world, "a", &carrier).await;
    let item = item(1, 1, "a");
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    assert_eq!(world.log.fold(&item.item.facts).stage(), Stage::InDoubt);
    carrier.answer_held();
    eventually(BOUND, "the late answer", || async {
        world.log.fold(&item.item.facts).stage() == Stage::Submitted
    })
    .await;
    assert!(carrier.receipt("c0", "UNDELIV").await);
    until_outcome(&world, &item, End::Undelivered).await;
    assert!(world.log.given_back().is_empty(), "doubt is never sent again");
}

#[tokio::test]
async fn a_receipt_before_the_answer_finds_its_message() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::ReceiptFirst).await);
    let process = Process::start(&world, "a", &carrier).await;
    let item = item(1, 2, "a");
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    until_outcome(&world, &item, End::Delivered).await;
    let receipts = world.log.names(id(1)).iter().filter(|name| **name == "receipt").count();
    assert_eq!(receipts, 2, "each told once");
}

#[tokio::test]
async fn what_privacy_refuses_is_not_sent() {
    for (answer, parts, back) in
        [(Unwrapped::Destroyed, false, 0), (Unwrapped::Invalid, false, 0), (Unwrapped::NotAllowed, true, 1)]
    {
        let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
        let process = Process::start(&world, "a", &carrier).await;
        *world.keys.answer.lock().unwrap() = Some(answer);
        let item = item(1, 1, "a");
        assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
        assert!(carrier.seen().is_empty());
        let delivery = world.log.fold(&item.item.facts);
        assert_eq!(delivery.outcome().is_none(), parts);
        let given = world.log.given_back();
        assert_eq!(given.len(), back);
        assert!(given.iter().all(|given| given.item.history.last().unwrap().end == AttemptEnd::NotAllowed));
        // The other copy of a repeated delivery.
        assert_eq!(process.handle(&[item]).await, [Outcome::Done]);
        assert_eq!(world.log.given_back().len(), back);
    }
}

#[tokio::test]
async fn an_expired_message_ends_although_an_intent_was_recorded() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    let items = [item(1, 2, "a"), item(2, 2, "a")];
    // Of the first, a process recorded its intent and did not come past the fence.
    let account: AccountId = "a".parse().unwrap();
    world.log.write(EventKind::Submitting { attempt: 1, account, parts: vec![1, 2] }, id(1));
    world.clock.set(items[0].item.facts.expires_at);
    assert_eq!(process.handle(&items).await, [Outcome::Done, Outcome::Done]);
    for item in &items {
        assert_eq!(world.log.fold(&item.item.facts).outcome(), Some(End::Expired));
    }
    assert!(carrier.seen().is_empty() && world.log.given_back().is_empty());
}

#[tokio::test]
async fn content_that_does_not_open_is_rejected() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    let mut item = item(1, 1, "a");
    item.item.facts.tenant = "other".parse().unwrap();
    assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
    let rejected = EventKind::Rejected { cause: RejectCause::Unopenable };
    assert_eq!(world.log.of(id(1)).last().unwrap().kind, rejected);
    assert_eq!(world.log.fold(&item.item.facts).outcome(), Some(End::Rejected));
    assert!(carrier.seen().is_empty());
}

#[tokio::test]
async fn a_carriers_own_failure_sends_the_message_back_for_another_try() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Refuse(0x08)).await);
    let process = Process::start(&world, "a", &carrier).await;
    assert_eq!(process.handle(&[item(1, 1, "a")]).await, [Outcome::Done]);
    let back = world.log.given_back().remove(0).item;
    let attempt =
        Attempt { number: 1, account: "a".parse().unwrap(), end: AttemptEnd::Throttled, status: 0x08 };
    assert_eq!(back.history, [attempt]);
    assert!(back.not_before.is_some());
    // The account itself is not slowed down.
    assert!(process.account.ready(false).now_or_never().is_some());
}

#[tokio::test]
async fn without_a_bind_messages_go_back_and_with_one_they_flow() {
    let world = World::start().await;
    let carrier = TestCarrier::start(|_| Reply::Ok).await;
    let process = Process::start(&world, "a", &carrier).await;
    // Refuses all further connections.
    let port = carrier.port;
    drop(carrier);
    eventually(BOUND, "the hand-back", || async {
        process.handle(&[item(1, 2, "a")]).await == [Outcome::Done] && !world.log.given_back().is_empty()
    })
    .await;
    let back = world.log.given_back().remove(0).item;
    let end = back.history.last().unwrap().end;
    assert!((end, back.pinned) == (AttemptEnd::LinkDown, false) || back.pinned, "{end:?} at port {port}");
    assert!(process.folder.path().exists());
}

#[tokio::test]
async fn nothing_is_taken_while_redis_is_away() {
    let world = World::start().await;
    let carrier = TestCarrier::start(|_| Reply::Ok).await;
    let proxy = ChaosProxy::start(world.redis.server.address()).await;
    let store = Store::new(world.redis.connect(Some(proxy.address().port())), shards());
    let process = Process::over(&world, "a", carrier.port, store);
    process.until_ready().await;
    proxy.cut();
    let item = item(1, 1, "a");
    // Whoever notices first; from then on nothing is asked for.
    assert!(matches!(process.handle(std::slice::from_ref(&item)).await.as_slice(), [Outcome::Retry { .. }]));
    assert!(!process.account.shared.reliance.holds());
    assert!(process.account.ready(false).now_or_never().is_none());
    proxy.pass();
    process.until_ready().await;
    process.until_done(&item).await;
    assert_once(&[&carrier], &[1], 1);
}

#[tokio::test]
async fn nothing_is_taken_while_privacy_is_away() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    world.keys.away.store(true, std::sync::atomic::Ordering::SeqCst);
    let item = item(1, 1, "a");
    let outcomes = process.handle(std::slice::from_ref(&item)).await;
    assert!(
        matches!(outcomes.as_slice(), [Outcome::Retry { after }] if *after > Duration::ZERO && *after <= Duration::from_secs(1))
    );
    assert!(process.account.ready(false).now_or_never().is_none());
    world.keys.away.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(timeout(BOUND, process.account.ready(false)).await.unwrap(), 1, "one to try with");
    assert_eq!(process.handle(&[item]).await, [Outcome::Done]);
    assert!(process.account.ready(false).now_or_never().unwrap() > 1);
}

/// An answer comes while neither Redis nor the log takes anything, as on a full disk: it is kept until one of them does.
#[tokio::test]
async fn an_answer_that_nobody_takes_is_not_forgotten() {
    for (reply, log_first) in
        [Reply::Ok, Reply::Refuse(0x45)].into_iter().flat_map(|r| [(r, false), (r, true)])
    {
        let world = World::start().await;
        let proxy = Arc::new(ChaosProxy::start(world.redis.server.address()).await);
        let path = Arc::clone(&proxy);
        let carrier = TestCarrier::start(move |_| {
            path.cut();
            reply
        })
        .await;
        let store = Store::new(world.redis.connect(Some(proxy.address().port())), shards());
        let process = Process::over(&world, "a", carrier.port, store);
        process.until_ready().await;
        // The intent is stored, and what follows is not, three times.
        let intent = world.log.calls();
        (1..=3).for_each(|call| world.log.fail(intent + call, false));
        let path = Arc::clone(&proxy);
        let back = move || async move { path.pass() }.boxed();
        if log_first {
            world.log.after(intent + 4, back);
        } else {
            world.log.before(intent + 3, back);
        }
        let item = item(1, 1, "a");
        assert_eq!(process.handle(std::slice::from_ref(&item)).await, [Outcome::Done]);
        let (state, back) = (world.log.fold(&item.item.facts).parts()[0], world.log.given_back().len());
        if reply == Reply::Ok {
            assert_once(&[&carrier], &[1], 1);
            assert_eq!((state, back), (PartState::Submitted { attempt: 1 }, 0), "the log first: {log_first}");
            assert!(carrier.receipt("c0", "DELIVRD").await);
            until_outcome(&world, &item, End::Delivered).await;
        } else {
            assert_eq!((state, back), (PartState::Pending, 1), "the log first: {log_first}");
        }
    }
}

/// What the carrier sent last is not stored because Redis is away: the next bind does not wait for it.
#[tokio::test]
async fn binding_again_does_not_wait_for_redis() {
    let world = World::start().await;
    let carrier = TestCarrier::start(|_| Reply::Hold).await;
    let proxy = ChaosProxy::start(world.redis.server.address()).await;
    let store = Store::new(world.redis.connect(Some(proxy.address().port())), shards());
    let process = Process::over(&world, "a", carrier.port, store);
    process.until_ready().await;
    let items: Vec<_> = (1..=5).map(|seed| item(seed, 1, "a")).collect();
    assert_eq!(process.handle(&items).await, vec![Outcome::Done; 5]);
    // Five late answers that Redis does not take, each of which is tried for many seconds.
    proxy.stall();
    carrier.answer_held();
    eventually(BOUND, "the first late answer to be under way", || async {
        world.log.names(id(1)).contains(&"submitted")
    })
    .await;
    carrier.cut();
    eventually(Duration::from_secs(15), "the next bind", || async { carrier.links() == 1 }).await;
}

#[tokio::test]
async fn stopping_takes_nothing_more() {
    let (world, carrier) = (World::start().await, TestCarrier::start(|_| Reply::Ok).await);
    let process = Process::start(&world, "a", &carrier).await;
    let stop: &Stop = &world.stop;
    stop.request();
    assert!(matches!(process.handle(&[item(1, 1, "a")]).await.as_slice(), [Outcome::Retry { .. }]));
    assert!(carrier.seen().is_empty());
}

/// Everything at once: each item at two accounts and at two processes of one of them, Redis emptied again and again,
/// the log failing in between. No part twice, none lost, and everybody's copies end.
#[tokio::test]
async fn whatever_happens_no_part_is_sent_twice() {
    let world = World::start().await;
    let (one, two) = (TestCarrier::start(|_| Reply::Ok).await, TestCarrier::start(|_| Reply::Ok).await);
    let process = |name, port, millis| {
        let clock = Arc::new(ManualClock::new(NOW.plus(Duration::from_millis(millis))));
        Process::at(&world, name, port, world.redis.store(), clock)
    };
    let processes = [process("a", one.port, 1), process("a", one.port, 2), process("b", two.port, 3)];
    for process in &processes {
        process.until_ready().await;
    }
    for call in (0..60).step_by(7) {
        let redis = Arc::clone(&world.redis);
        let flush = move || async move { lose(&redis).await }.boxed();
        if call % 2 == 0 { world.log.before(call, flush) } else { world.log.after(call, flush) }
    }
    for call in (4..60).step_by(9) {
        world.log.fail(call, call % 2 == 0);
    }
    let seeds: Vec<u8> = (1..=24).collect();
    let deliveries = processes.iter().enumerate().map(async |(number, process)| {
        let name = if number == 2 { "b" } else { "a" };
        // Small batches, in another order each, again and again until they are done.
        let mut left: Vec<_> = seeds.iter().map(|seed| item(*seed, 2, name)).collect();
        left.rotate_left(number * 5);
        while !left.is_empty() {
            let mut again = Vec::new();
            for batch in left.chunks(4) {
                let outcomes = process.handle(batch).await;
                let undone = batch.iter().zip(outcomes).filter(|(_, outcome)| *outcome != Outcome::Done);
                again.extend(undone.map(|(item, _)| item.clone()));
            }
            left = again;
            process.until_ready().await;
        }
    });
    timeout(3 * BOUND, join_all(deliveries)).await.unwrap();
    let (mut counts, others) = (one.counts(), two.counts());
    assert!(others.keys().all(|part| !counts.contains_key(part)), "one account an attempt");
    counts.extend(others);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    assert!(counts.len() > seeds.len(), "most of them go out");
    for seed in seeds {
        let delivery = world.log.fold(&item(seed, 2, "a").item.facts);
        for (part, state) in (1..).zip(delivery.parts()) {
            // An intent that is all that the log tells is doubt, told as such and never sent again.
            let sent = counts.contains_key(&(recipient(seed), part));
            let told = matches!(state, PartState::NoResponse { .. })
                || sent && matches!(state, PartState::Submitted { .. });
            assert!(told, "message {seed} part {part}: sent {sent}, {state:?}");
        }
    }
    assert!(world.log.given_back().is_empty());
}
