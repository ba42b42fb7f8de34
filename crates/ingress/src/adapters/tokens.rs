//! Who calls: tokens verified offline against identity's keys, which are fetched over HTTPS now and then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use sotto_core::{Classified, Clock, ErrorClass, Timestamp};
use sotto_crypto::{hash::sha256, sign::PublicKey};
use sotto_runtime::{Condition, telemetry::chain, tls::Tls};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::TlsConnector;

use crate::domain::token::{Caller, Elsewhere, Expected, TokenError, Unverified};

/// An unknown key is looked for at most this often: forged key ids must not become requests to identity.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The longest that fetching the keys may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest list of keys that is read, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// The pause after a failed fetch while there is no key at all.
const RETRY: Duration = Duration::from_secs(1);

/// Verified tokens that are remembered.
const REMEMBERED: usize = 10_000;

/// Why identity's keys could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address or name cannot be used.
    #[error("the address of identity's keys cannot be used")]
    Address,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] sotto_runtime::tls::TlsError),
    /// Identity cannot be reached.
    #[error("identity cannot be reached")]
    Connect(#[source] std::io::Error),
    /// It broke off.
    #[error("identity did not answer")]
    Http(#[source] hyper::Error),
    /// It answered something else.
    #[error("identity answered {0} instead of its keys")]
    Status(u16),
    /// The answer is too long or broke off.
    #[error("identity's answer cannot be read")]
    Body,
    /// The answer holds no key.
    #[error("identity's answer holds no Ed25519 key")]
    NoKeys,
    /// It took too long.
    #[error("identity did not answer in time")]
    Late,
}

impl Classified for FetchError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Address | Self::Tls(_) => ErrorClass::Reject,
            Self::Connect(_) | Self::Http(_) | Self::Status(_) | Self::Body | Self::NoKeys | Self::Late => {
                ErrorClass::Retry { after: RETRY }
            }
        }
    }
}

/// Where identity's keys are.
#[derive(Clone, Debug)]
pub struct JwksSource {
    /// `https://host:port/path`
    pub url: http::Uri,
    /// The name in identity's certificate.
    pub server_name: ServerName<'static>,
    /// The authorities that identity's certificate comes from.
    pub tls: Tls,
}

/// Verifies tokens. Clones share keys and memory.
#[derive(Clone, Debug)]
pub struct Tokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: JwksSource,
    expected: Expected,
    elsewhere: Elsewhere,
    clock: Arc<dyn Clock>,
    keys: Mutex<HashMap<String, PublicKey>>,
    /// When the last fetch began; held while one is under way.
    fetching: tokio::sync::Mutex<Option<Instant>>,
    verified: Mutex<HashMap<[u8; 32], Arc<Caller>>>,
}

impl Tokens {
    /// Without keys yet.
    pub fn new(source: JwksSource, expected: Expected, elsewhere: Elsewhere, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            source,
            expected,
            elsewhere,
            clock,
            keys: Mutex::default(),
            fetching: tokio::sync::Mutex::new(None),
            verified: Mutex::default(),
        }))
    }

    /// Fetches the keys every `refresh`, and at once until there are some. The last ones stay while identity is down.
    /// Never returns.
    pub async fn keep_fresh(&self, refresh: Duration, known: Condition) {
        loop {
            let fetched = {
                let mut last = self.0.fetching.lock().await;
                *last = Some(Instant::now());
                self.fetch().await
            };
            if let Err(error) = &fetched {
                tracing::warn!(error = chain(error), "identity's keys could not be fetched");
            }
            let any = !lock(&self.0.keys).is_empty();
            known.set(any);
            tokio::time::sleep(if any { refresh } else { RETRY }).await;
        }
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// Why it is not believed.
    pub async fn verify(&self, token: &str) -> Result<Arc<Caller>, TokenError> {
        let now = self.0.clock.now();
        let fingerprint = sha256(token.as_bytes());
        if let Some(caller) =
            lock(&self.0.verified).get(&fingerprint).filter(|caller| caller.is_valid_at(now))
        {
            return Ok(Arc::clone(caller));
        }
        let unverified = Unverified::parse(token)?;
        let key = match self.key(unverified.kid()) {
            Some(key) => key,
            None => self.look_for(unverified.kid()).await.ok_or_else(|| self.unknown())?,
        };
        let caller = Arc::new(unverified.verify(&key, &self.0.expected, now)?);
        self.remember(fingerprint, &caller, now);
        Ok(caller)
    }

    /// Where a client belongs whose token is of another cell, if this cell knows it.
    pub fn home_of(&self, token: &str) -> Option<&str> {
        Unverified::parse(token).ok()?.home(&self.0.elsewhere)
    }

    fn key(&self, kid: &str) -> Option<PublicKey> {
        lock(&self.0.keys).get(kid).copied()
    }

    /// What a key that was not found says: without any key, nothing of the token.
    fn unknown(&self) -> TokenError {
        if lock(&self.0.keys).is_empty() { TokenError::NoKeys } else { TokenError::UnknownKey }
    }

    /// Fetches the keys for the sake of an unknown one, unless that was done a moment ago.
    async fn look_for(&self, kid: &str) -> Option<PublicKey> {
        let mut last = self.0.fetching.lock().await;
        if let Some(key) = self.key(kid) {
            return Some(key);
        }
        if last.is_some_and(|last| last.elapsed() < LOOK_EVERY) {
            return None;
        }
        *last = Some(Instant::now());
        if let Err(error) = self.fetch().await {
            tracing::warn!(error = chain(&error), "identity's keys could not be fetched");
        }
        self.key(kid)
    }

    fn remember(&self, fingerprint: [u8; 32], caller: &Arc<Caller>, now: Timestamp) {
        let mut verified = lock(&self.0.verified);
        if verified.len() >= REMEMBERED {
            verified.retain(|_, caller| caller.is_valid_at(now));
        }
        // Full of living tokens: this one is verified again at its next use.
        if verified.len() < REMEMBERED {
            verified.insert(fingerprint, Arc::clone(caller));
        }
    }

    async fn fetch(&self) -> Result<(), FetchError> {
        let answer =
            tokio::time::timeout(PATIENCE, get(&self.0.source)).await.map_err(|_| FetchError::Late)??;
        let keys = read(&answer);
        if keys.is_empty() {
            return Err(FetchError::NoKeys);
        }
        let mut known = lock(&self.0.keys);
        if *known != keys {
            // A key that is gone is not trusted any more, and neither is what it signed.
            lock(&self.0.verified).clear();
            *known = keys;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn get(source: &JwksSource) -> Result<Vec<u8>, FetchError> {
    let host = source.url.host().ok_or(FetchError::Address)?.trim_matches(['[', ']']);
    let port = source.url.port_u16().ok_or(FetchError::Address)?;
    let config = source.tls.client(&["http/1.1"]).map_err(FetchError::Tls)?;
    let stream = TcpStream::connect((host, port)).await.map_err(FetchError::Connect)?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(source.server_name.clone(), stream).await.map_err(FetchError::Connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let request = http::Request::get(source.url.path())
        .header(http::header::HOST, format!("{host}:{port}"))
        .header(http::header::ACCEPT, "application/json")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|_| FetchError::Address)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        if response.status() != http::StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
        Ok(body.map_err(|_| FetchError::Body)?.to_bytes().to_vec())
    };
    tokio::pin!(connection);
    // The connection is driven here and ends with the exchange: no task of its own.
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            // The server may close behind its answer, which is then already here.
            Ok(()) => exchange.await,
            Err(error) => Err(FetchError::Http(error)),
        },
    }
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
}

/// The keys that can sign tokens. Others, also of kinds that come later, are passed over (RFC 7517 §5).
fn read(json: &[u8]) -> HashMap<String, PublicKey> {
    let Ok(set) = serde_json::from_slice::<Jwks>(json) else { return HashMap::new() };
    set.keys.into_iter().filter_map(|key| signing_key(serde_json::from_value(key).ok()?)).collect()
}

fn signing_key(jwk: Jwk) -> Option<(String, PublicKey)> {
    let signs = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
        && jwk.alg.as_deref().is_none_or(|alg| alg == "EdDSA");
    let ed25519 = jwk.kty == "OKP" && jwk.crv == "Ed25519";
    let point = URL_SAFE_NO_PAD.decode(&jwk.x).ok()?.try_into().ok()?;
    (signs && ed25519).then_some((jwk.kid, PublicKey::from_bytes(point)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_keys_that_sign_tokens_are_taken() {
        let x = URL_SAFE_NO_PAD.encode([9; 32]);
        let json = serde_json::json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "a", "use": "sig", "alg": "EdDSA"},
            {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "b"},
            {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "c", "use": "enc"},
            {"kty": "OKP", "crv": "X25519", "x": x, "kid": "d"},
            {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "e"},
            {"kty": "OKP", "crv": "Ed25519", "x": x},
            {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "f"},
            7,
        ]});
        let mut known: Vec<_> = read(json.to_string().as_bytes()).into_keys().collect();
        known.sort();
        assert_eq!(known, ["a", "b"]);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(read(&bytes));
        }
    }
}
