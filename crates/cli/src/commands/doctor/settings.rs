//! What configuration files say: each for itself, and one beside the other.

use std::{net::SocketAddr, path::Path, process::Command};

use sotto_core::Replicas;
use toml::{Table, Value};

use super::Finding;
use crate::{
    cell::{Broker, CellDir, CellFile, Layout, Running, SERVICES},
    up::{Surroundings, environment},
};

/// Stands for an address that the system will choose.
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub(super) fn look(dir: &CellDir, cell: &CellFile) -> Vec<Finding> {
    // In containers each service checks its own, which is nowhere else, at its start.
    let mut findings = match cell.layout {
        Layout::Machine => checked(dir),
        Layout::Containers => Vec::new(),
    };
    findings.extend(replicas(dir, cell.replicas));
    findings.extend(tokens(dir));
    findings.extend(Broker::all(cell.replicas).filter_map(|broker| unsynced(dir, broker)));
    findings.extend(evicting(dir));
    if findings.is_empty() {
        findings.push(Finding::fine("configuration of services, broker and Redis"));
    }
    findings
}

/// What each service says of its file, with the environment that `sotto up` gives it.
fn checked(dir: &CellDir) -> Vec<Finding> {
    let Ok(root) = std::path::absolute(dir.root()) else { return Vec::new() };
    let dir = CellDir::new(root);
    let running = dir.running().unwrap_or_else(|_| planned());
    let programs = std::env::current_exe().ok();
    let programs = programs.as_deref().and_then(Path::parent).unwrap_or(Path::new("."));
    let mut findings = Vec::new();
    // A file that is not there is told of already.
    for service in SERVICES.into_iter().filter(|service| dir.config(service).is_file()) {
        let file = format!("config/{service}.toml");
        match check(&dir, service, &running, programs) {
            Err(why) => findings.push(Finding::note(file, format!("was not checked: {why}"))),
            Ok(problems) => findings.extend(problems.into_iter().map(|problem| {
                let fix = format!(
                    "mend that key in config/{service}.toml, then restart {service}; every key: sotto-{service} --print-config"
                );
                Finding::wrong(file.clone(), problem, fix)
            })),
        }
    }
    findings
}

/// The problems that a service finds in its configuration; an error says why it was not asked.
fn check(dir: &CellDir, service: &str, running: &Running, programs: &Path) -> Result<Vec<String>, String> {
    let carriers = dir.path("run/carriers.toml");
    let surroundings = Surroundings { running, carriers: &carriers, tokens: ANY, clients: ANY };
    let environment = environment(dir, service, &surroundings).map_err(|error| error.to_string())?;
    let program = programs.join(format!("sotto-{service}"));
    let said = Command::new(&program)
        .arg("--config")
        .arg(dir.config(service))
        .arg("--check-config")
        .current_dir(dir.root())
        .env_clear()
        .envs(environment)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if said.status.success() {
        return Ok(Vec::new());
    }
    let said = String::from_utf8_lossy(&said.stderr);
    // One problem a line, below a headline.
    let mut problems: Vec<_> =
        said.lines().filter_map(|line| line.strip_prefix("  ")).map(|line| line.trim().to_owned()).collect();
    if problems.is_empty() {
        problems.push(said.trim().to_owned());
    }
    Ok(problems)
}

/// A cell that does not run: only a start knows where its processes will listen, and any address is as good.
fn planned() -> Running {
    let addresses = ["redis", "privacy.grpc", "identity.https"];
    Running {
        supervisor: None,
        nats: "tls://localhost:4222".to_owned(),
        processes: std::collections::BTreeMap::new(),
        addresses: addresses.map(|listener| (listener.to_owned(), "localhost:7400".to_owned())).into(),
    }
}

fn config(dir: &CellDir, service: &str) -> Option<Table> {
    std::fs::read_to_string(dir.config(service)).ok()?.parse().ok()
}

/// Services that were told of another number of brokers than the cell has: they refuse to start, since the streams differ.
fn replicas(dir: &CellDir, wanted: Replicas) -> Vec<Finding> {
    let wanted = i64::from(wanted.count());
    let wrong = |service: &str| {
        let config = config(dir, service)?;
        // Without a word on it there is one.
        let told =
            config.get("cell").and_then(|cell| cell.get("replicas")).map_or(Some(1), Value::as_integer);
        if told == Some(wanted) {
            return None;
        }
        let told = told.map_or_else(|| "no number".to_owned(), |told| told.to_string());
        let problem = format!("cell.replicas is {told}, and the cell has {wanted}");
        let fix = format!("write replicas = {wanted} below [cell]; it is fixed for the cell's life");
        Some(Finding::wrong(format!("config/{service}.toml"), problem, fix))
    };
    SERVICES.into_iter().filter_map(wrong).collect()
}

/// What identity writes into tokens must be what ingress demands.
fn tokens(dir: &CellDir) -> Vec<Finding> {
    let told =
        |service: &str, key: &str| Some(config(dir, service)?.get("tokens")?.get(key)?.as_str()?.to_owned());
    let wrong = |key: &str| {
        let (written, demanded) = (told("identity", key)?, told("ingress", key)?);
        if written == demanded {
            return None;
        }
        let problem = format!(
            "tokens.{key} is {demanded}, and in config/identity.toml it is {written}: every token is refused"
        );
        let fix = format!(
            "write the same tokens.{key} into both, letter by letter, then restart identity and ingress"
        );
        Some(Finding::wrong("config/ingress.toml", problem, fix))
    };
    ["issuer", "audience"].into_iter().filter_map(wrong).collect()
}

/// A broker that acknowledges what only the page cache has: a power cut then takes accepted messages.
fn unsynced(dir: &CellDir, broker: Broker) -> Option<Finding> {
    let file = broker.conf();
    let conf = std::fs::read_to_string(dir.path(&file)).ok()?;
    let told = last_word(&conf, "sync_interval");
    if told == Some("always") {
        return None;
    }
    let problem = format!(
        "jetstream.sync_interval is {}, not always: a power cut takes messages that were accepted",
        told.unwrap_or("not there")
    );
    let fix = format!("write sync_interval: always below jetstream in {file}, then restart the broker");
    Some(Finding::wrong(file, problem, fix))
}

/// A Redis that throws keys away, as it would start: used idempotency keys would be free again.
fn evicting(dir: &CellDir) -> Option<Finding> {
    let file = "redis/redis.conf";
    let conf = std::fs::read_to_string(dir.path(file)).ok()?;
    let policy = last_word(&conf, "maxmemory-policy")?;
    (policy != "noeviction").then(|| evicts(file, policy))
}

/// What is wrong with a Redis of this policy.
pub(super) fn evicts(what: &str, policy: &str) -> Finding {
    let problem =
        format!("maxmemory-policy is {policy}, not noeviction: used keys of clients would be free again");
    Finding::wrong(
        what,
        problem,
        "write maxmemory-policy noeviction into redis/redis.conf, then restart Redis",
    )
}

/// The value of a setting in a configuration of the broker or of Redis, which take the last one.
fn last_word<'a>(conf: &'a str, key: &str) -> Option<&'a str> {
    let value = |line: &'a str| {
        let rest = line.trim().strip_prefix(key)?;
        let rest = rest.strip_prefix([':', '=', ' ', '\t'])?;
        rest.trim_matches(['"', '\'', ':', '=', ' ', '\t']).split_whitespace().next()
    };
    conf.lines().filter_map(value).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_the_servers_read_them() {
        for (conf, told) in [
            ("jetstream {\n  sync_interval: always\n}", Some("always")),
            ("sync_interval: \"2m\"", Some("2m")),
            ("sync_interval = always\nsync_interval 10s # later", Some("10s")),
            ("# sync_interval: always", None),
            ("sync_intervals: always", None),
        ] {
            assert_eq!(last_word(conf, "sync_interval"), told, "{conf}");
        }
    }
}
