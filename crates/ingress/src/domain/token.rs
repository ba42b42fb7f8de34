//! Access tokens: RFC 9068 in the compact form of JWS (RFC 7515 §7.1), for the one algorithm there is, `EdDSA` over
//! Ed25519 (RFC 8037 §3.1).
//!
//! Nothing in a token chooses how it is verified (RFC 8725 §3.1): the header may only name one of identity's keys.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::IgnoredAny};
use sotto_core::{Classified, ErrorClass, TenantId, Timestamp, sender::SenderId};
use sotto_crypto::sign::{PublicKey, SIGNATURE_LEN};

/// The longest token that is looked at, in bytes.
pub const MAX_LEN: usize = 8 * 1024;

/// How far identity's clock may be from ours.
pub const SKEW: Duration = Duration::from_secs(30);

/// The longest key id, in bytes. Ours have 43.
const MAX_KID: usize = 128;

/// How long a caller waits while there is no key to check its token with.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Why a token is not believed. Says nothing of what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum TokenError {
    /// There is none, or not in the form `Bearer <token>`.
    #[error("an access token is required: authorization: Bearer <token>")]
    Missing,
    /// Longer than [`MAX_LEN`].
    #[error("the token has more than {MAX_LEN} bytes")]
    TooLong,
    /// Not a signed token in compact form.
    #[error("the token is not a JWT in compact form")]
    Malformed,
    /// Signed with another algorithm than EdDSA, or with none.
    #[error("the token's alg is not EdDSA")]
    Algorithm,
    /// Another kind of token, such as an ID token.
    #[error("the token is not an access token (typ at+jwt)")]
    Type,
    /// The header brings a key, says where to fetch one, or asks for an extension.
    #[error("the token's header brings a key or an extension")]
    Extension,
    /// Identity has no such key.
    #[error("the token is signed by no key of this cell")]
    UnknownKey,
    /// No key has been fetched yet: nothing can be said of the token.
    #[error("tokens cannot be checked now: identity's keys have not been fetched yet")]
    NoKeys,
    /// The signature is not the key's.
    #[error("the token's signature does not verify")]
    Signature,
    /// A claim is missing or not what it should be.
    #[error("the token's claims are not those of an access token")]
    Claims,
    /// Issued by somebody else.
    #[error("the token is from another issuer")]
    Issuer,
    /// Meant for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
}

impl TokenError {
    /// Its stable name, for audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::Type => "type",
            Self::Extension => "extension",
            Self::UnknownKey => "unknown_key",
            Self::NoKeys => "no_keys",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
        }
    }
}

impl TokenError {
    /// Whether it may be the token of another cell.
    pub const fn is_foreign(self) -> bool {
        match self {
            Self::UnknownKey | Self::Signature | Self::Issuer | Self::Audience => true,
            Self::Missing
            | Self::TooLong
            | Self::Malformed
            | Self::Algorithm
            | Self::Type
            | Self::Extension
            | Self::NoKeys
            | Self::Claims
            | Self::Expired
            | Self::NotYet => false,
        }
    }
}

impl Classified for TokenError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NoKeys => ErrorClass::Retry { after: PAUSE },
            Self::Missing
            | Self::TooLong
            | Self::Malformed
            | Self::Algorithm
            | Self::Type
            | Self::Extension
            | Self::UnknownKey
            | Self::Signature
            | Self::Claims
            | Self::Issuer
            | Self::Audience
            | Self::Expired
            | Self::NotYet => ErrorClass::Reject,
        }
    }
}

/// What every token must say.
#[derive(Clone, Debug)]
pub struct Expected {
    /// `iss`
    pub issuer: String,
    /// One of `aud`.
    pub audience: String,
}

/// Where clients of other cells belong: their endpoints, by what the tokens of those cells have in `aud`.
pub type Elsewhere = BTreeMap<String, String>;

/// Who calls, by a verified token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The tenant it acts for.
    pub tenant: TenantId,
    /// The OAuth client.
    pub client: String,
    /// When the token ends.
    pub expires_at: Timestamp,
    scopes: Vec<String>,
    senders: Vec<SenderId>,
}

impl Caller {
    /// A caller without a token: for tests.
    #[cfg(test)]
    pub(crate) fn of(tenant: &str, senders: &[&str]) -> Self {
        Self {
            tenant: tenant.parse().unwrap(),
            client: "client".to_owned(),
            expires_at: Timestamp::from_unix_seconds(i64::MAX / 1000),
            scopes: Vec::new(),
            senders: senders.iter().map(|name| SenderId::parse(name).unwrap()).collect(),
        }
    }

    /// Whether the token was given this scope.
    pub fn may(&self, scope: &str) -> bool {
        self.scopes.iter().any(|given| given == scope)
    }

    /// Whether the tenant registered this sender.
    pub fn owns(&self, sender: &SenderId) -> bool {
        self.senders.contains(sender)
    }

    /// Whether the token is still within its time.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        now < self.ends_at()
    }

    /// From when on it is not.
    pub fn ends_at(&self) -> Timestamp {
        self.expires_at.plus(SKEW)
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
    b64: Option<IgnoredAny>,
    jku: Option<IgnoredAny>,
    jwk: Option<IgnoredAny>,
    x5u: Option<IgnoredAny>,
    x5c: Option<IgnoredAny>,
    zip: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    exp: i64,
    iat: i64,
    nbf: Option<i64>,
    scope: Option<String>,
    tenant: TenantId,
    client_id: String,
    #[serde(default)]
    senders: Vec<String>,
}

/// What of a token says where it belongs.
#[derive(Deserialize)]
struct Destined {
    aud: Audience,
}

/// A token taken apart. Nothing in it is to be believed before [`Unverified::verify`]. It holds the bearer's token, so
/// its `Debug` prints nothing.
pub struct Unverified<'a> {
    signed: &'a str,
    kid: String,
    payload: Vec<u8>,
    signature: [u8; SIGNATURE_LEN],
}

impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified").finish_non_exhaustive()
    }
}

impl<'a> Unverified<'a> {
    /// Takes a token apart.
    pub fn parse(text: &'a str) -> Result<Self, TokenError> {
        if text.len() > MAX_LEN {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header.alg != "EdDSA" {
            return Err(TokenError::Algorithm);
        }
        if !header.typ.as_deref().is_some_and(is_access_token) {
            return Err(TokenError::Type);
        }
        let extensions =
            [header.crit, header.b64, header.jku, header.jwk, header.x5u, header.x5c, header.zip];
        if extensions.iter().any(Option::is_some) {
            return Err(TokenError::Extension);
        }
        let kid = header.kid.filter(|kid| !kid.is_empty() && kid.len() <= MAX_KID);
        Ok(Self {
            signed,
            kid: kid.ok_or(TokenError::UnknownKey)?,
            payload: decode(payload)?,
            signature: decode(signature)?.try_into().map_err(|_| TokenError::Malformed)?,
        })
    }

    /// The key it claims to be signed by.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The endpoint of the cell that it says it is for. Nothing is proved by that, and nothing is given away: it is one of those
    /// that this cell tells anybody of.
    pub fn home<'e>(&self, elsewhere: &'e Elsewhere) -> Option<&'e str> {
        let Ok(Destined { aud }) = serde_json::from_slice(&self.payload) else { return None };
        let audiences = match aud {
            Audience::One(audience) => vec![audience],
            Audience::Many(audiences) => audiences,
        };
        audiences.iter().find_map(|audience| elsewhere.get(audience)).map(String::as_str)
    }

    /// Checks the signature, then the claims.
    pub fn verify(&self, key: &PublicKey, expected: &Expected, now: Timestamp) -> Result<Caller, TokenError> {
        key.verify(self.signed.as_bytes(), &self.signature).map_err(|_| TokenError::Signature)?;
        let claims: Claims = serde_json::from_slice(&self.payload).map_err(|_| TokenError::Claims)?;
        if claims.iss != expected.issuer {
            return Err(TokenError::Issuer);
        }
        let ours = match &claims.aud {
            Audience::One(audience) => *audience == expected.audience,
            Audience::Many(audiences) => audiences.contains(&expected.audience),
        };
        if !ours {
            return Err(TokenError::Audience);
        }
        let expires_at = Timestamp::from_unix_seconds(claims.exp);
        if now >= expires_at.plus(SKEW) {
            return Err(TokenError::Expired);
        }
        let begins = claims.iat.max(claims.nbf.unwrap_or(claims.iat));
        if Timestamp::from_unix_seconds(begins) > now.plus(SKEW) {
            return Err(TokenError::NotYet);
        }
        let senders: Result<Vec<_>, _> = claims.senders.iter().map(|name| SenderId::parse(name)).collect();
        Ok(Caller {
            tenant: claims.tenant,
            client: Some(claims.client_id).filter(|id| is_plain(id)).ok_or(TokenError::Claims)?,
            expires_at,
            scopes: claims.scope.unwrap_or_default().split(' ').map(ToOwned::to_owned).collect(),
            senders: senders.map_err(|_| TokenError::Claims)?,
        })
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)
}

/// `at+jwt`, with or without `application/` before it, in any case (RFC 9068 §2.1, RFC 7515 §4.1.9).
fn is_access_token(typ: &str) -> bool {
    typ.eq_ignore_ascii_case("at+jwt") || typ.eq_ignore_ascii_case("application/at+jwt")
}

/// A client's id goes into audit records: it must not be able to carry anything else.
fn is_plain(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
