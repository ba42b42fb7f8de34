use std::time::Duration;

use axum::http::{Request, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body_util::Full;
use serde_json::{Value, json};
use sotto_core::Clock as _;
use sotto_crypto::sign::SigningKey;
use sotto_identity::ports::Category;
use sotto_proto::identity::v1::{CreateClientRequest, CreateClientResponse, DisableClientRequest};
use tonic::Request as GrpcRequest;

use crate::{
    jwt,
    world::{AUDIENCE, ISSUER, JWT_BEARER, Key, Running, World, signing_input, with_key, with_secret},
};

/// A request of an operator.
pub(crate) fn bearing<T>(message: T, token: &str) -> GrpcRequest<T> {
    let mut request = GrpcRequest::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

pub(crate) async fn owner_token(world: &World, running: &Running, owner: &Key) -> String {
    let answer = running.ask_with(&owner.assertion(world), &[("scope", "admin:clients")]).await;
    answer.token().to_owned()
}

pub(crate) fn acme() -> CreateClientRequest {
    CreateClientRequest {
        tenant: "acme".to_owned(),
        name: "Acme".to_owned(),
        scopes: vec!["message:send".to_owned(), "message:read".to_owned()],
        authentication: Some(with_secret()),
        senders: vec!["ACME".to_owned()],
    }
}

async fn create(running: &Running, token: &str, request: CreateClientRequest) -> CreateClientResponse {
    running.grpc().create_client(bearing(request, token)).await.unwrap().into_inner()
}

/// A cell with an owner, a client with a key and one with a secret.
struct Cell {
    world: World,
    running: Running,
    owner: Key,
    key: Key,
    id: String,
    secret: String,
}

impl Cell {
    async fn new() -> Self {
        Self::with("").await
    }

    async fn with(more: &str) -> Self {
        let world = World::new().await;
        let running = world.start_with(more).await;
        let owner = running.owner().await;
        let token = owner_token(&world, &running, &owner).await;
        let signing = SigningKey::generate().unwrap();
        let request = CreateClientRequest { authentication: Some(with_key(&signing)), ..acme() };
        let made = create(&running, &token, request).await;
        assert_eq!(made.client_secret, "");
        let key = Key::new(made.client.unwrap().client_id, signing);
        let made = create(&running, &token, acme()).await;
        let (id, secret) = (made.client.unwrap().client_id, made.client_secret);
        world.told.take();
        Self { world, running, owner, key, id, secret }
    }

    async fn restarted(self) -> Self {
        self.running.stop().await;
        let running = self.world.start().await;
        Self { running, ..self }
    }

    async fn post(&self, more: &[(&str, &str)]) -> crate::world::Answer {
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", self.id.as_str()),
            ("client_secret", self.secret.as_str()),
        ];
        form.extend(more);
        self.running.ask(&form, &[]).await
    }
}

#[tokio::test]
async fn each_method_gets_a_token_that_others_verify() {
    let cell = Cell::new().await;
    let jwks = cell.running.jwks().await;
    let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", cell.id, cell.secret)));
    let grant = [("grant_type", "client_credentials")];
    let assertion = cell.key.assertion(&cell.world);
    for (answer, id) in [
        (cell.running.ask_with(&assertion, &[]).await, &cell.key.id),
        (cell.post(&[]).await, &cell.id),
        (cell.running.ask(&grant, &[("authorization", &basic)]).await, &cell.id),
    ] {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(answer.body["token_type"], "Bearer");
        assert_eq!(answer.body["expires_in"], 600);
        assert_eq!(answer.body["scope"], "message:send message:read");
        let now = cell.world.clock.now();
        let read = jwt::verify(answer.token(), &jwks, now).unwrap();
        assert_eq!(read.header.typ.as_deref(), Some("at+jwt"));
        assert_eq!(read.header.kid.as_deref(), jwks["keys"][0]["kid"].as_str());
        let seconds = now.unix_seconds();
        let jti = read.claims["jti"].as_str().unwrap();
        assert_eq!(jti.len(), 32);
        assert_eq!(
            read.claims,
            json!({
                "iss": ISSUER, "aud": AUDIENCE, "exp": seconds + 600, "iat": seconds, "jti": jti,
                "sub": id, "client_id": id, "scope": "message:send message:read",
                "tenant": "acme", "senders": ["ACME"],
            })
        );
        assert!(jwt::verify(&format!("{}A", answer.token()), &jwks, now).is_err());
    }
    assert_eq!(cell.world.told.take(), ["token.issued ok"; 3]);
}

#[tokio::test]
async fn scopes_and_resources_narrow_and_never_widen() {
    let cell = Cell::new().await;
    let answer = cell.post(&[("scope", "message:read"), ("resource", AUDIENCE)]).await;
    assert_eq!(answer.body["scope"], "message:read");
    let jwks = cell.running.jwks().await;
    let read = jwt::verify(answer.token(), &jwks, cell.world.clock.now()).unwrap();
    assert_eq!(read.claims["senders"], json!([]));
    cell.world.told.take();

    let widened = cell.post(&[("scope", "message:read admin:clients")]).await;
    assert_eq!(widened.error(), (400, "invalid_scope"));
    let unknown = cell.post(&[("scope", "everything")]).await;
    assert_eq!(unknown.error(), (400, "invalid_scope"));
    let elsewhere = cell.post(&[("resource", "https://de.sotto.internal")]).await;
    assert_eq!(elsewhere.error(), (400, "invalid_target"));
    assert_eq!(cell.world.told.take(), ["token.refused invalid_scope", "token.refused invalid_target"]);
}

#[tokio::test]
async fn bad_assertions_are_refused() {
    let cell = Cell::new().await;
    let now = cell.world.clock.now().unix_seconds();
    let with = |member: &str, value: Value| {
        let mut claims = cell.key.claims(&cell.world);
        claims[member] = value;
        cell.key.sign(&claims)
    };
    let good = cell.key.claims(&cell.world);
    let none = format!("{}.", signing_input(&json!({"alg": "none"}), &good));
    // The public key as the secret of an HMAC: what a verifier that trusts `alg` would take.
    let hs256 = cell.key.sign_as(&json!({"alg": "HS256"}), &good);
    let stranger = Key::new(cell.key.id.clone(), SigningKey::generate().unwrap()).sign(&good);
    let nobody =
        Key::new("client-00000000000000000000000000000000".to_owned(), SigningKey::generate().unwrap());
    let of_another = Key::new(cell.id.clone(), SigningKey::generate().unwrap());
    for (assertion, outcome) in [
        (none, "assertion_signature"),
        (hs256, "assertion_signature"),
        (stranger, "assertion_signature"),
        (with("exp", json!(now)), "assertion_expired"),
        (with("exp", json!(now + 400)), "assertion_lifetime"),
        (with("iat", json!(now - 400)), "assertion_expired"),
        (with("aud", json!("https://other.example")), "assertion_audience"),
        (with("aud", json!(format!("{ISSUER}/oauth2/token"))), "assertion_audience"),
        (with("iss", json!("someone")), "assertion_subject"),
        (with("jti", Value::Null), "assertion_id"),
    ] {
        // Ten failures a minute are taken of one client; the assertions were made for the minute that begins now.
        cell.world.clock.advance(Duration::from_secs(5));
        let answer = cell.running.ask_with(&assertion, &[]).await;
        assert_eq!(answer.error(), (401, "invalid_client"), "{outcome}");
        assert!(answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic "));
        let told = cell.world.told.take();
        let unread = outcome == "assertion_signature" && told == ["token.refused unknown_client"];
        // A token that cannot be read names nobody.
        assert!(unread || told.first() == Some(&format!("token.refused {outcome}")), "{told:?} {outcome}");
    }
    for (key, outcome) in [(&nobody, "unknown_client"), (&of_another, "other_method")] {
        let answer = cell.running.ask_with(&key.assertion(&cell.world), &[]).await;
        assert_eq!(answer.error(), (401, "invalid_client"));
        assert_eq!(cell.world.told.take(), [format!("token.refused {outcome}")]);
    }
}

#[tokio::test]
async fn an_assertion_counts_once_and_not_at_all_without_redis() {
    let cell = Cell::new().await;
    let assertion = cell.key.assertion(&cell.world);
    assert_eq!(cell.running.ask_with(&assertion, &[]).await.status, 200);
    let again = cell.running.ask_with(&assertion, &[]).await;
    assert_eq!(again.error(), (401, "invalid_client"));
    assert_eq!(cell.world.told.take(), ["token.issued ok", "token.refused assertion_replayed"]);
    // Another process, another memory: the one in Redis counts.
    let mut cell = cell.restarted().await;
    assert_eq!(cell.running.ask_with(&assertion, &[]).await.error(), (401, "invalid_client"));
    cell.world.told.take();

    cell.world.redis.kill().await;
    let down = cell.running.ask_with(&cell.key.assertion(&cell.world), &[]).await;
    assert_eq!(down.error(), (503, "temporarily_unavailable"));
    assert_eq!(down.headers[header::RETRY_AFTER], "1");
    assert_eq!(cell.world.told.take(), ["token.refused temporarily_unavailable"]);
    assert_eq!(cell.post(&[]).await.status, 200, "a secret needs no Redis");
    cell.world.redis.restart().await;
    let back = sotto_testkit::eventually_ok(crate::world::BOUND, "Redis to be back", async || {
        let answer = cell.running.ask_with(&cell.key.assertion(&cell.world), &[]).await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    back.await;
}

#[tokio::test]
async fn wrong_secrets_and_strangers_look_alike() {
    let cell = Cell::new().await;
    let ask = async |id: &str, secret: &str| {
        let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        cell.running.ask(&form, &[]).await
    };
    let mut other = cell.secret.clone();
    other.replace_range(10..11, if other.get(10..11) == Some("a") { "b" } else { "a" });
    let nobody = "client-00000000000000000000000000000000";
    let answers = [
        ask(&cell.id, &other).await,
        ask(&cell.id, "guess").await,
        ask(nobody, &cell.secret).await,
        ask("admin", &cell.secret).await,
        ask(&cell.key.id, &cell.secret).await,
        ask(&cell.owner.id, &cell.secret).await,
    ];
    for answer in &answers {
        assert_eq!(answer.error(), (401, "invalid_client"));
        assert_eq!(answer.body, answers[0].body);
    }
    let acts = cell.world.told.acts();
    let told: Vec<_> = acts.iter().map(|act| (act.outcome, act.object.as_str())).collect();
    assert_eq!(
        told,
        [
            ("wrong_secret", cell.id.as_str()),
            ("wrong_secret", cell.id.as_str()),
            ("unknown_client", ""),
            ("unknown_client", ""),
            ("other_method", cell.key.id.as_str()),
            ("other_method", cell.owner.id.as_str()),
        ]
    );
    assert!(acts.iter().all(|act| act.category == Category::Authentication && act.actor.is_none()));
}

#[tokio::test]
async fn malformed_requests_get_the_errors_of_rfc_6749() {
    let cell = Cell::new().await;
    let (id, secret) = (cell.id.as_str(), cell.secret.as_str());
    let full = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
    let assertion = cell.key.assertion(&cell.world);
    let twice = [full.as_slice(), &[("scope", "message:read"), ("scope", "message:read")]].concat();
    let both = [full.as_slice(), &[("client_assertion_type", JWT_BEARER), ("client_assertion", &assertion)]];
    for (form, code) in [
        (vec![], "invalid_request"),
        (vec![("grant_type", "password")], "unsupported_grant_type"),
        (twice, "invalid_request"),
        (both.concat(), "invalid_request"),
    ] {
        let answer = cell.running.ask(&form, &[]).await;
        assert_eq!(answer.error(), (400, code), "{form:?}");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    }
    let nothing = cell.running.ask(&full[..1], &[]).await;
    assert_eq!(nothing.error(), (401, "invalid_client"));
    let bearer = cell.running.ask(&full[..1], &[("authorization", "Bearer x")]).await;
    assert_eq!(bearer.error(), (401, "invalid_client"));
    let basics = [("authorization", "Basic YTpi"), ("authorization", "Basic YTpi")];
    assert_eq!(cell.running.ask(&full[..1], &basics).await.error(), (400, "invalid_request"));
    let large = cell.running.ask_raw(vec![b'a'; 16 * 1024 + 1], &[]).await;
    assert_eq!(large.error(), (413, "invalid_request"));
    let two_types = cell.running.ask(&full, &[("content-type", "application/json")]).await;
    assert_eq!(two_types.error(), (400, "invalid_request"));

    let build = |address: &str, kind: &str| {
        let request = Request::post(address).header("host", "h").header("content-type", kind);
        request.body(Full::from(crate::world::form_text(&full))).unwrap()
    };
    let json = cell.running.send(build("/oauth2/token", "application/json")).await;
    assert_eq!(json.error(), (400, "invalid_request"));
    let form = "application/x-www-form-urlencoded";
    let query = cell.running.send(build("/oauth2/token?scope=message:read", form)).await;
    assert_eq!(query.error(), (400, "invalid_request"));
    let charset = cell.running.send(build("/oauth2/token", &format!("{form}; charset=UTF-8"))).await;
    assert_eq!(charset.status, 200);
    assert_eq!(cell.running.get("/oauth2/token").await.status, 405);
    assert_eq!(cell.running.get("/").await.status, 404);
}

#[tokio::test]
async fn failures_are_limited_and_the_limit_passes() {
    let cell = Cell::with("limits.client_failures_per_minute = 2\n").await;
    let bad = [("grant_type", "client_credentials"), ("client_id", &cell.id), ("client_secret", "guess")];
    for _ in 0..2 {
        assert_eq!(cell.running.ask(&bad, &[]).await.error(), (401, "invalid_client"));
    }
    let limited = cell.post(&[]).await;
    assert_eq!(limited.error(), (429, "temporarily_unavailable"));
    assert_eq!(limited.headers[header::RETRY_AFTER], "30");
    assert_eq!(
        cell.world.told.take(),
        ["token.refused wrong_secret", "token.refused wrong_secret", "token.limited too_many_failures"]
    );
    // Others at the same address go on.
    assert_eq!(cell.running.ask_with(&cell.key.assertion(&cell.world), &[]).await.status, 200);
    cell.world.clock.advance(Duration::from_secs(30));
    assert_eq!(cell.post(&[]).await.status, 200);
}

#[tokio::test]
async fn a_disabled_client_gets_nothing_more() {
    let cell = Cell::new().await;
    let token = owner_token(&cell.world, &cell.running, &cell.owner).await;
    let request = DisableClientRequest { client_id: cell.id.clone() };
    cell.running.grpc().disable_client(bearing(request, &token)).await.unwrap();
    assert_eq!(cell.post(&[]).await.error(), (400, "unauthorized_client"));
    let wrong = [("grant_type", "client_credentials"), ("client_id", &cell.id), ("client_secret", "guess")];
    assert_eq!(cell.running.ask(&wrong, &[]).await.error(), (401, "invalid_client"));
}

#[tokio::test]
async fn metadata_and_keys_are_published() {
    let cell = Cell::new().await;
    let metadata = cell.running.get("/.well-known/oauth-authorization-server").await;
    assert_eq!(metadata.status, 200);
    assert_eq!(metadata.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(metadata.headers[header::CACHE_CONTROL], "public, max-age=300");
    assert_eq!(
        metadata.body,
        json!({
            "issuer": ISSUER,
            "token_endpoint": format!("{ISSUER}/oauth2/token"),
            "jwks_uri": format!("{ISSUER}/.well-known/jwks.json"),
            "scopes_supported": ["message:send", "message:read", "subject:read", "admin:clients", "audit:read"],
            "response_types_supported": [],
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported":
                ["private_key_jwt", "client_secret_basic", "client_secret_post"],
            "token_endpoint_auth_signing_alg_values_supported": ["EdDSA"],
        })
    );
    let jwks = cell.running.get("/.well-known/jwks.json").await;
    assert_eq!(jwks.headers[header::CONTENT_TYPE], "application/jwk-set+json");
    assert_eq!(jwks.headers[header::CACHE_CONTROL], "public, max-age=300");
    let keys = jwks.body["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    assert!(keys[0].get("d").is_none());
}
