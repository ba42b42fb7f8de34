//! Moves the octets of a session: one future that reads, writes and keeps time.

use super::{
    CloseReason, LateResponse, Role,
    handle::{Request, Responder, Sink},
    state::{OUT_LIMIT, Shared},
};
use crate::{
    CommandId, CommandStatus, Framing, FramingError, Header, Pdu, RawPdu, Sm, framing::error_response,
    pdu::is_known_request,
};
use bytes::BytesMut;
use futures::{StreamExt, future::BoxFuture};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::codec::FramedRead;

/// The work of a session: run it on a task of its own. Its end, or its being dropped, is the session's end.
#[must_use = "a session stands still until its driver runs"]
pub struct Driver(BoxFuture<'static, CloseReason>);

impl Driver {
    pub(super) fn new(work: impl Future<Output = CloseReason> + Send + 'static) -> Self {
        Self(Box::pin(work))
    }
}

impl Future for Driver {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<CloseReason> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

/// Where the reader puts what it reads.
pub(super) struct Channels<T> {
    pub(super) incoming: mpsc::Sender<(Box<Sm>, Responder)>,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) late: mpsc::Sender<LateResponse<T>>,
}

/// Settles everybody's account when the driver ends, however it ends.
struct Finish<T>(Arc<Shared<T>>);

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        self.0.finish(CloseReason::Aborted);
    }
}

pub(super) fn drive<T, IO>(
    shared: Arc<Shared<T>>,
    frames: FramedRead<ReadHalf<IO>, Framing>,
    writer: WriteHalf<IO>,
    channels: Channels<T>,
) -> impl Future<Output = CloseReason> + Send + 'static
where
    T: Send + 'static,
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let finish = Finish(Arc::clone(&shared));
    async move {
        let reason = tokio::select! {
            reason = write(&shared, writer) => reason,
            reason = read(&shared, frames, &channels) => reason,
            reason = keep_time(&shared) => reason,
        };
        shared.finish(reason);
        drop(finish);
        let reason = *shared.closed.borrow();
        reason.unwrap_or(CloseReason::Aborted)
    }
}

/// Octets of written buffer that a session keeps for the next write.
const KEPT: usize = 16 * 1024;

/// Writes whatever is queued, as one write for all that gathered meanwhile. Ends once closing is due and all is
/// written.
async fn write<T, W: AsyncWrite + Unpin>(shared: &Shared<T>, mut writer: W) -> CloseReason {
    let mut octets = BytesMut::new();
    loop {
        let (taken, closing) = {
            let mut state = shared.lock();
            (state.take_out(&mut octets), state.closing)
        };
        if taken {
            shared.trace_outgoing(&octets);
        }
        let written = timeout(shared.options.response_timeout, async {
            if taken {
                writer.write_all(&octets).await?;
                if shared.lock().out.is_empty() {
                    writer.flush().await?;
                }
            } else if closing.is_some() {
                writer.shutdown().await?;
            } else {
                return Ok(false);
            }
            Ok(true)
        });
        match (written.await, closing) {
            (Err(_), _) => return CloseReason::WriteStalled,
            (Ok(Err(error)), _) => return from_io(&error),
            (Ok(Ok(_)), Some(reason)) if !taken => return reason,
            (Ok(Ok(false)), _) => shared.work.notified().await,
            (Ok(Ok(true)), _) => {
                octets.clear();
                // A burst must not hold its memory for the rest of the session.
                if octets.capacity() > KEPT {
                    octets = BytesMut::new();
                }
                shared.progress.notify_waiters();
            }
        }
    }
}

fn from_io(error: &std::io::Error) -> CloseReason {
    CloseReason::Io(error.kind())
}

/// Reads PDU after PDU and acts on each.
async fn read<T: Send + 'static, R: AsyncRead + Unpin>(
    shared: &Arc<Shared<T>>,
    mut frames: FramedRead<R, Framing>,
    channels: &Channels<T>,
) -> CloseReason {
    loop {
        let raw = match frames.next().await {
            // Some peers hang up on an unbind instead of answering it.
            None if shared.lock().unbinding.is_some() => return CloseReason::Unbound,
            None | Some(Err(FramingError::Truncated)) => return CloseReason::PeerClosed,
            Some(Err(FramingError::Io(error))) => return from_io(&error),
            Some(Err(FramingError::Encode(_))) => return CloseReason::Aborted,
            Some(Err(FramingError::Length { length, sequence })) => {
                tracing::warn!(length, "peer sent an impossible command_length");
                let status = CommandStatus::ESME_RINVCMDLEN;
                shared.queue_header(Header { id: CommandId::GENERIC_NACK, status, sequence });
                shared.begin_close(CloseReason::BadLength);
                return std::future::pending().await;
            }
            Some(Ok(raw)) => raw,
        };
        shared.lock().last_heard = Instant::now();
        shared.trace_incoming(&raw);
        handle(shared, raw, channels).await;
        shared.answer_unbind();
        if shared.lock().closing.is_some() {
            // The writer ends the session once the last answers are out.
            return std::future::pending().await;
        }
        if shared.lock().out.len() > OUT_LIMIT {
            unpile(shared).await;
        }
    }
}

/// Waits until the writer took the queued answers.
async fn unpile<T>(shared: &Shared<T>) {
    loop {
        let mut progress = std::pin::pin!(shared.progress.notified());
        progress.as_mut().enable();
        if shared.lock().out.len() <= OUT_LIMIT {
            return;
        }
        progress.await;
    }
}

async fn handle<T: Send + 'static>(shared: &Arc<Shared<T>>, raw: RawPdu, channels: &Channels<T>) {
    let header = raw.header;
    let pdu = match raw.decode_with(shared.tolerance) {
        Ok(pdu) => pdu,
        Err(error) => {
            tracing::warn!(id = %header.id, %error, "peer sent a malformed PDU");
            if header.id.is_response() {
                // The status is readable even where the rest is not.
                settle(shared, header, None, channels).await;
            } else if header.id.wants_response() {
                let known = is_known_request(header.id);
                shared.queue_header(error_response(header, known, error.status()));
            }
            return;
        }
    };
    match pdu {
        Pdu::GenericNack => {
            enquiry_answered(shared, header.sequence);
            settle(shared, header, None, channels).await;
        }
        Pdu::EnquireLinkResp => enquiry_answered(shared, header.sequence),
        Pdu::UnbindResp => {
            if shared.lock().unbinding == Some(header.sequence) {
                shared.begin_close(CloseReason::Unbound);
            }
        }
        Pdu::SubmitSmResp(_)
        | Pdu::DeliverSmResp(_)
        | Pdu::SubmitMultiResp(_)
        | Pdu::DataSmResp(_)
        | Pdu::QuerySmResp(_)
        | Pdu::CancelSmResp(_)
        | Pdu::ReplaceSmResp(_)
        | Pdu::BroadcastSmResp(_)
        | Pdu::QueryBroadcastSmResp(_)
        | Pdu::CancelBroadcastSmResp(_) => settle(shared, header, Some(pdu), channels).await,
        Pdu::SubmitSm(sm) if shared.role == Role::Server => take(shared, header, sm, channels).await,
        Pdu::DeliverSm(sm) if shared.role == Role::Client => take(shared, header, sm, channels).await,
        Pdu::SubmitSm(_)
        | Pdu::DeliverSm(_)
        | Pdu::SubmitMulti(_)
        | Pdu::DataSm(_)
        | Pdu::QuerySm(_)
        | Pdu::CancelSm(_)
        | Pdu::ReplaceSm(_)
        | Pdu::BroadcastSm(_)
        | Pdu::QueryBroadcastSm(_)
        | Pdu::CancelBroadcastSm(_) => take_other(shared, header, pdu, channels).await,
        Pdu::AlertNotification(_) => {
            if may_take(shared, header.id) && shared.lock().requests.is_none() {
                pause(shared, async { drop(channels.requests.send((pdu, None)).await) }).await;
            }
        }
        Pdu::EnquireLink => reply(shared, header, CommandStatus::ESME_ROK),
        Pdu::Unbind => shared.peer_unbinds(header.sequence),
        Pdu::Bind(_) => reply(shared, header, CommandStatus::ESME_RALYBND),
        Pdu::Unknown { id, .. } => {
            if !id.is_response() {
                shared.queue_header(error_response(header, false, CommandStatus::ESME_RINVCMDID));
            }
        }
        Pdu::Outbind { .. } | Pdu::BindResp(_) => {}
    }
}

/// Whether the peer may send such a request on this bind.
fn may_take<T>(shared: &Shared<T>, id: CommandId) -> bool {
    shared.may_receive() && shared.role.peer().sends(id)
}

/// Hands over a request that is no plain message, if the application wants such.
async fn take_other<T: Send + 'static>(
    shared: &Arc<Shared<T>>,
    header: Header,
    pdu: Pdu,
    channels: &Channels<T>,
) {
    if !may_take(shared, header.id) {
        return reply(shared, header, CommandStatus::ESME_RINVBNDSTS);
    }
    if shared.lock().requests.is_some() {
        return reply(shared, header, CommandStatus::ESME_RINVCMDID);
    }
    pause(shared, async {
        let Ok(permit) = Arc::clone(&shared.inbound).acquire_owned().await else { return };
        let sink: Arc<dyn Sink> = Arc::<Shared<T>>::clone(shared);
        // Without a receiver the responder is dropped and tells the peer to try again.
        drop(channels.requests.send((pdu, Some(Responder::new(sink, header, permit)))).await);
    })
    .await;
}

fn reply<T>(shared: &Shared<T>, request: Header, status: CommandStatus) {
    shared.queue_header(Header { id: request.id.response(), status, sequence: request.sequence });
}

fn enquiry_answered<T>(shared: &Shared<T>, sequence: u32) {
    let mut state = shared.lock();
    if state.enquiry.is_some_and(|(enquiry, _)| enquiry == sequence) {
        state.enquiry = None;
        drop(state);
        shared.progress.notify_waiters();
    }
}

async fn settle<T: Send + 'static>(
    shared: &Shared<T>,
    header: Header,
    pdu: Option<Pdu>,
    channels: &Channels<T>,
) {
    let Some(late) = shared.settle(header, pdu) else { return };
    pause(shared, async {
        // An application that dropped its end does not want late answers.
        drop(channels.late.send(late).await);
    })
    .await;
}

/// Hands a request of the peer to the application, waiting for a place: the transport's own flow control then
/// holds the peer back.
async fn take<T: Send + 'static>(
    shared: &Arc<Shared<T>>,
    header: Header,
    sm: Box<Sm>,
    channels: &Channels<T>,
) {
    if !shared.may_receive() {
        return reply(shared, header, CommandStatus::ESME_RINVBNDSTS);
    }
    pause(shared, async {
        let Ok(permit) = Arc::clone(&shared.inbound).acquire_owned().await else { return };
        let sink: Arc<dyn Sink> = Arc::<Shared<T>>::clone(shared);
        // Without a receiver the responder is dropped and tells the peer to try again.
        drop(channels.incoming.send((sm, Responder::new(sink, header, permit))).await);
    })
    .await;
}

/// Waits on our own side; the peer's silence does not count meanwhile.
async fn pause<T>(shared: &Shared<T>, wait: impl Future<Output = ()>) {
    shared.lock().paused = true;
    wait.await;
    let mut state = shared.lock();
    state.paused = false;
    state.last_heard = Instant::now();
    // An answer may have waited behind what we did not read.
    if let Some((_, deadline)) = &mut state.enquiry {
        *deadline = Instant::now() + shared.options.response_timeout;
    }
}

/// Gives up requests whose time is over and asks a silent peer whether it lives.
async fn keep_time<T>(shared: &Shared<T>) -> CloseReason {
    loop {
        let now = Instant::now();
        let next_expiry = shared.expire(now);
        shared.answer_unbind();
        let next_check = {
            let mut state = shared.lock();
            let idle_until = state.last_heard + shared.options.enquire_link_interval;
            match state.enquiry {
                Some((_, deadline)) if deadline <= now && !state.paused => {
                    return CloseReason::EnquireTimeout;
                }
                Some((_, deadline)) if deadline > now => deadline,
                Some(_) => now + shared.options.response_timeout,
                None if idle_until <= now && !state.paused && state.closing.is_none() => {
                    let deadline = now + shared.options.response_timeout;
                    state.enquire(deadline);
                    shared.work.notify_one();
                    deadline
                }
                None if idle_until > now => idle_until,
                None => now + shared.options.response_timeout,
            }
        };
        // Requests queued from now on cannot be due before one response timeout from now.
        let unseen = now + shared.options.response_timeout;
        let next = [Some(next_check), next_expiry].into_iter().flatten().fold(unseen, Instant::min);
        sleep_until(next).await;
    }
}
