//! The birth of a cell: everything that is made once and offline.
//!
//! A certificate authority and a certificate for every process, two nkeys for each of the broker's users, Redis users,
//! keystores with their unlock secrets, a configuration file for each service, and the owner's one-time invitation.

mod addresses;
pub(crate) mod files;
pub(crate) mod hsm;
pub(crate) mod keys;
pub(crate) mod pki;
pub(crate) mod redis;
pub(crate) mod services;

use std::fmt::Write as _;

use sotto_core::{CellId, Clock, Replicas, Shards};

use crate::{
    CliError,
    cell::{CellDir, CellFile, Layout},
    error::at,
};

/// Where tokens are served unless an operator says otherwise.
const TOKEN_PORT: u16 = 7444;

/// Folders of a cell, also those that are empty at first.
pub(crate) const FOLDERS: [&str; 9] = [
    "secrets",
    "keystore",
    "nats/nkeys",
    "data/nats",
    "data/audit",
    "data/identity",
    "data/redis",
    "run",
    "logs",
];

/// What a new cell is like.
#[derive(Clone, Debug)]
pub(crate) struct NewCell {
    /// Its name.
    pub(crate) id: CellId,
    /// Its number of shards.
    pub(crate) shards: Shards,
    /// Its brokers.
    pub(crate) replicas: Replicas,
    /// Further DNS names and IP addresses that its certificates are valid for.
    pub(crate) hosts: Vec<String>,
    /// Identity's issuer, if not its first host.
    pub(crate) issuer: Option<String>,
    /// Where its processes will run.
    pub(crate) layout: Layout,
    /// In containers: each process is found at `<process>.<domain>`.
    pub(crate) domain: String,
    /// Whether tokens of SoftHSM2 keep its keys; in containers privacy's alone.
    pub(crate) hsm: bool,
}

impl NewCell {
    /// Whether a second Redis stands by (docs/adr/0029): where there are three machines to put it on.
    fn has_second_redis(&self) -> bool {
        self.layout == Layout::Containers && self.replicas == Replicas::Three
    }
}

/// Makes a cell in a folder that is empty or not there yet.
pub(crate) fn init(dir: &CellDir, new: &NewCell, clock: &dyn Clock) -> Result<(), CliError> {
    let root = dir.root();
    let taken = std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some());
    if taken {
        return Err(CliError::new(format!("{} is not empty", root.display()))
            .fix("give --cell a folder that is empty or not there yet: a cell is made once"));
    }
    let tokens = new.hsm && new.layout == Layout::Machine;
    if tokens {
        // Before anything is made: it may begin this program anew.
        crate::hsm::enter(dir)?;
    }
    files::folder_of_owner(root)?;
    for folder in FOLDERS {
        files::folder_of_owner(&dir.path(folder))?;
    }
    let now = clock.now();
    pki::create(dir, new, now)?;
    let users = keys::nats(dir)?;
    if tokens {
        hsm::create(dir, &new.id, now)?;
    } else {
        keys::keystores(dir, &new.id, now)?;
        if new.hsm {
            hsm::prepare_share(dir)?;
        } else {
            keys::buckets(dir)?;
        }
    }
    keys::invitation(dir, now)?;
    keys::simulator(dir)?;
    redis::create(dir, new)?;
    services::create(dir, new, &users)?;
    // Last: a folder without it is not a cell.
    let cell = CellFile {
        version: 1,
        id: new.id.clone(),
        shards: new.shards,
        replicas: new.replicas,
        layout: new.layout,
        created_at: now.to_string(),
    };
    let text = toml::to_string(&cell).map_err(|error| CliError::caused_by("cell.toml", &error))?;
    files::public(&dir.path("cell.toml"), text.as_bytes())?;
    std::fs::File::open(root).and_then(|folder| folder.sync_all()).map_err(at(root))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
pub(crate) mod tests;
