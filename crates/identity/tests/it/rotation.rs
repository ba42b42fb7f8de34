//! Signing keys by the clock: published before their first token and until their last is over, restarts or not.

use std::{fs, os::unix::fs::PermissionsExt as _, slice::from_ref, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sotto_core::{Clock as _, Timestamp};
use sotto_crypto::hash::sha256;
use sotto_identity::{
    app::keys::{TOKEN_RING, TokenKeys},
    domain::rotation::Schedule,
    ports::Category,
};
use sotto_keystore::{KeyRole, Keystore as _};
use sotto_proto::identity::v1::ListClientsRequest;
use sotto_testkit::eventually;
use tonic::{Code, Status};

use crate::{
    jwt,
    tokens::{bearing, owner_token},
    world::{BOUND, Key, NOW, Running, World},
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A key is used for a day, published an hour before, and kept for a token's ten minutes and five more.
const AHEAD: Duration = HOUR;
const KEPT: Duration = Duration::from_secs(15 * 60);

fn ids(jwks: &Value) -> Vec<String> {
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn kid(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

async fn published(running: &Running, keys: usize) -> Vec<String> {
    let what = format!("{keys} published keys");
    eventually(BOUND, &what, async || ids(&running.jwks().await).len() == keys).await;
    ids(&running.jwks().await)
}

/// A request of the owner with this token, which the service checks itself.
async fn listed(running: &Running, token: &str) -> Result<(), Status> {
    let request = bearing(ListClientsRequest::default(), token);
    running.grpc().list_clients(request).await.map(|_| ())
}

async fn restarted(world: &World, running: Running) -> Running {
    running.stop().await;
    world.start().await
}

async fn cell() -> (World, Running, Key) {
    let world = World::new().await;
    let running = world.start().await;
    let owner = running.owner().await;
    (world, running, owner)
}

#[tokio::test]
async fn a_key_is_published_before_its_first_token_and_until_its_last_is_over() {
    let (world, running, owner) = cell().await;
    let token = async || owner_token(&world, &running, &owner).await;
    let first = published(&running, 1).await.remove(0);
    let generated = world.told.acts().into_iter().find(|act| act.action == "key.generated").unwrap();
    assert_eq!((generated.category, generated.object.as_str()), (Category::Keys, first.as_str()));
    assert_eq!(kid(&token().await), first);

    world.clock.set(NOW.plus(DAY));
    let both = published(&running, 2).await;
    assert_eq!(both[1], first, "the next comes before the one in use");
    let second = both[0].clone();
    assert_eq!(kid(&token().await), first, "nobody may know the next yet");
    // What a verifier keeps from then on serves it through the change.
    let cached = running.jwks().await;

    world.clock.set(NOW.plus(DAY + AHEAD - Duration::from_secs(1)));
    let last_of_first = token().await;
    assert_eq!(kid(&last_of_first), first);
    world.clock.set(NOW.plus(DAY + AHEAD));
    eventually(BOUND, "the second key in use", async || kid(&token().await) == second).await;
    assert_eq!(published(&running, 2).await, [second.clone(), first.clone()]);
    let of_second = token().await;

    world.clock.set(NOW.plus(DAY + AHEAD + Duration::from_secs(598)));
    let now = world.clock.now();
    for keys in [&cached, &running.jwks().await] {
        for token in [&last_of_first, &of_second] {
            jwt::verify(token, keys, now).unwrap();
            listed(&running, token).await.unwrap();
        }
    }
    world.clock.set(NOW.plus(DAY + AHEAD + Duration::from_secs(599)));
    assert_eq!(listed(&running, &last_of_first).await.unwrap_err().message(), "the access token has expired");
    listed(&running, &of_second).await.unwrap();

    world.clock.set(NOW.plus(DAY + AHEAD + KEPT));
    assert_eq!(published(&running, 1).await, from_ref(&second));
    let told: Vec<_> = world.told.acts().into_iter().filter(|act| act.category == Category::Keys).collect();
    let told: Vec<_> = told.iter().map(|act| (act.action, act.object.as_str(), act.outcome)).collect();
    assert_eq!(
        told,
        [
            ("key.generated", second.as_str(), "ok"),
            ("key.promoted", second.as_str(), "ok"),
            ("key.retired", first.as_str(), "ok"),
        ]
    );
}

#[tokio::test]
async fn the_set_has_the_public_halves_and_nothing_else() {
    let (world, running, _) = cell().await;
    world.clock.set(NOW.plus(DAY));
    published(&running, 2).await;
    let in_the_keystore = world.keystore().keys(TOKEN_RING).unwrap();
    assert_eq!(in_the_keystore[0].role, KeyRole::Next);
    let expected = in_the_keystore.iter().map(|key| {
        let x = URL_SAFE_NO_PAD.encode(key.public.unwrap().as_bytes());
        // RFC 7638: SHA-256 over the required members in lexicographic order.
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(sha256(canonical.as_bytes()));
        json!({"kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "alg": "EdDSA", "kid": kid})
    });
    let answer = running.get("/.well-known/jwks.json").await;
    assert_eq!(answer.body, json!({"keys": expected.collect::<Vec<_>>()}));
    let types: Vec<_> = answer.headers.get_all("content-type").iter().collect();
    assert_eq!(types, ["application/jwk-set+json"], "one type");
    let age = answer.headers["cache-control"].to_str().unwrap().strip_prefix("public, max-age=").unwrap();
    assert!(Duration::from_secs(age.parse().unwrap()) < AHEAD, "caches end before the next key signs: {age}");
}

#[tokio::test]
async fn restarts_in_the_middle_neither_hurry_a_key_nor_lose_one() {
    let (world, mut running, owner) = cell().await;
    let first = published(&running, 1).await.remove(0);
    let before = owner_token(&world, &running, &owner).await;
    running = restarted(&world, running).await;
    assert_eq!(ids(&running.jwks().await), from_ref(&first), "no key a start");
    listed(&running, &before).await.unwrap();

    world.clock.set(NOW.plus(DAY - Duration::from_millis(1)));
    running = restarted(&world, running).await;
    assert_eq!(ids(&running.jwks().await), from_ref(&first));
    world.clock.set(NOW.plus(DAY));
    running = restarted(&world, running).await;
    let both = ids(&running.jwks().await);
    assert_eq!(both.len(), 2);
    let second = both[0].clone();
    for ahead in [AHEAD / 2, AHEAD - Duration::from_millis(1)] {
        world.clock.set(NOW.plus(DAY + ahead));
        running = restarted(&world, running).await;
        assert_eq!(ids(&running.jwks().await), both, "{ahead:?}");
        assert_eq!(kid(&owner_token(&world, &running, &owner).await), first, "{ahead:?}");
    }
    let last_of_first = owner_token(&world, &running, &owner).await;
    world.clock.set(NOW.plus(DAY + AHEAD));
    running = restarted(&world, running).await;
    assert_eq!(kid(&owner_token(&world, &running, &owner).await), second);
    listed(&running, &last_of_first).await.unwrap();

    // When the first went out of use is written nowhere: a new process counts from its start, never from less.
    world.clock.set(NOW.plus(DAY + AHEAD + 9 * MINUTE));
    running = restarted(&world, running).await;
    jwt::verify(&last_of_first, &running.jwks().await, world.clock.now()).unwrap();
    listed(&running, &last_of_first).await.unwrap();
    world.clock.set(NOW.plus(DAY + AHEAD + 9 * MINUTE + KEPT));
    assert_eq!(published(&running, 1).await, [second]);
}

#[tokio::test]
async fn after_a_long_absence_the_next_key_is_still_published_ahead() {
    let (world, running, owner) = cell().await;
    let first = published(&running, 1).await.remove(0);
    running.stop().await;
    world.clock.set(NOW.plus(30 * DAY));
    let running = world.start().await;
    let both = ids(&running.jwks().await);
    assert_eq!((both.len(), &both[1]), (2, &first));
    assert_eq!(kid(&owner_token(&world, &running, &owner).await), first);
    world.clock.set(NOW.plus(30 * DAY + AHEAD));
    eventually(BOUND, "the second key in use", async || {
        kid(&owner_token(&world, &running, &owner).await) == both[0]
    })
    .await;
}

#[tokio::test]
async fn a_forgotten_key_signs_nothing_that_counts() {
    let (world, running, owner) = cell().await;
    // As if somebody had copied the keystore while the first key was in use.
    let stolen = world.keystore();
    let first = stolen.current(TOKEN_RING).unwrap().id;
    let claims = |now: Timestamp| {
        let now = now.unix_seconds();
        json!({
            "iss": crate::world::ISSUER, "aud": crate::world::AUDIENCE, "exp": now + 600, "iat": now,
            "jti": "0".repeat(32), "sub": owner.id, "client_id": owner.id, "scope": "admin:clients",
            "tenant": "cell", "senders": [],
        })
    };
    let forged = |now| {
        let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": first});
        let input = crate::world::signing_input(&header, &claims(now));
        let signature = stolen.sign(&first, input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    listed(&running, &forged(NOW)).await.unwrap();
    world.clock.set(NOW.plus(DAY));
    published(&running, 2).await;
    world.clock.set(NOW.plus(DAY + AHEAD));
    eventually(BOUND, "the second key in use", async || {
        kid(&owner_token(&world, &running, &owner).await) != first
    })
    .await;
    world.clock.set(NOW.plus(DAY + AHEAD + KEPT));
    published(&running, 1).await;
    let now = world.clock.now();
    let refused = listed(&running, &forged(now)).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unauthenticated, "the access token is signed with an unknown key")
    );
    assert!(jwt::verify(&forged(now), &running.jwks().await, now).is_err());
}

#[tokio::test]
async fn longer_tokens_keep_their_key_longer() {
    let world = World::new().await;
    let schedule =
        Schedule { rotate_every: 2 * HOUR, publish_ahead: 10 * MINUTE, token_lifetime: 60 * MINUTE };
    let keys = TokenKeys::new(Arc::new(world.keystore()), world.told.clone(), schedule);
    let at = async |after: Duration| {
        keys.rotate(NOW.plus(after)).await.unwrap();
        keys.published().len()
    };
    assert_eq!(at(Duration::ZERO).await, 1);
    let first = keys.published()[0];
    assert_eq!(at(2 * HOUR).await, 2);
    let changed = 2 * HOUR + 10 * MINUTE;
    assert_eq!(at(changed).await, 2);
    assert_eq!(at(changed + 65 * MINUTE - Duration::from_millis(1)).await, 2);
    assert!(keys.published().contains(&first));
    assert_eq!(at(changed + 65 * MINUTE).await, 1);
    assert!(!keys.published().contains(&first));
}

#[tokio::test]
async fn a_keystore_that_fails_stops_the_rotation_and_not_the_tokens() {
    let (world, running, owner) = cell().await;
    let slot = world.path("identity.sks");
    let mode = |mode| fs::set_permissions(&slot, fs::Permissions::from_mode(mode)).unwrap();
    let first = published(&running, 1).await.remove(0);
    // A second one of what the service's task works with, so that the failure is seen for certain.
    let schedule = Schedule { rotate_every: DAY, publish_ahead: AHEAD, token_lifetime: 10 * MINUTE };
    let keys = TokenKeys::new(Arc::new(world.keystore()), world.told.clone(), schedule);
    mode(0o644);
    world.clock.set(NOW.plus(DAY));
    keys.rotate(NOW.plus(DAY)).await.unwrap_err();
    assert_eq!(keys.published().len(), 1, "the known one stays");
    assert_eq!(kid(&owner_token(&world, &running, &owner).await), first);
    mode(0o600);
    assert_eq!(published(&running, 2).await[1], first);
}
