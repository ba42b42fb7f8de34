//! A disk whose power can be cut, and which can be slow: what was written and not synced is gone.
//!
//! A file system of its own (ext4 in a file) is shut down at a moment without writing anything back, journal included
//! (`FS_IOC_SHUTDOWN`), and mounted again: that is what the next start would find. It needs root and loop devices. How much is written
//! to it in a second is bounded by the block layer, for everybody (cgroup v1, `blkio`).

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::wait::{eventually, must};

/// Until files that were open on it are closed.
const CLOSED: Duration = Duration::from_secs(20);

/// Where the kernel is told how many writes a second a device takes from all.
const THROTTLE: &str = "/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device";

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// A mounted disk. It ends with this value.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// A new one, empty.
    ///
    /// # Panics
    /// When it cannot be made or mounted.
    pub fn new() -> Self {
        Self::of(2 << 30)
    }

    /// The same of so many bytes, 16 MiB or more.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn of(bytes: u64) -> Self {
        let disk = Self { folder: must("a temporary folder", TempDir::with_prefix("sotto-disk-")) };
        let image = must("the disk's file", std::fs::File::create(disk.image()));
        must("the disk's size", image.set_len(bytes));
        must("the mount point", std::fs::create_dir(disk.path()));
        run("mkfs.ext4", ["-q".as_ref(), "-F".as_ref(), disk.image().as_os_str()]);
        disk.power_on();
        disk
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Cuts its power: every write from now on fails, and what was not synced before is lost.
    ///
    /// # Panics
    /// When the file system cannot be shut down.
    pub fn cut_power(&self) {
        run("python3", ["-c".as_ref(), SHUT_DOWN.as_ref(), self.path().as_os_str()]);
    }

    /// Whether this machine can make it slow.
    pub fn may_be_slow() -> bool {
        Path::new(THROTTLE).exists()
    }

    /// Takes at most so many writes a second from now on; none: as many as it can. A sync takes four or more.
    ///
    /// # Panics
    /// Where [`Self::may_be_slow`] says no, and when the kernel refuses.
    pub fn limit(&self, writes: Option<u32>) {
        if let Some(device) = self.device() {
            let rule = format!("{device} {}", writes.unwrap_or(0));
            must("a bound on the disk's writes", std::fs::write(THROTTLE, rule));
        }
    }

    /// Writes a file until there is no room for a byte, and leaves it there.
    ///
    /// # Panics
    /// When the file cannot be made.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("filling");
        let mut file = must("a file", std::fs::File::create(&path));
        let mut piece = vec![0x5A; 1 << 20];
        while !piece.is_empty() {
            if file.write_all(&piece).and_then(|()| file.sync_all()).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        path
    }

    /// Its device as the kernel names it, `major:minor`; none while its power is cut (proc_pid_mountinfo(5)).
    fn device(&self) -> Option<String> {
        let mounts = must("the mounts", std::fs::read_to_string("/proc/self/mountinfo"));
        let path = self.path().display().to_string();
        let mut lines = mounts.lines().map(|line| line.split(' '));
        let mut mine = lines.find(|fields| fields.clone().nth(4) == Some(&path))?;
        mine.nth(2).map(str::to_owned)
    }

    /// Mounts what is left after [`Self::cut_power`]. Whoever had files open there must have ended.
    ///
    /// # Panics
    /// When somebody goes on using it, or it cannot be mounted.
    pub async fn restore_power(&self) {
        eventually(CLOSED, "the disk to be left alone", async || unmount(&self.path())).await;
        self.power_on();
    }

    /// The kernel writes nothing back by itself while a test lasts: only what is synced is safe.
    fn power_on(&self) {
        let options = ["-o".as_ref(), "loop,commit=600".as_ref()];
        run("mount", options.into_iter().chain([self.image().as_os_str(), self.path().as_os_str()]));
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if Self::may_be_slow() {
            self.limit(None);
        }
        if std::env::var_os("SOTTO_KEEP").is_some() {
            self.folder.disable_cleanup(true);
            return;
        }
        // Lazily: what a failed test still runs there keeps it no longer than it lives.
        let _gone = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

fn unmount(path: &Path) -> bool {
    Command::new("umount").arg(path).output().is_ok_and(|output| output.status.success())
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) {
    let output = must(program, Command::new(program).args(arguments).env("PATH", path()).output());
    assert!(
        output.status.success(),
        "{program} failed; a disk whose power can be cut needs root and loop devices: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// File systems are made by programs that not every user's PATH has.
fn path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
