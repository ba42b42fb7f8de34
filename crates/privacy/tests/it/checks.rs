//! Every check refuses in its turn, and what passes all of them opens.

use std::time::Duration;

use sotto_core::{MessageClass, work::KeyWrap};
use sotto_crypto::envelope::{Binding, Sealer, open};
use sotto_privacy::{
    app::Refusal,
    domain::{
        policy::{Allowed, Rule},
        rate::Bound,
        retention::SpanError,
    },
    error::KeyError,
};

use crate::world::{MINUTE, NOW, World, account, open_one, refusal, refused, tenant};

const MESSAGE: &[u8; 16] = b"message-id-16-by";

fn binding<'a>(tenant: &'a str, class: &'a str) -> Binding<'a> {
    Binding { cell: "vn", tenant, class, message_id: MESSAGE, schema: 1 }
}

#[tokio::test]
async fn what_ingress_seals_the_connector_opens_and_after_destruction_nobody_does() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    assert_eq!(made.wrap.bucket, "otp/2026-11-24T05");
    assert_eq!(made.seal_until, NOW.plus(5 * MINUTE));
    let dies_at = made.dies_at;
    let wrap = made.wrap.clone();
    let sealer = Sealer::new(made.wrap.key_id, made.key, 10);
    let envelope = sealer.seal(&binding("acme", "otp"), b"482913").unwrap();

    let opened = open_one(&keys, &wrap).await;
    assert_eq!(opened.dies_at, Some(dies_at));
    let key = opened.result.unwrap();
    assert_eq!(open(&key, &binding("acme", "otp"), &envelope).unwrap().as_slice(), b"482913");

    world.clock.set(dies_at);
    keys.sweep().await.unwrap();
    assert_eq!(refusal(&keys, &wrap).await, Some(Refusal::Destroyed));
}

#[tokio::test]
async fn two_keys_are_never_the_same() {
    let world = World::new();
    let keys = world.open();
    let (one, two) = (world.otp_key(&keys).await, world.otp_key(&keys).await);
    assert_ne!(one.wrap.key_id, two.wrap.key_id);
    assert_ne!(one.key.expose(), two.key.expose());
    assert_eq!(one.wrap.bucket, two.wrap.bucket, "under one bucket key");
}

#[tokio::test]
async fn each_method_is_for_one_service() {
    let world = World::new();
    let keys = world.open();
    let wrap = world.otp_key(&keys).await.wrap;
    for other in ["carrier", "routing", "identity", "privacy", "audit", "operator", "provisioner"] {
        let made = keys.make(other, tenant("acme"), MessageClass::Otp, NOW.plus(MINUTE)).await;
        assert!(matches!(refused(made), KeyError::NotThisService), "{other}");
    }
    for other in ["ingress", "routing", "identity", "privacy", "audit", "operator", "provisioner"] {
        let opened = keys.open(other, account("viettel-otp"), vec![Some(wrap.clone())]).await;
        assert!(matches!(refused(opened), KeyError::NotThisService), "{other}");
    }
    let told = world.told.take();
    assert!(told.contains(&"session_key.made class=otp,keys=1 not_this_service".to_owned()), "{told:?}");
    assert!(told.contains(&"session_key.opened account=viettel-otp,keys=1 not_this_service".to_owned()));
}

#[tokio::test]
async fn what_handsets_write_is_sealed_for_its_owner_and_nobody_opens_it() {
    let world = World::new();
    let rule = Rule {
        accounts: Allowed::Only(vec![account("viettel-otp")]),
        tenants: Allowed::Only(vec![tenant("acme")]),
    };
    let keys = world.open_with("vn", vec![rule], Bound { per_second: 1_000, burst: 1_000 });
    let viettel = account("viettel-otp");
    let made = keys.make_inbound("carrier", &viettel, tenant("acme")).await.unwrap();
    assert_eq!((made.wrap.bucket.as_str(), made.wrap.tenant.as_str()), ("inbound/2026-11-28", "acme"));
    assert_eq!(made.seal_until, NOW.plus(5 * MINUTE));

    for other in ["ingress", "routing", "identity", "privacy", "audit", "operator", "provisioner"] {
        let made = keys.make_inbound(other, &viettel, tenant("acme")).await;
        assert!(matches!(refused(made), KeyError::NotThisService), "{other}");
    }
    for (account, tenant) in [(&viettel, tenant("globex")), (&account("vina"), tenant("acme"))] {
        let made = keys.make_inbound("carrier", account, tenant).await;
        assert!(matches!(refused(made), KeyError::NotThisTenant));
    }
    assert!(keys.make_inbound("carrier", &account("vina"), tenant("unowned")).await.is_ok());

    // As what it is, and disguised as a wrap of each class.
    for class in MessageClass::ALL {
        let day = keys.make("ingress", tenant("acme"), class, NOW.plus(10 * MINUTE)).await.unwrap().wrap;
        for bucket in [made.wrap.bucket.clone(), day.bucket] {
            let wrap = KeyWrap {
                key_id: made.wrap.key_id,
                tenant: tenant("acme"),
                class,
                bucket: bucket.clone(),
                wrapped: made.wrap.wrapped.clone(),
            };
            assert_eq!(refusal(&keys, &wrap).await, Some(Refusal::Invalid), "{class} {bucket}");
        }
    }
    let told = world.told.take();
    assert!(told.contains(&"session_key.made class=inbound,keys=1 not_allowed".to_owned()), "{told:?}");

    world.clock.set(made.seal_until.plus(Duration::from_secs(4 * 86_400)));
    assert!(keys.sweep().await.unwrap() > 0);
    assert!(world.told.take().iter().any(|told| told.contains("inbound/2026-11-28")), "destroyed");
}

#[tokio::test]
async fn a_wrap_opens_only_as_it_was_made() {
    let world = World::new();
    let keys = world.open();
    let wrap = world.otp_key(&keys).await.wrap;
    // The other bucket and class must exist, or their absence would be the reason.
    let later = NOW.plus(Duration::from_secs(46 * 60));
    world.clock.set(later);
    let other_bucket = world.otp_key(&keys).await.wrap.bucket;
    assert_ne!(other_bucket, wrap.bucket);
    world.clock.set(NOW);
    let until = NOW.plus(10 * MINUTE);
    let day = keys.make("ingress", tenant("acme"), MessageClass::Transactional, until).await.unwrap().wrap;

    let mut flipped = wrap.wrapped.to_vec();
    flipped[20] ^= 1;
    let mut other_id = wrap.key_id;
    other_id[0] ^= 1;
    let wrongs = [
        ("tenant", KeyWrap { tenant: tenant("globex"), ..wrap.clone() }),
        ("bucket", KeyWrap { bucket: other_bucket, ..wrap.clone() }),
        ("class", KeyWrap { class: MessageClass::Transactional, ..wrap.clone() }),
        (
            "class and bucket",
            KeyWrap { class: MessageClass::Transactional, bucket: day.bucket.clone(), ..wrap.clone() },
        ),
        ("key id", KeyWrap { key_id: other_id, ..wrap.clone() }),
        ("byte", KeyWrap { wrapped: flipped.into(), ..wrap.clone() }),
        ("length", KeyWrap { wrapped: wrap.wrapped.slice(..61), ..wrap.clone() }),
        ("name", KeyWrap { bucket: "otp/2026-11-24T5".to_owned(), ..wrap.clone() }),
    ];
    for (what, wrong) in wrongs {
        assert_eq!(refusal(&keys, &wrong).await, Some(Refusal::Invalid), "{what}");
    }
    assert_eq!(refusal(&keys, &wrap).await, None);
    assert_eq!(refusal(&keys, &day).await, None);
}

#[tokio::test]
async fn a_wrap_of_another_cell_does_not_open() {
    let world = World::new();
    let keys = world.open();
    let wrap = world.otp_key(&keys).await.wrap;
    drop(keys);
    let all = Rule { accounts: Allowed::All, tenants: Allowed::All };
    let keys = world.open_with("sg", vec![all], Bound { per_second: 1000, burst: 1000 });
    assert_eq!(refusal(&keys, &wrap).await, Some(Refusal::Invalid));
}

#[tokio::test]
async fn policy_judges_every_wrap_by_account_and_tenant() {
    let world = World::new();
    let rule = Rule {
        accounts: Allowed::Only(vec![account("viettel-otp")]),
        tenants: Allowed::Only(vec![tenant("acme")]),
    };
    let keys = world.open_with("vn", vec![rule], Bound { per_second: 1000, burst: 1000 });
    let until = NOW.plus(10 * MINUTE);
    let acme = world.otp_key(&keys).await.wrap;
    let globex = keys.make("ingress", tenant("globex"), MessageClass::Otp, until).await.unwrap().wrap;
    // Claiming the allowed tenant does not help: the tag proves the tenant.
    let lying = KeyWrap { tenant: tenant("acme"), ..globex.clone() };

    let wraps = vec![Some(acme.clone()), Some(globex.clone()), None, Some(lying), Some(acme.clone())];
    let opened = keys.open("carrier", account("viettel-otp"), wraps).await.unwrap();
    let results: Vec<_> = opened.into_iter().map(|opened| opened.result.err()).collect();
    let invalid = Some(Refusal::Invalid);
    assert_eq!(results, [None, Some(Refusal::NotAllowed), invalid, invalid, None]);

    let opened = keys.open("carrier", account("vina"), vec![Some(acme)]).await.unwrap();
    assert_eq!(opened[0].result.as_ref().err(), Some(&Refusal::NotAllowed));

    let told = world.told.take();
    assert!(
        told.contains(&"session_key.opened account=viettel-otp,keys=1 not_allowed".to_owned()),
        "{told:?}"
    );
    assert!(told.contains(&"session_key.opened account=vina,keys=1 not_allowed".to_owned()), "{told:?}");
    keys.report();
    let told = world.told.take();
    // With the time that the count is of.
    let counted = |one: &String| {
        one.starts_with("session_key.opened account=viettel-otp,keys=2,seconds=") && one.ends_with(" ok")
    };
    assert!(told.iter().any(counted), "{told:?}");
}

#[tokio::test]
async fn a_dead_bucket_opens_nothing_though_its_key_is_still_in_the_file() {
    let world = World::new();
    let keys = world.open();
    let made = world.otp_key(&keys).await;
    world.clock.set(made.dies_at.minus(Duration::from_millis(1)));
    assert_eq!(refusal(&keys, &made.wrap).await, None);
    world.clock.set(made.dies_at);
    // No sweep has run.
    assert_eq!(refusal(&keys, &made.wrap).await, Some(Refusal::Destroyed));
    let never = KeyWrap { bucket: "otp/2026-11-24T03".to_owned(), ..made.wrap };
    assert_eq!(refusal(&keys, &never).await, Some(Refusal::UnknownBucket));
}

#[tokio::test]
async fn a_bucket_that_was_never_made_is_unknown() {
    let world = World::new();
    let keys = world.open();
    let wrap = world.otp_key(&keys).await.wrap;
    let never = KeyWrap { bucket: "otp/2026-11-24T06".to_owned(), ..wrap };
    assert_eq!(refusal(&keys, &never).await, Some(Refusal::UnknownBucket));
}

#[tokio::test]
async fn what_retention_does_not_cover_is_refused_with_its_bound() {
    let world = World::new();
    let keys = world.open();
    for (class, seconds) in [
        (MessageClass::Otp, 17 * 60),
        (MessageClass::Transactional, 72 * 3600 + 120),
        (MessageClass::Promotional, 72 * 3600 + 120),
        (MessageClass::AdInvite, 72 * 3600 + 120),
    ] {
        let max = Duration::from_secs(seconds);
        let made = keys.make("ingress", tenant("acme"), class, NOW.plus(max)).await.unwrap();
        assert!(made.dies_at >= NOW.plus(max));
        let beyond = keys.make("ingress", tenant("acme"), class, NOW.plus(max + MINUTE / 60)).await;
        assert!(matches!(refused(beyond), KeyError::Span(SpanError::TooFar { max: told }) if told == max));
    }
    let over = keys.make("ingress", tenant("acme"), MessageClass::Otp, NOW).await;
    assert!(matches!(refused(over), KeyError::Span(SpanError::TooSoon)));
}

#[tokio::test]
async fn a_request_holds_1_to_256_wraps() {
    let world = World::new();
    let keys = world.open();
    let wrap = world.otp_key(&keys).await.wrap;
    for count in [0, 257] {
        let opened = keys.open("carrier", account("vina"), vec![Some(wrap.clone()); count]).await;
        assert!(matches!(refused(opened), KeyError::Field { field: "wraps", .. }), "{count}");
    }
    let opened = keys.open("carrier", account("vina"), vec![Some(wrap); 256]).await.unwrap();
    assert!(opened.iter().all(|opened| opened.result.is_ok()));
}

#[tokio::test]
async fn an_account_opens_no_more_than_its_rate() {
    let world = World::new();
    let all = Rule { accounts: Allowed::All, tenants: Allowed::All };
    let keys = world.open_with("vn", vec![all], Bound { per_second: 1, burst: 300 });
    let wrap = world.otp_key(&keys).await.wrap;
    let many = |count| vec![Some(wrap.clone()); count];
    keys.open("carrier", account("vina"), many(256)).await.unwrap();
    let error = refused(keys.open("carrier", account("vina"), many(256)).await);
    let KeyError::TooMany { retry_after } = error else { panic!("{error}") };
    assert!(retry_after > 200 * MINUTE / 60 && retry_after <= 212 * MINUTE / 60, "{retry_after:?}");
    keys.open("carrier", account("mobi"), many(256)).await.unwrap();
    assert_eq!(world.told.take(), ["session_key.opened account=vina,keys=256 too_many"]);
}
