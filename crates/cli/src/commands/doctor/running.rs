//! The cell's processes, if they run.

use std::time::Duration;

use sotto_bus::{
    Service,
    topology::{self, Copies, SetupError},
};
use sotto_core::{Replicas, Timestamp};
use sotto_proto::ops::v1::{
    AccountState, ListAccountsRequest, ListHoldsRequest, traffic_service_client::TrafficServiceClient,
};

use super::{Finding, settings};
use crate::{
    CliError,
    cell::{Broker, CellDir, CellFile, Running, SERVICES},
    commands::channel_to,
    http, redis,
    up::{Holder, connect, holders, https_address, lives},
};

/// How long Redis may take.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn look(dir: &CellDir, cell: &CellFile) -> Vec<Finding> {
    let left = holders(dir);
    let Ok(running) = dir.running() else {
        return vec![match left.as_slice() {
            [] => Finding::note("the cell's processes", "not running; start them with: sotto up"),
            left if left.iter().any(|holder| holder.name == "sotto") => {
                Finding::note("the cell's processes", "starting or stopping: ask again")
            }
            left => leftovers(left),
        }];
    };
    let mut findings = Vec::new();
    if let Some(supervisor) = running.supervisor {
        if !lives(supervisor) {
            return vec![killed(&left)];
        }
        findings.push(Finding::fine(format!("sotto up, process {supervisor}")));
    }
    for service in SERVICES {
        findings.push(ready(dir, &running, service).await);
    }
    findings.extend(broker(dir, cell, &running).await);
    findings.push(redis(dir, &running).await);
    findings.extend(unbound(dir, &running).await);
    findings.extend(held(dir).await);
    findings
}

fn killed(left: &[Holder]) -> Finding {
    match left {
        [] => Finding::note(
            "the cell's processes",
            "not running: the last `sotto up` was killed; start it again with: sotto up",
        ),
        left => leftovers(left),
    }
}

fn leftovers(left: &[Holder]) -> Finding {
    let listed: Vec<_> = left.iter().map(|holder| format!("{} ({})", holder.name, holder.id)).collect();
    let ids: Vec<_> = left.iter().map(|holder| holder.id.to_string()).collect();
    let problem = format!("they outlived their `sotto up`: {}", listed.join(", "));
    Finding::wrong("the cell's processes", problem, format!("end them: kill {}", ids.join(" ")))
}

/// Where a process's log is.
fn log(dir: &CellDir, running: &Running, process: &str) -> String {
    match running.supervisor {
        None => {
            // The first of three is the one that docker-compose.yml has already.
            let service = if process == "nats-1" { "nats" } else { process };
            format!("its log: docker compose logs {service}")
        }
        Some(_) => {
            let process = if process == "redis" { "redis-server" } else { process };
            dir.path(format!("logs/{process}.log")).display().to_string()
        }
    }
}

async fn ready(dir: &CellDir, running: &Running, service: &str) -> Finding {
    let result = match running.address(&format!("{service}.admin")) {
        Ok(address) => match http::get(address, "/ready").await {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((_, body)) => Err(format!("is not ready: {}", String::from_utf8_lossy(&body))),
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    };
    Finding::of(service, result, format!("read {}", log(dir, running, service)))
}

/// Reachable, and its streams and consumers set as they must be.
async fn broker(dir: &CellDir, cell: &CellFile, running: &Running) -> Vec<Finding> {
    let what = "the broker and its streams";
    let mut findings = Vec::new();
    let result = match connect(dir, cell, &running.nats, Service::Operator).await {
        Ok(bus) => {
            let verified = topology::verify(&bus, &[]).await;
            if cell.replicas == Replicas::Three {
                findings.extend(copies(topology::copies(&bus).await));
            }
            bus.close(Duration::from_secs(2)).await;
            verified.map_err(|error| CliError::caused_by("its settings are not ours", &error).to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    let again = match running.supervisor {
        Some(_) => "sotto up sets streams anew",
        None => "sotto provision sets streams anew",
    };
    let logs: Vec<_> = Broker::all(cell.replicas)
        .map(|broker| match running.supervisor {
            Some(_) => log(dir, running, &broker.process()),
            None => log(dir, running, &broker.name()),
        })
        .collect();
    let fix = format!("restart the cell: {again}; read {}", logs.join(", "));
    findings.insert(0, Finding::of(what, result, fix));
    findings
}

/// Whether each broker of a cluster has its copies. One that is missing loses nothing; a second one would stop everything.
fn copies(found: Result<Copies, SetupError>) -> Vec<Finding> {
    let what = "three copies of each stream";
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            let problem = CliError::caused_by("they cannot be looked at", &error).to_string();
            return vec![Finding::wrong(what, problem, "see what is said of the broker and its streams")];
        }
    };
    let runbook = "docs/runbooks/broker-of-three.md";
    let away = |broker: String| {
        Finding::wrong(
            format!("broker {broker}"),
            "the others do not hear it",
            format!("bring it back: {runbook}"),
        )
    };
    let behind = |broker: String| {
        Finding::note(format!("broker {broker}"), "it fetches what it missed; stop no other")
    };
    if found.are_whole() {
        return vec![Finding::fine(what)];
    }
    let mut findings: Vec<_> = found.away.into_iter().map(away).collect();
    findings.extend(found.behind.into_iter().map(behind));
    if !found.without_leader.is_empty() {
        let problem = format!("nobody decides about {}", found.without_leader.join(", "));
        findings.push(Finding::wrong(what, problem, format!("two of three brokers must run: {runbook}")));
    }
    findings
}

/// That the cell was put back from a backup and waits for somebody to let it go. Who cannot be asked is not ready, which
/// is told already.
async fn held(dir: &CellDir) -> Option<Finding> {
    let mut client = TrafficServiceClient::new(channel_to(dir, "carrier", "grpc").ok()?);
    let holds = client.list_holds(ListHoldsRequest {}).await.ok()?.into_inner().holds;
    let hold = holds.into_iter().find(|hold| hold.what == "restored")?;
    let since = Timestamp::from_unix_millis(hold.since_ms);
    Some(Finding::wrong(
        "messages",
        format!(
            "all are held: the cell was put back from a backup at {since}, and what it lost is not known"
        ),
        "look at what waits (sotto carriers, sotto ledger check), then: sotto release (docs/OPERATIONS.md)",
    ))
}

async fn redis(dir: &CellDir, running: &Running) -> Finding {
    let policy = match running.address("redis") {
        Ok(address) => redis::eviction(dir, &https_address(address), PATIENCE).await,
        Err(error) => Err(error.to_string()),
    };
    match policy {
        Ok(policy) if policy != "noeviction" => settings::evicts("Redis", &policy),
        policy => {
            let log = log(dir, running, "redis");
            Finding::of("Redis", policy.map(drop), format!("read {log}; losing all of it loses no message"))
        }
    }
}

/// Carrier accounts that should be bound and are not. A connector that cannot be asked is told of already.
async fn unbound(dir: &CellDir, running: &Running) -> Vec<Finding> {
    let Ok(channel) = channel_to(dir, "carrier", "grpc") else { return Vec::new() };
    let Ok(told) = TrafficServiceClient::new(channel).list_accounts(ListAccountsRequest {}).await else {
        return Vec::new();
    };
    let wrong = |account: AccountState| {
        let id = account.account;
        let fix = format!(
            "sotto carriers test {id}; host, port, system_id, password_file and TLS of {id} in the carriers file; the reason: {}; \
             docs/runbooks/carrier-link-down.md",
            log(dir, running, "carrier")
        );
        Finding::wrong(format!("carrier account {id}"), "no bind is up: its messages wait", fix)
    };
    told.into_inner()
        .accounts
        .into_iter()
        .filter(|account| account.bound_by == "no_bind")
        .map(wrong)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_log_is_where_the_cell_runs() {
        let dir = CellDir::new("cell");
        let mut running = Running {
            supervisor: None,
            nats: String::new(),
            processes: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        let containers = ["nats-1", "nats-2", "redis"].map(|process| log(&dir, &running, process));
        assert_eq!(
            containers,
            ["nats", "nats-2", "redis"].map(|one| format!("its log: docker compose logs {one}"))
        );
        running.supervisor = Some(1);
        assert_eq!(log(&dir, &running, "redis"), "cell/logs/redis-server.log");
    }
}
