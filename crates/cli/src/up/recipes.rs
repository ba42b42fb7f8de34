//! How each process of a cell is started.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use sotto_bus::{Bus, BusOptions, NatsConfig, Service, Topology, topology::Cell};
use sotto_core::{SystemClock, carriers::CarriersFile};
use sotto_crypto::MacKey;

use super::{UpOptions, child::Recipe};
use crate::{
    CliError,
    cell::{Broker, CellDir, CellFile, Running},
    commands,
    error::at,
};

/// The account of the cell's own simulator.
const SIMULATOR_ACCOUNT: &str = "simulator";

/// Runs a program that ends when `sotto up` does, for programs without such an option: `setpriv` of util-linux.
const TIE: [&str; 3] = ["--pdeathsig", "TERM", "--"];

pub(super) struct Recipes {
    dir: CellDir,
    cell: CellFile,
    options: UpOptions,
    programs: PathBuf,
    /// `setpriv`, where it works.
    tie: Option<PathBuf>,
    /// Parts of the environment that fix a service's addresses once they are known.
    pinned: Vec<(String, String, String)>,
}

/// Where a service writes the address of its admin server.
pub(super) fn address_file(dir: &CellDir, service: &str) -> PathBuf {
    dir.path(format!("run/{service}.admin"))
}

impl Recipes {
    pub(super) fn new(dir: &CellDir, cell: &CellFile, options: &UpOptions) -> Result<Self, CliError> {
        let programs = match &options.programs {
            Some(folder) => folder.clone(),
            None => std::env::current_exe()
                .ok()
                .and_then(|program| program.parent().map(Path::to_path_buf))
                .ok_or_else(|| {
                    CliError::new("the folder of this program is not known").fix("give --programs")
                })?,
        };
        // What an earlier run left behind would be taken for this one's.
        for file in ["run/ports", "run/cell.json"] {
            let path = dir.path(file);
            let _gone = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
        }
        for service in crate::cell::SERVICES {
            let _gone = std::fs::remove_file(address_file(dir, service));
        }
        // An absolute folder, since children run inside it.
        let root = std::path::absolute(dir.root()).map_err(at(dir.root()))?;
        let recipes = Self {
            dir: CellDir::new(root),
            cell: cell.clone(),
            options: options.clone(),
            programs,
            tie: tie(),
            pinned: Vec::new(),
        };
        for broker in Broker::all(cell.replicas) {
            let ports = recipes.nats_ports_dir(broker);
            std::fs::create_dir_all(&ports).map_err(at(&ports))?;
        }
        if let Some(file) = &recipes.options.carriers {
            read_carriers(file)?;
        }
        Ok(recipes)
    }

    /// The cell's brokers.
    pub(super) fn brokers(&self) -> impl Iterator<Item = Broker> + use<> {
        Broker::all(self.cell.replicas)
    }

    pub(super) fn nats_ports_dir(&self, broker: Broker) -> PathBuf {
        self.dir.path(format!("run/ports/{}", broker.process()))
    }

    pub(super) fn nats(&self, broker: Broker) -> Result<Recipe, CliError> {
        let arguments = vec![
            "--config".to_owned(),
            broker.conf(),
            "--addr".to_owned(),
            self.options.nats_listen.ip().to_string(),
            "--port".to_owned(),
            // To the broker, 0 means its usual port. What was asked for is the first one's.
            match self.options.nats_listen.port() {
                port if port != 0 && broker.number == 1 => port.to_string(),
                _ => "-1".to_owned(),
            },
            "--ports_file_dir".to_owned(),
            self.nats_ports_dir(broker).display().to_string(),
        ];
        Ok(self.tied(&broker.process(), tool("nats-server")?, arguments))
    }

    /// A program that ends with us, if the machine can do that. If not, the lock that it holds keeps a second one from its
    /// data.
    fn tied(&self, name: &str, program: PathBuf, arguments: Vec<String>) -> Recipe {
        let (program, arguments) = match &self.tie {
            None => (program, arguments),
            Some(tie) => {
                let wrapped = TIE.map(str::to_owned).into_iter().chain([program.display().to_string()]);
                (tie.clone(), wrapped.chain(arguments).collect())
            }
        };
        Recipe { name: name.to_owned(), program, arguments, environment: Vec::new() }
    }

    /// Redis cannot choose a port itself: a free one is looked up, and taken a moment later.
    pub(super) fn redis(&self) -> Result<(Recipe, String), CliError> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|error| CliError::caused_by("no free port for Redis", &error))?
            .port();
        // Cells that were made before docs/adr/0024 have it turned on in their file.
        let arguments = ["redis/redis.conf", "--appendonly", "no", "--tls-port"].map(str::to_owned);
        let arguments = arguments.into_iter().chain([port.to_string()]).collect();
        let recipe = self.tied("redis-server", tool("redis-server")?, arguments);
        Ok((recipe, format!("127.0.0.1:{port}")))
    }

    /// Takes away what Redis wrote in the time when it kept a file: nothing reads it any more.
    pub(super) fn clear_redis(&self) -> Result<(), CliError> {
        let kept = self.dir.path("data/redis/appendonlydir");
        if !kept.exists() {
            return Ok(());
        }
        std::fs::remove_dir_all(&kept).map_err(at(&kept))
    }

    /// The test carrier; none when a carriers file was given.
    pub(super) fn simulator(&self) -> Option<Recipe> {
        if self.options.carriers.is_some() {
            return None;
        }
        let arguments = [
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--account",
            "sotto:secrets/simulator",
            "--tls-cert",
            "tls/simulator.pem",
            "--tls-key",
            "tls/simulator.key",
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        Some(self.tied("simulator", self.programs.join("sotto-simulator"), arguments))
    }

    /// Writes a carriers file that points at the running simulator.
    pub(super) fn write_simulator_carriers(&self, address: &str) -> Result<(), CliError> {
        let port = address.rsplit(':').next().unwrap_or_default();
        let path = self.carriers_file();
        std::fs::write(&path, simulator_carriers("localhost", port, "../", 1, self.options.simulator_tps))
            .map_err(at(&path))?;
        read_carriers(&path).map(drop)
    }

    fn carriers_file(&self) -> PathBuf {
        match &self.options.carriers {
            Some(file) => std::path::absolute(file).unwrap_or_else(|_| file.clone()),
            None => self.dir.path("run/carriers.toml"),
        }
    }

    /// Creates the streams and consumers, or brings them up to date.
    pub(super) async fn provision(&self, nats: &str) -> Result<(), CliError> {
        let carriers = match &self.options.carriers {
            Some(file) => read_carriers(file)?,
            // The simulator's port is not known yet, and does not matter here.
            None => carriers(
                &simulator_carriers("localhost", "1", "../", 1, self.options.simulator_tps),
                &self.carriers_file(),
            )?,
        };
        commands::provision::streams(&self.dir, &self.cell, nats, &carriers).await.map(drop)
    }

    pub(super) fn service(&self, service: &str, running: &Running) -> Result<Recipe, CliError> {
        let [tokens, clients] = [self.options.token_listen, self.options.listen];
        let surroundings = Surroundings { running, carriers: &self.carriers_file(), tokens, clients };
        let environment = environment(&self.dir, service, &surroundings)?;
        let program = self.programs.join(format!("sotto-{service}"));
        if !program.is_file() {
            return Err(CliError::new(format!("{} is not there", program.display()))
                .fix("build the services (cargo build), or give --programs FOLDER"));
        }
        let config = self.dir.config(service).display().to_string();
        let arguments = ["--config", &config].map(str::to_owned).into_iter().chain([tie_to_us()]).collect();
        Ok(Recipe { name: service.to_owned(), program, arguments, environment })
    }

    /// Remembers the addresses that a service got, so that it gets them again.
    pub(super) fn pin(&mut self, service: &str, running: &Running) {
        for (name, address) in &running.addresses {
            let Some(listener) = name.strip_prefix(service).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let key = format!("SOTTO__{}__LISTEN", listener.to_uppercase());
            self.pinned.push((service.to_owned(), key, address.clone()));
        }
    }

    /// The recipe for another start after a death: at the same addresses.
    pub(super) fn again(&self, mut recipe: Recipe, running: &Running) -> Recipe {
        for (service, key, address) in &self.pinned {
            if *service == recipe.name {
                recipe.environment.retain(|(name, _)| name != key);
                recipe.environment.push((key.clone(), address.clone()));
            }
        }
        let broker = self.brokers().zip(running.nats.split(','));
        if let Some((_, url)) = broker.into_iter().find(|(broker, _)| broker.process() == recipe.name) {
            let port = url.rsplit(':').next().unwrap_or_default().to_owned();
            recipe.arguments = recipe
                .arguments
                .iter()
                .map(|it| if it == "-1" { port.clone() } else { it.clone() })
                .collect();
        }
        if recipe.name == "simulator" {
            for (flag, name) in [("--listen", "simulator.smpp"), ("--admin", "simulator.admin")] {
                let address = running.addresses.get(name);
                let place = recipe.arguments.iter().position(|argument| argument == flag);
                if let (Some(address), Some(place)) = (address, place)
                    && let Some(slot) = recipe.arguments.get_mut(place + 1)
                {
                    slot.clone_from(address);
                }
            }
        }
        recipe
    }
}

/// What only a start knows.
pub(crate) struct Surroundings<'a> {
    /// Where what was started before listens.
    pub(crate) running: &'a Running,
    pub(crate) carriers: &'a Path,
    /// Where identity is to listen for those who ask for tokens, and ingress for clients.
    pub(crate) tokens: SocketAddr,
    pub(crate) clients: SocketAddr,
}

/// The part of a service's configuration that comes by its environment.
pub(crate) fn environment(
    dir: &CellDir,
    service: &str,
    surroundings: &Surroundings<'_>,
) -> Result<Vec<(String, String)>, CliError> {
    let Surroundings { running, carriers, tokens, clients } = surroundings;
    let mut environment = vec![
        env("ADMIN__LISTEN", "127.0.0.1:0"),
        env("ADMIN__ADDRESS_FILE", &address_file(dir, service).display().to_string()),
        env("NATS__URL", &running.nats),
    ];
    let softhsm = crate::hsm::conf(dir);
    if softhsm.exists() {
        environment.push((crate::hsm::VARIABLE.to_owned(), softhsm.display().to_string()));
    }
    if ["ingress", "carrier", "identity"].contains(&service) {
        let port = running.address("redis")?.rsplit(':').next().unwrap_or_default();
        environment.push(env("REDIS__URL", &format!("rediss://localhost:{port}")));
    }
    if ["routing", "carrier", "ingress"].contains(&service) {
        environment.push(env("CARRIERS__FILE", &carriers.display().to_string()));
    }
    if service == "carrier" {
        // One process a service, and never two: its next run takes its binds over at once.
        environment.push(env("CONNECTOR__REPLICA", "up"));
    }
    if ["ingress", "carrier"].contains(&service) {
        let privacy = running.address("privacy.grpc")?;
        environment.push(env("PRIVACY__ENDPOINT", &format!("https://{privacy}")));
    }
    if service == "identity" {
        environment.push(env("HTTPS__LISTEN", &tokens.to_string()));
    }
    if service == "ingress" {
        environment.push(env("GRPC__LISTEN", &clients.to_string()));
        let identity = https_address(running.address("identity.https")?);
        environment.push(env("TOKENS__JWKS_URL", &format!("https://{identity}/.well-known/jwks.json")));
    }
    Ok(environment)
}

/// A connection to the cell's broker as a tool.
pub(crate) async fn connect(
    dir: &CellDir,
    cell: &CellFile,
    nats: &str,
    tool: Service,
) -> Result<Bus, CliError> {
    let name = tool.name();
    let config = NatsConfig {
        url: nats.to_owned(),
        ca_file: dir.path("tls/ca.pem"),
        cert_file: dir.path(format!("tls/{name}.pem")),
        key_file: dir.path(format!("tls/{name}.key")),
        nkey_seed_file: dir.path(format!("nats/nkeys/{name}.current.seed")),
        connect_timeout_ms: 5_000,
    };
    let failed = |error: &dyn std::error::Error| CliError::caused_by("the broker cannot be used", error);
    let digest_key = MacKey::generate().map_err(|error| failed(&error))?;
    let options = BusOptions {
        service: tool,
        instance: format!("{}", std::process::id()),
        cell: Cell { id: cell.id.clone(), shards: cell.shards, replicas: cell.replicas },
        topology: Topology::embedded().map_err(|error| failed(&error))?,
        clock: Arc::new(SystemClock),
        digest: Arc::new(move |bytes| digest_key.mac("quarantine", &[bytes])),
    };
    Bus::connect(&config, options).await.map_err(|error| failed(&error).fix("check the broker: sotto doctor"))
}

/// An address that listens on every interface is reached on loopback.
pub(crate) fn https_address(address: &str) -> String {
    match address.parse::<SocketAddr>() {
        Ok(address) => format!("localhost:{}", address.port()),
        Err(_) => address.to_owned(),
    }
}

fn env(key: &str, value: &str) -> (String, String) {
    (format!("SOTTO__{key}"), value.to_owned())
}

/// Reads a carriers file.
pub(crate) fn read_carriers(path: &Path) -> Result<CarriersFile, CliError> {
    let text = std::fs::read_to_string(path).map_err(at(path))?;
    carriers(&text, path)
}

/// A carriers file's content.
fn carriers(text: &str, path: &Path) -> Result<CarriersFile, CliError> {
    CarriersFile::parse(text).map_err(|errors| {
        let list: Vec<_> = errors.iter().map(|error| format!("\n  {error}")).collect();
        CliError::new(format!("{} has {} problem(s):{}", path.display(), errors.len(), list.concat()))
            .fix("mend the lines named; every key is explained in docs/CARRIERS.md")
    })
}

/// The carriers file of the cell's own simulator. `root` leads from the file's folder to the cell's.
pub(crate) fn simulator_carriers(
    host: &str,
    port: impl std::fmt::Display,
    root: &str,
    binds: u8,
    tps: u16,
) -> String {
    format!(
        "# Made by `sotto`: the cell's own simulator, which delivers to nobody.\n{}\n{}",
        simulator_account(SIMULATOR_ACCOUNT, host, port, root, Contract { binds, window: 200, tps }),
        simulator_routes()
    )
}

/// What a simulator's account may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contract {
    pub(crate) binds: u8,
    /// Submits on one bind that are not answered yet.
    pub(crate) window: u16,
    /// Parts a second.
    pub(crate) tps: u16,
}

/// The entry of a simulator that shows the cell's certificate for it.
pub(crate) fn simulator_account(
    id: &str,
    host: &str,
    port: impl std::fmt::Display,
    root: &str,
    contract: Contract,
) -> String {
    let Contract { binds, window, tps } = contract;
    format!(
        "[[account]]\n\
         id = \"{id}\"\n\
         host = \"{host}\"\n\
         port = {port}\n\
         system_id = \"sotto\"\n\
         password_file = \"{root}secrets/simulator\"\n\
         tls_ca_file = \"{root}tls/ca.pem\"\n\
         tls_server_name = \"simulator.sotto.internal\"\n\
         binds = {binds}\n\
         window = {window}\n\
         tps = {tps}\n\
         response_timeout = \"10 s\"\n\
         simulator = true\n"
    )
}

/// Routes for every country code, so that a newcomer's own number works too.
fn simulator_routes() -> String {
    let digits = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];
    digits
        .map(|digit| {
            format!("[[route]]\nprefix = \"{digit}\"\naccounts = [{{ id = \"{SIMULATOR_ACCOUNT}\", weight = 1 }}]\n\n")
        })
        .concat()
}

/// The option with which a service ends when `sotto up` does, also without being stopped (kill -9). Children are started
/// by the main thread, which lives as long as the process.
fn tie_to_us() -> String {
    format!("--die-with-parent={}", std::process::id())
}

/// `setpriv`, if the machine has it and it can tie a program's life to ours.
fn tie() -> Option<PathBuf> {
    let setpriv = on_path("setpriv")?;
    let mut works = std::process::Command::new(&setpriv);
    works.args(TIE).arg("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    works.status().is_ok_and(|status| status.success()).then_some(setpriv)
}

/// The program on the PATH.
pub(crate) fn tool(name: &str) -> Result<PathBuf, CliError> {
    on_path(name)
        .ok_or_else(|| CliError::new(format!("{name} is not on the PATH")).fix("install it with: make setup"))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}
