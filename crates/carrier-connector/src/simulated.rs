//! A connector on stores and links that are values, for the simulated world (docs/TESTING.md).
//!
//! Accounts, ledger with its scripts, rebuilding, worker and SMPP sessions are those of the process. Simulated is what stands
//! around them: privacy opens everything with one key, operators hold nothing back, a bind is ours for good (`app/tenure.rs`
//! and its leases are not here), and nobody listens to acts.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use sotto_bus::{Bus, Heard, WorkError, Worker};
use sotto_core::{
    AccountId, Clock, TenantId, Timestamp,
    carriers::{Account as Settings, CarriersFile},
    work::KeyWrap,
};
use sotto_crypto::{AeadKey, MacKey};
use sotto_proto::pipeline::v1::WorkBatch;
use sotto_runtime::{Stop, health::Readiness, redis::Redis};
use sotto_smpp::{
    Session, SessionOptions,
    client::{self, BindOptions},
};
use tokio::{io::DuplexStream, sync::watch, task::JoinSet, time::Instant};

use crate::{
    adapters::{
        broker::Broker,
        ledger::{Ledger, Store},
    },
    app::{
        account::{Account, Shared},
        keyring::KeepKeys,
        line::{Bind, Line},
        rebuild::Rebuilder,
        reliance::Reliance,
    },
    domain::{course::Course, lease::Tenure, pace::Slice, receipt::About},
    metrics::CarrierMetrics,
    ports::{Act, Ended, InboundSession, Keys, KeysError, Unwrapped, Witness},
    service::work_on,
};

/// Longer than any world lives.
const FOR_GOOD: Duration = Duration::from_secs(30 * 24 * 3600);
/// Allowance for pauses, as the default.
const SKEW: Duration = Duration::from_secs(5);

/// A connector process. Dropped, it is gone.
#[derive(Debug)]
pub struct Connector {
    accounts: Vec<Arc<Account>>,
    _workers: Vec<Worker<WorkBatch>>,
    tasks: JoinSet<()>,
    tenure: watch::Sender<Tenure>,
    _heard: watch::Sender<Heard>,
}

/// What a connector works with.
#[derive(Debug)]
pub struct Around {
    /// Its connection to the broker.
    pub bus: Bus,
    /// Its way to Redis.
    pub redis: Redis,
    /// The accounts.
    pub carriers: CarriersFile,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What privacy opens every wrap to.
    pub key: [u8; 32],
}

impl Connector {
    /// Starts a process: it works as soon as it has binds and Redis can be relied on.
    ///
    /// # Errors
    /// When the broker has not what the list says.
    pub async fn start(around: Around) -> Result<Self, WorkError> {
        let Around { bus, redis, carriers, clock, key } = around;
        let store = Store::new(redis, bus.cell().shards);
        let heard = watch::Sender::new(Heard::default());
        let stop = Stop::default();
        let shared = Shared {
            cell: bus.cell().id.clone(),
            clock,
            log: Arc::new(Broker::new(&bus)),
            keys: Arc::new(OneKey(Arc::new(AeadKey::from_bytes(key)))),
            witness: Arc::new(Deaf),
            reliance: Arc::new(Reliance::default()),
            heard: heard.subscribe(),
            restored: None,
            query_key: Arc::new(AeadKey::from_bytes(key)),
            recipient_key: Arc::new(MacKey::from_bytes(key)),
            skew: SKEW,
            keep_keys: KeepKeys { count: 8, time: Duration::from_secs(60) },
            metrics: CarrierMetrics::new(&sotto_metrics::Metrics::default()),
        };
        let account = |settings: &Settings| {
            let ledger = Arc::new(Ledger::new(store.clone(), settings.id.clone(), settings.receipt_wait));
            let line = Line::new(settings.window, settings.tps, Duration::from_secs(5), stop.clone());
            line.set_course(Course::Run);
            let now = Instant::now();
            line.set_slices(vec![Slice { tps: settings.tps, from: now, until: now + FOR_GOOD }], false);
            Account::new(settings.clone(), ledger, line, shared.clone())
        };
        let accounts: Vec<_> = carriers.accounts.iter().map(account).collect();
        let rebuilder = Rebuilder::new(store, shared.clone(), &accounts);
        let mut tasks = JoinSet::new();
        tasks.spawn(rebuilder.watch(Readiness::default().condition("redis"), stop));
        let mut workers = Vec::new();
        for account in &accounts {
            workers.extend(work_on(&bus, account, 4, SKEW).await?);
        }
        let tenure = watch::Sender::new(Tenure::Held { until: Instant::now() + FOR_GOOD });
        Ok(Self { accounts, _workers: workers, tasks, tenure, _heard: heard })
    }

    /// Binds an account over a connection that is made, and serves it to its end.
    pub fn bind(&mut self, account: &AccountId, io: DuplexStream) {
        let found = self.accounts.iter().find(|candidate| candidate.settings.id == *account);
        let Some(account) = found.cloned() else { return };
        self.tasks.spawn(serve(account, io, self.tenure.subscribe()));
    }

    /// Whether an account has a bind.
    pub fn is_bound(&self, account: &AccountId) -> bool {
        let of = |candidate: &&Arc<Account>| candidate.settings.id == *account;
        self.accounts.iter().find(of).is_some_and(|account| !account.line.links().is_empty())
    }
}

async fn serve(account: Arc<Account>, io: DuplexStream, tenure: watch::Receiver<Tenure>) {
    let settings = &account.settings;
    let options = SessionOptions {
        window: usize::from(settings.window),
        response_timeout: settings.response_timeout,
        enquire_link_interval: settings.enquire_link,
        ..SessionOptions::default()
    };
    let bound = BindOptions::transceiver(settings.system_id.as_str(), "password");
    let Ok((session, _)) = client::bind::<About, _>(io, bound, options).await else { return };
    let Session { link, incoming, late, driver } = session;
    let number = 1;
    account.line.up(Bind { number, link, tenure });
    let received = async { tokio::join!(account.receive(incoming), account.late(late)) };
    let driven = async {
        driver.await;
        account.line.down(number);
    };
    tokio::join!(driven, received);
}

struct OneKey(Arc<AeadKey>);

impl Keys for OneKey {
    fn unwrap<'a>(
        &'a self,
        _: &'a AccountId,
        wraps: &'a [Arc<KeyWrap>],
    ) -> BoxFuture<'a, Result<Vec<Unwrapped>, KeysError>> {
        let dies_at = Timestamp::from_unix_millis(i64::MAX);
        let key = || Unwrapped::Key { key: Arc::clone(&self.0), dies_at };
        let keys = wraps.iter().map(|_| key()).collect();
        std::future::ready(Ok(keys)).boxed()
    }

    fn inbound<'a>(
        &'a self,
        _: &'a AccountId,
        _: &'a TenantId,
    ) -> BoxFuture<'a, Result<InboundSession, KeysError>> {
        let refused = KeysError(std::io::Error::other("no handset writes in this world").into());
        std::future::ready(Err(refused)).boxed()
    }

    fn ended(&self) -> BoxFuture<'_, Result<Ended, KeysError>> {
        std::future::ready(Ok(Ended::default())).boxed()
    }
}

struct Deaf;

impl Witness for Deaf {
    fn tell(&self, _: Act, _: &str, _: &'static str) {}

    fn announce<'a>(
        &'a self,
        _account: &'a AccountId,
        _tenant: &'a TenantId,
        _keys: usize,
    ) -> BoxFuture<'a, Result<(), KeysError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
