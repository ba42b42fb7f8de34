//! `submit_multi` and its answer (SMPP 3.4 §4.5).

use super::{
    Address, Opaque,
    body::{Part, body},
};
use crate::{
    command::CommandStatus,
    octets::{COctets, DecodeError, EncodeError, Field, Reader, put_c_octets, put_count},
    tlv::Tlvs,
};
use bytes::{BufMut, BytesMut};

/// `dest_flag`: an address follows.
const ADDRESS: u8 = 1;
/// `dest_flag`: the name of a distribution list follows.
const LIST: u8 = 2;

/// One destination of a `submit_multi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A handset.
    Address(Address),
    /// A distribution list at the carrier.
    List(COctets),
}

body! {
    /// One message towards many (SMPP 3.4 §4.5.1). `Debug` shows no content.
    SubmitMulti {
        /// `service_type`
        service_type: COctets as ServiceType,
        /// Sender.
        source: Address as SourceAddr,
        /// Recipients: 1 to 254.
        destinations: Vec<Destination> as Destinations,
        /// Mode, type and features.
        esm_class: u8,
        /// `protocol_id`
        protocol_id: u8,
        /// `priority_flag`
        priority_flag: u8,
        /// Empty or 16 characters.
        schedule_delivery_time: COctets as ScheduleDeliveryTime,
        /// Empty or 16 characters.
        validity_period: COctets as ValidityPeriod,
        /// Which receipts are wanted.
        registered_delivery: u8,
        /// `replace_if_present_flag`
        replace_if_present_flag: u8,
        /// Alphabet of the message.
        data_coding: u8,
        /// `sm_default_msg_id`
        sm_default_msg_id: u8,
        /// The message, at most 254 octets; empty when `message_payload` carries it.
        short_message: Opaque,
        /// Optional parameters.
        tlvs: Tlvs,
    }
}

impl Part for Vec<Destination> {
    fn take(body: &mut Reader, _: Field) -> Result<Self, DecodeError> {
        match body.u8()? {
            0 => Err(DecodeError::NoDestination),
            count => (0..count).map(|_| Destination::decode(body)).collect(),
        }
    }

    fn put(&self, out: &mut BytesMut, field: Field) -> Result<(), EncodeError> {
        put_count(out, self.len(), 1, field)?;
        self.iter().try_for_each(|destination| destination.encode(out))
    }
}

impl Destination {
    fn decode(body: &mut Reader) -> Result<Self, DecodeError> {
        match body.u8()? {
            ADDRESS => Address::decode(body, Field::DestinationAddr).map(Self::Address),
            LIST => body.c_octets(Field::DlName).map(Self::List),
            _ => Err(DecodeError::DestinationFlag),
        }
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Address(address) => {
                out.put_u8(ADDRESS);
                address.encode(out, Field::DestinationAddr)
            }
            Self::List(name) => {
                out.put_u8(LIST);
                put_c_octets(out, name, Field::DlName)
            }
        }
    }
}

/// A destination that the carrier did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsuccessful {
    /// Which.
    pub destination: Address,
    /// Why.
    pub status: CommandStatus,
}

/// The answer to `submit_multi` (SMPP 3.4 §4.5.2).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SubmitMultiResp {
    /// The carrier's id; empty in refusals.
    pub message_id: COctets,
    /// The destinations not taken, at most 254.
    pub unsuccessful: Vec<Unsuccessful>,
    /// Optional parameters.
    pub tlvs: Tlvs,
}

impl SubmitMultiResp {
    pub(super) fn decode(body: &mut Reader) -> Result<Self, DecodeError> {
        // Refusals come without a body.
        if body.is_empty() {
            return Ok(Self::default());
        }
        let message_id = body.c_octets(Field::MessageId)?;
        let count = body.last_u8()?;
        let unsuccessful = (0..count).map(|_| Unsuccessful::decode(body)).collect::<Result<_, _>>()?;
        Ok(Self { message_id, unsuccessful, tlvs: Tlvs::decode(body)? })
    }

    pub(super) fn encode(&self, status: CommandStatus, out: &mut BytesMut) -> Result<(), EncodeError> {
        if !status.is_ok() && *self == Self::default() {
            return Ok(());
        }
        put_c_octets(out, &self.message_id, Field::MessageId)?;
        put_count(out, self.unsuccessful.len(), 0, Field::Unsuccessful)?;
        for Unsuccessful { destination, status } in &self.unsuccessful {
            destination.encode(out, Field::DestinationAddr)?;
            out.put_u32(status.0);
        }
        self.tlvs.encode(out)
    }
}

impl Unsuccessful {
    fn decode(body: &mut Reader) -> Result<Self, DecodeError> {
        let destination = Address::decode(body, Field::DestinationAddr)?;
        Ok(Self { destination, status: CommandStatus(body.u32()?) })
    }
}
