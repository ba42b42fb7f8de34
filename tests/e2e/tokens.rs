//! Access tokens asked for as any OAuth 2.0 client would, by `private_key_jwt` (RFC 7523).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sotto_core::{Clock as _, SystemClock};
use sotto_crypto::sign::SigningKey;
use tokio::net::TcpStream;

use crate::cell::Cell;

pub(crate) const ISSUER: &str = "https://identity.sotto.internal";

/// Signs claims as a compact JWS with EdDSA.
pub(crate) fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let input = format!("{}.{}", part(header), part(claims));
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes()).unwrap()))
}

/// Asks identity for a token; the OAuth error if it refuses.
pub(crate) async fn request(
    cell: &Cell,
    client: &str,
    key: &SigningKey,
    scope: &str,
) -> Result<String, String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemClock.now().unix_seconds();
    let jti = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let claims =
        json!({"iss": client, "sub": client, "aud": ISSUER, "iat": now, "exp": now + 60, "jti": jti});
    let assertion = signed(key, &json!({"alg": "EdDSA", "typ": "JWT"}), &claims);
    let form = format!(
        "grant_type=client_credentials&scope={}&client_assertion={assertion}&client_assertion_type={}",
        scope.replace(' ', "+"),
        "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer",
    );
    let (status, body) = https(cell, "/oauth2/token", form).await;
    let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    if status == 200 { Ok(field("access_token")) } else { Err(field("error")) }
}

/// `POST` of a form to identity.
async fn https(cell: &Cell, path: &str, form: String) -> (u16, Value) {
    let stream = TcpStream::connect(cell.address("identity.https")).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("identity.sotto.internal").unwrap();
    let tls = cell.tls("operator").client(&["http/1.1"]).unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    let request = Request::post(path)
        .header("host", "identity.sotto.internal")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(form)))
        .unwrap();
    let (status, body) = exchange(TokioIo::new(stream), request).await;
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// `POST` of JSON without TLS, to the simulator; its status.
pub(crate) async fn post(address: &str, path: &str, body: &str) -> u16 {
    let stream = TcpStream::connect(address).await.unwrap();
    let request = Request::post(path)
        .header("host", address)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    exchange(TokioIo::new(stream), request).await.0
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> (u16, Bytes)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    let answer = async {
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => panic!("the server broke off: {ended:?}"),
    }
}

/// Seconds since the Unix epoch, for claims.
pub(crate) fn now() -> i64 {
    SystemClock.now().unix_seconds()
}
