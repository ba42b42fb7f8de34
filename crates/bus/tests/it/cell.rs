//! A broker set up as a cell has it.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU16,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{ConnectOptions, Event};
use sotto_bus::{
    Bus, BusOptions, Delivery, Handler, NatsConfig, Outcome, Publisher, PublisherConfig, Quarantine,
    Quarantined, Service, Subject, Topology, Worker, WorkerConfig,
    topology::{self, Cell, ClientUser, ClusterOptions, ServerOptions},
};
use sotto_core::{AccountId, Lane, ManualClock, Shards, SystemClock};
use sotto_proto::{Batch, WireError};
use sotto_testkit::{NatsOptions, NatsServer, Pki, Routes};
use tokio::sync::mpsc;

/// Bound of every wait.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// The list of streams as text, to be changed for a test.
pub(crate) const STREAMS: &str = include_str!("../../../../deploy/streams.toml");

pub(crate) struct TestCell {
    pub(crate) server: NatsServer,
    pub(crate) pki: Pki,
    pub(crate) topology: Topology,
    users: Users,
    instances: AtomicU64,
}

pub(crate) fn vn() -> Cell {
    Cell {
        id: "vn".parse().unwrap(),
        shards: Shards::new(NonZeroU16::new(2).unwrap()),
        replicas: sotto_core::Replicas::One,
    }
}

pub(crate) fn accounts() -> Vec<AccountId> {
    vec!["mobi".parse().unwrap()]
}

/// An nkey for each service and tool, and where their seeds are.
pub(crate) struct Users {
    seeds: BTreeMap<Service, PathBuf>,
    public: Vec<(Service, Vec<String>)>,
    clients: Vec<ClientUser>,
}

/// Clients of the broker: a name and the tenant it acts for.
pub(crate) const CLIENTS: [(&str, &str); 2] = [("shop", "acme"), ("rival", "zanzibar")];

impl Users {
    pub(crate) fn new(pki: &Pki) -> Self {
        let mut users = Self { seeds: BTreeMap::new(), public: Vec::new(), clients: Vec::new() };
        for (name, tenant) in CLIENTS {
            let keys = nkeys::KeyPair::new_user();
            sotto_testkit::write_secret(&pki.dir().join(format!("{name}.nkey")), keys.seed().unwrap());
            let tenant = tenant.parse().unwrap();
            users.clients.push(ClientUser { nkey: keys.public_key(), tenant, client: name.to_owned() });
        }
        for service in Service::ALL {
            let keys = nkeys::KeyPair::new_user();
            let file = pki.dir().join(format!("{service}.nkey"));
            sotto_testkit::write_secret(&file, keys.seed().unwrap());
            users.seeds.insert(service, file);
            users.public.push((service, vec![keys.public_key()]));
        }
        users
    }

    pub(crate) fn config(&self, pki: &Pki, service: Service, url: String) -> NatsConfig {
        let files = pki.service(service.name());
        NatsConfig {
            url,
            ca_file: files.ca,
            cert_file: files.cert,
            key_file: files.key,
            nkey_seed_file: self.seeds.get(&service).unwrap().clone(),
            connect_timeout_ms: 5_000,
        }
    }
}

/// Writes the generated configuration of a broker, and `more` of the test's own after it.
pub(crate) fn server_conf(
    pki: &Pki,
    topology: &Topology,
    users: &Users,
    cell: Cell,
    name: &str,
    cluster: Option<ClusterOptions>,
    more: &str,
) -> PathBuf {
    let tls = pki.service("nats");
    let options = ServerOptions {
        cell,
        server_name: name.to_owned(),
        cluster,
        listen: "127.0.0.1:4222".to_owned(),
        store_dir: "/nonexistent/overridden-by-the-test".into(),
        ca_file: tls.ca,
        cert_file: tls.cert,
        key_file: tls.key,
        users: users.public.clone(),
    };
    // The test's server gets its store folder on the command line, and only once.
    let text = topology::nats_server_conf(topology, &options);
    let text = Routes::only_these(&text);
    let mut lines: Vec<_> = text.lines().filter(|line| !line.contains("store_dir")).collect();
    lines.push(more);
    let file = pki.dir().join(format!("{name}.conf"));
    fs::write(&file, lines.join("\n")).unwrap();
    let clients = topology::nats_clients_conf(&options.cell.id, &users.clients);
    fs::write(pki.dir().join(topology::CLIENTS_FILE), clients).unwrap();
    file
}

impl TestCell {
    pub(crate) async fn start() -> Self {
        Self::with(Topology::embedded().unwrap()).await
    }

    /// With a list of streams in which each text is replaced by another.
    pub(crate) async fn changed(changes: &[(&str, &str)]) -> Self {
        let mut text = STREAMS.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        Self::with(Topology::parse(&text).unwrap()).await
    }

    pub(crate) async fn with(topology: Topology) -> Self {
        let cell = Self::without_streams(topology).await;
        let provisioner = cell.bus(Service::Provisioner).await;
        topology::apply(&provisioner, &cell.topology, &accounts()).await.unwrap();
        cell
    }

    pub(crate) async fn without_streams(topology: Topology) -> Self {
        Self::bare(topology, "").await
    }

    /// With settings of the broker that stand after the generated ones, and win.
    pub(crate) async fn tuned(more: &str) -> Self {
        let cell = Self::bare(Topology::embedded().unwrap(), more).await;
        let provisioner = cell.bus(Service::Provisioner).await;
        topology::apply(&provisioner, &cell.topology, &accounts()).await.unwrap();
        cell
    }

    async fn bare(topology: Topology, more: &str) -> Self {
        let pki = Pki::new();
        let users = Users::new(&pki);
        let config = server_conf(&pki, &topology, &users, vn(), "vn-1", None, more);
        Self::of(pki, topology, users, NatsOptions { config_file: Some(config), ..NatsOptions::default() })
            .await
    }

    async fn of(pki: Pki, topology: Topology, users: Users, options: NatsOptions) -> Self {
        let server = NatsServer::start(options).await;
        Self { server, pki, topology, users, instances: AtomicU64::new(0) }
    }

    /// With JetStream's files in this folder, and a text of the generated configuration replaced.
    pub(crate) async fn stored_in(store: PathBuf, (from, to): (&str, &str)) -> Self {
        let (pki, topology) = (Pki::new(), Topology::embedded().unwrap());
        let users = Users::new(&pki);
        let config = server_conf(&pki, &topology, &users, vn(), "vn-1", None, "");
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(&config, text.replace(from, to)).unwrap();
        let (config_file, store_dir) = (Some(config), Some(store));
        let options = NatsOptions { config_file, store_dir, ..NatsOptions::default() };
        let cell = Self::of(pki, topology, users, options).await;
        let provisioner = cell.bus(Service::Provisioner).await;
        topology::apply(&provisioner, &cell.topology, &accounts()).await.unwrap();
        cell
    }

    pub(crate) fn config(&self, service: Service) -> NatsConfig {
        self.users.config(&self.pki, service, self.server.tls_url())
    }

    pub(crate) fn client_config(&self, name: &str) -> NatsConfig {
        client_config(&self.pki, name, self.server.tls_url())
    }

    pub(crate) fn options(&self, service: Service) -> BusOptions {
        let instance = self.instances.fetch_add(1, Ordering::Relaxed);
        options(service, instance, vn(), self.topology.clone())
    }

    pub(crate) async fn bus(&self, service: Service) -> Bus {
        Bus::connect(&self.config(service), self.options(service)).await.unwrap()
    }

    pub(crate) async fn bus_at(&self, service: Service, clock: Arc<ManualClock>) -> Bus {
        let options = BusOptions { clock, ..self.options(service) };
        Bus::connect(&self.config(service), options).await.unwrap()
    }

    /// Through a proxy in front of the server.
    pub(crate) async fn bus_through(&self, service: Service, port: u16) -> Bus {
        let config = NatsConfig { url: format!("tls://localhost:{port}"), ..self.config(service) };
        Bus::connect(&config, self.options(service)).await.unwrap()
    }

    pub(crate) async fn raw(&self, service: Service) -> Raw {
        raw(self.config(service), service).await
    }

    /// Settings and counts of a consumer.
    pub(crate) async fn consumer(&self, name: &str) -> serde_json::Value {
        let raw = self.raw(Service::Operator).await;
        let answer = raw.client.request(format!("$JS.API.CONSUMER.INFO.{name}"), "".into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    pub(crate) async fn quarantined(&self) -> Vec<Quarantined> {
        let operator = self.bus(Service::Operator).await;
        Quarantine::new(&operator).unwrap().list(1, 1_000).await.unwrap()
    }

    pub(crate) async fn messages(&self, stream: &str) -> u64 {
        let operator = self.bus(Service::Operator).await;
        sotto_bus::StreamReader::<Texts>::new(&operator, stream).unwrap().state().await.unwrap().messages
    }
}

/// How a client connects.
pub(crate) fn client_config(pki: &Pki, name: &str, url: String) -> NatsConfig {
    let files = pki.named(name, &[&format!("{name}.client.sotto.internal")]);
    NatsConfig {
        url,
        ca_file: files.ca,
        cert_file: files.cert,
        key_file: files.key,
        nkey_seed_file: pki.dir().join(format!("{name}.nkey")),
        connect_timeout_ms: 5_000,
    }
}

pub(crate) fn options(service: Service, instance: u64, cell: Cell, topology: Topology) -> BusOptions {
    BusOptions {
        service,
        instance: format!("t{instance}"),
        cell,
        topology,
        clock: Arc::new(SystemClock),
        digest: Arc::new(|bytes| [u8::try_from(bytes.len() % 251).unwrap(); 32]),
    }
}

/// A bare client with a service's certificate, nkey and inboxes, and the subjects that the broker refuses it.
pub(crate) async fn raw(config: NatsConfig, user: impl std::fmt::Display) -> Raw {
    let (events, refused) = mpsc::unbounded_channel();
    let client = ConnectOptions::with_nkey(fs::read_to_string(&config.nkey_seed_file).unwrap())
        .custom_inbox_prefix(format!("_INBOX.{user}.raw"))
        .require_tls(true)
        .tls_first()
        .add_root_certificates(config.ca_file)
        .add_client_certificate(config.cert_file, config.key_file)
        .event_callback(move |event| {
            if let Event::ServerError(error) = event {
                let _gone = events.send(error.to_string());
            }
            std::future::ready(())
        })
        .connect(config.url.split(',').collect::<Vec<_>>())
        .await
        .unwrap();
    Raw { client, refused }
}

pub(crate) struct Raw {
    pub(crate) client: async_nats::Client,
    pub(crate) refused: mpsc::UnboundedReceiver<String>,
}

/// A batch of texts; the text "bad" does not parse.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Texts {
    #[prost(string, repeated, tag = "1")]
    pub(crate) texts: Vec<String>,
}

impl Batch for Texts {
    type Item = String;

    fn from_items(items: &[String]) -> Self {
        Self { texts: items.to_vec() }
    }

    fn into_items(self) -> Vec<Result<String, WireError>> {
        let parse = |text: String| if text == "bad" { Err(WireError::Invalid("texts")) } else { Ok(text) };
        self.texts.into_iter().map(parse).collect()
    }

    fn item_size(item: &String) -> usize {
        item.len() + 8
    }
}

pub(crate) fn accepted(lane: Lane) -> Subject {
    Subject::Accepted(lane, vn().shards.iter().next().unwrap())
}

pub(crate) fn publisher(bus: &Bus) -> Publisher<Texts> {
    Publisher::new(bus, PublisherConfig::default())
}

pub(crate) fn texts(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

/// What a handler was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) subject: String,
    pub(crate) items: Vec<String>,
    pub(crate) delivery: u64,
}

type Answer = dyn Fn(&Given) -> Vec<Outcome> + Send + Sync;

/// Writes down what it is given and answers by a function.
pub(crate) struct Script {
    pub(crate) given: Mutex<Vec<Given>>,
    answer: Box<Answer>,
}

impl Script {
    pub(crate) fn new(answer: impl Fn(&Given) -> Vec<Outcome> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { given: Mutex::default(), answer: Box::new(answer) })
    }

    pub(crate) fn all_done() -> Arc<Self> {
        Self::new(|given| vec![Outcome::Done; given.items.len()])
    }

    pub(crate) fn given(&self) -> Vec<Given> {
        self.given.lock().unwrap().clone()
    }

    /// Every item given so far, in order.
    pub(crate) fn items(&self) -> Vec<String> {
        self.given().into_iter().flat_map(|given| given.items).collect()
    }
}

impl Handler<Texts> for Script {
    async fn handle(&self, delivery: Delivery<Texts>) -> Vec<Outcome> {
        let given = Given {
            subject: delivery.subject.to_string(),
            items: delivery.items,
            delivery: delivery.delivery_count,
        };
        self.given.lock().unwrap().push(given.clone());
        (self.answer)(&given)
    }
}

/// Short pauses.
pub(crate) fn quick() -> WorkerConfig {
    WorkerConfig {
        handler_timeout: Duration::from_millis(100),
        skew: Duration::from_millis(100),
        failure_pause: Duration::from_millis(10),
        ..WorkerConfig::default()
    }
}

/// Routing's worker on all lanes of INTAKE.
pub(crate) async fn route<H: Handler<Texts>>(
    bus: &Bus,
    handler: &Arc<H>,
    config: WorkerConfig,
) -> Worker<Texts> {
    let consumers: Vec<_> = Lane::ALL.into_iter().map(topology::consumer_name::routing).collect();
    Worker::start(bus, "INTAKE", &consumers, Arc::clone(handler), config).await.unwrap()
}
