//! The field types of SMPP (3.4 §3.1), read and written with their limits, and what a reader may forgive.

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
    /// `source_addr` where SMPP 3.4 allows 65 octets (`data_sm`, `alert_notification`).
    LongSourceAddr,
    /// `destination_addr` or `esme_addr` where SMPP 3.4 allows 65 octets.
    LongDestinationAddr,
    /// The list of destinations of `submit_multi`.
    Destinations,
    /// The name of a distribution list in `submit_multi`.
    DlName,
    /// The list of destinations that `submit_multi_resp` refuses.
    Unsuccessful,
    /// `final_date` of `query_sm_resp`.
    FinalDate,
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
            Self::LongSourceAddr | Self::LongDestinationAddr => 65,
            Self::DlName => 21,
            Self::ScheduleDeliveryTime | Self::ValidityPeriod | Self::FinalDate => 17,
            Self::ShortMessage => 254,
            // Entries, not octets: 254 in 3.4; 5.0 says 255 and is read, not written.
            Self::Destinations | Self::Unsuccessful => 254,
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
            Self::SourceAddr | Self::LongSourceAddr => CommandStatus::ESME_RINVSRCADR,
            Self::DestinationAddr | Self::LongDestinationAddr => CommandStatus::ESME_RINVDSTADR,
            Self::Destinations => CommandStatus::ESME_RINVNUMDESTS,
            Self::DlName => CommandStatus::ESME_RINVDLNAME,
            Self::FinalDate | Self::Unsuccessful => CommandStatus::ESME_RINVPARLEN,
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
    #[error("{0:?} is longer than SMPP allows or has no NUL")]
    Unterminated(Field),
    /// `sm_length` reaches past the end of the PDU.
    #[error("sm_length is past the end of the PDU")]
    MessageLength,
    /// A destination of `submit_multi` is neither an address nor a list.
    #[error("a destination is neither an address nor a distribution list")]
    DestinationFlag,
    /// `submit_multi` names no destination.
    #[error("no destination")]
    NoDestination,
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
            Self::DestinationFlag => CommandStatus::ESME_RINVDESTFLAG,
            Self::NoDestination => CommandStatus::ESME_RINVNUMDESTS,
            Self::OptionalParameters => CommandStatus::ESME_RINVOPTPARSTREAM,
        }
    }
}

/// Why a PDU could not be written. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A field is longer than its limit.
    #[error("{field:?} takes {octets} octets, SMPP allows {limit}")]
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
    /// A list has more entries than its count can tell, or none where one is needed.
    #[error("{field:?} has {entries} entries, SMPP allows {limit}")]
    Entries {
        /// Which list.
        field: Field,
        /// How many it has.
        entries: usize,
        /// How many it may have.
        limit: usize,
    },
    /// A time is neither empty nor of 16 characters.
    #[error("{0:?} is neither empty nor 16 characters")]
    Time(Field),
}

/// What a reader forgives. Nothing forgiven ever reaches past its own PDU, and no message is shortened in silence:
/// what would lose text is refused in every profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// A string, also one in the last optional parameter, may end with its PDU instead of with a NUL.
    pub missing_nul: bool,
    /// Octets at the end that are not optional parameters are set aside ([`crate::Tlvs::stray`]).
    pub stray_octets: bool,
    /// The last octet of `query_sm_resp` and of `submit_multi_resp` may be left out when it would be zero.
    pub missing_tail: bool,
}

impl Tolerance {
    /// The specification and nothing else: towards partners, who can mend what they send.
    pub const STRICT: Self = Self { missing_nul: false, stray_octets: false, missing_tail: false };
    /// What carriers are seen to send: towards them, who will not.
    pub const CARRIER: Self = Self { missing_nul: true, stray_octets: true, missing_tail: true };
}

/// Reads the body of one PDU from its start. It cannot see anything else.
pub(crate) struct Reader {
    body: Bytes,
    tolerance: Tolerance,
}

impl Reader {
    pub(crate) const fn new(body: Bytes, tolerance: Tolerance) -> Self {
        Self { body, tolerance }
    }

    pub(crate) const fn tolerance(&self) -> Tolerance {
        self.tolerance
    }

    /// Whether everything was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Takes whatever is left.
    pub(crate) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.body)
    }

    /// Takes an octet.
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.body.try_get_u8().map_err(|_| DecodeError::Truncated)
    }

    /// Takes an octet that a forgiven peer may leave out at the end.
    pub(crate) fn last_u8(&mut self) -> Result<u8, DecodeError> {
        if self.body.is_empty() && self.tolerance.missing_tail { Ok(0) } else { self.u8() }
    }

    /// Takes four octets.
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.body.try_get_u32().map_err(|_| DecodeError::Truncated)
    }

    /// Takes a C-octet string of at most `field`'s limit.
    pub(crate) fn c_octets(&mut self, field: Field) -> Result<COctets, DecodeError> {
        let limit = field.limit().min(self.body.len());
        if let Some(end) = self.body.iter().take(limit).position(|octet| *octet == 0) {
            let value = self.body.split_to(end);
            self.body.advance(1);
            return Ok(COctets(value));
        }
        if self.body.len() >= field.limit() {
            return Err(DecodeError::Unterminated(field));
        }
        if self.tolerance.missing_nul && !self.body.is_empty() {
            return Ok(COctets(self.rest()));
        }
        Err(DecodeError::Truncated)
    }

    /// Takes `sm_length` and the message. 255 octets are 5.0's limit and read; 3.4's 254 is what is written.
    pub(crate) fn message(&mut self) -> Result<Bytes, DecodeError> {
        let length = usize::from(self.u8()?);
        if length > self.body.len() {
            return Err(DecodeError::MessageLength);
        }
        Ok(self.body.split_to(length))
    }
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

/// Appends `sm_length` and the message.
pub(crate) fn put_message(out: &mut BytesMut, message: &Bytes) -> Result<(), EncodeError> {
    let octets = message.len();
    let limit = Field::ShortMessage.limit();
    let too_long = EncodeError::TooLong { field: Field::ShortMessage, octets, limit };
    match u8::try_from(octets) {
        Ok(length) if octets <= limit => out.put_u8(length),
        Ok(_) | Err(_) => return Err(too_long),
    }
    out.put_slice(message);
    Ok(())
}

/// Appends the number of entries of a list of at least `least`.
pub(crate) fn put_count(
    out: &mut BytesMut,
    entries: usize,
    least: usize,
    field: Field,
) -> Result<(), EncodeError> {
    let limit = field.limit();
    match u8::try_from(entries) {
        Ok(count) if (least..=limit).contains(&entries) => out.put_u8(count),
        Ok(_) | Err(_) => return Err(EncodeError::Entries { field, entries, limit }),
    }
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

    fn reader(octets: &'static [u8], tolerance: Tolerance) -> Reader {
        Reader::new(Bytes::from_static(octets), tolerance)
    }

    #[test]
    fn a_string_ends_at_its_nul_or_not_at_all() {
        let mut body = reader(b"abc\0rest", Tolerance::STRICT);
        assert_eq!(body.c_octets(Field::ServiceType), Ok(COctets::from_static("abc")));
        assert_eq!(body.c_octets(Field::ServiceType), Err(DecodeError::Truncated));
        assert_eq!(&body.rest()[..], b"rest");
        let error = reader(b"abcdef\0", Tolerance::CARRIER).c_octets(Field::ServiceType).unwrap_err();
        assert_eq!(error.status(), CommandStatus::ESME_RINVSERTYP);
    }

    #[test]
    fn a_missing_nul_and_a_missing_tail_are_forgiven_to_carriers() {
        let mut body = reader(b"abc", Tolerance::CARRIER);
        assert_eq!(body.c_octets(Field::ServiceType), Ok(COctets::from_static("abc")));
        assert_eq!(body.c_octets(Field::ServiceType), Err(DecodeError::Truncated), "nothing is no string");
        assert_eq!((body.u8(), body.last_u8()), (Err(DecodeError::Truncated), Ok(0)));
        assert_eq!(reader(b"", Tolerance::STRICT).last_u8(), Err(DecodeError::Truncated));
    }

    #[test]
    fn prints_no_content() {
        assert_eq!(format!("{:?}", COctets::from("84901234567")), "[redacted]");
    }
}
