//! Access tokens: JWTs as RFC 9068 profiles them, with two private claims.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use sotto_core::Timestamp;
use sotto_crypto::sign::PublicKey;

use super::{
    client::{Client, sender_text},
    jws::{Compact, JwsError},
    scope::{Scope, Scopes},
};

/// The header's `typ` (RFC 9068 §2.1).
pub const TYP: &str = "at+jwt";

/// Who issues tokens, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parties {
    /// The issuer identifier (RFC 8414 §2).
    pub issuer: String,
    /// The cell's resource identifier (RFC 8707): the tokens' audience.
    pub audience: String,
}

/// The claims of an access token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// The issuer.
    pub iss: String,
    /// When it ends, seconds since the Unix epoch.
    pub exp: i64,
    /// The cell's resource identifier.
    pub aud: String,
    /// The client: there is no person behind a client's token (RFC 9068 §2.2).
    pub sub: String,
    /// The client.
    pub client_id: String,
    /// When it was issued, seconds since the Unix epoch.
    pub iat: i64,
    /// Its own id, 128 random bits.
    pub jti: String,
    /// The granted scopes between single spaces (RFC 8693 §4.2).
    pub scope: String,
    /// Private claim: the tenant that the client acts for.
    pub tenant: String,
    /// Private claim: the senders that its messages may carry.
    pub senders: Vec<String>,
}

impl fmt::Debug for AccessClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessClaims")
            .field("client_id", &self.client_id)
            .field("scope", &self.scope)
            .field("exp", &self.exp)
            .finish_non_exhaustive()
    }
}

impl AccessClaims {
    /// The claims of a new token.
    pub fn new(
        parties: &Parties,
        client: &Client,
        granted: &Scopes,
        jti: &[u8; 16],
        now: Timestamp,
        lifetime: Duration,
    ) -> Self {
        let sends = granted.contains(Scope::MessageSend);
        Self {
            iss: parties.issuer.clone(),
            exp: now.plus(lifetime).unix_seconds(),
            aud: parties.audience.clone(),
            sub: client.id.to_string(),
            client_id: client.id.to_string(),
            iat: now.unix_seconds(),
            jti: format!("{:032x}", u128::from_be_bytes(*jti)),
            scope: granted.to_string(),
            tenant: client.tenant.to_string(),
            senders: if sends { client.senders.iter().map(sender_text).collect() } else { Vec::new() },
        }
    }
}

/// Why a token of ours was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// Not a token, or its signature does not verify.
    #[error("the access token is not valid")]
    Jws(#[source] JwsError),
    /// Another kind of token.
    #[error("the token is not an access token")]
    Type,
    /// Signed with a key that is not ours, or no more.
    #[error("the access token is signed with an unknown key")]
    Key,
    /// The claims are not those of a token of ours.
    #[error("the access token is not for this cell")]
    Claims,
    /// Its time is over.
    #[error("the access token has expired")]
    Expired,
}

/// Reads a token that this issuer made.
///
/// # Errors
/// Why it does not count.
pub fn verify(
    token: &str,
    keys: &[PublicKey],
    parties: &Parties,
    now: Timestamp,
) -> Result<AccessClaims, TokenRefused> {
    let token = Compact::parse(token).map_err(TokenRefused::Jws)?;
    if !token.typ().is_some_and(|typ| typ.eq_ignore_ascii_case(TYP)) {
        return Err(TokenRefused::Type);
    }
    let key = keys.iter().find(|key| token.kid() == Some(key.thumbprint().as_str()));
    let payload = token.verify(key.ok_or(TokenRefused::Key)?).map_err(TokenRefused::Jws)?;
    let claims: AccessClaims = serde_json::from_slice(payload).map_err(|_| TokenRefused::Claims)?;
    if claims.iss != parties.issuer || claims.aud != parties.audience {
        return Err(TokenRefused::Claims);
    }
    if claims.exp <= now.unix_seconds() {
        return Err(TokenRefused::Expired);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use sotto_core::sender::SenderId;
    use sotto_crypto::sign::SigningKey;

    use super::*;
    use crate::domain::{
        client::{Authentication, ClientId},
        jws,
    };

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_000_000);

    fn parties() -> Parties {
        Parties { issuer: "https://id.example".to_owned(), audience: "https://vn.sotto.internal".to_owned() }
    }

    fn claims(granted: &str) -> AccessClaims {
        let client = Client {
            id: ClientId::from_random(&[1; 16]),
            tenant: "acme".parse().unwrap(),
            name: "Acme".to_owned(),
            scopes: "message:send message:read".parse().unwrap(),
            senders: vec![SenderId::parse("ACME").unwrap()],
            authentication: Authentication::ClientSecret { key_id: "k".to_owned(), digest: [0; 32] },
            created_at: NOW,
            disabled_at: None,
        };
        let granted = granted.parse().unwrap();
        AccessClaims::new(&parties(), &client, &granted, &[7; 16], NOW, Duration::from_secs(600))
    }

    fn signed(key: &SigningKey, typ: &str, claims: &AccessClaims) -> String {
        let input = jws::signing_input(typ, &key.public().thumbprint(), claims).unwrap();
        jws::assemble(&input, &key.sign(input.as_bytes()).unwrap())
    }

    #[test]
    fn has_the_claims_of_rfc_9068() {
        assert_eq!(
            serde_json::to_value(claims("message:send")).unwrap(),
            serde_json::json!({
                "iss": "https://id.example",
                "exp": 1_795_000_600,
                "aud": "https://vn.sotto.internal",
                "sub": "client-01010101010101010101010101010101",
                "client_id": "client-01010101010101010101010101010101",
                "iat": 1_795_000_000,
                "jti": "07070707070707070707070707070707",
                "scope": "message:send",
                "tenant": "acme",
                "senders": ["ACME"],
            })
        );
        assert!(claims("message:read").senders.is_empty());
        assert!(!format!("{:?}", claims("message:send")).contains("ACME"));
    }

    #[test]
    fn verifies_only_what_was_issued_here() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let keys = [key.public()];
        let good = claims("message:read");
        let check = |token: &str, now| verify(token, &keys, &parties(), now);
        assert_eq!(check(&signed(&key, TYP, &good), NOW), Ok(good.clone()));
        assert_eq!(check(&signed(&key, "application/AT+JWT", &good), NOW), Ok(good.clone()));
        assert_eq!(check(&signed(&key, "JWT", &good), NOW), Err(TokenRefused::Type));
        assert_eq!(check(&signed(&other, TYP, &good), NOW), Err(TokenRefused::Key));
        let last = NOW.plus(Duration::from_secs(599));
        assert!(check(&signed(&key, TYP, &good), last).is_ok());
        let over = NOW.plus(Duration::from_secs(600));
        assert_eq!(check(&signed(&key, TYP, &good), over), Err(TokenRefused::Expired));
        for wrong in [
            AccessClaims { iss: "https://id.example/".to_owned(), ..good.clone() },
            AccessClaims { aud: "https://de.sotto.internal".to_owned(), ..good.clone() },
        ] {
            assert_eq!(check(&signed(&key, TYP, &wrong), NOW), Err(TokenRefused::Claims));
        }
    }
}
