//! Alerts of `deploy/prometheus` fire on a real cell by a real Prometheus, and the commands of their runbooks end them.
//!
//! Every alert is named below: provoked in the test of every run, in those of `make alerts`, or by a cell in containers. Each is
//! provoked by a fault of real parts, waited for until Prometheus says that it fires, and then what the runbook says is run and
//! nothing else, until Prometheus says that it is over. What each fires on in numbers is tested by promtool.

mod audit;
mod broker;
mod carrier;
mod disks;
mod prometheus;
mod queues;
mod runbook;
mod services;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use futures::future::join_all;
use serde_json::json;
use sotto_bus::{
    Service, Topology,
    topology::{Stream, apply},
};
use sotto_testkit::Disk;
use tempfile::TempDir;

use self::prometheus::Prometheus;
use crate::{
    cell::{BOUND, Carriers, Cell, carrier_with},
    quarantine::bus,
};

/// Provoked in every run of the tests.
const PROVOKED: [&str; 10] = [
    "SottoServiceDown",
    "SottoNotReady",
    "SottoQuarantine",
    "SottoRedisLost",
    "SottoRevocationsUnheard",
    "SottoOpeningsDoNotBalance",
    "SottoQueueOld",
    "SottoBindsMissing",
    "SottoAuditGap",
    "SottoKeystoreLost",
];

/// Provoked by `make alerts`: of services.
const OF_SERVICES: [&str; 5] =
    ["SottoRestarts", "SottoFilesRunOut", "SottoTokenKeysUnknown", "SottoPrivacyAway", "SottoIntakeWaits"];

/// Provoked by `make alerts`: of carrier and broker.
const OF_OTHERS: [&str; 9] = [
    "SottoNotListening",
    "SottoRefusesMessages",
    "SottoBrokerAway",
    "SottoStreamUnseen",
    "SottoStreamFilling",
    "SottoStreamFull",
    "SottoCarrierSlow",
    "SottoUnknowns",
    "SottoAuditLogStuck",
];

/// Provoked by `make alerts`: of disks, and what takes two minutes of the cell's own clock.
const OF_DISKS: [&str; 6] = [
    "SottoAcceptsSlowly",
    "SottoBrokerSlow",
    "SottoAuditBehind",
    "SottoDestructionFails",
    "SottoKeysNotAhead",
    "SottoDeadlinesWait",
];

/// Provoked by `make alerts`: of what waits, and of what is written wrong about a carrier.
const OF_QUEUES: [&str; 5] = [
    "SottoEventsNotTrimmed",
    "SottoQueueFilling",
    "SottoRedeliveries",
    "SottoReceiptsUnmatched",
    "SottoCarrierThrottles",
];

/// Provoked by `make compose-test`: of containers.
const OF_CONTAINERS: [&str; 1] = ["SottoServiceGone"];

/// A cell with a Prometheus that watches it.
pub(crate) struct World {
    pub(crate) cell: Cell,
    prometheus: Prometheus,
    /// What fired and was ended by its runbook.
    done: RefCell<BTreeSet<String>>,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        Self::start_on(&[]).await
    }

    /// The same, with these folders of the cell on disks of their own.
    async fn start_on(disks: &[(&str, &Disk)]) -> Self {
        let cell = Cell::start_with(async |root| {
            // As after `sotto backup`.
            copy(root, &root.with_file_name("backup"));
            for (folder, disk) in disks {
                let (here, there) = (root.join(folder), disk.path().join("folder"));
                copy(&here, &there);
                fs::remove_dir_all(&here).unwrap();
                symlink(&there, &here).unwrap();
            }
            let carriers: Carriers = carrier_with(root, 50, "", &json!({})).await;
            Some(carriers.and(["--longest-pause", "2"].map(str::to_owned).to_vec()))
        })
        .await;
        let folder = TempDir::with_prefix("sotto-alerts-").unwrap();
        let prometheus = Prometheus::start(&cell, folder.path()).await;
        prometheus.is_quiet().await;
        Self { cell, prometheus, done: RefCell::default(), _folder: folder }
    }

    /// Waits until all of these fire.
    pub(crate) async fn fire(&self, alerts: &[&str]) {
        join_all(alerts.iter().map(|alert| self.prometheus.fires(alert))).await;
    }

    /// Does what the runbook of the first of these alerts says, which must be what those of the others say, and waits until all of
    /// them are over.
    pub(crate) async fn resolve(&self, alerts: &[&str], words: &[(&str, String)]) {
        for alert in alerts {
            assert_eq!(runbook::commands(alert), runbook::commands(alerts[0]), "{alert}");
        }
        runbook::follow(alerts[0], &self.cell.root(), words).await;
        join_all(alerts.iter().map(|alert| self.prometheus.ends(alert))).await;
        self.done.borrow_mut().extend(alerts.iter().map(|alert| (*alert).to_owned()));
    }

    pub(crate) fn backup(&self, file: &str) -> String {
        self.cell.root().with_file_name("backup").join(file).display().to_string()
    }

    pub(crate) fn pid(&self, process: &str) -> (&'static str, String) {
        ("PID", self.cell.pid(process).to_string())
    }

    pub(crate) fn account(&self) -> (&'static str, String) {
        ("ACCOUNT", "slow".to_owned())
    }

    pub(crate) fn carriers(&self) -> (&'static str, String) {
        ("CARRIERS", PathBuf::from(self.cell.carriers().unwrap()).display().to_string())
    }

    /// Somebody has changed the bounds of streams by hand.
    pub(crate) async fn rebound(&self, change: impl Fn(&mut Stream)) {
        let bus = bus(&self.cell, Service::Provisioner).await;
        let mut changed = Topology::embedded().unwrap();
        changed.streams.iter_mut().for_each(change);
        apply(&bus, &changed, &[]).await.unwrap();
        assert!(bus.close(BOUND).await);
    }

    /// Those that were to be provoked fired, and are over.
    fn are_done(&self, alerts: &[&str]) {
        let wanted: BTreeSet<_> = alerts.iter().map(|alert| (*alert).to_owned()).collect();
        assert_eq!(*self.done.borrow(), wanted);
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

#[test]
fn every_alert_is_provoked() {
    let mut named: Vec<_> =
        [&PROVOKED[..], &OF_SERVICES, &OF_OTHERS, &OF_DISKS, &OF_QUEUES, &OF_CONTAINERS].concat();
    for alert in &named {
        assert!(!runbook::commands(alert).is_empty(), "{alert}");
    }
    let of_containers =
        fs::read_to_string(sotto_testkit::workspace().join("deploy/compose/test.sh")).unwrap();
    for alert in OF_CONTAINERS {
        assert!(of_containers.contains(alert), "{alert}");
    }
    named.sort_unstable();
    let of_rules = runbook::alerts();
    assert_eq!(named, of_rules.keys().map(String::as_str).collect::<Vec<_>>());
    // Nor is a block of a page for an alert that there is not.
    for page in fs::read_dir(sotto_testkit::workspace().join("docs/runbooks")).unwrap() {
        let text = fs::read_to_string(page.unwrap().path()).unwrap();
        let heads = text.lines().filter_map(|line| line.trim_start().strip_prefix("```sh "));
        for alert in heads.flat_map(|names| names.split(' ')) {
            assert!(of_rules.contains_key(alert), "{alert}");
        }
    }
}

#[tokio::test]
async fn alerts_fire_on_a_cell_and_end_as_their_runbooks_say() {
    let mut world = World::start().await;
    // What ends by itself an hour later is provoked first.
    audit::provoke(&world).await;
    futures::join!(audit::resolve(&world), audit::queue_grows_old(&world), async {
        services::redis_stands_still(&world).await;
        services::privacy_stands_still(&world).await;
        services::audit_stands_still(&world).await;
        carrier::wrong_password(&world).await;
        services::keystore_is_moved_away(&world).await;
    });
    world.are_done(&PROVOKED);
    world.cell.stop().await;
}

/// `make alerts`.
#[tokio::test]
async fn slow_alerts_of_services_fire_on_a_cell_and_end_as_their_runbooks_say() {
    let mut world = World::start().await;
    services::files_run_out(&world).await;
    services::routing_stands_still(&world).await;
    services::identity_stands_still(&world).await;
    services::restarts(&world).await;
    services::privacy_away(&world).await;
    world.are_done(&OF_SERVICES);
    world.cell.stop().await;
}

/// `make alerts`.
#[tokio::test]
async fn slow_alerts_of_carrier_and_broker_fire_on_a_cell_and_end_as_their_runbooks_say() {
    let mut world = World::start().await;
    carrier::slow(&world).await;
    carrier::answers_nothing(&world).await;
    broker::full(&world).await;
    broker::away(&world).await;
    world.are_done(&OF_OTHERS);
    world.cell.stop().await;
}

/// `make alerts`. Needs root, loop devices and a block layer that slows disks down (cgroup v1).
#[tokio::test]
async fn slow_alerts_of_disks_fire_on_a_cell_and_end_as_their_runbooks_say() {
    assert!(Disk::may_be_slow(), "the kernel does not slow disks down here: no blkio of cgroup v1");
    let [broker, log] = [Disk::new(), Disk::new()];
    let keys = Disk::of(16 << 20);
    let mut world =
        World::start_on(&[("data/nats", &broker), ("data/audit", &log), ("keystore", &keys)]).await;
    disks::of_the_broker(&world, &broker).await;
    disks::of_the_log(&world, &log).await;
    futures::join!(disks::full_of_keys(&world, &keys), services::redis_is_away_for_long(&world));
    world.are_done(&OF_DISKS);
    world.cell.stop().await;
}

/// `make alerts`.
#[tokio::test]
async fn slow_alerts_of_queues_fire_on_a_cell_and_end_as_their_runbooks_say() {
    let mut world = World::start().await;
    queues::events_do_not_fit(&world).await;
    queues::a_stop_is_forgotten(&world).await;
    carrier::writes_ids_otherwise(&world).await;
    carrier::takes_less(&world).await;
    world.are_done(&OF_QUEUES);
    world.cell.stop().await;
}
