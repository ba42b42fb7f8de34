//! A client that behaves as the documentation asks: every message has an idempotency key, and what is UNAVAILABLE or
//! broken off is asked again with the same key until it is accepted.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use serde_json::Value;
use sotto_proto::message::v1::{
    GetMessageRequest, GetMessageResponse, MessageClass, MessageState, OutboundMessage, SendRequest,
    message_service_client::MessageServiceClient,
};
use sotto_testkit::{eventually, eventually_ok};
use tokio::sync::{oneshot, watch};
use tonic::{Code, transport::Channel};

use crate::cell::{self, BOUND, Door, SENDER, number, with_token};

/// How many requests are under way at once.
const CONCURRENT: usize = 8;

/// A one-time code for the n-th number.
pub(crate) fn otp(n: u32) -> SendRequest {
    SendRequest {
        message: Some(OutboundMessage {
            to: number(n),
            from: SENDER.to_owned(),
            text: format!("Ma xac thuc cua ban la {n:06}."),
            class: MessageClass::Otp.into(),
            validity: None,
            ..Default::default()
        }),
        idempotency_key: format!("load-{n}"),
        ..Default::default()
    }
}

/// Messages on their way into the cell, sent by a thread of their own.
pub(crate) struct Load {
    accepted: watch::Receiver<usize>,
    ids: oneshot::Receiver<Vec<String>>,
}

impl Load {
    /// Starts to send the messages of these numbers.
    pub(crate) async fn start(cell: &cell::Cell, numbers: std::ops::Range<u32>) -> Self {
        let (door, token) = (cell.door(), cell.token("shop").await);
        let (progress, accepted) = watch::channel(0);
        let (done, ids) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let sent = runtime.block_on(send_all(&door, &token, numbers, &progress));
            // A test that failed meanwhile does not wait for it.
            let _gone = done.send(sent);
        });
        Self { accepted, ids }
    }

    /// Waits until so many are accepted: the moment for a fault.
    pub(crate) async fn reach(&mut self, count: usize) {
        self.accepted.wait_for(|accepted| *accepted >= count).await.unwrap();
    }

    /// The ids, once every message is accepted. Each number has its own.
    pub(crate) async fn finish(self) -> Vec<String> {
        let ids = tokio::time::timeout(BOUND * 2, self.ids).await.unwrap().unwrap();
        let distinct: BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "two messages have one id");
        ids
    }
}

async fn send_all(
    door: &Door,
    token: &str,
    numbers: std::ops::Range<u32>,
    progress: &watch::Sender<usize>,
) -> Vec<String> {
    let client = door.messages();
    let mut sent = Vec::new();
    let mut sending =
        stream::iter(numbers).map(|n| accepted_at_last(&client, token, otp(n))).buffer_unordered(CONCURRENT);
    while let Some(id) = sending.next().await {
        sent.push(id);
        progress.send_replace(sent.len());
    }
    sent
}

/// The id of a message that is asked for until it is accepted.
pub(crate) async fn accepted_at_last(
    client: &MessageServiceClient<Channel>,
    token: &str,
    request: SendRequest,
) -> String {
    eventually_ok(BOUND, "a message to be accepted", async || {
        let mut client = client.clone();
        let sending = client.send(with_token(request.clone(), token));
        match tokio::time::timeout(Duration::from_secs(10), sending).await {
            Ok(Ok(accepted)) => Ok(accepted.into_inner().message_id),
            Ok(Err(status)) => {
                let honest = [Code::Unavailable, Code::ResourceExhausted, Code::Cancelled, Code::Unknown];
                assert!(honest.contains(&status.code()), "{status:?}");
                Err(status.to_string())
            }
            Err(late) => Err(late.to_string()),
        }
    })
    .await
}

/// Where messages are now, by state.
pub(crate) async fn states(cell: &cell::Cell, ids: &[String]) -> Vec<(String, MessageState)> {
    let (client, token) = (cell.messages(), cell.token("shop").await);
    stream::iter(ids)
        .map(async |id| {
            let found = shown(&client, &token, id).await;
            (id.clone(), found.state())
        })
        .buffer_unordered(CONCURRENT)
        .collect()
        .await
}

/// Asks for a message until it can be told.
pub(crate) async fn shown(
    client: &MessageServiceClient<Channel>,
    token: &str,
    id: &str,
) -> GetMessageResponse {
    eventually_ok(BOUND, "a message to be shown", async || {
        let request = GetMessageRequest { message_id: id.to_owned() };
        match client.clone().get_message(with_token(request, token)).await {
            Ok(found) => Ok(found.into_inner()),
            Err(status) => {
                // While Redis is away a process allows only its share of a tenant's pace.
                let honest = [Code::Unavailable, Code::ResourceExhausted];
                assert!(honest.contains(&status.code()), "{status:?}");
                Err(status.to_string())
            }
        }
    })
    .await
}

/// Waits until every message is delivered, or in doubt where `doubt` allows it; returns how many are in doubt.
pub(crate) async fn settled(cell: &cell::Cell, ids: &[String], doubt: bool) -> usize {
    let open = RefCell::new(ids.to_vec());
    let in_doubt = Cell::new(0);
    eventually(BOUND * 2, "every message to be delivered", async || {
        let asked = open.borrow().clone();
        let states = states(cell, &asked).await;
        in_doubt.set(states.iter().filter(|(_, state)| *state == MessageState::InDoubt).count());
        for (id, state) in &states {
            let on_its_way = [
                MessageState::Accepted,
                MessageState::Routed,
                MessageState::Submitted,
                MessageState::InDoubt,
                MessageState::Delivered,
            ];
            assert!(on_its_way.contains(state), "{id} ended as {state:?}");
        }
        let left: Vec<_> = states
            .into_iter()
            .filter(|(_, state)| *state != MessageState::Delivered)
            .map(|(id, _)| id)
            .collect();
        let settled = left.is_empty() || (doubt && left.len() == in_doubt.get());
        open.replace(left);
        settled
    })
    .await;
    in_doubt.get()
}

/// The ledger balances and counts so many messages, each delivered or, with `in_doubt`, in flight.
pub(crate) async fn balanced(cell: &cell::Cell, accepted: usize, in_doubt: usize) -> Value {
    let wanted = u64::try_from(accepted).unwrap();
    let doubt = u64::try_from(in_doubt).unwrap();
    let told = eventually_ok(BOUND, "the ledger", async || {
        let told = cell.ledger().await;
        let holds = told["balanced"] == true && told["delivered"] == wanted - doubt;
        if holds { Ok(told) } else { Err(told) }
    })
    .await;
    assert_eq!(told["accepted"], wanted, "{told}");
    assert_eq!(told["in_flight"], doubt, "{told}");
    assert_eq!(told["lost"], Value::Array(Vec::new()), "{told}");
    told
}
