//! Command ids, command statuses and the 16-octet header (SMPP 3.4 §3.2, §5.1; SMPP 5.0 §4.7.5, §4.7.6).

use bytes::{BufMut, BytesMut};
use std::fmt;

/// Length of a PDU header, in octets.
pub const HEADER_LENGTH: usize = 16;

/// The bit that makes a command id the id of a response.
const RESPONSE_BIT: u32 = 0x8000_0000;

/// A command id (SMPP 3.4 §5.1.2.1). Any value can come from the network.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandId(pub u32);

/// A command status (SMPP 3.4 §5.1.3). Any value can come from the network, carriers define their own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandStatus(pub u32);

macro_rules! named {
    ($type:ident { $($(#[$doc:meta])* $name:ident = $value:literal,)* }) => {
        impl $type {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The name in the specification, if it has one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "0x{:08X}", self.0),
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

named!(CommandId {
    /// Negative acknowledgement of something that could not be understood.
    GENERIC_NACK = 0x8000_0000,
    /// Bind that only receives.
    BIND_RECEIVER = 0x0000_0001,
    /// Answer to `BIND_RECEIVER`.
    BIND_RECEIVER_RESP = 0x8000_0001,
    /// Bind that only sends.
    BIND_TRANSMITTER = 0x0000_0002,
    /// Answer to `BIND_TRANSMITTER`.
    BIND_TRANSMITTER_RESP = 0x8000_0002,
    /// Question after the state of a message.
    QUERY_SM = 0x0000_0003,
    /// Answer to `QUERY_SM`.
    QUERY_SM_RESP = 0x8000_0003,
    /// A message towards a handset.
    SUBMIT_SM = 0x0000_0004,
    /// Answer to `SUBMIT_SM`.
    SUBMIT_SM_RESP = 0x8000_0004,
    /// A message or receipt towards the bound partner.
    DELIVER_SM = 0x0000_0005,
    /// Answer to `DELIVER_SM`.
    DELIVER_SM_RESP = 0x8000_0005,
    /// Polite end of a session.
    UNBIND = 0x0000_0006,
    /// Answer to `UNBIND`.
    UNBIND_RESP = 0x8000_0006,
    /// New content for a message that is not delivered yet.
    REPLACE_SM = 0x0000_0007,
    /// Answer to `REPLACE_SM`.
    REPLACE_SM_RESP = 0x8000_0007,
    /// Withdrawal of messages that are not delivered yet.
    CANCEL_SM = 0x0000_0008,
    /// Answer to `CANCEL_SM`.
    CANCEL_SM_RESP = 0x8000_0008,
    /// Bind that sends and receives.
    BIND_TRANSCEIVER = 0x0000_0009,
    /// Answer to `BIND_TRANSCEIVER`.
    BIND_TRANSCEIVER_RESP = 0x8000_0009,
    /// The centre asks its partner to bind.
    OUTBIND = 0x0000_000B,
    /// Liveness question.
    ENQUIRE_LINK = 0x0000_0015,
    /// Answer to `ENQUIRE_LINK`.
    ENQUIRE_LINK_RESP = 0x8000_0015,
    /// One message towards many handsets.
    SUBMIT_MULTI = 0x0000_0021,
    /// Answer to `SUBMIT_MULTI`.
    SUBMIT_MULTI_RESP = 0x8000_0021,
    /// A handset became reachable; has no response.
    ALERT_NOTIFICATION = 0x0000_0102,
    /// A message in either direction, with its text in an optional parameter.
    DATA_SM = 0x0000_0103,
    /// Answer to `DATA_SM`.
    DATA_SM_RESP = 0x8000_0103,
    /// A message towards everyone in an area (5.0).
    BROADCAST_SM = 0x0000_0111,
    /// Answer to `BROADCAST_SM`.
    BROADCAST_SM_RESP = 0x8000_0111,
    /// Question after the state of a broadcast (5.0).
    QUERY_BROADCAST_SM = 0x0000_0112,
    /// Answer to `QUERY_BROADCAST_SM`.
    QUERY_BROADCAST_SM_RESP = 0x8000_0112,
    /// Withdrawal of a broadcast (5.0).
    CANCEL_BROADCAST_SM = 0x0000_0113,
    /// Answer to `CANCEL_BROADCAST_SM`.
    CANCEL_BROADCAST_SM_RESP = 0x8000_0113,
});

impl CommandId {
    /// Whether this is the id of a response (`GENERIC_NACK` counts as one).
    pub const fn is_response(self) -> bool {
        self.0 & RESPONSE_BIT != 0
    }

    /// The id of the response to this request; itself when it is a response.
    #[must_use]
    pub const fn response(self) -> Self {
        Self(self.0 | RESPONSE_BIT)
    }

    /// Whether a PDU of this id wants an answer: requests do, except the two notices that have no response.
    pub const fn wants_response(self) -> bool {
        !self.is_response() && self.0 != Self::OUTBIND.0 && self.0 != Self::ALERT_NOTIFICATION.0
    }
}

named!(CommandStatus {
    /// No error.
    ESME_ROK = 0x0000_0000,
    /// Message length is invalid.
    ESME_RINVMSGLEN = 0x0000_0001,
    /// Command length is invalid.
    ESME_RINVCMDLEN = 0x0000_0002,
    /// Invalid command id.
    ESME_RINVCMDID = 0x0000_0003,
    /// Incorrect bind status for the command.
    ESME_RINVBNDSTS = 0x0000_0004,
    /// Already bound.
    ESME_RALYBND = 0x0000_0005,
    /// Invalid priority flag.
    ESME_RINVPRTFLG = 0x0000_0006,
    /// Invalid registered delivery flag.
    ESME_RINVREGDLVFLG = 0x0000_0007,
    /// System error.
    ESME_RSYSERR = 0x0000_0008,
    /// Invalid source address.
    ESME_RINVSRCADR = 0x0000_000A,
    /// Invalid destination address.
    ESME_RINVDSTADR = 0x0000_000B,
    /// Message id is invalid.
    ESME_RINVMSGID = 0x0000_000C,
    /// Bind failed.
    ESME_RBINDFAIL = 0x0000_000D,
    /// Invalid password.
    ESME_RINVPASWD = 0x0000_000E,
    /// Invalid system id.
    ESME_RINVSYSID = 0x0000_000F,
    /// Cancel failed.
    ESME_RCANCELFAIL = 0x0000_0011,
    /// Replace failed.
    ESME_RREPLACEFAIL = 0x0000_0013,
    /// Message queue is full.
    ESME_RMSGQFUL = 0x0000_0014,
    /// Invalid service type.
    ESME_RINVSERTYP = 0x0000_0015,
    /// Invalid number of destinations.
    ESME_RINVNUMDESTS = 0x0000_0033,
    /// Invalid distribution list name.
    ESME_RINVDLNAME = 0x0000_0034,
    /// Invalid destination flag.
    ESME_RINVDESTFLAG = 0x0000_0040,
    /// Invalid "submit with replace" request.
    ESME_RINVSUBREP = 0x0000_0042,
    /// Invalid `esm_class`.
    ESME_RINVESMCLASS = 0x0000_0043,
    /// Cannot submit to a distribution list.
    ESME_RCNTSUBDL = 0x0000_0044,
    /// Submit failed.
    ESME_RSUBMITFAIL = 0x0000_0045,
    /// Invalid source type of number.
    ESME_RINVSRCTON = 0x0000_0048,
    /// Invalid source numbering plan.
    ESME_RINVSRCNPI = 0x0000_0049,
    /// Invalid destination type of number.
    ESME_RINVDSTTON = 0x0000_0050,
    /// Invalid destination numbering plan.
    ESME_RINVDSTNPI = 0x0000_0051,
    /// Invalid system type.
    ESME_RINVSYSTYP = 0x0000_0053,
    /// Invalid `replace_if_present` flag.
    ESME_RINVREPFLAG = 0x0000_0054,
    /// Invalid number of messages.
    ESME_RINVNUMMSGS = 0x0000_0055,
    /// The partner exceeded its allowed message rate.
    ESME_RTHROTTLED = 0x0000_0058,
    /// Invalid scheduled delivery time.
    ESME_RINVSCHED = 0x0000_0061,
    /// Invalid validity period.
    ESME_RINVEXPIRY = 0x0000_0062,
    /// Predefined message is invalid or not found.
    ESME_RINVDFTMSGID = 0x0000_0063,
    /// The receiving application has a passing error: send it again later.
    ESME_RX_T_APPN = 0x0000_0064,
    /// The receiving application has a permanent error.
    ESME_RX_P_APPN = 0x0000_0065,
    /// The receiving application rejects the message.
    ESME_RX_R_APPN = 0x0000_0066,
    /// `query_sm` failed.
    ESME_RQUERYFAIL = 0x0000_0067,
    /// Error in the optional part of the PDU body.
    ESME_RINVOPTPARSTREAM = 0x0000_00C0,
    /// Optional parameter not allowed.
    ESME_ROPTPARNOTALLWD = 0x0000_00C1,
    /// Invalid parameter length.
    ESME_RINVPARLEN = 0x0000_00C2,
    /// Expected optional parameter is missing.
    ESME_RMISSINGOPTPARAM = 0x0000_00C3,
    /// Invalid optional parameter value.
    ESME_RINVOPTPARAMVAL = 0x0000_00C4,
    /// Delivery failure (used in `data_sm_resp`).
    ESME_RDELIVERYFAILURE = 0x0000_00FE,
    /// Unknown error.
    ESME_RUNKNOWNERR = 0x0000_00FF,
    /// The partner may not use this service type (5.0).
    ESME_RSERTYPUNAUTH = 0x0000_0100,
    /// The partner may not use this operation (5.0).
    ESME_RPROHIBITED = 0x0000_0101,
    /// The service type is unavailable (5.0).
    ESME_RSERTYPUNAVAIL = 0x0000_0102,
    /// The service type is denied (5.0).
    ESME_RSERTYPDENIED = 0x0000_0103,
    /// Invalid data coding scheme (5.0).
    ESME_RINVDCS = 0x0000_0104,
    /// Invalid `source_addr_subunit` (5.0).
    ESME_RINVSRCADDRSUBUNIT = 0x0000_0105,
    /// Invalid `dest_addr_subunit` (5.0).
    ESME_RINVDSTADDRSUBUNIT = 0x0000_0106,
    /// Invalid `broadcast_frequency_interval` (5.0).
    ESME_RINVBCASTFREQINT = 0x0000_0107,
    /// Invalid broadcast area alias (5.0).
    ESME_RINVBCASTALIAS_NAME = 0x0000_0108,
    /// Invalid broadcast area format (5.0).
    ESME_RINVBCASTAREAFMT = 0x0000_0109,
    /// Invalid number of broadcast areas (5.0).
    ESME_RINVNUMBCAST_AREAS = 0x0000_010A,
    /// Invalid `broadcast_content_type` (5.0).
    ESME_RINVBCASTCNTTYPE = 0x0000_010B,
    /// Invalid `broadcast_message_class` (5.0).
    ESME_RINVBCASTMSGCLASS = 0x0000_010C,
    /// `broadcast_sm` failed (5.0).
    ESME_RBCASTFAIL = 0x0000_010D,
    /// `query_broadcast_sm` failed (5.0).
    ESME_RBCASTQUERYFAIL = 0x0000_010E,
    /// `cancel_broadcast_sm` failed (5.0).
    ESME_RBCASTCANCELFAIL = 0x0000_010F,
    /// Invalid `broadcast_rep_num` (5.0).
    ESME_RINVBCAST_REP = 0x0000_0110,
    /// Invalid `broadcast_service_group` (5.0).
    ESME_RINVBCASTSRVGRP = 0x0000_0111,
    /// Invalid `broadcast_channel_indicator` (5.0).
    ESME_RINVBCASTCHANIND = 0x0000_0112,
});

impl CommandStatus {
    /// Whether the request succeeded.
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }
}

/// The header of a PDU without its length, which framing owns (SMPP 3.4 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the PDU is.
    pub id: CommandId,
    /// Its status; zero in requests.
    pub status: CommandStatus,
    /// The number that ties a response to its request.
    pub sequence: u32,
}

impl Header {
    /// Reads the part of a header that follows `command_length`.
    pub(crate) fn read(octets: &[u8; HEADER_LENGTH - 4]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *octets;
        Self {
            id: CommandId(u32::from_be_bytes([a, b, c, d])),
            status: CommandStatus(u32::from_be_bytes([e, f, g, h])),
            sequence: u32::from_be_bytes([i, j, k, l]),
        }
    }

    /// Writes a PDU of this header and no body: the form of every error response.
    pub fn encode_alone(&self, out: &mut BytesMut) {
        out.put_u32(16);
        out.put_u32(self.id.0);
        out.put_u32(self.status.0);
        out.put_u32(self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_known_and_prints_the_number_of_the_rest() {
        assert_eq!(CommandStatus::ESME_RTHROTTLED.to_string(), "ESME_RTHROTTLED");
        assert_eq!(CommandStatus(0x0400).to_string(), "0x00000400");
        assert_eq!(format!("{:?}", CommandId::SUBMIT_SM.response()), "SUBMIT_SM_RESP");
        assert!(CommandId::GENERIC_NACK.is_response());
        assert!(!CommandId::OUTBIND.is_response());
    }
}
