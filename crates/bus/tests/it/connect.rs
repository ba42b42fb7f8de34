//! Connecting and setting up.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sotto_bus::{
    Bus, ConnectError, NatsConfig, Service, Topology, WorkError, Worker, WorkerConfig,
    topology::{self, SetupError},
};
use sotto_core::{Classified as _, ErrorClass};
use sotto_testkit::{Pki, eventually, write_secret};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    time::Duration,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::cell::{BOUND, STREAMS, Script, TestCell, Texts, accounts};

#[tokio::test]
async fn applying_twice_changes_nothing_and_every_service_finds_its_settings() {
    let cell = TestCell::start().await;
    let provisioner = cell.bus(Service::Provisioner).await;
    let applied = topology::apply(&provisioner, &cell.topology, &accounts()).await.unwrap();
    assert_eq!(applied, topology::Applied::default());
    for service in Service::ALL {
        let bus = cell.bus(service).await;
        topology::verify(&bus, &accounts()).await.unwrap();
    }
}

#[tokio::test]
async fn a_removed_account_is_told_and_left_alone() {
    let cell = TestCell::start().await;
    let provisioner = cell.bus(Service::Provisioner).await;
    let two = ["mobi".parse().unwrap(), "vina".parse().unwrap()];
    let applied = topology::apply(&provisioner, &cell.topology, &two).await.unwrap();
    assert_eq!(applied.created.len(), 3);
    let applied = topology::apply(&provisioner, &cell.topology, &accounts()).await.unwrap();
    assert_eq!(applied.stale.len(), 3);
    assert!(applied.stale.contains(&"VN_WAITING/carrier-vina-otp".to_owned()));
}

#[tokio::test]
async fn settings_that_differ_are_named_and_applying_mends_them() {
    let cell = TestCell::start().await;
    let stricter = STREAMS
        .replace("max_messages_per_subject = 10_000", "max_messages_per_subject = 9_999")
        .replace("ack_wait_s = 90", "ack_wait_s = 91");
    let stricter = Topology::parse(&stricter).unwrap();
    let options = sotto_bus::BusOptions { topology: stricter.clone(), ..cell.options(Service::Carrier) };
    let carrier = Bus::connect(&cell.config(Service::Carrier), options).await.unwrap();
    let error = topology::verify(&carrier, &accounts()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Reject);
    let text = error.to_string();
    assert!(
        text.contains("VN_WAITING") && text.contains("max_msgs_per_subject: wanted 9999, found 10000"),
        "{text}"
    );
    let consumer = topology::consumer_name::carrier(accounts().first().unwrap(), sotto_core::Lane::Otp);
    let config = WorkerConfig::default();
    let worker = Worker::<Texts>::start(
        &carrier,
        "WAITING",
        std::slice::from_ref(&consumer),
        Script::all_done(),
        config,
    )
    .await;
    assert!(matches!(worker.unwrap_err(), WorkError::Setup(SetupError::Drift { .. })));

    let provisioner = cell.bus(Service::Provisioner).await;
    let applied = topology::apply(&provisioner, &stricter, &accounts()).await.unwrap();
    assert_eq!(applied.updated.len(), 4, "{applied:?}");
    topology::verify(&carrier, &accounts()).await.unwrap();
}

#[tokio::test]
async fn a_service_does_not_start_without_its_streams() {
    let cell = TestCell::without_streams(Topology::embedded().unwrap()).await;
    let bus = cell.bus(Service::Routing).await;
    assert!(matches!(topology::verify(&bus, &[]).await, Err(SetupError::Drift { .. })));
}

#[tokio::test]
async fn too_short_an_ack_wait_is_a_start_up_error() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Routing).await;
    let config = WorkerConfig { handler_timeout: Duration::from_secs(29), ..WorkerConfig::default() };
    let consumers = ["routing-otp".to_owned()];
    let worker = Worker::<Texts>::start(&bus, "INTAKE", &consumers, Script::all_done(), config).await;
    assert!(matches!(worker.unwrap_err(), WorkError::Setup(SetupError::AckWait { .. })));
}

#[tokio::test]
async fn anothers_consumer_is_refused() {
    let cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let consumers = ["routing-otp".to_owned()];
    let config = WorkerConfig::default();
    let worker = Worker::<Texts>::start(&bus, "INTAKE", &consumers, Script::all_done(), config).await;
    assert!(matches!(worker.unwrap_err(), WorkError::NoConsumer { .. }));
}

#[tokio::test]
async fn a_seed_that_lies_open_is_not_used() {
    let cell = TestCell::start().await;
    let config = cell.config(Service::Routing);
    fs::set_permissions(&config.nkey_seed_file, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Bus::connect(&config, cell.options(Service::Routing)).await.unwrap_err();
    assert!(matches!(error, ConnectError::SeedOpen { .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Reject);
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[tokio::test]
async fn strangers_do_not_get_in() {
    let cell = TestCell::start().await;
    let options = || cell.options(Service::Routing);
    let good = cell.config(Service::Routing);

    let foreign_key = cell.pki.dir().join("foreign.nkey");
    write_secret(&foreign_key, nkeys::KeyPair::new_user().seed().unwrap());
    let config = NatsConfig { nkey_seed_file: foreign_key, ..good.clone() };
    let error = Bus::connect(&config, options()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unauthorized { .. }), "{error:?}");

    // A certificate of another authority, presented as client.
    let other = Pki::new();
    let foreign = other.service("routing");
    let config = NatsConfig { cert_file: foreign.cert, key_file: foreign.key, ..good.clone() };
    let error = Bus::connect(&config, options()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");

    // A server of another authority.
    let config = NatsConfig { ca_file: other.ca(), ..good.clone() };
    let error = Bus::connect(&config, options()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");

    let config = NatsConfig { url: "nats://localhost:1".to_owned(), ..good.clone() };
    assert!(matches!(Bus::connect(&config, options()).await, Err(ConnectError::Settings(_))));
    let config = NatsConfig { nkey_seed_file: "/nonexistent".into(), ..good };
    assert!(matches!(Bus::connect(&config, options()).await, Err(ConnectError::Seed { .. })));
}

#[tokio::test]
async fn an_old_server_is_refused_by_its_version() {
    let cell = TestCell::without_streams(Topology::embedded().unwrap()).await;
    let old = OldServer::start(&cell.pki).await;
    let config = NatsConfig { url: format!("tls://localhost:{}", old.port), ..cell.config(Service::Ingress) };
    let error = Bus::connect(&config, cell.options(Service::Ingress)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::TooOld { found } if found == "2.9.10"), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Reject);
    assert!(error.to_string().contains("at least 2.12"));
}

#[tokio::test]
async fn the_connections_state_follows_the_server() {
    let mut cell = TestCell::start().await;
    let bus = cell.bus(Service::Ingress).await;
    let state = bus.state();
    eventually(BOUND, "the connection", || async { state.borrow().connected }).await;
    cell.server.kill().await;
    eventually(BOUND, "the loss", || async { !state.borrow().connected }).await;
    cell.server.restart().await;
    eventually(BOUND, "the return", || async { state.borrow().connected }).await;
    assert_eq!(state.borrow().generation, 2);
}

/// Says that it is nats-server 2.9.10, over TLS first.
struct OldServer {
    port: u16,
    _serving: AbortOnDropHandle<()>,
}

impl OldServer {
    async fn start(pki: &Pki) -> Self {
        let files = pki.service("old-nats");
        let chain = CertificateDer::pem_file_iter(&files.cert).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
        let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = TaskTracker::new().spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut lines = BufReader::new(acceptor.accept(stream).await.unwrap());
                let info = "INFO {\"server_id\":\"x\",\"version\":\"2.9.10\",\"host\":\"localhost\",\"port\":1,\
                            \"max_payload\":1048576,\"headers\":true,\"proto\":1,\"nonce\":\"abc\"}\r\n";
                lines.write_all(info.as_bytes()).await.unwrap();
                let mut line = String::new();
                while lines.read_line(&mut line).await.unwrap_or(0) > 0 {
                    if line.starts_with("PING") {
                        lines.write_all(b"PONG\r\n").await.unwrap();
                    }
                    line.clear();
                }
            }
        });
        Self { port, _serving: AbortOnDropHandle::new(serving) }
    }
}
