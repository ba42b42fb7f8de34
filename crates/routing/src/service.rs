//! Routing as a process.

use std::{sync::Arc, time::Duration};

use sotto_bus::{
    Act, AuditCategory, AuditTrail, Bus, BusOptions, Service as BusService, Topology, WorkError, Worker,
    WorkerConfig, measure_streams, topology::Cell,
};
use sotto_core::{
    Lane,
    carriers::{CarriersFile, RouteTable},
};
use sotto_crypto::{MacKey, hash::sha256};
use sotto_proto::pipeline::v1::WorkBatch;
use sotto_runtime::{Context, Service};

use crate::{
    adapters::BrokerOutbox,
    app::Router,
    config::{DEFAULT_TOML, RoutingConfig},
    error::RoutingError,
    metrics::RoutingMetrics,
};

/// How long a batch may wait for the broker; below the consumers' `ack_wait` of 30 s.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(20);

/// What is left for closing the bus once work is drained.
const CLOSE: Duration = Duration::from_secs(5);

/// The service.
#[derive(Debug)]
pub struct Routing;

impl Service for Routing {
    const NAME: &'static str = "routing";
    const DEFAULT_TOML: &'static str = DEFAULT_TOML;
    type Config = RoutingConfig;
    type Error = RoutingError;

    async fn run(config: RoutingConfig, context: Context) -> Result<(), RoutingError> {
        let connected = context.ready.condition("broker");
        let working = context.ready.condition("work");
        let table = read_table(&config)?;
        tracing::info!(version = table.version(), accounts = table.accounts().count(), "route table loaded");

        let digest_key = MacKey::generate().map_err(RoutingError::Random)?;
        let options = BusOptions {
            service: BusService::Routing,
            instance: context.instance.clone(),
            cell: Cell {
                id: config.cell.id.clone(),
                shards: config.cell.shards,
                replicas: config.cell.replicas,
            },
            topology: Topology::embedded().map_err(|source| RoutingError::Setup(source.into()))?,
            clock: Arc::clone(&context.clock),
            digest: Arc::new(move |bytes| digest_key.mac("quarantine", &[bytes])),
        };
        let bus = Bus::connect(&config.nats, options).await.map_err(RoutingError::Connect)?;
        sotto_bus::topology::verify(&bus, &[]).await.map_err(RoutingError::Setup)?;
        connected.set(true);
        context.metrics.take_in(bus.metrics());
        context.tasks.spawn_critical("streams measured", measured(bus.clone(), &context));
        let audit = AuditTrail::start(&bus);
        audit.tell(act(AuditCategory::Lifecycle, "service.started", context.instance.clone()));
        audit.tell(act(AuditCategory::Configuration, "routes.loaded", table.version().to_owned()));

        let batches = usize::from(config.work.batches);
        let accounts: Vec<_> = table.accounts().map(|account| account.id.clone()).collect();
        let metrics = RoutingMetrics::new(&context.metrics, accounts);
        let router = Router::new(
            table,
            Arc::clone(&context.clock),
            BrokerOutbox::new(&bus),
            config.restored.cell(),
            metrics,
        );
        let worker = work(&bus, router, batches).await.map_err(RoutingError::Work)?;
        working.set(true);

        context.stop.requested().await;
        working.set(false);
        audit.tell(act(AuditCategory::Lifecycle, "service.stopped", context.instance.clone()));
        let drained = worker.stop(HANDLER_TIMEOUT).await;
        let closed = bus.close(CLOSE).await;
        tracing::info!(drained, closed, "stopped");
        Ok(())
    }
}

/// Starts to decide what INTAKE holds.
pub(crate) async fn work(
    bus: &Bus,
    router: Router<BrokerOutbox>,
    batches: usize,
) -> Result<Worker<WorkBatch>, WorkError> {
    let consumers = Lane::ALL.map(|lane| format!("routing-{lane}"));
    let settings =
        WorkerConfig { concurrency: batches, handler_timeout: HANDLER_TIMEOUT, ..WorkerConfig::default() };
    Worker::start(bus, "INTAKE", &consumers, Arc::new(router), settings).await
}

/// What our consumers of INTAKE have before them.
fn measured(bus: Bus, context: &Context) -> impl Future<Output = ()> + Send + use<> {
    let (metrics, stop) = (context.metrics.clone(), context.stop.clone());
    async move {
        tokio::select! {
            () = measure_streams(bus, metrics, &["INTAKE"], &[]) => {}
            () = stop.requested() => {}
        }
    }
}

fn act(category: AuditCategory, action: &'static str, object: String) -> Act {
    Act { category, action, actor: Routing::NAME.to_owned(), tenant: None, object, outcome: "ok" }
}

fn read_table(config: &RoutingConfig) -> Result<RouteTable, RoutingError> {
    let path = config.carriers.file.clone();
    let text = std::fs::read_to_string(&path)
        .map_err(|source| RoutingError::CarriersRead { path: path.clone(), source })?;
    let file = CarriersFile::parse(&text).map_err(|problems| RoutingError::Carriers { path, problems })?;
    let digest = sha256(text.as_bytes());
    let version = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(RouteTable::new(file, version))
}
