//! A cell on disk: the folder that `sotto init` makes and every other command works in.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sotto_core::{CellId, Replicas, Shards};

use crate::CliError;

/// Services of a cell, in the order in which `sotto up` starts them (docs/ARCHITECTURE.md, "Birth of a cell").
pub(crate) const SERVICES: [&str; 6] = ["privacy", "identity", "audit", "routing", "carrier", "ingress"];

/// The carriers file of a cell in containers.
pub(crate) const CARRIERS: &str = "carriers.toml";

/// The domain of the names in certificates, `<process>.sotto.internal`, and of a cell in containers unless it was told another.
pub(crate) const DOMAIN: &str = "sotto.internal";

/// Where the processes of a cell run, and so how they find one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// On one machine, as children of `sotto up`, on loopback; only a start knows their ports.
    #[default]
    Machine,
    /// Each in a container of its own, reached by its name `<process>.<domain>` at a fixed port.
    Containers,
}

impl Layout {
    fn is_machine(&self) -> bool {
        *self == Self::Machine
    }
}

/// `cell.toml`: what was fixed at the cell's birth.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CellFile {
    /// Version of this file's format: 1.
    pub version: u32,
    /// The cell's name.
    pub id: CellId,
    /// Its number of shards.
    pub shards: Shards,
    /// Its brokers, each with a copy of every message.
    #[serde(default, skip_serializing_if = "is_alone")]
    pub replicas: Replicas,
    /// Where its processes run.
    #[serde(default, skip_serializing_if = "Layout::is_machine")]
    pub layout: Layout,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

fn is_alone(replicas: &Replicas) -> bool {
    *replicas == Replicas::One
}

/// A broker of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broker {
    /// From 1.
    pub(crate) number: u8,
    pub(crate) of: Replicas,
}

impl Broker {
    /// Those of a cell.
    pub(crate) fn all(of: Replicas) -> impl Iterator<Item = Self> + Clone {
        (1..=of.count()).map(move |number| Self { number, of })
    }

    /// The others of its cluster.
    pub(crate) fn others(self) -> impl Iterator<Item = Self> {
        Self::all(self.of).filter(move |other| *other != self)
    }

    /// Its name, also of its certificate and its container: `nats`, or `nats-1` and so on in a cluster.
    pub(crate) fn name(self) -> String {
        match self.of {
            Replicas::One => "nats".to_owned(),
            Replicas::Three => format!("nats-{}", self.number),
        }
    }

    /// What `sotto up` calls its process.
    pub(crate) fn process(self) -> String {
        match self.of {
            Replicas::One => "nats-server".to_owned(),
            Replicas::Three => self.name(),
        }
    }

    /// Its configuration.
    pub(crate) fn conf(self) -> String {
        format!("nats/{}.conf", self.process())
    }

    /// Where its streams are.
    pub(crate) fn store(self, layout: Layout) -> String {
        match (self.of, layout) {
            (Replicas::Three, Layout::Machine) => format!("data/nats/{}", self.name()),
            // In containers each has a folder of its own by this name.
            _ => "data/nats".to_owned(),
        }
    }
}

/// A cell's folder.
#[derive(Clone, Debug)]
pub struct CellDir {
    root: PathBuf,
}

impl CellDir {
    /// The folder at this path, whether or not it is there.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.root.join(inside)
    }

    /// Reads `cell.toml`.
    pub fn open(&self) -> Result<CellFile, CliError> {
        let path = self.path("cell.toml");
        let text = std::fs::read_to_string(&path).map_err(|_| {
            CliError::new(format!("{} is not a cell", self.root.display()))
                .fix(format!("make one with: sotto init --cell {}", self.root.display()))
        })?;
        let cell: CellFile = toml::from_str(&text).map_err(|error| {
            CliError::new(format!("{} cannot be read: {}", path.display(), error.message()))
                .fix("restore it from a backup: it is never edited by hand")
        })?;
        if cell.version == 1 {
            Ok(cell)
        } else {
            Err(CliError::new(format!("{} has format {}", path.display(), cell.version))
                .fix("use the version of sotto that made this cell, or a newer one"))
        }
    }

    /// A service's configuration file.
    pub fn config(&self, service: &str) -> PathBuf {
        self.path(format!("config/{service}.toml"))
    }

    /// Where the running cell says which addresses it listens on. In containers they never change: `sotto init` writes them.
    pub fn run_file(&self) -> PathBuf {
        self.path("run/cell.json")
    }

    /// The addresses of the running cell.
    pub fn running(&self) -> Result<Running, CliError> {
        let not_running = || {
            CliError::new(format!("the cell in {} is not running", self.root.display()))
                .fix(format!("start it with: sotto up --cell {}", self.root.display()))
        };
        let text = std::fs::read_to_string(self.run_file()).map_err(|_| not_running())?;
        serde_json::from_str(&text).map_err(|_| not_running())
    }
}

/// `run/cell.json`: where a running cell listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    /// Process id of `sotto up`; none in containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<u32>,
    /// `tls://host:port` of the broker; of three with commas.
    pub nats: String,
    /// Process ids, by service name; none in containers.
    pub processes: std::collections::BTreeMap<String, u32>,
    /// `host:port` of each listener, by service and listener: `ingress.grpc`, `identity.https`, `ingress.admin`.
    pub addresses: std::collections::BTreeMap<String, String>,
}

impl Running {
    /// The address of a listener.
    pub fn address(&self, listener: &str) -> Result<&str, CliError> {
        self.addresses.get(listener).map(String::as_str).ok_or_else(|| {
            CliError::new(format!("the running cell has no listener {listener}"))
                .fix("restart it with the same version of sotto")
        })
    }
}
