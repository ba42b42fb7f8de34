//! What the application holds of a session.

use super::{
    Answer, CloseReason, Driver, LateResponse, NotSent, NotSentReason, NoticeError, Response, Role,
    SessionOptions, SubmitError,
    driver::{Channels, drive},
    state::Shared,
    trace::Traced,
};
use crate::{
    AlertNotification, COctets, Command, CommandId, CommandStatus, Header, Pdu, Sm, Tolerance,
    framing::Framing, pdu::BindKind,
};
use bytes::BufMut;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, WriteHalf},
    sync::{OwnedSemaphorePermit, broadcast, mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::codec::FramedRead;

/// A session just bound. All parts belong together; nothing moves until the driver runs.
#[derive(Debug)]
pub struct Session<T> {
    /// The handle to send with.
    pub link: Link<T>,
    /// What the peer sends.
    pub incoming: Incoming,
    /// Answers to requests that were given up.
    pub late: LateResponses<T>,
    /// The future that reads and writes; run it on a task of its own.
    pub driver: Driver,
}

/// Builds the parts of a bound session.
pub(crate) fn open<T, IO>(
    (frames, writer): (FramedRead<tokio::io::ReadHalf<IO>, Framing>, WriteHalf<IO>),
    role: Role,
    bind: BindKind,
    options: SessionOptions,
    tolerance: Tolerance,
    first_sequence: u32,
) -> Session<T>
where
    T: Send + 'static,
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (incoming, inbox) = mpsc::channel(options.incoming_window.max(1));
    let (requests, other) = mpsc::channel(options.incoming_window.max(1));
    let (late, lates) = mpsc::channel(options.late_capacity.max(1));
    let shared = Arc::new(Shared::new(role, bind, options, tolerance, first_sequence, other));
    let driver = drive(Arc::clone(&shared), frames, writer, Channels { incoming, requests, late });
    Session {
        link: Link { shared },
        incoming: Incoming { inbox },
        late: LateResponses { lates },
        driver: Driver::new(driver),
    }
}

/// The sending handle of a session; clones share it. `T` is what the caller ties to each request.
pub struct Link<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Link<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Link<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("role", &self.shared.role)
            .field("bind", &self.shared.bind)
            .field("pending", &self.shared.pending())
            .field("closed", &*self.shared.closed.borrow())
            .finish_non_exhaustive()
    }
}

/// The right to have one request under way. Dropping it unused gives the place back.
#[derive(Debug)]
pub struct WindowPermit(OwnedSemaphorePermit);

impl<T: Send + 'static> Link<T> {
    /// Waits for a place in the window. Nothing is written.
    pub async fn reserve(&self) -> Result<WindowPermit, NotSentReason> {
        let permit = Arc::clone(&self.shared.window).acquire_owned().await;
        permit.map(WindowPermit).map_err(|_| NotSentReason::Closing)
    }

    /// Takes a place in the window if one is free.
    pub fn try_reserve(&self) -> Option<WindowPermit> {
        Arc::clone(&self.shared.window).try_acquire_owned().ok().map(WindowPermit)
    }

    /// Free places in the window; zero once the session is closing.
    pub fn free(&self) -> usize {
        if self.shared.window.is_closed() { 0 } else { self.shared.window.available_permits() }
    }

    /// Queues a message: `submit_sm` from the side that bound, `deliver_sm` from the other. From here on the
    /// outcome is the returned future's: keep it until it resolves (it does, at the latest after the response
    /// timeout), a dropped one sends its answer to [`LateResponses`].
    ///
    /// # Errors
    /// Nothing was queued: the session is closing, the bind lacks the direction, or a field breaks a limit.
    pub fn send(&self, permit: WindowPermit, sm: Box<Sm>, token: T) -> Result<PendingResponse, NotSent<T>> {
        let pdu = match self.shared.role {
            Role::Client => Pdu::SubmitSm(sm),
            Role::Server => Pdu::DeliverSm(sm),
        };
        self.shared.queue_message(permit.0, pdu, token)
    }

    /// Queues a request of any kind that this side of the session may send: `submit_multi`, `data_sm`, `query_sm`,
    /// `cancel_sm`, `replace_sm` and the broadcasts from the side that bound, `data_sm` from the other. It takes a
    /// place in the window and comes to an end as [`Link::send`] says; its answer is the whole PDU.
    ///
    /// # Errors
    /// Nothing was queued: the session is closing, the direction or the PDU is wrong, or a field breaks a limit.
    pub fn request(&self, permit: WindowPermit, pdu: Pdu, token: T) -> Result<PendingAnswer, NotSent<T>> {
        self.shared.queue_any(permit.0, pdu, token)
    }

    /// Queues an `alert_notification`, which has no answer.
    ///
    /// # Errors
    /// Nothing was queued: the session is closing, we are the side that bound, a field breaks a limit, or the peer
    /// does not read.
    pub fn notify(&self, alert: Box<AlertNotification>) -> Result<(), NoticeError> {
        self.shared.queue_notice(Pdu::AlertNotification(alert))
    }

    /// Takes over the peer's requests and notices that are not plain messages: `submit_multi`, `data_sm`, `query_sm`
    /// and so on. Until then each is refused with `ESME_RINVCMDID` in its own response. `None` the second time.
    pub fn take_requests(&self) -> Option<Requests> {
        self.shared.lock().requests.take().map(|inbox| Requests { inbox })
    }

    /// Queues octets as they are, between PDUs. For peers that misbehave on purpose.
    pub fn send_raw(&self, octets: &[u8]) {
        self.shared.queue_octets(|out| out.put_slice(octets));
    }

    /// Asks the peer for a sign of life (`enquire_link`) now, and waits for it. False: none came within the response
    /// timeout, or the session ended.
    pub async fn enquire(&self) -> bool {
        {
            let mut state = self.shared.lock();
            if state.closing.is_some() {
                return false;
            }
            if state.enquiry.is_none() {
                state.enquire(Instant::now() + self.shared.options.response_timeout);
            }
        }
        self.shared.work.notify_one();
        let answered = async {
            loop {
                let mut progress = std::pin::pin!(self.shared.progress.notified());
                progress.as_mut().enable();
                if self.shared.lock().enquiry.is_none() {
                    return;
                }
                progress.await;
            }
        };
        let answered = timeout(self.shared.options.response_timeout, answered).await;
        answered.is_ok() && !self.is_closed()
    }

    /// What goes over the session from now on, without its contents. Who is too slow misses the oldest, and is told how many.
    pub fn trace(&self) -> broadcast::Receiver<Traced> {
        self.shared.traced()
    }

    /// Cuts the connection after what is queued was written, without `unbind`.
    pub fn abort(&self) {
        self.shared.begin_close(CloseReason::Aborted);
    }

    /// Ends the session in order: no new requests, answers awaited and given for at most `limit`, then `unbind`.
    pub async fn drain(&self, limit: Duration) -> CloseReason {
        self.shared.lock().draining = true;
        self.shared.window.close();
        // At the limit the rest is given up; the requests learn it when the session ends.
        let in_time = timeout(limit, self.settled()).await.is_ok();
        tracing::debug!(in_time, "SMPP session drained");
        let unbind = {
            let mut state = self.shared.lock();
            let sequence = state.take_sequence();
            state.unbinding = Some(sequence);
            Header { id: CommandId::UNBIND, status: CommandStatus::ESME_ROK, sequence }
        };
        self.shared.queue_header(unbind);
        if let Ok(reason) = timeout(self.shared.options.response_timeout, self.closed()).await {
            return reason;
        }
        self.shared.begin_close(CloseReason::Unbound);
        self.closed().await
    }

    /// Waits for the end of the session.
    pub async fn closed(&self) -> CloseReason {
        let mut closed = self.shared.closed.subscribe();
        let reason = closed.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        reason.unwrap_or(CloseReason::Aborted)
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.borrow().is_some()
    }

    async fn settled(&self) {
        loop {
            let mut progress = std::pin::pin!(self.shared.progress.notified());
            progress.as_mut().enable();
            let answered = self.shared.inbound.available_permits() == self.shared.options.incoming_window;
            if self.is_closed() || (self.shared.pending() == 0 && answered) {
                return;
            }
            progress.await;
        }
    }
}

/// The answer to a request, to come.
#[derive(Debug)]
pub struct Awaited<R> {
    sequence: u32,
    response: oneshot::Receiver<Result<R, SubmitError>>,
}

/// The answer to a message.
pub type PendingResponse = Awaited<Response>;
/// The answer to any other request.
pub type PendingAnswer = Awaited<Answer>;

impl<R> Awaited<R> {
    pub(super) const fn new(sequence: u32, response: oneshot::Receiver<Result<R, SubmitError>>) -> Self {
        Self { sequence, response }
    }

    /// The request's sequence number.
    pub const fn sequence(&self) -> u32 {
        self.sequence
    }
}

impl<R> Future for Awaited<R> {
    type Output = Result<R, SubmitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let lost = SubmitError::LinkLost(CloseReason::Aborted);
        Pin::new(&mut self.response).poll(context).map(|received| received.unwrap_or(Err(lost)))
    }
}

/// The peer's requests: `deliver_sm` at the side that bound, `submit_sm` at the other.
#[derive(Debug)]
pub struct Incoming {
    inbox: mpsc::Receiver<(Box<Sm>, Responder)>,
}

impl Incoming {
    /// The next request; `None` when the session has ended.
    pub async fn recv(&mut self) -> Option<(Box<Sm>, Responder)> {
        self.inbox.recv().await
    }
}

/// A request or notice of the peer, with the duty to answer it where there is one.
pub(super) type Request = (Pdu, Option<Responder>);

/// The peer's requests and notices that are not plain messages.
#[derive(Debug)]
pub struct Requests {
    inbox: mpsc::Receiver<Request>,
}

impl Requests {
    /// The next one; `None` when the session has ended. An `alert_notification` comes without a responder.
    pub async fn recv(&mut self) -> Option<(Pdu, Option<Responder>)> {
        self.inbox.recv().await
    }
}

/// Late answers, for the correction of unknown outcomes.
#[derive(Debug)]
pub struct LateResponses<T> {
    lates: mpsc::Receiver<LateResponse<T>>,
}

impl<T> LateResponses<T> {
    /// The next late answer; `None` when the session has ended.
    pub async fn recv(&mut self) -> Option<LateResponse<T>> {
        self.lates.recv().await
    }
}

/// The duty to answer one request of the peer: answer when it is durable. Dropped without an answer it tells the
/// peer to send again (`ESME_RX_T_APPN`).
pub struct Responder {
    sink: Arc<dyn Sink>,
    request: Header,
    permit: Option<OwnedSemaphorePermit>,
}

/// Where answers go, whatever the session's token type.
pub(super) trait Sink: Send + Sync {
    /// Queues an answer.
    fn answer(&self, command: &Command);
    /// An incoming request is off the table.
    fn released(&self);
}

impl<T: Send> Sink for Shared<T> {
    fn answer(&self, command: &Command) {
        if let Err(error) = self.queue(command) {
            tracing::error!(%error, "answer cannot be encoded");
            let status = CommandStatus::ESME_RSYSERR;
            self.queue_header(Header { id: command.pdu.id(), status, sequence: command.sequence });
        }
    }

    fn released(&self) {
        self.progress.notify_waiters();
    }
}

impl Responder {
    pub(super) fn new(sink: Arc<dyn Sink>, request: Header, permit: OwnedSemaphorePermit) -> Self {
        Self { sink, request, permit: Some(permit) }
    }

    /// Sequence number of the request.
    pub const fn sequence(&self) -> u32 {
        self.request.sequence
    }

    /// Answers with a status.
    pub fn respond(self, status: CommandStatus) {
        self.respond_with(status, COctets::default());
    }

    /// Answers with a status and a message id, where the response has a place for one.
    pub fn respond_with(mut self, status: CommandStatus, message_id: COctets) {
        self.settle(Pdu::answer_to(self.request.id, message_id).map(|pdu| (status, pdu)));
    }

    /// Answers with a whole PDU. One that is not the response to this request becomes `ESME_RSYSERR`.
    pub fn respond_pdu(mut self, status: CommandStatus, pdu: Pdu) {
        if pdu.id() == self.request.id.response() {
            return self.settle(Some((status, pdu)));
        }
        tracing::error!(request = %self.request.id, answer = %pdu.id(), "answer is not of its request");
        self.respond(CommandStatus::ESME_RSYSERR);
    }

    /// Leaves the request without an answer. For peers that misbehave on purpose.
    pub fn forget(mut self) {
        self.settle(None);
    }

    fn settle(&mut self, answer: Option<(CommandStatus, Pdu)>) {
        let Some(permit) = self.permit.take() else { return };
        if let Some((status, pdu)) = answer {
            self.sink.answer(&Command { status, sequence: self.request.sequence, pdu });
        }
        drop(permit);
        self.sink.released();
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let again = Pdu::answer_to(self.request.id, COctets::default());
        self.settle(again.map(|pdu| (CommandStatus::ESME_RX_T_APPN, pdu)));
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Responder({:?})", self.request)
    }
}
