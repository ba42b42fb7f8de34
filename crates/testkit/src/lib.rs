//! Real servers and processes for tests: NATS, Redis, certificates, a network that fails on command.
//!
//! Dev only. What is missing on the machine fails the test with the command that installs it; nothing is skipped.
//! Everything started here ends with its value. Waiting is always for a condition, with a bound; the polling in
//! [`wait`] is the only sleep that tests need.
#![expect(
    clippy::panic,
    reason = "a broken test environment must fail the test at once and say why; there is no one to handle an error"
)]

pub mod canary;
pub mod chaos;
pub mod disk;
pub mod nats;
pub mod pki;
pub mod process;
pub mod redis;
pub mod routes;
pub mod softhsm;
pub mod tools;
pub mod wait;

pub use chaos::ChaosProxy;
pub use disk::Disk;
pub use nats::{NatsOptions, NatsServer};
pub use pki::{CertFiles, Pki};
pub use process::Process;
pub use redis::{RedisOptions, RedisServer};
pub use routes::Routes;
pub use softhsm::SoftHsm;
pub use wait::{eventually, eventually_ok};

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Writes a secret's file as `sotto init` does: closed to everybody else.
///
/// # Panics
/// When it cannot be written.
pub fn write_secret(path: &Path, secret: impl AsRef<[u8]>) {
    let mut file = wait::must(
        "a secret's file",
        fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path),
    );
    wait::must("a secret's file", file.write_all(secret.as_ref()));
}

/// A port that was free a moment ago, for servers that cannot pick one themselves.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = wait::must("a free port", TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    wait::must("a free port", listener.local_addr()).port()
}

/// The workspace's folder.
pub fn workspace() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Into::into).unwrap_or_default()
}
