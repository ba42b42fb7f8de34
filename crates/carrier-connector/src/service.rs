//! The connector as a process.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use sotto_bus::{
    AuditTrail, Bus, BusOptions, ControlRegister, Delivery, Handler, Heard, Leases, Outcome,
    Service as BusService, StreamReader, Subject, Topology, WorkError, Worker, WorkerConfig, measure_streams,
    topology::{Cell, consumer_name},
};
use sotto_core::{AccountId, Lane, carriers::CarriersFile};
use sotto_crypto::{AeadKey, MacKey, Zeroizing, hash::sha256};
use sotto_proto::pipeline::v1::WorkBatch;
use sotto_runtime::{
    Context, Service,
    fuse::Fuses,
    grpc::{self, GrpcServer, ServerLimits},
    redis::Redis,
    tls::{ClientAuth, PeerService, Tls},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    adapters::{
        broker::{AuditWitness, Broker, WaitingQueues},
        ledger::{Ledger, Store},
        ops::Ops,
        privacy::Privacy,
        smpp::{check_files, keep_bound},
        traffic::Traffic,
    },
    app::{
        account::{Account, Shared},
        asking::ask,
        conduct::conduct,
        ended::forget_ended,
        keyring::KeepKeys,
        line::Line,
        orphans::keep_orphans,
        rebuild::Rebuilder,
        tenure::{keep, posts},
    },
    config::{CarrierConfig, DEFAULT_TOML},
    domain::lease,
    error::CarrierError,
    metrics::{CarrierMetrics, measure_queues},
    ports::{Act, Witness},
};

/// What is left for closing the bus once work is drained.
const CLOSE: Duration = Duration::from_secs(5);

/// Peers are the operator's tools.
const LIMITS: ServerLimits = ServerLimits { connections: 16, streams: 16 };

/// The service.
#[derive(Debug)]
pub struct Carrier;

impl Service for Carrier {
    const NAME: &'static str = "carrier";
    const DEFAULT_TOML: &'static str = DEFAULT_TOML;
    type Config = CarrierConfig;
    type Error = CarrierError;

    async fn run(config: CarrierConfig, context: Context) -> Result<(), CarrierError> {
        let connected = context.ready.condition("broker");
        let reliable = context.ready.condition("redis");
        let working = context.ready.condition("work");
        let (carriers, digest) = read_carriers(&config.carriers.file)?;
        let abroad = abroad(&config, &carriers)?;
        let tls = Tls::load(&config.tls).map_err(CarrierError::Tls)?;
        tls.watch(&context);
        let bus = connect(&config, &context, &carriers).await?;
        context.metrics.take_in(bus.metrics());
        refuse_stranded(&bus, &carriers).await?;
        connected.set(true);
        let audit = AuditWitness(AuditTrail::start(&bus));
        audit.tell(Act::Started, &context.instance, "ok");
        audit.tell(Act::Configured, &digest, "ok");
        for account in abroad {
            audit.tell(Act::Transferred, account.as_str(), "ok");
        }

        let witness: Arc<dyn Witness> = Arc::new(audit);
        let words = ControlRegister::new(&bus);
        let (heard, following) = words.follow();
        until_stop(&context, "operators' words", following);
        let (accounts, rebuilder) =
            accounts(&config, &context, &carriers, &tls, &bus, Arc::clone(&witness), heard.clone())?;
        until_stop(&context, "conduct", conduct(accounts.clone(), heard));
        if let Some(account) = accounts.first() {
            let keys = Arc::clone(&account.shared.keys);
            until_stop(&context, "ended keys", forget_ended(accounts.clone(), keys));
        }
        let watching = Arc::clone(&rebuilder).watch(reliable, context.stop.clone());
        context.tasks.spawn_critical("redis watch", watching);
        let server = GrpcServer::bind(config.grpc.listen, &tls, ClientAuth::Required, LIMITS).await;
        let server = server.map_err(CarrierError::Grpc)?;
        context.info.bound("grpc", server.local_addr());
        let ops = Ops::service(rebuilder, context.tasks.clone());
        let queues = Arc::new(WaitingQueues::new(&bus).map_err(CarrierError::Waiting)?);
        measure(&context, &bus, &accounts, Arc::clone(&queues));
        let folder = config.carriers.file.parent().unwrap_or(Path::new("")).to_owned();
        let traffic = Traffic {
            replica: replica(&config, &context),
            accounts: accounts.clone(),
            folder: folder.clone(),
            queues,
            words,
            restored: config.restored.cell(),
            witness: Arc::clone(&witness),
            clock: Arc::clone(&context.clock),
        }
        .service();
        let stop = context.stop.clone();
        context.tasks.spawn_critical("operators' server", async move {
            server.serve(&stop, |server| server.add_service(ops).add_service(traffic)).await
        });

        let (drained, ended, keepers) =
            (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let fuses = Fuses::start().map_err(CarrierError::Fuses)?;
        let mut workers = Vec::new();
        for account in &accounts {
            let id = &account.settings.id;
            tell_waiver(account);
            let (posts, each) = posts(account.settings.binds, config.connector.lease.get(), &fuses);
            for post in each {
                let name = format!("carrier {id} bind {}", post.number);
                let (stop, drained) = (context.stop.clone(), drained.clone());
                let bound = keep_bound(Arc::clone(account), post, folder.clone(), stop, drained);
                context.tasks.spawn_critical(name, bound);
            }
            let leases = leases(&config, &context, account);
            let keeping = keep(Arc::clone(account), Leases::new(&bus), leases, posts, ended.clone());
            context.tasks.spawn_critical(format!("carrier {id} leases"), keepers.track_future(keeping));
            until_stop(&context, format!("carrier {id} questions"), ask(Arc::clone(account)));
            until_stop(&context, format!("carrier {id} orphans"), keep_orphans(Arc::clone(account)));
            workers.extend(work(&config, &bus, account).await?);
        }
        keepers.close();
        working.set(true);

        context.stop.requested().await;
        working.set(false);
        witness.tell(Act::Stopped, &context.instance, "ok");
        let longest =
            accounts.iter().map(|account| account.settings.response_timeout).max().unwrap_or_default();
        let stopping = workers.iter().map(|worker| worker.stop(longest + config.connector.skew.get()));
        let finished = futures::future::join_all(stopping).await.into_iter().all(|finished| finished);
        drained.cancel();
        // Binds end, and their last receipts are stored, before the bus closes.
        let held = accounts.iter().map(|account| account.line.ended());
        let unbound = tokio::time::timeout(longest + CLOSE, futures::future::join_all(held)).await.is_ok();
        // Others need not wait for the binds of this replica.
        ended.cancel();
        let _in_time = tokio::time::timeout(CLOSE, keepers.wait()).await;
        let closed = bus.close(CLOSE).await;
        tracing::info!(finished, unbound, closed, "stopped");
        Ok(())
    }
}

/// Measures accounts and what waits for them.
fn measure(context: &Context, bus: &Bus, accounts: &[Arc<Account>], queues: Arc<WaitingQueues>) {
    for account in accounts {
        account.shared.metrics.watch(account.settings.id.as_str(), &Arc::downgrade(account));
    }
    until_stop(context, "queues measured", measure_queues(accounts.to_vec(), queues));
    let ids: Vec<_> = accounts.iter().map(|account| account.settings.id.clone()).collect();
    let (bus, metrics) = (bus.clone(), context.metrics.clone());
    until_stop(context, "streams measured", async move {
        measure_streams(bus, metrics, &["WAITING", "INBOUND"], &ids).await;
    });
}

/// Runs something for as long as work is taken.
fn until_stop(context: &Context, name: impl Into<String>, work: impl Future<Output = ()> + Send + 'static) {
    let stop = context.stop.clone();
    context.tasks.spawn_critical(name, async move {
        tokio::select! { () = work => {} () = stop.requested() => {} }
    });
}

/// Accounts outside of the cell's region that may be used: the others keep the connector from starting.
pub(crate) fn abroad(
    config: &CarrierConfig,
    carriers: &CarriersFile,
) -> Result<BTreeSet<AccountId>, CarrierError> {
    let outside = |account: &&sotto_core::carriers::Account| {
        account.hosts.iter().any(|host| !config.residency.permits(&host.name))
    };
    let abroad: BTreeSet<_> =
        carriers.accounts.iter().filter(outside).map(|account| account.id.clone()).collect();
    let refused: BTreeSet<_> = abroad.difference(&config.carriers.transfers).cloned().collect();
    if refused.is_empty() { Ok(abroad) } else { Err(CarrierError::Abroad(refused)) }
}

/// An unencrypted way is told at each start.
fn tell_waiver(account: &Account) {
    if let sotto_core::carriers::Tls::Waived { reason } = &account.settings.tls {
        tracing::warn!(account = %account.settings.id, reason, "the way to this carrier is not encrypted");
        account.shared.witness.tell(Act::TlsWaived, account.settings.id.as_str(), "ok");
    }
}

/// What this replica holds of an account's binds: nothing yet.
fn leases(config: &CarrierConfig, context: &Context, account: &Account) -> lease::Leases {
    lease::Leases::new(replica(config, context), account.settings.binds, config.connector.lease.get())
}

/// A key for what is kept in Redis, by its purpose: all replicas have the seed of this service's user at the broker, and
/// nobody else has it.
fn own_key(config: &CarrierConfig, purpose: &[u8]) -> Result<AeadKey, CarrierError> {
    let seed = std::fs::read(&config.nats.nkey_seed_file).map(Zeroizing::new).map_err(CarrierError::Seed)?;
    AeadKey::derive(&seed, b"sotto.carrier", purpose).map_err(CarrierError::Random)
}

/// The name of this replica.
fn replica(config: &CarrierConfig, context: &Context) -> String {
    let name = &config.connector.replica;
    if name.is_empty() { context.instance.clone() } else { name.clone() }
}

/// Reads the carriers file and its digest.
fn read_carriers(path: &Path) -> Result<(CarriersFile, String), CarrierError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| CarrierError::CarriersRead { path: path.to_owned(), source })?;
    let file = CarriersFile::parse(&text)
        .map_err(|problems| CarrierError::Carriers { path: path.to_owned(), problems })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let failed = |settings: &sotto_core::carriers::Account| {
        check_files(settings, folder).err().map(|error| (settings.id.clone(), error))
    };
    let failed: Vec<_> = file.accounts.iter().filter_map(failed).collect();
    if !failed.is_empty() {
        return Err(CarrierError::accounts(failed));
    }
    // The same version as in the events of routing.
    let digest = sha256(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok((file, digest))
}

async fn connect(
    config: &CarrierConfig,
    context: &Context,
    carriers: &CarriersFile,
) -> Result<Bus, CarrierError> {
    let topology = Topology::embedded().map_err(|source| CarrierError::Setup(source.into()))?;
    let key = MacKey::generate().map_err(CarrierError::Random)?;
    let options = BusOptions {
        service: BusService::Carrier,
        instance: context.instance.clone(),
        cell: Cell { id: config.cell.id.clone(), shards: config.cell.shards, replicas: config.cell.replicas },
        topology: topology.with_ack_waits(carriers.redeliveries()),
        clock: Arc::clone(&context.clock),
        digest: Arc::new(move |bytes| key.mac("quarantine", &[bytes])),
    };
    let bus = Bus::connect(&config.nats, options).await.map_err(CarrierError::Broker)?;
    sotto_bus::topology::verify(&bus, &[]).await.map_err(CarrierError::Setup)?;
    Ok(bus)
}

/// Messages that wait for an account which the carriers file does not have would wait for ever: nobody pulls them, and
/// routing has let go of them.
async fn refuse_stranded(bus: &Bus, carriers: &CarriersFile) -> Result<(), CarrierError> {
    let reader: StreamReader<WorkBatch> = StreamReader::new(bus, "WAITING").map_err(CarrierError::Waiting)?;
    let subjects = reader.subjects().await.map_err(CarrierError::Waiting)?;
    let stranded = stranded(subjects.messages.into_keys(), carriers);
    if stranded.is_empty() { Ok(()) } else { Err(CarrierError::Stranded(stranded)) }
}

fn stranded(subjects: impl IntoIterator<Item = Subject>, carriers: &CarriersFile) -> BTreeSet<AccountId> {
    let account = |subject| match subject {
        Subject::Waiting(account, _) => Some(account),
        Subject::Accepted(..)
        | Subject::Retry(..)
        | Subject::Event(_)
        | Subject::Carried(_)
        | Subject::Inbound(_)
        | Subject::Index(_)
        | Subject::Audit(..)
        | Subject::Scheduled(..)
        | Subject::Quarantine(_) => None,
    };
    let accounts = subjects.into_iter().filter_map(account);
    accounts.filter(|account| carriers.account(account).is_none()).collect()
}

fn accounts(
    config: &CarrierConfig,
    context: &Context,
    carriers: &CarriersFile,
    tls: &Tls,
    bus: &Bus,
    witness: Arc<dyn Witness>,
    heard: watch::Receiver<Heard>,
) -> Result<(Vec<Arc<Account>>, Arc<Rebuilder>), CarrierError> {
    let redis = Redis::new(&config.redis, tls).map_err(CarrierError::Redis)?;
    let store = Store::new(redis, config.cell.shards);
    let PrivacyAddress { endpoint, name } = PrivacyAddress::of(config);
    let channel = grpc::channel(&endpoint, tls, &name, config.privacy.connect_timeout.get())
        .map_err(CarrierError::Grpc)?;
    let shared = Shared {
        cell: config.cell.id.clone(),
        clock: Arc::clone(&context.clock),
        log: Arc::new(Broker::new(bus)),
        keys: Arc::new(Privacy::new(channel, config.privacy.timeout.get())),
        witness,
        reliance: Arc::default(),
        heard,
        restored: config.restored.cell(),
        query_key: Arc::new(own_key(config, b"query")?),
        recipient_key: Arc::new(MacKey::from_bytes(*own_key(config, b"recipient")?.expose())),
        skew: config.connector.skew.get(),
        keep_keys: KeepKeys {
            count: usize::try_from(config.connector.keys).unwrap_or(usize::MAX),
            time: config.connector.keys_kept.get(),
        },
        metrics: CarrierMetrics::new(&context.metrics),
    };
    let account = |settings: &sotto_core::carriers::Account| {
        let ledger = Arc::new(Ledger::new(store.clone(), settings.id.clone(), settings.receipt_wait));
        let failover_after = config.connector.failover_after.get();
        let line = Line::new(settings.window, settings.tps, failover_after, context.stop.clone());
        Account::new(settings.clone(), ledger, line, shared.clone())
    };
    let accounts: Vec<_> = carriers.accounts.iter().map(account).collect();
    let rebuilder = Rebuilder::new(store, shared.clone(), &accounts);
    Ok((accounts, rebuilder))
}

struct PrivacyAddress {
    endpoint: String,
    name: String,
}

impl PrivacyAddress {
    fn of(config: &CarrierConfig) -> Self {
        Self { endpoint: config.privacy.endpoint.clone(), name: PeerService::Privacy.tls_name() }
    }
}

/// Takes what waits for one account. One-time codes have a worker of their own: it takes the next one although every place
/// is taken, so that the next free one is the code's. The other lanes share one, the more urgent first.
struct AccountWork {
    account: Arc<Account>,
    urgent: bool,
}

impl Handler<WorkBatch> for AccountWork {
    async fn handle(&self, delivery: Delivery<WorkBatch>) -> Vec<Outcome> {
        self.account.handle(delivery.items).await
    }

    async fn ready(&self) -> usize {
        self.account.ready(self.urgent).await
    }
}

async fn work(
    config: &CarrierConfig,
    bus: &Bus,
    account: &Arc<Account>,
) -> Result<[Worker<WorkBatch>; 2], CarrierError> {
    work_on(bus, account, usize::from(config.connector.batches), config.connector.skew.get())
        .await
        .map_err(|source| CarrierError::Work { account: account.settings.id.clone(), source })
}

/// Starts to take what waits for one account: the worker of the one-time codes, and that of the other lanes.
pub(crate) async fn work_on(
    bus: &Bus,
    account: &Arc<Account>,
    batches: usize,
    skew: Duration,
) -> Result<[Worker<WorkBatch>; 2], WorkError> {
    let start = async |urgent: bool| {
        let lanes = Lane::ALL.iter().filter(|lane| (**lane == Lane::Otp) == urgent);
        let consumers: Vec<_> =
            lanes.map(|lane| consumer_name::carrier(&account.settings.id, *lane)).collect();
        let settings = WorkerConfig {
            concurrency: batches,
            handler_timeout: account.settings.response_timeout,
            skew,
            ..WorkerConfig::default()
        };
        let handler = Arc::new(AccountWork { account: Arc::clone(account), urgent });
        Worker::start(bus, "WAITING", &consumers, handler, settings).await
    };
    Ok([start(true).await?, start(false).await?])
}

#[cfg(test)]
mod tests {
    use sotto_core::carriers::EXAMPLE;

    use super::*;

    #[test]
    fn an_account_that_messages_wait_for_must_stay_in_the_file() {
        let carriers = CarriersFile::parse(EXAMPLE).unwrap();
        let waiting = |account: &str| Subject::Waiting(account.parse().unwrap(), Lane::Otp);
        let found = stranded(["vina-otp", "gone", "test-carrier", "gone"].map(waiting), &carriers);
        assert_eq!(found, BTreeSet::from(["gone".parse().unwrap()]));
        let error = CarrierError::Stranded(found).to_string();
        assert!(error.contains("gone") && error.contains("put it back"), "{error}");
    }
}
