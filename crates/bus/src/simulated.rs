//! A broker that is a value, for the simulated world (docs/TESTING.md): JetStream as far as this crate uses it, below
//! publisher, worker and reader, which are the production code. Time is tokio's, so it may be paused.
//!
//! It does what JetStream does: delivers again after `ack_wait`, out of the order of the stream; takes an acknowledgement of an
//! earlier delivery for the newest; knows a publish id for a while, and forgets them all in a restart if told so; keeps
//! what is not acknowledged over a restart; refuses when full; keeps a pull unanswered while too much is
//! unacknowledged. And it does to a process what networks and machines do ([`Fault`]). `contract.rs` holds it against a
//! nats-server.
//!
//! Not here: permissions, clusters, slow consumers.

#[cfg(test)]
mod contract;
mod jetstream;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{Event, Message, Request, RequestError, client::RequestErrorKind};
use bytes::Bytes;
use sotto_core::AccountId;
use tokio::{
    sync::{Notify, mpsc},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Bus, BusOptions, StoredMessage, Topology,
    connection::Connection,
    topology::{Cell, TopologyError},
    wire::Wire,
};
use jetstream::{JetStream, matches};

/// The longest way of a message between a process and the broker.
const WAY_MICROS: u64 = 3_000;

/// What happens to one request of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It gets lost.
    LoseRequest,
    /// Its answer gets lost.
    LoseAnswer,
    /// The process dies before it.
    DieBefore,
    /// The process dies after its effect and before its answer.
    DieAfter,
}

/// A broker that breaks its word: the world must find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Says of every so many publishes that they are stored, and does not store them.
    AnswersUnstored(u64),
}

/// The broker. Clones are the same one.
#[derive(Clone)]
pub struct SimulatedBroker(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    jetstream: JetStream,
    sessions: BTreeMap<u64, Seat>,
    inboxes: Vec<Interest>,
    up: bool,
    random: u64,
    names: u64,
}

/// A connected process.
struct Seat {
    instance: String,
    life: CancellationToken,
    connection: Arc<Connection>,
    /// After so many requests.
    fault: Option<(u64, Fault)>,
}

struct Interest {
    id: u64,
    session: u64,
    pattern: String,
    sender: mpsc::UnboundedSender<Message>,
}

impl fmt::Debug for SimulatedBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedBroker").finish_non_exhaustive()
    }
}

impl SimulatedBroker {
    /// A broker with the streams and consumers of a cell. Must be made inside the runtime, in which it works.
    ///
    /// # Errors
    /// When the list does not allow so many accounts or shards.
    pub fn start(
        topology: &Topology,
        cell: &Cell,
        accounts: &[AccountId],
        seed: u64,
    ) -> Result<Self, TopologyError> {
        let jetstream = JetStream::new(topology, cell, accounts)?;
        let (sessions, inboxes) = (BTreeMap::new(), Vec::new());
        let state = State { jetstream, sessions, inboxes, up: true, random: seed, names: 0 };
        let broker = Self(Arc::new(Shared { state: Mutex::new(state), wake: Notify::new() }));
        let working = Arc::downgrade(&broker.0);
        TASKS.spawn(async move {
            while let Some(shared) = working.upgrade() {
                let next = shared.lock().pump();
                let woken = shared.wake.notified();
                match next {
                    Some(at) => drop(time::timeout_at(at, woken).await),
                    None => woken.await,
                }
            }
        });
        Ok(broker)
    }

    /// Connects a process. When its `life` ends, nothing of it reaches the broker any more, and nothing reaches it.
    pub fn connect(&self, options: BusOptions, life: CancellationToken) -> Bus {
        let connection = Connection::new();
        connection.on_event(Event::Connected);
        let mut state = self.0.lock();
        let session = state.name();
        let instance = options.instance.clone();
        let seat = Seat { instance, life: life.clone(), connection: Arc::clone(&connection), fault: None };
        state.sessions.insert(session, seat);
        drop(state);
        let wire = Wire::Simulated(Session { shared: Arc::clone(&self.0), session, life });
        Bus::over(wire, connection, options)
    }

    /// Plans a fault of a process for the request after so many.
    pub fn plan(&self, instance: &str, after: u64, fault: Fault) {
        let mut state = self.0.lock();
        let seats = state.sessions.values_mut();
        for seat in seats.filter(|seat| seat.instance == instance && !seat.life.is_cancelled()) {
            seat.fault = Some((after, fault));
        }
    }

    /// Cuts every connection and answers nobody.
    pub fn stop(&self) {
        let mut state = self.0.lock();
        state.up = false;
        state.jetstream.drop_pulls();
        for seat in state.sessions.values() {
            seat.connection.on_event(Event::Disconnected);
        }
    }

    /// Is there again, with all that it had stored. `forget`: it knows no publish ids any more.
    pub fn restart(&self, forget: bool) {
        let mut state = self.0.lock();
        if forget {
            state.jetstream.forget_ids();
        }
        state.up = true;
        for seat in state.sessions.values().filter(|seat| !seat.life.is_cancelled()) {
            seat.connection.on_event(Event::Connected);
        }
        drop(state);
        self.0.wake.notify_one();
    }

    /// Whether it is there.
    pub fn is_up(&self) -> bool {
        self.0.lock().up
    }

    /// Lets a stream, as the list writes it, refuse all that is new, or take it again.
    pub fn set_full(&self, stream: &str, full: bool) {
        self.0.lock().jetstream.set_full(stream, full);
    }

    /// Breaks its word from now on.
    pub fn set_defect(&self, defect: Defect) {
        self.0.lock().jetstream.defect = Some(defect);
    }

    /// What a stream, as the list writes it, holds.
    pub fn stored(&self, stream: &str) -> Vec<StoredMessage> {
        self.0.lock().jetstream.stored(stream)
    }
}

// Tasks of the broker itself, which is no process of the cell.
static TASKS: std::sync::LazyLock<tokio_util::task::TaskTracker> =
    std::sync::LazyLock::new(tokio_util::task::TaskTracker::new);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    /// How long a message is on its way.
    fn way(&mut self) -> Duration {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_micros((mixed ^ (mixed >> 31)) % WAY_MICROS)
    }

    /// The fault of this request, if its turn has come.
    fn fault(&mut self, session: u64) -> Option<Fault> {
        let plan = &mut self.sessions.get_mut(&session)?.fault;
        match plan {
            Some((0, fault)) => {
                let fault = *fault;
                *plan = None;
                Some(fault)
            }
            Some((after, _)) => {
                *after -= 1;
                None
            }
            None => None,
        }
    }

    /// Delivers what can be delivered. Returns when there may be more.
    fn pump(&mut self) -> Option<Instant> {
        if !self.up {
            return None;
        }
        let Self { jetstream, sessions, inboxes, .. } = self;
        let lives = |session: &u64| sessions.get(session).is_some_and(|seat| !seat.life.is_cancelled());
        inboxes.retain(|interest| lives(&interest.session) && !interest.sender.is_closed());
        jetstream.pump(Instant::now(), &mut |inbox, message| {
            let interest = inboxes.iter().find(|interest| matches(&interest.pattern, inbox));
            interest.is_some_and(|interest| interest.sender.send(message).is_ok())
        })
    }
}

/// A process's connection.
#[derive(Clone)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    session: u64,
    life: CancellationToken,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn is_connected(&self) -> bool {
        self.shared.lock().up && !self.life.is_cancelled()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.life.is_cancelled()
    }

    pub(crate) fn new_inbox(&self) -> String {
        let mut state = self.shared.lock();
        format!("_INBOX.{}.{}", self.session, state.name())
    }

    pub(crate) fn subscribe(&self, pattern: &str) -> Inbox {
        let (sender, messages) = mpsc::unbounded_channel();
        let mut state = self.shared.lock();
        let id = state.name();
        let (session, pattern) = (self.session, pattern.to_owned());
        state.inboxes.push(Interest { id, session, pattern, sender });
        Inbox { shared: Arc::clone(&self.shared), id, messages }
    }

    /// Nobody learns whether it arrived.
    pub(crate) async fn publish(&self, subject: &str, reply: Option<String>, payload: Bytes) {
        if !self.arrive().await {
            return;
        }
        let mut state = self.shared.lock();
        let answers = state.jetstream.take(Instant::now(), subject, None, &payload, reply.as_deref());
        if let Some(reply) = reply {
            for message in answers {
                if let Some(interest) = state.inboxes.iter().find(|it| matches(&it.pattern, &reply)) {
                    let _gone = interest.sender.send(message);
                }
            }
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    pub(crate) async fn request(&self, subject: &str, request: Request) -> Result<Message, RequestError> {
        let patience = request.timeout.flatten();
        let asked = self.ask(subject, request);
        match patience {
            Some(patience) => {
                time::timeout(patience, asked).await.unwrap_or(Err(RequestErrorKind::TimedOut.into()))
            }
            None => asked.await,
        }
    }

    async fn ask(&self, subject: &str, request: Request) -> Result<Message, RequestError> {
        let fault = self.shared.lock().fault(self.session);
        if fault == Some(Fault::DieBefore) {
            self.life.cancel();
        }
        if fault == Some(Fault::LoseRequest) || !self.arrive().await {
            return std::future::pending().await;
        }
        let payload = request.payload.unwrap_or_default();
        let answer = {
            let mut state = self.shared.lock();
            let headers = request.headers.as_ref();
            state.jetstream.take(Instant::now(), subject, headers, &payload, None).into_iter().next()
        };
        self.shared.wake.notify_one();
        if fault == Some(Fault::DieAfter) {
            self.life.cancel();
        }
        if fault == Some(Fault::LoseAnswer) || !self.arrive().await {
            return std::future::pending().await;
        }
        answer.ok_or_else(|| RequestErrorKind::NoResponders.into())
    }

    /// One way; false if there is nobody at its end.
    async fn arrive(&self) -> bool {
        if self.life.is_cancelled() {
            return std::future::pending().await;
        }
        let way = self.shared.lock().way();
        time::sleep(way).await;
        if self.life.is_cancelled() {
            return std::future::pending().await;
        }
        self.shared.lock().up
    }
}

/// What comes for one subscription.
pub(crate) struct Inbox {
    shared: Arc<Shared>,
    id: u64,
    messages: mpsc::UnboundedReceiver<Message>,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Inbox {
    pub(crate) async fn next(&mut self) -> Option<Message> {
        self.messages.recv().await
    }

    pub(crate) fn leave(&self) {
        self.shared.lock().inboxes.retain(|interest| interest.id != self.id);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.leave();
    }
}
