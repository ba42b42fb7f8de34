//! Clients that connect and say nothing: a good one is served all the same.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use sotto_core::SystemClock;
use sotto_runtime::{
    Context,
    config::TlsConfig,
    grpc::{GrpcServer, ServerLimits, channel},
    listener::ListenerLimits,
    tls::{ClientAuth, Tls},
};
use sotto_testkit::{Pki, eventually_ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::tls_config;

const BOUND: Duration = Duration::from_secs(20);

struct Server {
    context: Context,
    address: SocketAddr,
    tls: Tls,
}

impl Server {
    async fn start(limits: ListenerLimits) -> Self {
        let pki = Pki::new();
        let config: TlsConfig = tls_config(pki.service("privacy"));
        let tls = Tls::load(&config).unwrap();
        let context = Context::detached(Arc::new(SystemClock), "test");
        let listen = "127.0.0.1:0".parse().unwrap();
        let server = GrpcServer::bind_within(listen, &tls, ClientAuth::None, ServerLimits::default(), limits)
            .await
            .unwrap();
        let address = server.local_addr();
        let (reporter, health) = tonic_health::server::health_reporter();
        let stop = context.stop.clone();
        context.tasks.spawn_critical("grpc", async move {
            let _alive = reporter;
            server.serve(&stop, |server| server.add_service(health)).await
        });
        Self { context, address, tls }
    }

    async fn connect(&self, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// A client whose handshake is done and that says `words` and nothing more.
    async fn silent(&self, from: Ipv4Addr, words: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(Arc::new(self.tls.client(&["h2"]).unwrap()));
        let name = "privacy.sotto.internal".try_into().unwrap();
        let mut stream = connector.connect(name, self.connect(from).await).await?;
        stream.write_all(words).await?;
        Ok(stream)
    }

    async fn serves_a_good_client(&self) {
        let endpoint = format!("https://localhost:{}", self.address.port());
        let channel = channel(&endpoint, &self.tls, "privacy.sotto.internal", BOUND).unwrap();
        let request = HealthCheckRequest { service: String::new() };
        timeout(BOUND, HealthClient::new(channel).check(request)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn who_says_nothing_or_too_little_makes_room_for_others() {
    let patience = Duration::from_millis(500);
    let server =
        Server::start(ListenerLimits { connections: 8, patience, ..ListenerLimits::default() }).await;
    let mut silent = Vec::new();
    for words in [b"".as_slice(), b"PRI * HTTP"].repeat(4) {
        silent.push(server.silent(Ipv4Addr::LOCALHOST, words).await.unwrap());
    }
    server.serves_a_good_client().await;
    // They were closed; nobody had to wait for them to leave.
    for mut stream in silent {
        let mut left = Vec::new();
        let _closed_in_some_way = timeout(BOUND, stream.read_to_end(&mut left)).await.unwrap();
    }
    server.context.stop.request();
}

#[tokio::test]
async fn a_client_that_asks_may_take_its_time_afterwards() {
    let patience = Duration::from_millis(300);
    let server = Server::start(ListenerLimits { patience, ..ListenerLimits::default() }).await;
    let endpoint = format!("https://localhost:{}", server.address.port());
    let channel = channel(&endpoint, &server.tls, "privacy.sotto.internal", BOUND).unwrap();
    let mut client = HealthClient::new(channel);
    // A watch is one request; its connection outlives the patience by far.
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let more = timeout(patience * 4, watch.message()).await;
    assert!(more.is_err(), "still open and nothing to tell: {more:?}");
}

#[tokio::test]
async fn one_address_does_not_take_every_connection() {
    let server =
        Server::start(ListenerLimits { connections: 64, per_address: 4, ..ListenerLimits::default() }).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(server.silent(Ipv4Addr::LOCALHOST, b"").await.unwrap());
    }
    for _ in 0..10 {
        server.silent(Ipv4Addr::LOCALHOST, b"").await.unwrap_err();
    }
    server.silent(Ipv4Addr::new(127, 0, 0, 2), b"").await.unwrap();
    drop(held);
    eventually_ok(BOUND, "the places to come back", || async {
        server.silent(Ipv4Addr::LOCALHOST, b"").await.map(drop).map_err(|error| error.to_string())
    })
    .await;
}
