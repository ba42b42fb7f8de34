//! A cell around ingress: a real broker, a real Redis, and identity and privacy as ingress meets them on the wire.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU16,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use sotto_bus::{
    Bus, BusOptions, ClientConnection, ClientIdentity, NatsConfig, Service as Party, Topology,
    topology::{self, ClientUser, ServerOptions},
};
use sotto_core::{Clock as _, Shards, SystemClock, Timestamp, work::KeyWrap};
use sotto_crypto::{hash::sha256, hpke::SealingKey};
use sotto_ingress::{
    adapters::{
        publishers::INTAKE_RING,
        store::{Store, StoreOptions, Terms},
    },
    app::intake::IDEMPOTENCY_RING,
    config::{Config, DEFAULT_TOML},
    domain::pace::Pace,
};
use sotto_keystore::{KeyKind, Keystore as _, SoftKeystore, UnlockSecret};
use sotto_proto::{
    message::v1::MessageClass as WireClass,
    pipeline::v1 as pipeline,
    privacy::v1::{
        CreateAbuseKeyRequest, CreateAbuseKeyResponse, CreateInboundKeyRequest, CreateInboundKeyResponse,
        CreateIndexKeyRequest, CreateIndexKeyResponse, CreateSessionKeyRequest, CreateSessionKeyResponse,
        FindSubjectRequest, FindSubjectResponse, ListEndedBucketsRequest, ListEndedBucketsResponse,
        ListPseudonymKeysRequest, ListPseudonymKeysResponse, SealedKeys, UnwrapKeysRequest,
        UnwrapKeysResponse,
        key_service_server::{KeyService, KeyServiceServer},
        subject_service_server::{SubjectService, SubjectServiceServer},
    },
    to_wire_time,
};
use sotto_runtime::{
    Stop, Tasks,
    config::{TlsConfig, testing::load_text},
    grpc::{GrpcServer, ServerLimits},
    listener::TlsListener,
    redis::Redis,
    tls::{ClientAuth, Tls},
};
use sotto_testkit::{CertFiles, NatsOptions, NatsServer, Pki, RedisOptions, RedisServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Request, Response, Status};

use crate::tokens;

/// Bound of every wait.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

const PASSWORD: &str = "a-password-of-tests";

pub(crate) fn shards() -> Shards {
    Shards::new(NonZeroU16::new(2).unwrap())
}

fn vn() -> topology::Cell {
    topology::Cell { id: "vn".parse().unwrap(), shards: shards(), replicas: sotto_core::Replicas::One }
}

pub(crate) fn tls(pki: &Pki, service: &str) -> Tls {
    let CertFiles { ca, cert, key } = pki.service(service);
    Tls::load(&TlsConfig { ca_file: ca, cert_file: cert, key_file: key }).unwrap()
}

fn password_file(pki: &Pki) -> PathBuf {
    pki.dir().join("redis-password")
}

/// A Redis as `sotto init` sets it up for ingress.
pub(crate) async fn redis(pki: &Pki) -> RedisServer {
    let file = password_file(pki);
    fs::write(&file, PASSWORD).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let hash: String = sha256(PASSWORD.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let acl = format!(
        "user default off resetpass resetkeys resetchannels -@all\n\
         user ingress on #{hash} ~sotto:ingress:* %R~sotto:carrier:{{s*}}:ready ~sotto:carrier:{{s*}}:sent:* resetchannels -@all +@read +@write +@scripting +@transaction \
         +@connection +time -@dangerous +info\n"
    );
    let tls = Some(pki.service("redis"));
    RedisServer::start(RedisOptions { tls, acl: Some(acl), ..RedisOptions::default() }).await
}

/// The whole configuration; `lines` come after what every test needs and replace it key by key.
pub(crate) fn config(pki: &Pki, lines: &str) -> Config {
    let CertFiles { ca, cert, key } = pki.service("ingress");
    let (ca, cert, key) = (ca.display(), cert.display(), key.display());
    let folder = pki.dir().display();
    let given = |key: &str| lines.lines().any(|line| line.starts_with(&format!("{key} =")));
    let needed = format!(
        "cell.id = 'vn'\ncell.shards = 2\ngrpc.listen = '127.0.0.1:0'\nops.listen = '127.0.0.1:0'\n\
         tls.ca_file = '{ca}'\ntls.cert_file = '{cert}'\ntls.key_file = '{key}'\n\
         tokens.issuer = '{issuer}'\ntokens.audience = '{audience}'\n\
         tokens.jwks_url = 'https://localhost:1/jwks'\n\
         keystore.file = '{folder}/ingress.sks'\nkeystore.unlock_secret_file = '{folder}/unlock'\n\
         privacy.endpoint = 'https://localhost:1'\nnats.url = 'tls://localhost:1'\n\
         nats.ca_file = '{ca}'\nnats.cert_file = '{cert}'\nnats.key_file = '{key}'\n\
         nats.nkey_seed_file = '{folder}/ingress.nkey'\n\
         redis.url = 'rediss://localhost:1'\nredis.password_file = '{folder}/redis-password'\n",
        issuer = tokens::ISSUER,
        audience = tokens::AUDIENCE,
    );
    let kept = needed.lines().filter(|line| !given(line.split(" =").next().unwrap()));
    let text: String = kept.chain(lines.lines()).map(|line| format!("{line}\n")).collect();
    if !pki.dir().join("unlock").exists() {
        let secret = UnlockSecret::create(&pki.dir().join("unlock")).unwrap();
        let keystore = SoftKeystore::create(&pki.dir().join("ingress.sks"), secret, "ingress").unwrap();
        keystore.generate(IDEMPOTENCY_RING, KeyKind::HmacSha256, 0).unwrap();
        keystore.generate(INTAKE_RING, KeyKind::X25519, 0).unwrap();
    }
    load_text::<Config>(DEFAULT_TOML, &text).unwrap().config
}

/// How long things live in tests.
pub(crate) const TERMS: Terms = Terms {
    grace: Duration::from_secs(60),
    receipt_wait: Duration::from_secs(3 * 86_400),
    keep: Duration::from_secs(86_400),
};

/// One process's view of the Redis at this port.
pub(crate) fn store(pki: &Pki, port: u16, clock: Arc<dyn sotto_core::Clock>) -> Store {
    let config = config(pki, &format!("redis.url = 'rediss://localhost:{port}'"));
    Store::new(StoreOptions {
        redis: Redis::new(&config.redis, &tls(pki, "ingress")).unwrap(),
        shards: shards(),
        clock,
        terms: TERMS,
        pace: Pace { rate: 10, burst: 3 },
        alone: 50,
        patience: Duration::from_secs(1),
    })
}

/// Tenants with a client that may ask over the broker.
const TENANTS: [&str; 2] = ["acme", "other"];

/// A broker set up as a cell has it.
pub(crate) struct Broker {
    pub(crate) server: NatsServer,
    seeds: BTreeMap<Party, PathBuf>,
    instances: AtomicU32,
}

impl Broker {
    pub(crate) async fn start(pki: &Pki) -> Self {
        Self::start_with(pki, &Topology::embedded().unwrap()).await
    }

    /// A cell that was made with this list of streams.
    pub(crate) async fn start_with(pki: &Pki, list: &Topology) -> Self {
        let mut seeds = BTreeMap::new();
        let mut users = Vec::new();
        for party in Party::ALL {
            let keys = nkeys::KeyPair::new_user();
            let file = pki.dir().join(format!("{party}.nkey"));
            sotto_testkit::write_secret(&file, keys.seed().unwrap());
            seeds.insert(party, file);
            users.push((party, vec![keys.public_key()]));
        }
        let CertFiles { ca, cert, key } = pki.service("nats");
        let options = ServerOptions {
            cell: vn(),
            server_name: "vn-1".to_owned(),
            cluster: None,
            listen: "127.0.0.1:4222".to_owned(),
            store_dir: "given-on-the-command-line".into(),
            ca_file: ca,
            cert_file: cert,
            key_file: key,
            users,
        };
        let text = topology::nats_server_conf(list, &options);
        // The test's server gets its store folder on the command line, and only once.
        let kept: Vec<_> = text.lines().filter(|line| !line.contains("store_dir")).collect();
        let file = pki.dir().join("nats-server.conf");
        fs::write(&file, kept.join("\n")).unwrap();
        let clients = TENANTS.map(|tenant| {
            let keys = nkeys::KeyPair::new_user();
            sotto_testkit::write_secret(&pki.dir().join(format!("of-{tenant}.nkey")), keys.seed().unwrap());
            let (nkey, client) = (keys.public_key(), format!("of-{tenant}"));
            ClientUser { nkey, tenant: tenant.parse().unwrap(), client }
        });
        let clients = topology::nats_clients_conf(&options.cell.id, &clients);
        fs::write(pki.dir().join(topology::CLIENTS_FILE), clients).unwrap();
        let server =
            NatsServer::start(NatsOptions { config_file: Some(file), ..NatsOptions::default() }).await;
        let broker = Self { server, seeds, instances: AtomicU32::new(0) };
        topology::apply(&broker.bus(pki, Party::Provisioner).await, list, &[]).await.unwrap();
        broker
    }

    /// The tenant's client.
    pub(crate) async fn client(&self, pki: &Pki, tenant: &str) -> ClientConnection {
        let name = format!("of-{tenant}");
        let CertFiles { ca, cert, key } = pki.named(&name, &[&format!("{name}.client.sotto.internal")]);
        let nats = NatsConfig {
            url: self.server.tls_url(),
            ca_file: ca,
            cert_file: cert,
            key_file: key,
            nkey_seed_file: pki.dir().join(format!("{name}.nkey")),
            connect_timeout_ms: 5_000,
        };
        let identity = ClientIdentity { cell: vn().id, tenant: tenant.parse().unwrap(), client: name };
        ClientConnection::connect(&nats, identity).await.unwrap()
    }

    pub(crate) async fn bus(&self, pki: &Pki, party: Party) -> Bus {
        let CertFiles { ca, cert, key } = pki.service(party.name());
        let nats = NatsConfig {
            url: self.server.tls_url(),
            ca_file: ca,
            cert_file: cert,
            key_file: key,
            nkey_seed_file: self.seeds[&party].clone(),
            connect_timeout_ms: 5_000,
        };
        let options = BusOptions {
            service: party,
            instance: format!("t{}", self.instances.fetch_add(1, Ordering::Relaxed)),
            cell: vn(),
            topology: Topology::embedded().unwrap(),
            clock: Arc::new(SystemClock),
            digest: Arc::new(|_| [0; 32]),
        };
        Bus::connect(&nats, options).await.unwrap()
    }
}

/// Identity and privacy, as far as ingress asks them.
pub(crate) struct Peers {
    pub(crate) jwks: u16,
    pub(crate) privacy: u16,
    pub(crate) keys: FakePrivacy,
    stop: Stop,
}

impl Peers {
    pub(crate) async fn start(pki: &Pki) -> Self {
        let stop = Stop::default();
        let tasks = Tasks::new(stop.clone());
        let server = tls(pki, "identity").server(ClientAuth::None, &["http/1.1"]).unwrap();
        let listener = TlsListener::bind("127.0.0.1:0".parse().unwrap(), server, 16).await.unwrap();
        let jwks = listener.local_addr().port();
        tasks.spawn_background("jwks", serve_jwks(listener, stop.clone()));
        let limits = ServerLimits::default();
        let address = "127.0.0.1:0".parse().unwrap();
        let server =
            GrpcServer::bind(address, &tls(pki, "privacy"), ClientAuth::Required, limits).await.unwrap();
        let privacy = server.local_addr().port();
        let (until, keys) = (stop.clone(), FakePrivacy::default());
        let served = keys.clone();
        tasks.spawn_background("privacy", async move {
            let subjects = SubjectServiceServer::new(served.clone());
            let add = |server: &mut tonic::transport::Server| {
                server.add_service(KeyServiceServer::new(served)).add_service(subjects)
            };
            server.serve(&until, add).await
        });
        Self { jwks, privacy, keys, stop }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.stop.request();
    }
}

async fn serve_jwks(mut listener: TlsListener, stop: Stop) {
    let point = tokens::signing_key().public();
    let x = point.jwk_x();
    let body = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"k1","use":"sig"}}]}}"#);
    loop {
        let mut connection = tokio::select! {
            connection = listener.accept() => connection,
            () = stop.requested() => return,
        };
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match connection.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => break,
            }
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _gone = connection.write_all(format!("{head}{body}").as_bytes()).await;
        let _gone = connection.shutdown().await;
    }
}

/// Where the bucket of a need dies: on the hour for one-time codes, at midnight for the others.
fn death(class: WireClass, needed_until: Timestamp) -> Timestamp {
    let grain = if class == WireClass::Otp { 3_600_000 } else { 86_400_000 };
    Timestamp::from_unix_millis((needed_until.unix_millis() + grain - 1).div_euclid(grain) * grain)
}

/// Privacy that makes keys, as long as it may, and counts them.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakePrivacy {
    pub(crate) made: Arc<AtomicU32>,
    pub(crate) down: Arc<AtomicBool>,
    /// What ended before its time.
    pub(crate) ended: Arc<Mutex<ListEndedBucketsResponse>>,
    /// Whether it gives no keys for the index.
    pub(crate) indexless: Arc<AtomicBool>,
    /// How many keys of the day it has had.
    pub(crate) abuse: Arc<AtomicU32>,
    /// What it was asked to find, and what it says.
    pub(crate) asked: Arc<Mutex<Vec<FindSubjectRequest>>>,
    pub(crate) found: Arc<Mutex<FindSubjectResponse>>,
}

/// The keys of the fake's index: one seals, the others make pseudonyms.
pub(crate) const SEALING: [u8; 32] = [3; 32];
pub(crate) const PSEUDONYMS: [[u8; 32]; 2] = [[4; 32], [5; 32]];
pub(crate) const INDEX: [&str; 2] = ["index/2027-02-27", "index/2027-02-26"];

/// The day's bucket, and the one that takes its place.
pub(crate) const ABUSE: [&str; 2] = ["abuse/2026-11-30", "abuse/2026-11-30.2"];

impl FakePrivacy {
    /// The end of the fake's day.
    pub(crate) fn abuse_dies_at(&self) -> Timestamp {
        death(WireClass::Transactional, SystemClock.now().plus(Duration::from_secs(86_400)))
    }

    /// The key of the day is another one from now on.
    pub(crate) fn new_abuse_key(&self) {
        self.abuse.fetch_add(1, Ordering::SeqCst);
    }
}

fn sealed_for(reply_key: &[u8], keys: &[[u8; 32]]) -> SealedKeys {
    let sealed = SealingKey::from_bytes(reply_key.try_into().unwrap()).seal_keys(keys).unwrap();
    SealedKeys {
        encapsulated_key: bytes::Bytes::copy_from_slice(&sealed.encapsulated_key),
        ciphertext: sealed.ciphertext.into(),
    }
}

#[tonic::async_trait]
impl SubjectService for FakePrivacy {
    async fn list_pseudonym_keys(
        &self,
        request: Request<ListPseudonymKeysRequest>,
    ) -> Result<Response<ListPseudonymKeysResponse>, Status> {
        let sealed = vec![sealed_for(&request.get_ref().reply_key, &PSEUDONYMS)];
        Ok(Response::new(ListPseudonymKeysResponse { buckets: INDEX.map(str::to_owned).to_vec(), sealed }))
    }

    async fn find_subject(
        &self,
        request: Request<FindSubjectRequest>,
    ) -> Result<Response<FindSubjectResponse>, Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        Ok(Response::new(self.found.lock().unwrap().clone()))
    }
}

#[tonic::async_trait]
impl KeyService for FakePrivacy {
    async fn create_session_key(
        &self,
        request: Request<CreateSessionKeyRequest>,
    ) -> Result<Response<CreateSessionKeyResponse>, Status> {
        if self.down.load(Ordering::SeqCst) {
            return Err(Status::unavailable("away"));
        }
        self.made.fetch_add(1, Ordering::SeqCst);
        let CreateSessionKeyRequest { tenant, class, needed_until, needed_from: _, reply_key } =
            request.into_inner();
        let reply = SealingKey::from_bytes(reply_key.as_ref().try_into().unwrap());
        let sealed = reply.seal_keys([&[2; 32]]).unwrap();
        let needed_until = sotto_proto::from_wire_time(needed_until.unwrap());
        let class = WireClass::try_from(class).unwrap();
        let wrap = KeyWrap {
            key_id: [1; 16],
            tenant: tenant.parse().unwrap(),
            class: class.try_into().unwrap(),
            bucket: "any/2026-11-24".to_owned(),
            wrapped: bytes::Bytes::from_static(&[0; 62]),
        };
        Ok(Response::new(CreateSessionKeyResponse {
            wrap: Some(pipeline::KeyWrap::from(&wrap)),
            key: bytes::Bytes::new(),
            seal_until: Some(to_wire_time(SystemClock.now().plus(Duration::from_secs(300)))),
            dies_at: Some(to_wire_time(death(class, needed_until))),
            sealed: Some(SealedKeys {
                encapsulated_key: bytes::Bytes::copy_from_slice(&sealed.encapsulated_key),
                ciphertext: sealed.ciphertext.into(),
            }),
        }))
    }

    async fn unwrap_keys(
        &self,
        _: Request<UnwrapKeysRequest>,
    ) -> Result<Response<UnwrapKeysResponse>, Status> {
        Err(Status::permission_denied("not for ingress"))
    }

    async fn create_inbound_key(
        &self,
        _: Request<CreateInboundKeyRequest>,
    ) -> Result<Response<CreateInboundKeyResponse>, Status> {
        Err(Status::permission_denied("not for ingress"))
    }

    async fn create_index_key(
        &self,
        request: Request<CreateIndexKeyRequest>,
    ) -> Result<Response<CreateIndexKeyResponse>, Status> {
        if self.indexless.load(Ordering::SeqCst) {
            return Err(Status::unimplemented("of the version before"));
        }
        Ok(Response::new(CreateIndexKeyResponse {
            key_id: bytes::Bytes::from_static(&[9; 16]),
            bucket: INDEX[0].to_owned(),
            seal_until: Some(to_wire_time(SystemClock.now().plus(Duration::from_secs(300)))),
            sealed: Some(sealed_for(&request.get_ref().reply_key, &[SEALING, PSEUDONYMS[0]])),
        }))
    }

    async fn create_abuse_key(
        &self,
        request: Request<CreateAbuseKeyRequest>,
    ) -> Result<Response<CreateAbuseKeyResponse>, Status> {
        if self.indexless.load(Ordering::SeqCst) {
            return Err(Status::unimplemented("of the version before"));
        }
        let number = self.abuse.load(Ordering::SeqCst);
        Ok(Response::new(CreateAbuseKeyResponse {
            bucket: ABUSE[usize::try_from(number).unwrap()].to_owned(),
            use_until: Some(to_wire_time(SystemClock.now().plus(Duration::from_secs(300)))),
            dies_at: Some(to_wire_time(self.abuse_dies_at())),
            sealed: Some(sealed_for(
                &request.get_ref().reply_key,
                &[[u8::try_from(number).unwrap() + 6; 32]],
            )),
        }))
    }

    async fn list_ended_buckets(
        &self,
        _: Request<ListEndedBucketsRequest>,
    ) -> Result<Response<ListEndedBucketsResponse>, Status> {
        if self.down.load(Ordering::SeqCst) {
            return Err(Status::unavailable("away"));
        }
        Ok(Response::new(self.ended.lock().unwrap().clone()))
    }
}
