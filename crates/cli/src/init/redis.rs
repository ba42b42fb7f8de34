//! Redis of a cell: TLS only, one user and one key prefix a service.

use std::fmt::Write as _;

use sotto_core::CellId;
use sotto_crypto::{hash::sha256, random::random_array};

use super::{NewCell, addresses::REDIS_PORT, files, hex};
use crate::{
    CliError,
    cell::{CellDir, Layout},
};

/// Services that use Redis.
pub(super) const USERS: [&str; 3] = ["ingress", "carrier", "identity"];

/// What a service may do: read and write keys under its own prefix, and run its scripts. `INFO` tells a script which
/// run of the server it talks to (docs/adr/0005). Nothing that lists, flushes or administers.
const COMMANDS: &str = "-@all +@read +@write +@scripting +@transaction +@connection +time -@dangerous +info";

/// What ingress may do beside its own: look whether the connectors' memory is whole, and mark messages as cancelled there
/// (`sotto_core::cancel`).
const CANCELLATION: &str = " %R~sotto:carrier:{s*}:ready ~sotto:carrier:{s*}:sent:*";

/// The password of the user by which one of two servers copies the other, and is promoted. A cell with one server has no such
/// file.
pub(crate) const REPLICA_PASSWORD: &str = "secrets/redis-replica";

/// What that user may do: copy, change who leads, and open the port of who leads.
const REPLICA_COMMANDS: &str = "-@all +psync +replconf +ping +replicaof +config|set +info";

/// Makes `redis/users.acl`, `redis/redis.conf` and a password file for every user.
pub(super) fn create(dir: &CellDir, new: &NewCell) -> Result<(), CliError> {
    // Nobody can be the default user: it is off and has no password. Yet it is whom Redis loads an append-only file as, where
    // somebody turns that on, and whatever that user may not do is left out of every transaction in there, with an error in
    // the log alone.
    let mut acl = String::from("user default off resetpass allkeys allchannels +@all\n");
    for user in USERS {
        let hash = password(dir, user)?;
        let also = if user == "ingress" { CANCELLATION } else { "" };
        writeln!(acl, "user {user} on #{hash} ~sotto:{user}:*{also} resetchannels {COMMANDS}")
            .map_err(fmt_failed)?;
    }
    if new.has_second_redis() {
        let hash = password(dir, "replica")?;
        writeln!(acl, "user replica on #{hash} {REPLICA_COMMANDS}").map_err(fmt_failed)?;
    }
    // For people in an emergency (docs/runbooks): no service knows its password.
    let hash = password(dir, "admin")?;
    writeln!(acl, "user admin on #{hash} allkeys allchannels +@all").map_err(fmt_failed)?;
    files::secret(&dir.path("redis/users.acl"), acl.as_bytes())?;
    files::public(&dir.path("redis/redis.conf"), configuration(&new.id, new.layout).as_bytes())?;
    files::folder_of_owner(&dir.path("data/redis"))
}

fn password(dir: &CellDir, user: &str) -> Result<String, CliError> {
    let random = random_array::<32>().map_err(|error| CliError::caused_by("no randomness", &error))?;
    let password = hex(&random);
    files::secret(&dir.path(format!("secrets/redis-{user}")), password.as_bytes())?;
    Ok(hex(&sha256(password.as_bytes())))
}

fn fmt_failed(error: std::fmt::Error) -> CliError {
    CliError::caused_by("the Redis users could not be written", &error)
}

/// Redis goes into its `dir` before it opens anything else, so paths are relative to that. `sotto up` adds the port.
fn configuration(cell: &CellId, layout: Layout) -> String {
    let listen = match layout {
        Layout::Machine => "bind 127.0.0.1 -::1\nport 0\n".to_owned(),
        // The socket, in `dir`, is for the health check alone, which has no certificate.
        Layout::Containers => {
            format!(
                "bind 0.0.0.0\nport 0\ntls-port {REDIS_PORT}\nunixsocket redis.sock\nunixsocketperm 700\n"
            )
        }
    };
    format!(
        "# Redis of Sotto cell {cell}. Made by `sotto init`.\n\
         # Losing all of it loses no message: it is rebuilt from the log (docs/ARCHITECTURE.md, INV-9).\n\
         {listen}\
         tls-cert-file ../../tls/redis.pem\n\
         tls-key-file ../../tls/redis.key\n\
         tls-ca-cert-file ../../tls/ca.pem\n\
         tls-auth-clients yes\n\
         tls-protocols \"TLSv1.2 TLSv1.3\"\n\
         aclfile ../../redis/users.acl\n\
         daemonize no\n\
         dir data/redis\n\
         appendonly no\n\
         save \"\"\n\
         maxmemory-policy noeviction\n\
         timeout 0\n\
         tcp-keepalive 60\n"
    )
}
