//! The process: connects, serves, folds, sweeps, rebuilds.

mod held;

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use rustls_pki_types::ServerName;
use sotto_bus::{
    Bus, BusOptions, ControlRegister, Requests, Schedule, StreamReader, Topology, Worker, WorkerConfig,
    measure_streams, topology,
};
use sotto_core::{
    Classified as _, ErrorClass, ShardId,
    carriers::{CarriersFile, RouteTable},
};
use sotto_keystore::{Keystore, MacHome, Pkcs11Keystore, SoftKeystore, Token, UnlockSecret};
use sotto_proto::message::v1::message_service_server::MessageServiceServer;
use sotto_runtime::{
    Condition, Context, Readiness, Service, Stop,
    grpc::{GrpcServer, ServerLimits, channel},
    redis::Redis,
    telemetry::chain,
    tls::{ClientAuth, Tls},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::ServingStatus;

use self::held::HeldKeys;
use crate::{
    adapters::{
        audit::{AuditTrail, Category, SUM_OVER},
        broker::BrokerLog,
        grpc::{Acts, Bounds, Load, Messages, Operations},
        index::{self, NumberIndex},
        keys::SessionKeys,
        measured::{self, MeasuredProjection},
        publishers::{self, INTAKE_RING, Publishers},
        recipients::RecipientCount,
        room::Rooms,
        store::{Answers, Store, StoreOptions, Terms},
        subjects::SubjectClient,
        tokens::{JwksSource, Tokens},
    },
    app::{
        cancel::Canceller,
        intake::{Ceiling, Deps, IDEMPOTENCY_RING, Intake},
        list::Lister,
        projection::{self, Folder, Projection},
        rebuild::Rebuilder,
        schedule::Scheduler,
        subjects::Finder,
        sweep::Sweeper,
        watch::Source,
    },
    config::{Above, Config, DEFAULT_TOML, KeystoreConfig},
    domain::token::Expected,
    error::IngressError,
    metrics::{IngressMetrics, Reason},
};

/// The keystore's slot.
const SLOT: &str = "ingress";

/// How long a client waits for the broker's acknowledgement before it is told that the outcome is not known.
const ACKNOWLEDGED: Duration = Duration::from_secs(10);

/// What a command to Redis may take on top of the configured time, connecting again included.
const REDIS_SLACK: u32 = 2;

/// How often the keystore is read again.
const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// How long audit records may take to be stored after everything else has ended.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// People at the command line.
const OPERATORS: ServerLimits = ServerLimits { connections: 16, streams: 16 };

/// The ingress service as a process.
#[derive(Debug)]
pub struct Ingress;

impl Service for Ingress {
    const NAME: &'static str = "ingress";
    const DEFAULT_TOML: &'static str = DEFAULT_TOML;
    type Config = Config;
    type Error = IngressError;

    async fn run(config: Config, context: Context) -> Result<(), IngressError> {
        let bus_ready = context.ready.condition("bus");
        let keys_known = context.ready.condition("jwks");
        let listening = context.ready.condition("grpc");
        // What the process can do without for a while; changes are told in the log.
        let spare = Readiness::measured(&context.metrics);
        let metrics = IngressMetrics::new(&context.metrics);

        let keystore = open(&config.keystore)?;
        context.tasks.spawn_background("keystore", reload(Arc::clone(&keystore), context.stop.clone()));
        let tls = Tls::load(&config.tls).map_err(IngressError::Tls)?;
        tls.watch(&context);
        let bus = connect(&config, &context, &keystore, "").await?;
        context.metrics.take_in(bus.metrics());
        // What clients publish, however much, does not stand before the log's acknowledgements.
        let clients = connect(&config, &context, &keystore, "-clients").await?;
        topology::verify(&bus, &[]).await.map_err(IngressError::Streams)?;
        context.tasks.spawn_critical("bus watch", watch_bus(bus.clone(), bus_ready, context.stop.clone()));
        let trail = AuditTrail::start(&bus, metrics.clone());
        trail.tell(Category::Lifecycle, "service.started", "", None, String::new(), "ok");

        let parts = Parts { config, context, tls, bus, clients, keystore, trail, metrics };
        let served = parts.serve(keys_known, listening, &spare).await;
        // The last answers are sent before their connection ends.
        if !parts.clients.close(LAST_WORDS).await {
            tracing::warn!("the last answers to clients over NATS may not be sent");
        }
        let outcome = if served.is_ok() { "ok" } else { "failed" };
        parts.trail.tell(Category::Lifecycle, "service.stopped", "", None, String::new(), outcome);
        parts.trail.tell_denied();
        // What was told is stored before the bus ends.
        if !parts.bus.close(LAST_WORDS).await {
            tracing::warn!("the last audit records may not be stored");
        }
        served
    }
}

struct Parts {
    config: Config,
    context: Context,
    tls: Tls,
    bus: Bus,
    /// The connection on which clients are answered.
    clients: Bus,
    keystore: Arc<dyn Keystore>,
    trail: AuditTrail,
    metrics: IngressMetrics,
}

impl Parts {
    /// The routes, if the configuration names them.
    fn routes(&self) -> Result<Option<Arc<RouteTable>>, IngressError> {
        let path = &self.config.carriers.file;
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(path).map_err(IngressError::CarriersRead)?;
        let file = CarriersFile::parse(&text).map_err(IngressError::Carriers)?;
        Ok(Some(Arc::new(RouteTable::new(file, String::new()))))
    }

    async fn serve(
        &self,
        keys_known: Condition,
        listening: Condition,
        spare: &Readiness,
    ) -> Result<(), IngressError> {
        let Self { config, context, tls, metrics, .. } = self;
        let store = self.store()?;
        // One that is down now is told by its condition when it is up.
        if store.condition().await == Answers::ButEvicts {
            return Err(IngressError::RedisEvicts);
        }
        let lost = Arc::new(Notify::new());
        let rebuilder = Arc::new(Rebuilder::new(
            self.bus.clone(),
            store.clone(),
            self.trail.clone(),
            &context.instance,
            Arc::clone(&lost),
        ));
        let log = Arc::new(BrokerLog::new(&self.bus, ACKNOWLEDGED));
        let tokens = self.tokens()?;
        let keys = self.session_keys(spare.condition("privacy"))?;
        let subjects = self.subjects()?;
        let index = NumberIndex::new(index::Parts {
            cell: config.cell.id.to_string(),
            bus: self.bus.clone(),
            client: subjects.clone(),
            clock: Arc::clone(&context.clock),
            tasks: context.tasks.clone(),
            audit: self.trail.clone(),
            whole: spare.condition("index"),
        });
        let recipients = config.recipients.codes_per_day;
        let recipients = (recipients > 0).then(|| {
            let (clock, tasks) = (Arc::clone(&context.clock), context.tasks.clone());
            RecipientCount::new(store.clone(), subjects.clone(), clock, tasks, recipients)
        });
        let held = HeldKeys { sessions: keys.clone(), index: index.clone(), recipients: recipients.clone() };
        let ceiling = recipients.map(|recipients| Ceiling {
            recipients: Arc::new(recipients),
            refuses: config.recipients.above == Above::Refuse,
        });
        let (heard, following) = ControlRegister::new(&self.bus).follow();
        let intake = Intake::new(Deps {
            cell: config.cell.id.clone(),
            shards: config.cell.shards,
            clock: Arc::clone(&context.clock),
            keystore: Arc::clone(&self.keystore),
            keys: Arc::new(keys.clone()),
            log: log.clone(),
            index: Arc::new(index.clone()),
            claims: Arc::new(store.clone()),
            records: Arc::new(store.clone()),
            gate: Arc::new(store.clone()),
            ceiling,
            heard,
            restored: config.restored.cell(),
            routes: self.routes()?,
            validities: config.validities(),
            margin: config.privacy.margin.get(),
            tasks: context.tasks.clone(),
            metrics: metrics.clone(),
        });
        let bounds = Bounds {
            in_flight: config.load.in_flight,
            reads_in_flight: config.load.reads_in_flight,
            reading: config.reading(),
            outstanding: config.load.outstanding,
            streams: config.load.streams,
            streams_of_tenant: config.load.streams_of_tenant,
            stall: config.load.stall.get(),
            idle: config.load.idle.get(),
        };
        let load = Load::new(config.load.in_flight, metrics.refused.of(Reason::Overloaded).clone());
        let publishers = self.publishers(intake.clone(), tokens.clone(), load.clone());
        let measured_load = load.clone();
        let log_of_events = StreamReader::new(&self.bus, "EVENTS").map_err(IngressError::Events)?;
        let folder = Folder::new(store.clone());
        let recent = folder.recent();
        let projection = Projection::new(folder, log_of_events, Arc::clone(&lost));
        let events = Source {
            bus: self.bus.clone(),
            store: store.clone(),
            recent,
            clock: Arc::clone(&context.clock),
            keep: config.projection.keep.get(),
        };
        let canceller = Canceller::new(
            intake.clone(),
            log.clone(),
            Arc::new(store.clone()),
            Arc::clone(&context.clock),
            config.cell.shards,
        );
        let lister =
            Lister { store: store.clone(), clock: Arc::clone(&context.clock), shards: config.cell.shards };
        let finder = Finder::new(Arc::new(subjects));
        let acts = Acts { intake, canceller, lister, events, finder };
        let messages = Messages::new(acts, tokens.clone(), self.trail.clone(), load, bounds, context);
        let limits = ServerLimits {
            connections: config.grpc.connections,
            streams: config.grpc.streams_per_connection,
        };
        let server = GrpcServer::bind(config.grpc.listen, tls, ClientAuth::None, limits).await;
        let server = server.map_err(IngressError::Grpc)?;
        let operators = GrpcServer::bind(config.ops.listen, tls, ClientAuth::Required, OPERATORS).await;
        let operators = operators.map_err(IngressError::Grpc)?;
        context.info.bound("grpc", server.local_addr());
        context.info.bound("ops", operators.local_addr());

        let refresh = config.tokens.refresh.get();
        let stop = &context.stop;
        let until_stop = |name: &str, work: futures::future::BoxFuture<'static, ()>| {
            let stop = stop.clone();
            context.tasks.spawn_critical(name, async move {
                tokio::select! { () = work => {} () = stop.requested() => {} }
            });
        };
        until_stop("identity's keys", Box::pin(async move { tokens.keep_fresh(refresh, keys_known).await }));
        until_stop("ended keys", Box::pin(held.clone().forget_ended(metrics.revocations.clone())));
        until_stop("session keys", Box::pin(held.wipe()));
        context.tasks.spawn_background("index", {
            let stop = stop.clone();
            async move {
                tokio::select! { () = index.look_for_stream() => {} () = stop.requested() => {} }
            }
        });
        until_stop("operators' words", Box::pin(following));
        until_stop("denials", Box::pin(tell_denied(self.trail.clone())));
        let redis = spare.condition("redis");
        let watched = Arc::clone(&rebuilder);
        until_stop("rebuild", Box::pin(async move { watched.watch(redis).await }));
        let every = config.projection.sweep_every.get();
        let sweeper = Sweeper::new(store.clone(), log, Arc::clone(&context.clock), config.restored.cell());
        let shards: Vec<ShardId> = config.cell.shards.iter().collect();
        until_stop("deadlines", Box::pin(sweep(sweeper, shards.clone(), every, metrics.clone())));
        let scheduler = Scheduler::new(Schedule::new(&self.bus), Arc::clone(&context.clock));
        until_stop("schedule", Box::pin(scheduler.run()));
        let waiting = StreamReader::new(&self.bus, "INTAKE").map_err(IngressError::Events)?;
        let looking = measured::look(waiting, measured_load, Arc::clone(&context.clock), metrics.clone());
        until_stop("queues measured", Box::pin(looking));
        let (bus, registry) = (self.bus.clone(), context.metrics.clone());
        until_stop(
            "streams measured",
            Box::pin(async move {
                measure_streams(bus, registry, &["INTAKE", "SCHEDULED", "EVENTS", "CONTROL"], &[]).await;
            }),
        );
        let workers = self.project(&shards, &projection).await?;

        let operations = Operations::new(rebuilder, self.trail.clone(), context.tasks.clone());
        let operators_stop = stop.clone();
        context.tasks.spawn_critical("operator's server", async move {
            let add = |server: &mut tonic::transport::Server| server.add_service(operations.service());
            operators.serve(&operators_stop, add).await
        });
        let (health, health_service) = tonic_health::server::health_reporter();
        context.tasks.spawn_background("health", report_health(health, context.ready.clone(), stop.clone()));
        let reflection = tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(public_schema())
            .build_v1()
            .map_err(IngressError::Reflection)?;
        let service = messages.service();
        let requests = Requests::open(&self.clients).await.map_err(IngressError::Requests)?;
        listening.set(true);
        // Both ways in end together, and each waits for what it has begun.
        let over = CancellationToken::new();
        let serving = async {
            let served = server
                .serve(stop, |server| {
                    server.add_service(health_service).add_service(reflection).add_service(service)
                })
                .await;
            over.cancel();
            served
        };
        let answering = publishers.run(requests, async {
            tokio::select! { () = stop.requested() => {} () = over.cancelled() => {} }
        });
        let (served, ()) = tokio::join!(serving, answering);
        for worker in workers {
            worker.stop(LAST_WORDS).await;
        }
        served.map_err(IngressError::Grpc)
    }

    /// The way in over the broker. Who may use it in clear is told at each start.
    fn publishers(&self, intake: Intake, tokens: Tokens, load: Load) -> Publishers {
        let Self { config, context, .. } = self;
        let waivers = config.waivers();
        let now = context.clock.now();
        for (tenant, until) in waivers.iter() {
            let living = waivers.allow(tenant, now);
            let outcome = if living { "ok" } else { "expired" };
            tracing::warn!(%tenant, %until, living, "this tenant may send requests in clear over NATS");
            let object = format!("until={until}");
            self.trail.tell(Category::Configuration, "sealing.waived", "", Some(tenant), object, outcome);
        }
        Publishers::new(publishers::Parts {
            cell: config.cell.id.clone(),
            intake,
            tokens,
            keystore: Arc::clone(&self.keystore),
            load,
            rooms: Rooms::new(config.publishers.in_flight, config.publishers.in_flight_of_tenant),
            waivers,
            clock: Arc::clone(&context.clock),
            audit: self.trail.clone(),
            tasks: context.tasks.clone(),
        })
    }

    fn store(&self) -> Result<Store, IngressError> {
        let config = &self.config;
        let projection = &config.projection;
        Ok(Store::new(StoreOptions {
            redis: Redis::new(&config.redis, &self.tls).map_err(IngressError::Redis)?,
            shards: config.cell.shards,
            clock: Arc::clone(&self.context.clock),
            terms: Terms {
                grace: projection.grace.get(),
                receipt_wait: projection.receipt_wait.get(),
                keep: projection.keep.get(),
            },
            pace: config.pace(),
            alone: config.rate.alone,
            patience: config.redis.response_timeout.get() * REDIS_SLACK,
        }))
    }

    fn tokens(&self) -> Result<Tokens, IngressError> {
        let tokens = &self.config.tokens;
        let source = JwksSource {
            url: tokens.jwks_url.parse().map_err(|_| IngressError::Address("tokens.jwks_url"))?,
            server_name: ServerName::try_from(tokens.server_name.clone())
                .map_err(|_| IngressError::Address("tokens.server_name"))?,
            tls: self.tls.clone(),
        };
        let expected = Expected { issuer: tokens.issuer.clone(), audience: tokens.audience.clone() };
        Ok(Tokens::new(source, expected, tokens.elsewhere.clone(), Arc::clone(&self.context.clock)))
    }

    fn session_keys(&self, possible: Condition) -> Result<SessionKeys, IngressError> {
        let privacy = &self.config.privacy;
        let timeout = privacy.timeout.get();
        let channel = channel(&privacy.endpoint, &self.tls, &privacy.server_name, timeout);
        let (clock, tasks) = (Arc::clone(&self.context.clock), self.context.tasks.clone());
        let metrics = self.metrics.clone();
        Ok(SessionKeys::new(channel.map_err(IngressError::Grpc)?, timeout, clock, tasks, possible, metrics))
    }

    fn subjects(&self) -> Result<SubjectClient, IngressError> {
        let privacy = &self.config.privacy;
        let timeout = privacy.timeout.get();
        let open = |timeout| channel(&privacy.endpoint, &self.tls, &privacy.server_name, timeout);
        let (keys, reading) = (open(timeout), open(SubjectClient::reading()));
        let (keys, reading) = (keys.map_err(IngressError::Grpc)?, reading.map_err(IngressError::Grpc)?);
        Ok(SubjectClient::new(keys, reading, timeout))
    }

    /// One worker a shard: no shard waits for another.
    async fn project(
        &self,
        shards: &[ShardId],
        projection: &Projection,
    ) -> Result<Vec<Worker<sotto_proto::pipeline::v1::EventBatch>>, IngressError> {
        let mut workers = Vec::with_capacity(shards.len());
        for shard in shards {
            let consumers = [topology::consumer_name::projection(*shard)];
            let config = WorkerConfig { concurrency: projection::DELIVERIES, ..WorkerConfig::default() };
            let (clock, metrics) = (Arc::clone(&self.context.clock), self.metrics.clone());
            let handler = Arc::new(MeasuredProjection { projection: projection.clone(), clock, metrics });
            let worker = Worker::start(&self.bus, "EVENTS", &consumers, handler, config).await;
            workers.push(worker.map_err(IngressError::Projection)?);
        }
        Ok(workers)
    }
}

fn open(config: &KeystoreConfig) -> Result<Arc<dyn Keystore>, IngressError> {
    let keystore: Arc<dyn Keystore> = match config.token() {
        Some(settings) => {
            let token = Token::open(settings).map_err(IngressError::Keystore)?;
            // Every message needs tags: they are not made by calls to an HSM.
            let keystore = Pkcs11Keystore::open(token, SLOT, MacHome::Process);
            Arc::new(keystore.map_err(IngressError::Keystore)?)
        }
        None => {
            let secret = UnlockSecret::read(&config.unlock_secret_file).map_err(IngressError::Keystore)?;
            Arc::new(SoftKeystore::open(&config.file, secret, SLOT).map_err(IngressError::Keystore)?)
        }
    };
    // Without keys no keyed send could ever be accepted, and nothing over the broker: say so now.
    keystore.current(IDEMPOTENCY_RING).map_err(IngressError::Keystore)?;
    keystore.current(INTAKE_RING).map_err(IngressError::Keystore)?;
    Ok(keystore)
}

/// Takes up rotations of the ring. A file that cannot be read leaves the keys as they are.
async fn reload(keystore: Arc<dyn Keystore>, stop: Stop) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RELOAD_EVERY) => {}
            () = stop.requested() => return,
        }
        let keystore = Arc::clone(&keystore);
        let reloaded = tokio::task::spawn_blocking(move || keystore.reload()).await;
        if let Ok(Err(error)) = reloaded {
            tracing::warn!(error = chain(&error), "the keystore cannot be read again");
        }
    }
}

/// A connection for this purpose. Waits for the broker as long as the process lives: start order is a habit, not a need.
async fn connect(
    config: &Config,
    context: &Context,
    keystore: &Arc<dyn Keystore>,
    purpose: &str,
) -> Result<Bus, IngressError> {
    let topology = Topology::embedded().map_err(IngressError::Topology)?;
    loop {
        let digest = Arc::clone(keystore);
        let options = BusOptions {
            service: sotto_bus::Service::Ingress,
            instance: format!("{}{purpose}", context.instance),
            cell: topology::Cell {
                id: config.cell.id.clone(),
                shards: config.cell.shards,
                replicas: config.cell.replicas,
            },
            topology: topology.clone(),
            clock: Arc::clone(&context.clock),
            digest: Arc::new(move |bytes| {
                let key = digest.current(IDEMPOTENCY_RING);
                key.and_then(|key| digest.mac(&key.id, "sotto.quarantine.v1", &[bytes])).unwrap_or_default()
            }),
        };
        match Bus::connect(&config.nats, options).await {
            Ok(bus) => return Ok(bus),
            Err(error) => {
                let after = match error.class() {
                    ErrorClass::Retry { after } => after,
                    ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
                        return Err(IngressError::Bus(error));
                    }
                };
                tracing::warn!(error = chain(&error), "waiting for the broker");
                tokio::select! {
                    () = tokio::time::sleep(after) => {}
                    () = context.stop.requested() => return Err(IngressError::Bus(error)),
                }
            }
        }
    }
}

async fn watch_bus(bus: Bus, ready: Condition, stop: Stop) {
    let mut state = bus.state();
    loop {
        ready.set(state.borrow_and_update().connected);
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            () = stop.requested() => return,
        }
    }
}

async fn sweep(sweeper: Sweeper, shards: Vec<ShardId>, every: Duration, metrics: IngressMetrics) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let mut all = true;
        for shard in &shards {
            match sweeper.sweep(*shard).await {
                Ok(closed) => metrics.closed.add(closed),
                Err(error) => {
                    all = false;
                    tracing::debug!(%shard, error = chain(&error), "deadlines wait");
                }
            }
        }
        if all {
            metrics.swept.now();
        }
    }
}

async fn tell_denied(trail: AuditTrail) {
    let mut tick = tokio::time::interval(SUM_OVER);
    loop {
        tick.tick().await;
        trail.tell_denied();
    }
}

/// Of the service and of the server as a whole (""). A drain is told at once: who watches sends nothing new.
async fn report_health(health: tonic_health::server::HealthReporter, ready: Readiness, stop: Stop) {
    let service = MessageServiceServer::<Messages>::NAME;
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    while !stop.is_requested() {
        let status = if ready.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in ["", service] {
            health.set_service_status(name, status).await;
        }
        tokio::select! { _ = tick.tick() => {} () = stop.requested() => {} }
    }
    for name in ["", service] {
        health.set_service_status(name, ServingStatus::NotServing).await;
    }
}

/// The public packages alone: what services say to one another is nobody's business.
fn public_schema() -> FileDescriptorSet {
    let read = |set| FileDescriptorSet::decode(set).unwrap_or_default().file;
    let mut files = read(sotto_proto::FILE_DESCRIPTOR_SET);
    files.retain(|file| file.package() == "sotto.message.v1" || file.package() == "google.protobuf");
    files.extend(read(tonic_health::pb::FILE_DESCRIPTOR_SET));
    FileDescriptorSet { file: files }
}
