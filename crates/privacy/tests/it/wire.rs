//! The whole service on the wire: mutual TLS, real certificates, gRPC clients as ingress and connector use them.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use bytes::Bytes;
use sotto_core::{Clock as _, work::KeyWrap};
use sotto_crypto::{
    AeadKey,
    envelope::{Binding, Sealer, open},
    hpke::OpeningKey,
};
use sotto_privacy::{
    config::{Config, DEFAULT_TOML},
    service::serve,
};
use sotto_proto::{
    from_wire_time,
    message::v1::MessageClass,
    pipeline::v1 as pipeline,
    privacy::v1::{
        CreateInboundKeyRequest, CreateSessionKeyRequest, CreateSessionKeyResponse, ListKeysRequest,
        SealedKeys, UnwrapKeysRequest, UnwrapRefusal, UnwrappedKey,
        key_admin_service_client::KeyAdminServiceClient, key_service_client::KeyServiceClient, unwrapped_key,
    },
    to_wire_time,
};
use sotto_runtime::{
    Context,
    config::{TlsConfig, testing::load_text},
    grpc::channel,
    tls::Tls,
};
use sotto_testkit::{CertFiles, Pki, eventually};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::world::{MINUTE, NOW, World};

pub(crate) const BOUND: Duration = Duration::from_secs(20);

struct Served {
    context: Context,
    pki: Pki,
    port: String,
}

impl Served {
    async fn start(world: &World) -> Self {
        Self::start_with(world, Pki::new(), "").await
    }

    async fn start_with(world: &World, pki: Pki, more: &str) -> Self {
        let config = config(world, &pki, more);
        let context = Context::detached(world.clock.clone(), "run-1");
        let served =
            serve(config, context.clone(), world.steady.clone(), world.told.clone(), world.stored.clone());
        context.tasks.spawn_critical("service", served);
        // Before they are registered, no condition at all would pass for all of them.
        let all =
            BTreeMap::from(["destruction", "keystore", "listening"].map(|name| (name.to_owned(), true)));
        eventually(BOUND, "readiness", async || context.ready.conditions() == all).await;
        let port = context.info.addresses()["grpc"].rsplit(':').next().unwrap().to_owned();
        Self { context, pki, port }
    }

    fn client(&self, service: &str) -> KeyServiceClient<Channel> {
        client(&self.pki, &self.port, service)
    }

    /// Waits until the metrics tell that a restart would find the keys, or would not. The service is ready all the while.
    async fn kept(&self, kept: bool) {
        let told = format!("sotto_condition{{condition=\"keystore_file\"}} {}.0", u8::from(kept));
        let tells = async || self.context.metrics.page().lines().any(|line| line == told);
        eventually(BOUND, "the file's condition", tells).await;
        assert!(self.context.ready.is_ready());
    }

    async fn stop(self) -> Pki {
        self.context.stop.request();
        eventually(BOUND, "the end", async || self.context.tasks.held().is_empty()).await;
        self.pki
    }
}

pub(crate) fn ask(until: sotto_core::Timestamp) -> CreateSessionKeyRequest {
    CreateSessionKeyRequest {
        tenant: "acme".to_owned(),
        class: MessageClass::Otp.into(),
        needed_until: Some(to_wire_time(until)),
        needed_from: None,
        reply_key: Bytes::new(),
    }
}

/// The configuration of a test's service; it has no broker unless `more` names one.
pub(crate) fn config(world: &World, pki: &Pki, more: &str) -> Config {
    let CertFiles { ca, cert, key } = pki.service("privacy");
    let (ca, cert, key) = (ca.display(), cert.display(), key.display());
    let text = format!(
        "cell.id = 'vn'\ngrpc.listen = '127.0.0.1:0'\ndestruction.sweep_every = '500 ms'\n\
         tls.ca_file = '{ca}'\ntls.cert_file = '{cert}'\ntls.key_file = '{key}'\n\
         nats.ca_file = '{ca}'\nnats.cert_file = '{cert}'\nnats.key_file = '{key}'\n\
         keystore.buckets_file = '{}'\nkeystore.unlock_secret_file = '{}'\n{more}",
        world.buckets_file().display(),
        world.secret_file().display(),
    );
    let text = if more.contains("nkey") { text } else { format!("{text}\nnats.nkey_seed_file = 'none'\n") };
    load_text::<Config>(DEFAULT_TOML, &text).unwrap().config
}

/// A client of the service at `port`, with the certificate of another service.
pub(crate) fn client(pki: &Pki, port: &str, service: &str) -> KeyServiceClient<Channel> {
    KeyServiceClient::new(channel_as(pki, port, service))
}

/// The operator's way in.
pub(crate) fn operator(pki: &Pki, port: &str) -> Channel {
    channel_as(pki, port, "operator")
}

fn channel_as(pki: &Pki, port: &str, service: &str) -> Channel {
    let CertFiles { ca, cert, key } = pki.service(service);
    let tls = Tls::load(&TlsConfig { ca_file: ca, cert_file: cert, key_file: key }).unwrap();
    channel(&format!("https://localhost:{port}"), &tls, "privacy.sotto.internal", BOUND).unwrap()
}

pub(crate) async fn make(
    ingress: &mut KeyServiceClient<Channel>,
    until: sotto_core::Timestamp,
) -> CreateSessionKeyResponse {
    ingress.create_session_key(ask(until)).await.unwrap().into_inner()
}

pub(crate) async fn unwrap(
    carrier: &mut KeyServiceClient<Channel>,
    made: &CreateSessionKeyResponse,
) -> Result<UnwrappedKey, Status> {
    let request = UnwrapKeysRequest {
        account: "viettel-otp".to_owned(),
        wraps: vec![made.wrap.clone().unwrap()],
        reply_key: Bytes::new(),
    };
    let mut keys = carrier.unwrap_keys(request).await?.into_inner().keys;
    assert_eq!(keys.len(), 1);
    Ok(keys.remove(0))
}

fn refusal(key: &UnwrappedKey) -> Option<UnwrapRefusal> {
    match &key.result {
        Some(unwrapped_key::Result::Key(_) | unwrapped_key::Result::Sealed(_)) => None,
        Some(unwrapped_key::Result::Refusal(refusal)) => UnwrapRefusal::try_from(*refusal).ok(),
        None => Some(UnwrapRefusal::Unspecified),
    }
}

#[tokio::test]
async fn one_key_from_ingress_to_connector_and_to_its_death() {
    let world = World::new();
    let served = Served::start(&world).await;
    let (mut ingress, mut carrier) = (served.client("ingress"), served.client("carrier"));

    let made = make(&mut ingress, NOW.plus(10 * MINUTE)).await;
    let wrap = KeyWrap::try_from(made.wrap.clone().unwrap()).unwrap();
    assert_eq!(wrap.bucket, "otp/2026-11-24T05");
    let dies_at = from_wire_time(made.dies_at.unwrap());
    assert_eq!(dies_at.to_string(), "2026-11-24T05:00:00.000Z");
    assert_eq!(from_wire_time(made.seal_until.unwrap()), NOW.plus(5 * MINUTE));

    let key = AeadKey::from_bytes(made.key.as_ref().try_into().unwrap());
    let binding =
        Binding { cell: "vn", tenant: "acme", class: "otp", message_id: b"message-id-16-by", schema: 1 };
    let envelope = Sealer::new(wrap.key_id, key, 10).seal(&binding, "Mã của bạn: 482913".as_bytes()).unwrap();

    let opened = unwrap(&mut carrier, &made).await.unwrap();
    assert_eq!(opened.key_id.as_ref(), wrap.key_id);
    assert_eq!(opened.dies_at, made.dies_at);
    let Some(unwrapped_key::Result::Key(key)) = opened.result else { panic!("refused") };
    let key = AeadKey::from_bytes(key.as_ref().try_into().unwrap());
    assert_eq!(open(&key, &binding, &envelope).unwrap().as_slice(), "Mã của bạn: 482913".as_bytes());

    // The service's own task destroys it, without being asked.
    world.clock.set(dies_at);
    let told = Arc::clone(&world.told);
    let mut heard = Vec::new();
    eventually(BOUND, "the destruction", || {
        heard.extend(told.take());
        let destroyed = heard.iter().any(|one| one.starts_with("bucket.destroyed otp/2026-11-24T05,"));
        async move { destroyed }
    })
    .await;
    assert_eq!(refusal(&unwrap(&mut carrier, &made).await.unwrap()), Some(UnwrapRefusal::Destroyed));

    let pki = served.stop().await;
    let told = world.told.take().join("\n");
    assert!(
        told.contains("session_key.opened account=viettel-otp,keys=1,seconds="),
        "the end sums up: {told}"
    );
    assert!(told.contains("session_key.made class=otp,keys=1 ok"), "{told}");
    let served = Served::start_with(&world, pki, "").await;
    let mut carrier = served.client("carrier");
    assert_eq!(refusal(&unwrap(&mut carrier, &made).await.unwrap()), Some(UnwrapRefusal::Destroyed));
    served.stop().await;
}

/// Nothing that passes by, and so nothing that libraries keep of it, holds a key.
#[tokio::test]
async fn keys_are_sealed_for_whoever_asks_with_a_key_of_its_own() {
    let world = World::new();
    let served = Served::start(&world).await;
    let (mut ingress, mut carrier) = (served.client("ingress"), served.client("carrier"));
    let reply = OpeningKey::generate().unwrap();
    let reply_key = Bytes::copy_from_slice(reply.public().as_bytes());
    let open = |sealed: Option<SealedKeys>| {
        let sealed = sealed.unwrap();
        reply.open_keys(&sealed.encapsulated_key, &sealed.ciphertext).unwrap().to_vec()
    };
    let mut made = Vec::new();
    for _ in 0..2 {
        let request = CreateSessionKeyRequest { reply_key: reply_key.clone(), ..ask(NOW.plus(MINUTE)) };
        let answer = ingress.create_session_key(request).await.unwrap().into_inner();
        assert_eq!(answer.key, Bytes::new());
        made.push((answer.wrap.unwrap(), open(answer.sealed)[0]));
    }
    let request = CreateInboundKeyRequest {
        account: "vina".to_owned(),
        tenant: "acme".to_owned(),
        reply_key: reply_key.clone(),
    };
    let inbound = carrier.create_inbound_key(request).await.unwrap().into_inner();
    assert_eq!((inbound.key, open(inbound.sealed).len()), (Bytes::new(), 1));

    // Refused ones have no place among them.
    let mut wraps: Vec<_> = made.iter().map(|(wrap, _)| wrap.clone()).collect();
    wraps.insert(1, pipeline::KeyWrap { wrapped: Bytes::new(), ..wraps[0].clone() });
    let request = UnwrapKeysRequest { account: "vina".to_owned(), wraps, reply_key };
    let answer = carrier.unwrap_keys(request.clone()).await.unwrap().into_inner();
    assert_eq!(open(answer.sealed), made.iter().map(|(_, key)| *key).collect::<Vec<_>>());
    let results: Vec<_> = answer.keys.into_iter().map(|key| key.result.unwrap()).collect();
    let refused = unwrapped_key::Result::Refusal(UnwrapRefusal::Invalid.into());
    assert_eq!(results, [unwrapped_key::Result::Sealed(0), refused, unwrapped_key::Result::Sealed(1)]);

    // Neither a part of a key nor a point that is nobody's key.
    for wrong in [Bytes::from_static(&[1; 31]), Bytes::from_static(&[0; 32])] {
        let request = UnwrapKeysRequest { reply_key: wrong, ..request.clone() };
        let status = carrier.unwrap_keys(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "reply_key");
    }
    served.stop().await;
}

#[tokio::test]
async fn a_key_opens_after_a_restart_of_the_service() {
    let world = World::new();
    let served = Served::start(&world).await;
    let made = make(&mut served.client("ingress"), NOW.plus(10 * MINUTE)).await;
    let pki = served.stop().await;
    let served = Served::start_with(&world, pki, "").await;
    let opened = unwrap(&mut served.client("carrier"), &made).await.unwrap();
    assert_eq!(opened.result, Some(unwrapped_key::Result::Key(made.key)));
    served.stop().await;
}

#[tokio::test]
async fn certificates_decide_who_may_do_what() {
    let world = World::new();
    let served = Served::start(&world).await;
    let made = make(&mut served.client("ingress"), NOW.plus(10 * MINUTE)).await;
    for service in ["ingress", "routing", "identity", "privacy", "audit", "operator", "provisioner"] {
        let status = unwrap(&mut served.client(service), &made).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{service}");
    }
    for service in ["carrier", "routing", "identity", "privacy", "audit", "operator", "provisioner"] {
        let status = served.client(service).create_session_key(ask(NOW.plus(MINUTE))).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{service}");
    }
    let stranger = served.client("billing").create_session_key(ask(NOW.plus(MINUTE))).await.unwrap_err();
    assert_eq!(stranger.code(), Code::Unauthenticated);
    // Of another authority: the handshake fails, no method is reached.
    let foreign = Served { pki: Pki::new(), context: served.context.clone(), port: served.port.clone() };
    let status = foreign.client("ingress").create_session_key(ask(NOW.plus(MINUTE))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    served.stop().await;
}

#[tokio::test]
async fn wrong_requests_name_their_field_and_bound() {
    let world = World::new();
    let served = Served::start_with(&world, Pki::new(), "rate.per_second = 1\nrate.burst = 256\n").await;
    let (mut ingress, mut carrier) = (served.client("ingress"), served.client("carrier"));
    let good = ask(NOW.plus(MINUTE));
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    for (request, field) in [
        (CreateSessionKeyRequest { tenant: "No Tenant".to_owned(), ..good.clone() }, "tenant"),
        (CreateSessionKeyRequest { tenant: String::new(), ..good.clone() }, "tenant"),
        (CreateSessionKeyRequest { class: 0, ..good.clone() }, "class"),
        (CreateSessionKeyRequest { class: 99, ..good.clone() }, "class"),
        (CreateSessionKeyRequest { needed_until: None, ..good.clone() }, "needed_until"),
        (CreateSessionKeyRequest { needed_until: time(i64::MAX, 0), ..good.clone() }, "needed_until"),
        (CreateSessionKeyRequest { needed_until: time(1, -1), ..good.clone() }, "needed_until"),
        (ask(NOW), "needed_until"),
    ] {
        let status = ingress.create_session_key(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations.iter().map(|one| one.field.as_str()).collect::<Vec<_>>(), [field]);
    }

    let far = ingress.create_session_key(ask(NOW.plus(17 * MINUTE).plus(MINUTE / 60))).await.unwrap_err();
    assert_eq!(far.code(), Code::OutOfRange);
    let details = far.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "needed_until");
    let info = details.error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["max_seconds"].as_str()), ("RETENTION_EXCEEDED", "1020"));

    let wrap = make(&mut ingress, NOW.plus(MINUTE)).await.wrap.unwrap();
    let request = |account: &str, count| UnwrapKeysRequest {
        account: account.to_owned(),
        wraps: vec![wrap.clone(); count],
        reply_key: Bytes::new(),
    };
    for (account, count, field) in [("", 1, "account"), ("vina", 0, "wraps"), ("vina", 257, "wraps")] {
        let status = carrier.unwrap_keys(request(account, count)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, field);
    }
    let keys = carrier.unwrap_keys(request("vina", 256)).await.unwrap().into_inner().keys;
    assert!(keys.iter().all(|key| refusal(key).is_none()));
    let status = carrier.unwrap_keys(request("vina", 256)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().unwrap().retry_delay.unwrap() > 200 * MINUTE / 60);

    // One malformed wrap among good ones is refused alone, in its place.
    let mut mixed = request("mobi", 3);
    mixed.wraps[1].wrapped = Bytes::new();
    mixed.wraps[2].key_id = b"short".as_ref().into();
    let keys = carrier.unwrap_keys(mixed).await.unwrap().into_inner().keys;
    let refusals: Vec<_> = keys.iter().map(refusal).collect();
    assert_eq!(refusals, [None, Some(UnwrapRefusal::Invalid), Some(UnwrapRefusal::Invalid)]);
    served.stop().await;
}

/// It goes on with what it has in memory, and says so before a restart would lose it.
#[tokio::test]
async fn a_key_file_that_is_moved_away_or_replaced_by_an_older_one_is_told_of_while_the_service_runs() {
    let world = World::new();
    let served = Served::start(&world).await;
    let (file, aside) = (world.buckets_file(), world.buckets_file().with_extension("aside"));
    let older = fs::read(&file).unwrap();
    let made = make(&mut served.client("ingress"), NOW.plus(10 * MINUTE)).await;
    let opens = async || {
        let opened = unwrap(&mut served.client("carrier"), &made).await.unwrap();
        assert_eq!(opened.result, Some(unwrapped_key::Result::Key(made.key.clone())));
    };

    // The key of the next hour: nothing else will be written.
    let keys = KeyAdminServiceClient::new(operator(&served.pki, &served.port));
    eventually(BOUND, "the next key", async || {
        let listed = keys.clone().list_keys(ListKeysRequest::default()).await.unwrap().into_inner().keys;
        listed.iter().any(|key| key.bucket == "otp/2026-11-24T06")
    })
    .await;
    fs::rename(&file, &aside).unwrap();
    served.kept(false).await;
    opens().await;
    let mut other = ask(NOW.plus(10 * MINUTE));
    other.class = MessageClass::Promotional.into();
    let refused = served.client("ingress").create_session_key(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    fs::copy(&aside, &file).unwrap();
    served.kept(true).await;

    fs::write(&file, older).unwrap();
    served.kept(false).await;
    opens().await;
    fs::rename(&aside, &file).unwrap();
    served.kept(true).await;
    opens().await;
    served.stop().await;
}

#[tokio::test]
async fn a_second_process_does_not_open_the_keys() {
    let world = World::new();
    let served = Served::start(&world).await;
    let second = sotto_keystore::SoftBuckets::open(
        &world.buckets_file(),
        sotto_keystore::UnlockSecret::read(&world.secret_file()).unwrap(),
        "privacy",
    );
    assert!(matches!(second, Err(sotto_keystore::KeystoreError::InUse { .. })));
    assert!(world.clock.now() == NOW);
    served.stop().await;
}
