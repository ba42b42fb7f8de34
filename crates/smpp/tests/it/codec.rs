//! Octets and PDUs: what is written is read back, and nothing that comes from outside reaches past itself.

use crate::support::{command, ok, wire};
use bytes::{BufMut, Bytes, BytesMut};
use proptest::{collection::vec, prelude::*};
use sotto_smpp::{
    COctets, Command, CommandId, CommandStatus, DecodeError, Destination, EncodeError, Field, Framing,
    FramingError, Pdu, QuerySmResp, RawPdu, Receipt, Sm, SmResp, SubmitMulti, SubmitMultiResp, Tlv, Tlvs,
    Tolerance,
    pdu::esm_class,
    tlv::{Value, tag},
};
use tokio_util::codec::Decoder;

/// Every request of SMPP 3.4 and 5.0; the notices have no response of their own.
const REQUESTS: [u32; 17] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0B, 0x15, 0x21, 0x102, 0x103, 0x111, 0x112, 0x113];

/// Every command id, and one of nobody's.
fn known() -> impl Strategy<Value = u32> {
    let ids = REQUESTS.into_iter().flat_map(|id| [id, id | 0x8000_0000]);
    prop::sample::select(ids.chain([0x8000_0000, 0x0200]).collect::<Vec<_>>())
}

fn tolerance() -> impl Strategy<Value = Tolerance> {
    any::<[bool; 3]>().prop_map(|[missing_nul, stray_octets, missing_tail]| Tolerance {
        missing_nul,
        stray_octets,
        missing_tail,
    })
}

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
        id in known(),
        body in vec(any::<u8>(), 0..300),
        next in command(),
        tolerance in tolerance(),
    ) {
        let mut octets = frame(id, &body);
        octets.extend_from_slice(&wire(&next));
        let mut codec = Framing::default();
        let hostile = codec.decode(&mut octets).unwrap().unwrap();
        prop_assert_eq!(hostile.body.len(), body.len());
        // Whatever it is, it names a status to answer.
        let (strict, lenient) = (hostile.decode(), hostile.decode_with(tolerance));
        for read in [&strict, &lenient] {
            if let Err(error) = read {
                prop_assert!(!error.status().is_ok());
            }
        }
        // Forgiving never changes what the letter allows.
        if strict.is_ok() {
            prop_assert_eq!(strict, lenient);
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
    fn a_whole_pdu_cut_short_is_read_without_inventing(command in command(), at in any::<prop::sample::Index>()) {
        let whole = Framing::default().decode(&mut wire(&command)).unwrap().unwrap();
        let at = at.index(whole.body.len() + 1);
        let cut = RawPdu { header: whole.header, body: whole.body.slice(..at) };
        let before = cut.decode();
        if let Ok(pdu) = cut.decode_with(Tolerance::CARRIER) {
            // What was read can be written, and reads the same again without forgiveness.
            let mut octets = BytesMut::new();
            if (Command { status: CommandStatus::ESME_ROK, sequence: 1, pdu: pdu.clone() }).encode(&mut octets).is_ok()
                && before.is_ok()
            {
                let again = Framing::default().decode(&mut octets).unwrap().unwrap();
                prop_assert_eq!(again.decode().unwrap(), pdu);
            }
        }
    }

    #[test]
    fn every_parameter_is_typed_and_written_back(
        tag in prop::sample::select(tag::ALL.to_vec()),
        octets in vec(any::<u8>(), 0..70),
    ) {
        let tlv = Tlv { tag, value: Bytes::from(octets) };
        let value = tlv.read();
        let written = Tlv::new(tag, &value);
        // A string gains the NUL it lacked and loses its padding; nothing else changes.
        if matches!(value, Value::Text(_)) {
            prop_assert_eq!(written.read(), value);
        } else {
            prop_assert_eq!(written, tlv);
        }
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

    #[test]
    fn debug_shows_no_content_of_any_pdu(
        id in known(),
        head in 0_usize..6,
        secret in "[a-z]{3}",
        tolerance in tolerance(),
    ) {
        // The secret in every place where a string, a message or a parameter can be.
        let mut body = vec![1; head];
        for _ in 0..12 {
            body.extend_from_slice(secret.as_bytes());
            body.push(0);
        }
        let shown = match Pdu::decode_with(CommandId(id), Bytes::from(body), tolerance) {
            Ok(pdu) => format!("{pdu:?}"),
            Err(error) => format!("{error:?} {error}"),
        };
        prop_assert!(!shown.contains(&format!("\"{secret}")), "{}", shown);
        prop_assert!(!shown.contains(&format!("{:?}", secret.as_bytes()).replace(['[', ']'], "")), "{}", shown);
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

#[test]
fn every_command_is_read_as_itself_and_every_request_knows_its_answer() {
    for id in REQUESTS.into_iter().map(CommandId) {
        assert!(id.name().is_some() && !id.is_response());
        let notice = id == CommandId::OUTBIND || id == CommandId::ALERT_NOTIFICATION;
        assert_eq!(id.wants_response(), !notice, "{id}");
        assert_eq!(id.response().name().is_some(), !notice, "{id}");
        let empty = Pdu::decode_with(id.response(), Bytes::new(), Tolerance::STRICT).unwrap();
        assert_eq!((empty.id(), matches!(empty, Pdu::Unknown { .. })), (id.response(), notice));
        // A refusal is a header alone, in both directions.
        let refusal = Command { status: CommandStatus::ESME_RSYSERR, sequence: 1, pdu: empty };
        assert_eq!(wire(&refusal).len(), 16, "{id}");
    }
}

#[test]
fn what_carriers_send_is_read_and_what_loses_text_is_not() {
    let decode = |id, body: &'static [u8]| Pdu::decode_with(id, Bytes::from_static(body), Tolerance::CARRIER);
    let resp = |id: &str| SmResp { message_id: id.into(), tlvs: Tlvs::new() };
    // No NUL; one NUL too many; a parameter that counts an octet too many.
    assert_eq!(decode(CommandId::SUBMIT_SM_RESP, b"1"), Ok(Pdu::SubmitSmResp(resp("1"))));
    let Ok(Pdu::SubmitSmResp(padded)) = decode(CommandId::SUBMIT_SM_RESP, b"1\0\0") else {
        panic!("refused")
    };
    assert_eq!((padded.message_id, padded.tlvs.stray().len()), ("1".into(), 1));
    // The count of `submit_multi_resp` and the error of `query_sm_resp` may be missing.
    let multi = SubmitMultiResp { message_id: "1".into(), ..SubmitMultiResp::default() };
    assert_eq!(decode(CommandId::SUBMIT_MULTI_RESP, b"1\0"), Ok(Pdu::SubmitMultiResp(multi)));
    let query = QuerySmResp { message_id: "1".into(), message_state: 2, ..QuerySmResp::default() };
    assert_eq!(decode(CommandId::QUERY_SM_RESP, b"1\0\0\x02"), Ok(Pdu::QuerySmResp(Box::new(query))));
    assert_eq!(
        decode(CommandId::QUERY_SM_RESP, b"1\0\0"),
        Err(DecodeError::Truncated),
        "no state is no answer"
    );
    // Garbage after nothing.
    assert_eq!(decode(CommandId::ENQUIRE_LINK_RESP, b"xyz"), Ok(Pdu::EnquireLinkResp));
    // A message whose payload is cut is refused, whoever sent it.
    let mut octets = wire(&ok(1, Pdu::DeliverSm(Box::default())));
    octets.extend_from_slice(&[0x04, 0x24, 0, 9, b'h', b'i']);
    let cut = Pdu::decode_with(CommandId::DELIVER_SM, octets.freeze().slice(16..), Tolerance::CARRIER);
    assert_eq!(cut, Err(DecodeError::OptionalParameters));
}

#[test]
fn a_message_of_255_octets_is_read_but_not_written() {
    let sm = Sm { short_message: Bytes::from(vec![b'a'; 254]), ..Sm::default() };
    let mut octets = wire(&ok(1, Pdu::SubmitSm(Box::new(sm))));
    let at = octets.len() - 255;
    octets[at] = 255;
    octets.extend_from_slice(b"a");
    let Ok(Pdu::SubmitSm(sm)) = Pdu::decode(CommandId::SUBMIT_SM, octets.freeze().slice(16..)) else {
        panic!("refused")
    };
    assert_eq!(sm.short_message.len(), 255);
    assert!(ok(1, Pdu::SubmitSm(sm)).encode(&mut BytesMut::new()).is_err());
}

#[test]
fn destinations_have_their_own_errors() {
    let multi = |destinations| {
        ok(1, Pdu::SubmitMulti(Box::new(SubmitMulti { destinations, ..SubmitMulti::default() })))
    };
    let list = Destination::List(COctets::from_static("all"));
    for entries in [0, 255] {
        let error = multi(vec![list.clone(); entries]).encode(&mut BytesMut::new()).unwrap_err();
        assert_eq!(error, EncodeError::Entries { field: Field::Destinations, entries, limit: 254 });
    }
    let octets = wire(&multi(vec![list]));
    // After service_type, ton, npi and source_addr, each empty, come the count and the flag.
    for (at, octet, status) in [
        (20, 0, CommandStatus::ESME_RINVNUMDESTS),
        (20, 2, CommandStatus::ESME_RINVDESTFLAG),
        (21, 3, CommandStatus::ESME_RINVDESTFLAG),
        (25, b'x', CommandStatus::ESME_RINVCMDLEN),
    ] {
        let mut octets = octets.clone();
        octets[at] = octet;
        let error = Pdu::decode(CommandId::SUBMIT_MULTI, octets.freeze().slice(16..)).unwrap_err();
        assert_eq!(error.status(), status, "{at}");
    }
}

#[test]
fn the_limit_of_64_kib_holds_in_both_directions() {
    let payload = |octets: usize| {
        let tlvs = Tlvs::new().with(tag::MESSAGE_PAYLOAD, Bytes::from(vec![b'a'; octets]));
        ok(1, Pdu::SubmitSm(Box::new(Sm { tlvs, ..Sm::default() })))
    };
    let room = 65_535 - wire(&payload(0)).len();
    let mut largest = wire(&payload(room));
    assert_eq!(largest.len(), 65_535);
    assert!(Framing::default().decode(&mut largest).unwrap().is_some());
    let error = payload(room + 1).encode(&mut BytesMut::new()).unwrap_err();
    assert_eq!(error, EncodeError::TooLong { field: Field::Pdu, octets: 65_536, limit: 65_535 });
    let mut over = BytesMut::from(&[0, 1, 0, 1, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 7][..]);
    let refused = Framing::default().decode(&mut over);
    assert!(matches!(refused, Err(FramingError::Length { length: 65_537, sequence: 7 })));
}

#[test]
fn a_large_pdu_that_is_only_announced_gets_no_room() {
    let mut stream = BytesMut::from(&[0, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 7][..]);
    assert!(Framing::default().decode(&mut stream).unwrap().is_none());
    assert!(stream.capacity() < 1024, "{}", stream.capacity());
}
