//! Small HTTP requests: a service's admin server on loopback, identity's token endpoint over TLS.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::CliError;

/// The most of an answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gets `path` from the plain HTTP server at `address`.
pub(crate) async fn get(address: &str, path: &str) -> Result<(StatusCode, Bytes), CliError> {
    send(address, Request::get(path), Bytes::new(), MAX_ANSWER).await
}

/// The same, for an answer of at most so many bytes.
pub(crate) async fn get_large(
    address: &str,
    path: &str,
    most: usize,
) -> Result<(StatusCode, Bytes), CliError> {
    send(address, Request::get(path), Bytes::new(), most).await
}

/// Posts JSON to `path` of the plain HTTP server at `address`.
pub(crate) async fn post(
    address: &str,
    path: &str,
    body: &serde_json::Value,
) -> Result<(StatusCode, Bytes), CliError> {
    let request = Request::post(path).header("content-type", "application/json");
    send(address, request, Bytes::from(body.to_string()), MAX_ANSWER).await
}

async fn send(
    address: &str,
    request: hyper::http::request::Builder,
    body: Bytes,
    most: usize,
) -> Result<(StatusCode, Bytes), CliError> {
    let request = request
        .header("host", address)
        .body(Full::new(body))
        .map_err(|error| CliError::caused_by("a request could not be made", &error))?;
    within(address, async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| CliError::caused_by(format!("{address} does not answer"), &error))?;
        exchange(address, stream, request, most).await
    })
    .await
}

/// Sends a request over TLS. The server's certificate must be valid for `server_name`.
pub(crate) async fn send_tls(
    address: &str,
    server_name: &str,
    tls: rustls::ClientConfig,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), CliError> {
    within(address, async {
        let unreachable =
            |error: std::io::Error| CliError::caused_by(format!("{address} does not answer"), &error);
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        let name = rustls_pki_types::ServerName::try_from(server_name.to_owned())
            .map_err(|error| CliError::caused_by(format!("{server_name} is not a name"), &error))?;
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls));
        let stream = connector.connect(name, stream).await.map_err(unreachable)?;
        exchange(address, stream, request, MAX_ANSWER).await
    })
    .await
}

async fn within<T>(address: &str, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(|_| Err(CliError::new(format!("{address} did not answer within {PATIENCE:?}"))))
}

async fn exchange(
    address: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    most: usize,
) -> Result<(StatusCode, Bytes), CliError> {
    let failed = |error: hyper::Error| CliError::caused_by(format!("{address} broke off"), &error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), most).collect().await;
        let body =
            body.map_err(|error| CliError::caused_by(format!("{address} broke off"), error.as_ref()))?;
        Ok((status, body.to_bytes()))
    };
    // The connection is driven only while its one answer is awaited.
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended.map_err(failed)?;
            answer.await
        }
    }
}
