//! The shared memory of a session: what is queued, what waits for an answer, what is given up.

use super::{
    Answer, Awaited, CloseReason, LateResponse, NotSent, NotSentReason, NoticeError, Response, Role,
    SessionOptions, SubmitError, handle::Request, trace::Traced,
};
use crate::{Command, CommandId, CommandStatus, EncodeError, Header, Pdu, Tolerance, pdu::BindKind};
use bytes::BytesMut;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch},
    time::Instant,
};

/// The highest sequence number (SMPP 3.4 §3.2).
const MAX_SEQUENCE: u32 = 0x7FFF_FFFF;

/// A session is stalled when requests ran out of time for so many response timeouts without an answer to any, late or
/// in time. A slow peer is not a dead one: its late answers count.
const STALLED_AFTER: u32 = 3;

/// Octets of unwritten answers at which reading stops, so that a peer that only talks cannot fill our memory.
pub(super) const OUT_LIMIT: usize = 256 * 1024;

/// What the handles and the driver share.
pub(super) struct Shared<T> {
    pub(super) role: Role,
    pub(super) bind: BindKind,
    pub(super) options: SessionOptions,
    /// What is forgiven to the peer.
    pub(super) tolerance: Tolerance,
    /// Wakes the writer.
    pub(super) work: Notify,
    /// Told when queued octets were taken, a request was settled or an incoming one answered.
    pub(super) progress: Notify,
    pub(super) window: Arc<Semaphore>,
    pub(super) inbound: Arc<Semaphore>,
    pub(super) closed: watch::Sender<Option<CloseReason>>,
    /// Made when somebody looks for the first time.
    pub(super) trace: OnceLock<broadcast::Sender<Traced>>,
    state: Mutex<State<T>>,
}

pub(super) struct State<T> {
    /// Encoded PDUs that the writer has not taken.
    pub(super) out: BytesMut,
    /// How often the writer took `out`.
    batch: u64,
    next_sequence: u32,
    pending: HashMap<u32, Pending<T>>,
    /// Deadlines in the order of sending; entries of settled requests are swept out.
    deadlines: VecDeque<(Instant, u32)>,
    /// When the first request was sent that ran out of time with no answer of any kind since.
    silent_since: Option<Instant>,
    late: HashMap<u32, (CommandId, T)>,
    late_order: VecDeque<u32>,
    /// Our `enquire_link` under way.
    pub(super) enquiry: Option<(u32, Instant)>,
    /// The peer's `unbind`, which is answered once the answers to our requests are here.
    peer_unbinding: Option<u32>,
    /// Our `unbind` under way.
    pub(super) unbinding: Option<u32>,
    pub(super) draining: bool,
    /// Set when the session is to end once `out` is written.
    pub(super) closing: Option<CloseReason>,
    pub(super) last_heard: Instant,
    /// Set while reading stands still because our own side is full.
    pub(super) paused: bool,
    /// Set when nothing will be written any more.
    ended: bool,
    /// Requests of the peer other than messages, until the application asks for them.
    pub(super) requests: Option<mpsc::Receiver<Request>>,
}

struct Pending<T> {
    waiter: Waiter,
    token: T,
    /// The command id of its answer: another answer under its number is not its own.
    expects: CommandId,
    /// Value of `batch` when it was queued: it is untouched as long as `batch` has not moved on.
    batch: u64,
    _slot: OwnedSemaphorePermit,
}

/// Who waits for an answer, and for how much of it.
pub(super) enum Waiter {
    Message(oneshot::Sender<Result<Response, SubmitError>>),
    Any(oneshot::Sender<Result<Answer, SubmitError>>),
}

impl Waiter {
    /// Hands the answer over; gives back what of it matters later when nobody waits any more.
    fn answer(self, answer: Answer) -> Result<(), Response> {
        match self {
            Self::Message(waiter) => {
                waiter.send(Ok(answer.into())).or_else(|unheard| unheard.map_or(Ok(()), Err))
            }
            Self::Any(waiter) => {
                waiter.send(Ok(answer)).or_else(|unheard| unheard.map_or(Ok(()), |answer| Err(answer.into())))
            }
        }
    }

    fn fail(self, error: SubmitError) {
        // The waiter may be gone.
        match self {
            Self::Message(waiter) => drop(waiter.send(Err(error))),
            Self::Any(waiter) => drop(waiter.send(Err(error))),
        }
    }
}

impl From<Answer> for Response {
    fn from(Answer { sequence, status, pdu }: Answer) -> Self {
        Self { sequence, status, message_id: pdu.and_then(Pdu::into_message_id) }
    }
}

impl<T> Shared<T> {
    pub(super) fn new(
        role: Role,
        bind: BindKind,
        options: SessionOptions,
        tolerance: Tolerance,
        first_sequence: u32,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        Self {
            role,
            bind,
            options,
            tolerance,
            work: Notify::new(),
            progress: Notify::new(),
            window: Arc::new(Semaphore::new(options.window)),
            inbound: Arc::new(Semaphore::new(options.incoming_window)),
            closed: watch::Sender::new(None),
            trace: OnceLock::new(),
            state: Mutex::new(State {
                out: BytesMut::new(),
                batch: 0,
                next_sequence: first_sequence,
                pending: HashMap::new(),
                deadlines: VecDeque::new(),
                silent_since: None,
                late: HashMap::new(),
                late_order: VecDeque::new(),
                enquiry: None,
                peer_unbinding: None,
                unbinding: None,
                draining: false,
                closing: None,
                last_heard: Instant::now(),
                paused: false,
                ended: false,
                requests: Some(requests),
            }),
        }
    }

    /// The state. A panic elsewhere leaves it usable: every section under the lock keeps it whole.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether our side may send messages on this bind.
    pub(super) const fn may_send(&self) -> bool {
        match self.role {
            Role::Client => self.bind.submits(),
            Role::Server => self.bind.receives(),
        }
    }

    /// Whether the peer may send messages on this bind.
    pub(super) const fn may_receive(&self) -> bool {
        match self.role {
            Role::Client => self.bind.receives(),
            Role::Server => self.bind.submits(),
        }
    }

    /// Queues a message and its place in the table.
    pub(super) fn queue_message(
        &self,
        slot: OwnedSemaphorePermit,
        pdu: Pdu,
        token: T,
    ) -> Result<Awaited<Response>, NotSent<T>> {
        let (waiter, response) = oneshot::channel();
        let sequence = self.queue_request(slot, pdu, token, Waiter::Message(waiter))?;
        Ok(Awaited::new(sequence, response))
    }

    /// Queues any request and its place in the table.
    pub(super) fn queue_any(
        &self,
        slot: OwnedSemaphorePermit,
        pdu: Pdu,
        token: T,
    ) -> Result<Awaited<Answer>, NotSent<T>> {
        let (waiter, response) = oneshot::channel();
        let sequence = self.queue_request(slot, pdu, token, Waiter::Any(waiter))?;
        Ok(Awaited::new(sequence, response))
    }

    fn queue_request(
        &self,
        slot: OwnedSemaphorePermit,
        pdu: Pdu,
        token: T,
        waiter: Waiter,
    ) -> Result<u32, NotSent<T>> {
        let id = pdu.id();
        if !self.may_send() || !self.role.sends(id) || !id.wants_response() {
            return Err(NotSent { reason: NotSentReason::Direction, token });
        }
        let mut state = self.lock();
        if state.draining || state.closing.is_some() {
            return Err(NotSent { reason: NotSentReason::Closing, token });
        }
        let sequence = state.take_sequence();
        let command = Command { status: CommandStatus::ESME_ROK, sequence, pdu };
        if let Err(error) = command.encode(&mut state.out) {
            return Err(NotSent { reason: NotSentReason::Encode(error), token });
        }
        let (batch, expects) = (state.batch, id.response());
        state.pending.insert(sequence, Pending { waiter, token, expects, batch, _slot: slot });
        state.note_deadline(Instant::now() + self.options.response_timeout, sequence);
        drop(state);
        self.work.notify_one();
        Ok(sequence)
    }

    /// Queues a notice, which has no answer.
    pub(super) fn queue_notice(&self, pdu: Pdu) -> Result<(), NoticeError> {
        if !self.may_send() || !self.role.sends(pdu.id()) || pdu.id().wants_response() {
            return Err(NoticeError::NotSent(NotSentReason::Direction));
        }
        let mut state = self.lock();
        if state.draining || state.closing.is_some() {
            return Err(NoticeError::NotSent(NotSentReason::Closing));
        }
        // Nothing holds notices back but this: a peer that does not read must not fill our memory.
        if state.out.len() > OUT_LIMIT {
            return Err(NoticeError::Full);
        }
        let sequence = state.take_sequence();
        let command = Command { status: CommandStatus::ESME_ROK, sequence, pdu };
        command.encode(&mut state.out).map_err(|error| NoticeError::NotSent(NotSentReason::Encode(error)))?;
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Queues a PDU that needs no answer.
    pub(super) fn queue(&self, command: &Command) -> Result<(), EncodeError> {
        self.queue_octets(|out| command.encode(out)).unwrap_or(Ok(()))
    }

    /// Queues a PDU without a body.
    pub(super) fn queue_header(&self, header: Header) {
        self.queue_octets(|out| header.encode_alone(out));
    }

    /// Lets `write` append to what is queued; not once the session has ended, when it would only pile up.
    pub(super) fn queue_octets<R>(&self, write: impl FnOnce(&mut BytesMut) -> R) -> Option<R> {
        let mut state = self.lock();
        if state.ended {
            return None;
        }
        let result = write(&mut state.out);
        drop(state);
        self.work.notify_one();
        Some(result)
    }

    /// The peer unbinds: nothing new is sent. What was written before it said so may still be answered, and an answer
    /// that is not waited for is a message in doubt.
    pub(super) fn peer_unbinds(&self, sequence: u32) {
        let mut state = self.lock();
        state.draining = true;
        state.peer_unbinding = Some(sequence);
        drop(state);
        self.window.close();
    }

    /// Answers the peer's `unbind` when no answer to us is outstanding any more; each comes or runs out of time.
    pub(super) fn answer_unbind(&self) {
        let mut state = self.lock();
        if !state.pending.is_empty() {
            return;
        }
        let Some(sequence) = state.peer_unbinding.take() else { return };
        drop(state);
        self.queue_header(Header { id: CommandId::UNBIND_RESP, status: CommandStatus::ESME_ROK, sequence });
        self.begin_close(CloseReason::PeerUnbound);
    }

    /// Ends the session once everything queued is written. The first reason stands.
    pub(super) fn begin_close(&self, reason: CloseReason) {
        let mut state = self.lock();
        state.closing.get_or_insert(reason);
        drop(state);
        self.window.close();
        self.work.notify_one();
    }

    /// Settles a request, or finds the token of one that was given up. Only an answer of the request's own kind, or
    /// a `generic_nack`, counts.
    pub(super) fn settle(&self, header: Header, pdu: Option<Pdu>) -> Option<LateResponse<T>> {
        let Header { id, status, sequence } = header;
        let fits = |expects: CommandId| id == expects || id == CommandId::GENERIC_NACK;
        let answer = Answer { sequence, status, pdu };
        let mut state = self.lock();
        if state.pending.get(&sequence).is_some_and(|pending| !fits(pending.expects)) {
            return None;
        }
        state.silent_since = None;
        let Some(pending) = state.pending.remove(&sequence) else {
            if !state.late.get(&sequence).is_some_and(|(expects, _)| fits(*expects)) {
                return None;
            }
            let (_, token) = state.late.remove(&sequence)?;
            return Some(LateResponse { token, response: answer.into() });
        };
        drop(state);
        let Pending { waiter, token, .. } = pending;
        let unheard = waiter.answer(answer).err();
        self.progress.notify_waiters();
        // Nobody waits any more, yet the answer must not be lost: it goes the way of the late ones.
        unheard.map(|response| LateResponse { token, response })
    }

    /// Gives up the requests whose time is over and tells when the next one's is.
    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let mut settled = false;
        let next = loop {
            let Some(&(deadline, sequence)) = state.deadlines.front() else { break None };
            if !state.pending.contains_key(&sequence) {
                state.deadlines.pop_front();
                continue;
            }
            if deadline > now {
                break Some(deadline);
            }
            state.deadlines.pop_front();
            if let Some(Pending { waiter, token, expects, .. }) = state.pending.remove(&sequence) {
                // The waiter may be gone; the token then still stands for it.
                waiter.fail(SubmitError::TimedOut);
                state.remember_late(sequence, expects, token, self.options.late_capacity);
                settled = true;
                let sent = deadline.checked_sub(self.options.response_timeout).unwrap_or(deadline);
                state.silent_since.get_or_insert(sent);
            }
        };
        let patience = self.options.response_timeout.saturating_mul(STALLED_AFTER);
        let stalled = settled
            && state.silent_since.is_some_and(|since| now.saturating_duration_since(since) >= patience);
        drop(state);
        if stalled {
            self.begin_close(CloseReason::Stalled);
        }
        if settled {
            self.progress.notify_waiters();
        }
        next
    }

    /// Ends the session for everyone: each request under way learns whether it was written.
    pub(super) fn finish(&self, reason: CloseReason) {
        let mut state = self.lock();
        let reason = *state.closing.get_or_insert(reason);
        let batch = state.batch;
        let pending: Vec<_> = state.pending.drain().map(|(_, pending)| pending).collect();
        state.deadlines.clear();
        state.late.clear();
        state.out = BytesMut::new();
        state.ended = true;
        drop(state);
        for Pending { waiter, batch: queued, .. } in pending {
            let error =
                if queued < batch { SubmitError::LinkLost(reason) } else { SubmitError::NotWritten(reason) };
            waiter.fail(error);
        }
        self.window.close();
        self.inbound.close();
        self.closed.send_if_modified(|closed| closed.replace(reason).is_none());
        self.progress.notify_waiters();
    }

    pub(super) fn pending(&self) -> usize {
        self.lock().pending.len()
    }
}

impl<T> State<T> {
    /// Queues an `enquire_link`, to be answered by this time.
    pub(super) fn enquire(&mut self, deadline: Instant) {
        let sequence = self.take_sequence();
        self.enquiry = Some((sequence, deadline));
        let status = CommandStatus::ESME_ROK;
        Header { id: CommandId::ENQUIRE_LINK, status, sequence }.encode_alone(&mut self.out);
    }

    /// Hands the queued octets to the writer by swapping them with `spare`, which must be empty.
    /// From here on the requests among them count as written.
    pub(super) fn take_out(&mut self, spare: &mut BytesMut) -> bool {
        if self.out.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.out, spare);
        self.batch = self.batch.wrapping_add(1);
        true
    }

    /// The next sequence number that nothing under way uses.
    pub(super) fn take_sequence(&mut self) -> u32 {
        loop {
            let sequence = self.next_sequence;
            self.next_sequence = if sequence >= MAX_SEQUENCE { 1 } else { sequence.saturating_add(1) };
            let enquiry = self.enquiry.is_some_and(|(enquiry, _)| enquiry == sequence);
            if !enquiry && !self.pending.contains_key(&sequence) && !self.late.contains_key(&sequence) {
                return sequence;
            }
        }
    }

    fn note_deadline(&mut self, deadline: Instant, sequence: u32) {
        // Settled requests leave their deadline behind: swept before they outnumber the live ones.
        if self.deadlines.len() > self.pending.len().saturating_mul(2).saturating_add(64) {
            let Self { deadlines, pending, .. } = self;
            deadlines.retain(|(_, sequence)| pending.contains_key(sequence));
        }
        self.deadlines.push_back((deadline, sequence));
    }

    fn remember_late(&mut self, sequence: u32, expects: CommandId, token: T, capacity: usize) {
        self.late.insert(sequence, (expects, token));
        self.late_order.push_back(sequence);
        while self.late_order.len() > capacity {
            if let Some(oldest) = self.late_order.pop_front() {
                self.late.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(shared: &Shared<u8>) -> OwnedSemaphorePermit {
        Arc::clone(&shared.window).try_acquire_owned().unwrap()
    }

    fn shared(first_sequence: u32) -> Shared<u8> {
        let (_, requests) = mpsc::channel(1);
        let options = SessionOptions::default();
        Shared::new(Role::Client, BindKind::Transceiver, options, Tolerance::STRICT, first_sequence, requests)
    }

    fn message() -> Pdu {
        Pdu::SubmitSm(Box::default())
    }

    #[tokio::test]
    async fn sequence_numbers_wrap_past_those_under_way() {
        let shared = shared(1);
        let mut sent = Vec::new();
        for first in [1, 2, MAX_SEQUENCE] {
            shared.lock().next_sequence = first;
            sent.push(shared.queue_message(slot(&shared), message(), 0).unwrap());
        }
        let mut state = shared.lock();
        state.remember_late(3, CommandId::SUBMIT_SM_RESP, 0, 8);
        state.enquiry = Some((4, Instant::now()));
        assert_eq!(state.next_sequence, 1);
        assert_eq!(state.take_sequence(), 5, "1 and 2 wait, 3 may come late, 4 is our enquiry");
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_peer_that_answers_nothing_is_stalled() {
        let timeout = SessionOptions::default().response_timeout;
        for late in [true, false] {
            let shared = shared(1);
            for _ in 0..6 {
                let pending = shared.queue_message(slot(&shared), message(), 0).unwrap();
                tokio::time::advance(timeout).await;
                shared.expire(Instant::now());
                if late {
                    let (id, status) = (CommandId::SUBMIT_SM_RESP, CommandStatus::ESME_ROK);
                    assert!(
                        shared.settle(Header { id, status, sequence: pending.sequence() }, None).is_some()
                    );
                }
                if shared.lock().closing.is_some() {
                    break;
                }
            }
            let closing = shared.lock().closing;
            assert_eq!(closing, (!late).then_some(CloseReason::Stalled));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_of_settled_requests_are_swept() {
        let shared = shared(1);
        let slowest = shared.queue_message(slot(&shared), message(), 0).unwrap();
        for _ in 0..1000 {
            let pending = shared.queue_message(slot(&shared), message(), 0).unwrap();
            let (id, status) = (CommandId::SUBMIT_SM_RESP, CommandStatus::ESME_ROK);
            shared.settle(Header { id, status, sequence: pending.sequence() }, None);
        }
        assert!(shared.lock().deadlines.len() < 100);
        tokio::time::advance(SessionOptions::default().response_timeout).await;
        assert_eq!(shared.expire(Instant::now()), None);
        assert_eq!(slowest.await, Err(SubmitError::TimedOut));
    }
}
