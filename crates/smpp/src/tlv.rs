//! Optional parameters (SMPP 3.4 §5.3): a raw list, with typed access to those in use.

use crate::octets::{COctets, DecodeError, EncodeError, Field};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::fmt;

/// Tags of the parameters used here (SMPP 3.4 §5.3.2).
pub mod tag {
    /// `receipted_message_id`
    pub const RECEIPTED_MESSAGE_ID: u16 = 0x001E;
    /// `user_message_reference`
    pub const USER_MESSAGE_REFERENCE: u16 = 0x0204;
    /// `sar_msg_ref_num`
    pub const SAR_MSG_REF_NUM: u16 = 0x020C;
    /// `sar_total_segments`
    pub const SAR_TOTAL_SEGMENTS: u16 = 0x020E;
    /// `sar_segment_seqnum`
    pub const SAR_SEGMENT_SEQNUM: u16 = 0x020F;
    /// `sc_interface_version`
    pub const SC_INTERFACE_VERSION: u16 = 0x0210;
    /// `network_error_code`
    pub const NETWORK_ERROR_CODE: u16 = 0x0423;
    /// `message_payload`
    pub const MESSAGE_PAYLOAD: u16 = 0x0424;
    /// `message_state`
    pub const MESSAGE_STATE: u16 = 0x0427;
}

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
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tlvs(Vec<Tlv>);

/// `network_error_code` (SMPP 3.4 §5.3.2.31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkErrorCode {
    /// Kind of network: 1 ANSI-136, 2 IS-95, 3 GSM.
    pub network: u8,
    /// The network's own code.
    pub code: u16,
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
        Self(Vec::new())
    }

    /// The parameters in order.
    pub fn iter(&self) -> impl Iterator<Item = &Tlv> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first value of a tag.
    pub fn get(&self, tag: u16) -> Option<&Bytes> {
        self.0.iter().find(|tlv| tlv.tag == tag).map(|tlv| &tlv.value)
    }

    /// Appends a parameter.
    pub fn push(&mut self, tag: u16, value: Bytes) {
        self.0.push(Tlv { tag, value });
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
    pub(crate) fn decode(body: &mut Bytes) -> Result<Self, DecodeError> {
        let mut tlvs = Vec::new();
        while body.has_remaining() {
            let tag = body.try_get_u16().map_err(|_| DecodeError::OptionalParameters)?;
            let length = usize::from(body.try_get_u16().map_err(|_| DecodeError::OptionalParameters)?);
            if length > body.len() {
                return Err(DecodeError::OptionalParameters);
            }
            tlvs.push(Tlv { tag, value: body.split_to(length) });
        }
        Ok(Self(tlvs))
    }

    /// Appends the parameters to a PDU.
    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        for tlv in &self.0 {
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
        Self(tlvs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(Tlvs::decode(&mut wire.freeze()), Ok(tlvs));
    }

    #[test]
    fn a_known_parameter_of_wrong_length_reads_as_absent() {
        let tlvs = Tlvs::new().with_u16(tag::MESSAGE_STATE, 2);
        assert_eq!(tlvs.message_state(), None);
        assert_eq!(tlvs.get(tag::MESSAGE_STATE).map(Bytes::len), Some(2));
    }

    #[test]
    fn a_length_past_the_end_is_an_error() {
        let mut body = Bytes::from_static(&[0x04, 0x24, 0xFF, 0xFF, 1, 2]);
        assert_eq!(Tlvs::decode(&mut body), Err(DecodeError::OptionalParameters));
        assert_eq!(Tlvs::decode(&mut Bytes::from_static(&[0])), Err(DecodeError::OptionalParameters));
    }
}
