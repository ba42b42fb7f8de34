//! The process: opens keys and clients, serves tokens and registration, rotates.

use std::{sync::Arc, time::Duration};

use sotto_bus::{BusOptions, Topology, topology::Cell};
use sotto_core::Clock;
use sotto_crypto::MacKey;
use sotto_keystore::{
    KeyKind, Keystore, KeystoreError, MacHome, Pkcs11Keystore, SoftKeystore, Token, UnlockSecret,
};
use sotto_metrics::Age;
use sotto_runtime::{
    Condition, Context, Readiness, Service, Stop,
    grpc::{GrpcServer, ServerLimits},
    listener::TlsListener,
    redis::Redis,
    telemetry::chain,
    tls::{ClientAuth, Tls},
};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    adapters::{
        audit::{AuditQueue, publish},
        file_store::FileStore,
        grpc::ClientServer,
        https,
        invitation_file::InvitationFile,
        redis_replay::RedisReplay,
    },
    app::{
        SECRETS_RING,
        clients::{self, Clients},
        keys::TokenKeys,
        tokens::{self, Tokens},
    },
    config::{Config, DEFAULT_TOML, KeystoreConfig},
    error::IdentityError,
    metrics::IdentityMetrics,
    ports::{AuditTrail, ClientStore},
};

/// The keystore's slot: a file of another service does not open as ours.
const SLOT: &str = "identity";

/// How often the signing keys are looked at (a list in memory): far below every time in the schedule.
const ROTATION_TICK: Duration = Duration::from_secs(1);

/// Registration is work for a few people.
const GRPC_LIMITS: ServerLimits = ServerLimits { connections: 64, streams: 16 };

/// The identity service.
#[derive(Debug)]
pub struct Identity;

impl Service for Identity {
    const NAME: &'static str = SLOT;
    const DEFAULT_TOML: &'static str = DEFAULT_TOML;
    type Config = Config;
    type Error = IdentityError;

    async fn run(config: Config, context: Context) -> Result<(), IdentityError> {
        let (audit, records) = AuditQueue::new(&context.instance);
        let connected = context.ready.condition("broker");
        let options = bus_options(&config, &context)?;
        // It ends after everything else: when the last that tells acts is gone.
        let publishing = publish(config.nats.clone(), options, records, connected, context.clone());
        context.tasks.spawn_critical("audit", publishing);
        serve(config, context, Arc::new(audit)).await
    }
}

/// Serves until a stop is asked for; acts are told to `audit`.
///
/// # Errors
/// When keys or clients cannot be opened, or an address cannot be served.
pub async fn serve(
    config: Config,
    context: Context,
    audit: Arc<dyn AuditTrail>,
) -> Result<(), IdentityError> {
    let opened = context.ready.condition("store");
    let rotated = context.ready.condition("keys");
    let listening = context.ready.condition("listening");

    let metrics = IdentityMetrics::new(&context.metrics);
    let tls = Tls::load(&config.tls).map_err(IdentityError::Tls)?;
    tls.watch(&context);
    let clock = Arc::clone(&context.clock);
    let keystore = open(config.keystore.clone(), Arc::clone(&clock)).await?;
    let store = FileStore::open(config.store.clients_file.clone(), Arc::clone(&keystore), clock.now()).await;
    let store: Arc<dyn ClientStore> = Arc::new(store.map_err(IdentityError::Store)?);
    opened.set(true);
    let keys = TokenKeys::new(Arc::clone(&keystore), Arc::clone(&audit), config.schedule());
    keys.rotate(clock.now()).await.map_err(IdentityError::Keys)?;
    rotated.set(true);
    let redis = Redis::new(&config.redis, &tls).map_err(IdentityError::Redis)?;

    let tokens = Tokens::new(tokens::Deps {
        parties: config.parties(),
        lifetime: config.tokens.lifetime.get(),
        limits: config.limits(),
        keys: keys.clone(),
        keystore: Arc::clone(&keystore),
        store: Arc::clone(&store),
        replay: Arc::new(RedisReplay::new(redis)),
        audit: Arc::clone(&audit),
        clock: Arc::clone(&clock),
        metrics: metrics.clone(),
    });
    let clients = Clients::new(clients::Deps {
        parties: config.parties(),
        environment: config.secrets.environment.clone(),
        keys: keys.clone(),
        keystore,
        store,
        invitations: Arc::new(InvitationFile::new(config.store.invitation_file.clone())),
        audit,
        clock: Arc::clone(&clock),
    });

    let public = tls.server(ClientAuth::None, &["h2", "http/1.1"]).map_err(IdentityError::Tls)?;
    let address = config.https.listen;
    let listener = TlsListener::bind(address, public, config.https.connections).await;
    let listener = listener.map_err(|source| IdentityError::Bind { address, source })?;
    let grpc = GrpcServer::bind(config.grpc.listen, &tls, ClientAuth::Required, GRPC_LIMITS)
        .await
        .map_err(IdentityError::Serve)?;
    context.info.bound("https", listener.local_addr());
    context.info.bound("grpc", grpc.local_addr());

    let stop = &context.stop;
    // While it does not hold, keys are used from memory: nobody is to be sent away.
    let kept = Readiness::measured(&context.metrics).condition("keystore_file");
    let file_of = keys.clone();
    let kept = kept.watch(ROTATION_TICK, stop.clone(), move || file_of.clone().check_file());
    context.tasks.spawn_critical("key file", kept);
    context.tasks.spawn_critical("key rotation", rotate(keys, clock, stop.clone(), rotated, metrics.rotated));
    context.tasks.spawn_critical("token endpoint", https::serve(listener, Arc::new(tokens), stop.clone()));
    listening.set(true);
    let service = ClientServer::service(Arc::new(clients));
    grpc.serve(stop, |server| server.add_service(service)).await.map_err(IdentityError::Serve)
}

fn bus_options(config: &Config, context: &Context) -> Result<BusOptions, IdentityError> {
    // Identity consumes nothing, so nothing of it goes to quarantine; a key of this run's own does.
    let key = MacKey::generate().map_err(IdentityError::Crypto)?;
    Ok(BusOptions {
        service: sotto_bus::Service::Identity,
        instance: context.instance.clone(),
        cell: Cell { id: config.cell.id.clone(), shards: config.cell.shards, replicas: config.cell.replicas },
        topology: Topology::embedded().map_err(IdentityError::Topology)?,
        clock: Arc::clone(&context.clock),
        digest: Arc::new(move |bytes| key.mac("sotto.quarantine.v1", &[bytes])),
    })
}

async fn open(config: KeystoreConfig, clock: Arc<dyn Clock>) -> Result<Arc<dyn Keystore>, IdentityError> {
    let open = move || {
        let keystore: Arc<dyn Keystore> = match config.token() {
            Some(settings) => Arc::new(Pkcs11Keystore::open(Token::open(settings)?, SLOT, MacHome::Token)?),
            None => {
                let secret = UnlockSecret::read(&config.unlock_secret_file)?;
                Arc::new(SoftKeystore::open(&config.slot_file, secret, SLOT)?)
            }
        };
        match keystore.current(SECRETS_RING) {
            Ok(_) => {}
            Err(KeystoreError::UnknownKey) => {
                keystore.generate(SECRETS_RING, KeyKind::HmacSha256, clock.now().unix_millis())?;
            }
            Err(error) => return Err(error),
        }
        Ok(keystore)
    };
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(IdentityError::Blocking)?.map_err(IdentityError::Keystore)
}

async fn rotate(keys: TokenKeys, clock: Arc<dyn Clock>, stop: Stop, usable: Condition, looked: Age) {
    let mut tick = interval(ROTATION_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.requested() => return,
        }
        let rotated = keys.rotate(clock.now()).await;
        usable.set(rotated.is_ok());
        if rotated.is_ok() {
            looked.now();
        }
        if let Err(error) = &rotated
            && !failing
        {
            tracing::error!(
                error = chain(error),
                "the signing keys cannot be rotated; the known ones stay in use"
            );
        }
        failing = rotated.is_err();
    }
}
