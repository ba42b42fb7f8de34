//! What processes cost: processor time and memory, as the kernel tells them (proc(5)).

use std::{collections::BTreeMap, fs, path::Path};

use crate::CliError;

/// Kernel ticks a second in `/proc/PID/stat` (`USER_HZ`): 100 on every Linux that Rust runs on.
const TICKS_A_SECOND: f64 = 100.0;

/// Of one process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Seconds of processor time since its start.
    pub(super) cpu: f64,
    /// The most memory it ever had resident, bytes.
    pub(super) peak: u64,
    /// The memory it has resident now, bytes.
    pub(super) resident: u64,
}

/// Of each process by its name.
pub(super) fn of(processes: &BTreeMap<String, u32>) -> Result<BTreeMap<String, Usage>, CliError> {
    processes
        .iter()
        .map(|(name, pid)| {
            let usage = read(Path::new("/proc").join(pid.to_string()).as_path()).ok_or_else(|| {
                CliError::new(format!("what {name} uses cannot be read"))
                    .fix("it must run, and this machine must have /proc (Linux)")
            })?;
            Ok((name.clone(), usage))
        })
        .collect()
}

/// Seconds of processor time of each process between two looks, for a thousand of so many thousand messages.
pub(super) fn cpu_of(
    before: &BTreeMap<String, Usage>,
    after: &BTreeMap<String, Usage>,
    thousands: f64,
) -> BTreeMap<String, f64> {
    let used = |name: &str, after: &Usage| after.cpu - before.get(name).map_or(0.0, |before| before.cpu);
    after.iter().map(|(name, after)| (name.clone(), used(name, after) / thousands)).collect()
}

fn read(process: &Path) -> Option<Usage> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let status = fs::read_to_string(process.join("status")).ok()?;
    Some(Usage { cpu: cpu(&stat)?, peak: memory(&status, "VmHWM:")?, resident: memory(&status, "VmRSS:")? })
}

/// `utime` and `stime`: fields 14 and 15. The name in field 2 may hold anything, so it is counted from its end.
fn cpu(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_A_SECOND)
}

fn memory(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Bytes of the files below a folder.
pub(super) fn stored(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => stored(&entry.path()),
            // A file that goes meanwhile has no size any more.
            _ => entry.metadata().map_or(0, |file| file.len()),
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_tells() {
        let stat = "17 (a) b (c) S 1 17 17 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1 1";
        assert_eq!(cpu(stat), Some(3.0));
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!((memory(status, "VmHWM:"), memory(status, "VmRSS:")), (Some(2 << 20), Some(1 << 10)));
        assert_eq!((cpu("17 S"), memory("Name: x", "VmHWM:")), (None, None));
        let me = of(&BTreeMap::from([("me".to_owned(), std::process::id())])).unwrap();
        assert!(me["me"].peak > 1 << 20);
    }
}
