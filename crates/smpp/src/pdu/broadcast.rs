//! Messages to everyone in an area (SMPP 5.0 §4.4, §4.6). Area, content and repetition are optional parameters.

use super::{Address, body::body};
use crate::{octets::COctets, tlv::Tlvs};

body! {
    /// A message towards everyone in an area (SMPP 5.0 §4.4.1.1).
    BroadcastSm {
        /// `service_type`
        service_type: COctets as ServiceType,
        /// Sender.
        source: Address as SourceAddr,
        /// The id of a broadcast to replace; empty for a new one.
        message_id: COctets as MessageId,
        /// `priority_flag`
        priority_flag: u8,
        /// Empty or 16 characters.
        schedule_delivery_time: COctets as ScheduleDeliveryTime,
        /// Empty or 16 characters.
        validity_period: COctets as ValidityPeriod,
        /// `replace_if_present_flag`
        replace_if_present_flag: u8,
        /// Alphabet of the message.
        data_coding: u8,
        /// `sm_default_msg_id`
        sm_default_msg_id: u8,
        /// Optional parameters.
        tlvs: Tlvs,
    }
}

body! {
    /// Question after the state of a broadcast (SMPP 5.0 §4.6.1.1).
    QueryBroadcastSm {
        /// The carrier's id of it.
        message_id: COctets as MessageId,
        /// Its sender, as it was submitted.
        source: Address as SourceAddr,
        /// Optional parameters (`user_message_reference`).
        tlvs: Tlvs,
    }
}

body! {
    /// Withdrawal of a broadcast (SMPP 5.0 §4.6.2.1).
    CancelBroadcastSm {
        /// `service_type`
        service_type: COctets as ServiceType,
        /// The carrier's id of it; may be empty.
        message_id: COctets as MessageId,
        /// Its sender, as it was submitted.
        source: Address as SourceAddr,
        /// Optional parameters (`broadcast_content_type`, `user_message_reference`).
        tlvs: Tlvs,
    }
}
