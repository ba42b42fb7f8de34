//! From opened content to the messages of `submit_sm` (SMPP 3.4 §4.4.1, 3GPP TS 23.040 §9.2.3.24.1).

use std::fmt;

use bytes::Bytes;
use prost::Message as _;
use sotto_core::{
    MessageId, Timestamp, WorkItem,
    sender::SenderId,
    text::{self, Part},
};
use sotto_crypto::Zeroizing;
use sotto_proto::pipeline::v1::SealedContent;
use sotto_smpp::{Address, COctets, Sm, pdu::esm_class};

/// Type of number: international (SMPP 3.4 §5.2.5).
const TON_INTERNATIONAL: u8 = 1;
/// Numbering plan: ISDN, E.164 (§5.2.6).
const NPI_ISDN: u8 = 1;
/// A receipt on success and on failure (§5.2.17).
const FINAL_RECEIPT: u8 = 1;

/// The version of the plaintext's schema that this code reads.
pub(crate) const SCHEMA: u16 = 1;

/// Why opened content cannot be submitted. Says nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ContentError {
    /// It is not what ingress seals.
    #[error("the content is not of the known schema")]
    Schema,
    /// The recipient is not a number.
    #[error("the recipient is not a number")]
    Recipient,
    /// The sender is none.
    #[error("the sender is not valid")]
    Sender,
    /// The text cannot be written.
    #[error("the text cannot be written")]
    Text,
    /// The text does not have the parts that were accepted and will be billed.
    #[error("the text has other parts than its facts say")]
    Facts,
}

/// A message in clear. Wiped when dropped, never printed.
pub(crate) struct Content {
    to: Zeroizing<String>,
    from: Zeroizing<String>,
    text: Zeroizing<String>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content([REDACTED])")
    }
}

impl Content {
    /// Reads what was sealed.
    pub(crate) fn read(opened: &Zeroizing<Vec<u8>>) -> Result<Self, ContentError> {
        let SealedContent { to, from, text } =
            SealedContent::decode(opened.as_slice()).map_err(|_| ContentError::Schema)?;
        Ok(Self { to: Zeroizing::new(to), from: Zeroizing::new(from), text: Zeroizing::new(text) })
    }

    /// The messages of the parts that the item is for, in order.
    pub(crate) fn messages(&self, item: &WorkItem) -> Result<Vec<(u8, Box<Sm>)>, ContentError> {
        let number = (7..=15).contains(&self.to.len()) && self.to.bytes().all(|byte| byte.is_ascii_digit());
        if !number {
            return Err(ContentError::Recipient);
        }
        let sender = SenderId::parse(&self.from).map_err(|_| ContentError::Sender)?;
        let segmented = text::segment(&self.text).map_err(|_| ContentError::Text)?;
        let facts = &item.facts;
        if segmented.encoding != facts.encoding || segmented.parts.len() != usize::from(facts.parts) {
            return Err(ContentError::Facts);
        }
        let (ton, npi) = sender.kind().ton_npi();
        let message = |number: u8, part: &Part| Sm {
            source: Address { ton, npi, value: clear(sender.address().as_bytes()) },
            destination: Address { ton: TON_INTERNATIONAL, npi: NPI_ISDN, value: clear(self.to.as_bytes()) },
            esm_class: if facts.parts > 1 { esm_class::UDHI } else { 0 },
            validity_period: COctets::from(absolute_time(facts.expires_at)),
            registered_delivery: FINAL_RECEIPT,
            data_coding: facts.encoding.data_coding(),
            short_message: short_message(&facts.message, facts.parts, number, part),
            ..Sm::default()
        };
        let all = (1_u8..).zip(&segmented.parts);
        let wanted = item.wanted_parts();
        Ok(all
            .filter(|(number, _)| wanted.contains(number))
            .map(|(number, part)| (number, Box::new(message(number, part))))
            .collect())
    }
}

/// Octets in clear that are wiped when the last holder drops them.
fn wiped(octets: Vec<u8>) -> Bytes {
    Bytes::from_owner(Zeroizing::new(octets))
}

fn clear(text: &[u8]) -> COctets {
    COctets::new(wiped(text.to_vec()))
}

fn short_message(message: &MessageId, parts: u8, number: u8, part: &Part) -> Bytes {
    let payload = part.payload();
    if parts == 1 {
        return wiped(payload.to_vec());
    }
    let header = text::concatenation_udh(reference(message), parts, number);
    let mut octets = Vec::with_capacity(header.len() + payload.len());
    octets.extend_from_slice(&header);
    octets.extend_from_slice(payload);
    wiped(octets)
}

/// The concatenation reference of a message: the same at every attempt, so that a part sent again joins the others.
fn reference(message: &MessageId) -> u8 {
    message.as_bytes().iter().fold(0, |sum, byte| sum ^ byte)
}

/// Absolute time `YYMMDDhhmmsstnnp` (SMPP 3.4 §7.1.1.1) in UTC.
fn absolute_time(at: Timestamp) -> String {
    // From 2026-11-24T04:16:55.123Z: the digits from the year's third to the tenth of a second.
    let digits: String = at.to_string().chars().filter(char::is_ascii_digit).skip(2).take(13).collect();
    format!("{digits}00+")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sotto_core::{Facts, MessageClass, text::Encoding, work::Envelope};

    use super::*;

    fn item(text: &str) -> WorkItem {
        let count = text::count(text).unwrap();
        let facts = Facts {
            message: MessageId::from_keyed_hash([0x11; 16]),
            tenant: "acme".parse().unwrap(),
            class: MessageClass::Otp,
            country: "VN".parse().unwrap(),
            operator_range: "8498".parse().unwrap(),
            encoding: count.encoding,
            parts: count.parts,
            units: count.units,
            accepted_at: Timestamp::from_unix_millis(1_795_493_815_007),
            expires_at: Timestamp::from_unix_millis(1_795_494_115_907),
            content_mac: None,
        };
        WorkItem::accepted(facts, Envelope(Bytes::new()))
    }

    fn content(from: &str, text: &str) -> Content {
        let sealed =
            SealedContent { to: "84981234567".to_owned(), from: from.to_owned(), text: text.to_owned() };
        Content::read(&Zeroizing::new(sealed.encode_to_vec())).unwrap()
    }

    #[test]
    fn one_part_in_the_default_alphabet() {
        let text = "Ma xac thuc {1}: 482913 @";
        let messages = content("VIETBANK", text).messages(&item(text)).unwrap();
        let [(1, sm)] = messages.as_slice() else { panic!("one part") };
        assert_eq!((sm.source.ton, sm.source.npi, sm.source.value.as_str()), (5, 0, Some("VIETBANK")));
        assert_eq!(
            (sm.destination.ton, sm.destination.npi, sm.destination.value.as_str()),
            (1, 1, Some("84981234567"))
        );
        assert_eq!((sm.esm_class, sm.data_coding, sm.registered_delivery), (0, 0, 1));
        // Unpacked septets: { and } are escape pairs, @ is zero (3GPP TS 23.038 §6.2.1).
        assert_eq!(sm.short_message.as_ref(), b"Ma xac thuc \x1b\x281\x1b\x29: 482913 \x00");
        assert_eq!(sm.validity_period.as_str(), Some("261124042155900+"));
        assert_eq!(sm.service_type.len(), 0);
    }

    #[test]
    fn three_parts_joined_by_a_header() {
        let text = "a".repeat(307);
        let mut item = item(&text);
        let messages = content("156", &text).messages(&item).unwrap();
        assert_eq!(messages.len(), 3);
        for (number, sm) in &messages {
            assert_eq!(sm.esm_class, 0x40);
            assert_eq!(
                sm.short_message.get(..6).unwrap(),
                [5, 0, 3, reference(&item.facts.message), 3, *number]
            );
        }
        let lengths: Vec<_> = messages.iter().map(|(_, sm)| sm.short_message.len() - 6).collect();
        assert_eq!(lengths, [153, 153, 1]);
        // A part sent again is the same, reference and all.
        item.parts = vec![2];
        let again = content("156", &text).messages(&item).unwrap();
        assert_eq!(again, [messages.get(1).unwrap().clone()]);
    }

    #[test]
    fn vietnamese_is_ucs2() {
        let text = "Mã xác thực của bạn: 482913";
        let messages = content("VIETBANK", text).messages(&item(text)).unwrap();
        let [(1, sm)] = messages.as_slice() else { panic!("one part") };
        assert_eq!(sm.data_coding, 0x08);
        assert_eq!(text::decode(Encoding::Ucs2, &sm.short_message), text);
    }

    #[test]
    fn what_does_not_fit_its_facts_is_refused() {
        let good = "short";
        let two = item(&"a".repeat(161));
        assert_eq!(content("156", good).messages(&two), Err(ContentError::Facts));
        assert_eq!(content("", good).messages(&item(good)), Err(ContentError::Sender));
        let mut bad = content("156", good);
        bad.to = Zeroizing::new("+84981".to_owned());
        assert_eq!(bad.messages(&item(good)), Err(ContentError::Recipient));
        assert_eq!(Content::read(&Zeroizing::new(vec![0xFF])).unwrap_err(), ContentError::Schema);
        assert!(!format!("{bad:?}").contains("84981"));
    }

    proptest! {
        #[test]
        fn absolute_time_has_sixteen_characters(seconds in 0_i64..4_000_000_000, millis in 0_i64..1000) {
            let text = absolute_time(Timestamp::from_unix_millis(seconds * 1000 + millis));
            prop_assert_eq!(text.len(), 16);
            prop_assert!(text.ends_with("00+"));
            prop_assert_eq!(text.get(12..13).unwrap(), (millis / 100).to_string());
        }
    }
}
