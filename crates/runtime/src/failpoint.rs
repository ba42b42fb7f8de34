//! Places at which a test lets a process die, and times that it shortens. Release builds have none of them.

use std::time::Duration;

/// Dies here as by kill -9, if a test has armed this place by a file of its name in `run/failpoints` of the folder that the
/// process works in. The file is taken away first: one process dies of it, once.
///
/// A place stands where a crash leaves something half done: stored and not told, told and not acknowledged.
#[cfg(debug_assertions)]
pub fn failpoint(name: &str) {
    use rustix::process::{Signal, getpid, kill_process};
    if std::fs::remove_file(std::path::Path::new("run/failpoints").join(name)).is_ok() {
        // A process may always kill itself.
        let _dead = kill_process(getpid(), Signal::KILL);
    }
}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
pub const fn failpoint(_name: &str) {}

/// A time of days, for tests: the milliseconds that are written in `run/times/<name>` of the folder that the process works
/// in.
#[cfg(debug_assertions)]
pub fn shortened(name: &str, usual: Duration) -> Duration {
    let file = std::fs::read_to_string(std::path::Path::new("run/times").join(name));
    file.ok().and_then(|text| text.trim().parse().ok()).map_or(usual, Duration::from_millis)
}

/// The time itself in a release build.
#[cfg(not(debug_assertions))]
pub const fn shortened(_name: &str, usual: Duration) -> Duration {
    usual
}
