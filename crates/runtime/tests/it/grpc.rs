use std::{net::SocketAddr, sync::Arc, time::Duration};

use sotto_core::SystemClock;
use sotto_runtime::{
    Context,
    config::TlsConfig,
    grpc::{GrpcError, GrpcServer, ServerLimits, TraceCalls, channel, peer_service},
    tls::{ClientAuth, Tls},
};
use sotto_testkit::{Pki, eventually_ok};
use tokio::sync::mpsc;
use tonic::{Code, Request, Status, service::interceptor::InterceptedService, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::tls_config;

const BOUND: Duration = Duration::from_secs(10);

struct Server {
    context: Context,
    address: SocketAddr,
    peers: mpsc::UnboundedReceiver<Option<String>>,
}

/// A health service that tells which service asked.
async fn server(tls: &Tls, auth: ClientAuth) -> Server {
    let context = Context::detached(Arc::new(SystemClock), "test");
    let server =
        GrpcServer::bind("127.0.0.1:0".parse().unwrap(), tls, auth, ServerLimits::default()).await.unwrap();
    let address = server.local_addr();
    let (told, peers) = mpsc::unbounded_channel();
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let interceptor = move |request: Request<()>| -> Result<Request<()>, Status> {
        let service = peer_service(&request);
        told.send(service.as_ref().ok().map(ToString::to_string)).unwrap();
        if auth == ClientAuth::Required {
            service?;
        }
        Ok(request)
    };
    let stop = context.stop.clone();
    context.tasks.spawn_critical("grpc", async move {
        let _alive = reporter;
        server.serve(&stop, |server| server.add_service(InterceptedService::new(health, interceptor))).await
    });
    Server { context, address, peers }
}

fn client_of(tls: &Tls, address: SocketAddr, name: &str) -> Channel {
    channel(&format!("https://localhost:{}", address.port()), tls, name, BOUND).unwrap()
}

async fn check(channel: Channel) -> Result<(), Status> {
    let mut client = HealthClient::with_interceptor(channel, TraceCalls);
    let request = Request::new(HealthCheckRequest { service: String::new() });
    tokio::time::timeout(BOUND, client.check(request)).await.unwrap().map(|_| ())
}

/// Refused by the transport. In TLS 1.3 a client learns of it only when it uses the connection, so the code may be
/// either of these.
fn below_grpc(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown) && std::error::Error::source(status).is_some()
}

fn load(config: TlsConfig) -> Tls {
    Tls::load(&config).unwrap()
}

#[tokio::test]
async fn a_peer_is_known_by_its_certificate() {
    let pki = Pki::new();
    let privacy = load(tls_config(pki.service("privacy")));
    let mut server = server(&privacy, ClientAuth::Required).await;
    let ingress = load(tls_config(pki.service("ingress")));
    check(client_of(&ingress, server.address, "privacy.sotto.internal")).await.unwrap();
    assert_eq!(server.peers.recv().await.unwrap().as_deref(), Some("ingress"));

    let stranger = load(tls_config(pki.named("stranger", &["billing.sotto.internal"])));
    let refused = check(client_of(&stranger, server.address, "privacy.sotto.internal")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "a certificate of ours, but of no known service");
}

#[tokio::test]
async fn mutual_tls_refuses_no_certificate_foreign_ones_expired_ones_and_wrong_servers() {
    let pki = Pki::new();
    let privacy = load(tls_config(pki.service("privacy")));
    let mut server = server(&privacy, ClientAuth::Required).await;

    let other = Pki::new();
    let foreign = load(TlsConfig { ca_file: pki.ca(), ..tls_config(other.service("ingress")) });
    let expired = load(tls_config(pki.expired_service("ingress")));
    for (tls, what) in [(&foreign, "foreign"), (&expired, "expired")] {
        let refused = check(client_of(tls, server.address, "privacy.sotto.internal")).await.unwrap_err();
        assert!(below_grpc(&refused), "{what}: {refused:?}");
    }
    let ingress = load(tls_config(pki.service("ingress")));
    let wrong_server =
        check(client_of(&ingress, server.address, "identity.sotto.internal")).await.unwrap_err();
    assert_eq!(wrong_server.code(), Code::Unavailable);

    let anonymous = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(std::fs::read(pki.ca()).unwrap()))
        .domain_name("privacy.sotto.internal");
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("https://localhost:{}", server.address.port()));
    let channel = endpoint.unwrap().tls_config(anonymous).unwrap().connect_lazy();
    let refused = check(channel).await.unwrap_err();
    assert!(below_grpc(&refused), "no certificate: {refused:?}");
    assert!(server.peers.try_recv().is_err(), "no request reached a handler");
}

#[tokio::test]
async fn public_endpoints_take_clients_without_certificate() {
    let pki = Pki::new();
    let ingress = load(tls_config(pki.service("ingress")));
    let mut server = server(&ingress, ClientAuth::None).await;
    let anonymous = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(std::fs::read(pki.ca()).unwrap()))
        .domain_name("localhost");
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("https://localhost:{}", server.address.port()));
    check(endpoint.unwrap().tls_config(anonymous).unwrap().connect_lazy()).await.unwrap();
    assert_eq!(server.peers.recv().await.unwrap(), None);
}

#[tokio::test]
async fn renewed_certificates_and_authorities_count_for_new_connections() {
    let old = Pki::new();
    let (server_files, client_files) =
        (tls_config(old.service("privacy")), tls_config(old.service("ingress")));
    let (privacy, ingress) = (load(server_files.clone()), load(client_files.clone()));
    let server = server(&privacy, ClientAuth::Required).await;
    check(client_of(&ingress, server.address, "privacy.sotto.internal")).await.unwrap();

    // Another authority takes over: every file is replaced in place.
    let new = Pki::new();
    for (files, name) in [(&server_files, "privacy"), (&client_files, "ingress")] {
        let renewed = new.service(name);
        for (from, to) in
            [(renewed.ca, &files.ca_file), (renewed.cert, &files.cert_file), (renewed.key, &files.key_file)]
        {
            std::fs::copy(from, to).unwrap();
        }
    }
    assert!(privacy.refresh());
    let stale = check(client_of(&ingress, server.address, "privacy.sotto.internal")).await;
    assert!(below_grpc(&stale.unwrap_err()), "the client still trusts the old authority");
    assert!(ingress.refresh());
    check(client_of(&ingress, server.address, "privacy.sotto.internal")).await.unwrap();
}

#[tokio::test]
async fn certificates_are_watched() {
    let pki = Pki::new();
    let config = tls_config(pki.service("privacy"));
    let tls = load(config.clone());
    let context = Context::detached(Arc::new(SystemClock), "test");
    tls.watch(&context);
    let before = tls.client(&["h2"]).unwrap();
    let server = server(&tls, ClientAuth::Required).await;
    let serial = || async {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(before.clone()));
        let stream = tokio::net::TcpStream::connect(server.address).await.map_err(|e| e.to_string())?;
        let name = "privacy.sotto.internal".try_into().unwrap();
        let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        Ok::<_, String>(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
    };
    let first = serial().await.unwrap();
    pki.service("privacy");
    eventually_ok(Duration::from_secs(20), "the renewed certificate", || async {
        if serial().await? == first { Err("the old certificate".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn a_stop_finishes_serving() {
    let pki = Pki::new();
    let tls = load(tls_config(pki.service("privacy")));
    let server = server(&tls, ClientAuth::Required).await;
    check(client_of(&tls, server.address, "privacy.sotto.internal")).await.unwrap();
    server.context.stop.request();
    eventually_ok(BOUND, "the server's task to end", || async {
        let held = server.context.tasks.held();
        if held.is_empty() { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
}

#[tokio::test]
async fn endpoints_must_be_https_with_a_port() {
    let tls = load(tls_config(Pki::new().service("ingress")));
    for endpoint in ["http://localhost:1", "localhost:1", "https://localhost", "not a uri"] {
        let refused = channel(endpoint, &tls, "privacy.sotto.internal", BOUND);
        assert!(matches!(refused, Err(GrpcError::Endpoint)), "{endpoint}");
    }
    assert!(matches!(channel("https://localhost:1", &tls, "not a name", BOUND), Err(GrpcError::ServerName)));
}
