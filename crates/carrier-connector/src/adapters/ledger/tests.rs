//! The ledger over a real Redis with the rights of a cell.

use futures::future::join_all;
use sotto_core::{MessageId, Timestamp, delivery::ReceiptState, work::AttemptEnd};
use sotto_testkit::{ChaosProxy, eventually_ok};

use super::*;
use crate::{
    domain::{
        carrier_id::CarrierId,
        claim::{Claim, ClaimState, PartEnd, Standing, judge},
        receipt::{Said, Submitted},
    },
    testing::{BOUND, NOW, TestRedis, id, shards},
};

const LEASE: Duration = Duration::from_secs(10);
const KEEP: Duration = Duration::from_secs(60);

fn account(name: &str) -> AccountId {
    name.parse().unwrap()
}

fn ledger(store: &Store, name: &str) -> Ledger {
    Ledger::new(store.clone(), account(name), KEEP)
}

fn all_scopes() -> Vec<Scope> {
    let accounts = ["a", "b"].map(|name| Scope::Account(account(name)));
    shards().iter().map(Scope::Shard).chain(accounts).collect()
}

/// Declares everything rebuilt.
async fn make_ready(store: &Store) {
    for scope in all_scopes() {
        let word = sotto_crypto::random::random_array::<8>().unwrap();
        let rebuild = format!("{:016x}", u64::from_be_bytes(word));
        assert!(store.lock(&scope, &rebuild, LEASE).await.unwrap());
        assert!(store.complete(&scope, &rebuild).await.unwrap());
        assert!(store.is_ready(&scope).await.unwrap());
    }
}

async fn ready() -> (TestRedis, Store) {
    let redis = TestRedis::start().await;
    let store = redis.store();
    make_ready(&store).await;
    (redis, store)
}

fn parts(message: MessageId, count: u8) -> Parts {
    Parts { message, attempt: 1, parts: (1..=count).collect(), keep: KEEP }
}

fn ask(message: MessageId, count: u8) -> Ask {
    Ask { parts: parts(message, count), enter: ClaimState::Claimed }
}

fn part(message: MessageId, part: u8) -> Submitted {
    Submitted { message, attempt: 1, part }
}

fn token(name: &str, word: u8) -> String {
    Claim::token(&account(name), [word; 8])
}

async fn claim(ledger: &Ledger, token: &str, asks: &[Ask]) -> Vec<Answer> {
    let claiming = ledger.claim(token, LEASE, asks).await;
    assert!(!claiming.not_ready && claiming.failed.is_none(), "{claiming:?}");
    claiming.items.into_iter().map(Option::unwrap).collect()
}

async fn won(ledger: &Ledger, token: &str, message: MessageId) -> String {
    let answer = claim(ledger, token, &[ask(message, 1)]).await.remove(0);
    assert_eq!(answer.claimed, Claimed::Won, "{answer:?}");
    answer.mark
}

async fn fence(ledger: &Ledger, token: &str, message: MessageId, mark: Option<&str>) -> Fence {
    let intent = Intent { parts: parts(message, 1), mark: mark.map(str::to_owned), until: *NOW };
    let fenced = ledger.intend(token, LEASE, &[intent]).await;
    assert!(fenced.failed.is_none(), "{fenced:?}");
    fenced.items[0]
}

async fn standing(ledger: &Ledger, name: &str, message: MessageId) -> Standing {
    let answer = claim(ledger, &token(name, 99), &[ask(message, 1)]).await.remove(0);
    assert_eq!(answer.claimed, Claimed::Lost, "{answer:?}");
    judge(&answer.before, &account(name), answer.now.plus(2 * LEASE))
}

fn submitted(message: MessageId, number: u8, carrier_id: &str) -> Ended {
    let end = PartEnd::Submitted { carrier_id: carrier_id.to_owned() };
    Ended { part: part(message, number), end, keep: KEEP }
}

fn said(state: ReceiptState) -> Said {
    Said { state, error: "000".to_owned() }
}

fn carrier(id: &str) -> CarrierId {
    CarrierId::canonical(id).unwrap()
}

/// `claim.lua` and [`judge`] say the same of what is free: the model of the connector relies on it.
#[tokio::test]
async fn the_script_grants_what_is_judged_free() {
    let (redis, store) = ready().await;
    let (ledger, mut connection) = (ledger(&store, "a"), redis.connect(None).connection());
    let ended = [
        PartEnd::Submitted { carrier_id: "1".to_owned() },
        PartEnd::Refused { status: 8 },
        PartEnd::NoResponse,
        PartEnd::Unsent { end: AttemptEnd::LinkDown },
    ];
    let done = ended.clone().map(ClaimState::Done);
    let states = [ClaimState::Claimed, ClaimState::Intent].into_iter().chain(ended.map(ClaimState::Ended));
    let states: Vec<_> = states.chain(done).collect();
    let of = |name: &str, until: Timestamp| {
        let of = states.iter().map(move |state| Claim { token: token(name, 1), until, state: state.clone() });
        of.map(Some).collect::<Vec<_>>()
    };
    let (past, ahead) = (NOW.minus(KEEP), NOW.plus(KEEP));
    let claims: Vec<_> = [vec![None], of("a", past), of("b", past), of("a", ahead)].concat();
    for (first, second) in claims.iter().flat_map(|first| claims.iter().map(move |second| (first, second))) {
        let message = MessageId::from_keyed_hash(sotto_crypto::random::random_array().unwrap());
        for (key, claim) in store.claim_keys(&parts(message, 2)).iter().zip([first, second]) {
            if let Some(claim) = claim {
                set(key, &claim.to_string(), &[]).query_async::<()>(&mut connection).await.unwrap();
            }
        }
        let answer = claim(&ledger, &token("a", 2), &[ask(message, 2)]).await.remove(0);
        let free = judge(&answer.before, &account("a"), answer.now) == Standing::Free;
        assert_eq!(answer.claimed == Claimed::Won, free, "{first:?} {second:?}");
    }
}

#[tokio::test]
async fn two_accounts_never_both_hold_an_attempt() {
    let (redis, _) = ready().await;
    // Each as a process of its own, with its own connection.
    let ledgers: Vec<_> = ["a", "b", "a", "b"].map(|name| (name, ledger(&redis.store(), name))).into();
    let asks: Vec<_> = (0..100).map(|seed| ask(id(seed), 1 + seed % 3)).collect();
    let claims = (0_u8..).zip(&ledgers).map(async |(word, (name, ledger))| {
        // In another order each.
        let mut asks = asks.clone();
        asks.rotate_left(usize::from(word) * 7);
        let answers = claim(ledger, &token(name, word), &asks).await;
        let won = asks.iter().zip(answers).filter(|(_, answer)| answer.claimed == Claimed::Won);
        won.map(|(ask, _)| ask.parts.message).collect::<Vec<_>>()
    });
    let mut winners: Vec<_> = join_all(claims).await.concat();
    winners.sort_unstable();
    let mut all: Vec<_> = asks.iter().map(|ask| ask.parts.message).collect();
    all.sort_unstable();
    assert_eq!(winners, all, "each by one and by one only");
}

#[tokio::test]
async fn an_item_is_claimed_with_all_its_parts_or_not_at_all() {
    let (_redis, store) = ready().await;
    let (a, b) = (ledger(&store, "a"), ledger(&store, "b"));
    let second = Parts { parts: vec![2], ..parts(id(1), 1) };
    let second = Ask { parts: second, enter: ClaimState::Claimed };
    assert_eq!(claim(&a, &token("a", 1), &[second]).await[0].claimed, Claimed::Won);
    let answer = claim(&b, &token("b", 1), &[ask(id(1), 3)]).await.remove(0);
    assert_eq!(answer.claimed, Claimed::Lost);
    let held: Vec<_> = answer.before.iter().map(|(part, claim)| (*part, claim.is_some())).collect();
    assert_eq!(held, [(1, false), (2, true), (3, false)]);
    let again = claim(&a, &token("a", 2), &[ask(id(1), 1)]).await.remove(0);
    assert_eq!(again.claimed, Claimed::Won, "part 1 stayed free");
}

#[tokio::test]
async fn a_lapsed_claim_is_taken_over_and_its_owner_finds_the_fence_closed() {
    let (_redis, store) = ready().await;
    let (a, b) = (ledger(&store, "a"), ledger(&store, "b"));
    let (old, new) = (token("a", 1), token("b", 2));
    let claiming = a.claim(&old, Duration::from_millis(1), &[ask(id(1), 1)]).await;
    let mark = claiming.items[0].clone().unwrap().mark;
    let taken = eventually_ok(BOUND, "the lease to end", || async {
        let answer = claim(&b, &new, &[ask(id(1), 1)]).await.remove(0);
        if answer.claimed == Claimed::Won { Ok(answer) } else { Err("held") }
    })
    .await;
    assert_eq!(fence(&a, &old, id(1), Some(&mark)).await, Fence::Taken);
    assert_eq!(fence(&b, &new, id(1), Some(&taken.mark)).await, Fence::Passed);
    // What may have been written is never free again, however long ago.
    let items = a.intend(&token("a", 9), Duration::from_millis(1), &[]).await.items;
    assert!(items.is_empty());
    assert_eq!(
        judge(
            &claim(&b, &token("b", 3), &[ask(id(1), 1)]).await[0].before,
            &account("b"),
            Timestamp::from_unix_millis(i64::MAX)
        ),
        Standing::Abandoned(vec![(1, PartEnd::NoResponse)])
    );
}

#[tokio::test]
async fn another_accounts_attempt_is_left_to_it() {
    let (_redis, store) = ready().await;
    let (a, b) = (ledger(&store, "a"), ledger(&store, "b"));
    let ours = token("a", 1);
    let mark = won(&a, &ours, id(1)).await;
    assert_eq!(fence(&a, &ours, id(1), Some(&mark)).await, Fence::Passed);
    let answer = claim(&b, &token("b", 9), &[ask(id(1), 1)]).await.remove(0);
    let held = judge(&answer.before, &account("b"), answer.now);
    assert!(matches!(held, Standing::Held { .. }), "as long as it is at work: {held:?}");
    assert_eq!(standing(&b, "b", id(1)).await, Standing::Finished, "its time is over, and it is a's");
    assert_eq!(standing(&a, "a", id(1)).await, Standing::Abandoned(vec![(1, PartEnd::NoResponse)]));
    let ends = [submitted(id(1), 1, "7")];
    let recorded = a.record(&ours, LEASE, &ends).await.unwrap();
    assert_eq!(standing(&b, "b", id(1)).await, Standing::Finished);
    assert_ne!(standing(&a, "a", id(1)).await, Standing::Finished, "what follows is still to be stored");
    assert!(a.done(&recorded, &ends).await.unwrap());
    assert_eq!(standing(&a, "a", id(1)).await, Standing::Finished);
    a.finish(&ours, &ends).await.unwrap();
    assert_eq!(standing(&b, "b", id(1)).await, Standing::Finished);
}

#[tokio::test]
async fn the_fence_is_closed_by_every_loss_of_redis() {
    let (mut redis, store) = ready().await;
    let a = ledger(&store, "a");
    let ours = token("a", 1);
    let mark = won(&a, &ours, id(1)).await;
    redis.server.flush_all().await;
    assert_eq!(fence(&a, &ours, id(1), Some(&mark)).await, Fence::NotReady);
    assert!(a.claim(&ours, LEASE, &[ask(id(2), 1)]).await.not_ready);
    assert_eq!(a.receipts(&[(carrier("7"), said(ReceiptState::Delivered))]).await.unwrap(), None);

    make_ready(&store).await;
    assert_eq!(
        fence(&a, &ours, id(1), Some(&mark)).await,
        Fence::NotReady,
        "another Redis than at the claim"
    );
    assert_eq!(fence(&a, &ours, id(1), None).await, Fence::Passed, "nobody else has it");

    // A restart keeps the data and not the trust in it.
    let mark = won(&a, &ours, id(2)).await;
    redis.server.restart().await;
    let fenced = eventually_ok(BOUND, "Redis to be back", || async {
        let intent = Intent { parts: parts(id(2), 1), mark: Some(mark.clone()), until: *NOW };
        let fenced = a.intend(&ours, LEASE, &[intent]).await;
        fenced.failed.map_or(Ok(fenced.items[0]), Err)
    })
    .await;
    assert_eq!(fenced, Fence::NotReady);
}

#[tokio::test]
async fn after_a_rebuild_only_ones_own_intent_passes() {
    let (redis, store) = ready().await;
    let (a, b) = (ledger(&store, "a"), ledger(&store, "b"));
    for seed in 1..=4 {
        won(&a, &token("a", seed), id(seed)).await;
    }
    redis.server.flush_all().await;
    let intent = |name: &str, until| Claim {
        token: Claim::restored_by(&account(name)),
        until,
        state: ClaimState::Intent,
    };
    // The log tells of a's intent for the first, of b's for the second, and of that of another process of a's for the
    // fourth; b claims the third as soon as it may.
    let later = NOW.plus(Duration::from_millis(1));
    for (seed, name, until) in [(1, "a", *NOW), (2, "b", *NOW), (4, "a", later)] {
        store.restore_claims(KEEP, &[(part(id(seed), 1), intent(name, until))]).await.unwrap();
    }
    make_ready(&store).await;
    won(&b, &token("b", 9), id(3)).await;
    let fences = [1, 2, 3, 4].map(|seed| {
        let a = &a;
        async move { fence(a, &token("a", seed), id(seed), None).await }
    });
    assert_eq!(join_all(fences).await, [Fence::Passed, Fence::Taken, Fence::Taken, Fence::Taken]);
}

#[tokio::test]
async fn a_lost_answer_at_the_fence_is_asked_for_again() {
    let (redis, store) = ready().await;
    let proxy = ChaosProxy::start(redis.server.address()).await;
    let a =
        Ledger::new(Store::new(redis.connect(Some(proxy.address().port())), shards()), account("a"), KEEP);
    let ours = token("a", 1);
    let mark = won(&a, &ours, id(1)).await;
    // The question arrives by another way; its answer never does.
    assert_eq!(fence(&ledger(&store, "a"), &ours, id(1), Some(&mark)).await, Fence::Passed);
    proxy.stall();
    let intent = Intent { parts: parts(id(1), 1), mark: Some(mark.clone()), until: *NOW };
    let fenced = a.intend(&ours, LEASE, std::slice::from_ref(&intent)).await;
    assert_eq!((fenced.items[0], fenced.failed.is_some()), (Fence::Unknown, true));
    proxy.pass();
    let again = eventually_ok(BOUND, "Redis to answer", || async {
        let fenced = a.intend(&ours, LEASE, std::slice::from_ref(&intent)).await;
        fenced.failed.map_or(Ok(fenced.items[0]), Err)
    })
    .await;
    assert_eq!(again, Fence::Passed);
    assert_eq!(fence(&a, &token("a", 2), id(1), Some(&mark)).await, Fence::Taken, "by nobody else");
}

#[tokio::test]
async fn one_shard_away_leaves_the_others_alone() {
    let (_redis, store) = ready().await;
    let a = ledger(&store, "a");
    let lost = shards().of(&id(1));
    store.distrust(&Scope::Shard(lost)).await.unwrap();
    let asks: Vec<_> = (0..20).map(|seed| ask(id(seed), 2)).collect();
    let claiming = a.claim(&token("a", 1), LEASE, &asks).await;
    assert!(claiming.not_ready);
    for (ask, answer) in asks.iter().zip(claiming.items) {
        assert_eq!(
            answer.is_some_and(|answer| answer.claimed == Claimed::Won),
            shards().of(&ask.parts.message) != lost
        );
    }
}

#[tokio::test]
async fn only_what_was_not_intended_is_released() {
    let (_redis, store) = ready().await;
    let (a, b) = (ledger(&store, "a"), ledger(&store, "b"));
    let (ours, theirs) = (token("a", 1), token("b", 1));
    for seed in [1, 2] {
        won(&a, &ours, id(seed)).await;
    }
    won(&b, &theirs, id(3)).await;
    let mark = claim(&a, &token("a", 5), &[ask(id(2), 1)]).await.remove(0).mark;
    assert_eq!(fence(&a, &ours, id(2), Some(&mark)).await, Fence::Passed);
    a.release(&ours, &[parts(id(1), 1), parts(id(2), 1), parts(id(3), 1)]).await.unwrap();
    let asks = [ask(id(1), 1), ask(id(2), 1), ask(id(3), 1)];
    let won: Vec<_> =
        claim(&b, &token("b", 2), &asks).await.iter().map(|answer| answer.claimed == Claimed::Won).collect();
    assert_eq!(won, [true, false, false]);
}

/// What ingress does to cancel.
async fn cancel(redis: &TestRedis, message: MessageId) {
    let key = sotto_core::cancel::mark_key(shards().of(&message), &message);
    let word = sotto_core::cancel::CANCELLED;
    assert_eq!(redis.server.command(&format!("SET {key} {word}")).await, "+OK");
}

async fn mark_of(redis: &TestRedis, message: MessageId) -> String {
    let key = sotto_core::cancel::mark_key(shards().of(&message), &message);
    let read = "return {ok = redis.call('GET', KEYS[1]) or 'none'}";
    redis.server.command(&format!("EVAL \"{read}\" 1 {key}")).await
}

#[tokio::test]
async fn a_cancelled_message_is_claimed_by_nobody_and_passes_no_fence() {
    let (redis, store) = ready().await;
    let (a, b) = (ledger(&store, "a"), ledger(&store, "b"));
    cancel(&redis, id(1)).await;
    for state in [ClaimState::Claimed, ClaimState::Ended(PartEnd::Unsent { end: AttemptEnd::LinkDown })] {
        let ask = Ask { enter: state, ..ask(id(1), 2) };
        assert_eq!(claim(&a, &token("a", 1), &[ask]).await[0].claimed, Claimed::Cancelled);
    }
    // Cancelled between claim and fence, with another one beside it that is not.
    let ours = token("a", 2);
    let marks = [won(&a, &ours, id(2)).await, won(&a, &ours, id(3)).await];
    cancel(&redis, id(2)).await;
    assert_eq!(fence(&a, &ours, id(2), Some(&marks[0])).await, Fence::Cancelled);
    assert_eq!(
        fence(&a, &ours, id(2), Some(&marks[0])).await,
        Fence::Cancelled,
        "also when it is asked again"
    );
    assert_eq!(fence(&b, &token("b", 1), id(2), Some(&marks[0])).await, Fence::Taken);
    assert_eq!(fence(&a, &ours, id(3), Some(&marks[1])).await, Fence::Passed);
    assert_eq!(mark_of(&redis, id(3)).await, "+1", "the attempt");
    // What was in somebody's hands is judged as ever: it may have been written.
    cancel(&redis, id(3)).await;
    assert_eq!(claim(&b, &token("b", 2), &[ask(id(3), 1)]).await[0].claimed, Claimed::Lost);
}

#[tokio::test]
async fn only_the_attempt_that_set_a_mark_takes_it_off() {
    let (redis, store) = ready().await;
    let a = ledger(&store, "a");
    let ours = token("a", 1);
    let mark = won(&a, &ours, id(1)).await;
    assert_eq!(fence(&a, &ours, id(1), Some(&mark)).await, Fence::Passed);
    a.unmark(&id(1), 2).await.unwrap();
    assert_eq!(mark_of(&redis, id(1)).await, "+1");
    a.unmark(&id(1), 1).await.unwrap();
    assert_eq!(mark_of(&redis, id(1)).await, "+none");
    cancel(&redis, id(1)).await;
    a.unmark(&id(1), 1).await.unwrap();
    assert_eq!(mark_of(&redis, id(1)).await, "+x", "a cancellation stands");
}

#[tokio::test]
async fn marks_are_put_back_and_a_cancellation_wins() {
    let (redis, store) = ready().await;
    let handed = |attempt| Mark::Handed { attempt };
    let cancelled = Mark::Cancelled { keep: KEEP };
    let told =
        [(id(1), handed(1)), (id(1), cancelled), (id(2), cancelled), (id(2), handed(1)), (id(3), handed(2))];
    store.restore_marks(&told).await.unwrap();
    let found = [mark_of(&redis, id(1)).await, mark_of(&redis, id(2)).await, mark_of(&redis, id(3)).await];
    assert_eq!(found, ["+x", "+x", "+2"]);
}

/// Whatever the order, a receipt and its id find one another: by the one or by the other, never by neither.
#[tokio::test]
async fn receipts_and_ids_always_meet() {
    let (redis, _) = ready().await;
    let (ties, receipts) = (ledger(&redis.store(), "a"), ledger(&redis.store(), "a"));
    let pairs: Vec<_> = (0_u8..100).map(|seed| (seed, carrier(&format!("id{seed}")))).collect();
    let meet = pairs.iter().map(async |(seed, id_of)| {
        let ends = [submitted(id(*seed), 1, id_of.as_str())];
        let asked = [(id_of.clone(), said(ReceiptState::Delivered))];
        let (token, ties, receipts) = (token("a", *seed), &ties, &receipts);
        let (early, found) = tokio::join!(ties.record(&token, LEASE, &ends), receipts.receipts(&asked));
        (early.unwrap().early.len(), !found.unwrap().unwrap()[0].is_empty())
    });
    for (seed, (early, found)) in join_all(meet).await.into_iter().enumerate() {
        assert_eq!(early + usize::from(found), 1, "receipt {seed}");
    }
}

#[tokio::test]
async fn a_repeated_early_receipt_is_one_and_their_number_is_bounded() {
    let (_redis, store) = ready().await;
    let a = ledger(&store, "a");
    let many: Vec<_> = (0..40)
        .map(|error| (carrier("7"), Said { state: ReceiptState::Enroute, error: format!("{error}") }))
        .collect();
    let twice =
        [(carrier("8"), said(ReceiptState::Delivered)), (carrier("8"), said(ReceiptState::Delivered))];
    for asked in [many.as_slice(), twice.as_slice()] {
        assert!(a.receipts(asked).await.unwrap().unwrap().iter().all(Vec::is_empty));
    }
    let ends = [submitted(id(1), 1, "7"), submitted(id(1), 2, "8")];
    let early = a.record(&token("a", 1), LEASE, &ends).await.unwrap().early;
    let of = |number| early.iter().filter(|found| found.part == part(id(1), number)).count();
    assert_eq!((of(1), of(2)), (16, 1));
    // Another account's id of the same name is another id.
    let b = ledger(&store, "b");
    assert_eq!(b.receipts(&twice[..1]).await.unwrap(), Some(vec![Vec::new()]));
}

#[tokio::test]
async fn finish_relies_on_nothing_that_was_there() {
    let (redis, store) = ready().await;
    let a = ledger(&store, "a");
    let ours = token("a", 1);
    won(&a, &ours, id(1)).await;
    let ends = [submitted(id(1), 1, "7")];
    let recorded = a.record(&ours, LEASE, &ends).await.unwrap();
    assert!(recorded.early.is_empty());
    assert!(!a.done(&Recorded::default(), &ends).await.unwrap(), "of what was not recorded nothing is known");
    // Lost, and rebuilt from a log that does not have the end; a receipt comes meanwhile.
    redis.server.flush_all().await;
    assert!(!a.done(&recorded, &ends).await.unwrap());
    let lost = a.record(&ours, LEASE, &ends).await.unwrap();
    redis.server.flush_all().await;
    make_ready(&store).await;
    assert!(!a.done(&recorded, &ends).await.unwrap() && !a.done(&lost, &ends).await.unwrap());
    let receipt = said(ReceiptState::Delivered);
    assert_eq!(a.receipts(&[(carrier("7"), receipt.clone())]).await.unwrap(), Some(vec![Vec::new()]));
    let found = a.finish(&ours, &ends).await.unwrap();
    assert_eq!(found, [Match { part: part(id(1), 1), said: receipt, id: carrier("7") }]);
    assert_eq!(standing(&a, "a", id(1)).await, Standing::Finished);
    let next = said(ReceiptState::Undeliverable);
    assert_eq!(a.receipts(&[(carrier("7"), next)]).await.unwrap(), Some(vec![vec![part(id(1), 1)]]));
    // Only what was told is forgotten.
    assert_eq!(a.finish(&ours, &ends).await.unwrap().len(), 1);
    a.unpark(&found).await.unwrap();
    assert!(a.finish(&ours, &ends).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_ends_without_an_id_is_kept_too() {
    let (_redis, store) = ready().await;
    let a = ledger(&store, "a");
    for (seed, end) in [
        (1, PartEnd::Refused { status: 0x45 }),
        (2, PartEnd::NoResponse),
        (3, PartEnd::Unsent { end: AttemptEnd::LinkDown }),
        (4, PartEnd::Submitted { carrier_id: String::new() }),
    ] {
        let ended = [Ended { part: part(id(seed), 1), end: end.clone(), keep: KEEP }];
        a.record(&token("a", 1), LEASE, &ended).await.unwrap();
        assert_eq!(standing(&a, "a", id(seed)).await, Standing::Abandoned(vec![(1, end)]));
        a.finish(&token("a", 1), &ended).await.unwrap();
        assert_eq!(standing(&a, "a", id(seed)).await, Standing::Finished);
    }
}

#[tokio::test]
async fn the_log_is_put_back_in_its_order() {
    let (_redis, store) = ready().await;
    let a = ledger(&store, "a");
    let claim = |state| Claim { token: Claim::restored_by(&account("a")), until: *NOW, state };
    let end = PartEnd::Submitted { carrier_id: "7".to_owned() };
    let ended = || (part(id(1), 1), claim(ClaimState::Ended(end.clone())));
    let intent = |seed| (part(id(seed), 1), claim(ClaimState::Intent));
    // An intent behind its end, and one that nothing is known of since.
    store.restore_claims(KEEP, &[ended(), intent(1)]).await.unwrap();
    assert_eq!(standing(&a, "a", id(1)).await, Standing::Abandoned(vec![(1, end.clone())]));
    store.restore_claims(KEEP, &[intent(3), intent(1)]).await.unwrap();
    assert_eq!(standing(&a, "a", id(3)).await, Standing::Abandoned(vec![(1, PartEnd::NoResponse)]));

    let receipt = |id: &str| Tie::Receipt(carrier(id), said(ReceiptState::Delivered));
    let tie = |id: &str, number| Tie::Id(carrier(id), part(super::tests::id(1), number));
    let found = a.restore_ties(&[receipt("7"), tie("7", 1), tie("8", 2), receipt("8"), receipt("9")]).await;
    let found: Vec<_> = found.unwrap().into_iter().map(|found| (found.part.part, found.id)).collect();
    assert_eq!(found, [(1, carrier("7")), (2, carrier("8"))]);
    // The one whose part is not known yet still waits.
    let early = a.record(&token("a", 1), LEASE, &[submitted(id(1), 3, "9")]).await.unwrap().early;
    assert_eq!(early.len(), 1);
}

#[tokio::test]
async fn an_intent_of_the_log_takes_the_place_of_the_claim_that_it_came_from() {
    let (_redis, store) = ready().await;
    let a = ledger(&store, "a");
    // What a Redis that lost its last second brings back: the claim, and not that it was acted on.
    won(&a, &token("a", 1), id(1)).await;
    let intent = Claim { token: Claim::restored_by(&account("a")), until: *NOW, state: ClaimState::Intent };
    store.restore_claims(KEEP, &[(part(id(1), 1), intent)]).await.unwrap();
    assert_eq!(standing(&a, "a", id(1)).await, Standing::Abandoned(vec![(1, PartEnd::NoResponse)]));
}

#[tokio::test]
async fn an_intent_is_kept_long_beyond_its_message_until_its_end_is_known() {
    let (redis, store) = ready().await;
    let a = ledger(&store, "a");
    let key = store.claim_keys(&parts(id(1), 1)).remove(0);
    let kept = async || {
        let answer = redis.server.command(&format!("PTTL {key}")).await;
        Duration::from_millis(answer.trim_start_matches(':').parse().unwrap())
    };
    let mark = won(&a, &token("a", 1), id(1)).await;
    assert!(kept().await <= KEEP);
    assert_eq!(fence(&a, &token("a", 1), id(1), Some(&mark)).await, Fence::Passed);
    assert!(kept().await > CLAIMS);
    a.record(&token("a", 1), LEASE, &[submitted(id(1), 1, "7")]).await.unwrap();
    a.finish(&token("a", 1), &[submitted(id(1), 1, "7")]).await.unwrap();
    assert!(kept().await <= KEEP);
}

#[tokio::test]
async fn one_rebuilds_at_a_time_and_not_over_another_loss() {
    let (redis, store) = ready().await;
    let scope = Scope::Account(account("a"));
    store.distrust(&scope).await.unwrap();
    assert!(!store.is_ready(&scope).await.unwrap());
    assert!(store.lock(&scope, "one", LEASE).await.unwrap());
    assert!(!store.lock(&scope, "two", LEASE).await.unwrap());
    assert!(!store.keep_lock(&scope, "two", LEASE).await.unwrap());
    assert!(!store.complete(&scope, "two").await.unwrap());
    store.unlock(&scope, "two").await.unwrap();
    assert!(store.keep_lock(&scope, "one", LEASE).await.unwrap());
    // Who distrusts what is here makes the one who rebuilds it start over.
    store.distrust(&scope).await.unwrap();
    assert!(!store.complete(&scope, "one").await.unwrap());
    assert!(store.lock(&scope, "one", LEASE).await.unwrap());
    redis.server.flush_all().await;
    assert!(!store.keep_lock(&scope, "one", LEASE).await.unwrap());
    assert!(!store.complete(&scope, "one").await.unwrap());
    assert!(!store.is_ready(&scope).await.unwrap());
    assert!(store.lock(&scope, "two", LEASE).await.unwrap());
    store.unlock(&scope, "two").await.unwrap();
    assert!(store.lock(&scope, "one", LEASE).await.unwrap());
}

#[test]
fn scopes_never_share_a_key() {
    let shard = Scope::Shard(shards().iter().next().unwrap());
    let account = Scope::Account(account("s0"));
    assert_eq!(shard.key("ready"), "sotto:carrier:{s0}:ready");
    assert_eq!(account.key("ready"), "sotto:carrier:{a.s0}:ready");
}
