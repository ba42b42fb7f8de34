//! What people do with keys: two are needed to destroy one, one replaces them, and what is destroyed early stays so.

use std::{pin::pin, time::Duration};

use sotto_core::{MessageClass, Timestamp, approval::Act};
use sotto_keystore::BucketKeystore as _;
use sotto_privacy::{
    app::{Ended, KeyFacts, KeyState, Keys, Refusal},
    domain::{
        approval::{ApprovalError, Signed},
        bucket::Contents,
    },
    error::KeyError,
};

use tokio::time::timeout;

use crate::world::{MINUTE, NOW, PEOPLE, World, account, person_key, refusal, refused, tenant};

const SECOND: Duration = Duration::from_secs(1);

const OTP: &str = "otp/2026-11-24T05";

fn act(buckets: &[&str], expires_at: Timestamp) -> String {
    let buckets = buckets.iter().map(|bucket| (*bucket).to_owned()).collect();
    Act::destroy([7; 8], "vn".parse().unwrap(), expires_at, buckets).unwrap().to_string()
}

fn signed(text: &str, by: &[&str]) -> Vec<Signed> {
    let sign = |name: &&str| {
        let (_, seed) = PEOPLE.into_iter().find(|(person, _)| person == name).unwrap();
        Signed { by: (*name).to_owned(), signature: person_key(seed).sign(text.as_bytes()).unwrap().to_vec() }
    };
    by.iter().map(sign).collect()
}

/// Destroys by the word of two.
async fn destroy(keys: &Keys, buckets: &[&str]) -> Result<Vec<KeyFacts>, KeyError> {
    let text = act(buckets, NOW.plus(MINUTE));
    let both = signed(&text, &["an", "chi"]);
    keys.destroy("operator", text, both).await
}

async fn states(keys: &Keys) -> Vec<(String, KeyState)> {
    let all = keys.inventory("operator", None).await.unwrap().keys;
    all.into_iter().map(|key| (key.bucket, key.state)).collect()
}

fn ended(destroyed: &[&str], superseded: &[&str]) -> Ended {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Ended { destroyed: owned(destroyed), superseded: owned(superseded) }
}

#[tokio::test]
async fn two_people_destroy_a_key_and_what_hung_on_it_is_unreadable_at_once_and_for_ever() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    let until = NOW.plus(10 * MINUTE);
    let day = keys.make("ingress", tenant("acme"), MessageClass::Promotional, until).await.unwrap();
    world.told.take();

    let gone = destroy(&keys, &[OTP]).await.unwrap();
    assert_eq!(gone.len(), 1);
    assert_eq!((gone[0].bucket.as_str(), gone[0].dies_at), (OTP, made.dies_at));
    assert!(matches!(gone[0].state, KeyState::Destroyed { at: NOW, generation } if generation > 1));
    assert_eq!(refusal(&keys, &made.wrap).await, Some(Refusal::Destroyed));
    assert_eq!(refusal(&keys, &day.wrap).await, None, "no other key is touched");
    let told = world.told.take();
    assert_eq!(told[0], "bucket.destruction_approved otp/2026-11-24T05,act=0707070707070707,by=an+chi ok");
    assert!(told[1].starts_with("bucket.destroyed otp/2026-11-24T05,generation="), "{told:?}");

    // The next key of the same time hangs on another bucket, which dies at the same moment.
    let next = world.otp_key(&keys).await;
    assert_eq!(next.wrap.bucket, "otp/2026-11-24T05.2");
    assert_eq!(next.dies_at, made.dies_at);
    assert_eq!(refusal(&keys, &next.wrap).await, None);
    assert_eq!(keys.ended("carrier").await.unwrap(), ended(&[OTP], &[]));

    // After a restart, too.
    drop(keys);
    let keys = world.open();
    assert_eq!(refusal(&keys, &made.wrap).await, Some(Refusal::Destroyed));
    assert_eq!(refusal(&keys, &next.wrap).await, None);
    assert_eq!(world.otp_key(&keys).await.wrap.bucket, "otp/2026-11-24T05.2");
    assert_eq!(keys.ended("ingress").await.unwrap(), ended(&[OTP], &[]));
    // When its time is over nobody need be told any more.
    world.clock.set(made.dies_at);
    assert_eq!(keys.ended("ingress").await.unwrap(), Ended::default());
}

#[tokio::test(start_paused = true)]
async fn what_is_done_to_keys_is_in_the_log_before_unless_that_is_away_for_two_seconds() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    world.told.take();
    world.told.set_away(true);
    {
        let mut rotating = pin!(keys.rotate("operator", None));
        assert!(timeout(SECOND, &mut rotating).await.is_err(), "it waits");
        assert_eq!(world.told.take(), ["bucket.superseded otp/2026-11-24T05,by=otp/2026-11-24T05.2 ok"]);
        assert_eq!(states(&keys).await, [(OTP.to_owned(), KeyState::Current)]);
        world.told.set_away(false);
        assert_eq!(timeout(SECOND, rotating).await.unwrap().unwrap().len(), 1);
    }
    world.told.set_away(true);
    let mut destroying = pin!(destroy(&keys, &[OTP]));
    assert!(timeout(SECOND, &mut destroying).await.is_err(), "it waits");
    assert_eq!(world.told.take().len(), 1);
    assert_eq!(refusal(&keys, &made.wrap).await, None, "it lives");
    // A key that leaked does not live on for that.
    assert_eq!(timeout(2 * SECOND, destroying).await.unwrap().unwrap().len(), 1);
    assert_eq!(refusal(&keys, &made.wrap).await, Some(Refusal::Destroyed));
}

#[tokio::test]
async fn a_rotation_that_could_not_be_done_is_told_of_again() {
    let world = World::new();
    let keys = world.open();
    world.otp_key(&keys).await;
    world.told.take();
    // The disk refuses.
    let (file, aside) = (world.buckets_file(), world.buckets_file().with_extension("aside"));
    std::fs::rename(&file, &aside).unwrap();
    assert!(matches!(refused(keys.rotate("operator", None).await), KeyError::Keystore(_)));
    let told = "bucket.superseded otp/2026-11-24T05,by=otp/2026-11-24T05.2";
    assert_eq!(world.told.take(), [format!("{told} ok"), format!("{told} not_done")]);
    assert_eq!(states(&keys).await, [(OTP.to_owned(), KeyState::Current)]);
    std::fs::rename(&aside, &file).unwrap();
    assert_eq!(keys.rotate("operator", None).await.unwrap().len(), 1);
    assert_eq!(world.told.take(), [format!("{told} ok")]);
}

#[tokio::test]
async fn an_act_that_was_carried_out_or_broke_off_is_carried_out_again_without_more() {
    let world = World::new();
    let keys = world.open();
    let first = world.otp_key(&keys).await;
    let until = NOW.plus(10 * MINUTE);
    let day = keys.make("ingress", tenant("acme"), MessageClass::Promotional, until).await.unwrap();
    let both = [OTP, "promotional/2026-11-25"];
    // The process dies between the two.
    drop(keys);
    world.buckets().destroy_bucket(OTP, NOW.unix_millis()).unwrap();
    let keys = world.open();
    let gone = destroy(&keys, &both).await.unwrap();
    assert_eq!(gone.iter().map(|key| key.bucket.as_str()).collect::<Vec<_>>(), both);
    for wrap in [&first.wrap, &day.wrap] {
        assert_eq!(refusal(&keys, wrap).await, Some(Refusal::Destroyed));
    }
    // New keys are not concerned by the old word.
    let next = world.otp_key(&keys).await;
    world.told.take();
    assert_eq!(destroy(&keys, &both).await.unwrap(), gone);
    assert_eq!(refusal(&keys, &next.wrap).await, None);
    assert_eq!(world.told.take(), Vec::<String>::new(), "what was told is not told again");
}

#[tokio::test]
async fn nothing_is_destroyed_without_two_good_signatures_in_time_of_the_operator() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    let text = act(&[OTP], NOW.plus(MINUTE));
    let alone = keys.destroy("operator", text.clone(), signed(&text, &["an", "an"])).await;
    assert!(matches!(refused(alone), KeyError::Approval(ApprovalError::TooFew { found: 1 })));
    let other = act(&["transactional/2026-11-25"], NOW.plus(MINUTE));
    let foreign = keys.destroy("operator", text.clone(), signed(&other, &["an", "binh"])).await;
    assert!(matches!(refused(foreign), KeyError::Approval(ApprovalError::Signature { .. })));
    for caller in ["ingress", "carrier", "identity", "privacy"] {
        let stranger = keys.destroy(caller, text.clone(), signed(&text, &["an", "binh"])).await;
        assert!(matches!(refused(stranger), KeyError::NotThisService), "{caller}");
    }
    // A name that is not here: nothing of the act is done.
    let unknown = destroy(&keys, &[OTP, "otp/2026-11-24T09"]).await;
    assert!(matches!(refused(unknown), KeyError::Field { field: "act", .. }));
    world.clock.advance(MINUTE);
    let late = keys.destroy("operator", text.clone(), signed(&text, &["an", "binh"])).await;
    assert!(matches!(refused(late), KeyError::Approval(ApprovalError::Expired { .. })));
    assert_eq!(refusal(&keys, &made.wrap).await, None, "it lives");
    assert_eq!(keys.ended("carrier").await.unwrap(), Ended::default());
    let told = world.told.take();
    let refusals = told.iter().filter(|one| **one == "bucket.destruction_approved act not_approved");
    assert_eq!(refusals.count(), 3, "{told:?}");
}

#[tokio::test]
async fn a_rotation_seals_with_new_keys_and_opens_with_the_old_ones() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    let until = NOW.plus(10 * MINUTE);
    let day = keys.make("ingress", tenant("acme"), MessageClass::Promotional, until).await.unwrap();
    let inbound = keys.make_inbound("carrier", &account("vina"), tenant("acme")).await.unwrap();
    let rotated = keys.rotate("operator", Some(Contents::Messages(MessageClass::Otp))).await.unwrap();
    assert_eq!(rotated.iter().map(|key| key.bucket.as_str()).collect::<Vec<_>>(), ["otp/2026-11-24T05.2"]);
    assert_eq!(rotated[0].dies_at, made.dies_at);
    let next = world.otp_key(&keys).await;
    assert_eq!(next.wrap.bucket, "otp/2026-11-24T05.2");
    for wrap in [&made.wrap, &next.wrap] {
        assert_eq!(refusal(&keys, wrap).await, None);
    }
    let again = keys.make("ingress", tenant("acme"), MessageClass::Promotional, until).await.unwrap();
    assert_eq!(again.wrap.bucket, day.wrap.bucket, "no other class is concerned");
    assert_eq!(keys.ended("ingress").await.unwrap(), ended(&[], &[OTP]));
    let told = world.told.take();
    assert!(
        told.contains(&"bucket.superseded otp/2026-11-24T05,by=otp/2026-11-24T05.2 ok".to_owned()),
        "{told:?}"
    );

    // Of all, and again: each time the newest seals, and the others open.
    let all = keys.rotate("operator", None).await.unwrap();
    let names: Vec<_> = all.iter().map(|key| key.bucket.clone()).collect();
    let inbound = format!("{}.2", inbound.wrap.bucket);
    assert_eq!(names, [inbound.as_str(), "otp/2026-11-24T05.3", "promotional/2026-11-25.2"]);
    assert_eq!(world.otp_key(&keys).await.wrap.bucket, "otp/2026-11-24T05.3");
    assert_eq!(refusal(&keys, &made.wrap).await, None);
    let states = states(&keys).await;
    let state = |name: &str| states.iter().find(|(bucket, _)| bucket == name).unwrap().1;
    assert_eq!(state(OTP), KeyState::Superseded);
    assert_eq!(state("otp/2026-11-24T05.2"), KeyState::Superseded);
    assert_eq!(state("otp/2026-11-24T05.3"), KeyState::Current);

    // The newest is destroyed: an older one, which somebody replaced for a reason, does not seal again.
    destroy(&keys, &["otp/2026-11-24T05.3"]).await.unwrap();
    assert_eq!(world.otp_key(&keys).await.wrap.bucket, "otp/2026-11-24T05.4");
    // At their time all of them die.
    world.clock.set(made.dies_at);
    assert_eq!(keys.sweep().await.unwrap(), 3);
    for wrap in [&made.wrap, &next.wrap] {
        assert_eq!(refusal(&keys, wrap).await, Some(Refusal::Destroyed));
    }
}

#[tokio::test]
async fn a_tenant_with_keys_of_its_own_is_shredded_alone_and_at_once() {
    let world = World::new();
    let keys = world.open();
    let until = NOW.plus(10 * MINUTE);
    let make = async |name: &str, class| keys.make("ingress", tenant(name), class, until).await.unwrap();
    let (ours, codes) =
        (make("bank", MessageClass::Promotional).await, make("bank", MessageClass::Otp).await);
    let theirs = make("acme", MessageClass::Promotional).await;
    assert_eq!(ours.wrap.bucket, "promotional/2026-11-25@bank");
    assert_eq!(codes.wrap.bucket, "otp/2026-11-24T05@bank");
    assert_eq!(theirs.wrap.bucket, "promotional/2026-11-25");
    assert_eq!(ours.dies_at, theirs.dies_at);
    let inbound = keys.make_inbound("carrier", &account("vina"), tenant("bank")).await.unwrap();
    assert!(inbound.wrap.bucket.ends_with("@bank"));
    assert_eq!(refusal(&keys, &ours.wrap).await, None);
    // Its bucket is for nobody else.
    let mut other = theirs.wrap.clone();
    other.bucket = ours.wrap.bucket.clone();
    assert_eq!(refusal(&keys, &other).await, Some(Refusal::Invalid));
    world.told.take();

    let gone = destroy(&keys, &[&ours.wrap.bucket, &codes.wrap.bucket, &inbound.wrap.bucket]).await.unwrap();
    assert_eq!(gone.len(), 3);
    for wrap in [&ours.wrap, &codes.wrap] {
        assert_eq!(refusal(&keys, wrap).await, Some(Refusal::Destroyed));
    }
    assert_eq!(refusal(&keys, &theirs.wrap).await, None, "no other tenant is touched");
    // The receipt's act is the tenant's, and its object has room for the signature.
    let told = world.told.take();
    let receipt = told.iter().find(|one| one.starts_with("bucket.destroyed otp/2026-11-24T05,")).unwrap();
    assert!(receipt.len() <= 200 + "bucket.destroyed  ok".len(), "{receipt}");
    // It goes on with new ones, and so do the keys of everybody.
    assert_eq!(make("bank", MessageClass::Otp).await.wrap.bucket, "otp/2026-11-24T05.2@bank");
    let rotated = keys.rotate("operator", Some(Contents::Messages(MessageClass::Otp))).await.unwrap();
    assert_eq!(
        rotated.iter().map(|key| key.bucket.as_str()).collect::<Vec<_>>(),
        ["otp/2026-11-24T05.3@bank"]
    );
}

#[tokio::test]
async fn the_inventory_says_of_each_key_how_it_stands() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    for _ in 0..4 {
        world.otp_key(&keys).await;
    }
    let [otp] = keys.inventory("operator", None).await.unwrap().keys.try_into().unwrap();
    let facts = KeyFacts {
        bucket: OTP.to_owned(),
        state: KeyState::Current,
        made_at: NOW,
        dies_at: made.dies_at,
        wraps_at_most: 5,
        rotates_at: Some(NOW.plus(20 * MINUTE)),
    };
    assert_eq!(otp, facts);
    world.clock.set(made.dies_at);
    keys.sweep().await.unwrap();
    let [(_, gone)] = states(&keys).await.try_into().unwrap();
    assert!(matches!(gone, KeyState::Destroyed { at, .. } if at == made.dies_at), "{gone:?}");
    // What was destroyed longer ago is told to who asks for it.
    world.clock.advance(Duration::from_secs(8 * 86_400));
    assert_eq!(states(&keys).await, []);
    assert_eq!(keys.inventory("operator", Some(NOW)).await.unwrap().keys.len(), 1);
    for caller in ["ingress", "carrier", "routing", "audit"] {
        assert!(matches!(refused(keys.inventory(caller, None).await), KeyError::NotThisService), "{caller}");
        assert!(matches!(refused(keys.rotate(caller, None).await), KeyError::NotThisService), "{caller}");
    }
    for caller in ["operator", "routing", "identity"] {
        assert!(matches!(refused(keys.ended(caller).await), KeyError::NotThisService), "{caller}");
    }
}
