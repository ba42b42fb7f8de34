//! A cell's files, a Redis, a clock and an audit log that remembers.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::{HeaderMap, Request, StatusCode};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sotto_core::{Clock as _, ManualClock, Timestamp};
use sotto_crypto::{hash::sha256, sign::SigningKey};
use sotto_identity::{
    app::keys::TOKEN_RING,
    config::{Config, DEFAULT_TOML},
    ports::{Act, AuditTrail},
    service::serve,
};
use sotto_keystore::{Keystore as _, SoftKeystore, UnlockSecret};
use sotto_proto::identity::v1::{
    ClientAuthentication, RedeemInvitationRequest, client_authentication::Method,
    client_service_client::ClientServiceClient,
};
use sotto_runtime::{
    Context,
    config::{TlsConfig, testing::load_text},
    grpc,
    tls::Tls,
};
use sotto_testkit::{CertFiles, Pki, RedisOptions, RedisServer, eventually};
use tempfile::TempDir;
use tonic::transport::Channel;

/// 2026-11-24T04:16:55.007Z
pub(crate) const NOW: Timestamp = Timestamp::from_unix_millis(1_795_493_815_007);
pub(crate) const BOUND: Duration = Duration::from_secs(20);
pub(crate) const ISSUER: &str = "https://identity.sotto.internal";
pub(crate) const AUDIENCE: &str = "https://vn.sotto.internal";
pub(crate) const INVITATION: &str = "sotto-invitation-c0ffee";
pub(crate) const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What `sotto init` gives the service's user in Redis.
const ACL: &str = "user default off\nuser identity on >a-good-password ~sotto:identity:* resetchannels \
                   -@all +@read +@write +@scripting +@transaction +@connection +time -@dangerous +info\n";

#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Vec<Act>>);

impl AuditTrail for Told {
    fn tell(&self, act: Act, _: Timestamp) {
        self.0.lock().unwrap().push(act);
    }
}

impl Told {
    /// `action outcome` of everything told since the last look.
    pub(crate) fn take(&self) -> Vec<String> {
        self.acts().iter().map(|act| format!("{} {}", act.action, act.outcome)).collect()
    }

    pub(crate) fn acts(&self) -> Vec<Act> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

pub(crate) struct World {
    folder: TempDir,
    pub(crate) pki: Pki,
    pub(crate) redis: RedisServer,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) told: Arc<Told>,
}

impl World {
    /// A cell as `sotto init` leaves it.
    pub(crate) async fn new() -> Self {
        let pki = Pki::new();
        let options = RedisOptions {
            tls: Some(pki.service("redis")),
            acl: Some(ACL.to_owned()),
            ..RedisOptions::default()
        };
        let world = Self {
            folder: TempDir::with_prefix("sotto-identity-").unwrap(),
            redis: RedisServer::start(options).await,
            pki,
            clock: Arc::new(ManualClock::new(NOW)),
            told: Arc::default(),
        };
        let secret = UnlockSecret::create(&world.path("unlock")).unwrap();
        SoftKeystore::create(&world.path("identity.sks"), secret, "identity").unwrap();
        world.write("redis-password", "a-good-password");
        world.invite(INVITATION, NOW.plus(Duration::from_secs(7 * 86_400)));
        world
    }

    pub(crate) fn invite(&self, text: &str, expires_at: Timestamp) {
        let hash: String = sha256(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let record = json!({"hash": hash, "expires_at": expires_at.to_string()});
        self.write("invitation.json", &record.to_string());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn keystore(&self) -> SoftKeystore {
        let secret = UnlockSecret::read(&self.path("unlock")).unwrap();
        SoftKeystore::open(&self.path("identity.sks"), secret, "identity").unwrap()
    }

    /// The ids of the keys that sign tokens: the next, then the current.
    pub(crate) fn token_keys(&self) -> Vec<String> {
        self.keystore().keys(TOKEN_RING).unwrap().into_iter().map(|key| key.id).collect()
    }

    /// A token as nobody makes it who does not have the keys.
    pub(crate) fn signed_by_the_token_key(&self, typ: &str, claims: &Value) -> String {
        let keystore = self.keystore();
        let kid = keystore.current(TOKEN_RING).unwrap().id;
        let input = signing_input(&json!({"alg": "EdDSA", "typ": typ, "kid": kid}), claims);
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(keystore.sign(&kid, input.as_bytes()).unwrap()))
    }

    /// The configuration, with `more` on top.
    pub(crate) fn config(&self, more: &str) -> Config {
        load_text(DEFAULT_TOML, &self.config_text(more)).unwrap().config
    }

    /// The same as text: what a process reads.
    pub(crate) fn config_text(&self, more: &str) -> String {
        let CertFiles { ca, cert, key } = self.pki.service("identity");
        let (ca, cert, key) = (ca.display(), cert.display(), key.display());
        let folder = self.folder().display();
        format!(
            "cell.id = 'vn'\nhttps.listen = '127.0.0.1:0'\ngrpc.listen = '127.0.0.1:0'\n\
             tls.ca_file = '{ca}'\ntls.cert_file = '{cert}'\ntls.key_file = '{key}'\n\
             keystore.slot_file = '{folder}/identity.sks'\nkeystore.unlock_secret_file = '{folder}/unlock'\n\
             store.clients_file = '{folder}/clients.json'\nstore.invitation_file = '{folder}/invitation.json'\n\
             redis.url = '{}'\nredis.password_file = '{folder}/redis-password'\n\
             nats.ca_file = '{ca}'\nnats.cert_file = '{cert}'\nnats.key_file = '{key}'\n\
             admin.listen = '127.0.0.1:0'\n{}",
            self.redis.url(),
            if more.contains("nats.url") {
                more.to_owned()
            } else {
                format!("nats.url = 'tls://localhost:1'\nnats.nkey_seed_file = '{folder}/unlock'\n{more}")
            },
        )
    }

    /// Starts the service without a broker; acts are told to this world.
    pub(crate) async fn start(&self) -> Running {
        self.start_with("").await
    }

    pub(crate) async fn start_with(&self, more: &str) -> Running {
        let context = Context::detached(self.clock.clone(), "run-1");
        let service = serve(self.config(more), context.clone(), self.told.clone());
        context.tasks.spawn_critical("service", service);
        self.running(context).await
    }

    pub(crate) async fn running(&self, context: Context) -> Running {
        eventually(BOUND, "a listener", async || {
            assert!(!context.stop.is_requested(), "the service ended");
            context.ready.conditions().get("listening") == Some(&true)
        })
        .await;
        let addresses = context.info.addresses();
        self.at(context, &addresses)
    }

    /// A service at these addresses, which may be another process.
    pub(crate) fn at(&self, context: Context, addresses: &BTreeMap<String, String>) -> Running {
        let CertFiles { ca, cert, key } = self.pki.service("operator");
        let tls = Tls::load(&TlsConfig { ca_file: ca, cert_file: cert, key_file: key }).unwrap();
        Running { https: addresses["https"].clone(), grpc: addresses["grpc"].clone(), tls, context }
    }

    /// How it ends when it cannot start.
    pub(crate) async fn fails_to_start(&self) -> String {
        let context = Context::detached(self.clock.clone(), "run-1");
        let serving = serve(self.config(""), context, self.told.clone());
        // Bounded: one that starts after all serves without end.
        let error = tokio::time::timeout(BOUND, serving).await.unwrap().unwrap_err();
        sotto_runtime::telemetry::chain(&error)
    }
}

/// A running service.
pub(crate) struct Running {
    pub(crate) context: Context,
    pub(crate) https: String,
    grpc: String,
    tls: Tls,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn error(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["error"].as_str().unwrap_or_default())
    }

    pub(crate) fn token(&self) -> &str {
        self.body["access_token"].as_str().unwrap()
    }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.context.stop.request();
        eventually(BOUND, "the end", async || self.context.tasks.held().is_empty()).await;
    }

    /// Sends one request over a connection of its own.
    pub(crate) async fn send(&self, request: Request<Full<bytes::Bytes>>) -> Answer {
        let stream = tokio::net::TcpStream::connect(&self.https).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("identity.sotto.internal").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.tls.client(&["http/1.1"]).unwrap()));
        let stream = TokioIo::new(connector.connect(name, stream).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        self.context.tasks.spawn_background("client", async move {
            // It ends badly when the server breaks off, which the answer shows.
            let _ended = connection.await;
        });
        let response = sender.send_request(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or_default() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header("host", "identity.sotto.internal");
        self.send(request.body(Full::default()).unwrap()).await
    }

    /// A token request with these form fields and headers.
    pub(crate) async fn ask(&self, form: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
        self.ask_raw(form_text(form), headers).await
    }

    pub(crate) async fn ask_raw(&self, form: impl Into<bytes::Bytes>, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::post("/oauth2/token")
            .header("host", "identity.sotto.internal")
            .header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::from(form.into())).unwrap()).await
    }

    /// A token request with an assertion.
    pub(crate) async fn ask_with(&self, assertion: &str, more: &[(&str, &str)]) -> Answer {
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_assertion_type", JWT_BEARER),
            ("client_assertion", assertion),
        ];
        form.extend(more);
        self.ask(&form, &[]).await
    }

    pub(crate) fn grpc_address(&self) -> &str {
        &self.grpc
    }

    pub(crate) async fn jwks(&self) -> Value {
        self.get("/.well-known/jwks.json").await.body
    }

    pub(crate) fn grpc_as(&self, pki: &Pki, service: &str) -> ClientServiceClient<Channel> {
        let CertFiles { ca, cert, key } = pki.service(service);
        let tls = Tls::load(&TlsConfig { ca_file: ca, cert_file: cert, key_file: key }).unwrap();
        self.grpc_over(&tls)
    }

    pub(crate) fn grpc(&self) -> ClientServiceClient<Channel> {
        self.grpc_over(&self.tls)
    }

    pub(crate) fn grpc_over(&self, tls: &Tls) -> ClientServiceClient<Channel> {
        let endpoint = format!("https://{}", self.grpc);
        ClientServiceClient::new(grpc::channel(&endpoint, tls, "identity.sotto.internal", BOUND).unwrap())
    }

    /// Redeems the invitation and returns the owner with a key.
    pub(crate) async fn owner(&self) -> Key {
        let key = SigningKey::generate().unwrap();
        let request = RedeemInvitationRequest {
            invitation: INVITATION.to_owned(),
            authentication: Some(with_key(&key)),
        };
        let redeemed = self.grpc().redeem_invitation(request).await.unwrap().into_inner();
        Key { id: redeemed.client.unwrap().client_id, key, next: AtomicU64::new(0) }
    }
}

/// A client with a key.
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) key: SigningKey,
    next: AtomicU64,
}

impl Key {
    pub(crate) fn new(id: String, key: SigningKey) -> Self {
        Self { id, key, next: AtomicU64::new(0) }
    }

    /// The claims of a sound assertion.
    pub(crate) fn claims(&self, world: &World) -> Value {
        let now = world.clock.now().unix_seconds();
        let jti = format!("jti-{}", self.next.fetch_add(1, Ordering::Relaxed));
        json!({"iss": self.id, "sub": self.id, "aud": ISSUER, "iat": now, "exp": now + 60, "jti": jti})
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": "EdDSA", "typ": "JWT"}), claims)
    }

    pub(crate) fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let input = signing_input(header, claims);
        let signature = self.key.sign(input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A sound assertion, good for one request.
    pub(crate) fn assertion(&self, world: &World) -> String {
        self.sign(&self.claims(world))
    }
}

pub(crate) fn signing_input(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

pub(crate) fn with_key(key: &SigningKey) -> ClientAuthentication {
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": key.public().jwk_x()});
    ClientAuthentication { method: Some(Method::PublicJwk(jwk.to_string())) }
}

pub(crate) fn with_secret() -> ClientAuthentication {
    ClientAuthentication { method: Some(Method::GenerateSecret(true)) }
}

/// Every byte escaped: harsher than any client.
pub(crate) fn form_text(form: &[(&str, &str)]) -> String {
    let escape = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    form.iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect::<Vec<_>>()
        .join("&")
}
