//! `sotto init --containers DIR`: a cell whose processes each run in a container of their own, and for each a folder with
//! what it may see and nothing else (docs/adr/0011-containers.md).

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use sotto_core::{Clock, Replicas};

use crate::{
    CliError, Output,
    cell::{Broker, CARRIERS, CellDir, Layout, SERVICES},
    commands::audit::LOG_DIR,
    error::at,
    hsm::{TOKENS, keeps_buckets},
    init::{self, NewCell, files, hsm, pki, redis::REPLICA_PASSWORD},
};

/// What a process sees of the cell, by paths in the cell's folder, which are the same in its own.
struct Share {
    /// Made by `sotto init`, and only read by the process.
    given: Vec<String>,
    /// The process's own from the start: the cell's folder keeps a link.
    state: &'static [&'static str],
    /// Folders that it fills.
    folders: &'static [&'static str],
    /// Whom it is handed to, by the names of their volumes.
    places: Vec<String>,
}

/// A row of [`SHARES`]: process, what it is given, its state, its folders.
type Row = (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

/// All but the brokers'. Besides: the authority's certificate, its own with its key, and for services their configuration and
/// nkey.
const SHARES: [Row; 8] = [
    ("redis", &["redis/redis.conf", "redis/users.acl"], &[], &["data/redis"]),
    ("simulator", &["secrets/simulator"], &[], &[]),
    (
        "ingress",
        &[CARRIERS, "secrets/redis-ingress", "secrets/unlock-ingress"],
        &["keystore/ingress.sks"],
        &[],
    ),
    ("routing", &[CARRIERS], &[], &[]),
    ("carrier", &[CARRIERS, "secrets/redis-carrier", "secrets/simulator"], &[], &[]),
    (
        "identity",
        &["secrets/redis-identity", "secrets/unlock-identity", "identity/invitation.json"],
        &["keystore/identity.sks"],
        &["data/identity"],
    ),
    ("privacy", &["secrets/unlock-privacy"], &["keystore/buckets.sks"], &[]),
    ("audit", &["secrets/unlock-audit"], &["keystore/audit.sks"], &[LOG_DIR]),
];

/// Privacy's, where a token keeps its keys. That the token's configuration is state makes a lost volume be noticed.
const PRIVACY_WITH_TOKEN: Row = ("privacy", &[hsm::SHARED_PIN], &[hsm::SHARED_CONF], &[TOKENS]);

/// Whose share only the step that makes the token sees.
const OFFICER: &str = "officer";

/// The Redis that stands by. It is who the other is: clients find either by one name.
const SECOND_REDIS: &str = "redis-2";

/// What each process of a cell sees.
fn shares(replicas: Replicas, token: bool, second_redis: bool) -> Vec<Share> {
    let row = |row: Row| if token && row.0 == PRIVACY_WITH_TOKEN.0 { PRIVACY_WITH_TOKEN } else { row };
    let others = SHARES.into_iter().map(row).map(|(process, given, state, folders)| {
        let mut given: Vec<_> =
            own(process).into_iter().chain(given.iter().map(|path| (*path).to_owned())).collect();
        let mut places = vec![process.to_owned()];
        if process == "redis" && second_redis {
            given.push(REPLICA_PASSWORD.to_owned());
            places.push(SECOND_REDIS.to_owned());
        }
        Share { given, state, folders, places }
    });
    let officer = token.then(|| Share {
        given: vec![hsm::OFFICER_PIN.to_owned()],
        state: &[],
        folders: &[],
        places: vec![OFFICER.to_owned()],
    });
    Broker::all(replicas).map(Share::of_broker).chain(others).chain(officer).collect()
}

/// What every process has of its own.
fn own(process: &str) -> Vec<String> {
    let mut own = vec!["tls/ca.pem".to_owned(), format!("tls/{process}.pem"), format!("tls/{process}.key")];
    // What is not ours has no configuration of ours and no nkey.
    if SERVICES.contains(&process) {
        own.push(format!("config/{process}.toml"));
        own.push(format!("nats/nkeys/{process}.current.seed"));
    }
    own
}

impl Share {
    fn of_broker(broker: Broker) -> Self {
        let files = [broker.conf(), "nats/clients.conf".to_owned(), "nats/ca.pem".to_owned()];
        let cluster = match broker.of {
            Replicas::One => Vec::new(),
            Replicas::Three => {
                let [certificate, key] = pki::route_certificate(broker);
                vec![pki::ROUTES_CA.to_owned(), certificate, key]
            }
        };
        let process = broker.name();
        let given = own(&process).into_iter().chain(files).chain(cluster).collect();
        Self { given, state: &[], folders: &["data/nats"], places: vec![process] }
    }
}

/// Makes the cell unless it is there, and gives each process its share in `folder`.
pub(crate) fn prepare(
    dir: &CellDir,
    new: &NewCell,
    folder: &Path,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let made = !dir.path("cell.toml").exists();
    if made {
        init::init(dir, new, clock)?;
    }
    let cell = dir.open()?;
    if cell.layout != Layout::Containers {
        return Err(CliError::new(format!("the cell in {} was made for one machine", dir.root().display()))
            .fix("give --cell a folder of its own for containers"));
    }
    init::services::renew_brokers(dir, &cell)?;
    let folder = std::path::absolute(folder).map_err(at(folder))?;
    // A cell of three that was made before there could be a second one has one.
    let second_redis = dir.path(REPLICA_PASSWORD).exists();
    for share in shares(cell.replicas, keeps_buckets(dir), second_redis) {
        for place in &share.places {
            hand_out(dir, &share, &folder.join(place))?;
        }
    }
    output.json(&serde_json::json!({ "cell": dir.root(), "id": cell.id, "made": made, "shares": folder }))?;
    let done = if made { "made" } else { "is there" };
    output.line(format!("cell {} {done}; each process has its share in {}", cell.id, folder.display()))?;
    output.line("next, once all is up: docker compose run --rm sotto owner claim")
}

fn hand_out(dir: &CellDir, share: &Share, place: &Path) -> Result<(), CliError> {
    for path in &share.given {
        copy(&dir.path(path), &place.join(path))?;
    }
    for path in share.state {
        give_away(&dir.path(path), &place.join(path))?;
    }
    for path in share.folders {
        files::folder_of_owner(&place.join(path))?;
    }
    // The log is where `sotto audit verify` looks for it.
    if share.folders.contains(&LOG_DIR) {
        let own = dir.path(LOG_DIR);
        // Only an empty folder goes.
        let _link = fs::remove_dir(&own);
        link(&place.join(LOG_DIR), &own)?;
    }
    Ok(())
}

/// Puts a file there, unless just that is there: a reader meets the old one or the new one, whole.
fn copy(from: &Path, to: &Path) -> Result<(), CliError> {
    let content = fs::read(from).map_err(at(from))?;
    if fs::read(to).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let mode = fs::metadata(from).map_err(at(from))?.permissions().mode() & 0o777;
    if let Some(folder) = to.parent() {
        files::folder_of_owner(folder)?;
    }
    let draft = to.with_added_extension("new");
    let _left_over = fs::remove_file(&draft);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft);
    let mut file = file.map_err(at(&draft))?;
    file.write_all(&content).and_then(|()| file.sync_all()).map_err(at(&draft))?;
    fs::rename(&draft, to).map_err(at(to))
}

/// Makes a file the process's own: from now on the cell's folder only has a link to it.
fn give_away(from: &Path, to: &Path) -> Result<(), CliError> {
    if fs::symlink_metadata(from).map_err(at(from))?.is_symlink() {
        return if to.exists() {
            Ok(())
        } else {
            Err(CliError::new(format!("{} is gone", to.display()))
                .fix("bring its volume back from a backup; a keystore cannot be made anew for a cell"))
        };
    }
    let content = fs::read(from).map_err(at(from))?;
    if to.exists() && fs::read(to).map_err(at(to))? != content {
        return Err(CliError::new(format!("{} is of another cell", to.display()))
            .fix("the volumes belong together: bring back that of the cell, or remove them all"));
    }
    copy(from, to)?;
    fs::remove_file(from).map_err(at(from))?;
    link(to, from)
}

fn link(to: &Path, from: &Path) -> Result<(), CliError> {
    match fs::read_link(from) {
        Ok(there) if there == to => Ok(()),
        _ => std::os::unix::fs::symlink(to, from).map_err(at(from)),
    }
}

#[cfg(test)]
mod tests;
