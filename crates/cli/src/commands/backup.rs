//! `sotto backup`, `sotto restore`, `sotto release`: a cell's folder put aside and put back.
//!
//! The cell must not run: a message moves between streams, and only a copy of all of them at one moment has each exactly
//! once. The broker syncs before it acknowledges, so an atomic snapshot of the file system is such a moment too. What was put
//! back is held: what its stores call waiting may have been sent in the time that was lost (`sotto_core::restored`).

mod copy;

use std::{fs, path::Path, path::PathBuf};

use sotto_core::{CellId, Clock, Timestamp};
use sotto_keystore::{SoftBuckets, UnlockSecret};
use sotto_proto::ops::v1::{ReleaseRestoredRequest, traffic_service_client::TrafficServiceClient};

use self::copy::{Manifest, put_aside};
use super::{channel_to, refused};
use crate::{
    CliError, Output,
    cell::{CellDir, Layout},
    error::at,
    hsm,
    init::{FOLDERS, files},
    up::Lock,
};

/// Services that must know that the cell was put back.
const TOLD: [&str; 3] = ["routing", "carrier", "ingress"];

/// What opens what is in a backup, and so is kept apart from it.
const APART: [&str; 2] = ["secrets", "ca"];

/// Secrets without which no service of the cell starts.
const NEEDED: [&str; 7] = [
    "unlock-privacy",
    "unlock-identity",
    "unlock-audit",
    "unlock-ingress",
    "redis-ingress",
    "redis-carrier",
    "redis-identity",
];

/// What may be in the folder that a cell is put back into: bucket keys are in no backup, and secrets need not be.
const MAY_BE_THERE: [&str; 3] = ["keystore", "secrets", "ca"];

/// Bucket keys of the cell: they may have survived what it did not.
const BUCKETS: &str = "keystore/buckets.sks";

/// `sotto backup FOLDER [--secrets FOLDER]`
pub(crate) fn backup(
    dir: &CellDir,
    folder: &Path,
    secrets: Option<&Path>,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let cell = dir.open()?;
    if cell.layout != Layout::Machine {
        return Err(CliError::new("the processes of this cell have volumes of their own")
            .fix("stop them and copy the volumes: docs/OPERATIONS.md, \"Backup and restore\""));
    }
    check_tokens(dir)?;
    let _not_running = Lock::take(dir)?;
    let manifest = put_aside(dir, &cell.id, folder, secrets, clock.now())?;
    let (count, bytes) = (manifest.files.len(), manifest.bytes());
    output.json(&serde_json::json!({
        "cell": cell.id, "made_at": manifest.made_at.to_string(), "files": count, "bytes": bytes,
        "secrets": secrets,
    }))?;
    output.line(format!(
        "{count} files, {bytes} bytes of the cell {} are in {}",
        cell.id,
        folder.display()
    ))?;
    match secrets {
        Some(secrets) => {
            output.line(format!("what opens them is in {}: keep it elsewhere", secrets.display()))?
        }
        None => output.line("not in it: secrets/ and ca/, which open it; keep a copy of them elsewhere")?,
    }
    output
        .line("not in it either: the keys that die on time, and a carriers file outside of the cell's folder")
}

/// Puts a cell back into a folder that is empty, but for what no backup holds.
pub(crate) fn restore(
    dir: &CellDir,
    folder: &Path,
    secrets: Option<&Path>,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let manifest = Manifest::read(folder)?;
    let now = clock.now();
    check_clock(&manifest, now)?;
    check_place(dir)?;
    check_secrets(dir, secrets)?;
    manifest.verify(folder, secrets)?;

    files::folder_of_owner(dir.root())?;
    for inside in FOLDERS {
        files::folder_of_owner(&dir.path(inside))?;
    }
    // Last what makes a folder a cell, and before it what holds the cell.
    manifest.put_back(folder, secrets, dir, |path| path != "cell.toml")?;
    hold(dir, now)?;
    let keys = keys_that_die(dir)?;
    manifest.put_back(folder, secrets, dir, |path| path == "cell.toml")?;
    fs::File::open(dir.root()).and_then(|root| root.sync_all()).map_err(at(dir.root()))?;
    tell_restored(dir, &manifest.cell, Some(manifest.made_at), keys, now, output)
}

/// `sotto restore --in-place`: the folder and the stores were put back by other means.
pub(crate) fn restore_in_place(dir: &CellDir, clock: &dyn Clock, output: &Output) -> Result<(), CliError> {
    let cell = dir.open()?;
    let _not_running = match cell.layout {
        Layout::Machine => Some(Lock::take(dir)?),
        Layout::Containers => None,
    };
    let now = clock.now();
    hold(dir, now)?;
    let keys = if hsm::keeps_buckets(dir) { Keys::Survived } else { keys_that_die(dir)? };
    tell_restored(dir, &cell.id, None, keys, now, output)
}

/// What became of the keys that die on time, which are in no backup.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    Survived,
    MadeAnew,
}

/// Makes a file for them where none has survived. In containers the cell's folder has a link to where privacy keeps it.
fn keys_that_die(dir: &CellDir) -> Result<Keys, CliError> {
    let file = dir.path(BUCKETS);
    if file.exists() {
        return Ok(Keys::Survived);
    }
    let file = fs::read_link(&file).unwrap_or(file);
    if let Some(folder) = file.parent() {
        files::folder_of_owner(folder)?;
    }
    let secret = UnlockSecret::read(&dir.path("secrets/unlock-privacy"));
    let made = secret.and_then(|secret| SoftBuckets::create(&file, secret, "privacy"));
    made.map_err(|error| CliError::caused_by("the file of bucket keys could not be made", &error))?;
    Ok(Keys::MadeAnew)
}

fn tell_restored(
    dir: &CellDir,
    cell: &CellId,
    made_at: Option<Timestamp>,
    keys: Keys,
    now: Timestamp,
    output: &Output,
) -> Result<(), CliError> {
    output.json(&serde_json::json!({
        "cell": cell, "restored_at": now.to_string(), "made_at": made_at.map(|at| at.to_string()), "held": true,
        "keys_survived": keys == Keys::Survived,
    }))?;
    output.line(format!("the cell {cell} is back in {}, as of {now}", dir.root().display()))?;
    if let Some(made_at) = made_at {
        output.line(format!(
            "what happened after {made_at} is lost: messages accepted since, and what became of others"
        ))?;
    }
    output.line("it is held: nothing is taken and nothing is sent until you say so, also after a restart")?;
    if keys == Keys::MadeAnew {
        output
            .line("its keys that die on time are gone: no message in it can be opened and sent any more")?;
    }
    output
        .line("next: start it; sotto doctor; then sotto release (docs/OPERATIONS.md, \"Backup and restore\")")
}

/// `sotto release`
pub(crate) async fn release(
    dir: &CellDir,
    resend: bool,
    reason: String,
    output: &Output,
) -> Result<(), CliError> {
    let mut client = TrafficServiceClient::new(channel_to(dir, "carrier", "grpc")?);
    let failed = |status: tonic::Status| refused("nothing was released", &status);
    client.release_restored(ReleaseRestoredRequest { resend, reason }).await.map_err(failed)?;
    output.json(&serde_json::json!({ "released": true, "resend": resend }))?;
    output.line("the cell takes and sends messages again, within five seconds")?;
    output.line(if resend {
        "what may have been sent in the time that was lost is sent, maybe for the second time; one-time codes and what \
         cannot be sent any more end as unknown"
    } else {
        "what may have been sent in the time that was lost ends as unknown"
    })
}

/// A copy of tokens would hold keys that die on time, and outlive them: what was deleted could be read again.
fn check_tokens(dir: &CellDir) -> Result<(), CliError> {
    let tokens = dir.path(hsm::TOKENS);
    if !tokens.exists() {
        return Ok(());
    }
    Err(CliError::new(format!("the keys of this cell lie in tokens, in {}", tokens.display())).fix(
        "a copy of them would outlive the keys that die on time: there is no backup of a cell that `sotto init --hsm` made yet",
    ))
}

/// The moment of the restoration must lie after all that the backup knows.
fn check_clock(manifest: &Manifest, now: Timestamp) -> Result<(), CliError> {
    if now < manifest.made_at {
        return Err(CliError::new(format!(
            "this machine's clock ({now}) is before the backup ({})",
            manifest.made_at
        ))
        .fix("set the clock: by it is told what may have been sent in the time that was lost"));
    }
    Ok(())
}

fn check_place(dir: &CellDir) -> Result<(), CliError> {
    let there = match fs::read_dir(dir.root()) {
        Ok(there) => there,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(dir.root())(error)),
    };
    for entry in there {
        let entry = entry.map_err(at(dir.root()))?;
        let name = entry.file_name();
        if !MAY_BE_THERE.iter().any(|may| name == *may) {
            return Err(CliError::new(format!("{} is there already", entry.path().display())).fix(
                "give --cell a folder that is empty or not there yet; only keystore/buckets.sks, secrets/ and ca/ may \
                 be in it",
            ));
        }
    }
    for entry in fs::read_dir(dir.path("keystore")).into_iter().flatten() {
        let path = entry.map_err(at(dir.root()))?.path();
        if !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"buckets.sks")) {
            return Err(CliError::new(format!("{} is there already", path.display()))
                .fix("of keystore/ only buckets.sks may be there: put the other files elsewhere"));
        }
    }
    Ok(())
}

/// What opens the cell must be in the one place or the other.
fn check_secrets(dir: &CellDir, secrets: Option<&Path>) -> Result<(), CliError> {
    let place: PathBuf = secrets.map_or_else(|| dir.path("secrets"), |folder| folder.join("secrets"));
    match NEEDED.iter().map(|name| place.join(name)).find(|path| !path.is_file()) {
        None => Ok(()),
        Some(missing) => Err(CliError::new(format!("{} is missing", missing.display())).fix(
            "name the folder that `sotto backup --secrets` wrote, or put the cell's secrets/ (and ca/) there first",
        )),
    }
}

/// Writes into the configuration of those concerned that the cell was put back. They hold by that alone: no store that
/// was put back with the cell can say otherwise.
fn hold(dir: &CellDir, now: Timestamp) -> Result<(), CliError> {
    for service in TOLD {
        let path = dir.config(service);
        let text = fs::read_to_string(&path).map_err(at(&path))?;
        files::replace(&path, with_restored(&text, now).as_bytes())?;
        let folder = dir.path("config");
        fs::File::open(&folder).and_then(|folder| folder.sync_all()).map_err(at(&folder))?;
    }
    Ok(())
}

/// The configuration with this `[restored]` in place of an older one.
fn with_restored(text: &str, at: Timestamp) -> String {
    let mut skipped = false;
    let mut kept = String::with_capacity(text.len() + 64);
    for line in text.lines() {
        let line_of_section = line.trim_start();
        if line_of_section.starts_with('[') {
            skipped = line_of_section.starts_with("[restored]");
        }
        if !skipped {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    format!("{}\n\n[restored]\nat = \"{at}\"\n", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_never_copied() {
        let folder = tempfile::tempdir().unwrap();
        let dir = CellDir::new(folder.path().to_owned());
        check_tokens(&dir).unwrap();
        fs::create_dir_all(dir.path(hsm::TOKENS)).unwrap();
        assert!(check_tokens(&dir).unwrap_err().to_string().contains("tokens"));
    }

    #[test]
    fn a_restoration_takes_the_place_of_an_older_one() {
        let (first, second) = (Timestamp::from_unix_seconds(1), Timestamp::from_unix_seconds(2));
        let text = "# Made by hand.\n[cell]\nid = \"vn\"\n\n[work]\nbatches = 4\n";
        let once = with_restored(text, first);
        assert_eq!(once, format!("{text}\n[restored]\nat = \"{first}\"\n"));
        assert_eq!(with_restored(&once, second), format!("{text}\n[restored]\nat = \"{second}\"\n"));
        let between = format!("[cell]\nid = \"vn\"\n\n[restored]\nat = \"{first}\"\n\n[work]\nbatches = 4\n");
        assert_eq!(
            with_restored(&between, second),
            format!("[cell]\nid = \"vn\"\n\n[work]\nbatches = 4\n\n[restored]\nat = \"{second}\"\n")
        );
        let at: toml::Table = with_restored(&between, second).parse().unwrap();
        assert_eq!(at["restored"]["at"].as_str().unwrap().parse(), Ok(second));
    }
}
