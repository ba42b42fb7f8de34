//! The configuration of the broker and of each service. Paths are relative to the cell's folder, in which `sotto up`
//! runs every process; what only a start knows (ports, the carriers file) comes by environment.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use sotto_bus::{
    Service, Topology,
    topology::{CLIENTS_FILE, Cell, ServerOptions, nats_clients_conf, nats_server_conf},
};

use sotto_core::CellId;

use super::{NewCell, files, pki};
use crate::{
    CliError,
    cell::{CellDir, SERVICES},
    commands::audit::LOG_DIR,
};

/// Where `sotto up` serves tokens unless it is told otherwise.
pub(crate) const TOKEN_PORT: u16 = 7444;

pub(super) fn create(
    dir: &CellDir,
    new: &NewCell,
    users: &BTreeMap<String, Vec<String>>,
) -> Result<(), CliError> {
    broker(dir, new, users)?;
    for service in SERVICES {
        let mut text = format!(
            "# Configuration of sotto-{service} in cell {id}. Made by `sotto init`; every option and its default:\n\
             # sotto-{service} --print-config\n\n\
             [cell]\nid = \"{id}\"\nshards = {shards}\n\n{nats}",
            id = new.id,
            shards = new.shards.count(),
            nats = nats(service),
        );
        // Routing has no listener and asks nobody but the broker.
        if service != "routing" {
            text.push_str(&tls(service));
        }
        if ["ingress", "carrier", "identity"].contains(&service) {
            let _written = write!(
                text,
                "[redis]\nusername = \"{service}\"\npassword_file = \"secrets/redis-{service}\"\n\n"
            );
        }
        text.push_str(&own(service, new));
        files::public(&dir.config(service), text.as_bytes())?;
    }
    Ok(())
}

fn broker(dir: &CellDir, new: &NewCell, users: &BTreeMap<String, Vec<String>>) -> Result<(), CliError> {
    let topology = Topology::embedded()
        .map_err(|error| CliError::caused_by("the list of streams cannot be read", &error))?;
    let users = Service::ALL
        .into_iter()
        .map(|service| (service, users.get(service.name()).cloned().unwrap_or_default()))
        .collect();
    let options = ServerOptions {
        cell: Cell { id: new.id.clone(), shards: new.shards, replicas: 1 },
        server_name: format!("{}-1", new.id),
        listen: "127.0.0.1:4222".to_owned(),
        store_dir: PathBuf::from("data/nats"),
        ca_file: PathBuf::from(pki::BROKER_CA),
        cert_file: PathBuf::from("tls/nats.pem"),
        key_file: PathBuf::from("tls/nats.key"),
        users,
    };
    files::public(&dir.path("nats").join(CLIENTS_FILE), nats_clients_conf(&new.id, &[]).as_bytes())?;
    files::public(&dir.path("nats/nats-server.conf"), nats_server_conf(&topology, &options).as_bytes())
}

fn nats(service: &str) -> String {
    format!(
        "[nats]\n\
         ca_file = \"tls/ca.pem\"\n\
         cert_file = \"tls/{service}.pem\"\n\
         key_file = \"tls/{service}.key\"\n\
         nkey_seed_file = \"nats/nkeys/{service}.current.seed\"\n\n"
    )
}

fn tls(service: &str) -> String {
    format!(
        "[tls]\n\
         ca_file = \"tls/ca.pem\"\n\
         cert_file = \"tls/{service}.pem\"\n\
         key_file = \"tls/{service}.key\"\n\n"
    )
}

/// What only this service has.
fn own(service: &str, new: &NewCell) -> String {
    let listen = "[grpc]\nlisten = \"127.0.0.1:0\"\n";
    let unlock = format!("unlock_secret_file = \"secrets/unlock-{service}\"\n");
    match service {
        "privacy" => format!("{listen}\n[keystore]\nbuckets_file = \"keystore/buckets.sks\"\n{unlock}"),
        "identity" => format!(
            "{listen}\n[keystore]\nslot_file = \"keystore/identity.sks\"\n{unlock}\n\
             [store]\nclients_file = \"data/identity/clients.json\"\n\
             invitation_file = \"identity/invitation.json\"\n\n{}",
            tokens(new)
        ),
        "audit" => format!(
            "{listen}\n[keystore]\nfile = \"keystore/audit.sks\"\n{unlock}\n\
             [log]\nfolder = \"{LOG_DIR}\"\norigin = \"{}\"\n",
            log_origin(&new.id)
        ),
        // Its default port would be the same for every cell of the machine.
        "ingress" => format!(
            "[ops]\nlisten = \"127.0.0.1:0\"\n\n[keystore]\nfile = \"keystore/ingress.sks\"\n{unlock}\n{}",
            tokens(new)
        ),
        _ => String::new(),
    }
}

/// What tokens say: identity writes it into them and ingress demands it.
fn tokens(new: &NewCell) -> String {
    format!(
        "[tokens]\nissuer = \"{}\"\naudience = \"https://{}.sotto.internal\"\n",
        issuer(new.issuer.as_deref(), &new.hosts),
        new.id
    )
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
