//! The binds and their answers, and addresses.

use super::Pdu;
use crate::{
    command::{CommandId, CommandStatus},
    octets::{COctets, DecodeError, EncodeError, Field, Reader, put_c_octets},
    tlv::Tlvs,
};
use bytes::{BufMut, BytesMut};

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

    pub(super) const fn id(self) -> CommandId {
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

    pub(super) fn decode(kind: BindKind, body: &mut Reader) -> Result<Pdu, DecodeError> {
        Ok(Pdu::Bind(Self {
            kind,
            system_id: body.c_octets(Field::SystemId)?,
            password: body.c_octets(Field::Password)?,
            system_type: body.c_octets(Field::SystemType)?,
            interface_version: body.u8()?,
            address_range: Address::decode(body, Field::AddressRange)?,
        }))
    }

    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
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

    pub(super) fn decode(kind: BindKind, body: &mut Reader) -> Result<Pdu, DecodeError> {
        if body.is_empty() {
            return Ok(Pdu::BindResp(Self::empty(kind)));
        }
        let system_id = body.c_octets(Field::SystemId)?;
        Ok(Pdu::BindResp(Self { kind, system_id, tlvs: Tlvs::decode(body)? }))
    }

    pub(super) fn encode(&self, status: CommandStatus, out: &mut BytesMut) -> Result<(), EncodeError> {
        if !status.is_ok() && self.system_id.is_empty() && self.tlvs.is_empty() {
            return Ok(());
        }
        put_c_octets(out, &self.system_id, Field::SystemId)?;
        self.tlvs.encode(out)
    }
}

impl Address {
    pub(super) fn decode(body: &mut Reader, field: Field) -> Result<Self, DecodeError> {
        Ok(Self { ton: body.u8()?, npi: body.u8()?, value: body.c_octets(field)? })
    }

    pub(super) fn encode(&self, out: &mut BytesMut, field: Field) -> Result<(), EncodeError> {
        out.put_slice(&[self.ton, self.npi]);
        put_c_octets(out, &self.value, field)
    }
}
