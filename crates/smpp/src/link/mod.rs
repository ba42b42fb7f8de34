//! A bound session, the same for both sides: requests go out through a window, requests come in through a bounded
//! queue, and one [`Driver`] moves the octets.
//!
//! What the caller may rely on, per request sent:
//! * [`SubmitError::NotWritten`]: provably no octet of it was handed to the transport. Safe to send elsewhere.
//! * [`SubmitError::TimedOut`], [`SubmitError::LinkLost`]: some octet may have left. The outcome is unknown; an answer that still comes is
//!   given to [`LateResponses`] with the token of the request.
//! * [`Response`]: the peer's word.

mod driver;
mod handle;
mod state;
mod trace;

pub use driver::Driver;
pub(crate) use handle::open;
pub use handle::{
    Awaited, Incoming, LateResponses, Link, PendingAnswer, PendingResponse, Requests, Responder, Session,
    WindowPermit,
};
pub use trace::Traced;

use crate::{COctets, CommandId, CommandStatus, EncodeError, Pdu};
use std::{io, time::Duration};

/// How a session behaves.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Requests that may wait for an answer at once.
    pub window: usize,
    /// Requests of the peer that may wait for our answer at once; at the limit reading stops.
    pub incoming_window: usize,
    /// How long an answer (also to a bind, an `enquire_link`, an `unbind`) or a write may take.
    pub response_timeout: Duration,
    /// After how long without a word from the peer an `enquire_link` is sent.
    pub enquire_link_interval: Duration,
    /// The largest PDU taken, in octets.
    pub max_pdu: u32,
    /// How many timed-out requests are remembered for a late answer.
    pub late_capacity: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            window: 10,
            incoming_window: 64,
            response_timeout: Duration::from_secs(10),
            enquire_link_interval: Duration::from_secs(30),
            max_pdu: crate::framing::DEFAULT_MAX_PDU,
            late_capacity: 1024,
        }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// We unbound it.
    #[error("unbound by us")]
    Unbound,
    /// The peer unbound it.
    #[error("unbound by the peer")]
    PeerUnbound,
    /// The peer closed the connection without a word.
    #[error("connection closed by the peer")]
    PeerClosed,
    /// The transport failed.
    #[error("transport failed: {0}")]
    Io(io::ErrorKind),
    /// An `enquire_link` was not answered in time.
    #[error("enquire_link was not answered")]
    EnquireTimeout,
    /// The peer answers `enquire_link`, but no request any more.
    #[error("no request was answered for long")]
    Stalled,
    /// The peer stopped reading.
    #[error("the peer does not read")]
    WriteStalled,
    /// The peer sent a `command_length` outside the limits.
    #[error("the peer sent a PDU of an impossible length")]
    BadLength,
    /// We cut the connection, or the driver was dropped.
    #[error("cut by us")]
    Aborted,
}

/// The peer's answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's sequence number.
    pub sequence: u32,
    /// What the peer says; a `generic_nack` gives its status.
    pub status: CommandStatus,
    /// The carrier's id; `None` when there is none or it cannot be read.
    pub message_id: Option<COctets>,
}

/// The peer's answer to a request of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request's sequence number.
    pub sequence: u32,
    /// What the peer says; a `generic_nack` gives its status.
    pub status: CommandStatus,
    /// The whole answer; `None` for a `generic_nack` and for one whose body cannot be read.
    pub pdu: Option<Pdu>,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No octet of the request was handed to the transport.
    #[error("not written: {0}")]
    NotWritten(CloseReason),
    /// The request may have left and no answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The request may have left and the session ended before an answer.
    #[error("session ended before an answer: {0}")]
    LinkLost(CloseReason),
}

impl SubmitError {
    /// Whether the peer may have taken the request.
    pub const fn is_ambiguous(self) -> bool {
        match self {
            Self::NotWritten(_) => false,
            Self::TimedOut | Self::LinkLost(_) => true,
        }
    }
}

/// A request that was not even queued, with its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSent<T> {
    /// Why.
    pub reason: NotSentReason,
    /// What the caller gave with the request.
    pub token: T,
}

/// Why a request was not queued. No octet of it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSentReason {
    /// The session is draining or has ended.
    #[error("session is closing")]
    Closing,
    /// The kind of bind does not allow it.
    #[error("the bind does not allow this direction")]
    Direction,
    /// The message breaks a limit of SMPP.
    #[error("message cannot be encoded: {0}")]
    Encode(EncodeError),
}

/// Why a notice was not queued. Nothing of it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoticeError {
    /// As for a request.
    #[error("not sent: {0}")]
    NotSent(NotSentReason),
    /// The peer does not take what is already queued: requests wait for the window, notices have none.
    #[error("the peer does not read fast enough")]
    Full,
}

/// An answer that came after its request was given up.
#[derive(Debug)]
pub struct LateResponse<T> {
    /// What the caller gave with the request.
    pub token: T,
    /// The answer.
    pub response: Response,
}

/// Which end of the session we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// We bound: we submit and are delivered to.
    Client,
    /// We were bound to: we are submitted to and deliver.
    Server,
}

impl Role {
    /// Whether this end of a session is the one that sends such requests (SMPP 3.4 §2.3, SMPP 5.0 §2.4).
    pub(crate) const fn sends(self, request: CommandId) -> bool {
        match self {
            Self::Client => matches!(
                request,
                CommandId::SUBMIT_SM
                    | CommandId::SUBMIT_MULTI
                    | CommandId::DATA_SM
                    | CommandId::QUERY_SM
                    | CommandId::CANCEL_SM
                    | CommandId::REPLACE_SM
                    | CommandId::BROADCAST_SM
                    | CommandId::QUERY_BROADCAST_SM
                    | CommandId::CANCEL_BROADCAST_SM
            ),
            Self::Server => {
                matches!(request, CommandId::DELIVER_SM | CommandId::DATA_SM | CommandId::ALERT_NOTIFICATION)
            }
        }
    }

    /// The other end.
    pub(crate) const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}
