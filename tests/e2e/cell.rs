//! A cell in a temporary folder, as a newcomer makes one with the tool.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use sotto_crypto::sign::SigningKey;
use sotto_proto::message::v1::message_service_client::MessageServiceClient;
use sotto_runtime::{config::TlsConfig, grpc, tls::Tls};
use sotto_testkit::{Process, eventually, eventually_ok, process::http_get, tools};
use tempfile::TempDir;
use tokio::process::Command;
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use crate::tokens;

/// How long anything of a cell may take.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// The sender that the client `shop` may use.
pub(crate) const SENDER: &str = "ACMEBANK";

/// The services, in the order in which they are started.
pub(crate) const SERVICES: [&str; 6] = ["privacy", "identity", "audit", "routing", "carrier", "ingress"];

/// Number, sender and text of a message that a test may look for.
pub(crate) fn number(n: u32) -> String {
    format!("+8491{n:07}")
}

pub(crate) struct Cell {
    /// Its name.
    pub(crate) id: &'static str,
    folder: TempDir,
    up: Process,
    carriers: Option<Carriers>,
}

/// Carriers of the test's own, instead of the simulator that `sotto up` starts.
pub(crate) struct Carriers {
    /// The carriers file.
    pub(crate) file: PathBuf,
    /// A simulator of the test's own, ended with the cell.
    _simulator: Option<Process>,
    /// The simulator's admin address, if it is one.
    pub(crate) admin: String,
    /// More arguments of `sotto up`.
    arguments: Vec<String>,
    /// The program `sotto` that starts the cell.
    program: PathBuf,
}

impl Carriers {
    /// Those of a file that the test made, with a simulator that it keeps itself.
    pub(crate) fn of(file: PathBuf, admin: String) -> Self {
        Self { file, _simulator: None, admin, arguments: Vec::new(), program: tools::built("sotto") }
    }

    /// The same, with a simulator that ends with the cell.
    pub(crate) fn with_simulator(file: PathBuf, simulator: Process, admin: String) -> Self {
        Self { _simulator: Some(simulator), ..Self::of(file, admin) }
    }

    /// The same with more arguments of `sotto up`.
    pub(crate) fn and(mut self, arguments: Vec<String>) -> Self {
        self.arguments.extend(arguments);
        self
    }

    /// The same, started by this `sotto`.
    pub(crate) fn started_by(self, program: PathBuf) -> Self {
        Self { program, ..self }
    }
}

impl Cell {
    /// A running cell with an owner and the client `shop` of the tenant `acme`.
    pub(crate) async fn start() -> Self {
        Self::start_with(async |_| None).await
    }

    /// As [`Cell::start`] on carriers that are none of ours: `prepare` returns their file.
    pub(crate) async fn start_on(prepare: impl AsyncFnOnce(&Path) -> PathBuf) -> Self {
        Self::start_with(async |root| Some(Carriers::of(prepare(root).await, String::new()))).await
    }

    /// As [`Cell::start`]; `prepare` sees the cell's folder after `sotto init` and may bring carriers.
    pub(crate) async fn start_with(prepare: impl AsyncFnOnce(&Path) -> Option<Carriers>) -> Self {
        Self::start_in(&std::env::temp_dir(), prepare).await
    }

    /// As [`Cell::start`], with its keys in tokens of SoftHSM2.
    pub(crate) async fn start_with_hsm() -> Self {
        Self::start_as("vn", &std::env::temp_dir(), &["--hsm"], async |_| None).await
    }

    /// As [`Cell::start`], under another name.
    pub(crate) async fn start_named(id: &'static str) -> Self {
        Self::start_as(id, &std::env::temp_dir(), &[], async |_| None).await
    }

    /// The same, with the cell's folder in `parent`.
    pub(crate) async fn start_in(
        parent: &Path,
        prepare: impl AsyncFnOnce(&Path) -> Option<Carriers>,
    ) -> Self {
        Self::start_as("vn", parent, &[], prepare).await
    }

    /// The same, with more options of `sotto init`.
    pub(crate) async fn start_as(
        id: &'static str,
        parent: &Path,
        options: &[&str],
        prepare: impl AsyncFnOnce(&Path) -> Option<Carriers>,
    ) -> Self {
        let mut folder = TempDir::with_prefix_in("sotto-e2e-", parent).unwrap();
        // For somebody who must look at what a failed run left.
        folder.disable_cleanup(std::env::var_os("SOTTO_KEEP").is_some());
        let root = folder.path().join("cell");
        // More than `sotto init` makes by itself: what works with some works with one.
        let init = ["init", "--id", id, "--shards", "4"];
        let init = sotto(&root, init.iter().chain(options)).await;
        assert!(init.status.success(), "{}", text(&init.stderr));
        let carriers = prepare(&root).await;
        let up = launch(folder.path(), &root, carriers.as_ref());
        let mut cell = Self { id, folder, up, carriers };
        cell.wait_until_up().await;
        cell.run(["owner", "claim"]).await;
        cell.new_client("shop", "acme", SENDER).await;
        cell
    }

    async fn wait_until_up(&mut self) {
        eventually_ok(BOUND, "the cell", || {
            assert!(self.up.is_running(), "sotto up ended:\n{}", self.up.log());
            let up = if self.root().join("run/cell.json").exists() { Ok(()) } else { Err(self.up.log()) };
            async move { up }
        })
        .await;
    }

    /// Stops the whole cell in order; nothing may be killed for being late.
    pub(crate) async fn stop(&mut self) {
        let status = self.up.terminate(BOUND).await;
        assert!(status.success(), "{status}:\n{}", self.up.log());
        assert!(!self.up.log().contains("did not end in time"), "{}", self.up.log());
    }

    /// The process ids of everything that `sotto up` runs.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let told = self.told().unwrap();
        let ids = told["processes"].as_object().unwrap().values();
        ids.map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
    }

    /// Ends `sotto up` and these processes of it as they stand.
    pub(crate) async fn kill_all(&mut self, ids: &[u32]) {
        self.up.kill().await;
        for id in ids {
            sotto_testkit::process::signal(*id, "KILL");
        }
        eventually(BOUND, "every process to be gone", || {
            let gone = ids.iter().all(|id| !Path::new(&format!("/proc/{id}")).exists());
            async move { gone }
        })
        .await;
    }

    /// Starts a stopped cell again on what it left on disk.
    pub(crate) async fn start_again(&mut self) {
        // Left by a cell that was not stopped: it would be taken for that of the new one.
        let _gone = fs::remove_file(self.root().join("run/cell.json"));
        self.up = launch(self.folder.path(), &self.root(), self.carriers.as_ref());
        self.wait_until_up().await;
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("cell")
    }

    /// The test's own file of carriers.
    pub(crate) fn carriers(&self) -> Option<&Path> {
        self.carriers.as_ref().map(|carriers| carriers.file.as_path())
    }

    pub(crate) fn log(&self, process: &str) -> String {
        fs::read_to_string(self.root().join(format!("logs/{process}.log"))).unwrap_or_default()
    }

    /// Registers a client; its credentials are in `clients/NAME.json`.
    pub(crate) async fn new_client(&self, name: &str, tenant: &str, sender: &str) {
        self.run(["client", "create", "--name", name, "--tenant", tenant, "--sender", sender]).await;
    }

    /// Runs `sotto` on this cell; it must succeed. Returns what it printed.
    pub(crate) async fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        let output = self.try_run(arguments).await;
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) async fn try_run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        sotto(&self.root(), arguments).await
    }

    /// Runs `sotto --json`; the objects that it printed.
    pub(crate) async fn json<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Vec<Value> {
        let all = std::iter::once("--json".into())
            .chain(arguments.into_iter().map(|argument| argument.as_ref().to_os_string()));
        let printed = self.run(all).await;
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn told(&self) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(self.root().join("run/cell.json")).ok()?).ok()
    }

    /// `host:port` of a listener, for example `ingress.grpc`.
    pub(crate) fn address(&self, listener: &str) -> String {
        let told = self.told().unwrap();
        told["addresses"][listener].as_str().unwrap_or_else(|| panic!("no listener {listener}")).to_owned()
    }

    pub(crate) fn nats_url(&self) -> String {
        self.told().unwrap()["nats"].as_str().unwrap().to_owned()
    }

    /// The process id of a service, `nats-server`, `redis-server` or `simulator`.
    pub(crate) fn pid(&self, process: &str) -> u32 {
        let told = self.told().unwrap();
        u32::try_from(told["processes"][process].as_u64().unwrap()).unwrap()
    }

    /// The process id of a process that runs now: one that has just died is waited for.
    pub(crate) async fn running(&self, process: &str) -> u32 {
        let lives = |id: u64| Path::new(&format!("/proc/{id}")).exists();
        eventually_ok(BOUND, &format!("{process} to run"), async || {
            let id = self.told().and_then(|told| told["processes"][process].as_u64());
            id.filter(|id| lives(*id)).and_then(|id| u32::try_from(id).ok()).ok_or("it does not")
        })
        .await
    }

    /// Ends a process at once (SIGKILL) and waits until the supervisor has started it again and it is ready.
    pub(crate) async fn kill(&self, process: &str) {
        self.end(process, "KILL").await;
    }

    /// Asks a process to end (SIGTERM), and waits likewise.
    pub(crate) async fn restart(&self, process: &str) {
        self.end(process, "TERM").await;
    }

    /// Sets the wall clock of a service off by so many milliseconds.
    pub(crate) fn shift_clock(&self, service: &str, millis: &str) {
        fs::write(self.root().join("run/clocks").join(service), millis).unwrap();
    }

    async fn end(&self, process: &str, signal: &str) {
        let old = self.pid(process);
        sotto_testkit::process::signal(old, signal);
        eventually(BOUND, &format!("{process} to be started again"), async || {
            self.told().is_some_and(|told| {
                told["processes"][process].as_u64().is_some_and(|new| new != u64::from(old))
            })
        })
        .await;
        self.wait_until_ready().await;
    }

    /// Whether a service says that it is ready.
    pub(crate) async fn is_ready(&self, service: &str) -> bool {
        let address =
            fs::read_to_string(self.root().join(format!("run/{service}.admin"))).unwrap_or_default();
        let Ok(address) = address.parse() else { return false };
        http_get(address, "/ready").await.is_ok_and(|(status, _)| status == 200)
    }

    /// Waits until every service says that it is ready.
    pub(crate) async fn wait_until_ready(&self) {
        for service in SERVICES {
            let file = self.root().join(format!("run/{service}.admin"));
            eventually_ok(BOUND, &format!("{service} to be ready"), async || {
                let address = fs::read_to_string(&file).map_err(|error| error.to_string())?;
                let address = address.parse().map_err(|_| "no address".to_owned())?;
                match http_get(address, "/ready").await {
                    Ok((200, _)) => Ok(()),
                    Ok((status, body)) => Err(format!("{status}: {body}")),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await;
        }
    }

    /// The certificate that a service or tool shows.
    pub(crate) fn tls(&self, name: &str) -> Tls {
        let path = |file: String| self.root().join(file);
        Tls::load(&TlsConfig {
            ca_file: path("tls/ca.pem".to_owned()),
            cert_file: path(format!("tls/{name}.pem")),
            key_file: path(format!("tls/{name}.key")),
        })
        .unwrap()
    }

    /// Where clients come in.
    pub(crate) fn door(&self) -> Door {
        Door { address: self.address("ingress.grpc"), tls: self.tls("operator") }
    }

    pub(crate) fn messages(&self) -> MessageServiceClient<Channel> {
        self.door().messages()
    }

    /// An access token of a client for sending and reading.
    pub(crate) async fn token(&self, client: &str) -> String {
        self.token_for(client, "message:send message:read").await
    }

    pub(crate) async fn token_for(&self, client: &str, scope: &str) -> String {
        let file = self.root().join(format!("clients/{client}.json"));
        let told: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let seed = URL_SAFE_NO_PAD.decode(told["seed"].as_str().unwrap()).unwrap();
        let key = SigningKey::from_seed(seed.as_slice().try_into().unwrap()).unwrap();
        let client = told["client_id"].as_str().unwrap();
        // While Redis is away identity cannot tell a replayed assertion, refuses, and says that it is for now.
        eventually_ok(BOUND, "a token", async || {
            let answer = tokens::request(self, client, &key, scope).await;
            assert!(!answer.as_ref().is_err_and(|why| why != "temporarily_unavailable"), "{answer:?}");
            answer
        })
        .await
    }

    /// Runs a command of Redis as its administrator; it must succeed.
    pub(crate) async fn redis(&self, command: &[&str]) -> String {
        self.try_redis(command).await.unwrap()
    }

    pub(crate) async fn try_redis(&self, command: &[&str]) -> Result<String, String> {
        let port = self.address("redis").rsplit(':').next().unwrap().to_owned();
        let password = fs::read_to_string(self.root().join("secrets/redis-admin")).unwrap();
        let output = Command::new("redis-cli")
            .args(["-h", "localhost", "-p", &port, "--tls", "--cacert", "tls/ca.pem"])
            .args(["--cert", "tls/operator.pem", "--key", "tls/operator.key"])
            .args(["--user", "admin", "--no-auth-warning"])
            .args(command)
            .env("REDISCLI_AUTH", password)
            .current_dir(self.root())
            .output()
            .await
            .unwrap();
        if output.status.success() {
            Ok(text(&output.stdout).trim().to_owned())
        } else {
            Err(text(&output.stderr))
        }
    }

    /// The simulator's admin address.
    pub(crate) fn carrier_admin(&self) -> String {
        self.carriers.as_ref().map_or_else(|| self.address("simulator.admin"), |own| own.admin.clone())
    }

    /// `GET` on the simulator's admin address.
    pub(crate) async fn carrier(&self, path: &str) -> Value {
        let (status, body) = http_get(self.carrier_admin().parse().unwrap(), path).await.unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// One of the simulator's counters.
    pub(crate) async fn count(&self, counter: &str) -> u64 {
        self.carrier("/counters").await[counter].as_u64().unwrap()
    }

    /// Changes how the simulator behaves.
    pub(crate) async fn behave(&self, patch: Value) {
        self.tell_carrier("/behaviour", &patch.to_string()).await;
    }

    /// `POST` on the simulator's admin address.
    pub(crate) async fn tell_carrier(&self, path: &str, body: &str) {
        let address = self.carrier_admin();
        let status = tokens::post(&address, path, body).await;
        assert!((200..300).contains(&status), "{path}: {status}");
    }

    /// The ledger as `sotto ledger check` counts it; it must balance.
    pub(crate) async fn ledger(&self) -> Value {
        self.json(["ledger", "check"]).await.pop().unwrap()
    }

    /// The state and journey of a message, waited for until it has ended.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        self.json(["message", "show", id, "--client", "shop", "--wait", "60"]).await.pop().unwrap()
    }
}

/// The public address of a cell.
pub(crate) struct Door {
    address: String,
    tls: Tls,
}

impl Door {
    /// A client on a connection of its own.
    pub(crate) fn messages(&self) -> MessageServiceClient<Channel> {
        let endpoint = format!("https://{}", self.address);
        let channel = grpc::channel(&endpoint, &self.tls, "ingress.sotto.internal", BOUND).unwrap();
        MessageServiceClient::new(channel)
    }
}

/// A request with an access token.
pub(crate) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

fn launch(folder: &Path, root: &Path, carriers: Option<&Carriers>) -> Process {
    let mut arguments = vec![
        "--cell".into(),
        root.as_os_str().to_owned(),
        "up".into(),
        "--listen".into(),
        "127.0.0.1:0".into(),
        "--token-listen".into(),
        "127.0.0.1:0".into(),
    ];
    if let Some(carriers) = carriers {
        arguments.extend(["--carriers".into(), carriers.file.as_os_str().to_owned()]);
        arguments.extend(carriers.arguments.iter().map(Into::into));
    }
    let path = format!(
        "{}:{}",
        sotto_testkit::workspace().join(".tools/bin").display(),
        std::env::var_os("PATH").unwrap_or_default().display()
    );
    let program = carriers.map_or_else(|| tools::built("sotto"), |carriers| carriers.program.clone());
    Process::start(&program, arguments, [("PATH", path)], &folder.join("up.log"))
}

pub(crate) async fn sotto<A: AsRef<OsStr>>(root: &Path, arguments: impl IntoIterator<Item = A>) -> Output {
    let mut command = Command::new(tools::built("sotto"));
    command.arg("--cell").arg(root).args(arguments).stdin(Stdio::null());
    tokio::time::timeout(BOUND * 2, command.output()).await.unwrap().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A simulator of the test's own behind one account with this many parts a second.
pub(crate) async fn slow_carrier(root: &Path, tps: u32) -> Carriers {
    carrier_with(root, tps, "", &Value::Object(serde_json::Map::new())).await
}

/// The same with more keys of the account and a behaviour of the simulator.
pub(crate) async fn carrier_with(root: &Path, tps: u32, keys: &str, behaviour: &Value) -> Carriers {
    let arguments = simulator_arguments(root, behaviour);
    let (simulator, port, admin) = simulator(&root.join("own-simulator.log"), arguments).await;
    let keys = format!("window = 10\ntps = {tps}\nresponse_timeout = \"10 s\"\n{keys}");
    let file = carriers_file(root, port, &keys);
    Carriers::with_simulator(file, simulator, admin)
}

/// Who may bind at a simulator, with which certificate, and how it behaves.
pub(crate) fn simulator_arguments(root: &Path, behaviour: &Value) -> Vec<String> {
    let path = |name: &str| root.join(name).display().to_string();
    vec![
        "--account".to_owned(),
        format!("sotto:{}", path("secrets/simulator")),
        "--tls-cert".to_owned(),
        path("tls/simulator.pem"),
        "--tls-key".to_owned(),
        path("tls/simulator.key"),
        "--behaviour".to_owned(),
        behaviour.to_string(),
    ]
}

/// Writes a carriers file with one account, `slow`, at a port of this machine.
pub(crate) fn carriers_file(root: &Path, port: u16, keys: &str) -> PathBuf {
    let path = |name: &str| root.join(name).display().to_string();
    let text = format!(
        "[[account]]\nid = \"slow\"\nhost = \"localhost\"\nport = {port}\nsystem_id = \"sotto\"\n\
         password_file = \"{}\"\ntls_ca_file = \"{}\"\ntls_server_name = \"simulator.sotto.internal\"\n\
         simulator = true\n{keys}\n\
         [[route]]\nprefix = \"84\"\naccounts = [{{ id = \"slow\", weight = 1 }}]\n",
        path("secrets/simulator"),
        path("tls/ca.pem"),
    );
    let file = root.join("own-carriers.toml");
    write_durably(&file, &text);
    file
}

/// Writes a file that outlives the power.
pub(crate) fn write_durably(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::File::open(path).and_then(|file| file.sync_all()).unwrap();
}

/// A simulator on free ports of this machine: the process, its port for SMPP and its admin address.
pub(crate) async fn simulator(
    log: &Path,
    arguments: impl IntoIterator<Item = String>,
) -> (Process, u16, String) {
    let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"].map(str::to_owned);
    let environment: [(&str, &str); 0] = [];
    let arguments = listen.into_iter().chain(arguments);
    let mut process = Process::start(&tools::built("sotto-simulator"), arguments, environment, log);
    process.wait_for_log(BOUND, "\"admin\"").await;
    let told = process.log();
    let told: Value = serde_json::from_str(told.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
    let address = |name: &str| told[name].as_str().unwrap().to_owned();
    let port = address("smpp").rsplit(':').next().unwrap().parse().unwrap();
    (process, port, address("admin"))
}
