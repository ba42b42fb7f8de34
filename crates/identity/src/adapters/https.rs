//! The public endpoints over HTTPS: tokens (RFC 6749), metadata (RFC 8414), keys (RFC 7517).

use std::{future::poll_fn, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use serde::Serialize;
use sotto_runtime::{
    Stop,
    listener::{TlsConnection, TlsListener},
};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::{
    app::tokens::{Issued, Tokens},
    config::JWKS_MAX_AGE,
    domain::{Refusal, jwk::JwkSet, scope::Scope},
};

/// Where tokens are asked for, below the issuer.
pub const TOKEN_PATH: &str = "/oauth2/token";
/// Where the metadata is (RFC 8414 §3).
pub const METADATA_PATH: &str = "/.well-known/oauth-authorization-server";
/// Where the keys are, below the issuer.
pub const JWKS_PATH: &str = "/.well-known/jwks.json";

/// The largest form (bytes): an assertion has at most half of it.
const MAX_FORM: usize = 16 * 1024;

/// A client that does not send its request in this time is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests at a time on one HTTP/2 connection.
const STREAMS: u32 = 32;

const FORM: &str = "application/x-www-form-urlencoded";
const CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Basic realm="sotto", charset="UTF-8""#);
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
struct Source(IpAddr);

/// Serves until a stop is asked for, then finishes the requests under way.
pub async fn serve(mut listener: TlsListener, tokens: Arc<Tokens>, stop: Stop) {
    let router = router(tokens);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            connection = listener.accept() => {
                connections.spawn(serve_connection(connection, router.clone(), stop.clone()));
            }
            Some(_) = connections.join_next() => {}
            () = stop.requested() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(connection: TlsConnection, router: Router, stop: Stop) {
    let source = Source(connection.peer().address.ip());
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(source);
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(Some(PATIENCE))
        .keep_alive_timeout(PATIENCE);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(connection), service));
    let ended = tokio::select! {
        ended = poll_fn(|cx| serving.as_mut().poll(cx)) => ended,
        () = stop.requested() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended badly");
    }
}

fn router(tokens: Arc<Tokens>) -> Router {
    Router::new()
        .route(TOKEN_PATH, post(token))
        .route(METADATA_PATH, get(metadata))
        .route(JWKS_PATH, get(jwks))
        .with_state(tokens)
}

async fn token(State(tokens): State<Arc<Tokens>>, request: Request) -> Response {
    match answer(&tokens, request).await {
        Ok(issued) => granted(issued),
        Err((status, refusal)) => refused(status, refusal),
    }
}

async fn answer(tokens: &Tokens, request: Request) -> Result<Issued, (StatusCode, Refusal)> {
    let invalid = |why| Refusal::InvalidRequest(why);
    let bad = |why| (StatusCode::BAD_REQUEST, invalid(why));
    let (parts, body) = request.into_parts();
    if parts.uri.query().is_some() {
        return Err(bad("parameters belong into the body, not into the address"));
    }
    if !is_form(&parts.headers) {
        return Err(bad("Content-Type must be application/x-www-form-urlencoded"));
    }
    let authorization = one_authorization(&parts.headers).map_err(bad)?;
    let read = tokio::time::timeout(PATIENCE, to_bytes(body, MAX_FORM)).await;
    let form = read
        .map_err(|_| (StatusCode::REQUEST_TIMEOUT, invalid("the request took too long")))?
        .map_err(|_| (StatusCode::PAYLOAD_TOO_LARGE, invalid("the form is too large or broken off")))?;
    let Some(Source(source)) = parts.extensions.get() else {
        return Err((StatusCode::INTERNAL_SERVER_ERROR, Refusal::Internal));
    };
    let issued = tokens.issue(authorization, &form, *source).await;
    issued.map_err(|refusal| {
        (StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), refusal)
    })
}

fn is_form(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else { return false };
    let essence = value.to_str().ok().and_then(|text| text.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(FORM))
}

fn one_authorization(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| "the Authorization header is not text"),
        (Some(_), Some(_)) => Err("there are two Authorization headers"),
    }
}

/// RFC 6749 §5.1.
#[derive(Serialize)]
struct Granted<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    scope: String,
}

fn granted(issued: Issued) -> Response {
    let body = Granted {
        access_token: issued.access_token.expose(),
        token_type: "Bearer",
        expires_in: issued.lifetime.as_secs(),
        scope: issued.scopes.to_string(),
    };
    ([(header::CACHE_CONTROL, NO_STORE)], Json(body)).into_response()
}

/// RFC 6749 §5.2.
#[derive(Serialize)]
struct Refused {
    error: &'static str,
    error_description: String,
}

fn refused(status: StatusCode, refusal: Refusal) -> Response {
    let body = Refused { error: refusal.code(), error_description: refusal.description() };
    let mut response = (status, [(header::CACHE_CONTROL, NO_STORE)], Json(body)).into_response();
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, CHALLENGE);
    }
    if let Some(wait) = refusal.retry_after() {
        // Whole seconds, rounded up.
        headers.insert(
            header::RETRY_AFTER,
            HeaderValue::from(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)),
        );
    }
    response
}

/// RFC 8414 §2. Without an authorization endpoint there are no response types.
#[derive(Serialize)]
struct Metadata {
    issuer: String,
    token_endpoint: String,
    jwks_uri: String,
    scopes_supported: [&'static str; Scope::ALL.len()],
    response_types_supported: [&'static str; 0],
    grant_types_supported: [&'static str; 1],
    token_endpoint_auth_methods_supported: [&'static str; 3],
    token_endpoint_auth_signing_alg_values_supported: [&'static str; 1],
}

async fn metadata(State(tokens): State<Arc<Tokens>>) -> Response {
    let issuer = &tokens.parties().issuer;
    let metadata = Metadata {
        issuer: issuer.clone(),
        token_endpoint: format!("{issuer}{TOKEN_PATH}"),
        jwks_uri: format!("{issuer}{JWKS_PATH}"),
        scopes_supported: Scope::ALL.map(Scope::as_str),
        response_types_supported: [],
        grant_types_supported: ["client_credentials"],
        token_endpoint_auth_methods_supported: [
            "private_key_jwt",
            "client_secret_basic",
            "client_secret_post",
        ],
        token_endpoint_auth_signing_alg_values_supported: ["EdDSA"],
    };
    ([(header::CACHE_CONTROL, cacheable())], Json(metadata)).into_response()
}

async fn jwks(State(tokens): State<Arc<Tokens>>) -> Response {
    let set: JwkSet = tokens.keys().published().into_iter().collect();
    let media_type = HeaderValue::from_static("application/jwk-set+json");
    // Set over Json's own type: a second Content-Type beside it would leave readers to guess.
    ([(header::CACHE_CONTROL, cacheable()), (header::CONTENT_TYPE, media_type)], Json(set)).into_response()
}

fn cacheable() -> HeaderValue {
    HeaderValue::try_from(format!("public, max-age={}", JWKS_MAX_AGE.as_secs())).unwrap_or(NO_STORE)
}
