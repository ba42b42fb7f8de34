//! Where the processes of a cell listen, and where others find them.

use std::collections::BTreeMap;

use super::{NewCell, TOKEN_PORT};
use crate::cell::{Broker, Layout, Running, SERVICES};

/// Of every service in containers: `/live`, `/ready`, `/info`.
const ADMIN_PORT: u16 = 7450;

/// Ports of the processes in containers, each of which has an address of its own.
pub(super) const NATS_PORT: u16 = 4222;
/// On which brokers of a cluster reach one another; on one machine this one and the two after it.
pub(super) const ROUTES_PORT: u16 = 6222;
pub(super) const REDIS_PORT: u16 = 6379;
pub(super) const SMPP_PORT: u16 = 2775;
pub(super) const SIMULATOR_ADMIN_PORT: u16 = 2776;
const INGRESS_PORT: u16 = 7443;
const INGRESS_OPS_PORT: u16 = 7402;
const IDENTITY_PORT: u16 = 7404;
const PRIVACY_PORT: u16 = 7405;
const AUDIT_PORT: u16 = 7406;
const CARRIER_PORT: u16 = 7407;

/// Listeners of a service in containers, by the section of its configuration.
fn listeners(service: &str) -> Vec<(&'static str, u16)> {
    let own = match service {
        "ingress" => vec![("grpc", INGRESS_PORT), ("ops", INGRESS_OPS_PORT)],
        "identity" => vec![("https", TOKEN_PORT), ("grpc", IDENTITY_PORT)],
        "privacy" => vec![("grpc", PRIVACY_PORT)],
        "audit" => vec![("grpc", AUDIT_PORT)],
        "carrier" => vec![("grpc", CARRIER_PORT)],
        _ => Vec::new(),
    };
    own.into_iter().chain([("admin", ADMIN_PORT)]).collect()
}

/// Where a process in a container of its own is found.
pub(super) fn name(process: &str, new: &NewCell) -> String {
    format!("{process}.{}", new.domain)
}

/// The same with a port.
fn of(process: &str, port: u16, new: &NewCell) -> String {
    format!("{}:{port}", name(process, new))
}

/// The brokers of a cell in containers, as services are told them.
fn brokers(new: &NewCell) -> String {
    let urls: Vec<_> = Broker::all(new.replicas)
        .map(|broker| format!("tls://{}", of(&broker.name(), NATS_PORT, new)))
        .collect();
    urls.join(",")
}

/// Where a broker listens for the others of its cluster, and where each of them is found.
pub(super) fn routes(broker: Broker, new: &NewCell) -> (String, Vec<String>) {
    let port = |broker: Broker| ROUTES_PORT + u16::from(broker.number) - 1;
    match new.layout {
        Layout::Machine => (
            format!("127.0.0.1:{}", port(broker)),
            broker.others().map(|other| format!("127.0.0.1:{}", port(other))).collect(),
        ),
        Layout::Containers => (
            format!("0.0.0.0:{ROUTES_PORT}"),
            broker.others().map(|other| of(&other.name(), ROUTES_PORT, new)).collect(),
        ),
    }
}

/// Where a cell in containers is found: `run/cell.json`.
pub(super) fn running(new: &NewCell) -> Running {
    let services = SERVICES.into_iter().flat_map(|service| {
        listeners(service)
            .into_iter()
            .map(move |(listener, port)| (format!("{service}.{listener}"), of(service, port, new)))
    });
    let foreign = [
        ("redis".to_owned(), of("redis", REDIS_PORT, new)),
        ("simulator.smpp".to_owned(), of("simulator", SMPP_PORT, new)),
        ("simulator.admin".to_owned(), of("simulator", SIMULATOR_ADMIN_PORT, new)),
    ];
    Running {
        supervisor: None,
        nats: brokers(new),
        processes: BTreeMap::new(),
        addresses: services.chain(foreign).collect(),
    }
}

/// What a service's configuration says of addresses: section, key and value. On one machine `sotto up` tells most of them by
/// environment; what is here keeps cells of one machine apart.
pub(super) fn settings(service: &str, new: &NewCell) -> Vec<(&'static str, &'static str, String)> {
    match new.layout {
        Layout::Machine => {
            let listener = match service {
                "privacy" | "identity" | "audit" => Some("grpc"),
                "ingress" => Some("ops"),
                _ => None,
            };
            listener.map(|section| (section, "listen", "127.0.0.1:0".to_owned())).into_iter().collect()
        }
        Layout::Containers => {
            let mut settings: Vec<_> = listeners(service)
                .into_iter()
                .map(|(section, port)| (section, "listen", format!("0.0.0.0:{port}")))
                .collect();
            settings.push(("nats", "url", brokers(new)));
            if super::redis::USERS.contains(&service) {
                settings.push(("redis", "url", format!("rediss://{}", of("redis", REDIS_PORT, new))));
            }
            if ["ingress", "carrier"].contains(&service) {
                settings.push((
                    "privacy",
                    "endpoint",
                    format!("https://{}", of("privacy", PRIVACY_PORT, new)),
                ));
            }
            if service == "ingress" {
                let keys = format!("https://{}/.well-known/jwks.json", of("identity", TOKEN_PORT, new));
                settings.push(("tokens", "jwks_url", keys));
            }
            if ["ingress", "routing", "carrier"].contains(&service) {
                settings.push(("carriers", "file", crate::cell::CARRIERS.to_owned()));
            }
            settings
        }
    }
}
