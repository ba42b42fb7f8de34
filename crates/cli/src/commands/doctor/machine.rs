//! The machine: programs, space, clock.

use std::process::Command;

use sotto_core::Clock;

use super::Finding;
use crate::cell::{CellDir, Layout};

/// The oldest broker that does what the streams need: atomic batches and per-message TTL.
const OLDEST_NATS: (u64, u64) = (2, 12);

/// The oldest Redis that the scripts and the users' file were made for.
const OLDEST_REDIS: (u64, u64) = (7, 0);

/// Below this much free space the broker soon refuses to store.
const LITTLE_SPACE: u64 = 2 << 30;

pub(super) fn look(dir: &CellDir, clock: &dyn Clock) -> Vec<Finding> {
    // In containers broker and Redis bring their own.
    let containers = dir.open().is_ok_and(|cell| cell.layout == Layout::Containers);
    let mut findings = if containers { Vec::new() } else { programs() };
    findings.push(space(dir));
    findings.extend(clocks(dir, clock));
    findings
}

fn programs() -> Vec<Finding> {
    vec![
        program("nats-server", OLDEST_NATS, |told| told.rsplit('v').next().map(str::to_owned)),
        program("redis-server", OLDEST_REDIS, |told| {
            told.split_whitespace().find_map(|word| word.strip_prefix("v=")).map(str::to_owned)
        }),
    ]
}

fn program(name: &str, oldest: (u64, u64), version: impl Fn(&str) -> Option<String>) -> Finding {
    let what = format!("{name}, {}.{} or newer", oldest.0, oldest.1);
    let told = Command::new(name).arg("--version").output();
    let result = match told {
        Err(_) => Err("is not on the PATH".to_owned()),
        Ok(told) => {
            let told = String::from_utf8_lossy(&told.stdout).trim().to_owned();
            let version = version(&told).unwrap_or(told);
            if at_least(&version, oldest) { Ok(()) } else { Err(format!("is {version}, too old")) }
        }
    };
    Finding::of(what, result, "install it: make setup")
}

fn at_least(version: &str, oldest: (u64, u64)) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u64>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= oldest
}

fn space(dir: &CellDir) -> Finding {
    let folder = if dir.root().exists() { dir.root() } else { std::path::Path::new(".") };
    let what = "free disk space";
    match rustix::fs::statvfs(folder) {
        Ok(about) => {
            let free = about.f_bavail.saturating_mul(about.f_frsize);
            let told = format!("{:.1} GiB left at {}", gibibytes(free), folder.display());
            if free >= LITTLE_SPACE {
                Finding::fine(format!("{what}: {told}"))
            } else {
                Finding::wrong(what, told, "make room, or move the cell to another disk while it is down")
            }
        }
        Err(error) => Finding::wrong(what, error.to_string(), "check that the disk is mounted"),
    }
}

/// For people: a tenth is exact enough.
fn gibibytes(bytes: u64) -> f64 {
    let tenths = bytes / ((1 << 30) / 10);
    f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
}

/// Validities, certificates and tokens all hang on the clock.
fn clocks(dir: &CellDir, clock: &dyn Clock) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Ok(cell) = dir.open() {
        let now = clock.now();
        let born = cell.created_at.parse::<jiff::Timestamp>().map(|at| at.as_millisecond());
        let result = match born {
            Ok(born) if now.unix_millis() < born => {
                Err(format!("it says {now}, and the cell was made at {}", cell.created_at))
            }
            Ok(_) | Err(_) => Ok(()),
        };
        findings.push(Finding::of("the clock", result, "set the clock"));
    }
    let told =
        Command::new("timedatectl").args(["show", "--property", "NTPSynchronized", "--value"]).output();
    if told.is_ok_and(|told| told.stdout.starts_with(b"no")) {
        findings.push(Finding::note("time service", "the machine's clock is not synchronised (timedatectl)"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for (version, fine) in
            [("2.12.1", true), ("2.15", true), ("10.0.0", true), ("2.9.25", false), ("", false)]
        {
            assert_eq!(at_least(version, OLDEST_NATS), fine, "{version}");
        }
    }

    #[test]
    fn space_is_told_in_tenths() {
        assert_eq!(format!("{:.1}", gibibytes(3 << 29)), "1.5");
    }
}
