//! `sotto client nats add | remove`: which clients may ask over NATS (docs/adr/0008-nats-publishers.md).
//!
//! The list in `nats/clients.json` is the truth; the broker's `nats/clients.conf` is made from it, whole, and read
//! again by a running broker.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sotto_bus::{
    ClientConnection, ClientIdentity, ConnectError, NatsConfig,
    topology::{CLIENTS_FILE, ClientUser, client_permissions, nats_clients_conf},
};
use sotto_core::{CellId, Clock, TenantId};

use crate::{
    CliError, Output,
    cell::{Broker, CellDir, CellFile},
    credentials::Credentials,
    error::at,
    init::{files, keys::INTAKE_KEY, pki},
};

/// How long the broker may take to let a new client in.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The file `connection.json` of a client's folder: what a program needs besides keys.
#[derive(Debug, Serialize, Deserialize)]
struct Connection {
    cell: CellId,
    tenant: TenantId,
    client_id: String,
    /// Where it publishes.
    subject: String,
    /// Where it may hear answers.
    inbox_prefix: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    clients: Vec<Registered>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registered {
    name: String,
    client_id: String,
    tenant: TenantId,
    nkey: String,
}

impl Register {
    fn path(dir: &CellDir) -> PathBuf {
        dir.path("nats/clients.json")
    }

    fn read(dir: &CellDir) -> Result<Self, CliError> {
        let path = Self::path(dir);
        match std::fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map_err(|error| {
                CliError::caused_by(format!("{} cannot be read", path.display()), &error)
                    .fix("restore it from a backup")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(at(&path)(error)),
        }
    }

    /// Writes the list, and from it what the broker reads.
    fn write(&self, dir: &CellDir, cell: &CellFile) -> Result<(), CliError> {
        let users: Vec<_> = self
            .clients
            .iter()
            .map(|one| ClientUser {
                nkey: one.nkey.clone(),
                tenant: one.tenant.clone(),
                client: one.client_id.clone(),
            })
            .collect();
        let json = serde_json::to_string_pretty(self)
            .map_err(|error| CliError::caused_by("the list of clients cannot be written", &error))?;
        files::replace(&Self::path(dir), json.as_bytes())?;
        files::replace(&dir.path("nats").join(CLIENTS_FILE), nats_clients_conf(&cell.id, &users).as_bytes())
    }
}

/// The folder with a client's keys for the broker.
pub(crate) fn folder(dir: &CellDir, name: &str) -> PathBuf {
    dir.path(format!("clients/{name}.nats"))
}

pub(crate) async fn add(
    dir: &CellDir,
    name: &str,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let cell = dir.open()?;
    let credentials = super::send::client(dir, name)?;
    let tenant = tenant(&credentials)?;
    let mut register = Register::read(dir)?;
    let folder = folder(dir, name);
    if folder.exists() || register.clients.iter().any(|one| one.name == name) {
        return Err(CliError::new(format!("{name} has its keys for NATS in {}", folder.display()))
            .fix(format!("to make new ones: sotto client nats remove {name}, then add it again")));
    }
    let nkey = keys(dir, &cell, &credentials, &tenant, &folder, clock)?;
    let client_id = credentials.client_id.clone();
    register.clients.push(Registered { name: name.to_owned(), client_id, tenant, nkey });
    register.write(dir, &cell)?;
    let running = read_again(dir, &cell)?;
    if running {
        let mut left = PATIENCE.as_millis() / LOOK.as_millis();
        while let Err(error) = connect(dir, name).await {
            if left == 0 {
                return Err(CliError::caused_by("the broker does not let the new client in", &error)
                    .fix("look into the logs of the brokers: logs/nats-*.log"));
            }
            left -= 1;
            tokio::time::sleep(LOOK).await;
        }
    }
    output.json(&serde_json::json!({
        "client_id": credentials.client_id, "tenant": credentials.tenant, "folder": folder, "admitted": running,
    }))?;
    output.line(format!(
        "client {} may ask over NATS; its keys are in {}: hand over the folder, then delete it here unless \
         `sotto nats-send` needs it",
        credentials.client_id,
        folder.display()
    ))
}

pub(crate) fn remove(dir: &CellDir, name: &str, output: &Output) -> Result<(), CliError> {
    let cell = dir.open()?;
    let mut register = Register::read(dir)?;
    let before = register.clients.len();
    register.clients.retain(|one| one.name != name);
    if register.clients.len() == before {
        return Err(CliError::new(format!("no client {name} may ask over NATS"))
            .fix("its name is the one given to `sotto client nats add`"));
    }
    register.write(dir, &cell)?;
    let running = read_again(dir, &cell)?;
    let folder = folder(dir, name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(at(&folder))?;
    }
    output.json(&serde_json::json!({ "name": name, "admitted": false, "cut": running }))?;
    output
        .line(format!("{name} may not ask over NATS any more; its token is identity's: sotto client disable"))
}

/// Makes a client's keys for the broker in a folder of their own, complete or not at all. Returns its public nkey.
fn keys(
    dir: &CellDir,
    cell: &CellFile,
    credentials: &Credentials,
    tenant: &TenantId,
    folder: &Path,
    clock: &dyn Clock,
) -> Result<String, CliError> {
    let draft = folder.with_extension("nats.new");
    // What an attempt that broke off left: nobody was told of those keys.
    if draft.exists() {
        std::fs::remove_dir_all(&draft).map_err(at(&draft))?;
    }
    let copy = |from: &str, to: &str| {
        let path = dir.path(from);
        let content = std::fs::read(&path).map_err(at(&path))?;
        files::secret(&draft.join(to), &content)
    };
    let key = nkeys::KeyPair::new_user();
    let seed = key.seed().map_err(|error| CliError::caused_by("an nkey could not be made", &error))?;
    let (cert, cert_key) = pki::of_client(dir, &cell.id, &credentials.client_id, clock.now())?;
    let allowed = client_permissions(&cell.id, tenant, &credentials.client_id);
    let connection = Connection {
        cell: cell.id.clone(),
        tenant: tenant.clone(),
        client_id: credentials.client_id.clone(),
        subject: allowed.publish.concat(),
        inbox_prefix: allowed.subscribe.concat().trim_end_matches(".>").to_owned(),
    };
    let connection = serde_json::to_string_pretty(&connection)
        .map_err(|error| CliError::caused_by("connection.json", &error))?;
    files::secret(&draft.join("nkey.seed"), seed.as_bytes())?;
    files::secret(&draft.join("cert.pem"), cert.as_bytes())?;
    files::secret(&draft.join("cert.key"), cert_key.as_bytes())?;
    files::secret(&draft.join("connection.json"), connection.as_bytes())?;
    copy("tls/ca.pem", "ca.pem")?;
    copy(INTAKE_KEY, "intake-key.json")?;
    std::fs::rename(&draft, folder).map_err(at(folder))?;
    Ok(key.public_key())
}

pub(super) fn tenant(credentials: &Credentials) -> Result<TenantId, CliError> {
    credentials.tenant.parse().map_err(|error| CliError::caused_by("the client's credentials", &error))
}

/// Has every running broker read its list of clients again; one that is away reads it when it starts. Returns whether any
/// runs.
fn read_again(dir: &CellDir, cell: &CellFile) -> Result<bool, CliError> {
    let Ok(running) = dir.running() else { return Ok(false) };
    let mut told = false;
    for broker in Broker::all(cell.replicas) {
        let id = running.processes.get(&broker.process()).and_then(|id| i32::try_from(*id).ok());
        let Some(id) = id.and_then(rustix::process::Pid::from_raw) else { continue };
        match rustix::process::kill_process(id, rustix::process::Signal::HUP) {
            Ok(()) => told = true,
            // It is gone: a cell that was not stopped left its run file behind.
            Err(rustix::io::Errno::SRCH) => {}
            Err(error) => {
                let what = format!("{} cannot be told to read its clients again", broker.process());
                return Err(CliError::caused_by(what, &error).fix("restart the cell"));
            }
        }
    }
    Ok(told)
}

/// A connection to the running cell's broker as this client.
pub(crate) async fn connect(dir: &CellDir, name: &str) -> Result<ClientConnection, ConnectError> {
    let folder = folder(dir, name);
    let settings = |error: String| ConnectError::Settings(vec![error]);
    let running = dir.running().map_err(|error| settings(error.to_string()))?;
    let config = NatsConfig {
        url: running.nats,
        ca_file: folder.join("ca.pem"),
        cert_file: folder.join("cert.pem"),
        key_file: folder.join("cert.key"),
        nkey_seed_file: folder.join("nkey.seed"),
        connect_timeout_ms: 5_000,
    };
    let path = folder.join("connection.json");
    let json = std::fs::read(&path).map_err(|error| settings(format!("{}: {error}", path.display())))?;
    let Connection { cell, tenant, client_id, .. } =
        serde_json::from_slice(&json).map_err(|error| settings(format!("{}: {error}", path.display())))?;
    ClientConnection::connect(&config, ClientIdentity { cell, tenant, client: client_id }).await
}
