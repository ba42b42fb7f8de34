//! Two cells side by side: each with its own broker, Redis and keys. What belongs to one is refused by the other, and nothing of
//! its traffic is in the other's files.

use sotto_proto::{
    message::v1::{GetMessageRequest, SendRequest},
    pipeline::v1::KeyWrap,
    privacy::v1::{UnwrapRefusal, unwrapped_key::Result as Answer},
};
use sotto_testkit::{canary::Canary, eventually};
use tonic::Code;

use crate::{
    canary::keys::{ask, waiting},
    cell::{BOUND, Cell, with_token},
    load::{accepted_at_last, balanced, otp},
};

/// A tenant of each cell, with its client's name and sender.
const TENANTS: [(&str, &str); 2] = [("mekong-bank", "MEKONGBANK"), ("danube-bank", "DANUBEBANK")];

fn message(n: u32, sender: &str) -> SendRequest {
    let mut request = otp(n);
    sender.clone_into(&mut request.message.as_mut().unwrap().from);
    request
}

#[tokio::test]
async fn nothing_of_one_cell_is_taken_or_found_by_another() {
    let (mut vn, mut eu) = (Cell::start().await, Cell::start_named("eu").await);
    let mut ids = Vec::new();
    for (cell, (tenant, sender)) in [&vn, &eu].into_iter().zip(TENANTS) {
        cell.new_client(tenant, tenant, sender).await;
        // Held back, so that what is sealed can be looked at.
        cell.run(["stop", "--carrier", "simulator"]).await;
        eventually(BOUND, "the stop", async || cell.json(["carriers"]).await[0]["bound_by"] == "stopped")
            .await;
        let token = cell.token(tenant).await;
        ids.push(accepted_at_last(&cell.messages(), &token, message(1, sender)).await);
        eventually(BOUND, "it to wait for the carrier", async || waiting(cell).await.len() == 1).await;
    }
    for (other, cell, foreign) in [(1, &vn, &eu), (0, &eu, &vn)] {
        let (tenant, sender) = TENANTS[other];
        // A client of the other cell, with a token of the other cell: refused to send, and to read anybody's message.
        let token = foreign.token(tenant).await;
        let refused = cell.messages().send(with_token(message(2, sender), &token)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        for id in &ids {
            let ask = GetMessageRequest { message_id: id.clone() };
            let refused = cell.messages().get_message(with_token(ask, &token)).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        }
        // A connector of the other cell does not even get a connection.
        let wraps: Vec<_> =
            waiting(foreign).await.iter().map(|one| KeyWrap::from(one.wrap.as_ref())).collect();
        ask(cell, &foreign.tls("carrier"), wraps.clone()).await.unwrap_err();
        // And what the other sealed does not open here, for anybody.
        let answers = ask(cell, &cell.tls("carrier"), wraps).await.unwrap();
        assert_eq!(answers.len(), 1);
        let refusals =
            [UnwrapRefusal::Invalid, UnwrapRefusal::UnknownBucket].map(|why| Answer::Refusal(why.into()));
        assert!(refusals.contains(&answers[0]), "opened");
    }
    for cell in [&vn, &eu] {
        cell.run(["stop", "--carrier", "simulator", "--lift"]).await;
        balanced(cell, 1, 0).await;
        assert_eq!((cell.count("parts").await, cell.count("duplicates").await), (1, 0));
    }
    // Sender and message are in the files of their own cell, and not in those of the other. (The tenant's name is: privacy told
    // audit whose wrap it refused to open.)
    vn.stop().await;
    eu.stop().await;
    for (at, cell, foreign) in [(0, &vn, &eu), (1, &eu, &vn)] {
        let canary = Canary::new([("sender", TENANTS[at].1), ("message", ids[at].as_str())]);
        canary.prove();
        let own = canary.search_files(&cell.root()).unwrap();
        for label in ["sender", "message"] {
            assert!(own.iter().any(|found| found.label == label), "{label} of {} is nowhere", TENANTS[at].0);
        }
        let elsewhere = canary.search_files(&foreign.root()).unwrap();
        assert!(elsewhere.is_empty(), "{elsewhere:#?}");
    }
}
