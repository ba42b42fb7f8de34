//! Alerts of `deploy/prometheus` fire on a real cell by a real Prometheus, and the commands of their runbooks end them.
//!
//! Every alert is named below: provoked in the test of every run, in that of `make alerts`, or not here, with the reason. Each of the
//! first two is provoked by a fault of real parts, waited for until Prometheus says that it fires, and then what the runbook says
//! is run and nothing else, until Prometheus says that it is over.

mod audit;
mod broker;
mod carrier;
mod prometheus;
mod runbook;
mod services;

use std::{cell::RefCell, collections::BTreeSet, fs, path::PathBuf};

use futures::future::join_all;
use serde_json::json;
use tempfile::TempDir;

use self::prometheus::Prometheus;
use crate::cell::{Carriers, Cell, carrier_with};

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

/// Not provoked here, and why. That each fires on the numbers that it asks for is tested by promtool.
const NOT_HERE: [(&str, &str); 12] = [
    (
        "SottoCarrierThrottles",
        "an account asks for less at once: over minutes it is refused often enough, over seconds it is not",
    ),
    ("SottoServiceGone", "is of containers: deploy/compose/test.sh provokes it"),
    ("SottoAcceptsSlowly", "takes a slow disk"),
    ("SottoBrokerSlow", "takes a slow disk"),
    ("SottoRedeliveries", "takes a slow disk"),
    ("SottoDeadlinesWait", "waits for two minutes of the cell's own clock"),
    ("SottoDestructionFails", "takes a disk that refuses: whoever is root is not refused by modes"),
    (
        "SottoKeysNotAhead",
        "takes a keystore that makes no more at the end of an hour: crates/privacy/tests/it/hsm.rs provokes it",
    ),
    (
        "SottoEventsNotTrimmed",
        "takes events of eight days: tests/e2e/retention.rs shortens them and sees it fail",
    ),
    ("SottoQueueFilling", "takes 7,000 batches, each stored for itself"),
    ("SottoReceiptsUnmatched", "what waits for its part does so for an hour of the cell's own clock"),
    ("SottoAuditBehind", "takes an audit that works, and slower than a thousand batches of events"),
];

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
        let cell = Cell::start_with(async |root| {
            // As after `sotto backup`.
            let mut copy = std::process::Command::new("cp");
            copy.arg("-a").arg(root).arg(root.with_file_name("backup"));
            assert!(copy.status().unwrap().success());
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

    pub(crate) fn carriers(&self) -> (&'static str, String) {
        ("CARRIERS", PathBuf::from(self.cell.carriers().unwrap()).display().to_string())
    }

    /// Those that were to be provoked fired, and are over.
    fn are_done(&self, alerts: &[&str]) {
        let wanted: BTreeSet<_> = alerts.iter().map(|alert| (*alert).to_owned()).collect();
        assert_eq!(*self.done.borrow(), wanted);
    }
}

#[test]
fn every_alert_is_provoked_or_it_is_said_why_not() {
    let mut named: Vec<_> = [&PROVOKED[..], &OF_SERVICES, &OF_OTHERS].concat();
    for alert in &named {
        assert!(!runbook::commands(alert).is_empty(), "{alert}");
    }
    named.extend(NOT_HERE.map(|(alert, _)| alert));
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
