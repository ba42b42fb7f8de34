//! Optional parameters (SMPP 3.4 §5.3, SMPP 5.0 §4.8): a raw list, each of them typed on demand ([`Tlv::read`]).

pub mod tag;
mod value;

pub use tag::Format;
pub use value::{NetworkErrorCode, Value};

use crate::octets::{COctets, DecodeError, EncodeError, Field, Reader};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::fmt;

/// One optional parameter as it came. Printing it shows its tag and length.
#[derive(Clone, PartialEq, Eq)]
pub struct Tlv {
    /// Which parameter.
    pub tag: u16,
    /// Its octets.
    pub value: Bytes,
}

impl fmt::Debug for Tlv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04X}[{} octets]", self.tag, self.value.len())
    }
}

/// The optional parameters of a PDU, in the order of the wire.
///
/// A typed reader gives `None` for a parameter that is absent or has the wrong length: a carrier's odd optional
/// parameter must not cost the message.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tlvs {
    list: Vec<Tlv>,
    stray: Bytes,
}

impl fmt::Debug for Tlvs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.list).finish()?;
        if self.stray.is_empty() { Ok(()) } else { write!(f, " stray[{} octets]", self.stray.len()) }
    }
}

/// Segmentation by optional parameters (`sar_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Reference shared by the parts.
    pub reference: u16,
    /// Number of parts.
    pub total: u8,
    /// This part, from 1.
    pub number: u8,
}

impl Tlvs {
    /// No parameters.
    pub const fn new() -> Self {
        Self { list: Vec::new(), stray: Bytes::new() }
    }

    /// The parameters in order.
    pub fn iter(&self) -> impl Iterator<Item = &Tlv> {
        self.list.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The first value of a tag.
    pub fn get(&self, tag: u16) -> Option<&Bytes> {
        self.list.iter().find(|tlv| tlv.tag == tag).map(|tlv| &tlv.value)
    }

    /// Every value of a tag that may be repeated (`callback_num`, `broadcast_area_identifier`).
    pub fn get_all(&self, tag: u16) -> impl Iterator<Item = &Bytes> {
        self.list.iter().filter(move |tlv| tlv.tag == tag).map(|tlv| &tlv.value)
    }

    /// The first parameter of a tag, in the form of that tag.
    pub fn read(&self, tag: u16) -> Option<Value> {
        self.list.iter().find(|tlv| tlv.tag == tag).map(Tlv::read)
    }

    /// Octets at the end of the PDU that are no parameters, where the reader forgives them. They are not written.
    pub const fn stray(&self) -> &Bytes {
        &self.stray
    }

    /// Appends a parameter and gives the list back.
    #[must_use]
    pub fn with_value(mut self, tag: u16, value: &Value) -> Self {
        self.list.push(Tlv::new(tag, value));
        self
    }

    /// Appends a parameter.
    pub fn push(&mut self, tag: u16, value: Bytes) {
        self.list.push(Tlv { tag, value });
    }

    /// Appends a parameter and gives the list back.
    #[must_use]
    pub fn with(mut self, tag: u16, value: Bytes) -> Self {
        self.push(tag, value);
        self
    }

    /// Appends a one-octet parameter.
    #[must_use]
    pub fn with_u8(self, tag: u16, value: u8) -> Self {
        self.with(tag, Bytes::copy_from_slice(&[value]))
    }

    /// Appends a two-octet parameter.
    #[must_use]
    pub fn with_u16(self, tag: u16, value: u16) -> Self {
        self.with(tag, Bytes::copy_from_slice(&value.to_be_bytes()))
    }

    /// Appends a C-octet string parameter.
    #[must_use]
    pub fn with_c_octets(self, tag: u16, value: &str) -> Self {
        let mut octets = BytesMut::with_capacity(value.len().saturating_add(1));
        octets.put_slice(value.as_bytes());
        octets.put_u8(0);
        self.with(tag, octets.freeze())
    }

    /// `receipted_message_id`: up to its NUL, or all of it from carriers that leave the NUL out.
    pub fn receipted_message_id(&self) -> Option<COctets> {
        let value = self.get(tag::RECEIPTED_MESSAGE_ID)?;
        let end = value.iter().position(|octet| *octet == 0).unwrap_or(value.len());
        let within = end > 0 && end < Field::MessageId.limit();
        within.then(|| COctets::new(value.slice(..end)))
    }

    /// `message_state`, as the octet (SMPP 3.4 §5.2.28).
    pub fn message_state(&self) -> Option<u8> {
        self.u8(tag::MESSAGE_STATE)
    }

    /// `message_payload`.
    pub fn message_payload(&self) -> Option<&Bytes> {
        self.get(tag::MESSAGE_PAYLOAD)
    }

    /// `user_message_reference`.
    pub fn user_message_reference(&self) -> Option<u16> {
        self.u16(tag::USER_MESSAGE_REFERENCE)
    }

    /// `congestion_state` in percent: how near its limit the peer is (5.0, in any response).
    pub fn congestion_state(&self) -> Option<u8> {
        self.u8(tag::CONGESTION_STATE)
    }

    /// `network_error_code`.
    pub fn network_error_code(&self) -> Option<NetworkErrorCode> {
        let [network, high, low] = self.array(tag::NETWORK_ERROR_CODE)?;
        Some(NetworkErrorCode { network, code: u16::from_be_bytes([high, low]) })
    }

    /// The three `sar_*` parameters, when all are there.
    pub fn segment(&self) -> Option<Segment> {
        Some(Segment {
            reference: self.u16(tag::SAR_MSG_REF_NUM)?,
            total: self.u8(tag::SAR_TOTAL_SEGMENTS)?,
            number: self.u8(tag::SAR_SEGMENT_SEQNUM)?,
        })
    }

    fn array<const N: usize>(&self, tag: u16) -> Option<[u8; N]> {
        self.get(tag)?.as_ref().try_into().ok()
    }

    fn u8(&self, tag: u16) -> Option<u8> {
        self.array(tag).map(|[value]| value)
    }

    fn u16(&self, tag: u16) -> Option<u16> {
        self.array(tag).map(u16::from_be_bytes)
    }

    /// Reads parameters to the end of the body.
    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let mut tlvs = Self::new();
        let mut rest = reader.rest();
        while !rest.is_empty() {
            let Some((tag, length)) = head(&rest) else {
                return tlvs.set_aside(rest, reader);
            };
            let mut value = rest.slice(4..);
            if length > value.len() {
                // A string that counts a NUL which is not there: the very last octet of the PDU.
                let unterminated = matches!(tag::format(tag), Some(Format::Text { .. }))
                    && length == value.len().saturating_add(1)
                    && reader.tolerance().missing_nul;
                if !unterminated {
                    return tlvs.set_aside(rest, reader);
                }
                rest = Bytes::new();
            } else {
                rest = value.split_off(length);
            }
            tlvs.push(tag, value);
        }
        Ok(tlvs)
    }

    /// Keeps what is left as stray octets, unless that is not forgiven or the message is among them.
    fn set_aside(mut self, rest: Bytes, reader: &Reader) -> Result<Self, DecodeError> {
        let message = rest.first_chunk() == Some(&tag::MESSAGE_PAYLOAD.to_be_bytes());
        if message || !reader.tolerance().stray_octets {
            return Err(DecodeError::OptionalParameters);
        }
        self.stray = rest;
        Ok(self)
    }

    /// Appends the parameters to a PDU.
    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        for tlv in &self.list {
            let octets = tlv.value.len();
            let length = u16::try_from(octets).map_err(|_| EncodeError::TooLong {
                field: Field::TlvValue,
                octets,
                limit: Field::TlvValue.limit(),
            })?;
            out.put_u16(tlv.tag);
            out.put_u16(length);
            out.put_slice(&tlv.value);
        }
        Ok(())
    }
}

impl FromIterator<Tlv> for Tlvs {
    fn from_iter<I: IntoIterator<Item = Tlv>>(tlvs: I) -> Self {
        Self { list: tlvs.into_iter().collect(), stray: Bytes::new() }
    }
}

/// Tag and length at the start of a parameter.
fn head(octets: &Bytes) -> Option<(u16, usize)> {
    let mut head = octets.get(..4)?;
    Some((head.get_u16(), usize::from(head.get_u16())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::octets::Tolerance;

    fn decode(octets: &[u8], tolerance: Tolerance) -> Result<Tlvs, DecodeError> {
        Tlvs::decode(&mut Reader::new(Bytes::copy_from_slice(octets), tolerance))
    }

    #[test]
    fn reads_what_it_wrote() {
        let tlvs = Tlvs::new()
            .with_c_octets(tag::RECEIPTED_MESSAGE_ID, "a1b2")
            .with_u8(tag::MESSAGE_STATE, 2)
            .with_u16(tag::SAR_MSG_REF_NUM, 0x1234)
            .with_u8(tag::SAR_TOTAL_SEGMENTS, 3)
            .with_u8(tag::SAR_SEGMENT_SEQNUM, 1)
            .with(tag::NETWORK_ERROR_CODE, Bytes::from_static(&[3, 0, 13]));
        assert_eq!(tlvs.receipted_message_id(), Some(COctets::from_static("a1b2")));
        assert_eq!(tlvs.message_state(), Some(2));
        assert_eq!(tlvs.segment(), Some(Segment { reference: 0x1234, total: 3, number: 1 }));
        assert_eq!(tlvs.network_error_code(), Some(NetworkErrorCode { network: 3, code: 13 }));
        let mut wire = BytesMut::new();
        tlvs.encode(&mut wire).unwrap();
        assert_eq!(decode(&wire, Tolerance::STRICT), Ok(tlvs));
    }

    #[test]
    fn a_known_parameter_of_wrong_length_reads_as_absent() {
        let tlvs = Tlvs::new().with_u16(tag::MESSAGE_STATE, 2);
        assert_eq!(tlvs.message_state(), None);
        assert_eq!(tlvs.get(tag::MESSAGE_STATE).map(Bytes::len), Some(2));
    }

    #[test]
    fn a_length_past_the_end_is_an_error() {
        let error = Err(DecodeError::OptionalParameters);
        assert_eq!(decode(&[0x04, 0x27, 0xFF, 0xFF, 1, 2], Tolerance::STRICT), error);
        assert_eq!(decode(&[0], Tolerance::STRICT), error);
    }

    #[test]
    fn a_carriers_odd_end_is_set_aside_but_never_a_message() {
        let tlvs = decode(&[0x04, 0x27, 0, 1, 2, 0x04, 0x23, 0, 3, 1], Tolerance::CARRIER).unwrap();
        assert_eq!((tlvs.message_state(), tlvs.stray().len()), (Some(2), 5));
        assert_eq!(decode(&[0], Tolerance::CARRIER).unwrap().stray().len(), 1);
        let error = Err(DecodeError::OptionalParameters);
        assert_eq!(decode(&[0x04, 0x24, 0, 3, 1, 2], Tolerance::CARRIER), error);
    }

    #[test]
    fn a_counted_nul_that_is_not_there_is_forgiven_at_the_very_end() {
        let octets = [0x00, 0x1E, 0, 3, b'a', b'1'];
        let tlvs = decode(&octets, Tolerance::CARRIER).unwrap();
        assert_eq!(tlvs.receipted_message_id(), Some(COctets::from_static("a1")));
        let cut = decode(&octets[..5], Tolerance::CARRIER).unwrap();
        assert_eq!((cut.receipted_message_id(), cut.stray().len()), (None, 5), "a cut id is no id");
        assert_eq!(decode(&octets, Tolerance::STRICT), Err(DecodeError::OptionalParameters));
    }
}
