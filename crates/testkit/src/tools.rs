//! Finds the servers that tests start.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{wait::must, workspace};

/// The oldest nats-server with atomic batches, delayed messages and per-message TTL.
const NATS_MIN: (u32, u32) = (2, 12);

/// `nats-server` 2.12 or newer, from `.tools/bin` or the PATH.
///
/// # Panics
/// When there is none, or only an older one.
pub fn nats_server() -> PathBuf {
    let path = find("nats-server");
    let output = must("nats-server --version", Command::new(&path).arg("--version").output());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        nats_version(&text).is_some_and(|version| version >= NATS_MIN),
        "{} is {}; at least {}.{} is needed. Install it with: make setup",
        path.display(),
        text.trim(),
        NATS_MIN.0,
        NATS_MIN.1
    );
    path
}

/// `redis-server`, from `.tools/bin` or the PATH.
///
/// # Panics
/// When there is none.
pub fn redis_server() -> PathBuf {
    find("redis-server")
}

/// `promtool` of Prometheus, from `.tools/bin` or the PATH.
///
/// # Panics
/// When there is none.
pub fn promtool() -> PathBuf {
    find("promtool")
}

/// `prometheus`, from `.tools/bin` or the PATH.
///
/// # Panics
/// When there is none.
pub fn prometheus() -> PathBuf {
    find("prometheus")
}

/// The Python of `.tools`, which has grpcio.
///
/// # Panics
/// When there is none.
pub fn python() -> PathBuf {
    installed("python").unwrap_or_else(|| missing("python (with grpcio)"))
}

/// A program that `make interop` installs: from `.tools/interop/bin`, the PATH or `/usr/sbin`.
///
/// # Panics
/// When there is none.
pub fn foreign(name: &str) -> PathBuf {
    let own = Some(workspace().join(".tools/interop/bin").join(name)).filter(|path| path.exists());
    let system = || Some(Path::new("/usr/sbin").join(name)).filter(|path| path.is_file());
    own.or_else(|| on_path(name)).or_else(system).unwrap_or_else(|| {
        panic!("{name} is not installed on this machine. Install it with: deploy/tools/setup.sh interop")
    })
}

/// `buf`, from `.tools/bin` or the PATH.
///
/// # Panics
/// When there is none.
pub fn buf() -> PathBuf {
    find("buf")
}

/// A binary of ours, built by the same profile as the running test: `target/<profile>/<name>`.
///
/// # Panics
/// When it has not been built.
pub fn built(name: &str) -> PathBuf {
    let test = must("the running test's path", std::env::current_exe());
    // target/<profile>/deps/<test>
    let folder = test.ancestors().nth(2).unwrap_or(Path::new("target/debug"));
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not built. Build it with: cargo build --bin {name}", path.display());
    path
}

fn find(name: &str) -> PathBuf {
    installed(name).or_else(|| on_path(name)).unwrap_or_else(|| missing(name))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn installed(name: &str) -> Option<PathBuf> {
    Some(workspace().join(".tools/bin").join(name)).filter(|path| path.exists())
}

fn missing(name: &str) -> PathBuf {
    panic!("{name} is not installed on this machine. Install it with: make setup")
}

/// From `nats-server: v2.15.1`.
fn nats_version(text: &str) -> Option<(u32, u32)> {
    let (_, version) = text.trim().split_once(": v")?;
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_12s_nats_server_is_too_old() {
        assert!(nats_version("nats-server: v2.9.10\n").unwrap() < NATS_MIN);
        assert!(nats_version("nats-server: v2.15.1\n").unwrap() >= NATS_MIN);
        assert_eq!(nats_version("something else"), None);
    }
}
