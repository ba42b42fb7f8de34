//! Octets and PDUs: what is written is read back, and nothing that comes from outside reaches past itself.

use crate::support::{command, ok, wire};
use bytes::{BufMut, Bytes, BytesMut};
use proptest::{collection::vec, prelude::*};
use sotto_smpp::{
    CommandId, CommandStatus, DecodeError, EncodeError, Field, Framing, Pdu, Receipt, Sm, pdu::esm_class,
};
use tokio_util::codec::Decoder;

const KNOWN: [u32; 17] = [
    0x8000_0000,
    1,
    0x8000_0001,
    2,
    0x8000_0002,
    4,
    0x8000_0004,
    5,
    0x8000_0005,
    6,
    0x8000_0006,
    9,
    0x8000_0009,
    11,
    0x15,
    0x8000_0015,
    0x102,
];

fn frame(id: u32, body: &[u8]) -> BytesMut {
    let mut octets = BytesMut::new();
    octets.put_u32(u32::try_from(body.len() + 16).unwrap());
    octets.put_u32(id);
    octets.put_u32(0);
    octets.put_u32(1);
    octets.put_slice(body);
    octets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn reads_what_it_wrote(command in command()) {
        let mut octets = wire(&command);
        let raw = Framing::default().decode(&mut octets).unwrap().unwrap();
        prop_assert!(octets.is_empty());
        prop_assert_eq!(raw.header.status, command.status);
        prop_assert_eq!(raw.header.sequence, command.sequence);
        prop_assert_eq!(raw.decode().unwrap(), command.pdu);
    }

    #[test]
    fn any_body_is_read_or_refused_and_the_next_pdu_stays_whole(
        id in prop::sample::select(KNOWN.to_vec()),
        body in vec(any::<u8>(), 0..300),
        next in command(),
    ) {
        let mut octets = frame(id, &body);
        octets.extend_from_slice(&wire(&next));
        let mut codec = Framing::default();
        let hostile = codec.decode(&mut octets).unwrap().unwrap();
        prop_assert_eq!(hostile.body.len(), body.len());
        // Whatever it is, it names a status to answer.
        if let Err(error) = hostile.decode() {
            prop_assert!(!error.status().is_ok());
        }
        let raw = codec.decode(&mut octets).unwrap().unwrap();
        prop_assert_eq!(raw.decode().unwrap(), next.pdu);
    }

    #[test]
    fn a_damaged_pdu_never_panics_nor_disturbs_the_next(
        command in command(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        next in command(),
    ) {
        let mut octets = wire(&command);
        for (at, octet) in damage {
            let at = at.index(octets.len());
            // The length is framing's own and has tests of its own.
            if at >= 4 {
                octets[at] = octet;
            }
        }
        octets.extend_from_slice(&wire(&next));
        let mut codec = Framing::default();
        let raw = codec.decode(&mut octets).unwrap().unwrap();
        if let Ok(Pdu::DeliverSm(sm)) = raw.decode() {
            let _is_receipt = Receipt::parse(&sm).is_ok();
        }
        prop_assert_eq!(codec.decode(&mut octets).unwrap().unwrap().decode().unwrap(), next.pdu);
    }

    #[test]
    fn any_stream_is_cut_without_panic(octets in vec(any::<u8>(), 0..200)) {
        let mut stream = BytesMut::from(&octets[..]);
        let mut codec = Framing::default();
        while let Ok(Some(raw)) = codec.decode(&mut stream) {
            let _is_known = raw.decode().is_ok();
        }
    }

    #[test]
    fn any_receipt_text_is_read_or_refused(text in "(id|stat|err|done date|text|sub)?[ :]{0,2}[a-z0-9 :]{0,40}é?") {
        let sm = Sm { esm_class: esm_class::RECEIPT, short_message: Bytes::from(text), ..Sm::default() };
        let _is_receipt = Receipt::parse(&sm).is_ok();
    }

    #[test]
    fn debug_shows_no_content(source in "[0-9]{12}", text in "[a-z]{12}") {
        let mut sm = Sm { short_message: Bytes::from(text.clone()), ..Sm::default() };
        sm.source.value = source.as_str().into();
        sm.destination.value = source.as_str().into();
        sm.tlvs.push(0x0424, Bytes::from(text.clone()));
        let shown = format!("{:?}", ok(1, Pdu::SubmitSm(Box::new(sm))));
        prop_assert!(!shown.contains(&source) && !shown.contains(&text), "{}", shown);
        let octets = format!("{:?}", text.as_bytes());
        prop_assert!(!shown.contains(&octets), "{}", shown);
    }
}

#[test]
fn a_message_length_past_its_pdu_takes_nothing_from_the_next() {
    let sm = Sm { short_message: Bytes::from_static(b"hello"), ..Sm::default() };
    let mut octets = wire(&ok(1, Pdu::SubmitSm(Box::new(sm))));
    let at = octets.len() - 6;
    octets[at] = 200;
    octets.extend_from_slice(&wire(&ok(2, Pdu::EnquireLink)));
    let mut codec = Framing::default();
    let raw = codec.decode(&mut octets).unwrap().unwrap();
    assert_eq!(raw.decode(), Err(DecodeError::MessageLength));
    assert_eq!(codec.decode(&mut octets).unwrap().unwrap().decode(), Ok(Pdu::EnquireLink));
}

#[test]
fn extra_octets_are_parameters_or_an_error() {
    let decode = |id, body: &'static [u8]| Pdu::decode(id, Bytes::from_static(body));
    let error = Err(DecodeError::OptionalParameters);
    assert_eq!(decode(CommandId::ENQUIRE_LINK, b"xyz"), error);
    assert_eq!(decode(CommandId::ENQUIRE_LINK, &[2, 4, 0, 2, 0, 1]), Ok(Pdu::EnquireLink));
    assert_eq!(decode(CommandId::SUBMIT_SM_RESP, b"1\0\0"), error);
    assert_eq!(DecodeError::OptionalParameters.status(), CommandStatus::ESME_RINVOPTPARSTREAM);
}

#[test]
fn each_limit_holds_when_reading() {
    let over = [b'1'; 21];
    let mut body = vec![0, 0, 0];
    body.extend_from_slice(&over);
    body.extend_from_slice(&[0; 40]);
    let error = Pdu::decode(CommandId::SUBMIT_SM, Bytes::from(body)).unwrap_err();
    assert_eq!(error, DecodeError::Unterminated(Field::SourceAddr));
    assert_eq!(error.status(), CommandStatus::ESME_RINVSRCADR);
}

#[test]
fn a_refused_pdu_leaves_no_octet_behind() {
    let mut out = BytesMut::from(&b"before"[..]);
    let long = Sm { short_message: Bytes::from(vec![0; 255]), ..Sm::default() };
    let error = ok(1, Pdu::SubmitSm(Box::new(long))).encode(&mut out).unwrap_err();
    assert_eq!(error, EncodeError::TooLong { field: Field::ShortMessage, octets: 255, limit: 254 });
    let mut nul = Sm::default();
    nul.destination.value = "1\u{0}2".into();
    let error = ok(1, Pdu::SubmitSm(Box::new(nul))).encode(&mut out).unwrap_err();
    assert_eq!(error, EncodeError::Nul(Field::DestinationAddr));
    assert_eq!(&out[..], b"before");
}
