//! A session inside TLS: what buffers between us and the socket must not hold anything back.

use bytes::Bytes;
use sotto_smpp::{
    CloseReason, CommandStatus, Session, SessionOptions, Sm,
    client::{self, BindError, BindOptions},
    server,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring::default_provider,
        pki_types::{PrivateKeyDer, ServerName},
    },
};

fn ends() -> (TlsConnector, TlsAcceptor) {
    let issued = rcgen::generate_simple_self_signed(vec!["carrier.test".to_owned()]).unwrap();
    let provider = Arc::new(default_provider());
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (TlsConnector::from(Arc::new(client)), TlsAcceptor::from(Arc::new(server)))
}

#[tokio::test]
async fn messages_pass_through_tls_both_ways() {
    let (connector, acceptor) = ends();
    // Smaller than one TLS record, so that writes stop half-way.
    let (near, far) = duplex(512);
    let mut tasks = JoinSet::new();
    let options = SessionOptions { window: 200, incoming_window: 200, ..SessionOptions::default() };
    let client = async {
        let stream = connector.connect(ServerName::try_from("carrier.test").unwrap(), near).await.unwrap();
        client::bind::<u32, _>(stream, BindOptions::transceiver("sotto", "secret"), options).await.unwrap().0
    };
    let serve = async {
        let stream = acceptor.accept(far).await.unwrap();
        let session = server::accept(stream, options).await.unwrap().accept::<()>(&"carrier".into());
        tasks.spawn(session.driver);
        (session.link, session.incoming)
    };
    let (ours, (their_link, mut their_incoming)) = tokio::join!(client, serve);
    let Session { link, mut incoming, late: _late, driver } = ours;
    tasks.spawn(driver);
    let sm = || Box::new(Sm { short_message: Bytes::from_static(&[b'x'; 140]), ..Sm::default() });
    let mut pending = Vec::new();
    for number in 0..200 {
        pending.push(link.send(link.reserve().await.unwrap(), sm(), number).unwrap());
    }
    for _ in 0..200 {
        let (taken, responder) = their_incoming.recv().await.unwrap();
        assert_eq!(taken, sm());
        responder.respond_with(CommandStatus::ESME_ROK, "1".into());
    }
    for pending in pending {
        assert!(pending.await.unwrap().status.is_ok());
    }
    let delivered = their_link.send(their_link.reserve().await.unwrap(), sm(), ()).unwrap();
    incoming.recv().await.unwrap().1.respond(CommandStatus::ESME_ROK);
    assert!(delivered.await.unwrap().status.is_ok());
    assert_eq!(link.drain(Duration::from_secs(5)).await, CloseReason::Unbound);
    assert_eq!(their_link.closed().await, CloseReason::PeerUnbound);
    assert_eq!(tasks.join_all().await.len(), 2);
}

#[tokio::test]
async fn a_carrier_that_refuses_a_bind_hears_the_end() {
    let (connector, acceptor) = ends();
    let (near, far) = duplex(4096);
    let client = async {
        let stream = connector.connect(ServerName::try_from("carrier.test").unwrap(), near).await.unwrap();
        let bind = BindOptions::transceiver("sotto", "secret");
        client::bind::<u32, _>(stream, bind, SessionOptions::default()).await.map(|_| ())
    };
    let carrier = async {
        let mut stream = acceptor.accept(far).await.unwrap();
        stream.read_buf(&mut Vec::with_capacity(256)).await.unwrap();
        // `bind_transceiver_resp` with ESME_RINVPASWD and without a body (SMPP 3.4 §3.2).
        stream.write_all(&[0, 0, 0, 16, 0x80, 0, 0, 9, 0, 0, 0, 0x0E, 0, 0, 0, 1]).await.unwrap();
        // Without `close_notify` this is an error (RFC 8446 §6.1).
        stream.read(&mut [0; 16]).await.unwrap()
    };
    let (bound, after) = tokio::join!(client, carrier);
    assert!(matches!(bound, Err(BindError::Refused(CommandStatus::ESME_RINVPASWD))), "{bound:?}");
    assert_eq!(after, 0);
}
