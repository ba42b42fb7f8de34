//! One at a time, the most urgent lane first, and within a lane in the order of their coming.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sotto_core::Lane;
use tokio::sync::{Notify, oneshot};

/// Who is in and who waits.
#[derive(Debug, Default)]
struct State {
    busy: bool,
    /// Those who wait, most urgent lane first. Who gave up is still here until its turn.
    waiting: [VecDeque<Waiting>; 3],
}

#[derive(Debug)]
struct Waiting {
    turn: oneshot::Sender<Pass>,
    parts: usize,
}

impl Waiting {
    fn is_there(&self) -> bool {
        !self.turn.is_closed()
    }
}

impl State {
    fn is_wanted(&self, lanes: usize) -> bool {
        self.waiting.iter().take(lanes).flatten().any(Waiting::is_there)
    }

    fn parts(&self, lanes: usize) -> usize {
        let waiting = self.waiting.iter().take(lanes).flatten();
        waiting.filter(|waiting| waiting.is_there()).map(|waiting| waiting.parts).sum()
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Somebody began to wait.
    wanted: Notify,
    /// Somebody's turn came, or was given up.
    moved: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets one in at a time. Who waits on a more urgent lane goes first.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<Shared>);

/// The right to be in. Dropped, it goes to the next.
#[derive(Debug)]
pub(super) struct Pass(Arc<Shared>);

const fn place(lane: Lane) -> usize {
    match lane {
        Lane::Otp => 0,
        Lane::Transactional => 1,
        Lane::Promotional => 2,
    }
}

impl Gate {
    /// Waits for one's turn, with so many parts.
    pub(super) async fn enter(&self, lane: Lane, parts: usize) -> Pass {
        loop {
            let turn = {
                let mut state = self.0.lock();
                if !state.busy {
                    state.busy = true;
                    return Pass(Arc::clone(&self.0));
                }
                let (sender, turn) = oneshot::channel();
                if let Some(queue) = state.waiting.get_mut(place(lane)) {
                    queue.push_back(Waiting { turn: sender, parts });
                }
                turn
            };
            self.0.wanted.notify_waiters();
            // Never lost: who is in passes it on. Asking again costs nothing.
            if let Ok(pass) = turn.await {
                return pass;
            }
        }
    }

    /// Whether somebody waits on a more urgent lane.
    pub(super) fn is_wanted_by_more_urgent(&self, lane: Lane) -> bool {
        self.0.lock().is_wanted(place(lane))
    }

    /// Whether somebody waits on this lane.
    pub(super) fn is_wanted(&self, lane: Lane) -> bool {
        let state = self.0.lock();
        state.waiting.get(place(lane)).is_some_and(|queue| queue.iter().any(Waiting::is_there))
    }

    /// Resolves when fewer parts than that wait on this lane and more urgent ones.
    pub(super) async fn fewer_than(&self, parts: usize, lane: Lane) {
        loop {
            let mut moved = std::pin::pin!(self.0.moved.notified());
            moved.as_mut().enable();
            if self.0.lock().parts(place(lane) + 1) < parts {
                return;
            }
            moved.await;
        }
    }

    /// Resolves when somebody waits on a more urgent lane.
    pub(super) async fn wanted_by_more_urgent(&self, lane: Lane) {
        loop {
            let mut wanted = std::pin::pin!(self.0.wanted.notified());
            wanted.as_mut().enable();
            if self.is_wanted_by_more_urgent(lane) {
                return;
            }
            wanted.await;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.lock();
            let next = loop {
                let Some(queue) = state.waiting.iter_mut().find(|queue| !queue.is_empty()) else {
                    break None;
                };
                // Those who gave up are left out.
                if let Some(waiting) = queue.pop_front().filter(Waiting::is_there) {
                    break Some(waiting);
                }
            };
            state.busy = next.is_some();
            next
        };
        if let Some(waiting) = next {
            // Whoever gave up in this moment drops the pass, and it goes on to the next.
            drop(waiting.turn.send(Self(Arc::clone(&self.0))));
        }
        self.0.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, poll};

    use super::*;

    #[tokio::test]
    async fn the_urgent_go_first_and_those_who_leave_block_nobody() {
        let gate = Gate::default();
        let inside = gate.enter(Lane::Promotional, 1).await;
        let mut promotional = Box::pin(gate.enter(Lane::Promotional, 1));
        let mut otp = Box::pin(gate.enter(Lane::Otp, 1));
        assert!(poll!(&mut promotional).is_pending() && poll!(&mut otp).is_pending());
        assert!(gate.is_wanted_by_more_urgent(Lane::Promotional));
        drop(inside);
        assert!(poll!(&mut promotional).is_pending());
        let inside = otp.now_or_never().unwrap();
        assert!(poll!(&mut promotional).is_pending());
        let mut otp = Box::pin(gate.enter(Lane::Otp, 1));
        assert!(poll!(&mut otp).is_pending());
        drop(otp);
        assert!(!gate.is_wanted_by_more_urgent(Lane::Promotional));
        drop(inside);
        assert!(promotional.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_pass_that_nobody_takes_any_more_goes_on() {
        let gate = Gate::default();
        let inside = gate.enter(Lane::Otp, 1).await;
        let mut first = Box::pin(gate.enter(Lane::Otp, 1));
        let mut second = Box::pin(gate.enter(Lane::Otp, 1));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        // It is given the pass, and gives up before it looks.
        drop(inside);
        drop(first);
        drop(second.now_or_never().unwrap());
        assert!(gate.enter(Lane::Promotional, 1).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_is_in_hears_of_the_more_urgent() {
        let gate = Gate::default();
        let inside = gate.enter(Lane::Transactional, 1).await;
        let mut wanted = Box::pin(gate.wanted_by_more_urgent(Lane::Transactional));
        let mut promotional = Box::pin(gate.enter(Lane::Promotional, 1));
        assert!(poll!(&mut promotional).is_pending() && poll!(&mut wanted).is_pending());
        let mut otp = Box::pin(gate.enter(Lane::Otp, 1));
        assert!(poll!(&mut otp).is_pending());
        wanted.await;
        drop(inside);
        otp.await;
    }

    #[tokio::test]
    async fn so_many_parts_wait_until_turns_come_or_are_given_up() {
        let gate = Gate::default();
        gate.fewer_than(1, Lane::Promotional).now_or_never().unwrap();
        let inside = gate.enter(Lane::Promotional, 100).await;
        gate.fewer_than(1, Lane::Promotional).now_or_never().unwrap();
        let mut first = Box::pin(gate.enter(Lane::Promotional, 4));
        let mut second = Box::pin(gate.enter(Lane::Transactional, 3));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        gate.fewer_than(8, Lane::Promotional).now_or_never().unwrap();
        let mut few = Box::pin(gate.fewer_than(7, Lane::Promotional));
        assert!(poll!(&mut few).is_pending());
        assert!(gate.fewer_than(1, Lane::Otp).now_or_never().is_some());
        drop(inside);
        few.await;
        let mut none = Box::pin(gate.fewer_than(1, Lane::Promotional));
        assert!(poll!(&mut none).is_pending());
        drop(first);
        drop(second.await);
        none.await;
    }
}
