//! Tokens as identity makes them.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sotto_core::{Classified as _, Clock as _, ErrorClass, SystemClock, Timestamp};
use sotto_crypto::sign::SigningKey;
use sotto_ingress::{
    adapters::tokens::{JwksSource, Tokens},
    domain::token::{Caller, Elsewhere, Expected, TokenError, Unverified},
};
use sotto_testkit::{Pki, free_port};

use crate::cell;

pub(crate) const ISSUER: &str = "https://identity.test";
pub(crate) const AUDIENCE: &str = "sotto-vn";

pub(crate) fn signing_key() -> SigningKey {
    SigningKey::from_seed(&[7; 32]).unwrap()
}

/// The claims of a good token of this tenant, which ends ten minutes after `now`.
pub(crate) fn claims(tenant: &str, now: Timestamp) -> Value {
    let now = now.unix_seconds();
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "client-1", "client_id": "client-1", "jti": "1",
        "iat": now, "exp": now + 600, "scope": "message:send message:read", "tenant": tenant,
        "senders": ["ACME"],
    })
}

pub(crate) fn token(claims: &Value) -> String {
    signed_by(&signing_key(), claims)
}

pub(crate) fn signed_by(key: &SigningKey, claims: &Value) -> String {
    let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(claims));
    let signature = key.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Who sends for this tenant.
pub(crate) fn caller(tenant: &str, now: Timestamp) -> Caller {
    let text = token(&claims(tenant, now));
    let expected = Expected { issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned() };
    Unverified::parse(&text).unwrap().verify(&signing_key().public(), &expected, now).unwrap()
}

/// Identity is away, and was when this process began.
#[tokio::test]
async fn without_any_key_nothing_is_said_of_a_token() {
    let source = JwksSource {
        url: format!("https://localhost:{}/jwks.json", free_port()).parse().unwrap(),
        server_name: "identity.sotto.internal".try_into().unwrap(),
        tls: cell::tls(&Pki::new(), "ingress"),
    };
    let expected = Expected { issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned() };
    let tokens = Tokens::new(source, expected, Elsewhere::new(), Arc::new(SystemClock));
    let judged = tokens.verify(&token(&claims("acme", SystemClock.now()))).await.unwrap_err();
    assert_eq!(judged, TokenError::NoKeys);
    assert!(matches!(judged.class(), ErrorClass::Retry { .. }));
}
