//! Against `smpp34`, another independent codec: what we write it reads, and writes back the same octets; and its
//! fields are ours.

use crate::support::{
    alert, ascii, bind, cancel, data, multi, multi_resp, ok, query, query_resp, replace, sm, wire,
};
use bytes::BytesMut;
use proptest::prelude::*;
use smpp34::{CommandHeader, DestAddress};
use sotto_smpp::{
    BindKind, BindResp, Command, CommandId, CommandStatus, Destination, Framing, Pdu, SmResp, Tlvs, tlv::tag,
};
use tokio_util::codec::Decoder;

/// Our octets through one of its PDUs and back, with what it read.
macro_rules! through {
    ($theirs:ident, $octets:expr) => {{
        let octets: &BytesMut = $octets;
        let header = CommandHeader::decode(octets).unwrap();
        let theirs = smpp34::$theirs::decode(header, octets).unwrap();
        (theirs.clone(), theirs.encode())
    }};
}

macro_rules! agree {
    ($theirs:ident, $octets:expr) => {
        match $octets {
            octets => {
                let (theirs, back) = through!($theirs, octets);
                prop_assert_eq!(&back[..], &octets[..]);
                theirs
            }
        }
    };
}

fn none() -> impl Strategy<Value = Tlvs> {
    Just(Tlvs::new())
}

fn some() -> impl Strategy<Value = Tlvs> {
    crate::support::tlvs()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn messages_agree(sm in sm(some()), data in data(64, some())) {
        let octets = wire(&ok(7, Pdu::SubmitSm(Box::new(sm.clone()))));
        let theirs = agree!(submit_sm, &octets);
        prop_assert_eq!(Some(theirs.source_addr.as_str()), sm.source.value.as_str());
        prop_assert_eq!(Some(theirs.validity_period.as_str()), sm.validity_period.as_str());
        prop_assert_eq!(&theirs.short_message[..], &sm.short_message[..]);
        prop_assert_eq!(theirs.tlvs.len(), sm.tlvs.iter().count());
        let octets = wire(&ok(7, Pdu::DeliverSm(Box::new(sm.clone()))));
        let theirs = agree!(deliver_sm, &octets);
        prop_assert_eq!((theirs.esm_class, theirs.data_coding), (sm.esm_class, sm.data_coding));
        let octets = wire(&ok(7, Pdu::DataSm(Box::new(data.clone()))));
        let theirs = agree!(data_sm, &octets);
        prop_assert_eq!(Some(theirs.destination_addr.as_str()), data.destination.value.as_str());
        prop_assert_eq!(theirs.tlvs.len(), data.tlvs.iter().count());
    }

    #[test]
    fn many_destinations_agree(multi in multi(some()), resp in multi_resp(none())) {
        let octets = wire(&ok(7, Pdu::SubmitMulti(Box::new(multi.clone()))));
        let theirs = agree!(submit_sm_multi, &octets);
        prop_assert_eq!(theirs.dest_addresses.len(), multi.destinations.len());
        for (theirs, ours) in theirs.dest_addresses.iter().zip(&multi.destinations) {
            match (theirs, ours) {
                (DestAddress::Sme { dest_addr_ton, destination_addr, .. }, Destination::Address(ours)) => {
                    prop_assert_eq!(*dest_addr_ton, ours.ton);
                    prop_assert_eq!(Some(destination_addr.as_str()), ours.value.as_str());
                }
                (DestAddress::DistributionList { dl_name }, Destination::List(ours)) => {
                    prop_assert_eq!(Some(dl_name.as_str()), ours.as_str());
                }
                _ => return Err(TestCaseError::fail("another kind of destination")),
            }
        }
        let octets = wire(&ok(7, Pdu::SubmitMultiResp(resp.clone())));
        let theirs = agree!(submit_sm_multi_resp, &octets);
        for (theirs, ours) in theirs.unsuccess_sme.iter().zip(&resp.unsuccessful) {
            prop_assert_eq!(theirs.error_status_code, ours.status.0);
        }
    }

    #[test]
    fn requests_about_messages_agree(
        query in query(none()),
        resp in query_resp(none()),
        cancel in cancel(none()),
        replace in replace(none()),
        status in any::<Option<u8>>(),
        alert in alert(none()),
    ) {
        let theirs = agree!(query_sm, &wire(&ok(7, Pdu::QuerySm(Box::new(query.clone())))));
        prop_assert_eq!(Some(theirs.message_id.as_str()), query.message_id.as_str());
        let theirs = agree!(query_sm_resp, &wire(&ok(7, Pdu::QuerySmResp(Box::new(resp.clone())))));
        prop_assert_eq!((theirs.message_state, theirs.error_code), (resp.message_state, resp.error_code));
        prop_assert_eq!(Some(theirs.final_date.as_str()), resp.final_date.as_str());
        // This one of its decoders starts at the body.
        let octets = wire(&ok(7, Pdu::CancelSm(Box::new(cancel.clone()))));
        let theirs = smpp34::cancel_sm::decode(CommandHeader::decode(&octets).unwrap(), &octets[16..]).unwrap();
        prop_assert_eq!(&theirs.clone().encode()[..], &octets[..]);
        prop_assert_eq!(Some(theirs.destination_addr.as_str()), cancel.destination.value.as_str());
        let theirs = agree!(replace_sm, &wire(&ok(7, Pdu::ReplaceSm(Box::new(replace.clone())))));
        prop_assert_eq!(&theirs.short_message[..], &replace.short_message.0[..]);
        let mut alert = alert;
        if let Some(status) = status {
            alert.tlvs = Tlvs::new().with_u8(tag::MS_AVAILABILITY_STATUS, status);
        }
        let theirs = agree!(alert_notification, &wire(&ok(7, Pdu::AlertNotification(Box::new(alert.clone())))));
        prop_assert_eq!(theirs.ms_availability_status, status);
        prop_assert_eq!(Some(theirs.esme_addr.as_str()), alert.esme.value.as_str());
    }

    #[test]
    fn binds_agree(bind in bind(), system_id in ascii(15), password in ascii(8)) {
        let octets = wire(&ok(7, Pdu::Bind(bind.clone())));
        let range = match bind.kind {
            BindKind::Transceiver => agree!(bind_transceiver, &octets).address_range,
            BindKind::Transmitter => agree!(bind_transmitter, &octets).address_range,
            BindKind::Receiver => agree!(bind_receiver, &octets).address_range,
        };
        prop_assert_eq!(Some(range.as_str()), bind.address_range.value.as_str());
        let tlvs = Tlvs::new().with_u8(tag::SC_INTERFACE_VERSION, 0x34);
        let resp = BindResp { kind: BindKind::Transceiver, system_id: system_id.clone(), tlvs };
        let theirs = agree!(bind_transceiver_resp, &wire(&ok(7, Pdu::BindResp(resp))));
        prop_assert_eq!(theirs.sc_interface_version, Some(0x34));
        agree!(outbind, &wire(&ok(7, Pdu::Outbind { system_id, password })));
    }

    #[test]
    fn answers_agree(message_id in ascii(64), tlvs in some()) {
        let plain = SmResp { message_id: message_id.clone(), tlvs: Tlvs::new() };
        let theirs = agree!(submit_sm_resp, &wire(&ok(7, Pdu::SubmitSmResp(plain))));
        prop_assert_eq!(theirs.message_id.as_deref(), message_id.as_str());
        agree!(deliver_sm_resp, &wire(&ok(7, Pdu::DeliverSmResp(SmResp::default()))));
        agree!(data_sm_resp, &wire(&ok(7, Pdu::DataSmResp(SmResp { message_id, tlvs }))));
    }
}

#[test]
fn pdus_without_a_body_agree_also_when_they_refuse() {
    assert_eq!(
        &through!(enquire_link, &wire(&ok(7, Pdu::EnquireLink))).1[..],
        &wire(&ok(7, Pdu::EnquireLink))[..]
    );
    for status in [CommandStatus::ESME_ROK, CommandStatus::ESME_RSYSERR] {
        let refuse = |pdu| wire(&Command { status, sequence: 7, pdu });
        let octets = refuse(Pdu::CancelSmResp(Tlvs::new()));
        assert_eq!(&through!(cancel_sm_resp, &octets).1[..], &octets[..]);
        let octets = refuse(Pdu::ReplaceSmResp(Tlvs::new()));
        assert_eq!(&through!(replace_sm_resp, &octets).1[..], &octets[..]);
        let octets = refuse(Pdu::UnbindResp);
        assert_eq!(&through!(unbind_resp, &octets).1[..], &octets[..]);
        let octets = refuse(Pdu::GenericNack);
        assert_eq!(&through!(generic_nack, &octets).1[..], &octets[..]);
    }
}

/// What its server says we read as it means it.
#[test]
fn its_answers_are_read() {
    let octets = wire(&ok(
        7,
        Pdu::SubmitMulti(Box::new(sotto_smpp::SubmitMulti {
            destinations: vec![Destination::List("all".into())],
            ..Default::default()
        })),
    ));
    let (theirs, _) = through!(submit_sm_multi, &octets);
    let refused = smpp34::UnsuccessSme {
        dest_addr_ton: 1,
        dest_addr_npi: 1,
        destination_addr: "84901234567".to_owned(),
        error_status_code: 0x0B,
    };
    let mut answer = BytesMut::from(&theirs.accept("id".to_owned(), vec![refused]).encode()[..]);
    let raw = Framing::default().decode(&mut answer).unwrap().unwrap();
    assert_eq!((raw.header.id, raw.header.sequence), (CommandId::SUBMIT_MULTI_RESP, 7));
    let Ok(Pdu::SubmitMultiResp(resp)) = raw.decode() else { panic!("refused") };
    assert_eq!(resp.message_id.as_str(), Some("id"));
    assert_eq!(resp.unsuccessful[0].status, CommandStatus::ESME_RINVDSTADR);
    assert!(!format!("{resp:?}").contains("84901234567"));
}
