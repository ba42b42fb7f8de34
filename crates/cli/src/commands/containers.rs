//! `sotto init --containers DIR`: a cell whose processes each run in a container of their own, and for each a folder with
//! what it may see and nothing else (docs/adr/0011-containers.md).

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use sotto_core::Clock;

use crate::{
    CliError, Output,
    cell::{CARRIERS, CellDir, Layout},
    commands::audit::LOG_DIR,
    error::at,
    init::{self, NewCell, files, pki},
};

/// What a process sees of the cell, by paths in the cell's folder, which are the same in its own.
struct Share {
    process: &'static str,
    /// Made by `sotto init`, and only read by the process.
    given: &'static [&'static str],
    /// The process's own from the start: the cell's folder keeps a link.
    state: &'static [&'static str],
    /// Folders that it fills.
    folders: &'static [&'static str],
}

/// Besides: the authority's certificate, its own with its key, and for services their configuration and nkey.
const SHARES: [Share; 9] = [
    Share {
        process: "nats",
        given: &["nats/nats-server.conf", "nats/clients.conf", "nats/ca.pem"],
        state: &[],
        folders: &["data/nats"],
    },
    Share {
        process: "redis",
        given: &["redis/redis.conf", "redis/users.acl"],
        state: &[],
        folders: &["data/redis"],
    },
    Share { process: "simulator", given: &["secrets/simulator"], state: &[], folders: &[] },
    Share {
        process: "ingress",
        given: &[CARRIERS, "secrets/redis-ingress", "secrets/unlock-ingress"],
        state: &["keystore/ingress.sks"],
        folders: &[],
    },
    Share { process: "routing", given: &[CARRIERS], state: &[], folders: &[] },
    Share {
        process: "carrier",
        given: &[CARRIERS, "secrets/redis-carrier", "secrets/simulator"],
        state: &[],
        folders: &[],
    },
    Share {
        process: "identity",
        given: &["secrets/redis-identity", "secrets/unlock-identity", "identity/invitation.json"],
        state: &["keystore/identity.sks"],
        folders: &["data/identity"],
    },
    Share {
        process: "privacy",
        given: &["secrets/unlock-privacy"],
        state: &["keystore/buckets.sks"],
        folders: &[],
    },
    Share {
        process: "audit",
        given: &["secrets/unlock-audit"],
        state: &["keystore/audit.sks"],
        folders: &[LOG_DIR],
    },
];

impl Share {
    fn given(&self) -> Vec<String> {
        let name = self.process;
        let mut given = vec!["tls/ca.pem".to_owned(), format!("tls/{name}.pem"), format!("tls/{name}.key")];
        // What is not ours has no configuration of ours and no nkey.
        if !pki::FOREIGN.contains(&name) {
            given.push(format!("config/{name}.toml"));
            given.push(format!("nats/nkeys/{name}.current.seed"));
        }
        given.extend(self.given.iter().map(|path| (*path).to_owned()));
        given
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
    let folder = std::path::absolute(folder).map_err(at(folder))?;
    for share in &SHARES {
        hand_out(dir, share, &folder.join(share.process))?;
    }
    output.json(&serde_json::json!({ "cell": dir.root(), "id": cell.id, "made": made, "shares": folder }))?;
    let done = if made { "made" } else { "is there" };
    output.line(format!("cell {} {done}; each process has its share in {}", cell.id, folder.display()))?;
    output.line("next, once all is up: docker compose run --rm sotto owner claim")
}

fn hand_out(dir: &CellDir, share: &Share, place: &Path) -> Result<(), CliError> {
    for path in share.given() {
        copy(&dir.path(&path), &place.join(&path))?;
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
