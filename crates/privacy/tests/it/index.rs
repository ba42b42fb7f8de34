//! From a number's pseudonyms to its messages, and from nothing else.

use std::{sync::Arc, time::Duration};

use sotto_core::{
    Clock as _, MessageId, TenantId,
    index::{IndexEntry, Indexed, PSEUDONYM_LABEL, Pseudonym},
};
use sotto_crypto::{
    AeadKey, MacKey,
    envelope::{Binding, MAX_SEALS, Sealer},
};
use sotto_privacy::{
    app::{Asked, FoundHere, IndexKeys, Keys},
    domain::bucket::Contents,
    error::KeyError,
};
use sotto_proto::IndexDelivery;

use crate::world::{World, refused, tenant};

const DAY: Duration = Duration::from_secs(86_400);

const NUMBER: &str = "84981234567";

fn id(of: u8) -> MessageId {
    MessageId::from_keyed_hash([of; 16])
}

fn pseudonym(key: &AeadKey, number: &str) -> Pseudonym {
    Pseudonym(MacKey::from_bytes(*key.expose()).keyed_id(PSEUDONYM_LABEL, &[number.as_bytes()]))
}

/// Entries as an ingress makes them with these keys.
fn entries(world: &World, keys: IndexKeys, of: &[(u8, &str)]) -> Vec<IndexDelivery> {
    let sealer = Sealer::new(keys.key.key_id, AeadKey::from_bytes(*keys.sealing.expose()), MAX_SEALS);
    let key = Arc::new(keys.key);
    let entry = |(message, number): &(u8, &str)| {
        let indexed = Indexed::new(pseudonym(&keys.pseudonyms, number), world.clock.now());
        let message = id(*message);
        let binding = Binding {
            cell: "vn",
            tenant: key.tenant.as_str(),
            class: "index",
            message_id: message.as_bytes(),
            schema: 1,
        };
        let envelope = sealer.seal(&binding, &indexed.to_bytes()).unwrap();
        IndexDelivery { entry: IndexEntry::new(message, envelope), key: Arc::clone(&key) }
    };
    of.iter().map(entry).collect()
}

async fn enter(world: &World, keys: &Keys, of: &str, messages: &[(u8, &str)]) -> String {
    let made = keys.make_index("ingress", tenant(of)).await.unwrap();
    let bucket = made.key.bucket.clone();
    world.stored.put(entries(world, made, messages));
    bucket
}

async fn asked(keys: &Keys, of: TenantId, number: &str, from: u64) -> Asked {
    let all = keys.pseudonym_keys("ingress", of.clone()).await.unwrap();
    let pseudonyms = all.into_iter().map(|one| (one.bucket, pseudonym(&one.key, number))).collect();
    Asked { tenant: of, client: "officer".to_owned(), pseudonyms, from }
}

const NONE: [u8; 0] = [];

async fn find(keys: &Keys, of: &str, number: &str) -> Vec<u8> {
    let found = keys.find("ingress", asked(keys, tenant(of), number, 0).await).await.unwrap();
    assert_eq!(found.next, None);
    let ids = (0..=u8::MAX).map(|of| (id(of), of)).collect::<std::collections::HashMap<_, _>>();
    found.messages.iter().map(|(message, _)| ids[message]).collect()
}

#[tokio::test]
async fn a_number_finds_its_messages_of_every_bucket_that_lives_and_no_other_does() {
    let world = World::new();
    let keys = world.open();
    let first = enter(&world, &keys, "acme", &[(1, NUMBER), (2, "84987654321")]).await;
    assert_eq!(first, "index/2027-02-23");
    // Replaced by an operator: entries from now on hang on another key. Those of days before have none to be replaced.
    let made = keys.rotate("operator", Some(Contents::Index)).await.unwrap();
    assert_eq!(made.iter().map(|one| one.bucket.as_str()).collect::<Vec<_>>(), ["index/2027-02-23.2"]);
    assert_eq!(keys.ended("ingress").await.unwrap().superseded, [first.as_str()]);
    assert_eq!(enter(&world, &keys, "acme", &[(3, NUMBER)]).await, "index/2027-02-23.2");
    world.clock.advance(DAY);
    assert_eq!(enter(&world, &keys, "acme", &[(4, NUMBER)]).await, "index/2027-02-24");
    let made = keys.rotate("operator", Some(Contents::Index)).await.unwrap();
    assert_eq!(made.iter().map(|one| one.bucket.as_str()).collect::<Vec<_>>(), ["index/2027-02-24.2"]);
    // One with keys of its own, and one without.
    assert_eq!(enter(&world, &keys, "bank", &[(5, NUMBER)]).await, "index/2027-02-24@bank");
    enter(&world, &keys, "other", &[(6, NUMBER)]).await;

    assert_eq!(find(&keys, "acme", NUMBER).await, [1, 3, 4]);
    assert_eq!(find(&keys, "acme", "84987654321").await, [2]);
    assert_eq!(find(&keys, "acme", "84980000000").await, NONE);
    assert_eq!(find(&keys, "bank", NUMBER).await, [5]);
    assert_eq!(find(&keys, "other", NUMBER).await, [6]);
    assert_eq!(find(&keys, "nobody", NUMBER).await, NONE);
    // The keys of one tenant's pseudonyms find nothing of another.
    let mut of_other = asked(&keys, tenant("other"), NUMBER, 0).await;
    of_other.tenant = tenant("acme");
    assert_eq!(keys.find("ingress", of_other).await.unwrap(), FoundHere::default());

    // Another process finds the same.
    drop(keys);
    let keys = world.open();
    assert_eq!(find(&keys, "acme", NUMBER).await, [1, 3, 4]);
}

#[tokio::test]
async fn what_is_ninety_days_old_is_found_by_nobody_and_its_destruction_has_a_receipt() {
    let world = World::new();
    let keys = world.open();
    enter(&world, &keys, "acme", &[(1, NUMBER)]).await;
    let old = asked(&keys, tenant("acme"), NUMBER, 0).await;
    world.clock.advance(90 * DAY);
    assert_eq!(enter(&world, &keys, "acme", &[(2, NUMBER)]).await, "index/2027-05-24");
    assert_eq!(find(&keys, "acme", NUMBER).await, [1, 2], "kept for ninety days");
    world.told.take();
    world.clock.advance(DAY);
    // Before anything was swept: dead is dead.
    let before =
        Asked { pseudonyms: old.pseudonyms.clone(), tenant: tenant("acme"), client: "c".to_owned(), from: 0 };
    assert_eq!(keys.find("ingress", before).await.unwrap(), FoundHere::default());
    assert_eq!(keys.sweep().await.unwrap(), 1);
    let told = world.told.take();
    let receipt = told.iter().find(|one| one.starts_with("bucket.destroyed index/2027-02-23,generation="));
    assert!(receipt.is_some_and(|one| one.contains("sig=")), "{told:?}");
    assert_eq!(find(&keys, "acme", NUMBER).await, [2]);
    assert_eq!(keys.find("ingress", old).await.unwrap(), FoundHere::default());
}

#[tokio::test]
async fn only_ingress_asks_and_each_look_up_is_told_without_the_number() {
    let world = World::new();
    let keys = world.open();
    enter(&world, &keys, "acme", &[(1, NUMBER)]).await;
    for caller in ["carrier", "operator", "audit"] {
        let made = keys.make_index(caller, tenant("acme")).await;
        assert!(matches!(refused(made), KeyError::NotThisService));
        let listed = keys.pseudonym_keys(caller, tenant("acme")).await;
        assert!(matches!(refused(listed), KeyError::NotThisService));
        let found = keys.find(caller, asked(&keys, tenant("acme"), NUMBER, 0).await).await;
        assert!(matches!(refused(found), KeyError::NotThisService));
    }
    world.told.take();
    let wanted = asked(&keys, tenant("acme"), NUMBER, 0).await;
    let today = wanted.pseudonyms[0].1.0;
    keys.find("ingress", wanted).await.unwrap();
    let hex: String = today.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        world.told.take(),
        [format!("subject.looked_up client=officer,subject={hex},from=0,found=1 ok")]
    );
    keys.report();
    let told = world.told.take();
    assert!(told.contains(&"session_key.made class=index,keys=1 ok".to_owned()), "{told:?}");
    assert!(told.iter().any(|one| one.starts_with("pseudonym_keys.listed keys=")), "{told:?}");
    assert!(told.iter().all(|one| !one.contains(&NUMBER[2..])), "{told:?}");
}

#[tokio::test]
async fn a_long_search_goes_on_where_it_stopped() {
    let world = World::new();
    let keys = world.open();
    let made = keys.make_index("ingress", tenant("acme")).await.unwrap();
    let all: Vec<_> = (0..250).map(|of| (of, NUMBER)).collect();
    let batch = entries(&world, made, &all);
    // Ten batches of 250, and something in between that no ingress wrote.
    for _ in 0..10 {
        world.stored.put(batch.clone());
        world.stored.put(Vec::new());
    }
    let (mut from, mut parts) = (0, Vec::new());
    loop {
        let found = keys.find("ingress", asked(&keys, tenant("acme"), NUMBER, from).await).await.unwrap();
        parts.push(found.messages.len());
        match found.next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!(parts, [1000, 1000, 500]);
}

#[tokio::test]
async fn an_entry_that_was_moved_or_altered_is_found_by_nobody() {
    let world = World::new();
    let keys = world.open();
    let made = keys.make_index("ingress", tenant("acme")).await.unwrap();
    let whole = entries(&world, made, &[(1, NUMBER)]).remove(0);
    let mut moved = whole.clone();
    moved.entry.message = id(2);
    let mut altered = whole.clone();
    let mut bytes = altered.entry.envelope.0.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    altered.entry = IndexEntry::new(id(1), bytes);
    let mut of_another = whole.clone();
    of_another.key =
        Arc::new(sotto_core::index::IndexKey { tenant: tenant("other"), ..(*whole.key).clone() });
    world.stored.put(vec![moved, altered, of_another]);
    assert_eq!(find(&keys, "acme", NUMBER).await, NONE);
    assert_eq!(find(&keys, "other", NUMBER).await, NONE);
    world.stored.put(vec![whole]);
    assert_eq!(find(&keys, "acme", NUMBER).await, [1]);
}
