//! Cancelled, or at the carrier: never both, never neither, whatever dies meanwhile. The carrier says what it got.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, stream};
use serde_json::json;
use sotto_proto::message::v1::{CancelMessageRequest, MessageState};
use sotto_testkit::{eventually, eventually_ok};
use tonic::Code;

use crate::{
    cell::{BOUND, Cell, carrier_with, number, with_token},
    load::{otp, states},
};

const MESSAGES: u32 = 300;
/// Parts that are out before the first is cancelled: not all that is cancelled can be.
const BEGUN: u64 = 10;

/// Cancels until the answer is certain; returns whether it is cancelled.
async fn cancelled(cell: &Cell, token: &str, id: &str) -> bool {
    eventually_ok(BOUND, "a certain answer", async || {
        let request = CancelMessageRequest { message_id: id.to_owned() };
        match cell.messages().cancel_message(with_token(request, token)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::FailedPrecondition => Ok(false),
            Err(status) => {
                let honest = [Code::Unavailable, Code::ResourceExhausted, Code::Cancelled, Code::Unknown];
                assert!(honest.contains(&status.code()), "{status:?}");
                Err(status.to_string())
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_is_cancelled_never_reaches_the_carrier_and_the_rest_does_once() {
    let mut cell = Cell::start_with(async |root| Some(carrier_with(root, 25, "", &json!({})).await)).await;
    let token = cell.token("shop").await;
    // Nothing goes out before all are there: however long accepting them takes, there is something left to cancel.
    cell.run(["stop", "--carrier", "slow"]).await;
    eventually(BOUND, "the stop", async || cell.json(["carriers"]).await[0]["bound_by"] == "stopped").await;
    let mut messages = BTreeMap::new();
    for n in 0..MESSAGES {
        let sent = cell.messages().send(with_token(otp(n), &token)).await.unwrap().into_inner();
        messages.insert(number(n)[1..].to_owned(), sent.message_id);
    }
    cell.run(["stop", "--carrier", "slow", "--lift"]).await;
    eventually(BOUND, "the carrier to be at work", async || cell.count("parts").await >= BEGUN).await;
    // From the front, where the carrier is at work, and from the back, one another's neighbours; with a connector and a
    // Redis that are lost meanwhile.
    let ids: Vec<_> = messages.values().cloned().collect();
    let half = ids.len() / 2;
    let order = (0..half).flat_map(|place| [place, ids.len() - 1 - place]).filter(|place| place % 3 != 0);
    let faults = async {
        cell.kill("carrier").await;
        assert_eq!(cell.redis(&["FLUSHALL"]).await, "OK");
    };
    let asking = stream::iter(order)
        .map(|place| {
            let (id, cell, token) = (&ids[place], &cell, &token);
            async move { (id.clone(), cancelled(cell, token, id).await) }
        })
        .buffer_unordered(4)
        .collect::<BTreeMap<String, bool>>();
    let (answers, ()) = tokio::join!(asking, faults);
    let gone: BTreeSet<_> = answers.iter().filter(|(_, cancelled)| **cancelled).map(|(id, _)| id).collect();
    assert!(!gone.is_empty() && gone.len() < answers.len(), "{} of {}", gone.len(), answers.len());

    eventually_ok(BOUND * 2, "every end", async || {
        // The connector was killed with some of the others on the wire.
        let is_open = |(id, state): &(String, MessageState)| {
            let settled = if gone.contains(id) {
                *state == MessageState::Cancelled
            } else {
                [MessageState::Delivered, MessageState::InDoubt].contains(state)
            };
            !settled
        };
        let open: Vec<_> = states(&cell, &ids).await.into_iter().filter(is_open).collect();
        if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
    })
    .await;
    let parts = cell.carrier("/messages?limit=100000").await;
    let got = |part: &serde_json::Value| messages[part["destination"].as_str().unwrap()].clone();
    let got: BTreeSet<_> = parts.as_array().unwrap().iter().map(got).collect();
    assert_eq!(cell.count("duplicates").await, 0);
    let wrong: Vec<_> = gone.iter().filter(|id| got.contains(**id)).collect();
    assert!(wrong.is_empty(), "told cancelled, and submitted: {wrong:?}");
    let in_doubt = states(&cell, &ids).await.iter().filter(|(_, it)| *it == MessageState::InDoubt).count();
    assert!(got.len() + gone.len() + in_doubt >= ids.len(), "{} + {} + {in_doubt}", got.len(), gone.len());

    eventually_ok(BOUND, "the ledger", async || {
        let told = cell.ledger().await;
        let holds = told["balanced"] == true && told["cancelled"] == gone.len();
        if holds { Ok(()) } else { Err(told) }
    })
    .await;
    // At the command line, with lists that were lost and restored meanwhile.
    let list = async |arguments: &[&str]| {
        let arguments = [&["message", "list", "--client", "shop", "--limit", "1000"], arguments].concat();
        let listed = cell.json(arguments).await;
        listed.iter().map(|it| it["message_id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(list(&[]).await, ids.iter().cloned().collect());
    let cancelled: BTreeSet<_> = gone.iter().map(|id| (*id).clone()).collect();
    assert_eq!(list(&["--state", "cancelled", "--class", "otp", "--last", "1 h"]).await, cancelled);
    assert!(list(&["--class", "transactional"]).await.is_empty());
    let (told, late) = (gone.iter().next().unwrap(), ids.iter().find(|id| got.contains(*id)).unwrap());
    assert_eq!(cell.json(["message", "cancel", told, "--client", "shop"]).await[0]["message_id"], ***told);
    let refused = cell.try_run(["message", "cancel", late, "--client", "shop"]).await;
    assert!(!refused.status.success());
    let why = crate::cell::text(&refused.stderr);
    assert!(why.contains("handed to a carrier") || why.contains("has ended"), "{why}");
    cell.stop().await;
}
