//! Client assertions: `private_key_jwt` of RFC 7523, with the audience rule of its successor.
//!
//! The audience is the issuer identifier alone (draft-ietf-oauth-rfc7523bis): a server that also takes its endpoint's
//! address can be handed an assertion which the client meant for another server.

use std::time::Duration;

use serde::Deserialize;
use sotto_core::Timestamp;
use sotto_crypto::{hash::Sha256, sign::PublicKey};

use super::{
    client::ClientId,
    jws::{Compact, JwsError},
};

/// The value of `client_assertion_type` (RFC 7523 §2.2).
pub const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How far ahead `exp` may be.
const MAX_AHEAD: Duration = Duration::from_secs(300);

/// How far a client's clock may be ahead of ours, in `iat` and `nbf`.
const CLOCK_LEEWAY: Duration = Duration::from_secs(30);

/// The longest `jti` (bytes).
const MAX_JTI: usize = 256;

/// The media types that `typ` may name, if it is there: a JWT of another kind is no assertion (RFC 8725 §3.11).
const TYPS: [&str; 2] = ["JWT", "client-authentication+jwt"];

#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<i64>,
    nbf: Option<i64>,
    iat: Option<i64>,
    jti: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Why an assertion does not count. Each text says what to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// Not a token, or not signed by the client's key.
    #[error("the assertion is not a JWT signed with EdDSA by the registered key")]
    Jws(#[source] JwsError),
    /// A token of another kind.
    #[error("typ must be JWT or client-authentication+jwt")]
    Type,
    /// The payload is not the claims of an assertion.
    #[error("the claims are not a JSON object with texts and whole numbers of seconds")]
    Malformed,
    /// `iss` and `sub` are not both the client's id.
    #[error("iss and sub must both be the client_id")]
    Subject,
    /// `aud` is another.
    #[error("aud must be the issuer identifier and nothing else")]
    Audience,
    /// There is no `exp`.
    #[error("exp is required")]
    NoExpiry,
    /// `exp` is past.
    #[error("the assertion has expired: check the clock")]
    Expired,
    /// `exp` is too far ahead.
    #[error("exp must not be more than 300 s ahead: check the clock")]
    TooLong,
    /// `nbf` or `iat` is ahead of us.
    #[error("nbf and iat must not be in the future: check the clock")]
    NotYet,
    /// `iat` is too long ago.
    #[error("iat must not be more than 300 s ago: make a new assertion for each request")]
    Old,
    /// There is no usable `jti`.
    #[error("jti is required, 1 to 256 bytes, new for each assertion")]
    NoId,
}

/// What must be remembered so that an assertion is used once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneUse {
    /// A digest of client and `jti`, in hex.
    pub id: String,
    /// When the assertion ends by itself.
    pub until: Timestamp,
}

/// Whom an assertion claims to be of; only to find the key.
pub fn claimed_client(assertion: &Compact<'_>) -> Option<ClientId> {
    let claims: Claims = serde_json::from_slice(assertion.unverified_payload()).ok()?;
    claims.sub?.parse().ok()
}

/// Checks everything about an assertion but whether it was used before.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(
    assertion: &Compact<'_>,
    client: &ClientId,
    key: &PublicKey,
    issuer: &str,
    now: Timestamp,
) -> Result<OneUse, AssertionError> {
    let payload = assertion.verify(key).map_err(AssertionError::Jws)?;
    if assertion.typ().is_some_and(|typ| !TYPS.iter().any(|known| known.eq_ignore_ascii_case(typ))) {
        return Err(AssertionError::Type);
    }
    let claims: Claims = serde_json::from_slice(payload).map_err(|_| AssertionError::Malformed)?;
    let is_client = |claim: &Option<String>| claim.as_deref() == Some(client.as_str());
    if !is_client(&claims.iss) || !is_client(&claims.sub) {
        return Err(AssertionError::Subject);
    }
    if !claims.aud.is_some_and(|audience| audience.is_only(issuer)) {
        return Err(AssertionError::Audience);
    }
    let until = check_times(claims.exp, claims.nbf, claims.iat, now)?;
    let jti = claims.jti.filter(|jti| (1..=MAX_JTI).contains(&jti.len())).ok_or(AssertionError::NoId)?;
    Ok(OneUse { id: digest(client, &jti), until })
}

impl Audience {
    fn is_only(&self, issuer: &str) -> bool {
        match self {
            Self::One(audience) => audience == issuer,
            Self::Many(audiences) => matches!(audiences.as_slice(), [audience] if audience == issuer),
        }
    }
}

fn check_times(
    exp: Option<i64>,
    nbf: Option<i64>,
    iat: Option<i64>,
    now: Timestamp,
) -> Result<Timestamp, AssertionError> {
    let until = Timestamp::from_unix_seconds(exp.ok_or(AssertionError::NoExpiry)?);
    if until <= now {
        return Err(AssertionError::Expired);
    }
    if until > now.plus(MAX_AHEAD) {
        return Err(AssertionError::TooLong);
    }
    let latest = now.plus(CLOCK_LEEWAY);
    let ahead = |claim: Option<i64>| claim.is_some_and(|at| Timestamp::from_unix_seconds(at) > latest);
    if ahead(nbf) || ahead(iat) {
        return Err(AssertionError::NotYet);
    }
    if iat.is_some_and(|at| Timestamp::from_unix_seconds(at) < now.minus(MAX_AHEAD)) {
        return Err(AssertionError::Old);
    }
    Ok(until)
}

fn digest(client: &ClientId, jti: &str) -> String {
    // A client id has one length, so no two pairs look alike.
    let mut hasher = Sha256::new();
    hasher.update(client.as_str().as_bytes());
    hasher.update(jti.as_bytes());
    hex::encode(hasher.finish())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sotto_crypto::sign::SigningKey;

    use super::*;
    use crate::domain::jws;

    const ISSUER: &str = "https://id.example";
    const NOW: i64 = 1_795_000_000;

    fn client() -> ClientId {
        ClientId::from_random(&[1; 16])
    }

    fn good() -> Value {
        let id = client().to_string();
        json!({"iss": id, "sub": id, "aud": ISSUER, "exp": NOW + 60, "iat": NOW, "jti": "1"})
    }

    #[expect(clippy::unwrap_in_result, reason = "the errors are the outcome under test, not of making it")]
    fn checked(typ: &str, claims: &Value) -> Result<OneUse, AssertionError> {
        let key = SigningKey::from_seed(&[5; 32]).unwrap();
        let input = jws::signing_input(typ, "any", claims).unwrap();
        let token = jws::assemble(&input, &key.sign(input.as_bytes()).unwrap());
        let token = Compact::parse(&token).unwrap();
        check(&token, &client(), &key.public(), ISSUER, Timestamp::from_unix_seconds(NOW))
    }

    fn with(member: &str, value: Value) -> Value {
        let mut claims = good();
        claims[member] = value;
        claims
    }

    #[test]
    fn a_sound_assertion_passes() {
        let once = checked("JWT", &good()).unwrap();
        assert_eq!(once.until, Timestamp::from_unix_seconds(NOW + 60));
        assert_eq!(once.id.len(), 64);
        assert_ne!(checked("JWT", &with("jti", json!("2"))).unwrap().id, once.id);
        for claims in [
            with("aud", json!([ISSUER])),
            with("exp", json!(NOW + 300)),
            with("iat", json!(NOW + 30)),
            with("iat", json!(NOW - 300)),
            with("iat", Value::Null),
            with("nbf", json!(NOW)),
            with("extra", json!("ignored")),
        ] {
            assert!(checked("client-authentication+jwt", &claims).is_ok(), "{claims}");
        }
    }

    #[test]
    fn each_rule_refuses() {
        use AssertionError as E;
        let id = client().to_string();
        for (claims, error) in [
            (json!([]), E::Malformed),
            (with("exp", json!("soon")), E::Malformed),
            (with("exp", json!(1.5)), E::Malformed),
            (with("iss", json!("other")), E::Subject),
            (with("iss", Value::Null), E::Subject),
            (with("sub", json!("other")), E::Subject),
            (with("aud", Value::Null), E::Audience),
            (with("aud", json!("https://other.example")), E::Audience),
            (with("aud", json!("https://id.example/")), E::Audience),
            (with("aud", json!("https://id.example/oauth2/token")), E::Audience),
            (with("aud", json!([])), E::Audience),
            (with("aud", json!([ISSUER, "https://other.example"])), E::Audience),
            (with("exp", Value::Null), E::NoExpiry),
            (with("exp", json!(NOW)), E::Expired),
            (with("exp", json!(i64::MIN)), E::Expired),
            (with("exp", json!(NOW + 301)), E::TooLong),
            (with("exp", json!(i64::MAX)), E::TooLong),
            (with("nbf", json!(NOW + 31)), E::NotYet),
            (with("iat", json!(NOW + 31)), E::NotYet),
            (with("iat", json!(NOW - 301)), E::Old),
            (with("jti", Value::Null), E::NoId),
            (with("jti", json!("")), E::NoId),
            (with("jti", json!("x".repeat(257))), E::NoId),
        ] {
            assert_eq!(checked("JWT", &claims), Err(error), "{claims}");
        }
        assert_eq!(checked("at+jwt", &good()), Err(E::Type));
        assert_eq!(checked("JWT", &json!({"sub": id})), Err(E::Subject));
    }

    #[test]
    fn another_key_refuses() {
        let (key, other) =
            (SigningKey::from_seed(&[5; 32]).unwrap(), SigningKey::from_seed(&[6; 32]).unwrap());
        let input = jws::signing_input("JWT", "any", &good()).unwrap();
        let token = jws::assemble(&input, &key.sign(input.as_bytes()).unwrap());
        let token = Compact::parse(&token).unwrap();
        assert_eq!(claimed_client(&token), Some(client()));
        let checked = check(&token, &client(), &other.public(), ISSUER, Timestamp::from_unix_seconds(NOW));
        assert_eq!(checked, Err(AssertionError::Jws(JwsError::Signature)));
    }
}
