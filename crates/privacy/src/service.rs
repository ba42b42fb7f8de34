//! The process: opens the keys, destroys what is due, serves, and goes on destroying.

use std::{sync::Arc, time::Duration};

use sotto_keystore::{
    BucketKeystore, Keystore, KeystoreError, Pkcs11Buckets, SoftBuckets, Token, UnlockSecret,
};
use sotto_runtime::{
    Condition, Context, Readiness, Service, Stop,
    grpc::{GrpcServer, ServerLimits},
    telemetry::chain,
    tls::{ClientAuth, Tls},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, interval_at},
};
use tonic::transport::Server;

use crate::{
    adapters::{
        admin::AdminServer,
        audit::{AuditQueue, Broker, publish},
        grpc::KeyServer,
        index::StoredIndex,
        receipts,
        subjects::SubjectServer,
    },
    app::{Deps, Keys},
    config::{Config, DEFAULT_TOML, KeystoreConfig},
    error::PrivacyError,
    metrics::PrivacyMetrics,
    ports::{AuditTrail, IndexLog, Monotonic, SteadyClock},
};

/// The keystore's slot: a file of another service does not open as ours.
pub(crate) const SLOT: &str = "privacy";

/// How often uses are summed up.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Peers are the processes of one cell. Each request occupies a blocking thread while the keystore works.
const LIMITS: ServerLimits = ServerLimits { connections: 256, streams: 64 };

/// The privacy service as a process.
#[derive(Debug)]
pub struct Privacy;

impl Service for Privacy {
    const NAME: &'static str = "privacy";
    const DEFAULT_TOML: &'static str = DEFAULT_TOML;
    type Config = Config;
    type Error = PrivacyError;

    async fn run(config: Config, context: Context) -> Result<(), PrivacyError> {
        run(config, context, Arc::new(Monotonic::start())).await
    }
}

/// The whole process, with the clock that the wall clock is compared with.
///
/// # Errors
/// As [`serve`].
pub async fn run(config: Config, context: Context, steady: Arc<dyn SteadyClock>) -> Result<(), PrivacyError> {
    let (audit, records) = AuditQueue::new(&context.instance);
    let broker = Broker {
        nats: config.nats.clone(),
        cell: config.cell.clone(),
        instance: context.instance.clone(),
        clock: Arc::clone(&context.clock),
        metrics: context.metrics.clone(),
    };
    let (reached, bus) = watch::channel(None);
    // It ends after everything else: when the last that tells acts is gone.
    context.tasks.spawn_critical("audit", publish(broker, records, reached, context.stop.clone()));
    serve(config, context, steady, Arc::new(audit), Arc::new(StoredIndex::new(bus))).await
}

/// Serves until a stop is asked for; acts are told to `audit`, look-ups read `index`.
///
/// # Errors
/// When the keys cannot be opened, what is due cannot be destroyed, or the address cannot be served.
pub async fn serve(
    config: Config,
    context: Context,
    steady: Arc<dyn SteadyClock>,
    audit: Arc<dyn AuditTrail>,
    index: Arc<dyn IndexLog>,
) -> Result<(), PrivacyError> {
    let opened = context.ready.condition("keystore");
    let destroying = context.ready.condition("destruction");
    let listening = context.ready.condition("listening");

    let metrics = PrivacyMetrics::new(&context.metrics);
    let tls = Tls::load(&config.tls).map_err(PrivacyError::Tls)?;
    tls.watch(&context);
    let (buckets, receipts) = open(config.keystore.clone(), context.clock.now().unix_millis()).await?;
    opened.set(true);
    let keys = Keys::new(Deps {
        cell: config.cell.id.clone(),
        retention: config.retention(),
        rules: config.rules(),
        rotation: config.rotation(),
        policy: config.policy(),
        bound: config.bound(),
        own_keys: config.own_keys(),
        people: config.people(),
        keys: buckets,
        receipts,
        index,
        clock: Arc::clone(&context.clock),
        steady,
        audit,
        metrics: metrics.clone(),
    });
    keys.tell_again().await.map_err(PrivacyError::Destroy)?;
    // What died while nobody ran is destroyed before anybody may ask for it.
    keys.sweep().await.map_err(PrivacyError::Destroy)?;
    destroying.set(true);
    // While they do not hold, keys are served all the same: nobody is to be sent away.
    let spare = Readiness::measured(&context.metrics);

    let server = GrpcServer::bind(config.grpc.listen, &tls, ClientAuth::Required, LIMITS)
        .await
        .map_err(PrivacyError::Serve)?;
    context.info.bound("grpc", server.local_addr());
    let every = config.destruction.sweep_every.get();
    context.tasks.spawn_critical(
        "bucket destruction",
        destroy_on_time(keys.clone(), every, context.stop.clone(), destroying, metrics),
    );
    let file_of = keys.clone();
    let kept = spare
        .condition("keystore_file")
        .watch(every, context.stop.clone(), move || file_of.clone().check_file());
    context.tasks.spawn_critical("key file", kept);
    let maker = keys.clone();
    let ahead = spare.condition("keys_ahead");
    let ahead = ahead.watch(every, context.stop.clone(), move || maker.clone().renew());
    context.tasks.spawn_critical("keys made ahead and rotated", ahead);
    context.tasks.spawn_critical("minute report", report_each_minute(keys.clone(), context.stop.clone()));
    listening.set(true);
    let (service, admin) = (KeyServer::service(keys.clone()), AdminServer::service(keys.clone()));
    let subjects = SubjectServer::service(keys.clone());
    let add = |server: &mut Server| server.add_service(service).add_service(admin).add_service(subjects);
    let served = server.serve(&context.stop, add).await;
    keys.report();
    served.map_err(PrivacyError::Serve)
}

/// The keys of buckets, and the one that signs receipts of their destruction.
type Opened = (Arc<dyn BucketKeystore>, Arc<dyn Keystore>);

async fn open(config: KeystoreConfig, now_ms: i64) -> Result<Opened, PrivacyError> {
    let open = move || -> Result<Opened, KeystoreError> {
        if let Some(settings) = config.token() {
            let token = Token::open(settings)?;
            let buckets = Pkcs11Buckets::open(token.clone(), SLOT)?;
            return Ok((Arc::new(buckets), receipts::in_token(token, now_ms)?));
        }
        let secret = || UnlockSecret::read(&config.unlock_secret_file);
        // The file of buckets first: who has it is the one process that writes beside it.
        let buckets = SoftBuckets::open(&config.buckets_file, secret()?, SLOT)?;
        let receipts = receipts::in_file(&config.receipts_file(), secret()?, now_ms)?;
        Ok((Arc::new(buckets), receipts))
    };
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(PrivacyError::Blocking)?.map_err(PrivacyError::Open)
}

async fn destroy_on_time(
    keys: Keys,
    every: Duration,
    stop: Stop,
    destroying: Condition,
    metrics: PrivacyMetrics,
) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.requested() => return,
        }
        let swept = keys.sweep().await;
        destroying.set(swept.is_ok());
        if let Ok(destroyed) = &swept {
            metrics.swept.now();
            metrics.destroyed.add(*destroyed);
        }
        if let Err(error) = &swept
            && !failing
        {
            tracing::error!(
                error = chain(error),
                "bucket keys cannot be destroyed on time; dead ones open nothing meanwhile"
            );
        }
        failing = swept.is_err();
    }
}

async fn report_each_minute(keys: Keys, stop: Stop) {
    let mut tick = interval_at(tokio::time::Instant::now() + REPORT_EVERY, REPORT_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => keys.report(),
            () = stop.requested() => return,
        }
    }
}
