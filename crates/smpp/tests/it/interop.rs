//! Against `smpp34`, an independent implementation, over loopback TCP, in both roles.

use async_trait::async_trait;
use bytes::Bytes;
use smpp34::{
    SmppConnectionInformation, SmppServer, SmppServerListener, TlvTag, bind_transceiver,
    bind_transceiver_resp,
    client::{BIND_TYPE, SMSC, SmppClient, SmppClientListener},
    deliver_sm, deliver_sm_resp,
    server::ESME,
    submit_sm, submit_sm_resp,
};
use sotto_smpp::{
    CloseReason, CommandStatus, MessageState, Receipt, Session, SessionOptions, Sm,
    client::{self, BindOptions},
    server,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(10);

/// A port that was free a moment ago: the peer takes no listener and tells no port.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

struct TheirServer(mpsc::UnboundedSender<ESME>);

#[async_trait]
impl SmppServerListener for TheirServer {
    async fn on_bind_transceiver(
        &self,
        request: bind_transceiver,
        _connection: &SmppConnectionInformation,
        _session: &String,
    ) -> bind_transceiver_resp {
        assert_eq!((request.system_id.as_str(), request.password.as_str()), ("sotto", "secret"));
        request.accept("their server".to_owned(), Some(0x34))
    }

    async fn on_submit_sm(
        &self,
        request: submit_sm,
        _connection: &SmppConnectionInformation,
        _session: &String,
    ) -> submit_sm_resp {
        let text = String::from_utf8(request.short_message.clone()).unwrap();
        request.accept(format!("id-{text}"))
    }

    async fn on_esme_bound(&self, esme: ESME, _session: &String) {
        self.0.send(esme).ok();
    }
}

#[tokio::test]
async fn our_client_and_their_server() {
    let (bound, mut esmes) = mpsc::unbounded_channel();
    let port = free_port();
    let mut their = SmppServer::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port, Arc::new(TheirServer(bound)));
    their.start().await;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let bind = BindOptions::transceiver("sotto", "secret");
    let (session, resp) = client::bind(stream, bind, SessionOptions::default()).await.unwrap();
    let Session { link, mut incoming, late: _late, driver } = session;
    assert_eq!(resp.system_id.as_str(), Some("their server"));
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    let mut pending = Vec::new();
    for number in 0_u32..50 {
        let text = number.to_string();
        let sm = Sm { short_message: Bytes::from(text.clone()), ..Sm::default() };
        let permit = link.reserve().await.unwrap();
        pending.push((text, link.send(permit, Box::new(sm), number).unwrap()));
    }
    for (text, pending) in pending {
        let id = pending.await.unwrap().message_id.unwrap();
        assert_eq!(id.as_str(), Some(format!("id-{text}").as_str()));
    }
    let esme = timeout(SOON, esmes.recv()).await.unwrap().unwrap();
    let deliver = esme
        .deliver_sm()
        .source_addr("84901234567")
        .esm_class(4)
        .short_message(b"id:id-1 stat:DELIVRD")
        .tlv(TlvTag::ReceiptedMessageId, b"id-1\0".to_vec())
        .tlv(TlvTag::MessageStateTlv, [2])
        .send();
    let take = async {
        let (sm, responder) = incoming.recv().await.unwrap();
        responder.respond(CommandStatus::ESME_ROK);
        Receipt::parse(&sm).unwrap()
    };
    let (delivered, receipt) = timeout(SOON, async { tokio::join!(deliver, take) }).await.unwrap();
    assert!(delivered.unwrap().is_success());
    assert_eq!((receipt.id.as_str(), receipt.state), ("id-1", MessageState::Delivered));
    assert_eq!(link.drain(SOON).await, CloseReason::Unbound);
    drop(esme);
    their.stop().await;
}

struct TheirClient {
    bound: mpsc::UnboundedSender<SMSC>,
    delivered: mpsc::UnboundedSender<String>,
}

#[async_trait]
impl SmppClientListener for TheirClient {
    async fn on_smsc_bound(&self, smsc: SMSC, _session: &String) {
        self.bound.send(smsc).ok();
    }

    async fn on_deliver_sm(
        &self,
        request: deliver_sm,
        _connection: &SmppConnectionInformation,
        _session: &String,
    ) -> deliver_sm_resp {
        self.delivered.send(String::from_utf8(request.short_message.clone()).unwrap()).ok();
        request.accept()
    }
}

#[tokio::test]
async fn our_server_and_their_client() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!("loopback is IPv4") };
    let mut tasks = JoinSet::new();
    let (bound, mut smscs) = mpsc::unbounded_channel();
    let (delivered, mut deliveries) = mpsc::unbounded_channel();
    let mut their = SmppClient::new(
        address.ip().to_string(),
        address.port(),
        false,
        BIND_TYPE::TRX,
        "partner".to_owned(),
        "secret".to_owned(),
        String::new(),
        0,
        0,
        String::new(),
        Arc::new(TheirClient { bound, delivered }),
        10,
    );
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        let request = server::accept(stream, SessionOptions::default()).await.unwrap();
        assert_eq!(request.bind.system_id.as_str(), Some("partner"));
        let session = request.accept::<()>(&"our server".into());
        tasks.spawn(session.driver);
        (session.link, session.incoming)
    };
    let ((link, mut incoming), ()) =
        timeout(SOON, async { tokio::join!(accept, their.start()) }).await.unwrap();
    let smsc = timeout(SOON, smscs.recv()).await.unwrap().unwrap();
    for number in 0..20 {
        let text = number.to_string();
        let submit = smsc.submit_sm().destination_addr("84901234567").short_message(text.as_bytes()).send();
        let take = async {
            let (sm, responder) = incoming.recv().await.unwrap();
            assert_eq!(&sm.message()[..], text.as_bytes());
            responder.respond_with(CommandStatus::ESME_ROK, format!("id-{text}").into());
        };
        let (submitted, ()) = timeout(SOON, async { tokio::join!(submit, take) }).await.unwrap();
        assert_eq!(submitted.unwrap().message_id.as_deref(), Some(format!("id-{text}").as_str()));
    }
    let sm = Sm { short_message: Bytes::from_static(b"hello"), ..Sm::default() };
    let pending = link.send(link.reserve().await.unwrap(), Box::new(sm), ()).unwrap();
    assert!(timeout(SOON, pending).await.unwrap().unwrap().status.is_ok());
    assert_eq!(deliveries.recv().await.as_deref(), Some("hello"));
    assert!(smsc.send_unbind().await.is_ok());
    assert_eq!(timeout(SOON, link.closed()).await.unwrap(), CloseReason::PeerUnbound);
    drop(smsc);
    their.stop().await;
}
