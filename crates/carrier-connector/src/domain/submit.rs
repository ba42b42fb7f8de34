//! From opened content to the messages of `submit_sm` (SMPP 3.4 §4.4.1, 3GPP TS 23.040 §9.2.3.24.1).

use std::fmt;

use bytes::Bytes;
use prost::Message as _;
use sotto_core::{
    Facts, MessageId, Timestamp, WorkItem,
    carriers::{Account, Concatenation, DefaultAlphabet},
    control::{SENDER_LABEL, SenderMark},
    sender::SenderId,
    text::{self, Encoding, Part},
};
use sotto_crypto::{Zeroizing, hash::labelled_id};
use sotto_proto::pipeline::v1::SealedContent;
use sotto_smpp::{Address, COctets, Sm, Tlvs, pdu::esm_class, tlv::tag};

use super::{doubt, receipt::Span};

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
    /// The text has a character that the account's default alphabet lacks: another account may take it.
    #[error("the text has a character that the account's default alphabet lacks")]
    Alphabet,
    /// Joined in the account's way, the text needs more parts than were accepted: another account may take it.
    #[error("the text needs more parts in the account's way than were accepted")]
    Parts,
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

    /// Of these words.
    pub(crate) fn new(to: &str, from: &str, text: &str) -> Self {
        let own = |part: &str| Zeroizing::new(part.to_owned());
        Self { to: own(to), from: own(from), text: own(text) }
    }

    /// Stands for the sender in the operators' words; none if it is no sender.
    pub(crate) fn sender(&self) -> Option<SenderMark> {
        SenderId::parse(&self.from).ok().map(|sender| mark(&sender))
    }

    /// The messages of the parts that the item is for, in order: one a part, or one for all of them.
    pub(crate) fn messages(
        &self,
        item: &WorkItem,
        account: &Account,
    ) -> Result<Vec<(Span, Box<Sm>)>, ContentError> {
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
        let parts = match account.concatenation {
            Concatenation::Udh16 => text::segment_wide(&self.text).map_err(|_| ContentError::Text)?.parts,
            Concatenation::Udh | Concatenation::Sar | Concatenation::Payload => segmented.parts,
        };
        if parts.len() != usize::from(facts.parts) {
            return Err(ContentError::Parts);
        }
        let address = |(ton, npi), value: &[u8]| Address { ton, npi, value: clear(value) };
        // Flash, binary, silent and replacing messages have no way in: what decides them is never anything but zero.
        let message = |span: Span, carried: Carried| {
            let Carried { udhi, short_message, mut tlvs } = carried;
            if account.user_message_reference {
                tlvs = tlvs.with_u16(tag::USER_MESSAGE_REFERENCE, doubt::reference(&facts.message, span));
            }
            Box::new(Sm {
                service_type: COctets::from(account.service_type.as_str()),
                source: address(account.addressing.of(sender.kind()), sender.address().as_bytes()),
                destination: address(account.addressing.destination, self.to.as_bytes()),
                esm_class: if udhi { esm_class::UDHI } else { 0 },
                validity_period: COctets::from(absolute_time(facts.expires_at)),
                registered_delivery: FINAL_RECEIPT,
                data_coding: facts.encoding.data_coding(),
                short_message,
                tlvs,
                ..Sm::default()
            })
        };
        let wanted = item.wanted_parts();
        let whole = wanted.len() == parts.len() && parts.len() > 1;
        if account.concatenation == Concatenation::Payload && whole {
            let all = Span::all(facts.parts);
            let carried = carry_whole(account.default_alphabet, facts, &parts)?;
            return Ok(vec![(all, message(all, carried))]);
        }
        let all = (1_u8..).zip(&parts);
        all.filter(|(number, _)| wanted.contains(number))
            .map(|(number, part)| {
                let octets = octets(facts.encoding, account.default_alphabet, part)?;
                let span = Span::one(number);
                Ok((span, message(span, carry(account.concatenation, facts, number, &octets))))
            })
            .collect()
    }
}

/// What stands for a sender in the operators' words.
pub(crate) fn mark(sender: &SenderId) -> SenderMark {
    SenderMark(labelled_id(SENDER_LABEL, sender.address().as_bytes()))
}

/// Octets in clear that are wiped when the last holder drops them.
fn wiped(octets: Vec<u8>) -> Bytes {
    Bytes::from_owner(Zeroizing::new(octets))
}

fn clear(text: &[u8]) -> COctets {
    COctets::new(wiped(text.to_vec()))
}

/// A part's octets in what the account takes `data_coding` 0 for.
fn octets(
    encoding: Encoding,
    alphabet: DefaultAlphabet,
    part: &Part,
) -> Result<Zeroizing<Vec<u8>>, ContentError> {
    let last = match (encoding, alphabet) {
        (Encoding::Ucs2, _) | (Encoding::Gsm7, DefaultAlphabet::Gsm7) => {
            return Ok(Zeroizing::new(part.payload().to_vec()));
        }
        (Encoding::Gsm7, DefaultAlphabet::Latin1) => 0xFF,
        (Encoding::Gsm7, DefaultAlphabet::Ascii) => 0x7F,
    };
    let text = Zeroizing::new(text::decode(encoding, part.payload()));
    let octet = |character| u8::try_from(u32::from(character)).ok().filter(|octet| *octet <= last);
    text.chars().map(octet).collect::<Option<Vec<u8>>>().map(Zeroizing::new).ok_or(ContentError::Alphabet)
}

/// Where a message's octets are, and what tells a handset that parts belong together.
struct Carried {
    /// Whether they begin with a user data header.
    udhi: bool,
    short_message: Bytes,
    tlvs: Tlvs,
}

fn carry(concatenation: Concatenation, facts: &Facts, number: u8, octets: &[u8]) -> Carried {
    let reference = reference(&facts.message);
    let headed = |header: &[u8]| Carried {
        udhi: !header.is_empty(),
        short_message: after(header, octets),
        tlvs: Tlvs::default(),
    };
    match concatenation {
        _ if facts.parts == 1 => headed(&[]),
        // Of a whole message whose parts do not go together any more, as after a change of the carriers file.
        Concatenation::Udh | Concatenation::Payload => {
            headed(&text::concatenation_udh(reference, facts.parts, number))
        }
        Concatenation::Udh16 => {
            headed(&text::wide_concatenation_udh(doubt::wide_reference(&facts.message), facts.parts, number))
        }
        Concatenation::Sar => Carried {
            tlvs: Tlvs::new()
                .with_u16(tag::SAR_MSG_REF_NUM, reference.into())
                .with_u8(tag::SAR_TOTAL_SEGMENTS, facts.parts)
                .with_u8(tag::SAR_SEGMENT_SEQNUM, number),
            ..headed(&[])
        },
    }
}

/// All of a long message at once: the text is in `message_payload`, and `sm_length` is zero.
fn carry_whole(alphabet: DefaultAlphabet, facts: &Facts, parts: &[Part]) -> Result<Carried, ContentError> {
    // With so much room it never moves, so no copy of it is left behind.
    let mut whole = Vec::with_capacity(parts.iter().map(|part| part.payload().len()).sum());
    for part in parts {
        whole.extend_from_slice(&octets(facts.encoding, alphabet, part)?);
    }
    let tlvs = Tlvs::new().with(tag::MESSAGE_PAYLOAD, wiped(whole));
    Ok(Carried { udhi: false, short_message: Bytes::new(), tlvs })
}

fn after(header: &[u8], text: &[u8]) -> Bytes {
    let mut octets = Vec::with_capacity(header.len() + text.len());
    octets.extend_from_slice(header);
    octets.extend_from_slice(text);
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
    use sotto_core::{MessageClass, work::Envelope};

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
            send_at: None,
        };
        WorkItem::accepted(facts, Envelope(Bytes::new()))
    }

    fn content(from: &str, text: &str) -> Content {
        let sealed =
            SealedContent { to: "84981234567".to_owned(), from: from.to_owned(), text: text.to_owned() };
        Content::read(&Zeroizing::new(sealed.encode_to_vec())).unwrap()
    }

    fn account() -> Account {
        crate::testing::settings("a", 1)
    }

    #[test]
    fn a_carrier_may_take_data_coding_zero_for_another_alphabet() {
        let text = "H\u{e9} {1} @";
        let latin1 = Account { default_alphabet: DefaultAlphabet::Latin1, ..account() };
        let [(Span { first: 1, last: 1 }, sm)] =
            &content("156", text).messages(&item(text), &latin1).unwrap()[..]
        else {
            panic!("one part")
        };
        assert_eq!((sm.data_coding, sm.short_message.as_ref()), (0, &b"H\xE9 {1} @"[..]));
        // What it lacks goes to nobody as something else.
        let ascii = Account { default_alphabet: DefaultAlphabet::Ascii, ..account() };
        for (text, account) in [(text, &ascii), ("5 \u{20ac}", &latin1), ("\u{394}", &latin1)] {
            let refused = content("156", text).messages(&item(text), account);
            assert_eq!(refused, Err(ContentError::Alphabet), "{text}");
        }
        // UCS-2 is UCS-2 everywhere.
        let text = "M\u{1ead}t kh\u{1ea9}u";
        assert!(content("156", text).messages(&item(text), &ascii).is_ok());
    }

    #[test]
    fn parts_may_be_joined_by_parameters_and_addresses_named_otherwise() {
        let text = "a".repeat(307);
        let service_type = "CSKH".to_owned();
        let mut account = Account { concatenation: Concatenation::Sar, service_type, ..account() };
        account.addressing.short_code = (0, 1);
        account.addressing.destination = (0, 0);
        let messages = content("156", &text).messages(&item(&text), &account).unwrap();
        for (Span { first: number, .. }, sm) in &messages {
            let reference = u16::from(reference(&item(&text).facts.message));
            let tlvs = Tlvs::new()
                .with_u16(tag::SAR_MSG_REF_NUM, reference)
                .with_u8(tag::SAR_TOTAL_SEGMENTS, 3)
                .with_u8(tag::SAR_SEGMENT_SEQNUM, *number);
            assert_eq!((sm.esm_class, &sm.tlvs), (0, &tlvs));
            assert_eq!(sm.service_type.as_str(), Some("CSKH"));
            assert_eq!((sm.source.ton, sm.source.npi, sm.destination.ton, sm.destination.npi), (0, 1, 0, 0));
        }
        let lengths: Vec<_> = messages.iter().map(|(_, sm)| sm.short_message.len()).collect();
        assert_eq!(lengths, [153, 153, 1]);
    }

    #[test]
    fn one_part_in_the_default_alphabet() {
        let text = "Ma xac thuc {1}: 482913 @";
        let messages = content("VIETBANK", text).messages(&item(text), &account()).unwrap();
        let [(Span { first: 1, last: 1 }, sm)] = messages.as_slice() else { panic!("one part") };
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
        let messages = content("156", &text).messages(&item, &account()).unwrap();
        assert_eq!(messages.len(), 3);
        for (Span { first: number, .. }, sm) in &messages {
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
        let again = content("156", &text).messages(&item, &account()).unwrap();
        assert_eq!(again, [messages.get(1).unwrap().clone()]);
    }

    #[test]
    fn a_wide_reference_joins_parts_that_hold_less() {
        let account = Account { concatenation: Concatenation::Udh16, ..account() };
        for (text, limit, octets) in [("a".repeat(300), 152, 1), ("\u{1ead}".repeat(130), 66, 2)] {
            let item = item(&text);
            let messages = content("156", &text).messages(&item, &account).unwrap();
            let [high, low] = doubt::wide_reference(&item.facts.message).to_be_bytes();
            for (number, (span, sm)) in (1..).zip(&messages) {
                assert_eq!((*span, sm.esm_class), (Span::one(number), 0x40));
                assert_eq!(sm.short_message.get(..7).unwrap(), [6, 8, 4, high, low, 2, number]);
            }
            let [(_, first), (_, second)] = &messages[..] else { panic!("two parts") };
            assert_eq!(first.short_message.len() - 7, limit * octets);
            let length = text.chars().count() - limit;
            assert_eq!(second.short_message.len() - 7, length * octets);
        }
        // Two parts as they are counted, three as this account would have to cut them.
        for text in ["a".repeat(305), "\u{1ead}".repeat(133)] {
            let refused = content("156", &text).messages(&item(&text), &account);
            assert_eq!(refused, Err(ContentError::Parts));
        }
        // What fits one part needs no reference.
        let text = "a".repeat(160);
        let [(_, sm)] = &content("156", &text).messages(&item(&text), &account).unwrap()[..] else {
            panic!("one part")
        };
        assert_eq!((sm.esm_class, sm.short_message.len()), (0, 160));
    }

    #[test]
    fn a_long_message_may_go_whole() {
        let account = Account {
            concatenation: Concatenation::Payload,
            default_alphabet: DefaultAlphabet::Latin1,
            ..account()
        };
        let text = format!("{}{{\u{e9}", "a".repeat(305));
        let mut item = item(&text);
        let [(span, sm)] = &content("156", &text).messages(&item, &account).unwrap()[..] else {
            panic!("one submit")
        };
        assert_eq!(*span, Span { first: 1, last: 3 });
        assert_eq!((sm.esm_class, sm.short_message.len(), sm.tlvs.iter().count()), (0, 0, 1));
        let latin1: Vec<u8> =
            text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect();
        assert_eq!(sm.tlvs.message_payload().unwrap().as_ref(), latin1);
        // The carrier has some of its parts, sent another way: the others must join them.
        item.parts = vec![2, 3];
        let [(second, sm), (third, _)] = &content("156", &text).messages(&item, &account).unwrap()[..] else {
            panic!("two submits")
        };
        assert_eq!((*second, *third, sm.esm_class), (Span::one(2), Span::one(3), 0x40));
        // And a short one goes as always.
        let short = "a".repeat(160);
        let messages = content("156", &short).messages(&super::tests::item(&short), &account).unwrap();
        assert_eq!(messages.first().unwrap().1.short_message.len(), 160);
    }

    #[test]
    fn a_reference_of_ours_goes_with_each_submit_where_it_is_wanted() {
        let text = "a".repeat(307);
        for (concatenation, submits) in [
            (Concatenation::Udh, 3),
            (Concatenation::Udh16, 3),
            (Concatenation::Sar, 3),
            (Concatenation::Payload, 1),
        ] {
            let account = Account { concatenation, user_message_reference: true, ..account() };
            let messages = content("156", &text).messages(&item(&text), &account).unwrap();
            let read = |(span, sm): &(Span, Box<Sm>)| {
                let reference = doubt::reference(&item(&text).facts.message, *span);
                sm.tlvs.user_message_reference() == Some(reference)
            };
            assert!(messages.len() == submits && messages.iter().all(read));
        }
        let none = |(_, sm): &(Span, Box<Sm>)| sm.tlvs.user_message_reference().is_none();
        assert!(content("156", &text).messages(&item(&text), &account()).unwrap().iter().all(none));
    }

    #[test]
    fn vietnamese_is_ucs2() {
        let text = "Mã xác thực của bạn: 482913";
        let messages = content("VIETBANK", text).messages(&item(text), &account()).unwrap();
        let [(Span { first: 1, last: 1 }, sm)] = messages.as_slice() else { panic!("one part") };
        assert_eq!(sm.data_coding, 0x08);
        assert_eq!(text::decode(Encoding::Ucs2, &sm.short_message), text);
    }

    #[test]
    fn what_does_not_fit_its_facts_is_refused() {
        let good = "short";
        let two = item(&"a".repeat(161));
        assert_eq!(content("156", good).messages(&two, &account()), Err(ContentError::Facts));
        assert_eq!(content("", good).messages(&item(good), &account()), Err(ContentError::Sender));
        let mut bad = content("156", good);
        bad.to = Zeroizing::new("+84981".to_owned());
        assert_eq!(bad.messages(&item(good), &account()), Err(ContentError::Recipient));
        assert_eq!(Content::read(&Zeroizing::new(vec![0xFF])).unwrap_err(), ContentError::Schema);
        assert!(!format!("{bad:?}").contains("84981"));
    }

    proptest! {
        /// Flash is `data_coding` 0x10 to 0x13, a silent message `protocol_id` 0x40, binary `data_coding` 4.
        #[test]
        fn no_text_makes_a_flash_a_binary_or_a_silent_message(text in "\\PC{1,200}") {
            let Ok(count) = text::count(&text) else { return Ok(()) };
            for (_, sm) in content("156", &text).messages(&item(&text), &account()).unwrap() {
                prop_assert!(matches!(sm.data_coding, 0 | 8));
                prop_assert_eq!(sm.esm_class, if count.parts > 1 { 0x40 } else { 0 });
                prop_assert_eq!((sm.protocol_id, sm.priority_flag, sm.replace_if_present_flag), (0, 0, 0));
                prop_assert!(sm.service_type.is_empty() && sm.schedule_delivery_time.is_empty());
            }
        }

        #[test]
        fn absolute_time_has_sixteen_characters(seconds in 0_i64..4_000_000_000, millis in 0_i64..1000) {
            let text = absolute_time(Timestamp::from_unix_millis(seconds * 1000 + millis));
            prop_assert_eq!(text.len(), 16);
            prop_assert!(text.ends_with("00+"));
            prop_assert_eq!(text.get(12..13).unwrap(), (millis / 100).to_string());
        }
    }
}
