//! The process: opens the log, takes acts, commits events, answers for both.

use std::sync::Arc;

use sotto_bus::{
    Bus, BusOptions, Service, StreamReader, Topology, Worker, WorkerConfig, measure_streams, topology::Cell,
};
use sotto_core::{Classified, ErrorClass};
use sotto_crypto::MacKey;
use sotto_keystore::{Keystore, KeystoreError, MacHome, Pkcs11Keystore, SoftKeystore, Token, UnlockSecret};
use sotto_proto::{audit::v1::audit_service_server::AuditServiceServer, pipeline::v1::AuditBatch};
use sotto_runtime::{
    Context, Readiness, Stop,
    grpc::{GrpcServer, ServerLimits},
    telemetry::chain,
    tls::{ClientAuth, Tls},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::sleep,
};

use crate::{
    adapters::{
        api::{Api, Retention},
        broker::{EventStream, Intake, log_unanswered},
        folder::Folder,
        keystore::KeystoreSigner,
        shelf::BrokerShelf,
    },
    config::{Config, DEFAULT_TOML, KeystoreConfig},
    domain::{Act, Category, Keep},
    error::AuditError,
    metrics::{AuditMetrics, measure_lag},
    ports::{Disk, Signer},
    sequencer::{Parts, Sequencer, Told},
    trim::{self, LEAST_KEPT, Trimmer},
    view::View,
};

/// The keystore's slot: a file of another service does not open as ours.
const SLOT: &str = "audit";

/// The stream of acts and our consumer of it, as the list of streams writes them.
pub const ACTS: (&str, &str) = ("AUDIT", "audit-acts");

/// Batches of acts that wait for one checkpoint together.
const BATCHES: usize = 256;

/// People ask here, not services.
const LIMITS: ServerLimits = ServerLimits { connections: 64, streams: 16 };

/// The audit service.
#[derive(Debug)]
pub struct Audit;

impl sotto_runtime::Service for Audit {
    const NAME: &'static str = "audit";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const DEFAULT_TOML: &'static str = DEFAULT_TOML;
    type Config = Config;
    type Error = AuditError;

    async fn run(config: Config, context: Context) -> Result<(), AuditError> {
        let growing = context.ready.condition("log");
        let committing = context.ready.condition("events");
        let consuming = context.ready.condition("acts");
        let listening = context.ready.condition("listening");

        let tls = Tls::load(&config.tls).map_err(AuditError::Tls)?;
        tls.watch(&context);
        let (disk, signer) = open(&config, &context).await?;
        let bus = connect(&config, &context).await?;
        context.metrics.take_in(bus.metrics());
        let metrics = AuditMetrics::new(&context.metrics);
        let events = Arc::new(EventStream::new(&bus).map_err(AuditError::Events)?);
        let view = Arc::new(View::default());
        let (sender, acts) = mpsc::channel(BATCHES);
        let parts = Parts {
            disk: Arc::clone(&disk),
            signer: Arc::clone(&signer),
            events: Arc::clone(&events),
            acts,
            view: Arc::clone(&view),
            growing,
            committing,
            interval: config.log.interval.get(),
            producers: usize::try_from(config.log.producers).unwrap_or(usize::MAX),
            producer: producer(&context),
            clock: Arc::clone(&context.clock),
            metrics: metrics.clone(),
        };
        let sequencer = Sequencer::open(parts).await.map_err(AuditError::Log)?;
        let over = Stop::default();
        context.tasks.spawn_critical("sequencer", sequencer.run(context.stop.clone(), over.clone()));
        measure(&bus, &view, &context, metrics.clone())?;
        tell_opened(&sender, signer.origin(), &context).await;

        let (shelf, trims) = trim_events(&config, &bus, &context, &view, &disk, sender.clone(), &metrics)?;
        let worker = consume(&bus, Intake::new(sender), &context).await?;
        consuming.set(true);
        let server = GrpcServer::bind(config.grpc.listen, &tls, ClientAuth::Required, LIMITS)
            .await
            .map_err(AuditError::Serve)?;
        context.info.bound("grpc", server.local_addr());
        listening.set(true);
        let api = AuditServiceServer::new(Api::new(
            view,
            disk,
            signer,
            events,
            Retention { shelf, trims, keep: keep(&config) },
            config.log.interval.get(),
        ));
        let served = server.serve(&context.stop, |server| server.add_service(api)).await;

        // What was not answered comes again. The broker may be gone for good: the sequencer ends within the grace all the same.
        let grace = config.shutdown.grace.get();
        if let Some(worker) = worker {
            worker.stop(grace / 2).await;
        }
        over.request();
        bus.close(grace / 4).await;
        served.map_err(AuditError::Serve)
    }
}

/// Measures what lies before the log, until a stop.
fn measure(bus: &Bus, view: &Arc<View>, context: &Context, metrics: AuditMetrics) -> Result<(), AuditError> {
    let events = StreamReader::new(bus, "EVENTS").map_err(AuditError::Events)?;
    let lag = measure_lag(events, Arc::clone(view), metrics);
    let (bus, registry, stop) = (bus.clone(), context.metrics.clone(), context.stop.clone());
    context.tasks.spawn_critical("measures", async move {
        tokio::select! {
            () = lag => {}
            () = measure_streams(bus, registry, &["AUDIT", "QUARANTINE"], &[]) => {}
            () = stop.requested() => {}
        }
    });
    Ok(())
}

/// How long events are kept.
fn keep(config: &Config) -> Keep {
    Keep { usual: config.retention.events.get(), least: LEAST_KEPT }
}

/// Trims events until a stop.
fn trim_events(
    config: &Config,
    bus: &Bus,
    context: &Context,
    view: &Arc<View>,
    disk: &Arc<dyn Disk>,
    log: mpsc::Sender<Told>,
    metrics: &AuditMetrics,
) -> Result<(Arc<BrokerShelf>, mpsc::Sender<trim::Wanted>), AuditError> {
    let shelf = Arc::new(BrokerShelf::new(bus).map_err(AuditError::Events)?);
    let trimmer = Trimmer::new(trim::Parts {
        shelf: Arc::clone(&shelf),
        view: Arc::clone(view),
        disk: Arc::clone(disk),
        log,
        keep: keep(config),
        most: usize::try_from(config.retention.messages_at_once).unwrap_or(usize::MAX),
        clock: Arc::clone(&context.clock),
        metrics: metrics.clone(),
        // While it does not hold, acts are logged and proofs are served all the same.
        trimmed: Readiness::measured(&context.metrics).condition("events_trimmed"),
    });
    let (trims, wanted) = mpsc::channel(1);
    let trimming = trimmer.run(wanted, context.stop.clone());
    context.tasks.spawn_critical("retention", trimming);
    Ok((shelf, trims))
}

type Opened = (Arc<dyn Disk>, Arc<dyn Signer>);

async fn open(config: &Config, context: &Context) -> Result<Opened, AuditError> {
    let (keys, folder, origin) = (config.keystore.clone(), config.log.folder.clone(), config.origin());
    let clock = Arc::clone(&context.clock);
    let opened = spawn_blocking(move || {
        let disk = Folder::open(&folder).map_err(AuditError::Log)?;
        let keystore = open_keys(&keys).map_err(AuditError::Keystore)?;
        let signer = KeystoreSigner::new(keystore, &origin, clock).map_err(AuditError::Signer)?;
        let opened: Opened = (Arc::new(disk), Arc::new(signer));
        Ok(opened)
    });
    opened.await.unwrap_or(Err(AuditError::Interrupted))
}

fn open_keys(config: &KeystoreConfig) -> Result<Arc<dyn Keystore>, KeystoreError> {
    if let Some(settings) = config.token() {
        return Ok(Arc::new(Pkcs11Keystore::open(Token::open(settings)?, SLOT, MacHome::Token)?));
    }
    let secret = UnlockSecret::read(&config.unlock_secret_file)?;
    Ok(Arc::new(SoftKeystore::open(&config.file, secret, SLOT)?))
}

/// The broker may start after us.
async fn connect(config: &Config, context: &Context) -> Result<Bus, AuditError> {
    let digests = MacKey::generate().map_err(AuditError::Digest)?;
    let options = BusOptions {
        service: Service::Audit,
        instance: context.instance.clone(),
        cell: Cell { id: config.cell.id.clone(), shards: config.cell.shards, replicas: config.cell.replicas },
        topology: Topology::embedded().map_err(AuditError::Topology)?,
        clock: Arc::clone(&context.clock),
        digest: Arc::new(move |bytes| digests.mac("quarantine", &[bytes])),
    };
    loop {
        match Bus::connect(&config.nats, options.clone()).await {
            Ok(bus) => return Ok(bus),
            Err(error) => match error.class() {
                ErrorClass::Retry { after } if !context.stop.is_requested() => {
                    tracing::warn!(error = chain(&error), "no broker yet; trying again");
                    sleep(after).await;
                }
                ErrorClass::Retry { .. } | ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
                    return Err(AuditError::Connect(error));
                }
            },
        }
    }
}

/// Streams may be applied after us, so what passes is waited for; none when a stop came first.
async fn consume(
    bus: &Bus,
    intake: Intake,
    context: &Context,
) -> Result<Option<Worker<AuditBatch>>, AuditError> {
    let intake = Arc::new(intake);
    let (stream, consumer) = ACTS;
    let consumers = [consumer.to_owned()];
    while !context.stop.is_requested() {
        match log_unanswered(bus, consumer, &intake).await {
            Ok(()) => {}
            Err(error) => match error.class() {
                ErrorClass::Retry { after } => {
                    tracing::warn!(error = chain(&error), "acts cannot be read yet; trying again");
                    sleep(after).await;
                    continue;
                }
                ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
                    return Err(AuditError::Acts(error));
                }
            },
        }
        let config = WorkerConfig { concurrency: BATCHES, ..WorkerConfig::default() };
        match Worker::start(bus, stream, &consumers, Arc::clone(&intake), config).await {
            Ok(worker) => return Ok(Some(worker)),
            Err(error) => match error.class() {
                ErrorClass::Retry { after } => {
                    tracing::warn!(error = chain(&error), "acts cannot be consumed yet; trying again");
                    sleep(after).await;
                }
                ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
                    return Err(AuditError::Work(error));
                }
            },
        }
    }
    Ok(None)
}

fn producer(context: &Context) -> String {
    format!("{SLOT}/{}", context.instance)
}

/// This service's own acts need no broker.
async fn tell_opened(acts: &mpsc::Sender<Told>, origin: &str, context: &Context) {
    let act = Act {
        producer: producer(context),
        sequence: 1,
        at_s: context.clock.now().unix_seconds(),
        category: Category::Lifecycle,
        action: "log.opened".to_owned(),
        actor: SLOT.to_owned(),
        tenant: String::new(),
        object: origin.to_owned(),
        outcome: "ok".to_owned(),
    };
    let (done, _nobody_waits) = oneshot::channel();
    if acts.send(Told { at: 0, acts: vec![act], balance: None, done }).await.is_err() {
        tracing::warn!("the sequencer ended before the first act");
    }
}
