//! SMPP 3.4 and 5.0: codec, framing and sessions, for the side that sends messages and for the side that takes them.
//!
//! Promises: hostile input never panics and never reaches past its own PDU; a malformed PDU is answered with the
//! status it deserves and does not disturb its neighbours; nothing here prints an address, a text or a password;
//! every queue and table has a bound; and the caller of [`Link::send`] always learns which of three things
//! happened: no byte was written, an answer came, or nobody can tell.
//!
//! What is read, forgiven, answered and what it may cost: `docs/formats/smpp.md`.
//!
//! No task is started here: [`client::bind`] and [`server::BindRequest::accept`] hand out a [`Driver`] that the
//! caller runs.

pub mod client;
pub mod command;
pub mod framing;
pub mod link;
pub mod octets;
pub mod pdu;
pub mod receipt;
pub mod server;
pub mod tlv;

pub use command::{CommandId, CommandStatus, Header};
pub use framing::{Framing, FramingError, RawPdu};
pub use link::{
    Answer, Awaited, CloseReason, Driver, Incoming, LateResponse, LateResponses, Link, NotSent,
    NotSentReason, NoticeError, PendingAnswer, PendingResponse, Requests, Responder, Response, Session,
    SessionOptions, SubmitError, Traced, WindowPermit,
};
pub use octets::{COctets, DecodeError, EncodeError, Field, Tolerance};
pub use pdu::{
    Address, AlertNotification, Bind, BindKind, BindResp, BroadcastSm, CancelBroadcastSm, CancelSm, Command,
    DataSm, DeliverSm, Destination, Pdu, QueryBroadcastSm, QuerySm, QuerySmResp, ReplaceSm, Sm, SmResp,
    SubmitMulti, SubmitMultiResp, SubmitSm, Unsuccessful,
};
pub use receipt::{MessageState, Receipt};
pub use tlv::{Tlv, Tlvs};
