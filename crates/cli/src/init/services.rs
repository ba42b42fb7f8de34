//! The configuration of the broker and of each service. Paths are relative to the cell's folder, in which `sotto up`
//! runs every process; what only a start knows (ports, the carriers file) comes by environment.

use std::{collections::BTreeMap, path::PathBuf};

use sotto_bus::{
    Service, Topology,
    topology::{
        CLIENTS_FILE, Cell, ClusterOptions, ServerOptions, nats_clients_conf, nats_server_conf,
        renewed_server_conf,
    },
};

use sotto_core::{CellId, Replicas};

use super::{NewCell, TOKEN_PORT, addresses, files, pki, redis};
use crate::{
    CliError,
    cell::{Broker, CARRIERS, CellDir, CellFile, Layout, SERVICES},
    commands::audit::LOG_DIR,
    error::at,
    up::simulator_carriers,
};

pub(super) fn create(
    dir: &CellDir,
    new: &NewCell,
    users: &BTreeMap<String, Vec<String>>,
) -> Result<(), CliError> {
    brokers(dir, new, users)?;
    for service in SERVICES {
        let mut settings = Settings::default();
        settings.text("cell", "id", new.id.as_str());
        settings.raw("cell", "shards", new.shards.count().to_string());
        settings.raw("cell", "replicas", new.replicas.count().to_string());
        settings.certificates("nats", service);
        settings.text("nats", "nkey_seed_file", format!("nats/nkeys/{service}.current.seed"));
        // Routing has no listener and asks nobody but the broker.
        if service != "routing" {
            settings.certificates("tls", service);
        }
        if redis::USERS.contains(&service) {
            settings.text("redis", "username", service);
            settings.text("redis", "password_file", format!("secrets/redis-{service}"));
        }
        for (section, key, value) in addresses::settings(service, new) {
            settings.text(section, key, value);
        }
        own(&mut settings, service, new);
        let text = format!(
            "# Configuration of sotto-{service} in cell {}. Made by `sotto init`; every option and its default:\n\
             # sotto-{service} --print-config\n{settings}",
            new.id
        );
        files::public(&dir.config(service), text.as_bytes())?;
    }
    if new.layout == Layout::Containers {
        containers(dir, new)?;
    }
    Ok(())
}

/// What `sotto up` writes at its start on one machine. Two connectors have a bind each.
fn containers(dir: &CellDir, new: &NewCell) -> Result<(), CliError> {
    let carriers =
        simulator_carriers(&addresses::name("simulator", new), addresses::SMPP_PORT, "", 2, 10_000);
    files::public(&dir.path(CARRIERS), carriers.as_bytes())?;
    let running = serde_json::to_string_pretty(&addresses::running(new))
        .map_err(|error| CliError::caused_by("run/cell.json", &error))?;
    files::public(&dir.run_file(), running.as_bytes())
}

/// A configuration file in the making: sections in the order in which they came.
#[derive(Default)]
struct Settings(Vec<(&'static str, Vec<String>)>);

impl Settings {
    fn text(&mut self, section: &'static str, key: &str, value: impl AsRef<str>) {
        self.raw(section, key, format!("\"{}\"", value.as_ref()));
    }

    fn raw(&mut self, section: &'static str, key: &str, value: String) {
        let line = format!("{key} = {value}");
        match self.0.iter_mut().find(|(name, _)| *name == section) {
            Some((_, lines)) => lines.push(line),
            None => self.0.push((section, vec![line])),
        }
    }

    fn certificates(&mut self, section: &'static str, service: &str) {
        self.text(section, "ca_file", "tls/ca.pem");
        self.text(section, "cert_file", format!("tls/{service}.pem"));
        self.text(section, "key_file", format!("tls/{service}.key"));
    }
}

impl std::fmt::Display for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (section, lines) in &self.0 {
            writeln!(f, "\n[{section}]")?;
            lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        Ok(())
    }
}

fn brokers(dir: &CellDir, new: &NewCell, users: &BTreeMap<String, Vec<String>>) -> Result<(), CliError> {
    let topology = Topology::embedded()
        .map_err(|error| CliError::caused_by("the list of streams cannot be read", &error))?;
    let users: Vec<_> = Service::ALL
        .into_iter()
        .map(|service| (service, users.get(service.name()).cloned().unwrap_or_default()))
        .collect();
    files::public(&dir.path("nats").join(CLIENTS_FILE), nats_clients_conf(&new.id, &[]).as_bytes())?;
    for broker in Broker::all(new.replicas) {
        let mut conf = nats_server_conf(&topology, &broker_options(broker, new, &users));
        if new.layout == Layout::Containers {
            // For the health check alone: nobody outside the container reaches it.
            conf.push_str("http: \"127.0.0.1:8222\"\n");
        }
        files::public(&dir.path(broker.conf()), conf.as_bytes())?;
    }
    Ok(())
}

/// Gives the brokers of a cell that is there the permissions and the room that this version needs; they read them when they start.
/// Returns whether anything was changed.
pub(crate) fn renew_brokers(dir: &CellDir, cell: &CellFile) -> Result<bool, CliError> {
    let topology = Topology::embedded()
        .map_err(|error| CliError::caused_by("the list of streams cannot be read", &error))?;
    let of = Cell { id: cell.id.clone(), shards: cell.shards, replicas: cell.replicas };
    let mut changed = false;
    for broker in Broker::all(cell.replicas) {
        let path = dir.path(broker.conf());
        let conf = std::fs::read_to_string(&path).map_err(at(&path))?;
        let renewed = renewed_server_conf(&topology, &of, &conf);
        if renewed != conf {
            files::replace(&path, renewed.as_bytes())?;
            changed = true;
        }
    }
    Ok(changed)
}

fn broker_options(broker: Broker, new: &NewCell, users: &[(Service, Vec<String>)]) -> ServerOptions {
    let name = broker.name();
    let cluster = || {
        let (listen, routes) = addresses::routes(broker, new);
        let [certificate, key] = pki::route_certificate(broker).map(PathBuf::from);
        let ca_file = PathBuf::from(pki::ROUTES_CA);
        ClusterOptions { listen, routes, ca_file, cert_file: certificate, key_file: key }
    };
    ServerOptions {
        cell: Cell { id: new.id.clone(), shards: new.shards, replicas: new.replicas },
        server_name: format!("{}-{}", new.id, broker.number),
        cluster: (new.replicas == Replicas::Three).then(cluster),
        listen: match new.layout {
            Layout::Machine => format!("127.0.0.1:{}", addresses::NATS_PORT),
            Layout::Containers => format!("0.0.0.0:{}", addresses::NATS_PORT),
        },
        store_dir: PathBuf::from(broker.store(new.layout)),
        ca_file: PathBuf::from(pki::BROKER_CA),
        cert_file: PathBuf::from(format!("tls/{name}.pem")),
        key_file: PathBuf::from(format!("tls/{name}.key")),
        users: users.to_vec(),
    }
}

/// What only this service has.
fn own(settings: &mut Settings, service: &str, new: &NewCell) {
    let mut keystore = |key: &str, file: &str| {
        if new.hsm && (new.layout == Layout::Machine || service == "privacy") {
            return super::hsm::settings(service, &new.id, new.layout)
                .into_iter()
                .for_each(|(section, key, value)| settings.text(section, key, value));
        }
        settings.text("keystore", key, file);
        settings.text("keystore", "unlock_secret_file", format!("secrets/unlock-{service}"));
    };
    match service {
        "privacy" => keystore("buckets_file", "keystore/buckets.sks"),
        "identity" => {
            keystore("slot_file", "keystore/identity.sks");
            settings.text("store", "clients_file", "data/identity/clients.json");
            settings.text("store", "invitation_file", "identity/invitation.json");
            tokens(settings, new);
        }
        "audit" => {
            keystore("file", "keystore/audit.sks");
            settings.text("log", "folder", LOG_DIR);
            settings.text("log", "origin", log_origin(&new.id));
        }
        "ingress" => {
            keystore("file", "keystore/ingress.sks");
            tokens(settings, new);
        }
        _ => {}
    }
}

/// What tokens say: identity writes it into them and ingress demands it.
fn tokens(settings: &mut Settings, new: &NewCell) {
    settings.text("tokens", "issuer", issuer(new.issuer.as_deref(), &new.hosts));
    settings.text("tokens", "audience", format!("https://{}.sotto.internal", new.id));
}

/// Where clients find identity's metadata (RFC 8414): what the operator says, or its first host at the port that
/// `sotto up` serves tokens on. A cell without a host has clients on its own machine only, which are told the address.
fn issuer(told: Option<&str>, hosts: &[String]) -> String {
    match (told, hosts.first()) {
        (Some(issuer), _) => issuer.to_owned(),
        (None, Some(host)) if host.contains(':') => format!("https://[{host}]:{TOKEN_PORT}"),
        (None, Some(host)) => format!("https://{host}:{TOKEN_PORT}"),
        (None, None) => "https://identity.sotto.internal".to_owned(),
    }
}

/// The name of the cell's audit log.
pub(super) fn log_origin(cell: &CellId) -> String {
    format!("sotto.internal/audit/{cell}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_issuer_is_where_clients_find_its_metadata() {
        let hosts = |host: &str| vec![host.to_owned(), "second.example".to_owned()];
        assert_eq!(issuer(None, &[]), "https://identity.sotto.internal");
        assert_eq!(issuer(None, &hosts("sms.example.vn")), "https://sms.example.vn:7444");
        assert_eq!(issuer(None, &hosts("2001:db8::1")), "https://[2001:db8::1]:7444");
        assert_eq!(issuer(Some("https://id.example"), &hosts("sms.example.vn")), "https://id.example");
    }
}
