//! Acts on their way from one person to the next, as files (docs/formats/approval.md).

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use sotto_core::{Timestamp, approval::Act};
use sotto_crypto::{random::random_array, sign::SigningKey};

use crate::{CliError, Output, cell::CellDir, error::at, init::files};

/// An act and who signed it so far.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActFile {
    /// The text that is signed.
    pub(super) act: String,
    /// The signatures.
    pub(super) approvals: Vec<Approval>,
}

/// One signature.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approval {
    /// Whose.
    pub(super) by: String,
    /// Ed25519 over the text, base64url.
    signature: String,
}

impl Approval {
    pub(super) fn bytes(&self) -> Result<Vec<u8>, CliError> {
        let wrong =
            |error| CliError::caused_by(format!("the signature of {} cannot be read", self.by), &error);
        URL_SAFE_NO_PAD.decode(&self.signature).map_err(wrong)
    }
}

impl ActFile {
    pub(super) fn read(path: &Path) -> Result<Self, CliError> {
        let text = std::fs::read_to_string(path).map_err(at(path))?;
        serde_json::from_str(&text).map_err(|error| {
            CliError::caused_by(format!("{} is no act", path.display()), &error)
                .fix("write one with: sotto keys propose")
        })
    }

    fn text(&self) -> Result<String, CliError> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .map_err(|error| CliError::caused_by("an act cannot be written", &error))
    }
}

/// Makes a person's key.
pub(super) fn person(name: &str, out: &Path, output: &Output) -> Result<(), CliError> {
    let key =
        SigningKey::generate().map_err(|error| CliError::caused_by("a key could not be made", &error))?;
    let body = base64::engine::general_purpose::STANDARD.encode(key.to_pkcs8().as_slice());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
    files::secret(out, pem.as_bytes())?;
    let public = key.public().jwk_x();
    output.json(&serde_json::json!({ "name": name, "key": public, "private_key": out }))?;
    output.line(format!("{} is for {name} alone; put this into config/privacy.toml:", out.display()))?;
    output.line(format!("\n[[approval.people]]\nname = \"{name}\"\nkey = \"{public}\"\n"))?;
    output.line("and restart privacy")
}

/// Writes an act that nobody signed yet.
pub(super) fn propose(
    dir: &CellDir,
    buckets: Vec<String>,
    expires_at: Timestamp,
    out: &Path,
    output: &Output,
) -> Result<(), CliError> {
    let id = random_array().map_err(|error| CliError::caused_by("no randomness", &error))?;
    let act = Act::destroy(id, dir.open()?.id, expires_at, buckets)
        .map_err(|error| CliError::caused_by("there is no such act", &error).fix("name each key once"))?;
    let file = ActFile { act: act.to_string(), approvals: Vec::new() };
    files::secret(out, file.text()?.as_bytes())?;
    output.json(&serde_json::json!({ "act": act.id(), "file": out, "buckets": act.buckets() }))?;
    output.line(format!("{act}"))?;
    output.line(format!("two people sign it: sotto keys approve {} --as NAME --key FILE", out.display()))
}

/// Shows an act and signs it.
pub(super) fn approve(
    path: &Path,
    by: &str,
    key: &Path,
    now: Timestamp,
    output: &Output,
) -> Result<(), CliError> {
    let mut file = ActFile::read(path)?;
    let act: Act = file.act.parse().map_err(|error| {
        CliError::caused_by(format!("{} is no act", path.display()), &error)
            .fix("sign nothing that sotto keys propose did not write")
    })?;
    if act.expires_at() <= now {
        return Err(CliError::new(format!("the act expired at {}", act.expires_at()))
            .fix("propose it anew: sotto keys propose"));
    }
    let unusable = |error: &dyn std::error::Error| {
        CliError::caused_by(format!("{} cannot be used", key.display()), error)
            .fix("give the file that sotto keys person wrote for you (PKCS #8, Ed25519)")
    };
    let der = PrivatePkcs8KeyDer::from_pem_file(key).map_err(|error| unusable(&error))?;
    let signing = SigningKey::from_pkcs8(der.secret_pkcs8_der()).map_err(|error| unusable(&error))?;
    let signature = signing.sign(file.act.as_bytes()).map_err(|error| unusable(&error))?;
    file.approvals.retain(|other| other.by != by);
    file.approvals.push(Approval { by: by.to_owned(), signature: URL_SAFE_NO_PAD.encode(signature) });
    let draft = path.with_added_extension("new");
    let _left_over = std::fs::remove_file(&draft);
    files::secret(&draft, file.text()?.as_bytes())?;
    std::fs::rename(&draft, path).map_err(at(path))?;
    let names: Vec<_> = file.approvals.iter().map(|approval| approval.by.as_str()).collect();
    output.json(&serde_json::json!({ "act": act.id(), "approved_by": names, "buckets": act.buckets() }))?;
    output.line(format!("{act}"))?;
    output.line(format!("signed by {}", names.join(" and ")))
}
