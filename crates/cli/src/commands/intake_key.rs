//! `sotto intake-key list | rotate | retire`: the key that clients over NATS seal their requests to.

use std::time::Duration;

use sotto_core::{Clock, Timestamp};
use sotto_keystore::{KeyInfo, KeyKind, KeyRole, Keystore, KeystoreError};

use super::keys;
use crate::{
    CliError, Output, Tone,
    cell::CellDir,
    error::at,
    init::{
        files,
        keys::{INTAKE_KEY, INTAKE_RING, intake_jwk},
    },
};

/// After this time a running ingress opens what is sealed to a new key: it reads its keystore again every 5 s.
const TAKEN_UP: Duration = Duration::from_secs(7);

pub(crate) fn list(dir: &CellDir, output: &Output) -> Result<(), CliError> {
    for key in open(dir)?.keys(INTAKE_RING).map_err(failed)? {
        let KeyInfo { id, role, created_at_ms, .. } = key;
        let (role, tone) = match role {
            KeyRole::Next => ("next", Tone::Faint),
            KeyRole::Current => ("current", Tone::Good),
            KeyRole::Previous => ("previous", Tone::Plain),
        };
        let made = Timestamp::from_unix_millis(created_at_ms);
        output.json(&serde_json::json!({ "key_id": id, "role": role, "created_at": made.to_string() }))?;
        output.line(format!("{id}  {}  made {made}", output.tone(tone, role)))?;
    }
    Ok(())
}

pub(crate) async fn rotate(dir: &CellDir, clock: &dyn Clock, output: &Output) -> Result<(), CliError> {
    let keystore = open(dir)?;
    // Known to ingress before any client has it. One that an attempt which broke off made is taken up.
    let made = keystore.generate(INTAKE_RING, KeyKind::X25519, clock.now().unix_millis());
    if let Err(error) = made
        && !matches!(error, KeystoreError::NextExists)
    {
        return Err(failed(error));
    }
    if dir.running().is_ok() {
        output.line("ingress takes up the new key …")?;
        tokio::time::sleep(TAKEN_UP).await;
    }
    let key = keystore.promote(INTAKE_RING).map_err(failed)?;
    let sealing = key.sealing.ok_or_else(|| CliError::new("the intake key has no public half"))?;
    let jwk = intake_jwk(&sealing);
    files::replace(&dir.path(INTAKE_KEY), jwk.as_bytes())?;
    let mut handed = Vec::new();
    for folder in client_folders(dir)? {
        let path = folder.join("intake-key.json");
        std::fs::remove_file(&path).map_err(at(&path))?;
        files::secret(&path, jwk.as_bytes())?;
        handed.push(folder);
    }
    output.json(&serde_json::json!({ "key_id": key.id, "folders": handed }))?;
    output.line(format!(
        "clients seal to {} from now on: hand {INTAKE_KEY} to those on other machines; requests sealed to the key before \
         are opened until you retire it: sotto intake-key list, sotto intake-key retire ID",
        key.id
    ))
}

pub(crate) fn retire(dir: &CellDir, key_id: &str, output: &Output) -> Result<(), CliError> {
    let keystore = open(dir)?;
    let known = keystore.keys(INTAKE_RING).map_err(failed)?.iter().any(|key| key.id == key_id);
    if !known {
        return Err(CliError::new("no intake key has this id").fix("see them with: sotto intake-key list"));
    }
    keystore
        .retire(key_id)
        .map_err(|error| failed(error).fix("make another first: sotto intake-key rotate"))?;
    output.json(&serde_json::json!({ "key_id": key_id, "retired": true }))?;
    output.line(format!("{key_id} is gone: nobody opens any more what was sealed to it"))
}

/// The folders that `sotto client nats add` made and that are still here.
fn client_folders(dir: &CellDir) -> Result<Vec<std::path::PathBuf>, CliError> {
    let clients = dir.path("clients");
    if !clients.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&clients).map_err(at(&clients))?.flatten();
    let mut folders: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == "nats") && path.is_dir())
        .collect();
    folders.sort();
    Ok(folders)
}

fn open(dir: &CellDir) -> Result<Box<dyn Keystore>, CliError> {
    keys::open(dir, "ingress")
}

fn failed(error: KeystoreError) -> CliError {
    CliError::caused_by("the keystore of ingress cannot be used", &error)
}
