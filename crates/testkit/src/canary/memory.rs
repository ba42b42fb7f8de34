//! Reads the memory of a process that the test started.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
};

/// Read at a time.
const STEP: u64 = 16 << 20;

/// What the next piece repeats of the one before, so that nothing is cut in two.
const OVERLAP: u64 = 4096;

/// A part of a process's address space.
#[derive(Debug)]
struct Range {
    start: u64,
    end: u64,
    what: String,
}

/// All that a process can have written to, piece by piece: heaps, stacks, its own data, files mapped for writing. Code and
/// other mapped files stand on the disk as they stand here.
#[derive(Debug)]
pub struct Memory {
    memory: File,
    left: Vec<Range>,
}

impl Memory {
    /// That of a process. Root reads it whatever the process asked of the kernel (`PR_SET_DUMPABLE`).
    ///
    /// # Errors
    /// When there is no such process, or it may not be read.
    pub fn of(process: u32) -> io::Result<Self> {
        let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
        let left: Vec<_> = maps.lines().rev().filter_map(written).collect();
        if left.is_empty() {
            return Err(io::Error::other(format!("process {process} has no memory: it has ended")));
        }
        Ok(Self { memory: File::open(format!("/proc/{process}/mem"))?, left })
    }

    /// The next piece that holds anything, and where it is.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn piece(&mut self) -> io::Result<Option<(String, Vec<u8>)>> {
        while let Some(mut range) = self.left.pop() {
            let size = STEP.min(range.end - range.start);
            let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
            let read = match self.memory.read_at(&mut bytes, range.start) {
                Ok(0) => return Err(io::Error::other("the process has ended")),
                Ok(read) => read,
                // Given back to the kernel since the list was made, or never backed.
                Err(_) => continue,
            };
            bytes.truncate(read);
            let (place, read) =
                (format!("{} at {:#x}", range.what, range.start), u64::try_from(read).unwrap_or(0));
            if range.start + read < range.end {
                range.start += if read > OVERLAP { read - OVERLAP } else { read };
                self.left.push(range);
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(Some((place, bytes)));
            }
        }
        Ok(None)
    }

    /// Whether these bytes stand anywhere in it.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn holds(mut self, wanted: &[u8]) -> io::Result<Option<String>> {
        while let Some((place, bytes)) = self.piece()? {
            if bytes.windows(wanted.len()).any(|window| window == wanted) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}

/// A line of `/proc/PID/maps`, if the process may write there: addresses, permissions, offset, device, inode, name.
fn written(line: &str) -> Option<Range> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    if !words.next()?.starts_with("rw") {
        return None;
    }
    let what = words.nth(3).unwrap_or("anonymous").to_owned();
    Some(Range { start, end, what })
}
