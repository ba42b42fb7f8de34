//! The PDUs about a message already sent, `data_sm` and `alert_notification` (SMPP 3.4 §4.7 to §4.12).

use super::{Address, Opaque, body::body};
use crate::{
    command::CommandStatus,
    octets::{COctets, DecodeError, EncodeError, Field, Reader, put_c_octets, put_time},
    tlv::Tlvs,
};
use bytes::{BufMut, BytesMut};

body! {
    /// A message in either direction, its text in `message_payload` (SMPP 3.4 §4.7.1). `Debug` shows no content.
    DataSm {
        /// `service_type`
        service_type: COctets as ServiceType,
        /// Sender.
        source: Address as LongSourceAddr,
        /// Recipient.
        destination: Address as LongDestinationAddr,
        /// Mode, type and features.
        esm_class: u8,
        /// Which receipts are wanted.
        registered_delivery: u8,
        /// Alphabet of the message.
        data_coding: u8,
        /// Optional parameters.
        tlvs: Tlvs,
    }
}

body! {
    /// Question after the state of a message (SMPP 3.4 §4.8.1).
    QuerySm {
        /// The carrier's id of it.
        message_id: COctets as MessageId,
        /// Its sender, as it was submitted.
        source: Address as SourceAddr,
        /// Optional parameters.
        tlvs: Tlvs,
    }
}

body! {
    /// Withdrawal of a message, or of all between two addresses where `message_id` is empty (SMPP 3.4 §4.9.1).
    CancelSm {
        /// `service_type`
        service_type: COctets as ServiceType,
        /// The carrier's id; may be empty.
        message_id: COctets as MessageId,
        /// Its sender, as it was submitted.
        source: Address as SourceAddr,
        /// Its recipient; may be empty where the id is given.
        destination: Address as DestinationAddr,
        /// Optional parameters.
        tlvs: Tlvs,
    }
}

body! {
    /// New content for a message not delivered yet (SMPP 3.4 §4.10.1). `Debug` shows no content.
    ReplaceSm {
        /// The carrier's id of it.
        message_id: COctets as MessageId,
        /// Its sender, as it was submitted.
        source: Address as SourceAddr,
        /// Empty or 16 characters.
        schedule_delivery_time: COctets as ScheduleDeliveryTime,
        /// Empty or 16 characters.
        validity_period: COctets as ValidityPeriod,
        /// Which receipts are wanted.
        registered_delivery: u8,
        /// `sm_default_msg_id`
        sm_default_msg_id: u8,
        /// The new message, at most 254 octets.
        short_message: Opaque,
        /// Optional parameters (5.0: `message_payload`).
        tlvs: Tlvs,
    }
}

body! {
    /// A handset became reachable (SMPP 3.4 §4.12.1). It has no response.
    AlertNotification {
        /// The handset.
        source: Address as LongSourceAddr,
        /// Whom it concerns.
        esme: Address as LongDestinationAddr,
        /// Optional parameters (`ms_availability_status`).
        tlvs: Tlvs,
    }
}

/// The answer to `query_sm` (SMPP 3.4 §4.8.2).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct QuerySmResp {
    /// The id asked for.
    pub message_id: COctets,
    /// When it reached its last state: empty or 16 characters.
    pub final_date: COctets,
    /// The state ([`crate::MessageState::from_octet`]).
    pub message_state: u8,
    /// The network's error code, 0 for none.
    pub error_code: u8,
    /// Optional parameters.
    pub tlvs: Tlvs,
}

impl QuerySmResp {
    pub(super) fn decode(body: &mut Reader) -> Result<Self, DecodeError> {
        // Refusals come without a body.
        if body.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self {
            message_id: body.c_octets(Field::MessageId)?,
            final_date: body.c_octets(Field::FinalDate)?,
            message_state: body.u8()?,
            error_code: body.last_u8()?,
            tlvs: Tlvs::decode(body)?,
        })
    }

    pub(super) fn encode(&self, status: CommandStatus, out: &mut BytesMut) -> Result<(), EncodeError> {
        if !status.is_ok() && *self == Self::default() {
            return Ok(());
        }
        put_c_octets(out, &self.message_id, Field::MessageId)?;
        put_time(out, &self.final_date, Field::FinalDate)?;
        out.put_slice(&[self.message_state, self.error_code]);
        self.tlvs.encode(out)
    }
}
