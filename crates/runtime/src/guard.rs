//! What a process asks of the kernel for itself.

use std::io;

use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

/// Keeps this process's memory out of core files, and out of the reach of other processes of the same user (ptrace,
/// `/proc/<pid>/mem`). Root still reads it.
pub(crate) fn keep_memory_in() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Raises the limit of open files and sockets to what this process may raise it to. Where nobody says anything the lower one is 1,024,
/// made for programs that use `select`, and as many connections would leave no room for the rest.
pub(crate) fn open_as_many_files_as_allowed() -> io::Result<()> {
    let allowed = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, ..allowed })?;
    Ok(())
}

/// Asks for SIGTERM when the parent ends. To be exact, when the thread of the parent that started this process ends:
/// start it from one that lives as long as the parent. `parent` is its process id; 0 when it is not known, and then a
/// parent that ended before this call is not noticed.
pub(crate) fn die_with_parent(parent: u32) -> io::Result<()> {
    let before = getppid();
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // It may have ended before the kernel knew of our wish: then another process is the parent by now.
    let now = getppid();
    let named = parent == 0 || raw(now) == i64::from(parent);
    if now == before && named { Ok(()) } else { Err(io::Error::other("the parent process has ended")) }
}

fn raw(pid: Option<Pid>) -> i64 {
    pid.map_or(0, |pid| i64::from(pid.as_raw_nonzero().get()))
}
