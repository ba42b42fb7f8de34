//! The keystores of a cell in tokens of SoftHSM2, one a service, each with a PIN of its own. In containers privacy's alone, which
//! its own image makes (docs/adr/0026-hsm-in-containers.md).

use std::path::Path;

use sotto_core::{CellId, Timestamp};
use sotto_crypto::random::random_array;
use sotto_keystore::{MacHome, Pkcs11Buckets, Pkcs11Keystore, Token, prepare_token};

use super::{files, hex, keys};
use crate::{
    CliError,
    cell::{CellDir, Layout},
    hsm,
};

/// In containers: how SoftHSM2 finds the token, and its PINs.
pub(crate) const SHARED_CONF: &str = "hsm/privacy.conf";
pub(crate) const SHARED_PIN: &str = "secrets/pin-privacy";
/// Of the token's security officer: it is needed once, to make the token, and may set another PIN.
pub(crate) const OFFICER_PIN: &str = "secrets/pin-privacy-officer";

/// SoftHSM2's library in an image.
const MODULE_IN_IMAGE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// The token of a service. With the longest name of a cell it has 31 of the 32 characters that there are.
pub(crate) fn token_of(service: &str, cell: &CellId) -> String {
    format!("sotto-{cell}-{service}")
}

/// What the configuration of a service says of its token.
pub(super) fn settings(
    service: &str,
    cell: &CellId,
    layout: Layout,
) -> [(&'static str, &'static str, String); 5] {
    let section = "keystore.pkcs11";
    let module = match layout {
        Layout::Machine => hsm::module().unwrap_or_else(|_| Path::new("").to_owned()).display().to_string(),
        Layout::Containers => MODULE_IN_IMAGE.to_owned(),
    };
    [
        ("keystore", "kind", "pkcs11".to_owned()),
        (section, "module", module),
        (section, "token", token_of(service, cell)),
        (section, "pin_file", format!("secrets/pin-{service}")),
        (section, "sync_folder", hsm::TOKENS.to_owned()),
    ]
}

/// Makes the tokens and the first keys in them.
pub(super) fn create(dir: &CellDir, cell: &CellId, now: Timestamp) -> Result<(), CliError> {
    let officer = dir.path("secrets/pin-officer");
    files::secret(&officer, pin()?.as_bytes())?;
    for service in keys::SLOTS.into_iter().chain(["privacy"]) {
        let pin_file = dir.path(format!("secrets/pin-{service}"));
        files::secret(&pin_file, pin()?.as_bytes())?;
        prepare_token(&hsm::module()?, &token_of(service, cell), &officer, &pin_file)
            .map_err(keys::failed)?;
        let token = Token::open(hsm::token(dir, token_of(service, cell), pin_file)?).map_err(keys::failed)?;
        if service == "privacy" {
            Pkcs11Buckets::create(token, service).map_err(keys::failed)?;
        } else {
            // As the services open them: ingress makes tags of every message.
            let macs = if service == "ingress" { MacHome::Process } else { MacHome::Token };
            let keystore = Pkcs11Keystore::create(token, service, macs).map_err(keys::failed)?;
            keys::fill(dir, cell, service, &keystore, now)?;
        }
    }
    Ok(())
}

/// For containers: what privacy's image makes the token with. The folder is the one that each process is started in.
pub(super) fn prepare_share(dir: &CellDir) -> Result<(), CliError> {
    for file in [SHARED_PIN, OFFICER_PIN] {
        files::secret(&dir.path(file), pin()?.as_bytes())?;
    }
    files::public(&dir.path(SHARED_CONF), hsm::softhsm_conf(Path::new(hsm::TOKENS)).as_bytes())
}

/// 128 random bits as text.
fn pin() -> Result<String, CliError> {
    let random = random_array::<16>().map_err(|error| CliError::caused_by("no randomness", &error))?;
    Ok(hex(&random))
}
