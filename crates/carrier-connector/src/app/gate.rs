//! One at a time, the most urgent lane first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sotto_core::Lane;
use tokio::sync::Notify;

/// Who is in and who waits.
#[derive(Debug, Default)]
struct State {
    busy: bool,
    /// How many wait, most urgent lane first.
    waiting: [usize; 3],
}

/// Lets one in at a time. Who waits on a more urgent lane goes first.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

/// The right to be in.
#[derive(Debug)]
pub(super) struct Pass<'a>(&'a Gate);

/// A place among those who wait.
struct Waiting<'a> {
    gate: &'a Gate,
    lane: usize,
}

const fn place(lane: Lane) -> usize {
    match lane {
        Lane::Otp => 0,
        Lane::Transactional => 1,
        Lane::Promotional => 2,
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for one's turn.
    pub(super) async fn enter(&self, lane: Lane) -> Pass<'_> {
        let lane = place(lane);
        if let Some(count) = self.lock().waiting.get_mut(lane) {
            *count += 1;
        }
        let waiting = Waiting { gate: self, lane };
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                if !state.busy && state.waiting.iter().take(lane).all(|count| *count == 0) {
                    state.busy = true;
                    break;
                }
            }
            changed.await;
        }
        drop(waiting);
        Pass(self)
    }

    /// Whether somebody waits on a more urgent lane.
    pub(super) fn is_wanted_by_more_urgent(&self, lane: Lane) -> bool {
        self.lock().waiting.iter().take(place(lane)).any(|count| *count > 0)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.gate.lock().waiting.get_mut(self.lane) {
            *count -= 1;
        }
        self.gate.changed.notify_waiters();
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.lock().busy = false;
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, poll};

    use super::*;

    #[tokio::test]
    async fn the_urgent_go_first_and_those_who_leave_block_nobody() {
        let gate = Gate::default();
        let inside = gate.enter(Lane::Promotional).await;
        let mut promotional = Box::pin(gate.enter(Lane::Promotional));
        let mut otp = Box::pin(gate.enter(Lane::Otp));
        assert!(poll!(&mut promotional).is_pending() && poll!(&mut otp).is_pending());
        assert!(gate.is_wanted_by_more_urgent(Lane::Promotional));
        drop(inside);
        assert!(poll!(&mut promotional).is_pending());
        let inside = otp.now_or_never().unwrap();
        assert!(poll!(&mut promotional).is_pending());
        let mut otp = Box::pin(gate.enter(Lane::Otp));
        assert!(poll!(&mut otp).is_pending());
        drop(otp);
        drop(inside);
        assert!(promotional.now_or_never().is_some());
    }
}
