//! Lanes that really reorder (MSG-8): a one-time code overtakes a campaign that waits for a slow carrier.

use futures::{StreamExt as _, stream};
use sotto_proto::message::v1::MessageClass;

use crate::{
    cell::{Cell, number, slow_carrier, with_token},
    load,
};

/// Parts a second of the account.
const TPS: u32 = 20;

#[tokio::test]
async fn a_one_time_code_overtakes_a_campaign() {
    let mut cell = Cell::start_with(async |root| Some(slow_carrier(root, TPS).await)).await;
    let (client, token) = (cell.messages(), cell.token("shop").await);
    let campaign: Vec<String> = stream::iter(0..300_u32)
        .map(async |n| {
            let mut request = load::otp(n);
            let message = request.message.as_mut().unwrap();
            message.class = MessageClass::Promotional.into();
            message.text = format!("[QC] Giam gia {n}");
            client.clone().send(with_token(request, &token)).await.unwrap().into_inner().message_id
        })
        .buffered(16)
        .collect()
        .await;
    let before = cell.count("submits").await;
    let code = client.clone().send(with_token(load::otp(900), &token)).await.unwrap().into_inner();
    let told = cell.ended(&code.message_id).await;
    assert_eq!(told["state"], "delivered");
    let at_carrier = cell.carrier("/messages?limit=1000").await;
    let place = at_carrier
        .as_array()
        .unwrap()
        .iter()
        .position(|part| part["destination"] == number(900)[1..])
        .unwrap();
    // Before it may come what was in the window (10) and what one second of the rate had reserved.
    let ahead = u64::try_from(place).unwrap().saturating_sub(before);
    assert!(ahead <= 10 + u64::from(TPS), "{ahead} advertisements went first");
    let ledger = cell.ledger().await;
    assert_eq!((ledger["balanced"].as_bool(), ledger["accepted"].as_u64()), (Some(true), Some(301)));
    assert_eq!(campaign.len(), 300);
    // The rate held: never more than the account allows in a second (plus what the first second may burst).
    let times: Vec<i64> =
        at_carrier.as_array().unwrap().iter().map(|part| part["at"].as_i64().unwrap()).collect();
    for (index, start) in times.iter().enumerate() {
        let in_a_second = times.iter().skip(index).take_while(|at| **at < start + 1_000).count();
        assert!(in_a_second <= usize::try_from(TPS).unwrap() + 2, "{in_a_second} parts in a second");
    }
    cell.stop().await;
}
