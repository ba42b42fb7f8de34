//! The way to the carrier as those see it who want to send: is it up, how much may go.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::select_ok;
use sotto_core::Lane;
use sotto_runtime::Stop;
use sotto_smpp::{Link, WindowPermit};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use super::gate::{Gate, Pass};
use crate::domain::{
    course::Course,
    lease::Tenure,
    pace::{Pace, Slice},
    receipt::About,
};

/// Batches that are handed back at a time while there is no link.
const HAND_BACK: usize = 4;

/// What is not urgent and goes on with others waits for so much of the window, but not longer than this: each admission costs
/// two questions to Redis and a record in the log, however few it lets in.
const TOGETHER: Share = Share { of_window: 8, wait: Duration::from_millis(5) };

#[derive(Clone, Copy, Debug)]
struct Share {
    of_window: usize,
    wait: Duration,
}

/// One bind that is up.
#[derive(Clone, Debug)]
pub(crate) struct Bind {
    /// Its number in the contract.
    pub(crate) number: u16,
    /// The session on which messages go out.
    pub(crate) link: Link<About>,
    /// Whether it is still ours.
    pub(crate) tenure: watch::Receiver<Tenure>,
}

impl Bind {
    /// Whether a part may be written on it now: the last look before the first byte.
    fn may_write(&self) -> bool {
        self.tenure.borrow().allows(Instant::now())
    }
}

/// What there is to send with.
#[derive(Clone, Debug)]
struct State {
    /// The binds that are up.
    binds: Vec<Bind>,
    /// Another replica has a bind up, and takes what waits.
    elsewhere: bool,
    /// Since when no bind is up, here or elsewhere.
    since: Instant,
    /// What operators want.
    course: Course,
}

impl State {
    /// The bind with the most free places.
    fn freest(&self) -> Option<&Bind> {
        self.binds.iter().max_by_key(|bind| bind.link.free())
    }

    fn free(&self) -> usize {
        self.binds.iter().map(|bind| bind.link.free()).sum()
    }

    /// What becomes of the next items, if anything but going out at their turn.
    fn away(&self, failover_after: Duration, now: Instant) -> Option<Away> {
        if self.course.holds() {
            Some(Away::Hold)
        } else if self.course.hands_back() {
            Some(Away::HandBack)
        } else if !self.binds.is_empty() {
            None
        } else if self.elsewhere {
            Some(Away::Hold)
        } else {
            let at = self.since + failover_after;
            Some(if at <= now { Away::HandBack } else { Away::NotYet { at } })
        }
    }
}

/// Why nothing goes out.
#[derive(Clone, Copy, Debug)]
enum Away {
    /// It stays where it is: operators hold it, or another replica takes it.
    Hold,
    /// It goes back to routing.
    HandBack,
    /// It goes back at this time, unless a bind is up by then.
    NotYet { at: Instant },
}

/// The line at a moment, for people.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// What operators want.
    pub(crate) course: Course,
    /// The binds that are up: number and free places.
    pub(crate) binds: Vec<(u16, usize)>,
    /// Places of each window.
    pub(crate) window: usize,
    /// Another replica has a bind up.
    pub(crate) elsewhere: bool,
    /// Parts written in the last second.
    pub(crate) used: usize,
    /// Parts a second that are ours now.
    pub(crate) allowed: usize,
    /// Parts that may go at once.
    pub(crate) room: usize,
    /// How long the carrier's wish to slow down still holds everything.
    pub(crate) paused_for: Duration,
}

/// The way to one carrier account.
#[derive(Debug)]
pub(crate) struct Line {
    state: watch::Sender<State>,
    pace: Mutex<Pace>,
    gate: Gate,
    /// Held while the parts of one message go out, so that they go consecutively; the most urgent lane goes first.
    turn: Gate,
    window: usize,
    /// Parts of a batch, about: of those that came last.
    batch: AtomicUsize,
    failover_after: Duration,
    stop: Stop,
}

/// What may happen to the next items.
#[derive(Debug)]
pub(super) enum Admission {
    /// As many of them as there are places may be sent.
    Send(Link<About>, Vec<Place>),
    /// There is no link, and has not been for long, or the account is paused: they go back.
    HandBack,
    /// The process stops, operators hold traffic, or another replica has the binds: whoever runs next takes them.
    Stop,
}

/// What came of waiting for places.
enum Gathered {
    /// Places on one bind.
    Places(Bind, Vec<WindowPermit>),
    /// The bind closes on which some were had already.
    Closing,
    /// All binds close.
    AllClosing,
}

/// Room for one item: places in the window and in the rate.
#[derive(Debug)]
pub(super) struct Place {
    line: Arc<Line>,
    bind: Bind,
    parts: usize,
    permits: Vec<WindowPermit>,
}

impl Line {
    pub(crate) fn new(window: u16, tps: u16, failover_after: Duration, stop: Stop) -> Arc<Self> {
        // Nothing goes out before the operators' words are heard.
        let course = Course::Unheard;
        let state = State { binds: Vec::new(), elsewhere: false, since: Instant::now(), course };
        Arc::new(Self {
            state: watch::Sender::new(state),
            pace: Mutex::new(Pace::new(tps)),
            gate: Gate::default(),
            turn: Gate::default(),
            window: usize::from(window).max(1),
            batch: AtomicUsize::new(1),
            failover_after,
            stop,
        })
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A bind is up.
    pub(crate) fn up(&self, bind: Bind) {
        self.state.send_modify(|state| state.binds.push(bind));
    }

    /// It is not any more, or nothing new is to go that way.
    pub(crate) fn down(&self, number: u16) {
        self.state.send_if_modified(|state| {
            let before = state.binds.len();
            state.binds.retain(|bind| bind.number != number);
            if before > 0 && state.binds.is_empty() {
                state.since = Instant::now();
            }
            before != state.binds.len()
        });
    }

    /// What is ours of the account's rate, and whether another replica has a bind up.
    pub(crate) fn set_slices(&self, slices: Vec<Slice>, elsewhere: bool) {
        self.pace().set_slices(slices);
        self.state.send_if_modified(|state| {
            let before = std::mem::replace(&mut state.elsewhere, elsewhere);
            if before && !elsewhere && state.binds.is_empty() {
                state.since = Instant::now();
            }
            before != elsewhere
        });
    }

    /// What operators want of the account.
    pub(crate) fn set_course(&self, course: Course) -> bool {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.course, course) != course)
    }

    /// Resolves when binds are wanted: always but while the account is drained.
    pub(crate) async fn wanted(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as this value.
        let _gone = state.wait_for(|state| state.course != Course::Draining).await;
    }

    /// Resolves when they are not.
    pub(crate) async fn unwanted(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as this value.
        let _gone = state.wait_for(|state| state.course == Course::Draining).await;
    }

    /// The line at this moment.
    pub(crate) fn snapshot(&self, now: Instant) -> Snapshot {
        let state = self.state.borrow().clone();
        let pace = self.pace();
        Snapshot {
            course: state.course,
            binds: state.binds.iter().map(|bind| (bind.number, bind.link.free())).collect(),
            window: self.window,
            elsewhere: state.elsewhere,
            used: pace.used(now),
            allowed: pace.allowed(now),
            room: pace.room(now),
            paused_for: pace.paused_for(now),
        }
    }

    /// The links of the binds that are up, by number.
    pub(crate) fn links(&self) -> Vec<(u16, Link<About>)> {
        self.state.borrow().binds.iter().map(|bind| (bind.number, bind.link.clone())).collect()
    }

    /// The numbers of the binds that are up.
    pub(crate) fn bound(&self) -> Vec<u16> {
        self.state.borrow().binds.iter().map(|bind| bind.number).collect()
    }

    /// Resolves when other binds are up than these.
    pub(crate) async fn bound_other_than(&self, known: &[u16]) {
        let mut state = self.state.subscribe();
        // The sender lives as long as this value.
        let _gone = state.wait_for(|state| !state.binds.iter().map(|bind| &bind.number).eq(known)).await;
    }

    /// Whether a bind is up.
    pub(crate) fn is_up(&self) -> bool {
        !self.state.borrow().binds.is_empty()
    }

    /// Resolves when no bind is up.
    pub(crate) async fn ended(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as this value.
        let _gone = state.wait_for(|state| state.binds.is_empty()).await;
    }

    /// The carrier asked to slow down. Returns the pause that begins by that.
    pub(super) fn throttled(&self) -> Duration {
        self.pace().throttled(Instant::now())
    }

    /// What may be let in now. One-time codes do not count what was let in of others and is not written: they are written
    /// first.
    fn room(&self, pace: &Pace, lane: Lane, now: Instant) -> usize {
        match lane {
            Lane::Otp => pace.room_ahead(now),
            Lane::Transactional | Lane::Promotional => pace.room(now),
        }
    }

    /// A batch of so many parts has come. Larger ones are expected at once, smaller ones by and by.
    pub(super) fn came(&self, parts: usize) {
        let before = self.batch.load(Ordering::Relaxed);
        self.batch.store(parts.max((7 * before + parts) / 8).max(1), Ordering::Relaxed);
    }

    /// Resolves when at least one batch can be handled, and says how many of their recent size fit into window and rate.
    ///
    /// For `urgent` ones that is so without a free place in window and rate as long as none waits here: places are taken
    /// up by what is less urgent, and each that becomes free must find the urgent one waiting for it.
    pub(crate) async fn ready(&self, urgent: bool) -> usize {
        let mut state = self.state.subscribe();
        loop {
            let now = Instant::now();
            let current = state.borrow_and_update().clone();
            match current.away(self.failover_after, now) {
                None => {}
                Some(Away::Hold) => {
                    self.changed(&mut state).await;
                    continue;
                }
                Some(Away::HandBack) => return HAND_BACK,
                Some(Away::NotYet { at }) => {
                    self.wait(&mut state, at).await;
                    continue;
                }
            }
            if urgent && !self.gate.is_wanted(Lane::Otp) {
                return 1;
            }
            // What waits here for a place cannot be sent by another connector meanwhile.
            let lane = if urgent { Lane::Otp } else { Lane::Promotional };
            tokio::select! {
                () = self.gate.fewer_than(self.window, lane) => {}
                () = self.changed(&mut state) => continue,
            }
            let (room, room_at) = {
                let pace = self.pace();
                (pace.room(now), pace.room_at(now))
            };
            if room == 0 {
                self.wait(&mut state, room_at).await;
                continue;
            }
            let free = current.free();
            if free > 0 {
                return room.min(free).div_ceil(self.batch.load(Ordering::Relaxed));
            }
            tokio::select! {
                // The place is given back at once: it is taken when the items are here.
                reserved = any(&current.binds) => if reserved.is_none() { self.changed(&mut state).await },
                _ = state.changed() => {}
            }
        }
    }

    /// Waits until the first of the items may be sent, then lets in as many as may go now. `sizes` are the items'
    /// numbers of parts.
    pub(super) async fn admit(self: &Arc<Self>, lane: Lane, sizes: Vec<usize>) -> Admission {
        let mut pass = None;
        let mut state = self.state.subscribe();
        let admission = loop {
            if pass.is_none() {
                pass = tokio::select! {
                    pass = self.gate.enter(lane, sizes.iter().sum()) => Some(pass),
                    () = self.stop.requested() => None,
                };
            }
            let now = Instant::now();
            let current = state.borrow_and_update().clone();
            if self.stop.is_requested() {
                break Admission::Stop;
            }
            match current.away(self.failover_after, now) {
                None => {}
                Some(Away::Hold) => break Admission::Stop,
                Some(Away::HandBack) => break Admission::HandBack,
                Some(Away::NotYet { at }) => {
                    self.wait(&mut state, at).await;
                    continue;
                }
            }
            let (room, room_at) = {
                let pace = self.pace();
                (self.room(&pace, lane, now), pace.room_at(now))
            };
            if room == 0 {
                tokio::select! {
                    () = self.wait(&mut state, room_at) => {}
                    () = self.gate.wanted_by_more_urgent(lane) => pass = None,
                }
                continue;
            }
            let first = sizes.first().copied().unwrap_or(1);
            let gathered = tokio::select! {
                gathered = self.gather(&current, first, self.together(lane, &sizes, room)) => gathered,
                _ = state.changed() => continue,
                () = self.stop.requested() => continue,
                // The next place is theirs.
                () = self.gate.wanted_by_more_urgent(lane) => {
                    pass = None;
                    continue;
                }
            };
            let (bind, permits) = match gathered {
                Gathered::Places(bind, permits) => (bind, permits),
                // Another bind may have room.
                Gathered::Closing => continue,
                // Their end will be told.
                Gathered::AllClosing => {
                    self.changed(&mut state).await;
                    continue;
                }
            };
            let places = self.fill(&bind, permits, &sizes, room, lane);
            break Admission::Send(bind.link, places);
        };
        drop(pass);
        admission
    }

    /// How many places are worth waiting for a little.
    fn together(&self, lane: Lane, sizes: &[usize], room: usize) -> usize {
        match lane {
            Lane::Otp => 0,
            Lane::Transactional | Lane::Promotional => {
                sizes.iter().sum::<usize>().min(room).min(self.window / TOGETHER.of_window)
            }
        }
    }

    /// Places for the first item on one bind, all of its parts if the window is as large; and up to `together`, if they are free
    /// soon.
    async fn gather(&self, state: &State, parts: usize, together: usize) -> Gathered {
        let mut permits = Vec::new();
        let bind = match state.freest().filter(|bind| bind.link.free() > 0) {
            Some(bind) => bind.clone(),
            None => {
                let Some((bind, permit)) = any(&state.binds).await else { return Gathered::AllClosing };
                permits.push(permit);
                bind
            }
        };
        while permits.len() < parts.min(self.window) {
            let Ok(permit) = bind.link.reserve().await else { return Gathered::Closing };
            permits.push(permit);
        }
        let until = Instant::now() + TOGETHER.wait;
        while permits.len() < together {
            match timeout_at(until, bind.link.reserve()).await {
                Ok(Ok(permit)) => permits.push(permit),
                Ok(Err(_)) => return Gathered::Closing,
                Err(_) => break,
            }
        }
        Gathered::Places(bind, permits)
    }

    /// Places for the first item, and for those after it that may go at once.
    fn fill(
        self: &Arc<Self>,
        bind: &Bind,
        mut gathered: Vec<WindowPermit>,
        sizes: &[usize],
        room: usize,
        lane: Lane,
    ) -> Vec<Place> {
        let first = sizes.first().copied().unwrap_or(1);
        let mut left = room.saturating_sub(first);
        let mut more = gathered.split_off(first.min(gathered.len())).into_iter();
        let mut places = vec![self.place(bind, first, gathered)];
        for parts in sizes.iter().skip(1).copied() {
            if parts > left || self.gate.is_wanted_by_more_urgent(lane) {
                break;
            }
            let free = std::iter::from_fn(|| more.next().or_else(|| bind.link.try_reserve()));
            let permits: Vec<_> = free.take(parts).collect();
            if permits.len() < parts {
                break;
            }
            left -= parts;
            places.push(self.place(bind, parts, permits));
        }
        places
    }

    fn place(self: &Arc<Self>, bind: &Bind, parts: usize, permits: Vec<WindowPermit>) -> Place {
        self.pace().admit(parts);
        Place { line: Arc::clone(self), bind: bind.clone(), parts, permits }
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

    /// The right to write one message's parts with nothing in between, ahead of what is less urgent.
    pub(super) async fn turn(&self, lane: Lane) -> Pass {
        self.turn.enter(lane, 1).await
    }
}

/// A place on whichever bind has one first; none when all of them close.
async fn any(binds: &[Bind]) -> Option<(Bind, WindowPermit)> {
    if binds.is_empty() {
        return None;
    }
    let waiting = binds
        .iter()
        .map(|bind| Box::pin(async move { bind.link.reserve().await.map(|permit| (bind.clone(), permit)) }));
    select_ok(waiting).await.ok().map(|(place, _)| place)
}

impl Place {
    /// Whether all parts have their place in the window.
    pub(super) fn is_complete(&self) -> bool {
        self.permits.len() >= self.parts
    }

    /// Waits until one more part may be written now. `None` when the session ends or the bind is another's. Whoever gets
    /// it writes at once.
    pub(super) async fn next(&mut self) -> Option<WindowPermit> {
        let link = self.bind.link.clone();
        let permit = match self.permits.pop() {
            Some(permit) => permit,
            None => link.reserve().await.ok()?,
        };
        loop {
            if !self.bind.may_write() || self.line.state.borrow().course != Course::Run {
                return None;
            }
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
