//! The PDUs of SMPP 3.4 (§4) and 5.0 and their encoding. Reading shares the octets of the frame, nothing is copied.

mod ancillary;
mod bind;
mod body;
mod broadcast;
mod multi;
mod sm;

pub use ancillary::{AlertNotification, CancelSm, DataSm, QuerySm, QuerySmResp, ReplaceSm};
pub use bind::{Address, Bind, BindKind, BindResp};
pub use broadcast::{BroadcastSm, CancelBroadcastSm, QueryBroadcastSm};
pub use multi::{Destination, SubmitMulti, SubmitMultiResp, Unsuccessful};
pub use sm::{DeliverSm, Sm, SmResp, SubmitSm};

use crate::{
    command::{CommandId, CommandStatus, HEADER_LENGTH},
    octets::{COctets, DecodeError, EncodeError, Field, Reader, Tolerance, put_c_octets},
    tlv::Tlvs,
};
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;

/// Version 3.4 in `interface_version`.
pub const INTERFACE_VERSION_34: u8 = 0x34;
/// Version 5.0 in `interface_version`.
pub const INTERFACE_VERSION_50: u8 = 0x50;

/// Bits of `esm_class` (SMPP 3.4 §5.2.12).
pub mod esm_class {
    /// Mask of the message type.
    pub const TYPE_MASK: u8 = 0b0011_1100;
    /// Message type: delivery receipt.
    pub const RECEIPT: u8 = 0b0000_0100;
    /// Message type: intermediate notification.
    pub const INTERMEDIATE: u8 = 0b0010_0000;
    /// The message starts with a user data header.
    pub const UDHI: u8 = 0b0100_0000;
}

/// What a PDU says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pdu {
    /// One of the three binds.
    Bind(Bind),
    /// The answer to a bind.
    BindResp(BindResp),
    /// `submit_sm`
    SubmitSm(Box<SubmitSm>),
    /// `submit_sm_resp`
    SubmitSmResp(SmResp),
    /// `submit_multi`
    SubmitMulti(Box<SubmitMulti>),
    /// `submit_multi_resp`
    SubmitMultiResp(SubmitMultiResp),
    /// `deliver_sm`
    DeliverSm(Box<DeliverSm>),
    /// `deliver_sm_resp`
    DeliverSmResp(SmResp),
    /// `data_sm`
    DataSm(Box<DataSm>),
    /// `data_sm_resp`
    DataSmResp(SmResp),
    /// `query_sm`
    QuerySm(Box<QuerySm>),
    /// `query_sm_resp`
    QuerySmResp(Box<QuerySmResp>),
    /// `cancel_sm`
    CancelSm(Box<CancelSm>),
    /// `cancel_sm_resp`
    CancelSmResp(Tlvs),
    /// `replace_sm`
    ReplaceSm(Box<ReplaceSm>),
    /// `replace_sm_resp`
    ReplaceSmResp(Tlvs),
    /// `broadcast_sm`
    BroadcastSm(Box<BroadcastSm>),
    /// `broadcast_sm_resp`
    BroadcastSmResp(SmResp),
    /// `query_broadcast_sm`
    QueryBroadcastSm(Box<QueryBroadcastSm>),
    /// `query_broadcast_sm_resp`
    QueryBroadcastSmResp(SmResp),
    /// `cancel_broadcast_sm`
    CancelBroadcastSm(Box<CancelBroadcastSm>),
    /// `cancel_broadcast_sm_resp`
    CancelBroadcastSmResp(Tlvs),
    /// `enquire_link`
    EnquireLink,
    /// `enquire_link_resp`
    EnquireLinkResp,
    /// `unbind`
    Unbind,
    /// `unbind_resp`
    UnbindResp,
    /// `generic_nack`
    GenericNack,
    /// `alert_notification`
    AlertNotification(Box<AlertNotification>),
    /// `outbind`
    Outbind {
        /// Who asks.
        system_id: COctets,
        /// Its password.
        password: COctets,
    },
    /// Anything else.
    Unknown {
        /// Its command id.
        id: CommandId,
        /// Its body.
        body: Opaque,
    },
}

/// Octets that say nothing to whoever prints them: it shows their number.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Opaque(pub Bytes);

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} octets]", self.0.len())
    }
}

impl Pdu {
    /// The PDU's command id.
    pub const fn id(&self) -> CommandId {
        match self {
            Self::Bind(bind) => bind.kind.id(),
            Self::BindResp(resp) => resp.kind.id().response(),
            Self::SubmitSm(_) => CommandId::SUBMIT_SM,
            Self::SubmitSmResp(_) => CommandId::SUBMIT_SM_RESP,
            Self::SubmitMulti(_) => CommandId::SUBMIT_MULTI,
            Self::SubmitMultiResp(_) => CommandId::SUBMIT_MULTI_RESP,
            Self::DeliverSm(_) => CommandId::DELIVER_SM,
            Self::DeliverSmResp(_) => CommandId::DELIVER_SM_RESP,
            Self::DataSm(_) => CommandId::DATA_SM,
            Self::DataSmResp(_) => CommandId::DATA_SM_RESP,
            Self::QuerySm(_) => CommandId::QUERY_SM,
            Self::QuerySmResp(_) => CommandId::QUERY_SM_RESP,
            Self::CancelSm(_) => CommandId::CANCEL_SM,
            Self::CancelSmResp(_) => CommandId::CANCEL_SM_RESP,
            Self::ReplaceSm(_) => CommandId::REPLACE_SM,
            Self::ReplaceSmResp(_) => CommandId::REPLACE_SM_RESP,
            Self::BroadcastSm(_) => CommandId::BROADCAST_SM,
            Self::BroadcastSmResp(_) => CommandId::BROADCAST_SM_RESP,
            Self::QueryBroadcastSm(_) => CommandId::QUERY_BROADCAST_SM,
            Self::QueryBroadcastSmResp(_) => CommandId::QUERY_BROADCAST_SM_RESP,
            Self::CancelBroadcastSm(_) => CommandId::CANCEL_BROADCAST_SM,
            Self::CancelBroadcastSmResp(_) => CommandId::CANCEL_BROADCAST_SM_RESP,
            Self::EnquireLink => CommandId::ENQUIRE_LINK,
            Self::EnquireLinkResp => CommandId::ENQUIRE_LINK_RESP,
            Self::Unbind => CommandId::UNBIND,
            Self::UnbindResp => CommandId::UNBIND_RESP,
            Self::GenericNack => CommandId::GENERIC_NACK,
            Self::AlertNotification(_) => CommandId::ALERT_NOTIFICATION,
            Self::Outbind { .. } => CommandId::OUTBIND,
            Self::Unknown { id, .. } => *id,
        }
    }

    /// Reads the body of a PDU by the letter: the whole of `body` must be accounted for.
    pub fn decode(id: CommandId, body: Bytes) -> Result<Self, DecodeError> {
        Self::decode_with(id, body, Tolerance::STRICT)
    }

    /// Reads the body of a PDU as far as `tolerance` goes.
    pub fn decode_with(id: CommandId, body: Bytes, tolerance: Tolerance) -> Result<Self, DecodeError> {
        let body = &mut Reader::new(body, tolerance);
        let pdu = match id {
            CommandId::BIND_RECEIVER => Bind::decode(BindKind::Receiver, body)?,
            CommandId::BIND_TRANSMITTER => Bind::decode(BindKind::Transmitter, body)?,
            CommandId::BIND_TRANSCEIVER => Bind::decode(BindKind::Transceiver, body)?,
            CommandId::BIND_RECEIVER_RESP => BindResp::decode(BindKind::Receiver, body)?,
            CommandId::BIND_TRANSMITTER_RESP => BindResp::decode(BindKind::Transmitter, body)?,
            CommandId::BIND_TRANSCEIVER_RESP => BindResp::decode(BindKind::Transceiver, body)?,
            CommandId::SUBMIT_SM => Self::SubmitSm(Box::new(Sm::decode(body)?)),
            CommandId::SUBMIT_SM_RESP => Self::SubmitSmResp(SmResp::decode(body)?),
            CommandId::SUBMIT_MULTI => Self::SubmitMulti(Box::new(SubmitMulti::decode(body)?)),
            CommandId::SUBMIT_MULTI_RESP => Self::SubmitMultiResp(SubmitMultiResp::decode(body)?),
            CommandId::DELIVER_SM => Self::DeliverSm(Box::new(Sm::decode(body)?)),
            CommandId::DELIVER_SM_RESP => Self::DeliverSmResp(SmResp::decode(body)?),
            CommandId::DATA_SM => Self::DataSm(Box::new(DataSm::decode(body)?)),
            CommandId::DATA_SM_RESP => Self::DataSmResp(SmResp::decode(body)?),
            CommandId::QUERY_SM => Self::QuerySm(Box::new(QuerySm::decode(body)?)),
            CommandId::QUERY_SM_RESP => Self::QuerySmResp(Box::new(QuerySmResp::decode(body)?)),
            CommandId::CANCEL_SM => Self::CancelSm(Box::new(CancelSm::decode(body)?)),
            CommandId::CANCEL_SM_RESP => Self::CancelSmResp(Tlvs::decode(body)?),
            CommandId::REPLACE_SM => Self::ReplaceSm(Box::new(ReplaceSm::decode(body)?)),
            CommandId::REPLACE_SM_RESP => Self::ReplaceSmResp(Tlvs::decode(body)?),
            CommandId::BROADCAST_SM => Self::BroadcastSm(Box::new(BroadcastSm::decode(body)?)),
            CommandId::BROADCAST_SM_RESP => Self::BroadcastSmResp(SmResp::decode(body)?),
            CommandId::QUERY_BROADCAST_SM => {
                Self::QueryBroadcastSm(Box::new(QueryBroadcastSm::decode(body)?))
            }
            CommandId::QUERY_BROADCAST_SM_RESP => Self::QueryBroadcastSmResp(SmResp::decode(body)?),
            CommandId::CANCEL_BROADCAST_SM => {
                Self::CancelBroadcastSm(Box::new(CancelBroadcastSm::decode(body)?))
            }
            CommandId::CANCEL_BROADCAST_SM_RESP => Self::CancelBroadcastSmResp(Tlvs::decode(body)?),
            CommandId::ENQUIRE_LINK => Self::EnquireLink,
            CommandId::ENQUIRE_LINK_RESP => Self::EnquireLinkResp,
            CommandId::UNBIND => Self::Unbind,
            CommandId::UNBIND_RESP => Self::UnbindResp,
            CommandId::GENERIC_NACK => Self::GenericNack,
            CommandId::ALERT_NOTIFICATION => {
                Self::AlertNotification(Box::new(AlertNotification::decode(body)?))
            }
            CommandId::OUTBIND => Self::Outbind {
                system_id: body.c_octets(Field::SystemId)?,
                password: body.c_octets(Field::Password)?,
            },
            _ => Self::Unknown { id, body: Opaque(body.rest()) },
        };
        // PDUs without optional parameters of their own may still carry some (SMPP 3.4 §3.2.4): read and dropped.
        Tlvs::decode(body)?;
        Ok(pdu)
    }

    /// The answer to a request of this id that says nothing but, where it has a place for it, a message id; `None`
    /// for what has no answer or is not known.
    pub(crate) fn answer_to(request: CommandId, message_id: COctets) -> Option<Self> {
        let resp = SmResp { message_id, tlvs: Tlvs::new() };
        Some(match request {
            CommandId::SUBMIT_SM => Self::SubmitSmResp(resp),
            CommandId::DELIVER_SM => Self::DeliverSmResp(resp),
            CommandId::DATA_SM => Self::DataSmResp(resp),
            CommandId::BROADCAST_SM => Self::BroadcastSmResp(resp),
            CommandId::QUERY_BROADCAST_SM => Self::QueryBroadcastSmResp(resp),
            CommandId::SUBMIT_MULTI => Self::SubmitMultiResp(SubmitMultiResp {
                message_id: resp.message_id,
                ..SubmitMultiResp::default()
            }),
            CommandId::QUERY_SM => Self::QuerySmResp(Box::new(QuerySmResp {
                message_id: resp.message_id,
                ..QuerySmResp::default()
            })),
            CommandId::CANCEL_SM => Self::CancelSmResp(resp.tlvs),
            CommandId::REPLACE_SM => Self::ReplaceSmResp(resp.tlvs),
            CommandId::CANCEL_BROADCAST_SM => Self::CancelBroadcastSmResp(resp.tlvs),
            CommandId::ENQUIRE_LINK => Self::EnquireLinkResp,
            CommandId::UNBIND => Self::UnbindResp,
            _ => return None,
        })
    }

    /// The message id of an answer that names one.
    pub(crate) fn into_message_id(self) -> Option<COctets> {
        let id = match self {
            Self::SubmitSmResp(resp)
            | Self::DeliverSmResp(resp)
            | Self::DataSmResp(resp)
            | Self::BroadcastSmResp(resp)
            | Self::QueryBroadcastSmResp(resp) => resp.message_id,
            Self::SubmitMultiResp(resp) => resp.message_id,
            Self::QuerySmResp(resp) => resp.message_id,
            Self::Bind(_)
            | Self::BindResp(_)
            | Self::SubmitSm(_)
            | Self::SubmitMulti(_)
            | Self::DeliverSm(_)
            | Self::DataSm(_)
            | Self::QuerySm(_)
            | Self::CancelSm(_)
            | Self::CancelSmResp(_)
            | Self::ReplaceSm(_)
            | Self::ReplaceSmResp(_)
            | Self::BroadcastSm(_)
            | Self::QueryBroadcastSm(_)
            | Self::CancelBroadcastSm(_)
            | Self::CancelBroadcastSmResp(_)
            | Self::EnquireLink
            | Self::EnquireLinkResp
            | Self::Unbind
            | Self::UnbindResp
            | Self::GenericNack
            | Self::AlertNotification(_)
            | Self::Outbind { .. }
            | Self::Unknown { .. } => return None,
        };
        Some(id).filter(|id| !id.is_empty())
    }

    fn encode_body(&self, status: CommandStatus, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Bind(bind) => bind.encode(out),
            Self::BindResp(resp) => resp.encode(status, out),
            Self::SubmitSm(sm) | Self::DeliverSm(sm) => sm.encode(out),
            Self::SubmitSmResp(resp)
            | Self::DeliverSmResp(resp)
            | Self::DataSmResp(resp)
            | Self::BroadcastSmResp(resp)
            | Self::QueryBroadcastSmResp(resp) => resp.encode(status, out),
            Self::SubmitMulti(multi) => multi.encode(out),
            Self::SubmitMultiResp(resp) => resp.encode(status, out),
            Self::DataSm(data) => data.encode(out),
            Self::QuerySm(query) => query.encode(out),
            Self::QuerySmResp(resp) => resp.encode(status, out),
            Self::CancelSm(cancel) => cancel.encode(out),
            Self::ReplaceSm(replace) => replace.encode(out),
            Self::BroadcastSm(broadcast) => broadcast.encode(out),
            Self::QueryBroadcastSm(query) => query.encode(out),
            Self::CancelBroadcastSm(cancel) => cancel.encode(out),
            Self::AlertNotification(alert) => alert.encode(out),
            Self::CancelSmResp(tlvs) | Self::ReplaceSmResp(tlvs) | Self::CancelBroadcastSmResp(tlvs) => {
                tlvs.encode(out)
            }
            Self::EnquireLink
            | Self::EnquireLinkResp
            | Self::Unbind
            | Self::UnbindResp
            | Self::GenericNack => Ok(()),
            Self::Outbind { system_id, password } => {
                put_c_octets(out, system_id, Field::SystemId)?;
                put_c_octets(out, password, Field::Password)
            }
            Self::Unknown { body, .. } => {
                out.put_slice(&body.0);
                Ok(())
            }
        }
    }
}

/// A PDU with the rest of its header: what goes on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its status; zero in requests.
    pub status: CommandStatus,
    /// Its sequence number.
    pub sequence: u32,
    /// What it says.
    pub pdu: Pdu,
}

impl Command {
    /// Appends the whole PDU. On an error `out` is as it was.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let start = out.len();
        let result = self.encode_at(start, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn encode_at(&self, start: usize, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.reserve(HEADER_LENGTH);
        out.put_u32(0);
        out.put_u32(self.pdu.id().0);
        out.put_u32(self.status.0);
        out.put_u32(self.sequence);
        self.pdu.encode_body(self.status, out)?;
        let octets = out.len().saturating_sub(start);
        let limit = Field::Pdu.limit();
        let length = u32::try_from(octets).ok().filter(|_| octets <= limit);
        let length = length.ok_or(EncodeError::TooLong { field: Field::Pdu, octets, limit })?;
        if let Some(mut field) = out.get_mut(start..) {
            field.put_u32(length);
        }
        Ok(())
    }
}

/// Whether a request of this id is one that this crate reads and that has a response.
pub(crate) fn is_known_request(id: CommandId) -> bool {
    matches!(id, CommandId::BIND_RECEIVER | CommandId::BIND_TRANSMITTER | CommandId::BIND_TRANSCEIVER)
        || Pdu::answer_to(id, COctets::default()).is_some()
}
