//! An end that the kernel sets to this process, also while it stands still.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use nix::{
    sys::{
        signal::{SigEvent, SigevNotify, Signal},
        time::{TimeSpec, TimeValLike as _},
        timer::{Expiration, Timer, TimerSetTimeFlags},
    },
    time::{ClockId, clock_gettime},
};
use tokio::{sync::oneshot, time::Instant};

/// It goes on while the machine is suspended.
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;

/// The end of one fuse, or that there is none any more, and who waits until the kernel knows it.
type Word = (u64, Option<Instant>, Option<oneshot::Sender<io::Result<()>>>);

/// The fuses of this process: the kernel kills it when the first of them ends.
#[derive(Clone, Debug)]
pub struct Fuses {
    words: mpsc::Sender<Word>,
    next: Arc<AtomicU64>,
}

/// Kills this process at a moment, unless it is set again or dropped before: for what must not be held longer than agreed,
/// such as a connection of which others count the end. A process that stands still (SIGSTOP, a frozen group of processes)
/// cannot let go by itself; SIGKILL ends it all the same, and the kernel closes what it held.
#[derive(Debug)]
pub struct Fuse {
    number: u64,
    words: mpsc::Sender<Word>,
}

impl Fuses {
    /// Asks the kernel for a timer, and starts the thread that sets it. It ends with the last handle.
    pub fn start() -> io::Result<Self> {
        let (words, inbox) = mpsc::channel();
        let (told, made) = mpsc::sync_channel(1);
        thread::Builder::new().name("fuses".to_owned()).spawn(move || {
            let kill = SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 };
            match Timer::new(CLOCK, SigEvent::new(kill)) {
                Ok(timer) => {
                    // Who asked waits for it.
                    let _asked = told.send(Ok(()));
                    keep(timer, &inbox);
                }
                Err(error) => drop(told.send(Err(error))),
            }
        })?;
        made.recv().map_err(io::Error::other)??;
        Ok(Self { words, next: Arc::default() })
    }

    /// A fuse that is not lit.
    pub fn fuse(&self) -> Fuse {
        Fuse { number: self.next.fetch_add(1, Ordering::Relaxed), words: self.words.clone() }
    }
}

impl Fuse {
    /// The process ends at `end`, unless this is called again before. The kernel knows it when this is done.
    pub async fn set(&self, end: Instant) -> io::Result<()> {
        let (told, known) = oneshot::channel();
        self.words.send((self.number, Some(end), Some(told))).map_err(io::Error::other)?;
        known.await.map_err(io::Error::other)?
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // Without the thread there is no timer.
        let _gone = self.words.send((self.number, None, None));
    }
}

/// Sets the timer to the first of all ends.
fn keep(mut timer: Timer, inbox: &mpsc::Receiver<Word>) {
    let mut ends = BTreeMap::new();
    while let Ok((number, end, told)) = inbox.recv() {
        match end {
            Some(end) => drop(ends.insert(number, end)),
            None => drop(ends.remove(&number)),
        }
        let set = arm(&mut timer, ends.values().min().copied());
        if let Some(told) = told {
            // Whoever asked may be gone.
            let _unheard = told.send(set);
        }
    }
}

fn arm(timer: &mut Timer, first: Option<Instant>) -> io::Result<()> {
    let end = match first {
        // In this order a pause in between makes it earlier, never later.
        Some(first) => {
            let now = clock_gettime(CLOCK)?;
            now + TimeSpec::from_duration(first.saturating_duration_since(Instant::now()))
        }
        // Zero stops it.
        None => TimeSpec::zero(),
    };
    Ok(timer.set(Expiration::OneShot(end), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
}
