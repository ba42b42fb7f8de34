//! One `sotto up` a cell, and never two brokers on one folder.
//!
//! The lock is an open file. Every child gets it as its standard input, so that it is held as long as any process of
//! the cell lives: also those that outlive a `sotto up` which was killed.

use std::{fs::File, path::Path, process::Stdio};

use crate::{CliError, cell::CellDir, error::at};

/// The lock, held.
#[derive(Debug)]
pub(crate) struct Lock(File);

/// A process of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) id: u32,
    pub(crate) name: String,
}

impl Lock {
    /// Takes it, or says who holds it.
    pub(crate) fn take(dir: &CellDir) -> Result<Self, CliError> {
        let path = dir.path("run/lock");
        let mut options = File::options();
        // Readable, so that a child which reads its standard input finds its end and no error.
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(at(&path))?;
        file.try_lock().map_err(|_| {
            let supervisor = dir.running().ok().and_then(|running| running.supervisor);
            refused(dir.root(), supervisor, &holders(dir))
        })?;
        Ok(Self(file))
    }

    /// As a child's standard input: holds it for the child's life.
    pub(super) fn share(&self) -> std::io::Result<Stdio> {
        self.0.try_clone().map(Stdio::from)
    }
}

/// The processes that hold a cell's lock. Where the kernel does not tell (no `/proc`, or a process that hides its files,
/// as our services do from all but root), those of `run/cell.json` that live.
pub(crate) fn holders(dir: &CellDir) -> Vec<Holder> {
    let known = dir.running().map(|running| running.processes).unwrap_or_default();
    let mut found = match std::fs::canonicalize(dir.path("run/lock")) {
        Ok(lock) => in_proc(&lock),
        Err(_) => Vec::new(),
    };
    for (name, id) in known {
        if let Some(holder) = found.iter_mut().find(|holder| holder.id == id) {
            holder.name = name;
        } else if lives(id) && std::fs::read_dir(format!("/proc/{id}/fd")).is_err() {
            found.push(Holder { id, name });
        }
    }
    found.sort_by_key(|holder| holder.id);
    found
}

/// Whether there is a process with this id.
pub(crate) fn lives(id: u32) -> bool {
    let id = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw);
    id.is_some_and(|id| rustix::process::test_kill_process(id).is_ok())
}

fn in_proc(lock: &Path) -> Vec<Holder> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let holder = |process: &Path| {
        let id = process.file_name()?.to_str()?.parse().ok().filter(|id| *id != std::process::id())?;
        let mut files = std::fs::read_dir(process.join("fd")).ok()?.flatten();
        files.find(|file| std::fs::read_link(file.path()).is_ok_and(|to| to == lock))?;
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
        Some(Holder { id, name })
    };
    processes.filter_map(|process| holder(&process.path())).collect()
}

fn refused(root: &Path, supervisor: Option<u32>, holders: &[Holder]) -> CliError {
    let root = root.display();
    let upper = holders.iter().find(|holder| supervisor == Some(holder.id) || holder.name == "sotto");
    if let Some(Holder { id, .. }) = upper {
        return CliError::new(format!("the cell in {root} is running already (sotto up, process {id})"))
            .fix(format!("stop it first: Ctrl-C where it runs, or kill {id}"));
    }
    if holders.is_empty() {
        return CliError::new(format!("the cell in {root} is running already"))
            .fix("stop it first: Ctrl-C where it runs");
    }
    let listed: Vec<_> = holders.iter().map(|holder| format!("{} ({})", holder.name, holder.id)).collect();
    let ids: Vec<_> = holders.iter().map(|holder| holder.id.to_string()).collect();
    CliError::new(format!(
        "the `sotto up` of the cell in {root} is gone, but some of what it started still runs: {}",
        listed.join(", ")
    ))
    .fix(format!("wait until they end, or end them: kill {}", ids.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(id: u32, name: &str) -> Holder {
        Holder { id, name: name.to_owned() }
    }

    #[test]
    fn a_refusal_says_whom_to_stop() {
        let root = Path::new("cell");
        let runs = refused(root, Some(7), &[holder(7, "sotto"), holder(8, "redis-server")]);
        assert!(runs.to_string().contains("process 7"), "{runs}");
        // While it starts there is no run/cell.json yet.
        assert!(refused(root, None, &[holder(7, "sotto")]).to_string().contains("process 7"));
        let left = refused(root, Some(7), &[holder(8, "redis-server"), holder(9, "ingress")]);
        assert!(left.to_string().contains("redis-server (8), ingress (9)"), "{left}");
        assert!(left.remedy().unwrap().ends_with("kill 8 9"));
    }

    #[test]
    fn the_lock_lives_as_long_as_a_child_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let dir = CellDir::new(folder.path());
        std::fs::create_dir(dir.path("run")).unwrap();
        let lock = Lock::take(&dir).unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("60").stdin(lock.share().unwrap()).spawn().unwrap();
        drop(lock);
        let refusal = Lock::take(&dir).unwrap_err();
        let id = child.id();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(refusal.to_string().contains(&format!("sleep ({id})")), "{refusal}");
        Lock::take(&dir).unwrap();
    }
}
