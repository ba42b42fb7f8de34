//! `submit_sm` and `deliver_sm` and their answers: what nearly every session consists of.

use super::{Address, esm_class};
use crate::{
    command::CommandStatus,
    octets::{COctets, DecodeError, EncodeError, Field, Reader, put_c_octets, put_message, put_time},
    tlv::Tlvs,
};
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;

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

    pub(super) fn decode(body: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            service_type: body.c_octets(Field::ServiceType)?,
            source: Address::decode(body, Field::SourceAddr)?,
            destination: Address::decode(body, Field::DestinationAddr)?,
            esm_class: body.u8()?,
            protocol_id: body.u8()?,
            priority_flag: body.u8()?,
            schedule_delivery_time: body.c_octets(Field::ScheduleDeliveryTime)?,
            validity_period: body.c_octets(Field::ValidityPeriod)?,
            registered_delivery: body.u8()?,
            replace_if_present_flag: body.u8()?,
            data_coding: body.u8()?,
            sm_default_msg_id: body.u8()?,
            short_message: body.message()?,
            tlvs: Tlvs::decode(body)?,
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
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
        put_message(out, &self.short_message)?;
        self.tlvs.encode(out)
    }
}

impl fmt::Debug for Sm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sm")
            .field("source", &self.source)
            .field("destination", &self.destination)
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
    pub(super) fn decode(body: &mut Reader) -> Result<Self, DecodeError> {
        // Refusals come without a body (SMPP 3.4 §4.4.2), and some carriers leave it out of a success too.
        if body.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self { message_id: body.c_octets(Field::MessageId)?, tlvs: Tlvs::decode(body)? })
    }

    pub(super) fn encode(&self, status: CommandStatus, out: &mut BytesMut) -> Result<(), EncodeError> {
        if !status.is_ok() && self.message_id.is_empty() && self.tlvs.is_empty() {
            return Ok(());
        }
        put_c_octets(out, &self.message_id, Field::MessageId)?;
        self.tlvs.encode(out)
    }
}
