//! What the tests share: generated PDUs and a peer that speaks octets.

use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, option, prelude::*};
use sotto_smpp::{
    Address, Bind, BindKind, BindResp, COctets, Command, CommandId, CommandStatus, Framing, Pdu, RawPdu, Sm,
    SmResp, Tlv, Tlvs, pdu::Opaque,
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

/// Any PDU that can be written.
pub(crate) fn pdu() -> impl Strategy<Value = Pdu> {
    let resp = || (ascii(64), tlvs()).prop_map(|(message_id, tlvs)| SmResp { message_id, tlvs });
    let unknown = (0x0200_u32..0x0300, vec(any::<u8>(), 0..60));
    prop_oneof![
        bind().prop_map(Pdu::Bind),
        (bind_kind(), ascii(15), tlvs()).prop_map(|(kind, system_id, tlvs)| Pdu::BindResp(BindResp {
            kind,
            system_id,
            tlvs
        })),
        sm(tlvs()).prop_map(|sm| Pdu::SubmitSm(Box::new(sm))),
        sm(tlvs()).prop_map(|sm| Pdu::DeliverSm(Box::new(sm))),
        resp().prop_map(Pdu::SubmitSmResp),
        resp().prop_map(Pdu::DeliverSmResp),
        Just(Pdu::EnquireLink),
        Just(Pdu::EnquireLinkResp),
        Just(Pdu::Unbind),
        Just(Pdu::UnbindResp),
        Just(Pdu::GenericNack),
        (ascii(15), ascii(8)).prop_map(|(system_id, password)| Pdu::Outbind { system_id, password }),
        unknown.prop_map(|(id, body)| Pdu::Unknown { id: CommandId(id), body: Opaque(body.into()) }),
    ]
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
