//! A client of Kannel: asks by HTTP on a few connections that stay open, and hears of deliveries by HTTP.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    convert::Infallible,
    net::SocketAddr,
    time::Duration,
};

use futures::{StreamExt as _, future::try_join_all, stream::FuturesUnordered};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    server, service,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{Instant, timeout},
};

use super::load::{SENDER, number, text};
use crate::{CliError, credentials::escaped};

/// Name and password of Kannel's user.
pub(super) const USER: &str = "bench";

/// How long no report may come while some are outstanding.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long it may take until messages are accepted at all.
const START: Duration = Duration::from_secs(30);

/// Where requests go.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) address: &'a str,
    pub(super) connections: usize,
}

/// What became of messages.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) accepted: u32,
    pub(super) refused: u32,
    /// From the first request to the last answer, and to the last report.
    pub(super) sending: Duration,
    pub(super) lasted: Duration,
    /// Messages that were reported as delivered.
    pub(super) reports: u32,
}

/// The reports that came.
#[derive(Debug, Default)]
struct Reports {
    delivered: RefCell<BTreeSet<u32>>,
    last: Cell<Option<Instant>>,
    news: Notify,
}

impl Reports {
    fn count(&self) -> u32 {
        u32::try_from(self.delivered.borrow().len()).unwrap_or(u32::MAX)
    }

    /// Takes the query of a report, `n=7&state=1`. 1: delivered.
    fn take(&self, query: &str) {
        let field =
            |name| query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name));
        let number = field("n").and_then(|(_, n)| n.parse().ok());
        if let (Some(number), Some((_, "1"))) = (number, field("state")) {
            self.delivered.borrow_mut().insert(number);
            self.last.set(Some(Instant::now()));
            self.news.notify_one();
        }
    }

    /// Waits until so many were delivered, or no more come.
    async fn reach(&self, messages: u32) {
        while self.count() < messages {
            if timeout(PATIENCE, self.news.notified()).await.is_err() {
                return;
            }
        }
    }
}

/// Sends messages from this number on, and waits for their reports.
pub(super) async fn send(target: &Target<'_>, first: u32, messages: u32) -> Result<Sent, CliError> {
    let failed =
        |error: &dyn std::error::Error| CliError::caused_by("nobody would hear of deliveries", error);
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| failed(&error))?;
    let address = listener.local_addr().map_err(|error| failed(&error))?;
    let reports = Reports::default();
    let work = async {
        let (next, refused) = (Cell::new(0_u32), Cell::new(0_u32));
        let take = || {
            let index = next.get();
            next.set(index.saturating_add(1));
            (index < messages).then(|| first.saturating_add(index))
        };
        let start = Instant::now();
        let connections = (0..target.connections).map(|_| connection(target, &take, &refused, address));
        try_join_all(connections).await?;
        let sending = start.elapsed();
        let accepted = messages.saturating_sub(refused.get());
        reports.reach(accepted).await;
        let lasted = reports.last.get().map_or(Duration::ZERO, |last| last.duration_since(start));
        Ok(Sent { accepted, refused: refused.get(), sending, lasted, reports: reports.count() })
    };
    tokio::select! {
        sent = work => sent,
        listened = listen(&listener, &reports) => match listened.map_err(|error| failed(&error))? {},
    }
}

/// Sends on one connection what is left.
async fn connection(
    target: &Target<'_>,
    take: &impl Fn() -> Option<u32>,
    refused: &Cell<u32>,
    reports: SocketAddr,
) -> Result<(), CliError> {
    let failed = |error: &dyn std::error::Error| CliError::caused_by("Kannel broke off", error);
    let stream = TcpStream::connect(target.address).await.map_err(|error| failed(&error))?;
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let requests = async {
        while let Some(n) = take() {
            let until = Instant::now() + START;
            loop {
                sender.ready().await.map_err(|error| failed(&error))?;
                let request = request(target.address, n, reports)?;
                let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
                let status = answer.status();
                answer.into_body().collect().await.map_err(|error| failed(&error))?;
                // 503: smsbox is not connected to bearerbox yet, or full.
                if status == StatusCode::SERVICE_UNAVAILABLE && Instant::now() < until {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                if status != StatusCode::ACCEPTED {
                    refused.set(refused.get().saturating_add(1));
                }
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = connection => match ended {
            Ok(()) => Err(CliError::new("Kannel closed a connection")),
            Err(error) => Err(failed(&error)),
        },
        done = requests => done,
    }
}

fn request(address: &str, n: u32, reports: SocketAddr) -> Result<Request<Empty<Bytes>>, CliError> {
    let report = escaped(&format!("http://{reports}/?n={n}&state=%d"));
    let (to, text) = (escaped(&number(n)), escaped(&text(n)));
    // 3: delivered or not, and nothing in between.
    let path = format!(
        "/cgi-bin/sendsms?username={USER}&password={USER}&from={SENDER}&to={to}&coding=0&dlr-mask=3&dlr-url={report}&text={text}"
    );
    let failed = |error: &dyn std::error::Error| CliError::caused_by("a request could not be made", error);
    let path: Uri = path.parse().map_err(|error| failed(&error))?;
    Request::get(path).header("host", address).body(Empty::new()).map_err(|error| failed(&error))
}

/// Answers reports for ever.
async fn listen(listener: &TcpListener, reports: &Reports) -> std::io::Result<Infallible> {
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let answer = service::service_fn(async |request: Request<Incoming>| {
                    reports.take(request.uri().query().unwrap_or_default());
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
                });
                connections.push(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
            // A connection that breaks off is made again for the next report.
            Some(_ended) = connections.next() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_a_delivery_counts_once() {
        let reports = Reports::default();
        for query in ["n=7&state=1", "n=8&state=2", "n=7&state=1", "state=1", "n=9"] {
            reports.take(query);
        }
        assert_eq!(reports.count(), 1);
    }

    #[test]
    fn a_request_asks_for_the_final_report_alone() {
        let request = request("127.0.0.1:1", 7, ([127, 0, 0, 1], 2).into()).unwrap();
        let query = request.uri().query().unwrap();
        assert!(query.contains("&to=%2B84910000007&") && query.contains("&dlr-mask=3&"), "{query}");
        assert!(query.contains("dlr-url=http%3A%2F%2F127.0.0.1%3A2%2F%3Fn%3D7%26state%3D%25d&"), "{query}");
    }
}
