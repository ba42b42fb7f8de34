//! The field types of SMPP (3.4 §3.1), read and written with their limits.

use crate::command::CommandStatus;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::fmt;

/// The octets of a C-octet string without its final NUL. Not text yet: carriers send Latin-1 and worse.
///
/// Printing it shows nothing of it, because it may be a number, a sender or a password.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct COctets(Bytes);

impl COctets {
    /// Wraps octets; limits and the absence of NUL are checked when they are encoded.
    pub const fn new(octets: Bytes) -> Self {
        Self(octets)
    }

    /// From a constant.
    pub const fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// The octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, when it is UTF-8 (ASCII in every conforming peer).
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of octets, without the NUL.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<&str> for COctets {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for COctets {
    fn from(text: String) -> Self {
        Self(Bytes::from(text))
    }
}

impl fmt::Debug for COctets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A field of a PDU, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `system_id`
    SystemId,
    /// `password`
    Password,
    /// `system_type`
    SystemType,
    /// `address_range`
    AddressRange,
    /// `service_type`
    ServiceType,
    /// `source_addr`
    SourceAddr,
    /// `destination_addr`
    DestinationAddr,
    /// `schedule_delivery_time`
    ScheduleDeliveryTime,
    /// `validity_period`
    ValidityPeriod,
    /// `short_message`
    ShortMessage,
    /// `message_id`
    MessageId,
    /// The value of an optional parameter.
    TlvValue,
    /// The whole PDU.
    Pdu,
}

impl Field {
    /// The most octets of the field, its NUL included (SMPP 3.4 §4, §5.2; times also §7.1).
    pub(crate) const fn limit(self) -> usize {
        match self {
            Self::SystemId => 16,
            Self::Password => 9,
            Self::SystemType => 13,
            Self::AddressRange => 41,
            Self::ServiceType => 6,
            Self::SourceAddr | Self::DestinationAddr => 21,
            Self::ScheduleDeliveryTime | Self::ValidityPeriod => 17,
            Self::ShortMessage => 254,
            Self::MessageId => 65,
            Self::TlvValue | Self::Pdu => 65_535,
        }
    }

    /// The status that tells a peer that this field of its PDU is wrong.
    const fn status(self) -> CommandStatus {
        match self {
            Self::SystemId => CommandStatus::ESME_RINVSYSID,
            Self::Password => CommandStatus::ESME_RINVPASWD,
            Self::SystemType => CommandStatus::ESME_RINVSYSTYP,
            Self::AddressRange => CommandStatus::ESME_RBINDFAIL,
            Self::ServiceType => CommandStatus::ESME_RINVSERTYP,
            Self::SourceAddr => CommandStatus::ESME_RINVSRCADR,
            Self::DestinationAddr => CommandStatus::ESME_RINVDSTADR,
            Self::ScheduleDeliveryTime => CommandStatus::ESME_RINVSCHED,
            Self::ValidityPeriod => CommandStatus::ESME_RINVEXPIRY,
            Self::ShortMessage => CommandStatus::ESME_RINVMSGLEN,
            Self::MessageId => CommandStatus::ESME_RINVMSGID,
            Self::TlvValue => CommandStatus::ESME_RINVPARLEN,
            Self::Pdu => CommandStatus::ESME_RINVCMDLEN,
        }
    }
}

/// Why a PDU could not be read. It concerns that PDU only: the next one starts where its length says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The PDU ends inside a fixed field.
    #[error("PDU ends before its mandatory fields do")]
    Truncated,
    /// A C-octet string has no NUL within its limit.
    #[error("{0:?} is longer than SMPP 3.4 allows or has no NUL")]
    Unterminated(Field),
    /// `sm_length` is above 254 or reaches past the end of the PDU.
    #[error("sm_length is above 254 or past the end of the PDU")]
    MessageLength,
    /// What follows the mandatory fields is not a list of optional parameters.
    #[error("octets after the mandatory fields are not optional parameters")]
    OptionalParameters,
}

impl DecodeError {
    /// The command status to answer.
    pub const fn status(self) -> CommandStatus {
        match self {
            Self::Truncated => CommandStatus::ESME_RINVCMDLEN,
            Self::Unterminated(field) => field.status(),
            Self::MessageLength => CommandStatus::ESME_RINVMSGLEN,
            Self::OptionalParameters => CommandStatus::ESME_RINVOPTPARSTREAM,
        }
    }
}

/// Why a PDU could not be written. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A field is longer than its limit.
    #[error("{field:?} takes {octets} octets, SMPP 3.4 allows {limit}")]
    TooLong {
        /// Which field.
        field: Field,
        /// What it would take, NUL included.
        octets: usize,
        /// What it may take.
        limit: usize,
    },
    /// A C-octet string holds a NUL, which would shift every later field.
    #[error("{0:?} contains a NUL")]
    Nul(Field),
    /// A time is neither empty nor of 16 characters.
    #[error("{0:?} is neither empty nor 16 characters")]
    Time(Field),
}

/// Takes an octet.
pub(crate) fn take_u8(body: &mut Bytes) -> Result<u8, DecodeError> {
    body.try_get_u8().map_err(|_| DecodeError::Truncated)
}

/// Takes a C-octet string of at most `field`'s limit.
pub(crate) fn take_c_octets(body: &mut Bytes, field: Field) -> Result<COctets, DecodeError> {
    let limit = field.limit().min(body.len());
    let Some(end) = body.iter().take(limit).position(|octet| *octet == 0) else {
        return Err(if body.len() < field.limit() {
            DecodeError::Truncated
        } else {
            DecodeError::Unterminated(field)
        });
    };
    let value = body.split_to(end);
    body.advance(1);
    Ok(COctets(value))
}

/// Appends a C-octet string after checking it.
pub(crate) fn put_c_octets(out: &mut BytesMut, value: &COctets, field: Field) -> Result<(), EncodeError> {
    let octets = value.len().saturating_add(1);
    if octets > field.limit() {
        return Err(EncodeError::TooLong { field, octets, limit: field.limit() });
    }
    if value.as_bytes().contains(&0) {
        return Err(EncodeError::Nul(field));
    }
    out.put_slice(value.as_bytes());
    out.put_u8(0);
    Ok(())
}

/// Appends a time, which is empty or exactly 16 characters (SMPP 3.4 §7.1.1).
pub(crate) fn put_time(out: &mut BytesMut, value: &COctets, field: Field) -> Result<(), EncodeError> {
    if !value.is_empty() && value.len() != 16 {
        return Err(EncodeError::Time(field));
    }
    put_c_octets(out, value, field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_ends_at_its_nul_or_not_at_all() {
        let mut body = Bytes::from_static(b"abc\0rest");
        assert_eq!(take_c_octets(&mut body, Field::ServiceType), Ok(COctets::from_static("abc")));
        assert_eq!(&body[..], b"rest");
        assert_eq!(take_c_octets(&mut body, Field::ServiceType), Err(DecodeError::Truncated));
        let mut long = Bytes::from_static(b"abcdef\0");
        let error = take_c_octets(&mut long, Field::ServiceType).unwrap_err();
        assert_eq!(error.status(), CommandStatus::ESME_RINVSERTYP);
    }

    #[test]
    fn prints_no_content() {
        assert_eq!(format!("{:?}", COctets::from("84901234567")), "[redacted]");
    }
}
