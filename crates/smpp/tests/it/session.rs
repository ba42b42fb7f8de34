//! Sessions over a pipe in memory, on paused time: windows, timeouts, half-dead peers.

use crate::support::{Peer, ok};
use bytes::Bytes;
use proptest::{prelude::*, test_runner::TestRunner};
use sotto_smpp::{
    BindKind, BindResp, CloseReason, Command, CommandId, CommandStatus, Incoming, LateResponses, Link,
    NotSentReason, Pdu, PendingResponse, Response, Session, SessionOptions, Sm, SmResp, SubmitError, Tlvs,
    client::{self, BindError, BindOptions},
    server,
};
use std::time::Duration;
use tokio::{
    io::{DuplexStream, duplex},
    task::JoinSet,
    time::timeout,
};

const OPTIONS: SessionOptions = SessionOptions {
    window: 4,
    incoming_window: 2,
    response_timeout: Duration::from_secs(10),
    enquire_link_interval: Duration::from_secs(30),
    max_pdu: 65_536,
    late_capacity: 8,
};

struct Bound {
    link: Link<u64>,
    incoming: Incoming,
    late: LateResponses<u64>,
    driver: JoinSet<CloseReason>,
    peer: Peer,
}

impl Bound {
    async fn ended(&mut self) -> CloseReason {
        self.driver.join_next().await.unwrap().unwrap()
    }

    async fn send(&self, token: u64) -> PendingResponse {
        let permit = self.link.reserve().await.unwrap();
        self.link.send(permit, message(), token).unwrap()
    }
}

fn message() -> Box<Sm> {
    Box::new(Sm { short_message: Bytes::from_static(b"hello"), ..Sm::default() })
}

async fn bound_over(ours: DuplexStream, theirs: DuplexStream, options: SessionOptions) -> Bound {
    let mut peer = Peer::new(theirs);
    let bind = client::bind(ours, BindOptions::transceiver("sotto", "secret"), options);
    let answer = async {
        let (sequence, _) = peer.expect(CommandId::BIND_TRANSCEIVER).await;
        let resp = BindResp { kind: BindKind::Transceiver, system_id: "carrier".into(), tlvs: Tlvs::new() };
        peer.say(&ok(sequence, Pdu::BindResp(resp))).await;
    };
    let (session, ()) = tokio::join!(bind, answer);
    let (Session { link, incoming, late, driver }, resp) = session.unwrap();
    assert_eq!(resp.system_id.as_str(), Some("carrier"));
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    Bound { link, incoming, late, driver: tasks, peer }
}

async fn bound() -> Bound {
    let (ours, theirs) = duplex(64 * 1024);
    bound_over(ours, theirs, OPTIONS).await
}

#[tokio::test(start_paused = true)]
async fn an_answer_finds_its_request_in_any_order() {
    let mut bound = bound().await;
    let (first, second) = (bound.send(1).await, bound.send(2).await);
    let (a, _) = bound.peer.expect(CommandId::SUBMIT_SM).await;
    let (b, _) = bound.peer.expect(CommandId::SUBMIT_SM).await;
    bound.peer.answer(b, "two").await;
    bound.peer.answer(a, "one").await;
    let expected = Response { sequence: a, status: CommandStatus::ESME_ROK, message_id: Some("one".into()) };
    assert_eq!(first.await, Ok(expected));
    assert_eq!(second.await.unwrap().message_id, Some("two".into()));
    assert_eq!(bound.link.free(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_and_a_generic_nack_are_answers() {
    let mut bound = bound().await;
    let (refused, nacked) = (bound.send(1).await, bound.send(2).await);
    let (a, _) = bound.peer.expect(CommandId::SUBMIT_SM).await;
    let (b, _) = bound.peer.expect(CommandId::SUBMIT_SM).await;
    let status = CommandStatus::ESME_RTHROTTLED;
    let resp = Command { status, sequence: a, pdu: Pdu::SubmitSmResp(SmResp::default()) };
    bound.peer.say(&resp).await;
    let status = CommandStatus::ESME_RINVCMDLEN;
    bound.peer.say(&Command { status, sequence: b, pdu: Pdu::GenericNack }).await;
    assert_eq!(refused.await.unwrap().status, CommandStatus::ESME_RTHROTTLED);
    assert_eq!(nacked.await.unwrap().status, CommandStatus::ESME_RINVCMDLEN);
}

#[tokio::test(start_paused = true)]
async fn an_id_without_its_nul_is_read_and_an_unreadable_one_is_still_a_success() {
    let mut bound = bound().await;
    for (id, expected) in [(b"123".to_vec(), Some("123".into())), (vec![b'1'; 100], None)] {
        let pending = bound.send(1).await;
        let (sequence, _) = bound.peer.expect(CommandId::SUBMIT_SM).await;
        let mut octets = vec![0, 0, 0, u8::try_from(id.len()).unwrap() + 16, 0x80, 0, 0, 4, 0, 0, 0, 0];
        octets.extend_from_slice(&sequence.to_be_bytes());
        octets.extend_from_slice(&id);
        bound.peer.say_octets(&octets).await;
        let response = pending.await.unwrap();
        assert_eq!((response.status, response.message_id), (CommandStatus::ESME_ROK, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_comes_with_its_token() {
    let mut bound = bound().await;
    let pending = bound.send(77).await;
    let (sequence, _) = bound.peer.expect(CommandId::SUBMIT_SM).await;
    assert_eq!(pending.await, Err(SubmitError::TimedOut));
    assert_eq!(bound.link.free(), 4, "a request given up leaves the window");
    bound.peer.answer(sequence, "late").await;
    let late = bound.late.recv().await.unwrap();
    assert_eq!((late.token, late.response.message_id), (77, Some("late".into())));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_waits_for_goes_to_the_late_ones() {
    let mut bound = bound().await;
    drop(bound.send(5).await);
    let (sequence, _) = bound.peer.expect(CommandId::SUBMIT_SM).await;
    bound.peer.answer(sequence, "x").await;
    assert_eq!(bound.late.recv().await.unwrap().token, 5);
    assert_eq!(bound.link.free(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_late_requests_is_bounded() {
    let mut bound = bound().await;
    let mut sequences = Vec::new();
    for token in 0..12 {
        let pending = bound.send(token).await;
        sequences.push(bound.peer.expect(CommandId::SUBMIT_SM).await.0);
        assert_eq!(pending.await, Err(SubmitError::TimedOut));
        bound.peer.say(&ok(900, Pdu::EnquireLink)).await;
        bound.peer.expect(CommandId::ENQUIRE_LINK_RESP).await;
        // A peer that answers nothing at all would be stalled.
        let answered = bound.send(99).await;
        let (sequence, _) = bound.peer.expect(CommandId::SUBMIT_SM).await;
        bound.peer.answer(sequence, "in time").await;
        assert!(answered.await.is_ok());
    }
    for sequence in sequences {
        bound.peer.answer(sequence, "late").await;
    }
    let mut tokens = Vec::new();
    while tokens.len() < 8 {
        tokens.push(bound.late.recv().await.unwrap().token);
    }
    assert_eq!(tokens, [4, 5, 6, 7, 8, 9, 10, 11]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_tells_written_from_unwritten() {
    // The pipe takes one message and a bit: the second is under way, the third still with us.
    let (ours, theirs) = duplex(64);
    let options = SessionOptions { response_timeout: Duration::from_secs(60), ..OPTIONS };
    let mut bound = bound_over(ours, theirs, options).await;
    let first = bound.send(1).await;
    let (_, pdu) = bound.peer.next().await.unwrap();
    assert!(matches!(pdu, Pdu::SubmitSm(_)));
    let second = bound.send(2).await;
    let third = bound.send(3).await;
    // Both are queued together, so both are handed over together; the pipe is full now.
    tokio::task::yield_now().await;
    let fourth = bound.send(4).await;
    drop(bound.peer);
    let reason = bound.driver.join_next().await.unwrap().unwrap();
    assert_eq!(first.await, Err(SubmitError::LinkLost(reason)));
    assert_eq!(second.await, Err(SubmitError::LinkLost(reason)));
    assert_eq!(third.await, Err(SubmitError::LinkLost(reason)));
    assert_eq!(fourth.await, Err(SubmitError::NotWritten(reason)));
    assert_eq!(bound.link.reserve().await.unwrap_err(), NotSentReason::Closing);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_asked_and_given_up() {
    let mut bound = bound().await;
    let started = tokio::time::Instant::now();
    let pending = bound.send(1).await;
    bound.peer.expect(CommandId::SUBMIT_SM).await;
    bound.peer.expect(CommandId::ENQUIRE_LINK).await;
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!(pending.await, Err(SubmitError::TimedOut));
    assert_eq!(bound.ended().await, CloseReason::EnquireTimeout);
    assert_eq!(started.elapsed().as_secs(), 40);
    assert_eq!(bound.link.closed().await, CloseReason::EnquireTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_live_peer_is_kept_and_answered() {
    let mut bound = bound().await;
    for _ in 0..5 {
        let (sequence, _) = bound.peer.expect(CommandId::ENQUIRE_LINK).await;
        bound.peer.say(&ok(sequence, Pdu::EnquireLinkResp)).await;
    }
    bound.peer.say(&ok(41, Pdu::EnquireLink)).await;
    assert_eq!(bound.peer.expect(CommandId::ENQUIRE_LINK_RESP).await, (41, CommandStatus::ESME_ROK));
    assert!(!bound.link.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_sign_of_life_is_asked_for_on_command() {
    let mut bound = bound().await;
    let asked = tokio::time::Instant::now();
    let link = bound.link.clone();
    let (alive, ()) = tokio::join!(link.enquire(), async {
        let (sequence, _) = bound.peer.expect(CommandId::ENQUIRE_LINK).await;
        bound.peer.say(&ok(sequence, Pdu::EnquireLinkResp)).await;
    });
    assert!(alive && asked.elapsed().is_zero(), "at once");
    assert!(!link.enquire().await, "none came");
    assert_eq!(bound.ended().await, CloseReason::EnquireTimeout);
    assert!(!link.enquire().await, "it has ended");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_given_up() {
    let (ours, theirs) = duplex(64);
    let mut bound = bound_over(ours, theirs, OPTIONS).await;
    let pending = [bound.send(1).await, bound.send(2).await, bound.send(3).await];
    assert_eq!(bound.ended().await, CloseReason::WriteStalled);
    for pending in pending {
        assert!(pending.await.unwrap_err().is_ambiguous());
    }
}

#[tokio::test(start_paused = true)]
async fn an_impossible_length_ends_the_session_with_a_nack() {
    let mut bound = bound().await;
    bound.peer.say_octets(&[0, 0, 0, 3]).await;
    assert_eq!(bound.peer.expect(CommandId::GENERIC_NACK).await, (0, CommandStatus::ESME_RINVCMDLEN));
    assert_eq!(bound.ended().await, CloseReason::BadLength);
}

#[tokio::test(start_paused = true)]
async fn malformed_and_misplaced_requests_get_their_status_and_no_more() {
    let mut bound = bound().await;
    let cases = [
        (
            vec![0, 0, 0, 18, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0],
            CommandId::DELIVER_SM_RESP,
            CommandStatus::ESME_RINVCMDLEN,
        ),
        (
            vec![0, 0, 0, 16, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0, 9],
            CommandId::DATA_SM_RESP,
            CommandStatus::ESME_RINVCMDLEN,
        ),
        (
            vec![0, 0, 0, 16, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9],
            CommandId::GENERIC_NACK,
            CommandStatus::ESME_RINVCMDID,
        ),
    ];
    for (octets, id, status) in cases {
        bound.peer.say_octets(&octets).await;
        assert_eq!(bound.peer.expect(id).await, (9, status));
    }
    bound.peer.say(&ok(9, Pdu::SubmitSm(message()))).await;
    let answer = bound.peer.expect(CommandId::SUBMIT_SM_RESP).await;
    assert_eq!(answer, (9, CommandStatus::ESME_RINVBNDSTS));
    // What nobody asked for is refused in its own response.
    bound.peer.say(&ok(9, Pdu::DataSm(Box::default()))).await;
    assert_eq!(bound.peer.expect(CommandId::DATA_SM_RESP).await, (9, CommandStatus::ESME_RINVCMDID));
    bound.peer.say(&ok(9, Pdu::QuerySm(Box::default()))).await;
    assert_eq!(bound.peer.expect(CommandId::QUERY_SM_RESP).await, (9, CommandStatus::ESME_RINVBNDSTS));
    // A stray answer and a notification want nothing, not even when malformed.
    bound.peer.answer(12_345, "stray").await;
    bound.peer.say_octets(&[0, 0, 0, 16, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9]).await;
    bound.peer.say(&ok(10, Pdu::EnquireLink)).await;
    bound.peer.expect(CommandId::ENQUIRE_LINK_RESP).await;
}

#[tokio::test(start_paused = true)]
async fn deliveries_wait_for_the_application() {
    let mut bound = bound().await;
    for sequence in 1..=4 {
        bound.peer.say(&ok(sequence, Pdu::DeliverSm(message()))).await;
    }
    let (sm, first) = bound.incoming.recv().await.unwrap();
    assert_eq!(&sm.message()[..], b"hello");
    let (_, second) = bound.incoming.recv().await.unwrap();
    // Two unanswered is the limit: the third is not even taken, for however long.
    assert!(timeout(Duration::from_secs(300), bound.incoming.recv()).await.is_err());
    assert!(!bound.link.is_closed(), "our own slowness is not the peer's silence");
    first.respond(CommandStatus::ESME_ROK);
    drop(second);
    let statuses = [CommandId::DELIVER_SM_RESP; 2];
    let mut seen = Vec::new();
    for id in statuses {
        // Enquiries of the idle time may lie between.
        loop {
            let (raw, _) = bound.peer.next().await.unwrap();
            if raw.header.id == id {
                seen.push((raw.header.sequence, raw.header.status));
                break;
            }
            bound.peer.say(&ok(raw.header.sequence, Pdu::EnquireLinkResp)).await;
        }
    }
    assert_eq!(seen, [(1, CommandStatus::ESME_ROK), (2, CommandStatus::ESME_RX_T_APPN)]);
    assert!(bound.incoming.recv().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn draining_waits_for_answers_then_unbinds() {
    let mut bound = bound().await;
    let pending = bound.send(1).await;
    let (sequence, _) = bound.peer.expect(CommandId::SUBMIT_SM).await;
    let link = bound.link.clone();
    let mut drain = JoinSet::new();
    drain.spawn(async move { link.drain(Duration::from_secs(5)).await });
    tokio::task::yield_now().await;
    assert_eq!(bound.link.reserve().await.unwrap_err(), NotSentReason::Closing);
    bound.peer.answer(sequence, "1").await;
    let (unbind, _) = bound.peer.expect(CommandId::UNBIND).await;
    assert!(pending.await.is_ok());
    bound.peer.say(&ok(unbind, Pdu::UnbindResp)).await;
    assert_eq!(drain.join_next().await.unwrap().unwrap(), CloseReason::Unbound);
    assert_eq!(bound.ended().await, CloseReason::Unbound);
}

#[tokio::test(start_paused = true)]
async fn draining_ends_at_its_limit() {
    let mut bound = bound().await;
    let pending = bound.send(1).await;
    bound.peer.expect(CommandId::SUBMIT_SM).await;
    let reason = bound.link.drain(Duration::from_secs(1)).await;
    assert_eq!(reason, CloseReason::Unbound);
    assert!(pending.await.unwrap_err().is_ambiguous());
}

#[tokio::test(start_paused = true)]
async fn a_peer_may_hang_up_on_an_unbind() {
    let mut bound = bound().await;
    let hang_up = async {
        bound.peer.expect(CommandId::UNBIND).await;
        drop(bound.peer);
    };
    let (reason, ()) = tokio::join!(bound.link.drain(Duration::from_secs(5)), hang_up);
    assert_eq!(reason, CloseReason::Unbound);
}

#[tokio::test(start_paused = true)]
async fn the_peers_unbind_is_answered() {
    let mut bound = bound().await;
    bound.peer.say(&ok(3, Pdu::Unbind)).await;
    assert_eq!(bound.peer.expect(CommandId::UNBIND_RESP).await, (3, CommandStatus::ESME_ROK));
    assert_eq!(bound.ended().await, CloseReason::PeerUnbound);
    assert!(bound.incoming.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_was_written_before_the_peers_unbind_may_still_be_answered() {
    let mut bound = bound().await;
    let (answered, never) = (bound.send(1).await, bound.send(2).await);
    let (first, _) = bound.peer.expect(CommandId::SUBMIT_SM).await;
    bound.peer.expect(CommandId::SUBMIT_SM).await;
    bound.peer.say(&ok(3, Pdu::Unbind)).await;
    bound.peer.answer(first, "1").await;
    assert!(answered.await.is_ok());
    // Nothing new goes out meanwhile, and what is not answered in time ends the wait.
    assert_eq!(bound.link.reserve().await.unwrap_err(), NotSentReason::Closing);
    assert_eq!(never.await, Err(SubmitError::TimedOut));
    assert_eq!(bound.peer.expect(CommandId::UNBIND_RESP).await, (3, CommandStatus::ESME_ROK));
    assert_eq!(bound.ended().await, CloseReason::PeerUnbound);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_driver_settles_every_account() {
    let mut bound = bound().await;
    let sent = bound.send(1).await;
    bound.peer.expect(CommandId::SUBMIT_SM).await;
    let unsent = bound.send(2).await;
    bound.driver.abort_all();
    assert!(bound.driver.join_next().await.unwrap().is_err());
    assert_eq!(sent.await, Err(SubmitError::LinkLost(CloseReason::Aborted)));
    assert_eq!(unsent.await, Err(SubmitError::NotWritten(CloseReason::Aborted)));
    assert_eq!(bound.link.closed().await, CloseReason::Aborted);
}

#[tokio::test(start_paused = true)]
async fn a_bind_may_be_refused_unanswered_or_cut() {
    for (answer, expected) in [
        (Some(CommandStatus::ESME_RINVPASWD), "bind refused with ESME_RINVPASWD"),
        (None, "bind was not answered in time"),
    ] {
        let (ours, theirs) = duplex(1024);
        let mut peer = Peer::new(theirs);
        let bind = client::bind::<(), _>(ours, BindOptions::transceiver("a", "b"), OPTIONS);
        let refusal = async {
            let (sequence, _) = peer.expect(CommandId::BIND_TRANSCEIVER).await;
            if let Some(status) = answer {
                let pdu = Pdu::BindResp(BindResp {
                    kind: BindKind::Transceiver,
                    system_id: "".into(),
                    tlvs: Tlvs::new(),
                });
                peer.say(&Command { status, sequence, pdu }).await;
            }
        };
        let (result, ()) = tokio::join!(bind, refusal);
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
    let (ours, theirs) = duplex(1024);
    drop(theirs);
    let result = client::bind::<(), _>(ours, BindOptions::transceiver("a", "b"), OPTIONS).await;
    assert!(matches!(result, Err(BindError::Io(_) | BindError::Closed)));
}

/// A session of ours at both ends of a pipe, with their drivers on tasks.
async fn both(kind: BindKind) -> ((Link<u64>, Incoming), (Link<u64>, Incoming), JoinSet<CloseReason>) {
    let (ours, theirs) = duplex(64 * 1024);
    let bind = BindOptions { kind, ..BindOptions::transceiver("sotto", "secret") };
    let mut tasks = JoinSet::new();
    let accept = async {
        let request = server::accept(theirs, OPTIONS).await.unwrap();
        assert_eq!(request.bind.password.as_str(), Some("secret"));
        let session = request.accept::<u64>(&"carrier".into());
        tasks.spawn(session.driver);
        (session.link, session.incoming)
    };
    let (client, server) = tokio::join!(client::bind(ours, bind, OPTIONS), accept);
    let (client, _) = client.unwrap();
    tasks.spawn(client.driver);
    ((client.link, client.incoming), server, tasks)
}

#[tokio::test(start_paused = true)]
async fn both_ends_of_ours_understand_each_other() {
    let ((client, mut deliveries), (server, mut submits), tasks) = both(BindKind::Transceiver).await;
    let pending = client.send(client.reserve().await.unwrap(), message(), 1).unwrap();
    let (sm, responder) = submits.recv().await.unwrap();
    assert_eq!(sm, message());
    responder.respond_with(CommandStatus::ESME_ROK, "id-1".into());
    assert_eq!(pending.await.unwrap().message_id, Some("id-1".into()));
    let pending = server.send(server.reserve().await.unwrap(), message(), 2).unwrap();
    deliveries.recv().await.unwrap().1.respond(CommandStatus::ESME_ROK);
    assert!(pending.await.unwrap().status.is_ok());
    assert_eq!(client.drain(Duration::from_secs(5)).await, CloseReason::Unbound);
    assert_eq!(server.closed().await, CloseReason::PeerUnbound);
    assert_eq!(tasks.join_all().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_bind_opens_only_its_directions() {
    let ((client, _deliveries), (server, _submits), _tasks) = both(BindKind::Receiver).await;
    let refused = client.send(client.reserve().await.unwrap(), message(), 1).unwrap_err();
    assert_eq!((refused.reason, refused.token), (NotSentReason::Direction, 1));
    assert!(server.send(server.reserve().await.unwrap(), message(), 1).is_ok());
    let ((_client, _deliveries), (server, _submits), _tasks) = both(BindKind::Transmitter).await;
    let refused = server.send(server.reserve().await.unwrap(), message(), 1).unwrap_err();
    assert_eq!(refused.reason, NotSentReason::Direction);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_request_times_out_and_an_abort_cuts() {
    let ((client, _deliveries), (server, mut submits), _tasks) = both(BindKind::Transceiver).await;
    let pending = client.send(client.reserve().await.unwrap(), message(), 1).unwrap();
    submits.recv().await.unwrap().1.forget();
    assert_eq!(pending.await, Err(SubmitError::TimedOut));
    let pending = client.send(client.reserve().await.unwrap(), message(), 1).unwrap();
    let (_, responder) = submits.recv().await.unwrap();
    server.abort();
    assert_eq!(pending.await, Err(SubmitError::LinkLost(CloseReason::PeerClosed)));
    drop(responder);
    assert_eq!(server.closed().await, CloseReason::Aborted);
}

#[tokio::test(start_paused = true)]
async fn before_a_bind_only_binds_count() {
    let (ours, theirs) = duplex(4096);
    let mut peer = Peer::new(ours);
    peer.say(&ok(1, Pdu::EnquireLink)).await;
    peer.say(&ok(2, Pdu::SubmitSm(message()))).await;
    peer.say_octets(&[0, 0, 0, 15]).await;
    assert!(server::accept(theirs, OPTIONS).await.is_err());
    assert_eq!(peer.expect(CommandId::ENQUIRE_LINK_RESP).await.1, CommandStatus::ESME_ROK);
    assert_eq!(peer.expect(CommandId::SUBMIT_SM_RESP).await.1, CommandStatus::ESME_RINVBNDSTS);
    assert_eq!(peer.expect(CommandId::GENERIC_NACK).await.1, CommandStatus::ESME_RINVCMDLEN);
}

/// INV: whatever the order of sends, answers and silence, the window is never exceeded, every request is settled
/// exactly once and every place comes back.
#[test]
fn the_window_is_never_exceeded() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let steps = proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..60);
    TestRunner::new(ProptestConfig::with_cases(64))
        .run(&steps, |steps| {
            runtime.block_on(async {
                let mut bound = bound().await;
                let (mut open, mut waiters) = (Vec::new(), Vec::new());
                for (send, at) in steps {
                    if send {
                        let permit = bound.link.try_reserve();
                        assert_eq!(permit.is_none(), open.len() == OPTIONS.window);
                        let Some(permit) = permit else { continue };
                        waiters.push(bound.link.send(permit, message(), 0).unwrap());
                        open.push(bound.peer.expect(CommandId::SUBMIT_SM).await.0);
                    } else if !open.is_empty() {
                        let sequence = open.swap_remove(at.index(open.len()));
                        bound.peer.answer(sequence, "x").await;
                        let at = waiters.iter().position(|w| w.sequence() == sequence).unwrap();
                        assert!(waiters.swap_remove(at).await.is_ok());
                    }
                    assert_eq!(bound.link.free(), OPTIONS.window - open.len());
                }
                for waiter in waiters {
                    assert_eq!(waiter.await, Err(SubmitError::TimedOut));
                }
                assert_eq!(bound.link.free(), OPTIONS.window);
            });
            Ok(())
        })
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_only_talks_cannot_fill_our_memory() {
    let (ours, theirs) = duplex(4096);
    let bound = bound_over(ours, theirs, OPTIONS).await;
    let Bound { mut peer, mut driver, .. } = bound;
    let enquiry = crate::support::wire(&ok(1, Pdu::EnquireLink)).repeat(256);
    // It never reads; our reading stops, so its writing does, and in the end the link is given up.
    let talk = async {
        loop {
            if timeout(Duration::from_secs(3600), peer.try_say(&enquiry)).await.is_err() {
                return;
            }
        }
    };
    let reason = tokio::select! {
        reason = driver.join_next() => reason.unwrap().unwrap(),
        () = talk => panic!("peer was let talk for ever"),
    };
    assert_eq!(reason, CloseReason::WriteStalled);
}

#[tokio::test(start_paused = true)]
async fn whoever_looks_sees_every_pdu_and_nothing_personal() {
    let mut bound = bound().await;
    let mut seen = bound.link.trace();
    let pending = bound.send(1).await;
    let (sequence, _) = bound.peer.expect(CommandId::SUBMIT_SM).await;
    bound
        .peer
        .say(&ok(sequence, Pdu::SubmitSmResp(SmResp { message_id: "secret-id".into(), ..SmResp::default() })))
        .await;
    pending.await.unwrap();
    let (written, read) = (seen.recv().await.unwrap(), seen.recv().await.unwrap());
    assert!(written.outgoing && !read.outgoing);
    assert_eq!((written.header.id, read.header.id), (CommandId::SUBMIT_SM, CommandId::SUBMIT_SM_RESP));
    assert_eq!((written.header.sequence, read.header.sequence), (sequence, sequence));
    let told = format!("{written:?} {read:?}");
    assert!(told.contains("data_coding") && !told.contains("secret-id"), "{told}");
    // Nobody looks any more: nothing is kept.
    drop(seen);
    let _pending = bound.send(2).await;
    bound.peer.expect(CommandId::SUBMIT_SM).await;
}
