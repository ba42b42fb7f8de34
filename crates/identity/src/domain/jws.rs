//! The compact form of JSON Web Signature (RFC 7515 §7.1), for the one algorithm this platform has: `EdDSA` over
//! Ed25519 (RFC 8037 §3.1).
//!
//! Reading takes nothing from the header that could choose a key or an algorithm (RFC 8725 §3.1): whoever verifies
//! brings the key, and a header that says anything but `EdDSA` is refused before a signature is looked at.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use sotto_crypto::sign::{PublicKey, SIGNATURE_LEN};

/// The longest token that is read (bytes). Ours have some 600; an assertion needs some 400.
pub const MAX_LEN: usize = 8 * 1024;

const ALGORITHM: &str = "EdDSA";

/// The header of a token that we sign.
#[derive(Debug, Serialize)]
struct OwnHeader<'a> {
    alg: &'static str,
    typ: &'a str,
    kid: &'a str,
}

/// The members of a foreign header that matter. Others are ignored (RFC 7515 §4).
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
    b64: Option<IgnoredAny>,
}

/// Why a text is not a token that can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than [`MAX_LEN`].
    #[error("the token has more than {MAX_LEN} bytes")]
    TooLong,
    /// Not three parts of base64url without padding, or a part is not what it should be.
    #[error("the token is not a JWS in compact form")]
    Malformed,
    /// Signed with another algorithm than EdDSA, or with none.
    #[error("the token's alg is not EdDSA")]
    Algorithm,
    /// The header asks for an extension that is not known here (RFC 7515 §4.1.11, RFC 7797).
    #[error("the token's header has a critical extension")]
    Critical,
    /// The signature is not the key's.
    #[error("the token's signature does not verify")]
    Signature,
}

/// A token in its parts. Nothing in it is to be believed before [`Compact::verify`].
#[derive(Debug)]
pub struct Compact<'a> {
    signed: &'a str,
    typ: Option<String>,
    kid: Option<String>,
    payload: Vec<u8>,
    signature: [u8; SIGNATURE_LEN],
}

impl<'a> Compact<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// Everything but [`JwsError::Signature`].
    pub fn parse(text: &'a str) -> Result<Self, JwsError> {
        if text.len() > MAX_LEN {
            return Err(JwsError::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(JwsError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(JwsError::Malformed)?;
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| JwsError::Malformed)?;
        if header.alg != ALGORITHM {
            return Err(JwsError::Algorithm);
        }
        if header.crit.is_some() || header.b64.is_some() {
            return Err(JwsError::Critical);
        }
        let payload = decode(payload)?;
        let signature = decode(signature)?.try_into().map_err(|_| JwsError::Malformed)?;
        Ok(Self { signed, typ: header.typ, kid: header.kid, payload, signature })
    }

    /// The header's `typ`, without the `application/` that may stand before it (RFC 7515 §4.1.9).
    pub fn typ(&self) -> Option<&str> {
        let typ = self.typ.as_deref()?;
        match typ.split_at_checked("application/".len()) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => Some(rest),
            Some(_) | None => Some(typ),
        }
    }

    /// The header's `kid`.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The payload, not verified.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, if the signature is this key's.
    ///
    /// # Errors
    /// [`JwsError::Signature`].
    pub fn verify(&self, key: &PublicKey) -> Result<&[u8], JwsError> {
        key.verify(self.signed.as_bytes(), &self.signature).map_err(|_| JwsError::Signature)?;
        Ok(&self.payload)
    }
}

/// What is to be signed: header and claims, encoded.
///
/// # Errors
/// When the claims are not JSON.
pub fn signing_input(typ: &str, kid: &str, claims: &impl Serialize) -> Result<String, serde_json::Error> {
    let header = serde_json::to_vec(&OwnHeader { alg: ALGORITHM, typ, kid })?;
    let claims = serde_json::to_vec(claims)?;
    Ok(format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims)))
}

/// The token: what was signed and its signature.
#[must_use]
pub fn assemble(signing_input: &str, signature: &[u8; SIGNATURE_LEN]) -> String {
    format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn decode(part: &str) -> Result<Vec<u8>, JwsError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sotto_crypto::sign::SigningKey;

    use super::*;

    /// The key and the token of RFC 8037 appendix A.4.
    const SEED: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    const TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

    fn key() -> SigningKey {
        SigningKey::from_seed(&URL_SAFE_NO_PAD.decode(SEED).unwrap().try_into().unwrap()).unwrap()
    }

    fn with_header(header: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode("{}"));
        let signature = key().sign(signed.as_bytes()).unwrap();
        assemble(&signed, &signature)
    }

    #[test]
    fn agrees_with_rfc_8037() {
        let token = Compact::parse(TOKEN).unwrap();
        assert_eq!(token.verify(&key().public()).unwrap(), b"Example of Ed25519 signing");
        let (signed, _) = TOKEN.rsplit_once('.').unwrap();
        assert_eq!(assemble(signed, &key().sign(signed.as_bytes()).unwrap()), TOKEN);
    }

    #[test]
    fn refuses_other_algorithms_and_extensions() {
        for (header, error) in [
            (r#"{"alg":"none"}"#, JwsError::Algorithm),
            (r#"{"alg":"HS256"}"#, JwsError::Algorithm),
            (r#"{"alg":"eddsa"}"#, JwsError::Algorithm),
            (r#"{"alg":"EdDSA","crit":["exp"]}"#, JwsError::Critical),
            (r#"{"alg":"EdDSA","b64":false}"#, JwsError::Critical),
            (r#"{"typ":"JWT"}"#, JwsError::Malformed),
            (r#"{"alg":"EdDSA","alg":"none"}"#, JwsError::Malformed),
        ] {
            assert_eq!(Compact::parse(&with_header(header)).unwrap_err(), error, "{header}");
        }
        assert_eq!(Compact::parse("eyJhbGciOiJub25lIn0.e30.").unwrap_err(), JwsError::Algorithm);
    }

    #[test]
    fn reads_the_media_type_with_and_without_its_prefix() {
        for typ in ["at+jwt", "application/at+jwt", "APPLICATION/at+jwt"] {
            let token = with_header(&format!(r#"{{"alg":"EdDSA","typ":"{typ}"}}"#));
            assert_eq!(Compact::parse(&token).unwrap().typ(), Some("at+jwt"));
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "\\PC{0,200}|[A-Za-z0-9_.-]{0,300}") {
            if let Ok(token) = Compact::parse(&text) {
                prop_assert!(token.verify(&key().public()).is_err());
            }
        }

        #[test]
        fn a_changed_token_does_not_verify(at in 0..TOKEN.len(), to in "[A-Za-z0-9_.-]") {
            let mut changed = TOKEN.to_owned();
            changed.replace_range(at..=at, &to);
            prop_assume!(changed != TOKEN);
            let verified = Compact::parse(&changed).is_ok_and(|token| token.verify(&key().public()).is_ok());
            prop_assert!(!verified);
        }
    }
}
