//! Lists of messages, on a real Redis: every message on one page, however they are cut, and nothing that is over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sotto_core::{
    Facts, MessageClass, MessageId, TenantId, Timestamp,
    delivery::{EventKind, Outcome, RejectCause, Stage},
};
use sotto_ingress::{
    app::{
        list::{Filter, Lister},
        projection::Folder,
    },
    ports::{Records as _, StoreError},
};

use crate::{
    cell::{TERMS, shards},
    fakes::NOW,
    store::{self, World, accepted, event, make_ready, shard_of},
};

/// Messages of a tenant: the hundred of one burst have the same time.
fn facts(number: u8, tenant: &str) -> Facts {
    let after = Duration::from_millis(u64::from(number.saturating_sub(100)));
    let mut hash = [0; 16];
    hash[0] = number.wrapping_mul(89);
    hash[15] = number;
    hash[14] = u8::from(tenant == "globex");
    Facts {
        message: MessageId::from_keyed_hash(hash),
        tenant: tenant.parse().unwrap(),
        class: if number.is_multiple_of(3) { MessageClass::Otp } else { MessageClass::Transactional },
        accepted_at: NOW.plus(after),
        expires_at: NOW.plus(Duration::from_secs(300)),
        ..store::facts(1, false)
    }
}

fn acme() -> TenantId {
    "acme".parse().unwrap()
}

fn lister(world: &World) -> Lister {
    Lister { store: world.store(), clock: Arc::<_>::clone(&world.clock) as _, shards: shards() }
}

type Takes = fn(&Facts) -> bool;

/// All pages of this size.
async fn pages(lister: &Lister, filter: &Filter, size: usize) -> Vec<Facts> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = lister.page(&acme(), filter, after, size).await.unwrap();
        assert!(page.journals.len() <= size);
        all.extend(page.journals.iter().map(|journal| journal.delivery().unwrap().facts().clone()));
        let Some(next) = page.next else { return all };
        // As a client gets and gives it.
        after = Some(next.to_string().parse().unwrap());
    }
}

fn sorted(mut all: Vec<Facts>) -> Vec<Facts> {
    all.sort_by_key(|facts| std::cmp::Reverse((facts.accepted_at, facts.message)));
    all
}

#[tokio::test]
async fn every_message_is_on_one_page_however_they_are_cut() {
    let world = World::start().await;
    let lister = lister(&world);
    assert_eq!(lister.page(&acme(), &Filter::default(), None, 5).await.unwrap_err(), StoreError::Rebuilding);
    make_ready(&lister.store).await;
    let ours: Vec<_> = (0..=250).map(|number| facts(number, "acme")).collect();
    for number in 0..=250 {
        lister.store.begin(&facts(number, "acme"), None).await;
        lister.store.begin(&facts(number, "globex"), None).await;
    }
    let ours = sorted(ours);
    for size in [1, 7, 99, 200] {
        assert_eq!(pages(&lister, &Filter::default(), size).await, ours, "pages of {size}");
    }
    let (from, until) = (NOW.plus(Duration::from_millis(3)), NOW.plus(Duration::from_millis(77)));
    let cases: [(Filter, Takes); 4] = [
        (Filter { class: Some(MessageClass::Otp), ..Filter::default() }, |it| it.class == MessageClass::Otp),
        (Filter { from: Some(from), ..Filter::default() }, |it| {
            it.accepted_at >= NOW.plus(Duration::from_millis(3))
        }),
        (Filter { until: Some(until), ..Filter::default() }, |it| {
            it.accepted_at < NOW.plus(Duration::from_millis(77))
        }),
        (Filter { stages: [Stage::Routed].into(), ..Filter::default() }, |_| false),
    ];
    for (filter, takes) in cases {
        let wanted: Vec<_> = ours.iter().filter(|facts| takes(facts)).cloned().collect();
        assert_eq!(pages(&lister, &filter, 13).await, wanted, "{filter:?}");
    }
    let none = Filter { from: Some(until), until: Some(from), ..Filter::default() };
    assert!(pages(&lister, &none, 13).await.is_empty());
}

#[tokio::test]
async fn a_message_leaves_the_list_with_its_journal() {
    let world = World::start().await;
    let lister = lister(&world);
    make_ready(&lister.store).await;
    let folder = Folder::new(lister.store.clone());
    let (ended, live) = (facts(101, "acme"), facts(102, "acme"));
    for facts in [&ended, &live] {
        lister.store.begin(facts, None).await;
        let told = accepted(facts);
        folder.fold(shard_of(facts), &[(1, vec![&told])]).await.unwrap();
    }
    let rejected = event(&ended, EventKind::Rejected { cause: RejectCause::NoRoute });
    folder.fold(shard_of(&ended), &[(2, vec![&rejected])]).await.unwrap();
    let of = async |stage| {
        let filter = Filter { stages: BTreeSet::from([stage]), ..Filter::default() };
        pages(&lister, &filter, 10).await
    };
    assert_eq!(of(Stage::Ended(Outcome::Rejected)).await, std::slice::from_ref(&ended));
    assert_eq!(of(Stage::Accepted).await, std::slice::from_ref(&live));
    let trim = async || {
        let mut gone = 0;
        for shard in shards().iter() {
            gone += lister.store.trim(shard).await.unwrap();
        }
        gone
    };
    assert_eq!(trim().await, 0, "it is kept for a day");
    world.clock.set(rejected.at.plus(TERMS.keep));
    assert_eq!((trim().await, trim().await), (1, 0));
    assert_eq!(
        pages(&lister, &Filter { from: Some(Timestamp::default()), ..Filter::default() }, 10).await,
        [live]
    );
    let keys = world.redis.command("EVAL \"return #redis.call('KEYS', '*:gone')\" 0").await;
    assert_eq!(keys, ":0", "nothing is kept of what is gone");
}
