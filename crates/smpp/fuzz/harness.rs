//! What must hold for any octets at all. Shared by the libFuzzer targets next to this file and by the bounded run in
//! `tests/it/fuzz.rs`, which needs no more than the stable toolchain.

use bytes::BytesMut;
use sotto_smpp::{
    Bind, BindKind, BindResp, COctets, Command, CommandId, CommandStatus, Framing, FramingError, Header,
    Link, Pdu, RawPdu, Receipt, Session, SessionOptions, Tlv, Tlvs, Tolerance,
    client::{self, BindOptions},
    server,
};
use std::{collections::HashSet, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinSet,
    time::timeout,
};
use tokio_util::codec::Decoder;

fn wire(sequence: u32, pdu: Pdu) -> Option<BytesMut> {
    let mut octets = BytesMut::new();
    Command { status: CommandStatus::ESME_ROK, sequence, pdu }.encode(&mut octets).ok().map(|()| octets)
}

/// Cuts octets into PDUs, up to what cannot be cut; tells the sequence number of that.
fn cut(octets: &[u8], max_pdu: u32) -> (Vec<RawPdu>, Option<u32>) {
    let (mut framing, mut stream, mut all) = (Framing::new(max_pdu), BytesMut::from(octets), Vec::new());
    loop {
        match framing.decode(&mut stream) {
            Ok(Some(raw)) => all.push(raw),
            Ok(None) => return (all, None),
            Err(FramingError::Length { sequence, .. }) => return (all, Some(sequence)),
            Err(_) => unreachable!("octets in memory are only ever of a wrong length"),
        }
    }
}

/// One PDU, whatever its `command_length` says: it is read or refused with a status; forgiving never changes what
/// the letter allows; what was read and can be written reads the same again.
pub(crate) fn pdu(input: &[u8]) {
    let Some((head, body)) = input.split_at_checked(16) else { return };
    let id = CommandId(u32::from_be_bytes([head[4], head[5], head[6], head[7]]));
    let read = |tolerance| Pdu::decode_with(id, bytes::Bytes::copy_from_slice(body), tolerance);
    let strict = read(Tolerance::STRICT);
    let lenient = read(Tolerance::CARRIER);
    if strict.is_ok() {
        assert_eq!(strict, lenient);
    }
    for result in [strict, lenient] {
        let pdu = match result {
            Ok(pdu) => pdu,
            Err(error) => {
                assert!(!error.status().is_ok());
                continue;
            }
        };
        assert_eq!(pdu.id(), id);
        if let Pdu::DeliverSm(sm) = &pdu {
            let _receipts = (Receipt::parse(sm).is_ok(), Receipt::parse_unmarked(sm).is_ok());
            for tlv in sm.tlvs.iter() {
                let value = tlv.read();
                assert_eq!(Tlv::new(tlv.tag, &value).read(), value);
            }
        }
        let Some(octets) = wire(1, pdu) else { continue };
        let (again, _) = cut(&octets, u32::MAX);
        let again = again[0].decode().unwrap();
        assert_eq!(wire(1, again), Some(octets));
    }
}

/// A stream, in pieces of the size that its first octet says: it is cut into the same PDUs as in one piece, none
/// longer than its length says, and no memory is taken ahead.
pub(crate) fn stream(input: &[u8]) {
    let Some((size, octets)) = input.split_first() else { return };
    let (whole, broken) = cut(octets, 65_536);
    let (mut framing, mut stream, mut pieces) = (Framing::default(), BytesMut::new(), Vec::new());
    let mut ended = false;
    for piece in octets.chunks(usize::from(*size).max(1)) {
        stream.extend_from_slice(piece);
        while !ended {
            match framing.decode(&mut stream) {
                Ok(Some(raw)) => pieces.push(raw),
                Ok(None) => break,
                Err(_) => ended = true,
            }
        }
    }
    assert_eq!((&pieces, ended), (&whole, broken.is_some()));
    assert!(whole.iter().map(|raw| raw.body.len() + 16).sum::<usize>() <= octets.len());
    assert!(stream.capacity() <= octets.len().max(64) * 4);
}

const OPTIONS: SessionOptions = SessionOptions {
    window: 4,
    incoming_window: 4,
    response_timeout: Duration::from_secs(10),
    enquire_link_interval: Duration::from_secs(30),
    max_pdu: 65_536,
    late_capacity: 4,
};

/// The switches in the first octet of a session's input.
const WE_BOUND: u8 = 1;
const ANSWERS: u8 = 2;
const SENDS: u8 = 4;
const TAKES_OTHERS: u8 = 8;
const HANGS_UP: u8 = 16;

/// A whole session against a peer that says these octets: it comes to an end, every request is settled, nothing is
/// answered that was not asked, no more than once, and everything written is SMPP.
pub(crate) fn session(input: &[u8]) {
    let Some((&[flags, size], said)) = input.split_first_chunk::<2>() else { return };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(play(flags, usize::from(size).max(1), said));
}

async fn play(flags: u8, size: usize, said: &[u8]) {
    let (ours, mut peer) = duplex(4096);
    let Session { link, mut incoming, mut late, driver } = if flags & WE_BOUND != 0 {
        as_client(ours, &mut peer).await
    } else {
        as_server(ours, &mut peer).await
    };
    let mut work = JoinSet::new();
    work.spawn(async move {
        driver.await;
    });
    let answers = flags & ANSWERS != 0;
    work.spawn(async move {
        while let Some((_, responder)) = incoming.recv().await {
            if answers { responder.respond(CommandStatus::ESME_ROK) } else { responder.forget() }
        }
    });
    work.spawn(async move { while late.recv().await.is_some() {} });
    if let Some(mut requests) = link.take_requests().filter(|_| flags & TAKES_OTHERS != 0) {
        work.spawn(async move {
            while let Some((_, responder)) = requests.recv().await {
                if let Some(responder) = responder.filter(|_| answers) {
                    responder.respond_with(CommandStatus::ESME_ROK, "x".into());
                }
            }
        });
    }
    if flags & SENDS != 0 {
        send(&link, &mut work);
    }
    let (mut reader, mut writer) = tokio::io::split(peer);
    let hangs_up = flags & HANGS_UP != 0;
    let octets = said.to_vec();
    let mut other_end = JoinSet::new();
    other_end.spawn(async move {
        for piece in octets.chunks(size) {
            if writer.write_all(piece).await.is_err() {
                break;
            }
        }
        if hangs_up { drop(writer.shutdown().await) } else { std::future::pending::<()>().await }
    });
    let mut written = Vec::new();
    let ended = timeout(Duration::from_secs(3600), reader.read_to_end(&mut written)).await;
    assert!(ended.is_ok(), "the session goes on for ever");
    timeout(Duration::from_secs(60), async {
        while work.join_next().await.is_some_and(|task| task.map(|()| true).unwrap()) {}
    })
    .await
    .unwrap();
    assert!(link.is_closed());
    check(said, &written);
}

async fn as_client(ours: DuplexStream, peer: &mut DuplexStream) -> Session<u8> {
    let answer = async {
        let resp = BindResp { kind: BindKind::Transceiver, system_id: "a".into(), tlvs: Tlvs::new() };
        peer.write_all(&wire(1, Pdu::BindResp(resp)).unwrap()).await.unwrap();
        let length = usize::try_from(peer.read_u32().await.unwrap()).unwrap();
        peer.read_exact(&mut vec![0; length - 4]).await.unwrap();
    };
    let bind = client::bind(ours, BindOptions::transceiver("a", "b"), OPTIONS);
    tokio::join!(bind, answer).0.unwrap().0
}

async fn as_server(ours: DuplexStream, peer: &mut DuplexStream) -> Session<u8> {
    let bind = Bind {
        kind: BindKind::Transceiver,
        system_id: "a".into(),
        password: "b".into(),
        system_type: COctets::default(),
        interface_version: 0x34,
        address_range: sotto_smpp::Address::default(),
    };
    peer.write_all(&wire(0, Pdu::Bind(bind)).unwrap()).await.unwrap();
    server::accept(ours, OPTIONS).await.unwrap().accept(&COctets::default())
}

/// Three messages and a query (or, from the other side, a notice): every one of them must be settled.
fn send(link: &Link<u8>, work: &mut JoinSet<()>) {
    for token in 0..3 {
        let Some(permit) = link.try_reserve() else { return };
        let Ok(pending) = link.send(permit, Box::default(), token) else { return };
        work.spawn(async move { drop(pending.await) });
    }
    let _noticed = link.notify(Box::default()).is_ok();
    let Some(permit) = link.try_reserve() else { return };
    if let Ok(pending) = link.request(permit, Pdu::QuerySm(Box::default()), 3) {
        work.spawn(async move { drop(pending.await) });
    }
}

fn check(said: &[u8], written: &[u8]) {
    let (heard, broken) = cut(said, OPTIONS.max_pdu);
    let requests = heard.iter().map(|raw| raw.header).filter(|header| header.id.wants_response());
    let mut asked: Vec<(u32, CommandId)> = requests
        .map(|Header { id, sequence, .. }| {
            (sequence, if id.name().is_some() { id.response() } else { CommandId::GENERIC_NACK })
        })
        .chain(broken.map(|sequence| (sequence, CommandId::GENERIC_NACK)))
        .collect();
    let (told, _) = cut(written, u32::MAX);
    let mut requests = HashSet::new();
    for raw in told {
        raw.decode().unwrap();
        let bind = Pdu::BindResp(BindResp {
            kind: BindKind::Transceiver,
            system_id: COctets::default(),
            tlvs: Tlvs::new(),
        });
        if raw.header.id == bind.id() && raw.header.status.is_ok() {
            continue;
        }
        if !raw.header.id.is_response() {
            assert!(requests.insert(raw.header.sequence), "a sequence number used twice");
            continue;
        }
        let answer = (raw.header.sequence, raw.header.id);
        let at = asked.iter().position(|asked| *asked == answer);
        assert!(at.is_some(), "an answer to nothing, or a second one");
        at.map(|at| asked.swap_remove(at));
    }
}
