//! What services measure is what docs/METRICS.md tells, what rules and dashboard ask for is measured, and every alert fires in
//! its test, not in a healthy cell, and has a runbook.

#![expect(clippy::unwrap_used, reason = "test code")]

mod page;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use page::Part;
use sotto_metrics::{Described, Kind};

/// How the page is made anew.
pub(crate) const REMAKE: &str = "SOTTO_UPDATE=1 cargo nextest run -p sotto-tests --test metrics";

fn root() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).to_owned()
}

/// Everything that is measured, by who measures it.
fn parts() -> Vec<Part> {
    let part = |title, text, metrics: Vec<Described>| Part { title, text, metrics };
    vec![
        part("Every service", "", sotto_runtime::described()),
        part("Every service, of its connection to the broker", page::BUS, sotto_bus::described()),
        part("ingress", "", sotto_ingress::metrics::described()),
        part("routing", "", sotto_routing::described()),
        part("carrier", page::CARRIER, sotto_carrier::described()),
        part("identity", "", sotto_identity::metrics::described()),
        part("privacy", "", sotto_privacy::metrics::described()),
        part("audit", "", sotto_audit::metrics::described()),
    ]
}

fn all() -> Vec<Described> {
    parts().into_iter().flat_map(|part| part.metrics).collect()
}

/// The names of the series that Prometheus gets.
fn series() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for metric in all() {
        let name = metric.about.name;
        match metric.kind {
            Kind::Counter | Kind::Gauge => drop(names.insert(name.to_owned())),
            Kind::Histogram => {
                names.extend(["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")))
            }
        }
    }
    names
}

#[tokio::test]
async fn the_page_tells_what_is_measured_now() {
    let path = root().join("docs/METRICS.md");
    let page = page::render(&parts());
    if std::env::var_os("SOTTO_UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/METRICS.md is out of date; make it anew with: {REMAKE}");
}

#[tokio::test]
async fn names_keep_to_the_conventions_of_prometheus() {
    let mut names = BTreeMap::new();
    for Described { about, kind, labels } in all() {
        let name = about.name;
        assert_eq!(names.insert(name, kind), None, "{name} is there twice");
        assert!(name.starts_with("sotto_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}: {kind:?}");
        for unit in ["_ms", "_millis", "_minutes", "_kb", "_mb", "_percent", "_bucket", "_count", "_sum"] {
            assert!(!name.ends_with(unit), "{name}: base units, and no name of a histogram's part");
        }
        assert!(!about.what.is_empty() && !about.what.ends_with('.') && !about.worry.is_empty(), "{name}");
        for label in labels {
            assert!(
                page::LABELS.iter().any(|(known, _)| *known == label),
                "{name}: label {label} is not in the page"
            );
        }
    }
    assert!(names.len() > 80, "{}", names.len());
}

/// Words that look like metrics of ours.
fn asked_for(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("sotto_") || word.starts_with("process_")).collect()
}

#[tokio::test]
async fn rules_and_dashboard_ask_for_what_is_measured() {
    let known = series();
    for file in [
        "deploy/prometheus/sotto.rules.yml",
        "deploy/prometheus/sotto.rules.test.yml",
        "deploy/grafana/sotto.json",
    ] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let asked = asked_for(&text);
        let unknown: Vec<_> = asked.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "{file} asks for what nobody measures: {unknown:?}");
        assert!(asked.len() > 25, "{file}: {asked:?}");
    }
}

#[test]
fn a_name_that_nobody_measures_is_found() {
    let expression = "rate(sotto_bus_nothing_total[5m]) / process_open_fds{job=\"sotto\"}";
    assert_eq!(asked_for(expression), BTreeSet::from(["sotto_bus_nothing_total", "process_open_fds"]));
}

/// The lines of a file whose first word is this key of YAML, with what stands there.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let value =
        |line: &'a str| line.trim_start().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(": ");
    text.lines().filter_map(value).collect()
}

#[test]
fn every_alert_has_a_runbook_and_two_tests() {
    let read = |file: &str| fs::read_to_string(root().join("deploy/prometheus").join(file)).unwrap();
    let both = |name: &str| ["sotto", "containers"].map(|file| read(&format!("{file}.{name}.yml"))).concat();
    let (rules, tests) = (both("rules"), both("rules.test"));
    let (alerts, runbooks) = (values(&rules, "alert"), values(&rules, "runbook_url"));
    assert!(alerts.len() > 25 && alerts.len() == runbooks.len(), "{alerts:?} {runbooks:?}");
    for runbook in runbooks {
        assert!(runbook.starts_with("docs/runbooks/") && root().join(runbook).is_file(), "{runbook}");
    }
    for alert in alerts {
        let quiet = format!("{{eval_time: 30m, alertname: {alert}, exp_alerts: []}}");
        assert!(tests.contains(&quiet), "{alert} is not looked for in the healthy cell");
        assert!(values(&tests, "alertname").contains(&alert), "{alert} does not fire in any test");
    }
}

fn promtool(arguments: &[&str]) {
    let folder = root().join("deploy/prometheus");
    let told =
        Command::new(sotto_testkit::tools::promtool()).args(arguments).current_dir(folder).output().unwrap();
    let text = [told.stdout, told.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(told.status.success(), "promtool {arguments:?}:\n{text}");
}

#[test]
fn promtool_finds_nothing_wrong_and_every_alert_fires_when_it_should() {
    promtool(&["check", "rules", "sotto.rules.yml", "containers.rules.yml"]);
    promtool(&["test", "rules", "sotto.rules.test.yml", "containers.rules.test.yml"]);
    promtool(&["check", "config", "prometheus.example.yml"]);
    promtool(&["check", "config", "prometheus.containers.yml"]);
}
