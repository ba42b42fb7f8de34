//! The PDUs (SMPP 3.4 §4) and their encoding. Reading shares the octets of the frame, nothing is copied.

use crate::{
    command::{CommandId, CommandStatus, HEADER_LENGTH},
    octets::{COctets, DecodeError, EncodeError, Field, put_c_octets, put_time, take_c_octets, take_u8},
    tlv::Tlvs,
};
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;

/// Version 3.4 in `interface_version`.
pub const INTERFACE_VERSION_34: u8 = 0x34;

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

/// Which directions a bind opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindKind {
    /// The partner only receives.
    Receiver,
    /// The partner only sends.
    Transmitter,
    /// Both.
    Transceiver,
}

impl BindKind {
    /// Whether the bound partner may submit messages.
    pub const fn submits(self) -> bool {
        match self {
            Self::Transmitter | Self::Transceiver => true,
            Self::Receiver => false,
        }
    }

    /// Whether the bound partner may be sent messages and receipts.
    pub const fn receives(self) -> bool {
        match self {
            Self::Receiver | Self::Transceiver => true,
            Self::Transmitter => false,
        }
    }

    const fn id(self) -> CommandId {
        match self {
            Self::Receiver => CommandId::BIND_RECEIVER,
            Self::Transmitter => CommandId::BIND_TRANSMITTER,
            Self::Transceiver => CommandId::BIND_TRANSCEIVER,
        }
    }
}

/// An address with its type of number and numbering plan. Printing it shows no digit.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Address {
    /// Type of number (SMPP 3.4 §5.2.5).
    pub ton: u8,
    /// Numbering plan indicator (SMPP 3.4 §5.2.6).
    pub npi: u8,
    /// The digits or letters.
    pub value: COctets,
}

/// `bind_receiver`, `bind_transmitter`, `bind_transceiver` (SMPP 3.4 §4.1). `Debug` shows neither name nor password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Which of the three.
    pub kind: BindKind,
    /// Who binds.
    pub system_id: COctets,
    /// Its password.
    pub password: COctets,
    /// Its kind of system.
    pub system_type: COctets,
    /// 0x34 for 3.4.
    pub interface_version: u8,
    /// The addresses it serves.
    pub address_range: Address,
}

/// The answer to a bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindResp {
    /// Which bind it answers.
    pub kind: BindKind,
    /// Who answers; may be empty in a refusal.
    pub system_id: COctets,
    /// Optional parameters (`sc_interface_version`).
    pub tlvs: Tlvs,
}

/// A message: the body of both `submit_sm` and `deliver_sm` (SMPP 3.4 §4.4.1, §4.6.1). `Debug` shows no content.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Sm {
    /// `service_type`
    pub service_type: COctets,
    /// Sender.
    pub source: Address,
    /// Recipient.
    pub destination: Address,
    /// Mode, type and features.
    pub esm_class: u8,
    /// `protocol_id`
    pub protocol_id: u8,
    /// `priority_flag`
    pub priority_flag: u8,
    /// Empty or 16 characters.
    pub schedule_delivery_time: COctets,
    /// Empty or 16 characters.
    pub validity_period: COctets,
    /// Which receipts are wanted.
    pub registered_delivery: u8,
    /// `replace_if_present_flag`
    pub replace_if_present_flag: u8,
    /// Alphabet of the message.
    pub data_coding: u8,
    /// `sm_default_msg_id`
    pub sm_default_msg_id: u8,
    /// The message, at most 254 octets; empty when `message_payload` carries it.
    pub short_message: Bytes,
    /// Optional parameters.
    pub tlvs: Tlvs,
}

/// The body of a `submit_sm`.
pub type SubmitSm = Sm;
/// The body of a `deliver_sm`.
pub type DeliverSm = Sm;

impl Sm {
    /// The message octets, wherever the sender put them.
    pub fn message(&self) -> &Bytes {
        if self.short_message.is_empty() {
            self.tlvs.message_payload().unwrap_or(&self.short_message)
        } else {
            &self.short_message
        }
    }

    /// The user data header (with its length octet; empty when there is none) and the text octets after it.
    /// A header length past the end gives the whole message as header.
    pub fn split_header(&self) -> (Bytes, Bytes) {
        let mut text = self.message().clone();
        if self.esm_class & esm_class::UDHI == 0 {
            return (Bytes::new(), text);
        }
        let length = text.first().map_or(0, |octet| usize::from(*octet).saturating_add(1)).min(text.len());
        (text.split_to(length), text)
    }

    fn decode(body: &mut Bytes) -> Result<Self, DecodeError> {
        let sm = Self {
            service_type: take_c_octets(body, Field::ServiceType)?,
            source: Address::decode(body, Field::SourceAddr)?,
            destination: Address::decode(body, Field::DestinationAddr)?,
            esm_class: take_u8(body)?,
            protocol_id: take_u8(body)?,
            priority_flag: take_u8(body)?,
            schedule_delivery_time: take_c_octets(body, Field::ScheduleDeliveryTime)?,
            validity_period: take_c_octets(body, Field::ValidityPeriod)?,
            registered_delivery: take_u8(body)?,
            replace_if_present_flag: take_u8(body)?,
            data_coding: take_u8(body)?,
            sm_default_msg_id: take_u8(body)?,
            short_message: Bytes::new(),
            tlvs: Tlvs::new(),
        };
        let length = usize::from(take_u8(body)?);
        if length > Field::ShortMessage.limit() || length > body.len() {
            return Err(DecodeError::MessageLength);
        }
        Ok(Self { short_message: body.split_to(length), tlvs: Tlvs::decode(body)?, ..sm })
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        put_c_octets(out, &self.service_type, Field::ServiceType)?;
        self.source.encode(out, Field::SourceAddr)?;
        self.destination.encode(out, Field::DestinationAddr)?;
        out.put_slice(&[self.esm_class, self.protocol_id, self.priority_flag]);
        put_time(out, &self.schedule_delivery_time, Field::ScheduleDeliveryTime)?;
        put_time(out, &self.validity_period, Field::ValidityPeriod)?;
        out.put_slice(&[
            self.registered_delivery,
            self.replace_if_present_flag,
            self.data_coding,
            self.sm_default_msg_id,
        ]);
        let octets = self.short_message.len();
        let limit = Field::ShortMessage.limit();
        let too_long = EncodeError::TooLong { field: Field::ShortMessage, octets, limit };
        match u8::try_from(octets) {
            Ok(length) if octets <= limit => out.put_u8(length),
            Ok(_) | Err(_) => return Err(too_long),
        }
        out.put_slice(&self.short_message);
        self.tlvs.encode(out)
    }
}

impl fmt::Debug for Sm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sm")
            .field("esm_class", &self.esm_class)
            .field("data_coding", &self.data_coding)
            .field("registered_delivery", &self.registered_delivery)
            .field("message_octets", &self.message().len())
            .field("tlvs", &self.tlvs)
            .finish_non_exhaustive()
    }
}

/// The body of `submit_sm_resp` and `deliver_sm_resp`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SmResp {
    /// The carrier's id; empty in refusals and in `deliver_sm_resp`.
    pub message_id: COctets,
    /// Optional parameters (few carriers send any).
    pub tlvs: Tlvs,
}

impl SmResp {
    fn decode(body: &mut Bytes) -> Result<Self, DecodeError> {
        // Refusals come without a body (SMPP 3.4 §4.4.2), and some carriers leave it out of a success too.
        if body.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self { message_id: take_c_octets(body, Field::MessageId)?, tlvs: Tlvs::decode(body)? })
    }

    fn encode(&self, status: CommandStatus, out: &mut BytesMut) -> Result<(), EncodeError> {
        if !status.is_ok() && self.message_id.is_empty() && self.tlvs.is_empty() {
            return Ok(());
        }
        put_c_octets(out, &self.message_id, Field::MessageId)?;
        self.tlvs.encode(out)
    }
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
    /// `deliver_sm`
    DeliverSm(Box<DeliverSm>),
    /// `deliver_sm_resp`
    DeliverSmResp(SmResp),
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

/// A body that nobody read. Printing it shows its length.
#[derive(Clone, PartialEq, Eq)]
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
            Self::DeliverSm(_) => CommandId::DELIVER_SM,
            Self::DeliverSmResp(_) => CommandId::DELIVER_SM_RESP,
            Self::EnquireLink => CommandId::ENQUIRE_LINK,
            Self::EnquireLinkResp => CommandId::ENQUIRE_LINK_RESP,
            Self::Unbind => CommandId::UNBIND,
            Self::UnbindResp => CommandId::UNBIND_RESP,
            Self::GenericNack => CommandId::GENERIC_NACK,
            Self::Outbind { .. } => CommandId::OUTBIND,
            Self::Unknown { id, .. } => *id,
        }
    }

    /// Reads the body of a PDU. The whole of `body` must be accounted for.
    pub fn decode(id: CommandId, mut body: Bytes) -> Result<Self, DecodeError> {
        let pdu = match id {
            CommandId::BIND_RECEIVER => Bind::decode(BindKind::Receiver, &mut body)?,
            CommandId::BIND_TRANSMITTER => Bind::decode(BindKind::Transmitter, &mut body)?,
            CommandId::BIND_TRANSCEIVER => Bind::decode(BindKind::Transceiver, &mut body)?,
            CommandId::BIND_RECEIVER_RESP => BindResp::decode(BindKind::Receiver, &mut body)?,
            CommandId::BIND_TRANSMITTER_RESP => BindResp::decode(BindKind::Transmitter, &mut body)?,
            CommandId::BIND_TRANSCEIVER_RESP => BindResp::decode(BindKind::Transceiver, &mut body)?,
            CommandId::SUBMIT_SM => Self::SubmitSm(Box::new(Sm::decode(&mut body)?)),
            CommandId::SUBMIT_SM_RESP => Self::SubmitSmResp(SmResp::decode(&mut body)?),
            CommandId::DELIVER_SM => Self::DeliverSm(Box::new(Sm::decode(&mut body)?)),
            CommandId::DELIVER_SM_RESP => Self::DeliverSmResp(SmResp::decode(&mut body)?),
            CommandId::ENQUIRE_LINK => Self::EnquireLink,
            CommandId::ENQUIRE_LINK_RESP => Self::EnquireLinkResp,
            CommandId::UNBIND => Self::Unbind,
            CommandId::UNBIND_RESP => Self::UnbindResp,
            CommandId::GENERIC_NACK => Self::GenericNack,
            CommandId::OUTBIND => Self::Outbind {
                system_id: take_c_octets(&mut body, Field::SystemId)?,
                password: take_c_octets(&mut body, Field::Password)?,
            },
            _ => Self::Unknown { id, body: Opaque(std::mem::take(&mut body)) },
        };
        // PDUs without optional parameters of their own may still carry some (SMPP 3.4 §3.2.4): read and dropped.
        Tlvs::decode(&mut body)?;
        Ok(pdu)
    }
}

impl Bind {
    /// Whether this is the id of an answer to a bind.
    pub(crate) const fn is_response(id: CommandId) -> bool {
        matches!(
            id,
            CommandId::BIND_RECEIVER_RESP
                | CommandId::BIND_TRANSMITTER_RESP
                | CommandId::BIND_TRANSCEIVER_RESP
        )
    }

    fn decode(kind: BindKind, body: &mut Bytes) -> Result<Pdu, DecodeError> {
        Ok(Pdu::Bind(Self {
            kind,
            system_id: take_c_octets(body, Field::SystemId)?,
            password: take_c_octets(body, Field::Password)?,
            system_type: take_c_octets(body, Field::SystemType)?,
            interface_version: take_u8(body)?,
            address_range: Address::decode(body, Field::AddressRange)?,
        }))
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        put_c_octets(out, &self.system_id, Field::SystemId)?;
        put_c_octets(out, &self.password, Field::Password)?;
        put_c_octets(out, &self.system_type, Field::SystemType)?;
        out.put_u8(self.interface_version);
        self.address_range.encode(out, Field::AddressRange)
    }
}

impl BindResp {
    /// An answer that tells nothing.
    pub(crate) fn empty(kind: BindKind) -> Self {
        Self { kind, system_id: COctets::default(), tlvs: Tlvs::new() }
    }

    fn decode(kind: BindKind, body: &mut Bytes) -> Result<Pdu, DecodeError> {
        if body.is_empty() {
            return Ok(Pdu::BindResp(Self::empty(kind)));
        }
        let system_id = take_c_octets(body, Field::SystemId)?;
        Ok(Pdu::BindResp(Self { kind, system_id, tlvs: Tlvs::decode(body)? }))
    }

    fn encode(&self, status: CommandStatus, out: &mut BytesMut) -> Result<(), EncodeError> {
        if !status.is_ok() && self.system_id.is_empty() && self.tlvs.is_empty() {
            return Ok(());
        }
        put_c_octets(out, &self.system_id, Field::SystemId)?;
        self.tlvs.encode(out)
    }
}

impl Address {
    fn decode(body: &mut Bytes, field: Field) -> Result<Self, DecodeError> {
        Ok(Self { ton: take_u8(body)?, npi: take_u8(body)?, value: take_c_octets(body, field)? })
    }

    fn encode(&self, out: &mut BytesMut, field: Field) -> Result<(), EncodeError> {
        out.put_slice(&[self.ton, self.npi]);
        put_c_octets(out, &self.value, field)
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
        match &self.pdu {
            Pdu::Bind(bind) => bind.encode(out)?,
            Pdu::BindResp(resp) => resp.encode(self.status, out)?,
            Pdu::SubmitSm(sm) | Pdu::DeliverSm(sm) => sm.encode(out)?,
            Pdu::SubmitSmResp(resp) | Pdu::DeliverSmResp(resp) => resp.encode(self.status, out)?,
            Pdu::EnquireLink | Pdu::EnquireLinkResp | Pdu::Unbind | Pdu::UnbindResp | Pdu::GenericNack => {}
            Pdu::Outbind { system_id, password } => {
                put_c_octets(out, system_id, Field::SystemId)?;
                put_c_octets(out, password, Field::Password)?;
            }
            Pdu::Unknown { body, .. } => out.put_slice(&body.0),
        }
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

/// Whether a request of this id is one that this crate reads.
pub(crate) fn is_known_request(id: CommandId) -> bool {
    matches!(
        id,
        CommandId::BIND_RECEIVER
            | CommandId::BIND_TRANSMITTER
            | CommandId::BIND_TRANSCEIVER
            | CommandId::SUBMIT_SM
            | CommandId::DELIVER_SM
            | CommandId::ENQUIRE_LINK
            | CommandId::UNBIND
    )
}
