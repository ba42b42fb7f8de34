//! What peers that are dead, half-dead or slow cost us: little each, and not for ever. Counted in resident memory of
//! this process (each test is its own under nextest), on pipes in memory and paused time.

use crate::support::{Peer, ok, wire};
use bytes::Bytes;
use sotto_smpp::{
    Address, Bind, BindKind, CloseReason, CommandId, CommandStatus, Link, Pdu, Session, SessionOptions, Sm,
    SubmitError, Tlvs,
    server::{self, AcceptError},
    tlv::tag,
};
use std::time::Duration;
use tokio::{
    io::{AsyncWriteExt, DuplexStream, duplex},
    task::JoinSet,
    time::timeout,
};

const PEERS: usize = 10_000;
const PAGE: usize = 4096;

/// Resident octets of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * PAGE
}

fn bind() -> Bytes {
    let bind = Bind {
        kind: BindKind::Transceiver,
        system_id: "partner".into(),
        password: "secret".into(),
        system_type: "".into(),
        interface_version: 0x34,
        address_range: Address::default(),
    };
    wire(&ok(1, Pdu::Bind(bind))).freeze()
}

async fn bound(
    mut peer: DuplexStream,
    ours: DuplexStream,
    options: SessionOptions,
) -> (Session<usize>, DuplexStream) {
    peer.write_all(&bind()).await.unwrap();
    (server::accept(ours, options).await.unwrap().accept(&"sotto".into()), peer)
}

/// Half of a header, a large PDU of which little comes, nothing at all: what a link leaves behind when it dies.
fn last_words(number: usize) -> &'static [u8] {
    match number % 3 {
        0 => &[],
        1 => &[0, 0, 0, 16, 0, 0],
        _ => &[0, 1, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0],
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_dead_binds_are_small_and_all_end() {
    let before = resident();
    let (mut drivers, mut held) = (JoinSet::new(), Vec::new());
    for number in 0..PEERS {
        let (peer, ours) = duplex(256);
        let (session, mut peer) = bound(peer, ours, SessionOptions::default()).await;
        let Session { link, incoming, late, driver } = session;
        drivers.spawn(driver);
        peer.write_all(last_words(number)).await.unwrap();
        held.push((link, incoming, late, peer));
    }
    tokio::task::yield_now().await;
    let each = (resident() - before) / PEERS;
    println!("{each} octets for each dead bind");
    assert!(each < 32 * 1024, "{each}");
    // One enquiry and one response timeout later nobody is left.
    let all = async {
        let mut ended = 0;
        while let Some(reason) = drivers.join_next().await {
            assert_eq!(reason.unwrap(), CloseReason::EnquireTimeout);
            ended += 1;
        }
        ended
    };
    let SessionOptions { enquire_link_interval, response_timeout, .. } = SessionOptions::default();
    let limit = enquire_link_interval + response_timeout + Duration::from_secs(5);
    assert_eq!(timeout(limit, all).await.unwrap(), PEERS);
    assert!(held.iter().all(|(link, ..)| link.is_closed()));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_strangers_get_little_and_not_for_long() {
    let before = resident();
    let (mut waits, mut peers) = (JoinSet::new(), Vec::new());
    for number in 0..PEERS {
        let (mut peer, ours) = duplex(256);
        waits.spawn(server::accept(ours, SessionOptions::default()));
        let bind = bind();
        // Some begin a bind, some announce the most that a stranger may and send a part of it.
        let words: &[u8] = if number % 2 == 0 { &bind[..20] } else { &[0, 0, 4, 0, 0, 0, 0, 9, 0, 0, 0, 0] };
        peer.write_all(words).await.unwrap();
        peers.push(peer);
    }
    tokio::task::yield_now().await;
    let each = (resident() - before) / PEERS;
    println!("{each} octets for each stranger");
    assert!(each < 16 * 1024, "{each}");
    let all = async {
        let mut ended = 0;
        while let Some(end) = waits.join_next().await {
            assert!(matches!(end.unwrap(), Err(AcceptError::TimedOut)));
            ended += 1;
        }
        ended
    };
    let limit = SessionOptions::default().response_timeout + Duration::from_secs(5);
    assert_eq!(timeout(limit, all).await.unwrap(), PEERS);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_may_not_announce_what_a_partner_may() {
    let (ours, theirs) = duplex(4096);
    let mut peer = Peer::new(ours);
    peer.say_octets(&[0, 0, 4, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5]).await;
    let refused = server::accept(theirs, SessionOptions::default()).await;
    assert!(matches!(refused, Err(AcceptError::Framing(_))));
    assert_eq!(peer.expect(CommandId::GENERIC_NACK).await, (5, CommandStatus::ESME_RINVCMDLEN));
    // Bound, the same length is fine.
    let (peer, ours) = duplex(128 * 1024);
    let (session, mut peer) = bound(peer, ours, SessionOptions::default()).await;
    let Session { link: _link, mut incoming, late: _late, driver } = session;
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    peer.write_all(&wire(&ok(2, Pdu::SubmitSm(large())))).await.unwrap();
    let (sm, _responder) = incoming.recv().await.unwrap();
    assert_eq!(sm.message().len(), 60_000);
}

/// A message of 60,000 octets.
fn large() -> Box<Sm> {
    let tlvs = Tlvs::new().with(tag::MESSAGE_PAYLOAD, Bytes::from(vec![b'a'; 60_000]));
    Box::new(Sm { tlvs, ..Sm::default() })
}

/// Sends until the window is full, then waits for what becomes of it all.
async fn fill(link: Link<usize>) -> Vec<Result<(), SubmitError>> {
    let mut pending = Vec::new();
    while let Some(permit) = link.try_reserve() {
        pending.push(link.send(permit, large(), pending.len()).unwrap());
    }
    let mut ends = Vec::new();
    for answer in pending {
        ends.push(answer.await.map(drop));
    }
    ends
}

#[tokio::test(start_paused = true)]
async fn readers_that_stand_still_hold_one_window_each_and_are_given_up() {
    const READERS: usize = 100;
    let options = SessionOptions { window: 4, ..SessionOptions::default() };
    let before = resident();
    let (mut drivers, mut fills, mut held) = (JoinSet::new(), JoinSet::new(), Vec::new());
    for _ in 0..READERS {
        let (peer, ours) = duplex(256);
        let (session, peer) = bound(peer, ours, options).await;
        let Session { link, incoming, late, driver } = session;
        drivers.spawn(driver);
        fills.spawn(fill(link.clone()));
        held.push((link, incoming, late, peer));
    }
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
    let each = (resident() - before) / READERS;
    println!("{each} octets for each reader that stands still");
    // What is queued, as much again for what is being written, and the slack of growing buffers.
    assert!(each < 4 * 4 * 64 * 1024, "{each}");
    while let Some(reason) = drivers.join_next().await {
        assert_eq!(reason.unwrap(), CloseReason::WriteStalled);
    }
    let mut told = 0;
    while let Some(ends) = fills.join_next().await {
        let ends = ends.unwrap();
        assert!(ends.iter().all(Result::is_err), "nobody answered");
        told += ends.len();
    }
    assert_eq!(told, READERS * 4);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_requests_stops_at_the_window_of_a_slow_application() {
    let options = SessionOptions { incoming_window: 8, ..SessionOptions::default() };
    let (peer, ours) = duplex(4096);
    let (session, mut peer) = bound(peer, ours, options).await;
    let Session { link, mut incoming, late: _late, driver } = session;
    let mut requests = link.take_requests().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    let flood =
        [wire(&ok(2, Pdu::SubmitSm(Box::default()))), wire(&ok(3, Pdu::DataSm(Box::default())))].concat();
    let mut written = 0_usize;
    while timeout(Duration::from_secs(5), peer.write_all(&flood)).await.is_ok() {
        written += 2;
    }
    // The window, the two pipes and the read buffer: not one request more.
    assert!(written < 8 + (2 * 4096 + 16 * 1024) / 34, "{written}");
    let mut taken = 0;
    let mut responders = Vec::new();
    while let Ok(Some((_, responder))) = timeout(Duration::from_secs(1), incoming.recv()).await {
        responders.push(responder);
        taken += 1;
    }
    while let Ok(Some((_, responder))) = timeout(Duration::from_secs(1), requests.recv()).await {
        responders.extend(responder);
        taken += 1;
    }
    assert_eq!(taken, 8);
    assert!(!link.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_an_octet_a_second_is_served_within_bounds() {
    let options = SessionOptions { window: 4, ..SessionOptions::default() };
    let (peer, ours) = duplex(256);
    let (session, peer) = bound(peer, ours, options).await;
    let Session { link, incoming: _incoming, late: _late, driver } = session;
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        let mut peer = peer;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if tokio::io::AsyncReadExt::read_u8(&mut peer).await.is_err() {
                return;
            }
        }
    });
    // A write must come through within the response timeout; a few octets a second do not do that.
    let ends = fill(link.clone()).await;
    assert_eq!(ends.len(), 4);
    assert!(ends.iter().all(Result::is_err));
    assert_eq!(tasks.join_next().await.unwrap().unwrap(), CloseReason::WriteStalled);
}
