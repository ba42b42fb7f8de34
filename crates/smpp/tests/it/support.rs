//! What the tests share: generated PDUs and a peer that speaks octets.

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, option, prelude::*};
use sotto_smpp::{
    Address, AlertNotification, Bind, BindKind, BindResp, BroadcastSm, COctets, CancelBroadcastSm, CancelSm,
    Command, CommandId, CommandStatus, DataSm, Destination, Framing, Pdu, QueryBroadcastSm, QuerySm,
    QuerySmResp, RawPdu, ReplaceSm, Sm, SmResp, SubmitMulti, SubmitMultiResp, Tlv, Tlvs, Unsuccessful,
    pdu::Opaque,
};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio_util::codec::FramedRead;

/// ASCII without NUL, at most `most` octets.
pub(crate) fn ascii(most: usize) -> impl Strategy<Value = COctets> {
    vec(1_u8..128, 0..=most).prop_map(|octets| COctets::new(Bytes::from(octets)))
}

fn time() -> impl Strategy<Value = COctets> {
    option::of(vec(b'0'..=b'9', 16)).prop_map(|octets| COctets::new(Bytes::from(octets.unwrap_or_default())))
}

fn address(most: usize) -> impl Strategy<Value = Address> {
    (any::<u8>(), any::<u8>(), ascii(most)).prop_map(|(ton, npi, value)| Address { ton, npi, value })
}

/// Any list of parameters.
pub(crate) fn tlvs() -> impl Strategy<Value = Tlvs> {
    let tlv =
        (any::<u16>(), vec(any::<u8>(), 0..40)).prop_map(|(tag, value)| Tlv { tag, value: value.into() });
    vec(tlv, 0..4).prop_map(|tlvs| tlvs.into_iter().collect())
}

/// Any message with the given parameters.
pub(crate) fn sm(tlvs: impl Strategy<Value = Tlvs>) -> impl Strategy<Value = Sm> {
    let head = (ascii(5), address(20), address(20), any::<[u8; 3]>(), time(), time());
    (head, any::<[u8; 4]>(), vec(any::<u8>(), 0..=254), tlvs).prop_map(|(head, tail, message, tlvs)| {
        let (service_type, source, destination, [esm_class, protocol_id, priority_flag], schedule, validity) =
            head;
        let [registered_delivery, replace_if_present_flag, data_coding, sm_default_msg_id] = tail;
        Sm {
            service_type,
            source,
            destination,
            esm_class,
            protocol_id,
            priority_flag,
            schedule_delivery_time: schedule,
            validity_period: validity,
            registered_delivery,
            replace_if_present_flag,
            data_coding,
            sm_default_msg_id,
            short_message: message.into(),
            tlvs,
        }
    })
}

/// Any of the three.
pub(crate) fn bind_kind() -> impl Strategy<Value = BindKind> {
    prop_oneof![Just(BindKind::Receiver), Just(BindKind::Transmitter), Just(BindKind::Transceiver)]
}

/// Any bind.
pub(crate) fn bind() -> impl Strategy<Value = Bind> {
    (bind_kind(), ascii(15), ascii(8), ascii(12), any::<u8>(), address(40)).prop_map(
        |(kind, system_id, password, system_type, interface_version, address_range)| Bind {
            kind,
            system_id,
            password,
            system_type,
            interface_version,
            address_range,
        },
    )
}

/// Any `submit_multi` with the given parameters.
pub(crate) fn multi(tlvs: impl Strategy<Value = Tlvs>) -> impl Strategy<Value = SubmitMulti> {
    let destination =
        prop_oneof![address(20).prop_map(Destination::Address), ascii(20).prop_map(Destination::List),];
    (sm(tlvs), vec(destination, 1..=254)).prop_map(|(sm, destinations)| SubmitMulti {
        service_type: sm.service_type,
        source: sm.source,
        destinations,
        esm_class: sm.esm_class,
        protocol_id: sm.protocol_id,
        priority_flag: sm.priority_flag,
        schedule_delivery_time: sm.schedule_delivery_time,
        validity_period: sm.validity_period,
        registered_delivery: sm.registered_delivery,
        replace_if_present_flag: sm.replace_if_present_flag,
        data_coding: sm.data_coding,
        sm_default_msg_id: sm.sm_default_msg_id,
        short_message: Opaque(sm.short_message),
        tlvs: sm.tlvs,
    })
}

/// Any answer to it.
pub(crate) fn multi_resp(tlvs: impl Strategy<Value = Tlvs>) -> impl Strategy<Value = SubmitMultiResp> {
    let unsuccessful = (address(20), any::<u32>())
        .prop_map(|(destination, status)| Unsuccessful { destination, status: CommandStatus(status) });
    (ascii(64), vec(unsuccessful, 0..20), tlvs).prop_map(|(message_id, unsuccessful, tlvs)| SubmitMultiResp {
        message_id,
        unsuccessful,
        tlvs,
    })
}

/// Any `data_sm` with addresses of at most `most` octets and the given parameters.
pub(crate) fn data(most: usize, tlvs: impl Strategy<Value = Tlvs>) -> impl Strategy<Value = DataSm> {
    (ascii(5), address(most), address(most), any::<[u8; 3]>(), tlvs).prop_map(
        |(service_type, source, destination, [esm_class, registered_delivery, data_coding], tlvs)| DataSm {
            service_type,
            source,
            destination,
            esm_class,
            registered_delivery,
            data_coding,
            tlvs,
        },
    )
}

/// Any `query_sm`.
pub(crate) fn query(tlvs: impl Strategy<Value = Tlvs>) -> impl Strategy<Value = QuerySm> {
    (ascii(64), address(20), tlvs).prop_map(|(message_id, source, tlvs)| QuerySm { message_id, source, tlvs })
}

/// Any answer to it.
pub(crate) fn query_resp(tlvs: impl Strategy<Value = Tlvs>) -> impl Strategy<Value = QuerySmResp> {
    (ascii(64), time(), any::<[u8; 2]>(), tlvs).prop_map(
        |(message_id, final_date, [message_state, error_code], tlvs)| QuerySmResp {
            message_id,
            final_date,
            message_state,
            error_code,
            tlvs,
        },
    )
}

/// Any `cancel_sm`.
pub(crate) fn cancel(tlvs: impl Strategy<Value = Tlvs>) -> impl Strategy<Value = CancelSm> {
    (ascii(5), ascii(64), address(20), address(20), tlvs).prop_map(
        |(service_type, message_id, source, destination, tlvs)| CancelSm {
            service_type,
            message_id,
            source,
            destination,
            tlvs,
        },
    )
}

/// Any `replace_sm`.
pub(crate) fn replace(tlvs: impl Strategy<Value = Tlvs>) -> impl Strategy<Value = ReplaceSm> {
    let message = vec(any::<u8>(), 0..=254);
    (ascii(64), address(20), time(), time(), any::<[u8; 2]>(), message, tlvs).prop_map(
        |(
            message_id,
            source,
            schedule,
            validity,
            [registered_delivery, sm_default_msg_id],
            message,
            tlvs,
        )| {
            ReplaceSm {
                message_id,
                source,
                schedule_delivery_time: schedule,
                validity_period: validity,
                registered_delivery,
                sm_default_msg_id,
                short_message: Opaque(message.into()),
                tlvs,
            }
        },
    )
}

/// Any `alert_notification`.
pub(crate) fn alert(tlvs: impl Strategy<Value = Tlvs>) -> impl Strategy<Value = AlertNotification> {
    (address(64), address(64), tlvs).prop_map(|(source, esme, tlvs)| AlertNotification { source, esme, tlvs })
}

/// Any `broadcast_sm`.
pub(crate) fn broadcast(tlvs: impl Strategy<Value = Tlvs>) -> impl Strategy<Value = BroadcastSm> {
    (ascii(64), sm(tlvs)).prop_map(|(message_id, sm)| BroadcastSm {
        service_type: sm.service_type,
        source: sm.source,
        message_id,
        priority_flag: sm.priority_flag,
        schedule_delivery_time: sm.schedule_delivery_time,
        validity_period: sm.validity_period,
        replace_if_present_flag: sm.replace_if_present_flag,
        data_coding: sm.data_coding,
        sm_default_msg_id: sm.sm_default_msg_id,
        tlvs: sm.tlvs,
    })
}

/// Any `query_broadcast_sm`.
pub(crate) fn query_broadcast(tlvs: impl Strategy<Value = Tlvs>) -> impl Strategy<Value = QueryBroadcastSm> {
    query(tlvs).prop_map(|QuerySm { message_id, source, tlvs }| QueryBroadcastSm { message_id, source, tlvs })
}

/// Any `cancel_broadcast_sm`.
pub(crate) fn cancel_broadcast(
    tlvs: impl Strategy<Value = Tlvs>,
) -> impl Strategy<Value = CancelBroadcastSm> {
    cancel(tlvs).prop_map(|CancelSm { service_type, message_id, source, tlvs, .. }| CancelBroadcastSm {
        service_type,
        message_id,
        source,
        tlvs,
    })
}

/// The answer of `submit_sm` and of those like it.
pub(crate) fn resp() -> impl Strategy<Value = SmResp> {
    (ascii(64), tlvs()).prop_map(|(message_id, tlvs)| SmResp { message_id, tlvs })
}

/// Any PDU that can be written.
pub(crate) fn pdu() -> impl Strategy<Value = Pdu> {
    prop_oneof![messages(), others()]
}

fn messages() -> impl Strategy<Value = Pdu> {
    prop_oneof![
        sm(tlvs()).prop_map(|sm| Pdu::SubmitSm(Box::new(sm))),
        sm(tlvs()).prop_map(|sm| Pdu::DeliverSm(Box::new(sm))),
        multi(tlvs()).prop_map(|multi| Pdu::SubmitMulti(Box::new(multi))),
        data(64, tlvs()).prop_map(|data| Pdu::DataSm(Box::new(data))),
        broadcast(tlvs()).prop_map(|broadcast| Pdu::BroadcastSm(Box::new(broadcast))),
        resp().prop_map(Pdu::SubmitSmResp),
        resp().prop_map(Pdu::DeliverSmResp),
        multi_resp(tlvs()).prop_map(Pdu::SubmitMultiResp),
        resp().prop_map(Pdu::DataSmResp),
        resp().prop_map(Pdu::BroadcastSmResp),
    ]
}

fn others() -> impl Strategy<Value = Pdu> {
    let unknown = (0x0200_u32..0x0300, vec(any::<u8>(), 0..60));
    let about = prop_oneof![
        query(tlvs()).prop_map(|query| Pdu::QuerySm(Box::new(query))),
        query_resp(tlvs()).prop_map(|resp| Pdu::QuerySmResp(Box::new(resp))),
        cancel(tlvs()).prop_map(|cancel| Pdu::CancelSm(Box::new(cancel))),
        tlvs().prop_map(Pdu::CancelSmResp),
        replace(tlvs()).prop_map(|replace| Pdu::ReplaceSm(Box::new(replace))),
        tlvs().prop_map(Pdu::ReplaceSmResp),
        query_broadcast(tlvs()).prop_map(|query| Pdu::QueryBroadcastSm(Box::new(query))),
        resp().prop_map(Pdu::QueryBroadcastSmResp),
        cancel_broadcast(tlvs()).prop_map(|cancel| Pdu::CancelBroadcastSm(Box::new(cancel))),
        tlvs().prop_map(Pdu::CancelBroadcastSmResp),
    ];
    let session = prop_oneof![
        bind().prop_map(Pdu::Bind),
        (bind_kind(), ascii(15), tlvs()).prop_map(|(kind, system_id, tlvs)| Pdu::BindResp(BindResp {
            kind,
            system_id,
            tlvs
        })),
        Just(Pdu::EnquireLink),
        Just(Pdu::EnquireLinkResp),
        Just(Pdu::Unbind),
        Just(Pdu::UnbindResp),
        Just(Pdu::GenericNack),
        (ascii(15), ascii(8)).prop_map(|(system_id, password)| Pdu::Outbind { system_id, password }),
        alert(tlvs()).prop_map(|alert| Pdu::AlertNotification(Box::new(alert))),
        unknown.prop_map(|(id, body)| Pdu::Unknown { id: CommandId(id), body: Opaque(body.into()) }),
    ];
    prop_oneof![about, session]
}

/// Any PDU with any header.
pub(crate) fn command() -> impl Strategy<Value = Command> {
    (any::<u32>(), any::<u32>(), pdu()).prop_map(|(status, sequence, pdu)| Command {
        status: CommandStatus(status),
        sequence,
        pdu,
    })
}

/// The octets of a PDU.
pub(crate) fn wire(command: &Command) -> BytesMut {
    let mut octets = BytesMut::new();
    command.encode(&mut octets).unwrap();
    octets
}

/// A PDU with status OK.
pub(crate) fn ok(sequence: u32, pdu: Pdu) -> Command {
    Command { status: CommandStatus::ESME_ROK, sequence, pdu }
}

/// The other end of a session, PDU by PDU, with no behaviour of its own.
pub(crate) struct Peer {
    frames: FramedRead<tokio::io::ReadHalf<DuplexStream>, Framing>,
    writer: tokio::io::WriteHalf<DuplexStream>,
}

impl Peer {
    pub(crate) fn new(io: DuplexStream) -> Self {
        let (reader, writer) = tokio::io::split(io);
        Self { frames: FramedRead::new(reader, Framing::default()), writer }
    }

    /// The next PDU.
    pub(crate) async fn next(&mut self) -> Option<(RawPdu, Pdu)> {
        let raw = futures::StreamExt::next(&mut self.frames).await?.unwrap();
        let pdu = raw.decode().unwrap();
        Some((raw, pdu))
    }

    /// The sequence number of the next PDU, which must be of this kind.
    pub(crate) async fn expect(&mut self, id: CommandId) -> (u32, CommandStatus) {
        let (raw, _) = self.next().await.unwrap();
        assert_eq!(raw.header.id, id);
        (raw.header.sequence, raw.header.status)
    }

    pub(crate) async fn say(&mut self, command: &Command) {
        self.writer.write_all(&wire(command)).await.unwrap();
    }

    pub(crate) async fn say_octets(&mut self, octets: &[u8]) {
        self.writer.write_all(octets).await.unwrap();
    }

    /// Writes while the other end takes it.
    pub(crate) async fn try_say(&mut self, octets: &[u8]) -> bool {
        self.writer.write_all(octets).await.is_ok()
    }

    /// Answers a `submit_sm`.
    pub(crate) async fn answer(&mut self, sequence: u32, id: &str) {
        let resp = SmResp { message_id: COctets::from(id), tlvs: Tlvs::new() };
        self.say(&ok(sequence, Pdu::SubmitSmResp(resp))).await;
    }
}
