//! The broker's whole configuration for a cell, generated: nobody writes permissions by hand.

use std::{fmt::Write as _, path::PathBuf};

use sotto_core::{CellId, TenantId};

use super::{Cell, Permissions, Topology, client_permissions, expand::whole, permissions};
use crate::Service;

/// The largest message the broker takes, bytes. A batch is cut at 512 KiB, so the double leaves room for headers, one
/// largest item and key wraps; more would only let one client hold more of the broker's memory.
pub const MAX_PAYLOAD: usize = 1_048_576;

/// Connections of the broker.
const CONNECTIONS: u32 = 1024;

/// Of these, connections of clients together: the services' own are not taken by them.
const CLIENT_CONNECTIONS: u32 = 512;

/// Subscriptions of one connection of a client; its library needs one or two.
const CLIENT_SUBSCRIPTIONS: u32 = 64;

/// The file beside the broker's configuration that lists the clients; it changes while the cell runs.
pub const CLIENTS_FILE: &str = "clients.conf";

/// A client that may ask over NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientUser {
    /// Its public nkey (`U…`).
    pub nkey: String,
    /// The tenant that it acts for.
    pub tenant: TenantId,
    /// Its id, a token of its inboxes: no dots, blanks or wildcards.
    pub client: String,
}

/// The text of [`CLIENTS_FILE`].
pub fn nats_clients_conf(cell: &CellId, clients: &[ClientUser]) -> String {
    let mut conf = String::new();
    // Writing to a String cannot fail.
    let _written = write_clients(&mut conf, cell, clients);
    conf
}

fn write_clients(out: &mut String, cell: &CellId, clients: &[ClientUser]) -> std::fmt::Result {
    writeln!(out, "# Who may ask over NATS in cell {cell}. Made by `sotto client nats`. Do not edit.")?;
    writeln!(out, "users: [")?;
    for ClientUser { nkey, tenant, client } in clients {
        write_user(out, client, nkey, &client_permissions(cell, tenant, client))?;
    }
    writeln!(out, "]")
}

/// How a broker finds the others of its cluster. Whoever is let in there is a broker and sees all: its authority signs
/// nothing else.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// `host:port` to listen on for the others.
    pub listen: String,
    /// `host:port` of each of the others; the host is in its certificate.
    pub routes: Vec<String>,
    /// The authority of the brokers' certificates for one another, PEM.
    pub ca_file: PathBuf,
    /// This broker's certificate for the others, PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
}

/// How lines begin that are found again.
const ROOM: &str = "  max_file_store: ";
const NAME: &str = "      # ";
const USER: &str = "      { nkey: \"";
const USER_END: &str = "      } }";

/// What the configuration needs to know beyond the list of streams.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The cell.
    pub cell: Cell,
    /// The server's name, unique in a cluster.
    pub server_name: String,
    /// The others, if it is not alone.
    pub cluster: Option<ClusterOptions>,
    /// `host:port` to listen on.
    pub listen: String,
    /// Where JetStream keeps its files.
    pub store_dir: PathBuf,
    /// The cell's CA, PEM: who may connect.
    pub ca_file: PathBuf,
    /// The server's certificate chain, PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
    /// Public nkeys (`U…`) of each service and tool; two each while one is being replaced.
    pub users: Vec<(Service, Vec<String>)>,
}

/// The text of `nats-server.conf`.
pub fn nats_server_conf(topology: &Topology, options: &ServerOptions) -> String {
    let mut conf = String::new();
    // Writing to a String cannot fail.
    let _written = write_conf(&mut conf, topology, options);
    conf
}

fn write_conf(out: &mut String, topology: &Topology, options: &ServerOptions) -> std::fmt::Result {
    let path = |path: &PathBuf| quoted(&path.display().to_string());
    writeln!(out, "# Generated from deploy/streams.toml for cell {}. Do not edit.", options.cell.id)?;
    writeln!(out, "server_name: {}", quoted(&options.server_name))?;
    writeln!(out, "listen: {}", quoted(&options.listen))?;
    writeln!(out, "max_payload: {MAX_PAYLOAD}")?;
    writeln!(out, "max_connections: {CONNECTIONS}")?;
    writeln!(out, "max_subscriptions: 4096")?;
    writeln!(out, "max_control_line: 4096")?;
    writeln!(out, "max_pending: 67108864")?;
    writeln!(out, "write_deadline: \"10s\"")?;
    writeln!(out, "ping_interval: \"20s\"")?;
    writeln!(out, "ping_max: 2")?;
    writeln!(out, "lame_duck_grace_period: \"2s\"")?;
    writeln!(out, "lame_duck_duration: \"30s\"")?;
    writeln!(out, "tls {{")?;
    writeln!(out, "  ca_file: {}", path(&options.ca_file))?;
    writeln!(out, "  cert_file: {}", path(&options.cert_file))?;
    writeln!(out, "  key_file: {}", path(&options.key_file))?;
    writeln!(out, "  verify: true")?;
    writeln!(out, "  handshake_first: true")?;
    writeln!(out, "  min_version: \"1.3\"")?;
    writeln!(out, "  timeout: 5")?;
    writeln!(out, "}}")?;
    writeln!(out, "jetstream {{")?;
    writeln!(out, "  store_dir: {}", path(&options.store_dir))?;
    writeln!(out, "  # INV-1: an acknowledged message is on disk, not in a page cache.")?;
    writeln!(out, "  sync_interval: always")?;
    writeln!(out, "  max_memory_store: 0")?;
    writeln!(out, "{}", room(topology))?;
    writeln!(out, "}}")?;
    if let Some(cluster) = &options.cluster {
        write_cluster(out, &options.cell.id, cluster)?;
    }
    writeln!(out, "accounts {{")?;
    writeln!(out, "  SOTTO {{")?;
    writeln!(out, "    jetstream: enabled")?;
    writeln!(out, "    users: [")?;
    for (service, keys) in &options.users {
        for key in keys {
            write_user(out, service.name(), key, &permissions(topology, *service, &options.cell))?;
        }
    }
    writeln!(out, "    ]")?;
    let asked = topology.requests.iter().map(|asked| asked.subject.clone()).collect::<Vec<_>>();
    let asked = whole(&options.cell.id, &asked);
    writeln!(out, "    exports: [")?;
    for subject in &asked {
        writeln!(out, "      {{ service: {}, accounts: [CLIENTS] }}", quoted(subject))?;
    }
    writeln!(out, "    ]")?;
    writeln!(out, "  }}")?;
    writeln!(out, "  # Clients: no JetStream, and of the cell's subjects only what they may ask.")?;
    writeln!(out, "  CLIENTS {{")?;
    writeln!(out, "    limits {{")?;
    writeln!(out, "      max_connections: {CLIENT_CONNECTIONS}")?;
    writeln!(out, "      max_subscriptions: {CLIENT_SUBSCRIPTIONS}")?;
    writeln!(out, "    }}")?;
    writeln!(out, "    include {}", quoted(CLIENTS_FILE))?;
    writeln!(out, "    imports: [")?;
    for subject in &asked {
        writeln!(out, "      {{ service: {{ account: SOTTO, subject: {} }} }}", quoted(subject))?;
    }
    writeln!(out, "    ]")?;
    writeln!(out, "  }}")?;
    writeln!(out, "}}")
}

/// The line that says how much streams may take. The broker reserves what they may grow to and refuses a stream beyond it.
fn room(topology: &Topology) -> String {
    let reserved: i64 = topology.streams.iter().map(|stream| stream.max_bytes).sum();
    format!("{ROOM}{reserved}")
}

/// The text that [`nats_server_conf`] wrote, with the room and the permissions of this list: what a cell that was made with another one
/// lacks. All else stays as it is: names, addresses, nkeys.
pub fn renewed_server_conf(topology: &Topology, cell: &Cell, conf: &str) -> String {
    let mut renewed = String::with_capacity(conf.len());
    let mut lines = conf.lines();
    let mut service: Option<Service> = None;
    while let Some(line) = lines.next() {
        let key = line.strip_prefix(USER).and_then(|rest| rest.split('"').next());
        match (service, key) {
            (Some(service), Some(key)) => {
                // Writing to a String cannot fail.
                let _written =
                    write_user(&mut renewed, service.name(), key, &permissions(topology, service, cell));
                lines.by_ref().find(|line| *line == USER_END);
            }
            // Written again with the user.
            (_, None) if service_of(line).is_some() => {}
            _ if line.starts_with(ROOM) => push(&mut renewed, &room(topology)),
            _ => push(&mut renewed, line),
        }
        service = service_of(line);
    }
    renewed
}

fn push(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

/// The service that a comment before a user names.
fn service_of(line: &str) -> Option<Service> {
    Service::ALL.into_iter().find(|service| line.strip_prefix(NAME) == Some(service.name()))
}

fn write_cluster(out: &mut String, cell: &CellId, cluster: &ClusterOptions) -> std::fmt::Result {
    let path = |path: &PathBuf| quoted(&path.display().to_string());
    writeln!(out, "cluster {{")?;
    writeln!(out, "  name: {}", quoted(cell.as_str()))?;
    writeln!(out, "  listen: {}", quoted(&cluster.listen))?;
    writeln!(out, "  # Services know all brokers from their configuration.")?;
    writeln!(out, "  no_advertise: true")?;
    writeln!(out, "  tls {{")?;
    writeln!(out, "    ca_file: {}", path(&cluster.ca_file))?;
    writeln!(out, "    cert_file: {}", path(&cluster.cert_file))?;
    writeln!(out, "    key_file: {}", path(&cluster.key_file))?;
    writeln!(out, "    verify: true")?;
    writeln!(out, "    min_version: \"1.3\"")?;
    writeln!(out, "    timeout: 5")?;
    writeln!(out, "  }}")?;
    writeln!(out, "  routes: [")?;
    for route in &cluster.routes {
        writeln!(out, "    {}", quoted(&format!("nats://{route}")))?;
    }
    writeln!(out, "  ]")?;
    writeln!(out, "}}")
}

fn write_user(out: &mut String, name: &str, key: &str, allowed: &Permissions) -> std::fmt::Result {
    writeln!(out, "{NAME}{name}")?;
    writeln!(out, "{USER}{key}\", permissions: {{")?;
    for (verb, subjects) in [("publish", &allowed.publish), ("subscribe", &allowed.subscribe)] {
        writeln!(out, "        {verb}: {{ allow: [")?;
        for subject in subjects {
            writeln!(out, "          {}", quoted(subject))?;
        }
        writeln!(out, "        ] }}")?;
    }
    writeln!(out, "{USER_END}")
}

/// A string of the configuration language: quoted, so that `$` starts no variable.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use std::{fs, num::NonZeroU16};

    use sotto_core::Shards;

    use super::*;

    fn options() -> ServerOptions {
        ServerOptions {
            cell: Cell {
                id: "vn".parse().unwrap(),
                shards: Shards::new(NonZeroU16::new(4).unwrap()),
                replicas: sotto_core::Replicas::One,
            },
            server_name: "vn-1".to_owned(),
            cluster: None,
            listen: "127.0.0.1:4222".to_owned(),
            store_dir: "/var/lib/sotto/nats".into(),
            ca_file: "/etc/sotto/ca.pem".into(),
            cert_file: "/etc/sotto/nats.pem".into(),
            key_file: "/etc/sotto/nats.key".into(),
            users: Service::ALL
                .iter()
                .map(|service| (*service, vec![format!("<public nkey of {service}>")]))
                .collect(),
        }
    }

    /// The example in `deploy/nats` is what people read; it must be what is generated.
    #[test]
    fn the_example_is_what_is_generated() {
        let text = nats_server_conf(&Topology::embedded().unwrap(), &options());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/nats/nats-server.example.conf");
        let committed = fs::read_to_string(path).unwrap_or_default();
        if committed != text {
            let made = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/nats-server.example.conf");
            fs::write(made, &text).unwrap();
            panic!("deploy/nats/nats-server.example.conf is stale; the new one is {made}");
        }
    }

    #[test]
    fn what_was_made_with_another_list_is_renewed_and_nothing_else_changes() {
        let topology = Topology::embedded().unwrap();
        let mut before = topology.clone();
        before.streams.retain(|stream| stream.name != "INDEX");
        let old = nats_server_conf(&before, &options());
        let new = nats_server_conf(&topology, &options());
        assert!(!old.contains("INDEX") && new.contains("INDEX"));
        let cell = options().cell;
        assert_eq!(renewed_server_conf(&topology, &cell, &old), new);
        assert_eq!(renewed_server_conf(&topology, &cell, &new), new);
        let more = format!("{old}http: \"127.0.0.1:8222\"\n");
        assert_eq!(renewed_server_conf(&topology, &cell, &more), format!("{new}http: \"127.0.0.1:8222\"\n"));
    }
}
