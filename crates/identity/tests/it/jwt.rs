//! Tokens by other libraries than ours: jsonwebtoken reads them, ed25519-dalek verifies them.

use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use jsonwebtoken::{
    Algorithm, DecodingKey, TokenData, Validation,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    errors::ErrorKind,
    jwk::JwkSet,
};
use serde_json::Value;
use sotto_core::Timestamp;

use crate::world::{AUDIENCE, ISSUER};

struct Dalek(VerifyingKey);

impl Verifier<Vec<u8>> for Dalek {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), ed25519_dalek::SignatureError> {
        self.0.verify(message, &Signature::from_slice(signature)?)
    }
}

impl JwtVerifier for Dalek {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: |algorithm, key| {
        if *algorithm != Algorithm::EdDSA {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        let bytes = <[u8; 32]>::try_from(key.try_get_as_bytes()?).map_err(|_| ErrorKind::InvalidEddsaKey)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| ErrorKind::InvalidEddsaKey)?;
        Ok(Box::new(Dalek(key)))
    },
    key_utils: KeyUtils::new_unimplemented(),
};

/// Verifies a token as a resource server does that knows only the published keys.
pub(crate) fn verify(
    token: &str,
    jwks: &Value,
    now: Timestamp,
) -> jsonwebtoken::errors::Result<TokenData<Value>> {
    // Another test of this process may have installed it.
    let _installed = PROVIDER.install_default();
    let keys: JwkSet = serde_json::from_value(jwks.clone())?;
    let kid = jsonwebtoken::decode_header(token)?.kid.ok_or(ErrorKind::InvalidToken)?;
    let key = DecodingKey::from_jwk(keys.find(&kid).ok_or(ErrorKind::InvalidToken)?)?;
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&[AUDIENCE]);
    rules.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
    // Its clock is the machine's; the tests' is not.
    rules.validate_exp = false;
    let read = jsonwebtoken::decode::<Value>(token, &key, &rules)?;
    if read.claims["exp"].as_i64().is_none_or(|exp| exp <= now.unix_seconds()) {
        return Err(ErrorKind::ExpiredSignature.into());
    }
    Ok(read)
}
