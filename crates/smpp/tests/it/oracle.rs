//! Against `rusmpp`, an independent codec: what we write it reads as we meant it, and writes back the same octets.

use crate::support::{ascii, bind, ok, sm, wire};
use bytes::BytesMut;
use proptest::prelude::*;
use rusmpp::tokio_codec::CommandCodec;
use sotto_smpp::{Framing, Pdu, Sm, SmResp, Tlvs, tlv::tag};
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

#[test]
fn pdus_without_a_body_agree() {
    for pdu in [Pdu::EnquireLink, Pdu::EnquireLinkResp, Pdu::Unbind, Pdu::UnbindResp, Pdu::GenericNack] {
        let octets = wire(&ok(7, pdu));
        assert_eq!(through(&octets).1, octets);
    }
}
