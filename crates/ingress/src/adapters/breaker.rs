//! Leaves a peer alone that has just failed, then tries it with one request at a time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It answers.
    Closed,
    /// It failed: nobody asks until then.
    Open(Instant),
    /// One request finds out; nobody else waits for a peer that may still be dead.
    Trying,
}

/// What stands before a peer. Whoever is let through tells what became of it.
#[derive(Debug)]
pub(crate) struct Breaker {
    rest: Duration,
    state: Mutex<State>,
}

/// The right to ask once. Dropped without a word it changes nothing, except that another may try.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    breaker: &'a Breaker,
    trying: bool,
}

impl Breaker {
    /// After a failure the peer is left alone for `rest`.
    pub(crate) fn new(rest: Duration) -> Self {
        Self { rest, state: Mutex::new(State::Closed) }
    }

    /// Lets a request through, unless the peer is left alone.
    pub(crate) fn enter(&self, now: Instant) -> Option<Pass<'_>> {
        let mut state = self.lock();
        match *state {
            State::Closed => Some(Pass { breaker: self, trying: false }),
            State::Open(until) if until <= now => {
                *state = State::Trying;
                Some(Pass { breaker: self, trying: true })
            }
            State::Open(_) | State::Trying => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The peer answered.
    pub(crate) fn answered(mut self) {
        self.trying = false;
        *self.breaker.lock() = State::Closed;
    }

    /// It did not.
    pub(crate) fn failed(mut self, now: Instant) {
        self.trying = false;
        *self.breaker.lock() = State::Open(now + self.breaker.rest);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.breaker.lock();
        if self.trying && *state == State::Trying {
            *state = State::Open(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_millis(500);

    #[tokio::test]
    async fn one_at_a_time_finds_out_whether_the_peer_is_back() {
        let (breaker, now) = (Breaker::new(REST), Instant::now());
        let (one, two) = (breaker.enter(now).unwrap(), breaker.enter(now).unwrap());
        one.failed(now);
        assert!(breaker.enter(now + REST / 2).is_none());
        let probe = breaker.enter(now + REST).unwrap();
        assert!(breaker.enter(now + 2 * REST).is_none(), "one at a time");
        probe.failed(now + 2 * REST);
        assert!(breaker.enter(now + 2 * REST).is_none());
        // What was let through before may still find it alive.
        two.answered();
        assert!(breaker.enter(now).is_some());
    }

    #[tokio::test]
    async fn a_probe_that_is_given_up_leaves_its_place() {
        let (breaker, now) = (Breaker::new(REST), Instant::now());
        breaker.enter(now).unwrap().failed(now);
        drop(breaker.enter(now + REST).unwrap());
        assert!(breaker.enter(Instant::now() + REST).is_some());
    }
}
