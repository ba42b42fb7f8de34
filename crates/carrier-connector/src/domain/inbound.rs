//! From `deliver_sm` to what is sealed of a message from a handset (SMPP 3.4 §4.6.1, §5.2.19).

use std::fmt;

use prost::Message as _;
use sotto_core::{
    carriers::DefaultAlphabet,
    inbound::OptOut,
    text::{self, Encoding},
};
use sotto_crypto::Zeroizing;
use sotto_proto::pipeline::v1::InboundContent;
use sotto_smpp::{Sm, tlv::Segment};

/// The version of the plaintext's schema.
pub(crate) const SCHEMA: u16 = 1;

/// The most octets of one message: as many as 255 parts hold (3GPP TS 23.040 §9.2.3.24.1), and no phone writes more.
pub(crate) const MAX_OCTETS: usize = 255 * 140;

/// It has more octets than [`MAX_OCTETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message has more than {MAX_OCTETS} octets")]
pub(crate) struct TooLong;

/// A message from a handset in clear. Wiped when dropped, never printed.
pub(crate) struct Written {
    /// Our number that it was sent to, in digits; empty where there are none.
    pub(crate) to: Zeroizing<String>,
    /// Whether it asks to be left alone.
    pub(crate) opt_out: Option<OptOut>,
    /// `InboundContent`, encoded.
    pub(crate) content: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").field("opt_out", &self.opt_out).finish_non_exhaustive()
    }
}

impl Written {
    /// Reads one. `alphabet`: what `data_coding` 0 stands for.
    pub(crate) fn read(sm: &Sm, alphabet: DefaultAlphabet) -> Result<Self, TooLong> {
        if sm.message().len() > MAX_OCTETS {
            return Err(TooLong);
        }
        let (header, octets) = sm.split_header();
        let text = decode(sm.data_coding, alphabet, &octets).map(Zeroizing::new);
        let opt_out = text.as_deref().and_then(|text| OptOut::recognise(text));
        let text_of = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let to = text_of(sm.destination.value.as_bytes());
        let digits = Zeroizing::new(to.chars().filter(char::is_ascii_digit).collect());
        let segment = sm.tlvs.segment();
        let of_segment = |field: fn(Segment) -> u32| segment.map(field).unwrap_or_default();
        let content = Wiped(InboundContent {
            from: text_of(sm.source.value.as_bytes()),
            to,
            octets: if text.is_some() { bytes::Bytes::new() } else { octets },
            text: text.as_deref().cloned().unwrap_or_default(),
            data_coding: sm.data_coding.into(),
            header,
            reference: of_segment(|segment| segment.reference.into()),
            parts: of_segment(|segment| segment.total.into()),
            part: of_segment(|segment| segment.number.into()),
        });
        Ok(Self { to: digits, opt_out, content: Zeroizing::new(content.0.encode_to_vec()) })
    }
}

/// Its strings are wiped; the octets are the session's buffer, as those of every message.
struct Wiped(InboundContent);

impl Drop for Wiped {
    fn drop(&mut self) {
        let InboundContent { from, to, text, .. } = std::mem::take(&mut self.0);
        drop((Zeroizing::new(from), Zeroizing::new(to), Zeroizing::new(text)));
    }
}

/// The text, where it is one.
fn decode(data_coding: u8, alphabet: DefaultAlphabet, octets: &[u8]) -> Option<String> {
    let latin_1 = || octets.iter().copied().map(char::from).collect();
    match (data_coding, alphabet) {
        (0, DefaultAlphabet::Gsm7) => Some(text::decode(Encoding::Gsm7, octets)),
        (0, DefaultAlphabet::Latin1 | DefaultAlphabet::Ascii) | (1 | 3, _) => Some(latin_1()),
        (8, _) => Some(text::decode(Encoding::Ucs2, octets)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use sotto_smpp::{Address, COctets, Tlvs, pdu::esm_class, tlv::tag};

    use super::*;

    fn sm(data_coding: u8, octets: &[u8]) -> Sm {
        let address = |value: &str| Address { ton: 1, npi: 1, value: COctets::from(value.to_owned()) };
        Sm {
            source: address("84912345678"),
            destination: address("+9029"),
            data_coding,
            short_message: Bytes::copy_from_slice(octets),
            ..Sm::default()
        }
    }

    fn content(written: &Written) -> InboundContent {
        InboundContent::decode(written.content.as_slice()).unwrap()
    }

    #[test]
    fn is_read_in_the_alphabet_it_is_written_in() {
        let ucs2: Vec<u8> = "Từ chối".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (data_coding, alphabet, octets, text, opt_out) in [
            (0, DefaultAlphabet::Gsm7, b"TC ACME".to_vec(), "TC ACME", Some(OptOut::TuChoi)),
            (0, DefaultAlphabet::Gsm7, vec![0, 0x1B, 0x65], "@€", None),
            (
                0,
                DefaultAlphabet::Latin1,
                vec![b'S', b'T', b'O', b'P', 0xA0],
                "STOP\u{a0}",
                Some(OptOut::Stop),
            ),
            (1, DefaultAlphabet::Gsm7, b"end".to_vec(), "end", Some(OptOut::End)),
            (3, DefaultAlphabet::Gsm7, vec![0xE9], "é", None),
            (8, DefaultAlphabet::Gsm7, ucs2, "Từ chối", Some(OptOut::TuChoi)),
        ] {
            let written = Written::read(&sm(data_coding, &octets), alphabet).unwrap();
            assert_eq!((written.opt_out, written.to.as_str()), (opt_out, "9029"));
            let content = content(&written);
            assert_eq!((content.text.as_str(), content.from.as_str()), (text, "84912345678"));
            assert!(content.octets.is_empty());
        }
    }

    #[test]
    fn what_is_no_text_is_kept_as_it_is() {
        let written = Written::read(&sm(4, &[1, 2, 3]), DefaultAlphabet::Gsm7).unwrap();
        let content = content(&written);
        assert_eq!((content.octets.as_ref(), content.text.as_str()), (&[1, 2, 3][..], ""));
        assert_eq!((content.data_coding, written.opt_out), (4, None));
    }

    #[test]
    fn a_part_says_which_it_is() {
        let mut by_header = sm(0, b"\x05\x00\x03\x07\x02\x01hello");
        by_header.esm_class = esm_class::UDHI;
        let read = content(&Written::read(&by_header, DefaultAlphabet::Gsm7).unwrap());
        assert_eq!((read.header.as_ref(), read.text.as_str()), (&b"\x05\x00\x03\x07\x02\x01"[..], "hello"));
        let mut by_parameters = sm(0, b"hello");
        by_parameters.tlvs = Tlvs::new()
            .with_u16(tag::SAR_MSG_REF_NUM, 700)
            .with_u8(tag::SAR_TOTAL_SEGMENTS, 3)
            .with_u8(tag::SAR_SEGMENT_SEQNUM, 2);
        let read = content(&Written::read(&by_parameters, DefaultAlphabet::Gsm7).unwrap());
        assert_eq!((read.reference, read.parts, read.part), (700, 3, 2));
    }

    #[test]
    fn what_no_phone_writes_is_too_long() {
        let payload = |length| {
            let mut sm = sm(0, b"");
            sm.tlvs = Tlvs::new().with(tag::MESSAGE_PAYLOAD, Bytes::from(vec![b'x'; length]));
            Written::read(&sm, DefaultAlphabet::Gsm7).map(|_| ())
        };
        assert_eq!((payload(MAX_OCTETS), payload(MAX_OCTETS + 1)), (Ok(()), Err(TooLong)));
    }

    #[test]
    fn prints_nothing() {
        let written = Written::read(&sm(0, b"hello"), DefaultAlphabet::Gsm7).unwrap();
        assert_eq!(format!("{written:?}"), "Written { opt_out: None, .. }");
    }

    proptest! {
        #[test]
        fn anything_is_read(
            data_coding: u8,
            udhi: bool,
            octets in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut sm = sm(data_coding, &octets);
            sm.esm_class = if udhi { esm_class::UDHI } else { 0 };
            let read = content(&Written::read(&sm, DefaultAlphabet::Gsm7).unwrap());
            prop_assert_eq!(read.data_coding, u32::from(data_coding));
        }
    }
}
