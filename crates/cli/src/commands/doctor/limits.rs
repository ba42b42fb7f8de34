//! How many files and sockets services may have open, beside how many connections they are to take.

use toml::{Table, Value};

use super::Finding;
use crate::cell::{CellDir, CellFile, Layout};

/// Who takes connections from anybody, the section that says how many, and how many without a word on it.
const TAKERS: [(&str, &str, u64); 2] = [("ingress", "grpc", 1024), ("identity", "https", 1024)];

/// What a service has open beside those: logs, certificates, broker, Redis, its other listeners.
const BESIDE: u64 = 128;

pub(super) fn look(dir: &CellDir, cell: &CellFile) -> Vec<Finding> {
    // In containers the limit is each container's own: SottoFilesRunOut watches it.
    if cell.layout == Layout::Containers {
        return Vec::new();
    }
    let running = dir.running().ok();
    // A service raises its limit to the highest that it may.
    let inherited = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let mut findings = Vec::new();
    for (service, section, usual) in TAKERS {
        let connections = connections(dir, service, section).unwrap_or(usual);
        let wanted = connections.saturating_add(BESIDE);
        let process = running.as_ref().and_then(|running| running.processes.get(service).copied());
        let (whose, limit) = match process.map(limit_of) {
            Some(Some(limit)) => (format!("{service} (process {})", process.unwrap_or_default()), limit),
            Some(None) | None => (format!("{service}, started from here,"), inherited.unwrap_or(u64::MAX)),
        };
        if limit >= wanted {
            continue;
        }
        let problem = format!(
            "{whose} may have {limit} open, and {section}.connections in config/{service}.toml is {connections}: \
             it needs {wanted}"
        );
        let fix = format!(
            "raise the hard limit where sotto up is started (ulimit -Hn, LimitNOFILE) and restart the cell, or lower \
             {section}.connections in config/{service}.toml"
        );
        findings.push(Finding::wrong("the limit of open files", problem, fix));
    }
    if findings.is_empty() {
        findings.push(Finding::fine("the limit of open files"));
    }
    findings
}

fn connections(dir: &CellDir, service: &str, section: &str) -> Option<u64> {
    let config: Table = std::fs::read_to_string(dir.config(service)).ok()?.parse().ok()?;
    u64::try_from(config.get(section)?.get("connections").and_then(Value::as_integer)?).ok()
}

/// The limit that a process has now.
fn limit_of(process: u32) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let now =
        limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
    if now == "unlimited" { Some(u64::MAX) } else { now.parse().ok() }
}
