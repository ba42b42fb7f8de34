//! Against `rusmpp`, an independent codec: what we write it reads as we meant it, and writes back the same octets.

use crate::support::{
    alert, ascii, bind, bind_kind, broadcast, cancel, cancel_broadcast, data, multi, multi_resp, ok, query,
    query_broadcast, query_resp, replace, sm, wire,
};
use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, prelude::*};
use rusmpp::tokio_codec::CommandCodec;
use sotto_smpp::{
    BindResp, COctets, Framing, Pdu, Sm, SmResp, Tlv, Tlvs,
    tlv::{Format, NetworkErrorCode, Value, tag},
};
use tokio_util::codec::{Decoder, Encoder};

/// Optional parameters in the lengths that the specification gives them, as the oracle insists.
fn proper_tlvs() -> impl Strategy<Value = Tlvs> {
    (any::<u16>(), any::<u8>(), "[0-9a-f]{1,60}", prop::collection::vec(any::<u8>(), 1..500)).prop_map(
        |(number, octet, id, payload)| {
            Tlvs::new()
                .with_u16(tag::USER_MESSAGE_REFERENCE, number)
                .with_u16(tag::SAR_MSG_REF_NUM, number)
                .with_u8(tag::SAR_TOTAL_SEGMENTS, octet)
                .with_u8(tag::SAR_SEGMENT_SEQNUM, octet)
                .with_c_octets(tag::RECEIPTED_MESSAGE_ID, &id)
                .with(tag::MESSAGE_PAYLOAD, payload.into())
        },
    )
}

/// Our octets through the oracle and back.
fn through(octets: &BytesMut) -> (rusmpp::Pdu, BytesMut) {
    let mut codec = CommandCodec::new();
    let mut input = octets.clone();
    let command = codec.decode(&mut input).unwrap().unwrap();
    assert!(input.is_empty());
    let mut output = BytesMut::new();
    codec.encode(&command, &mut output).unwrap();
    (command.pdu().unwrap().clone(), output)
}

/// What a message becomes under the oracle, which knows fewer values of some flags.
fn plain(sm: Sm) -> Sm {
    Sm { esm_class: sm.esm_class & 0b1100_0000, registered_delivery: sm.registered_delivery & 1, ..sm }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn messages_agree(sequence in 1_u32..0x7FFF_FFFF, sm in sm(proper_tlvs())) {
        let sm = plain(sm);
        let octets = wire(&ok(sequence, Pdu::SubmitSm(Box::new(sm.clone()))));
        let (theirs, back) = through(&octets);
        prop_assert_eq!(&back, &octets);
        let rusmpp::Pdu::SubmitSm(theirs) = theirs else { return Err(TestCaseError::fail("other PDU")) };
        prop_assert_eq!(theirs.source_addr.as_str(), sm.source.value.as_str().unwrap());
        prop_assert_eq!(theirs.destination_addr.as_str(), sm.destination.value.as_str().unwrap());
        prop_assert_eq!(u8::from(theirs.data_coding), sm.data_coding);
        prop_assert_eq!(theirs.protocol_id, sm.protocol_id);
        prop_assert_eq!(theirs.sm_default_msg_id, sm.sm_default_msg_id);
        prop_assert_eq!(theirs.short_message().as_ref(), &sm.short_message[..]);
        prop_assert_eq!(theirs.tlvs().len(), 6);
        let octets = wire(&ok(sequence, Pdu::DeliverSm(Box::new(sm))));
        let (_, mut back) = through(&octets);
        prop_assert_eq!(&back, &octets);
        let ours = Framing::default().decode(&mut back).unwrap().unwrap();
        prop_assert!(ours.decode().is_ok());
    }

    #[test]
    fn binds_agree(sequence in 1_u32..0x7FFF_FFFF, bind in bind()) {
        let octets = wire(&ok(sequence, Pdu::Bind(bind.clone())));
        let (theirs, back) = through(&octets);
        prop_assert_eq!(back, octets);
        if let rusmpp::Pdu::BindTransceiver(theirs) = theirs {
            prop_assert_eq!(theirs.system_id.as_str(), bind.system_id.as_str().unwrap());
            prop_assert_eq!(theirs.password.as_str(), bind.password.as_str().unwrap());
            prop_assert_eq!(theirs.address_range.as_str(), bind.address_range.value.as_str().unwrap());
        }
    }

    #[test]
    fn answers_agree(sequence in 1_u32..0x7FFF_FFFF, message_id in ascii(64)) {
        let resp = SmResp { message_id: message_id.clone(), tlvs: Tlvs::new() };
        let octets = wire(&ok(sequence, Pdu::SubmitSmResp(resp)));
        let (theirs, back) = through(&octets);
        prop_assert_eq!(back, octets);
        let rusmpp::Pdu::SubmitSmResp(theirs) = theirs else { return Err(TestCaseError::fail("other PDU")) };
        prop_assert_eq!(theirs.message_id().as_str(), message_id.as_str().unwrap());
    }
}

/// Any value of the form that a tag has; some bits of two tags are unknown to the oracle.
fn value(tag: u16) -> BoxedStrategy<Value> {
    let octets = |least: usize, most: usize| vec(any::<u8>(), least..=most.min(600)).prop_map(Bytes::from);
    let mask = match tag {
        tag::MS_MSG_WAIT_FACILITIES => 0x83,
        tag::CALLBACK_NUM_PRES_IND => 0x0F,
        _ => 0xFF,
    };
    match tag::format(tag).unwrap() {
        Format::U8 | Format::OptionalU8 => any::<u8>().prop_map(move |octet| Value::U8(octet & mask)).boxed(),
        Format::U16 => any::<u16>().prop_map(Value::U16).boxed(),
        Format::U32 => any::<u32>().prop_map(Value::U32).boxed(),
        Format::Text { least, most } => vec(b'a'..=b'z', least - 1..most)
            .prop_map(|text| Value::Text(COctets::new(Bytes::from(text))))
            .boxed(),
        // Two octets here, one in the specification: the oracle knows the former.
        Format::Octets { .. } if tag == tag::SOURCE_TELEMATICS_ID => {
            octets(2, 2).prop_map(Value::Octets).boxed()
        }
        Format::Octets { least, most } => octets(least, most).prop_map(Value::Octets).boxed(),
        Format::NetworkErrorCode => any::<(u8, u16)>()
            .prop_map(|(network, code)| Value::NetworkErrorCode(NetworkErrorCode { network, code }))
            .boxed(),
        Format::MsValidity => (any::<u8>(), any::<Option<(u8, u16)>>())
            .prop_map(|(behaviour, period)| Value::MsValidity { behaviour, period })
            .boxed(),
        Format::Subaddress => {
            (any::<u8>(), octets(1, 22)).prop_map(|(kind, octets)| Value::Subaddress { kind, octets }).boxed()
        }
        Format::BroadcastArea => (any::<u8>(), octets(0, 100))
            .prop_map(|(format, octets)| Value::BroadcastArea { format, octets })
            .boxed(),
        Format::BroadcastContentType => any::<(u8, u16)>()
            .prop_map(|(network, content)| Value::BroadcastContentType { network, content })
            .boxed(),
        Format::BroadcastFrequency => {
            any::<(u8, u16)>().prop_map(|(unit, number)| Value::BroadcastFrequency { unit, number }).boxed()
        }
        Format::ItsSession => {
            any::<(u8, u8)>().prop_map(|(session, sequence)| Value::ItsSession { session, sequence }).boxed()
        }
    }
}

/// Any parameter in its form. `broadcast_rep_num` is left out: it has two octets in SMPP 5.0 and one in the oracle.
fn parameter() -> impl Strategy<Value = Tlv> {
    let agreed = tag::ALL.iter().copied().filter(|tag| *tag != tag::BROADCAST_REP_NUM).collect::<Vec<_>>();
    prop::sample::select(agreed).prop_flat_map(|tag| value(tag).prop_map(move |value| Tlv::new(tag, &value)))
}

fn parameters() -> impl Strategy<Value = Tlvs> {
    vec(parameter(), 0..6).prop_map(|tlvs| tlvs.into_iter().collect())
}

fn only(tag: u16) -> impl Strategy<Value = Tlvs> {
    (any::<bool>(), value(tag))
        .prop_map(move |(given, value)| if given { Tlvs::new().with_value(tag, &value) } else { Tlvs::new() })
}

fn none() -> impl Strategy<Value = Tlvs> {
    Just(Tlvs::new())
}

fn resp() -> impl Strategy<Value = SmResp> {
    (ascii(64), parameters()).prop_map(|(message_id, tlvs)| SmResp { message_id, tlvs })
}

/// Every other PDU that both know, within what both know of it.
fn others() -> impl Strategy<Value = Pdu> {
    let messages = prop_oneof![
        multi(parameters()).prop_map(|mut multi| {
            (multi.esm_class, multi.registered_delivery) = (multi.esm_class & 0b1100_0000, 1);
            Pdu::SubmitMulti(Box::new(multi))
        }),
        multi_resp(parameters()).prop_map(Pdu::SubmitMultiResp),
        data(20, parameters()).prop_map(|mut data| {
            (data.esm_class, data.registered_delivery) = (data.esm_class & 0b1100_0000, 1);
            Pdu::DataSm(Box::new(data))
        }),
        resp().prop_map(Pdu::DataSmResp),
        resp().prop_map(Pdu::SubmitSmResp),
        resp().prop_map(Pdu::DeliverSmResp),
        broadcast(parameters()).prop_map(|broadcast| Pdu::BroadcastSm(Box::new(broadcast))),
        resp().prop_map(Pdu::BroadcastSmResp),
        query_broadcast(only(tag::USER_MESSAGE_REFERENCE))
            .prop_map(|query| Pdu::QueryBroadcastSm(Box::new(query))),
        resp().prop_map(Pdu::QueryBroadcastSmResp),
        cancel_broadcast(parameters()).prop_map(|cancel| Pdu::CancelBroadcastSm(Box::new(cancel))),
    ];
    let ancillary = prop_oneof![
        query(none()).prop_map(|query| Pdu::QuerySm(Box::new(query))),
        query_resp(none()).prop_map(|resp| Pdu::QuerySmResp(Box::new(resp))),
        cancel(none()).prop_map(|cancel| Pdu::CancelSm(Box::new(cancel))),
        replace(only(tag::MESSAGE_PAYLOAD)).prop_map(|mut replace| {
            replace.registered_delivery &= 1;
            Pdu::ReplaceSm(Box::new(replace))
        }),
        alert(only(tag::MS_AVAILABILITY_STATUS)).prop_map(|alert| Pdu::AlertNotification(Box::new(alert))),
        (ascii(15), ascii(8)).prop_map(|(system_id, password)| Pdu::Outbind { system_id, password }),
        (bind_kind(), ascii(15), only(tag::SC_INTERFACE_VERSION))
            .prop_map(|(kind, system_id, tlvs)| { Pdu::BindResp(BindResp { kind, system_id, tlvs }) }),
    ];
    prop_oneof![messages, ancillary]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_other_pdu_agrees(sequence in 1_u32..0x7FFF_FFFF, pdu in others()) {
        let octets = wire(&ok(sequence, pdu.clone()));
        let (theirs, back) = through(&octets);
        let known = !matches!(theirs, rusmpp::Pdu::Other { .. });
        prop_assert!(known);
        prop_assert_eq!(&back, &octets);
        let ours = Framing::default().decode(&mut octets.clone()).unwrap().unwrap();
        prop_assert_eq!(ours.decode().unwrap(), pdu);
    }

    #[test]
    fn every_parameter_agrees(tlv in parameter()) {
        let (tag, value, empty) = (tlv.tag, tlv.read(), tlv.value.is_empty());
        prop_assert!(!matches!(value, Value::Raw(_)), "{tag:04X} has another length here");
        let data = sotto_smpp::DataSm { tlvs: Tlvs::from_iter([tlv]), ..Default::default() };
        let octets = wire(&ok(1, Pdu::DataSm(Box::new(data))));
        let (theirs, back) = through(&octets);
        prop_assert_eq!(back, octets);
        let rusmpp::Pdu::DataSm(theirs) = theirs else { return Err(TestCaseError::fail("other PDU")) };
        // An empty value has no type there.
        let known = theirs.tlvs()[0]
            .value()
            .map_or(empty, |value| !matches!(value, rusmpp::tlvs::TlvValue::Other { .. }));
        prop_assert!(known, "{tag:04X} has another length there");
    }
}

#[test]
fn pdus_without_a_body_agree() {
    let answers = [Pdu::CancelSmResp(Tlvs::new()), Pdu::ReplaceSmResp(Tlvs::new())];
    let plain = [Pdu::EnquireLink, Pdu::EnquireLinkResp, Pdu::Unbind, Pdu::UnbindResp, Pdu::GenericNack];
    let last = [Pdu::CancelBroadcastSmResp(Tlvs::new())];
    for pdu in answers.into_iter().chain(plain).chain(last) {
        let octets = wire(&ok(7, pdu));
        assert_eq!(through(&octets).1, octets);
    }
}
