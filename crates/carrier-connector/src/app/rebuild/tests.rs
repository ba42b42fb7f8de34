//! Rebuilding a real Redis from a log.

use sotto_core::{delivery::EventKind, work::AttemptEnd};

use super::*;
use crate::{
    adapters::ledger::{Answer, Ask, Claimed, Parts},
    domain::claim::{Standing, judge},
    testing::{NOW, World, id, settings, shards},
};

async fn standing(account: &Account, seed: u8) -> Option<Standing> {
    let parts = Parts { message: id(seed), attempt: 1, parts: vec![1], keep: CLAIMS };
    let ask = Ask { parts, enter: ClaimState::Claimed };
    let claiming = account.ledger.claim("a.look", LEASE, &[ask]).await;
    let Answer { claimed, before, now, .. } = claiming.items.into_iter().next().unwrap().unwrap();
    (claimed != Claimed::Won).then(|| judge(&before, &account.settings.id, now.plus(LEASE * 3)))
}

/// A log in which every kind of end stands, of two accounts.
fn written(world: &World) {
    let (a, b): (AccountId, AccountId) = ("a".parse().unwrap(), "b".parse().unwrap());
    let (attempt, part, parts) = (1, 1, vec![1]);
    let intent = |account: &AccountId| EventKind::Submitting {
        attempt,
        account: account.clone(),
        parts: parts.clone(),
    };
    let taken = |account: &AccountId, carrier_id: &str| EventKind::Submitted {
        attempt,
        account: account.clone(),
        part,
        carrier_id: carrier_id.to_owned(),
    };
    world.log.write(intent(&a), id(1));
    world.log.write(intent(&a), id(2));
    world.log.write(taken(&a, "two"), id(2));
    world
        .log
        .write(EventKind::Refused { attempt, account: a.clone(), part, status: 0x45, retried: true }, id(3));
    // The record of an intent behind its end.
    world.log.write(intent(&a), id(3));
    world.log.write(
        EventKind::Unsent { attempt, account: a, end: AttemptEnd::LinkDown, parts: parts.clone() },
        id(4),
    );
    world.log.write(intent(&b), id(5));
    world.log.write(taken(&b, "two"), id(6));
}

#[tokio::test]
async fn everything_is_put_back_for_every_account() {
    let world = World::start().await;
    written(&world);
    let (account, rebuilder) =
        world.account_at(settings("a", 1), world.redis.store(), Arc::clone(&world.clock));
    let mut told = Vec::new();
    assert!(rebuilder.all(&mut |progress| told.push(progress)).await.unwrap());
    // Each shard and each account is told to be done, once.
    let done: Vec<_> = told.iter().filter(|progress| progress.done).map(|progress| &progress.scope).collect();
    assert_eq!(done.len(), usize::from(shards().count()) + 2);
    assert!(told.iter().filter(|progress| progress.done).all(|progress| progress.read == 8));
    let written: u64 = told.iter().filter(|progress| progress.done).map(|progress| progress.written).sum();
    assert_eq!(written, 8 + 2, "a claim an event, and two ids");

    let abandoned = |end| Some(Standing::Abandoned(vec![(1, end)]));
    assert_eq!(standing(&account, 1).await, abandoned(PartEnd::NoResponse));
    assert_eq!(standing(&account, 2).await, abandoned(PartEnd::Submitted { carrier_id: "two".to_owned() }));
    assert_eq!(standing(&account, 3).await, abandoned(PartEnd::Refused { status: 0x45 }));
    assert_eq!(standing(&account, 4).await, abandoned(PartEnd::Unsent { end: AttemptEnd::LinkDown }));
    assert_eq!(standing(&account, 5).await, Some(Standing::Finished), "b's own");
    assert_eq!(standing(&account, 7).await, None, "no intent: free");
    // An id of b's of the same name stands for b's part.
    let asked = [(
        CarrierId::canonical("two").unwrap(),
        Said { state: ReceiptState::Delivered, error: String::new() },
    )];
    let found = account.ledger.receipts(&asked).await.unwrap().unwrap();
    assert_eq!(found, [vec![Submitted { message: id(2), attempt: 1, part: 1 }]]);
}

#[tokio::test]
async fn an_early_receipt_finds_its_message_once() {
    let world = World::start().await;
    let (account, rebuilder) =
        world.account_at(settings("a", 1), world.redis.store(), Arc::clone(&world.clock));
    assert!(rebuilder.ensure().await.unwrap());
    let parked = LogEvent::ParkedReceipt {
        at: *NOW,
        account: account.settings.id.clone(),
        carrier_id: "two".to_owned(),
        state: ReceiptState::Delivered,
        error: "000".to_owned(),
    };
    account.shared.log.events(vec![parked]).await.unwrap();
    let of = account.settings.id.clone();
    let taken = EventKind::Submitted { attempt: 1, account: of, part: 1, carrier_id: "two".to_owned() };
    world.log.write(taken, id(2));
    for _ in 0..3 {
        world.redis.server.flush_all().await;
        assert!(rebuilder.ensure().await.unwrap());
        assert_eq!(
            world.log.names(id(2)),
            ["submitted", "receipt"],
            "told by the first rebuild, known to the others"
        );
    }
}

#[tokio::test]
async fn what_redis_did_not_take_is_rebuilt_although_nothing_was_lost() {
    let world = World::start().await;
    let (account, rebuilder) =
        world.account_at(settings("a", 1), world.redis.store(), Arc::clone(&world.clock));
    assert!(rebuilder.ensure().await.unwrap());
    written(&world);
    assert_eq!(standing(&account, 7).await, None);
    account.shared.reliance.leave_behind([Scope::Shard(shards().of(&id(2)))]);
    assert!(!account.shared.reliance.holds());
    assert!(rebuilder.ensure().await.unwrap());
    let end = PartEnd::Submitted { carrier_id: "two".to_owned() };
    assert_eq!(standing(&account, 2).await, Some(Standing::Abandoned(vec![(1, end)])));
}

#[tokio::test]
async fn two_processes_do_not_rebuild_the_same() {
    let world = World::start().await;
    written(&world);
    let process = || world.account_at(settings("a", 1), world.redis.store(), Arc::clone(&world.clock)).1;
    let (one, two) = (process(), process());
    // Who finds a lock leaves that scope to its holder, and looks again.
    let (first, second) = tokio::join!(one.ensure(), two.ensure());
    assert!(first.unwrap() || second.unwrap() || one.ensure().await.unwrap());
    assert!(one.ensure().await.unwrap() && two.ensure().await.unwrap());
}
