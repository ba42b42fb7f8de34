//! A client's credentials on disk and the access token they get.

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http_body_util::Full;
use hyper::{Request, body::Bytes};
use serde::{Deserialize, Serialize};
use sotto_core::{Clock, Sensitive};
use sotto_crypto::{random::random_array, sign::SigningKey};
use sotto_runtime::{config::TlsConfig, tls::Tls};

use crate::{CliError, cell::CellDir, error::at, http, up::https_address};

/// How long an assertion is good for, seconds; identity takes at most 300.
const ASSERTION_SECONDS: i64 = 60;

/// `clients/<name>.json` or `operator/owner.json`: who a client is and its private key. Mode 600.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    pub(crate) client_id: String,
    pub(crate) tenant: String,
    /// Ed25519 seed, base64url.
    #[serde(with = "seed")]
    seed: Sensitive<Vec<u8>>,
}

mod seed {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use base64::Engine as _;

    use super::{Sensitive, URL_SAFE_NO_PAD};

    pub(super) fn serialize<S: Serializer>(seed: &Sensitive<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&URL_SAFE_NO_PAD.encode(seed.expose()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Sensitive<Vec<u8>>, D::Error> {
        let text = String::deserialize(from)?;
        URL_SAFE_NO_PAD.decode(text).map(Sensitive::new).map_err(|_| D::Error::custom("is not base64url"))
    }
}

/// A key pair on its way to being registered. It is on disk, in `<file>.new`, before anybody is told of it: what fails
/// after the registration leaves the key of a registered client where it can be found.
pub(crate) struct NewKey {
    key: SigningKey,
    file: PathBuf,
}

impl NewKey {
    /// Makes one for a credentials file. A key that an attempt which broke off left behind is taken up again.
    pub(crate) fn for_file(file: PathBuf) -> Result<Self, CliError> {
        if file.exists() {
            return Err(CliError::new(format!("{} is there already", file.display()))
                .fix("keep it: it is the only copy of a client's key"));
        }
        let draft = draft(&file);
        if draft.exists() {
            let left = Credentials::read(&draft, "move it away, and try again")?;
            return Ok(Self { key: left.key()?, file });
        }
        let key =
            SigningKey::generate().map_err(|error| CliError::caused_by("a key could not be made", &error))?;
        Credentials::of(&key, String::new(), String::new()).write(&draft)?;
        Ok(Self { key, file })
    }

    /// The public half as a JWK (RFC 8037).
    pub(crate) fn public_jwk(&self) -> String {
        let public = self.key.public();
        serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "x": public.jwk_x() }).to_string()
    }

    /// Writes the credentials of the registered client and gives back where.
    pub(crate) fn registered(self, client_id: &str, tenant: &str) -> Result<PathBuf, CliError> {
        let Self { key, file } = self;
        let draft = draft(&file);
        let whole = file.with_extension("whole");
        Credentials::of(&key, client_id.to_owned(), tenant.to_owned())
            .write(&whole)
            .and_then(|()| std::fs::rename(&whole, &file).map_err(at(&file)))
            .map_err(|error| {
                error.fix(format!(
                    "the client is registered as {client_id} and its key is in {}: make room, put the client_id in \
                     and rename it to {}",
                    draft.display(),
                    file.display()
                ))
            })?;
        // What is left holds nothing that the file does not.
        let _gone = std::fs::remove_file(&draft);
        Ok(file)
    }

    /// Nobody registered it.
    pub(crate) fn forget(self) {
        let _gone = std::fs::remove_file(draft(&self.file));
    }
}

fn draft(file: &Path) -> PathBuf {
    file.with_extension("json.new")
}

impl Credentials {
    fn of(key: &SigningKey, client_id: String, tenant: String) -> Self {
        Self { client_id, tenant, seed: Sensitive::new(key.expose_seed().to_vec()) }
    }

    fn key(&self) -> Result<SigningKey, CliError> {
        let failed =
            |error: &dyn std::error::Error| CliError::caused_by("the client's key cannot be used", error);
        let seed = self.seed.expose().as_slice().try_into().map_err(|error| failed(&error))?;
        SigningKey::from_seed(seed).map_err(|error| failed(&error))
    }

    /// The file of the owner's client.
    pub(crate) fn owner_file(dir: &CellDir) -> PathBuf {
        dir.path("operator/owner.json")
    }

    /// The file of a client, by the name given when it was made.
    pub(crate) fn client_file(dir: &CellDir, name: &str) -> PathBuf {
        dir.path(format!("clients/{name}.json"))
    }

    pub(crate) fn read(path: &Path, fix: &str) -> Result<Self, CliError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| CliError::caused_by(format!("{}", path.display()), &error).fix(fix))?;
        serde_json::from_str(&text).map_err(|error| {
            CliError::caused_by(format!("{} cannot be read", path.display()), &error).fix(fix)
        })
    }

    /// Writes a new file that its owner alone may read, down to the disk.
    fn write(&self, path: &Path) -> Result<(), CliError> {
        use std::{
            io::Write as _,
            os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| CliError::caused_by("credentials cannot be written", &error))?;
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .map_err(at(path))
    }

    /// Gets an access token by `private_key_jwt` (RFC 7523) for these scopes.
    pub(crate) async fn token(
        &self,
        dir: &CellDir,
        scopes: &str,
        clock: &dyn Clock,
    ) -> Result<Sensitive<String>, CliError> {
        let identity = https_address(dir.running()?.address("identity.https")?);
        let tls = || {
            tls(dir, "operator")?
                .client(&["http/1.1"])
                .map_err(|error| CliError::caused_by("TLS cannot be set up", &error))
        };
        let failed = |error: hyper::http::Error| CliError::caused_by("a request could not be made", &error);
        let request = Request::get("/.well-known/oauth-authorization-server").header("host", &identity);
        let request = request.body(Full::default()).map_err(failed)?;
        let (_, body) = http::send_tls(&identity, "identity.sotto.internal", tls()?, request).await?;
        let metadata: Metadata = serde_json::from_slice(&body)
            .map_err(|error| CliError::caused_by("identity's metadata cannot be read", &error))?;

        let assertion = self.assertion(&metadata.issuer, clock)?;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &self.client_id),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion.expose()),
            ("scope", scopes),
        ];
        let form = form.map(|(key, value)| format!("{key}={}", escaped(value))).join("&");
        let request = Request::post("/oauth2/token")
            .header("host", &identity)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(Bytes::from(form)))
            .map_err(failed)?;
        let (status, body) = http::send_tls(&identity, "identity.sotto.internal", tls()?, request).await?;
        if !status.is_success() {
            let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
            return Err(CliError::new(format!(
                "identity refused a token: {} {}",
                refusal.error, refusal.error_description
            ))
            .fix("check that the client is enabled and has the scope (sotto client list)"));
        }
        let granted: Granted = serde_json::from_slice(&body)
            .map_err(|error| CliError::caused_by("identity's answer cannot be read", &error))?;
        Ok(Sensitive::new(granted.access_token))
    }

    fn assertion(&self, issuer: &str, clock: &dyn Clock) -> Result<Sensitive<String>, CliError> {
        let failed =
            |error: &dyn std::error::Error| CliError::caused_by("the client's key cannot be used", error);
        let key = self.key()?;
        let jti = random_array::<16>().map_err(|error| failed(&error))?;
        let now = clock.now().unix_seconds();
        let header = serde_json::json!({ "alg": "EdDSA", "typ": "JWT" });
        let claims = serde_json::json!({
            "iss": self.client_id, "sub": self.client_id, "aud": issuer,
            "iat": now, "exp": now + ASSERTION_SECONDS, "jti": URL_SAFE_NO_PAD.encode(jti),
        });
        let encoded = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encoded(header), encoded(claims));
        let signature = key.sign(signed.as_bytes()).map_err(|error| failed(&error))?;
        Ok(Sensitive::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

/// The certificate of a tool of this cell.
pub(crate) fn tls(dir: &CellDir, tool: &str) -> Result<Tls, CliError> {
    Tls::load(&TlsConfig {
        ca_file: dir.path("tls/ca.pem"),
        cert_file: dir.path(format!("tls/{tool}.pem")),
        key_file: dir.path(format!("tls/{tool}.key")),
    })
    .map_err(|error| CliError::caused_by("the operator's certificate cannot be used", &error))
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

/// `application/x-www-form-urlencoded`: everything but the unreserved characters of RFC 3986 is escaped.
pub(crate) fn escaped(value: &str) -> String {
    use std::fmt::Write as _;
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _written = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_on_disk_before_it_is_registered_and_taken_up_again() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clients/shop.json");
        let first = NewKey::for_file(file.clone()).unwrap();
        let jwk = first.public_jwk();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("clients/shop.json.new")), 0o600);
        assert!(!file.exists());
        // The process ends here; the next one goes on with the same key.
        drop(first);
        let again = NewKey::for_file(file.clone()).unwrap();
        assert_eq!(again.public_jwk(), jwk);
        again.registered("client-1", "acme").unwrap();
        assert_eq!(mode(&file), 0o600);
        assert_eq!(Credentials::read(&file, "").unwrap().client_id, "client-1");
        assert_eq!(std::fs::read_dir(folder.path().join("clients")).unwrap().count(), 1);
        assert!(NewKey::for_file(file).is_err(), "written over");
    }

    #[test]
    fn forms_are_escaped() {
        assert_eq!(escaped("message:send message:read+é"), "message%3Asend%20message%3Aread%2B%C3%A9");
    }
}
