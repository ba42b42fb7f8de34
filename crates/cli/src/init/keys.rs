//! Keys of a cell: NATS identities, keystores with their unlock secrets, and the owner's invitation.

use std::{collections::BTreeMap, time::Duration};

use sotto_core::{CellId, Timestamp};
use sotto_crypto::{hash::sha256, hpke::SealingKey, random::random_array, sign::PublicKey};
use sotto_keystore::{KeyKind, Keystore, KeystoreError, SoftBuckets, SoftKeystore, UnlockSecret};
use sotto_tlog::VerifierKey;

use super::{files, hex, services::log_origin};
use crate::{CliError, cell::CellDir, commands::audit::KEY_FILE};

/// The ring of ingress's keystore that opens what clients seal.
pub(crate) const INTAKE_RING: &str = "intake";

/// The public half of the key that clients seal to.
pub(crate) const INTAKE_KEY: &str = "nats/intake-key.json";

/// A key that clients seal to, as a JWK (RFC 7517, RFC 8037).
pub(crate) fn intake_jwk(key: &SealingKey) -> String {
    let jwk = serde_json::json!({
        "kty": "OKP", "crv": "X25519", "x": key.jwk_x(), "kid": key.thumbprint(), "use": "enc",
    });
    format!("{jwk}\n")
}

/// How long the owner's invitation is good for.
const INVITATION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Everybody who talks to the broker.
pub(super) const NATS_USERS: [&str; 8] =
    ["ingress", "routing", "carrier", "identity", "privacy", "audit", "operator", "provisioner"];

/// Makes two nkeys a user, the one in use and the next, and gives back their public halves.
pub(super) fn nats(dir: &CellDir) -> Result<BTreeMap<String, Vec<String>>, CliError> {
    let mut users = BTreeMap::new();
    for user in NATS_USERS {
        let mut public = Vec::new();
        for place in ["current", "next"] {
            let key = nkeys::KeyPair::new_user();
            let seed =
                key.seed().map_err(|error| CliError::caused_by("an nkey could not be made", &error))?;
            files::secret(&dir.path(format!("nats/nkeys/{user}.{place}.seed")), seed.as_bytes())?;
            public.push(key.public_key());
        }
        users.insert(user.to_owned(), public);
    }
    Ok(users)
}

/// Makes the keystores of ingress, identity and audit.
pub(super) fn keystores(dir: &CellDir, cell: &CellId, now: Timestamp) -> Result<(), CliError> {
    for slot in SLOTS {
        let secret = unlock_secret(dir, slot)?;
        let path = dir.path(format!("keystore/{slot}.sks"));
        let keystore = SoftKeystore::create(&path, secret, slot).map_err(failed)?;
        fill(dir, cell, slot, &keystore, now)?;
    }
    Ok(())
}

/// Makes privacy's buckets: a file of its own that is never backed up, since what it destroys must stay destroyed.
pub(super) fn buckets(dir: &CellDir) -> Result<(), CliError> {
    let secret = unlock_secret(dir, "privacy")?;
    SoftBuckets::create(&dir.path("keystore/buckets.sks"), secret, "privacy").map_err(failed)?;
    Ok(())
}

/// The slots of named keys.
pub(crate) const SLOTS: [&str; 3] = ["ingress", "identity", "audit"];

/// The rings of a slot.
pub(crate) fn rings_of(slot: &str) -> &'static [(&'static str, KeyKind)] {
    match slot {
        "ingress" => &[("idempotency", KeyKind::HmacSha256), (INTAKE_RING, KeyKind::X25519)],
        "identity" => &[
            ("token", KeyKind::Ed25519),
            ("client-secrets", KeyKind::HmacSha256),
            ("client-store", KeyKind::HmacSha256),
        ],
        _ => &[("checkpoint", KeyKind::Ed25519)],
    }
}

/// Makes the first keys of a slot, and writes down the public halves that others need.
pub(super) fn fill(
    dir: &CellDir,
    cell: &CellId,
    slot: &str,
    keystore: &dyn Keystore,
    now: Timestamp,
) -> Result<(), CliError> {
    for (label, kind) in rings_of(slot) {
        let key = keystore.generate(label, *kind, now.unix_millis()).map_err(failed)?;
        if slot == "audit" {
            pin_log(dir, cell, key.public)?;
        }
        if let Some(sealing) = key.sealing {
            files::public(&dir.path(INTAKE_KEY), intake_jwk(&sealing).as_bytes())?;
        }
    }
    Ok(())
}

/// Writes the verifier key of the cell's log where people and tools find it: known before the first entry, so that
/// nobody has to take it from the service that it checks.
fn pin_log(dir: &CellDir, cell: &CellId, public: Option<PublicKey>) -> Result<(), CliError> {
    let missing = || CliError::new("the log's key has no public half");
    let key = VerifierKey::new(&log_origin(cell), public.ok_or_else(missing)?)
        .map_err(|error| CliError::caused_by("the log's name is not valid", &error))?;
    files::public(&dir.path(KEY_FILE), format!("{key}\n").as_bytes())
}

/// Makes the password between the cell and its own simulator: eight characters, the most that SMPP 3.4 §4.1 allows.
pub(super) fn simulator(dir: &CellDir) -> Result<(), CliError> {
    let random = random_array::<4>().map_err(|error| CliError::caused_by("no randomness", &error))?;
    files::secret(&dir.path("secrets/simulator"), hex(&random).as_bytes())
}

fn unlock_secret(dir: &CellDir, slot: &str) -> Result<UnlockSecret, CliError> {
    UnlockSecret::create(&dir.path(format!("secrets/unlock-{slot}"))).map_err(failed)
}

/// Makes the one-time invitation of the cell's owner: its text for the person, its hash for identity.
pub(super) fn invitation(dir: &CellDir, now: Timestamp) -> Result<(), CliError> {
    let random = random_array::<32>().map_err(|error| CliError::caused_by("no randomness", &error))?;
    let text = format!("sotto-invitation-{}", hex(&random));
    files::secret(&dir.path("owner-invitation"), text.as_bytes())?;
    let record = serde_json::json!({
        "hash": hex(&sha256(text.as_bytes())),
        "expires_at": now.plus(INVITATION).to_string(),
    });
    files::secret(&dir.path("identity/invitation.json"), record.to_string().as_bytes())
}

pub(super) fn failed(error: KeystoreError) -> CliError {
    CliError::caused_by("a keystore could not be made", &error)
}
