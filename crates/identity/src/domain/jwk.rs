//! Ed25519 public keys as JSON Web Keys (RFC 7517, RFC 8037 §2).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use sotto_crypto::sign::PublicKey;

/// The longest key that is read (bytes).
const MAX_LEN: usize = 2048;

/// Why a text is not a key that a client may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Not a JSON object with the members of a key.
    #[error("must be one JSON Web Key: {{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"...\"}} (RFC 8037)")]
    Malformed,
    /// Holds the private half.
    #[error("holds a private key: it is burnt now, make another and send only its public half")]
    Private,
    /// Another kind of key.
    #[error("must be an Ed25519 key: kty OKP, crv Ed25519")]
    Kind,
    /// Meant for something else than signing with EdDSA.
    #[error("must be for signatures: leave out use and alg, or give use sig and alg EdDSA")]
    Use,
    /// `x` is not 32 bytes in base64url without padding.
    #[error("x must be 32 bytes in base64url without padding")]
    Point,
}

#[derive(Deserialize)]
struct Read {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    d: Option<IgnoredAny>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
}

/// Reads a client's public key.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<PublicKey, JwkError> {
    if text.len() > MAX_LEN {
        return Err(JwkError::Malformed);
    }
    let jwk: Read = serde_json::from_str(text).map_err(|_| JwkError::Malformed)?;
    if jwk.d.is_some() {
        return Err(JwkError::Private);
    }
    if jwk.kty != "OKP" || jwk.crv.as_deref() != Some("Ed25519") {
        return Err(JwkError::Kind);
    }
    if jwk.usage.is_some_and(|usage| usage != "sig") || jwk.alg.is_some_and(|alg| alg != "EdDSA") {
        return Err(JwkError::Use);
    }
    jwk.x.as_deref().and_then(parse_x).ok_or(JwkError::Point)
}

/// Reads the `x` of a key.
pub fn parse_x(x: &str) -> Option<PublicKey> {
    let bytes = URL_SAFE_NO_PAD.decode(x).ok()?.try_into().ok()?;
    Some(PublicKey::from_bytes(bytes))
}

/// The document at `jwks_uri` (RFC 7517 §5).
#[derive(Debug, Serialize)]
pub struct JwkSet {
    keys: Vec<PublishedKey>,
}

#[derive(Debug, Serialize)]
struct PublishedKey {
    kty: &'static str,
    crv: &'static str,
    x: String,
    #[serde(rename = "use")]
    usage: &'static str,
    alg: &'static str,
    kid: String,
}

impl FromIterator<PublicKey> for JwkSet {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        let keys = keys.into_iter().map(|key| PublishedKey {
            kty: "OKP",
            crv: "Ed25519",
            x: key.jwk_x(),
            usage: "sig",
            alg: "EdDSA",
            kid: key.thumbprint(),
        });
        Self { keys: keys.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8037 appendix A.2.
    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    #[test]
    fn reads_the_key_of_rfc_8037_and_publishes_it() {
        let key = parse(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{X}","kid":"mine"}}"#)).unwrap();
        assert_eq!(key.jwk_x(), X);
        let set = serde_json::to_value(JwkSet::from_iter([key])).unwrap();
        assert_eq!(
            set,
            serde_json::json!({"keys": [{
                "kty": "OKP", "crv": "Ed25519", "x": X, "use": "sig", "alg": "EdDSA",
                "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
            }]})
        );
    }

    #[test]
    fn refuses_with_the_reason() {
        for (text, error) in [
            ("", JwkError::Malformed),
            ("[]", JwkError::Malformed),
            (r#"{"crv":"Ed25519"}"#, JwkError::Malformed),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}"#, JwkError::Private),
            (r#"{"kty":"oct","k":"AA"}"#, JwkError::Kind),
            (r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#, JwkError::Kind),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"AA","use":"enc"}"#, JwkError::Use),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"AA","alg":"ES256"}"#, JwkError::Use),
            (r#"{"kty":"OKP","crv":"Ed25519"}"#, JwkError::Point),
            (r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#, JwkError::Point),
            (&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{X}="}}"#), JwkError::Point),
            (&" ".repeat(MAX_LEN + 1), JwkError::Malformed),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
