//! The way to the carrier as those see it who want to send: is it up, how much may go.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sotto_core::Lane;
use sotto_runtime::Stop;
use sotto_smpp::{Link, WindowPermit};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::gate::Gate;
use crate::domain::{pace::Pace, receipt::Submitted};

/// Batches that are handed back at a time while there is no link.
const HAND_BACK: usize = 4;

/// Whether there is a bind.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// None since then.
    Down {
        /// When it ended, or when the process started.
        since: Instant,
    },
    /// This one.
    Up(Link<Submitted>),
}

/// The way to one carrier account.
#[derive(Debug)]
pub(crate) struct Line {
    state: watch::Sender<State>,
    pace: Mutex<Pace>,
    gate: Gate,
    /// Held while the parts of one message go out, so that they go consecutively.
    turn: tokio::sync::Mutex<()>,
    window: usize,
    failover_after: Duration,
    stop: Stop,
}

/// What may happen to the next items.
#[derive(Debug)]
pub(super) enum Admission {
    /// As many of them as there are places may be sent.
    Send(Link<Submitted>, Vec<Place>),
    /// There is no link, and has not been for long: they go back.
    HandBack,
    /// The process stops.
    Stop,
}

/// Room for one item: places in the window and in the rate.
#[derive(Debug)]
pub(super) struct Place {
    line: Arc<Line>,
    parts: usize,
    permits: Vec<WindowPermit>,
}

impl Line {
    pub(crate) fn new(window: u16, tps: u16, failover_after: Duration, stop: Stop) -> Arc<Self> {
        Arc::new(Self {
            state: watch::Sender::new(State::Down { since: Instant::now() }),
            pace: Mutex::new(Pace::new(tps)),
            gate: Gate::default(),
            turn: tokio::sync::Mutex::new(()),
            window: usize::from(window).max(1),
            failover_after,
            stop,
        })
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a bind.
    pub(crate) fn up(&self, link: Link<Submitted>) {
        self.state.send_replace(State::Up(link));
    }

    /// There is none any more.
    pub(crate) fn down(&self) {
        self.state.send_if_modified(|state| {
            let was_up = matches!(state, State::Up(_));
            if was_up {
                *state = State::Down { since: Instant::now() };
            }
            was_up
        });
    }

    /// Resolves when there is no bind.
    pub(crate) async fn ended(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as this value.
        let _gone = state.wait_for(|state| matches!(state, State::Down { .. })).await;
    }

    /// The carrier asked to slow down.
    pub(super) fn throttled(&self) {
        self.pace().throttled(Instant::now());
    }

    /// Resolves when at least one batch can be handled, and says how many.
    pub(crate) async fn ready(&self) -> usize {
        let mut state = self.state.subscribe();
        loop {
            let now = Instant::now();
            let current = state.borrow_and_update().clone();
            match current {
                State::Down { since } => {
                    let hand_back = since + self.failover_after;
                    if hand_back <= now {
                        return HAND_BACK;
                    }
                    self.wait(&mut state, hand_back).await;
                }
                State::Up(link) => {
                    let (room, room_at) = {
                        let pace = self.pace();
                        (pace.room(now), pace.room_at(now))
                    };
                    if room == 0 {
                        self.wait(&mut state, room_at).await;
                        continue;
                    }
                    let free = link.free();
                    if free > 0 {
                        return room.min(free);
                    }
                    tokio::select! {
                        // The place is given back at once: it is taken when the items are here.
                        reserved = link.reserve() => if reserved.is_err() { self.changed(&mut state).await },
                        _ = state.changed() => {}
                    }
                }
            }
        }
    }

    /// Waits until the first of the items may be sent, then lets in as many as may go now. `sizes` are the items'
    /// numbers of parts.
    pub(super) async fn admit(self: &Arc<Self>, lane: Lane, sizes: Vec<usize>) -> Admission {
        let pass = tokio::select! {
            pass = self.gate.enter(lane) => pass,
            () = self.stop.requested() => return Admission::Stop,
        };
        let mut state = self.state.subscribe();
        let admission = loop {
            if self.stop.is_requested() {
                break Admission::Stop;
            }
            let now = Instant::now();
            let current = state.borrow_and_update().clone();
            match current {
                State::Down { since } => {
                    let hand_back = since + self.failover_after;
                    if hand_back <= now {
                        break Admission::HandBack;
                    }
                    self.wait(&mut state, hand_back).await;
                }
                State::Up(link) => {
                    let (room, room_at) = {
                        let pace = self.pace();
                        (pace.room(now), pace.room_at(now))
                    };
                    if room == 0 {
                        self.wait(&mut state, room_at).await;
                        continue;
                    }
                    let first = sizes.first().copied().unwrap_or(1);
                    let gathered = tokio::select! {
                        gathered = self.gather(&link, first) => gathered,
                        _ = state.changed() => continue,
                        () = self.stop.requested() => continue,
                    };
                    let Some(permits) = gathered else {
                        // It closes; its end will be told.
                        self.changed(&mut state).await;
                        continue;
                    };
                    let places = self.fill(&link, permits, &sizes, room, lane);
                    break Admission::Send(link, places);
                }
            }
        };
        drop(pass);
        admission
    }

    /// Places for the first item, all of its parts if the window is as large.
    async fn gather(&self, link: &Link<Submitted>, parts: usize) -> Option<Vec<WindowPermit>> {
        let mut permits = Vec::new();
        while permits.len() < parts.min(self.window) {
            permits.push(link.reserve().await.ok()?);
        }
        Some(permits)
    }

    /// Places for the first item, and for those after it that may go at once.
    fn fill(
        self: &Arc<Self>,
        link: &Link<Submitted>,
        first: Vec<WindowPermit>,
        sizes: &[usize],
        room: usize,
        lane: Lane,
    ) -> Vec<Place> {
        let mut left = room.saturating_sub(sizes.first().copied().unwrap_or(1));
        let mut places = vec![self.place(sizes.first().copied().unwrap_or(1), first)];
        for parts in sizes.iter().skip(1).copied() {
            if parts > left || self.gate.is_wanted_by_more_urgent(lane) {
                break;
            }
            let permits: Vec<_> = std::iter::from_fn(|| link.try_reserve()).take(parts).collect();
            if permits.len() < parts {
                break;
            }
            left -= parts;
            places.push(self.place(parts, permits));
        }
        places
    }

    fn place(self: &Arc<Self>, parts: usize, permits: Vec<WindowPermit>) -> Place {
        self.pace().admit(parts);
        Place { line: Arc::clone(self), parts, permits }
    }

    /// Waits for a change, a moment, or the stop.
    async fn wait(&self, state: &mut watch::Receiver<State>, until: Instant) {
        tokio::select! {
            _ = state.changed() => {}
            () = sleep_until(until) => {}
            () = self.stop.requested(), if !self.stop.is_requested() => {}
        }
    }

    async fn changed(&self, state: &mut watch::Receiver<State>) {
        tokio::select! {
            _ = state.changed() => {}
            () = self.stop.requested(), if !self.stop.is_requested() => {}
        }
    }

    /// The right to write one message's parts with nothing in between.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl Place {
    /// Whether all parts have their place in the window.
    pub(super) fn is_complete(&self) -> bool {
        self.permits.len() >= self.parts
    }

    /// Waits until one more part may be written now. `None` when the session ends. Whoever gets it writes at once.
    pub(super) async fn next(&mut self, link: &Link<Submitted>) -> Option<WindowPermit> {
        let permit = match self.permits.pop() {
            Some(permit) => permit,
            None => link.reserve().await.ok()?,
        };
        loop {
            let now = Instant::now();
            let at = {
                let mut pace = self.line.pace();
                let at = pace.next(now);
                if at <= now {
                    pace.write(now);
                    pace.leave(1);
                    self.parts = self.parts.saturating_sub(1);
                    return Some(permit);
                }
                at
            };
            tokio::select! {
                () = sleep_until(at) => {}
                _ = link.closed() => return None,
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.line.pace().leave(self.parts);
    }
}
