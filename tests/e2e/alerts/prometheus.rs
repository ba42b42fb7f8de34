//! A real Prometheus that reads a running cell, with the rules and the configuration of the repository, of which every duration
//! is shortened by the same factor.

use std::{fs, path::Path, time::Duration};

use sotto_testkit::{Process, eventually_ok, free_port, process::http_get, tools, workspace};

use crate::{
    canary::admin,
    cell::{Cell, SERVICES},
};

/// Each duration of the rules (`for`, ranges) and the two intervals are this many times shorter: 15 s are 200 ms, an hour is 48 s.
pub(crate) const FASTER: u32 = 75;

/// How long an alert may take to fire or to end: the longest waits are the cell's own, 40 s, and that hour.
const BOUND: Duration = Duration::from_secs(150);

pub(crate) struct Prometheus {
    _process: Process,
    address: std::net::SocketAddr,
}

impl Prometheus {
    /// Starts one in `folder` and waits until it has seen every service.
    pub(crate) async fn start(cell: &Cell, folder: &Path) -> Self {
        let read = |file: &str| fs::read_to_string(workspace().join("deploy/prometheus").join(file)).unwrap();
        fs::write(folder.join("sotto.rules.yml"), faster(&read("sotto.rules.yml"))).unwrap();
        let targets: Vec<_> = SERVICES.map(|service| format!("'{}'", admin(cell, service))).into();
        let here = |line: &str| match line.split_once("- targets:") {
            Some((indent, _)) => format!("{indent}- targets: [{}]\n", targets.join(", ")),
            None => format!("{line}\n"),
        };
        let config: String = faster(&read("prometheus.example.yml")).lines().map(here).collect();
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
        let path = |name: &str| folder.join(name).display().to_string();
        let arguments = [
            format!("--config.file={}", path("prometheus.yml")),
            format!("--storage.tsdb.path={}", path("prometheus-data")),
            format!("--web.listen-address={address}"),
        ];
        let none: [(&str, &str); 0] = [];
        let process = Process::start(&tools::prometheus(), arguments, none, &folder.join("prometheus.log"));
        let started = Self { _process: process, address };
        let all = format!("count(up == 1) == {}", SERVICES.len());
        started.until("Prometheus to see every service", &all, true).await;
        started
    }

    /// Waits until an alert fires.
    pub(crate) async fn fires(&self, alert: &str) {
        self.until(&format!("{alert} to fire"), &firing(alert), true).await;
    }

    /// Waits until it does not fire any more.
    pub(crate) async fn ends(&self, alert: &str) {
        self.until(&format!("{alert} to end"), &firing(alert), false).await;
    }

    /// Waits until no alert fires or is about to.
    pub(crate) async fn is_quiet(&self) {
        self.until("no alert", "ALERTS", false).await;
    }

    async fn until(&self, what: &str, query: &str, is: bool) {
        eventually_ok(BOUND, what, async || {
            let told = self.ask(query).await?;
            let found = told.pointer("/data/result").and_then(|result| result.as_array());
            let found = found.ok_or_else(|| told.to_string())?;
            if found.is_empty() == is { Err(told.to_string()) } else { Ok(()) }
        })
        .await;
    }

    async fn ask(&self, query: &str) -> Result<serde_json::Value, String> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let (_, body) = http_get(self.address, &format!("/api/v1/query?query={escaped}"))
            .await
            .map_err(|error| error.to_string())?;
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
    }
}

fn firing(alert: &str) -> String {
    format!("count(ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}})")
}

/// The same file with every duration shortened: after `for:`, in the brackets of a range, and of the two intervals. Nothing else
/// changes.
pub(crate) fn faster(text: &str) -> String {
    let line = |line: &str| {
        let key = line.trim_start().split_once(": ").map_or("", |(key, _)| key);
        if ["for", "scrape_interval", "evaluation_interval"].contains(&key) {
            let (start, duration) = line.split_once(": ").unwrap();
            return format!("{start}: {}\n", shorter(duration));
        }
        let mut out = String::new();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once('[') {
            let (inside, after) = after.split_once(']').unwrap();
            let range = if inside.starts_with(|c: char| c.is_ascii_digit()) {
                shorter(inside)
            } else {
                inside.to_owned()
            };
            out.push_str(&format!("{before}[{range}]"));
            rest = after;
        }
        format!("{out}{rest}\n")
    };
    text.lines().map(line).collect()
}

fn shorter(duration: &str) -> String {
    let unit = duration.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u32 = duration.trim_end_matches(unit).parse().unwrap();
    let millis = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        other => panic!("{duration}: no unit {other}"),
    };
    format!("{}ms", number * millis / FASTER)
}

#[test]
fn durations_alone_are_shortened() {
    let rules = "expr: rate(a_total{b=~\"[c]\"}[5m]) > 0.01\n        for: 2m\n        labels: {severity: page}\n  scrape_interval: 15s\n";
    let fast = "expr: rate(a_total{b=~\"[c]\"}[4000ms]) > 0.01\n        for: 1600ms\n        labels: {severity: page}\n  scrape_interval: 200ms\n";
    assert_eq!(faster(rules), fast);
}
