//! `sotto doctor` names what is wrong, and only that, with the file or the field and what to do: the table in docs/OPERATIONS.md,
//! each line of it provoked.

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use sotto_bus::{Service, Topology, topology::apply};
use sotto_testkit::{eventually_ok, process::signal};

use crate::{
    cell::{Cell, LONG, Said},
    forged::connected,
};

/// What doctor must name, and words of the problem and of the fix.
struct Named {
    what: &'static str,
    problem: &'static str,
    fix: &'static str,
}

fn wrong(said: &Said) -> Vec<Value> {
    let told = said.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    told.filter(|finding| finding["ok"] == false).collect()
}

/// It is named, nothing else is, and the exit code says that something is wrong.
fn names(said: &Said, named: &Named) -> Result<(), String> {
    let found = wrong(said);
    let is = |finding: &Value| {
        let told = |key: &str, part: &str| finding[key].as_str().is_some_and(|told| told.contains(part));
        told("what", named.what) && told("problem", named.problem) && told("fix", named.fix)
    };
    if said.code == Some(1) && found.iter().any(is) && found.iter().all(|it| it["what"] == found[0]["what"]) {
        Ok(())
    } else {
        Err(format!("{} / {} / {}: {found:?}", named.what, named.problem, named.fix))
    }
}

fn edit(file: &Path, before: &str, after: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(before), "{before} is not in {}", file.display());
    fs::write(file, text.replacen(before, after, 1)).unwrap();
}

fn set_mode(file: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

/// To somebody else. Who may not give files away has a link to one of root's.
fn give_away(file: &Path) {
    if std::os::unix::fs::chown(file, Some(65_534), None).is_err() {
        fs::remove_file(file).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", file).unwrap();
    }
}

/// The file in which something is wrong, how it came about, and what is said of it.
type Fault = (&'static str, fn(&Path), Named);

/// What is wrong before the cell is started.
fn before_the_start() -> Vec<Fault> {
    vec![
        (
            "config/ingress.toml",
            |file| edit(file, "[ops]", "[grpc]\nconnections = 0\n\n[ops]"),
            Named {
                what: "config/ingress.toml",
                problem: "grpc.connections",
                fix: "config/ingress.toml, then restart ingress",
            },
        ),
        (
            "config/identity.toml",
            |file| edit(file, "https://identity.sotto.internal", "https://sms.example.vn"),
            Named {
                what: "config/ingress.toml",
                problem: "in config/identity.toml it is https://sms.example.vn",
                fix: "the same tokens.issuer into both",
            },
        ),
        (
            "config/ingress.toml",
            |file| edit(file, "audience = \"https://test.", "audience = \"https://tset."),
            Named {
                what: "config/ingress.toml",
                problem: "tokens.audience is https://tset.",
                fix: "the same tokens.audience into both",
            },
        ),
        (
            "config/carrier.toml",
            |file| edit(file, "replicas = 1", "replicas = 3"),
            Named {
                what: "config/carrier.toml",
                problem: "cell.replicas is 3, and the cell has 1",
                fix: "write replicas = 1 below [cell]",
            },
        ),
        (
            "tls/routing.pem",
            |file| fs::copy(file.with_file_name("audit.pem"), file).map(drop).unwrap(),
            Named {
                what: "tls/routing.pem",
                problem: "is not for routing.sotto.internal",
                fix: "sign a new one with ca/ca.key",
            },
        ),
        (
            "tls/redis.key",
            |file| {
                fs::copy(file.with_file_name("nats.key"), file).unwrap();
            },
            Named { what: "tls/redis.pem", problem: "is of another key", fix: "certificates-expire.md" },
        ),
        (
            "tls/ingress.pem",
            |file| fs::copy(file.with_file_name("../nats/clients-ca.pem"), file).map(drop).unwrap(),
            Named {
                what: "tls/ingress.pem",
                problem: "is not of this cell's authority",
                fix: "sign a new one with ca/ca.key",
            },
        ),
        (
            "tls/nats.key",
            |file| set_mode(file, 0o644),
            Named { what: "tls/nats.key", problem: "others can read it", fix: "chmod 600" },
        ),
        (
            "secrets/redis-admin",
            give_away,
            Named { what: "secrets/redis-admin", problem: "and the cell to user", fix: "chown " },
        ),
        (
            "nats/clients.conf",
            |file| fs::remove_file(file).unwrap(),
            Named { what: "nats/clients.conf", problem: "is missing", fix: "restore it from a backup" },
        ),
        (
            "nats/nats-server.conf",
            |file| edit(file, "sync_interval: always", "sync_interval: \"2m\""),
            Named {
                what: "nats/nats-server.conf",
                problem: "jetstream.sync_interval is 2m",
                fix: "sync_interval: always",
            },
        ),
        (
            "redis/redis.conf",
            |file| edit(file, "noeviction", "allkeys-lru"),
            Named {
                what: "redis/redis.conf",
                problem: "maxmemory-policy is allkeys-lru",
                fix: "maxmemory-policy noeviction into redis/redis.conf",
            },
        ),
        (
            "cell.toml",
            |file| edit(file, "created_at = \"20", "created_at = \"21"),
            Named { what: "the clock", problem: "and the cell was made at 21", fix: "set the clock" },
        ),
    ]
}

#[tokio::test]
async fn what_is_wrong_before_the_start_is_named_with_its_fix() {
    let cell = Cell::new().await;
    cell.json(&["doctor"]).await.json();
    let mut failed = Vec::new();
    for (file, provoke, named) in before_the_start() {
        let path = cell.path(file);
        let about = fs::metadata(&path).unwrap();
        let good = fs::read(&path).unwrap();
        provoke(&path);
        failed.extend(names(&cell.json(&["doctor"]).await, &named).err());
        let _gone = fs::remove_file(&path);
        fs::write(&path, good).unwrap();
        fs::set_permissions(&path, about.permissions()).unwrap();
    }
    let limit = Named {
        what: "the limit of open files",
        problem: "may have 512 open, and grpc.connections in config/ingress.toml is 1024: it needs 1152",
        fix: "ulimit -Hn",
    };
    failed.extend(names(&cell.sotto_within(512, &["--json", "doctor"]).await, &limit).err());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // Of a machine without the servers both are named.
    let said = cell.sotto_on("/nowhere", &["--json", "doctor"]).await;
    for (finding, server) in wrong(&said).iter().zip(["nats-server", "redis-server"]) {
        let told = finding["what"].as_str().unwrap();
        assert!(told.starts_with(server) && finding["problem"] == "is not on the PATH", "{finding}");
        assert_eq!(finding["fix"], "install it: make setup");
    }
    assert_eq!(wrong(&said).len(), 2, "{said:?}");
    cell.json(&["doctor"]).await.json();
}

#[tokio::test]
async fn what_is_wrong_with_a_running_cell_is_named_with_its_fix() {
    let mut cell = Cell::new().await;
    let mut up = cell.up().await;
    // Its binds come up a moment after it.
    let well = async || {
        let said = cell.json(&["doctor"]).await;
        if said.code == Some(0) { Ok(()) } else { Err(said.out) }
    };
    eventually_ok(LONG, "doctor to find nothing", well).await;

    let process = |name: &str| u32::try_from(cell.running()["processes"][name].as_u64().unwrap()).unwrap();
    let ingress = process("ingress");
    set_limit(ingress, 600);
    let named = Named {
        what: "the limit of open files",
        problem: "may have 600 open, and grpc.connections in config/ingress.toml is 1024",
        fix: "or lower grpc.connections in config/ingress.toml",
    };
    names(&cell.json(&["doctor"]).await, &named).unwrap();
    set_limit(ingress, 2048);

    redis(&cell, &["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]);
    let named = Named {
        what: "Redis",
        problem: "maxmemory-policy is volatile-ttl",
        fix: "maxmemory-policy noeviction into redis/redis.conf",
    };
    names(&cell.json(&["doctor"]).await, &named).unwrap();
    redis(&cell, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]);

    let bus = connected(&cell, Service::Provisioner).await;
    let list = Topology::embedded().unwrap();
    let mut other = list.clone();
    other.streams.iter_mut().find(|stream| stream.name == "EVENTS").unwrap().max_bytes -= 1;
    // The settings are changed; that they are none of ours is what reading them back then says.
    let changed = apply(&bus, &other, &[]).await;
    let named = Named {
        what: "the broker and its streams",
        problem: "settings of stream TEST_EVENTS differ from the list of streams: max_bytes",
        fix: "sotto up sets streams anew",
    };
    names(&cell.json(&["doctor"]).await, &named).unwrap_or_else(|told| panic!("{changed:?}: {told}"));
    apply(&bus, &list, &[]).await.unwrap();
    bus.close(LONG).await;
    eventually_ok(LONG, "doctor to find nothing", well).await;

    // The simulator has read the password that was there before.
    fs::write(cell.path("secrets/simulator"), "no-more").unwrap();
    signal(process("carrier"), "KILL");
    let named = Named {
        what: "carrier account simulator",
        problem: "no bind is up",
        fix: "host, port, system_id, password_file",
    };
    eventually_ok(LONG, "doctor to name the account alone", async || {
        names(&cell.json(&["doctor"]).await, &named)
    })
    .await;
    assert!(up.terminate(LONG).await.success(), "{}", up.log());
}

fn set_limit(process: u32, files: u32) {
    // The lower one: nobody but root raises the other again.
    let limit = format!("--nofile={files}:");
    let status = Command::new("prlimit").args(["--pid", &process.to_string(), &limit]).status().unwrap();
    assert!(status.success());
}

fn redis(cell: &Cell, command: &[&str]) {
    let address = cell.running()["addresses"]["redis"].as_str().unwrap().to_owned();
    let port = address.rsplit(':').next().unwrap();
    let told = Command::new("redis-cli")
        .args(["-h", "localhost", "-p", port, "--tls", "--cacert", "tls/ca.pem"])
        .args(["--cert", "tls/operator.pem", "--key", "tls/operator.key", "--user", "admin"])
        .args(command)
        .env("REDISCLI_AUTH", fs::read_to_string(cell.path("secrets/redis-admin")).unwrap())
        .current_dir(cell.path(""))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), "OK", "{told:?}");
}
