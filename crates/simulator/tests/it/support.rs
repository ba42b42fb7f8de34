//! A partner bound to a simulator.

use bytes::Bytes;
use sotto_core::{Sensitive, SystemClock};
use sotto_simulator::{Behaviour, Handle, Options, Simulator};
use sotto_smpp::{
    CloseReason, CommandStatus, Incoming, LateResponses, Link, PendingResponse, Receipt, Response, Session,
    SessionOptions, Sm,
    client::{self, BindError, BindOptions},
};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

/// Longer than anything here takes.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn options(patch: serde_json::Value) -> Options {
    Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        admin: "127.0.0.1:0".parse().unwrap(),
        accounts: vec![("sotto".to_owned(), Sensitive::new("secret".to_owned()))],
        tls: None,
        behaviour: Behaviour::default().patched(patch).unwrap(),
        journal: None,
        clock: Arc::new(SystemClock),
    }
}

pub(crate) async fn start(patch: serde_json::Value) -> Simulator {
    Simulator::start(options(patch)).await.unwrap()
}

pub(crate) struct Partner {
    pub(crate) link: Link<u32>,
    pub(crate) incoming: Incoming,
    pub(crate) late: LateResponses<u32>,
    pub(crate) driver: JoinSet<CloseReason>,
}

pub(crate) async fn try_bind(
    address: std::net::SocketAddr,
    bind: BindOptions,
    response_timeout: Duration,
) -> Result<Partner, BindError> {
    let stream = TcpStream::connect(address).await.unwrap();
    let options = SessionOptions { response_timeout, window: 500, ..SessionOptions::default() };
    let (Session { link, incoming, late, driver }, _) = client::bind(stream, bind, options).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    Ok(Partner { link, incoming, late, driver: tasks })
}

pub(crate) async fn bind(simulator: &Simulator) -> Partner {
    try_bind(simulator.smpp(), BindOptions::transceiver("sotto", "secret"), SOON).await.unwrap()
}

pub(crate) fn message(destination: &str, text: &str) -> Box<Sm> {
    let mut sm = Sm {
        registered_delivery: 1,
        short_message: Bytes::copy_from_slice(text.as_bytes()),
        ..Sm::default()
    };
    sm.source.value = "Sotto".into();
    sm.destination.value = destination.into();
    Box::new(sm)
}

impl Partner {
    pub(crate) async fn submit(&self, sm: Box<Sm>) -> PendingResponse {
        self.link.send(self.link.reserve().await.unwrap(), sm, 7).unwrap()
    }

    pub(crate) async fn answered(&self, sm: Box<Sm>) -> Response {
        self.submit(sm).await.await.unwrap()
    }

    /// The next receipt, which is taken.
    pub(crate) async fn receipt(&mut self) -> Receipt {
        let (sm, responder) = timeout(SOON, self.incoming.recv()).await.unwrap().unwrap();
        responder.respond(CommandStatus::ESME_ROK);
        Receipt::parse(&sm).unwrap()
    }
}

/// Waits until the counters are as wanted.
pub(crate) async fn until(handle: &Handle, mut wanted: impl FnMut(&sotto_simulator::Counters) -> bool) {
    let reached = timeout(SOON, async {
        while !wanted(&handle.counters()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(reached.await.is_ok(), "{:?}", handle.counters());
}
