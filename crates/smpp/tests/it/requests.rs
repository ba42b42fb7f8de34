//! Requests and notices other than plain messages, between two ends of ours and against a peer that misbehaves.

use crate::support::{Peer, ok};
use sotto_smpp::{
    AlertNotification, BindKind, CloseReason, CommandId, CommandStatus, DataSm, LateResponses, Link,
    NotSentReason, NoticeError, Pdu, QuerySm, QuerySmResp, Requests, Session, SessionOptions, SmResp,
    SubmitError, SubmitMulti, Tlvs,
    client::{self, BindOptions},
    server,
};
use tokio::{io::duplex, task::JoinSet};

struct End {
    link: Link<u64>,
    requests: Requests,
    late: LateResponses<u64>,
    _incoming: sotto_smpp::Incoming,
}

fn end(session: Session<u64>, tasks: &mut JoinSet<CloseReason>) -> End {
    let Session { link, incoming, late, driver } = session;
    tasks.spawn(driver);
    let requests = link.take_requests().unwrap();
    assert!(link.take_requests().is_none());
    End { link, requests, late, _incoming: incoming }
}

async fn both(kind: BindKind) -> (End, End, [JoinSet<CloseReason>; 2]) {
    let (ours, theirs) = duplex(4096);
    let bind = BindOptions { kind, ..BindOptions::transceiver("sotto", "secret") };
    let (mut ours_tasks, mut tasks) = (JoinSet::new(), JoinSet::new());
    let accept = async {
        let request = server::accept(theirs, SessionOptions::default()).await.unwrap();
        end(request.accept(&"carrier".into()), &mut tasks)
    };
    let (client, server) = tokio::join!(client::bind(ours, bind, SessionOptions::default()), accept);
    let client = end(client.unwrap().0, &mut ours_tasks);
    (client, server, [ours_tasks, tasks])
}

fn query() -> Pdu {
    Pdu::QuerySm(Box::new(QuerySm { message_id: "7".into(), ..QuerySm::default() }))
}

fn alert() -> Box<AlertNotification> {
    Box::default()
}

#[tokio::test(start_paused = true)]
async fn a_query_gets_its_whole_answer() {
    let (client, mut server, _tasks) = both(BindKind::Transceiver).await;
    let pending = client.link.request(client.link.reserve().await.unwrap(), query(), 1).unwrap();
    let (request, responder) = server.requests.recv().await.unwrap();
    assert_eq!(request, query());
    let resp = QuerySmResp { message_id: "7".into(), message_state: 2, ..QuerySmResp::default() };
    let resp = Pdu::QuerySmResp(Box::new(resp));
    responder.unwrap().respond_pdu(CommandStatus::ESME_ROK, resp.clone());
    let answer = pending.await.unwrap();
    assert_eq!((answer.status, answer.pdu), (CommandStatus::ESME_ROK, Some(resp)));
    assert_eq!(client.link.free(), SessionOptions::default().window);
}

#[tokio::test(start_paused = true)]
async fn every_request_may_be_refused_forgotten_or_answered_by_mistake() {
    let (client, mut server, _tasks) = both(BindKind::Transceiver).await;
    let multi = Pdu::SubmitMulti(Box::new(SubmitMulti {
        destinations: vec![sotto_smpp::Destination::List("all".into())],
        ..SubmitMulti::default()
    }));
    let all = [
        multi,
        Pdu::DataSm(Box::default()),
        query(),
        Pdu::CancelSm(Box::default()),
        Pdu::ReplaceSm(Box::default()),
        Pdu::BroadcastSm(Box::default()),
        Pdu::QueryBroadcastSm(Box::default()),
        Pdu::CancelBroadcastSm(Box::default()),
    ];
    for pdu in all {
        for (case, status) in [
            (0, CommandStatus::ESME_RTHROTTLED),
            (1, CommandStatus::ESME_RX_T_APPN),
            (2, CommandStatus::ESME_RSYSERR),
        ] {
            let permit = client.link.reserve().await.unwrap();
            let pending = client.link.request(permit, pdu.clone(), 1).unwrap();
            let (_, responder) = server.requests.recv().await.unwrap();
            let responder = responder.unwrap();
            match case {
                0 => responder.respond(status),
                1 => drop(responder),
                _ => responder.respond_pdu(CommandStatus::ESME_ROK, Pdu::UnbindResp),
            }
            let answer = pending.await.unwrap();
            assert_eq!(answer.status, status);
            assert_eq!(answer.pdu.map(|pdu| pdu.id()), Some(pdu.id().response()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_other_side_sends_data_and_alerts() {
    let (mut client, server, _tasks) = both(BindKind::Receiver).await;
    let data = Pdu::DataSm(Box::new(DataSm { data_coding: 8, ..DataSm::default() }));
    let pending = server.link.request(server.link.reserve().await.unwrap(), data.clone(), 1).unwrap();
    server.link.notify(alert()).unwrap();
    let (request, responder) = client.requests.recv().await.unwrap();
    assert_eq!(request, data);
    responder.unwrap().respond_with(CommandStatus::ESME_ROK, "9".into());
    let expected = Pdu::DataSmResp(SmResp { message_id: "9".into(), tlvs: Tlvs::new() });
    assert_eq!(pending.await.unwrap().pdu, Some(expected));
    let (notice, responder) = client.requests.recv().await.unwrap();
    assert_eq!(notice, Pdu::AlertNotification(alert()));
    assert!(responder.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_request_of_the_wrong_side_or_kind_is_not_written() {
    let (client, server, _tasks) = both(BindKind::Transceiver).await;
    let permit = || async { client.link.reserve().await.unwrap() };
    for pdu in [Pdu::EnquireLink, Pdu::Unbind, Pdu::DeliverSm(Box::default()), Pdu::UnbindResp] {
        let refused = client.link.request(permit().await, pdu, 1).unwrap_err();
        assert_eq!((refused.reason, refused.token), (NotSentReason::Direction, 1));
    }
    let refused = server.link.request(server.link.reserve().await.unwrap(), query(), 1).unwrap_err();
    assert_eq!(refused.reason, NotSentReason::Direction);
    assert_eq!(client.link.notify(alert()), Err(NoticeError::NotSent(NotSentReason::Direction)));
    let (client, _server, _tasks) = both(BindKind::Receiver).await;
    let refused = client.link.request(client.link.reserve().await.unwrap(), query(), 1).unwrap_err();
    assert_eq!(refused.reason, NotSentReason::Direction, "a receiver asks nothing");
}

#[tokio::test(start_paused = true)]
async fn only_an_answer_of_its_own_kind_settles_a_request() {
    let (ours, theirs) = duplex(4096);
    let mut peer = Peer::new(theirs);
    let answer = async {
        let (sequence, _) = peer.expect(CommandId::BIND_TRANSCEIVER).await;
        peer.say_octets(&[0, 0, 0, 16, 0x80, 0, 0, 9, 0, 0, 0, 0]).await;
        peer.say_octets(&sequence.to_be_bytes()).await;
    };
    let bind = client::bind(ours, BindOptions::transceiver("sotto", "secret"), SessionOptions::default());
    let (session, ()) = tokio::join!(bind, answer);
    let mut tasks = JoinSet::new();
    let mut client = end(session.unwrap().0, &mut tasks);
    let data = Pdu::DataSm(Box::default());
    let pending = client.link.request(client.link.reserve().await.unwrap(), data, 5).unwrap();
    let (sequence, _) = peer.expect(CommandId::DATA_SM).await;
    peer.answer(sequence, "not its own").await;
    assert_eq!(pending.await, Err(SubmitError::TimedOut));
    // Nor is it the late answer.
    peer.answer(sequence, "not its own").await;
    let resp = SmResp { message_id: "late".into(), tlvs: Tlvs::new() };
    peer.say(&ok(sequence, Pdu::DataSmResp(resp))).await;
    let late = client.late.recv().await.unwrap();
    assert_eq!((late.token, late.response.message_id), (5, Some("late".into())));
}

#[tokio::test(start_paused = true)]
async fn notices_to_a_peer_that_does_not_read_do_not_pile_up() {
    let (ours, theirs) = duplex(64);
    let accept = server::accept(theirs, SessionOptions::default());
    let mut peer = Peer::new(ours);
    let bind = crate::support::wire(&ok(
        1,
        Pdu::Bind(sotto_smpp::Bind {
            kind: BindKind::Receiver,
            system_id: "a".into(),
            password: "b".into(),
            system_type: "".into(),
            interface_version: 0x34,
            address_range: sotto_smpp::Address::default(),
        }),
    ));
    let (request, ()) = tokio::join!(accept, peer.say_octets(&bind));
    let session = request.unwrap().accept::<u64>(&"carrier".into());
    let mut tasks = JoinSet::new();
    let server = end(session, &mut tasks);
    let mut sent = 0_u32;
    let refused = loop {
        match server.link.notify(alert()) {
            Ok(()) => sent += 1,
            Err(reason) => break reason,
        }
    };
    assert_eq!(refused, NoticeError::Full);
    assert!(sent < 20_000, "{sent}");
}
