//! The keys of services that are no buckets: rings in keystores on this machine.

use sotto_core::Timestamp;
use sotto_keystore::{
    KeyInfo, KeyKind, KeyRole, Keystore, KeystoreError, MacHome, Pkcs11Keystore, SoftKeystore, Token,
    UnlockSecret,
};

use crate::{
    CliError, Output, Tone,
    cell::CellDir,
    error::at,
    hsm,
    init::{
        hsm::token_of,
        keys::{SLOTS, rings_of},
    },
};

/// Opens the keystore of a service, as the service does.
pub(in crate::commands) fn open(dir: &CellDir, slot: &str) -> Result<Box<dyn Keystore>, CliError> {
    let cell = dir.open()?;
    let failed =
        |error: KeystoreError| CliError::caused_by(format!("the keystore of {slot} cannot be used"), &error);
    if hsm::conf(dir).exists() {
        hsm::enter(dir)?;
        let pin_file = dir.path(format!("secrets/pin-{slot}"));
        let settings = hsm::token(dir, token_of(slot, &cell.id), pin_file)?;
        let token = Token::open(settings).map_err(failed)?;
        let macs = if slot == "ingress" { MacHome::Process } else { MacHome::Token };
        return Ok(Box::new(Pkcs11Keystore::open(token, slot, macs).map_err(failed)?));
    }
    let secret = UnlockSecret::read(&dir.path(format!("secrets/unlock-{slot}"))).map_err(failed)?;
    // In containers a link stands there, and what replaces the file must stand where it leads.
    let path = dir.path(format!("keystore/{slot}.sks"));
    let path = std::fs::canonicalize(&path).map_err(at(&path))?;
    Ok(Box::new(SoftKeystore::open(&path, secret, slot).map_err(failed)?))
}

/// Tells the rings of each service whose keystore can be read here.
pub(super) fn list(dir: &CellDir, now: Timestamp, output: &Output) -> Result<(), CliError> {
    for slot in SLOTS {
        match read(dir, slot) {
            Ok(keys) => keys.iter().try_for_each(|(ring, key)| tell(slot, ring, key, now, output))?,
            Err(error) => {
                output.json(&serde_json::json!({ "service": slot, "unreadable": error.to_string() }))?;
                output.line(output.tone(Tone::Faint, &format!("{slot}: {error}")))?;
            }
        }
    }
    Ok(())
}

fn read(dir: &CellDir, slot: &str) -> Result<Vec<(&'static str, KeyInfo)>, CliError> {
    let keystore = open(dir, slot)?;
    let mut all = Vec::new();
    for (ring, _) in rings_of(slot) {
        let keys = keystore
            .keys(ring)
            .map_err(|error| CliError::caused_by(format!("the keystore of {slot} cannot be read"), &error))?;
        all.extend(keys.into_iter().map(|key| (*ring, key)));
    }
    Ok(all)
}

fn tell(slot: &str, ring: &str, key: &KeyInfo, now: Timestamp, output: &Output) -> Result<(), CliError> {
    let (state, tone) = match key.role {
        KeyRole::Next => ("next", Tone::Faint),
        KeyRole::Current => ("current", Tone::Good),
        KeyRole::Previous => ("previous", Tone::Plain),
    };
    let does = match key.kind {
        KeyKind::Ed25519 => "signs",
        KeyKind::HmacSha256 => "makes tags",
        KeyKind::X25519 => "opens",
    };
    let made = Timestamp::from_unix_millis(key.created_at_ms);
    output.json(&serde_json::json!({
        "service": slot, "ring": ring, "key_id": key.id, "state": state, "does": does,
        "made_at": made.to_string(), "age_seconds": now.since(made).as_secs(),
    }))?;
    let name = format!("{slot} {ring}");
    let state = output.tone(tone, &format!("{state:10}"));
    output.line(format!("{name:28}  {state}  made {made}  {does}  {}", key.id))
}
