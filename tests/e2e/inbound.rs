//! What handsets write: stored sealed for the owner of the number before the carrier hears that it is taken, whatever is
//! away meanwhile, and readable by nobody.

use std::collections::BTreeMap;

use serde_json::json;
use sotto_bus::{Service, StreamReader};
use sotto_proto::{
    LogEvent,
    pipeline::v1::{EventBatch, InboundBatch},
};
use sotto_testkit::{
    canary::Canary,
    eventually,
    process::{freeze, signal},
};

use crate::{
    cell::{BOUND, Cell, carrier_with},
    quarantine::bus,
};

async fn write(cell: &Cell, to: &str, text: &str) {
    let body = json!({"partner": "sotto", "from": "84917345682", "to": to, "text": text});
    cell.tell_carrier("/write", &body.to_string()).await;
}

/// Waits until the carrier has heard of so many parts that they are taken.
async fn taken(cell: &Cell, parts: u64) {
    eventually(BOUND, &format!("{parts} parts taken"), || async {
        cell.count("written_acked").await == parts
    })
    .await;
}

async fn read<B: sotto_proto::Batch>(cell: &Cell, stream: &'static str) -> Vec<B::Item> {
    let bus = bus(cell, Service::Operator).await;
    let reader: StreamReader<B> = StreamReader::new(&bus, stream).unwrap();
    let state = reader.state().await.unwrap();
    let mut reading = reader.read(state.first.max(1), state.last);
    let mut items = Vec::new();
    while let Some(stored) = reading.next().await.unwrap() {
        items.extend(stored.batch.into_items().into_iter().map(Result::unwrap));
    }
    assert!(bus.close(BOUND).await);
    items
}

#[tokio::test]
async fn what_handsets_write_is_kept_sealed_for_the_owner_of_the_number() {
    let canary = Canary::new([("number", "917345682"), ("text", "Quetzalcoatl")]);
    canary.prove();
    let keys = "inbound = { 9029 = \"acme\", 9030 = \"globex\" }\n";
    let mut cell = Cell::start_with(async |root| Some(carrier_with(root, 50, keys, &json!({})).await)).await;

    // Privacy stands still: there is no key to seal with, and the carrier is asked to come again.
    let privacy = cell.pid("privacy");
    freeze(privacy).await;
    write(&cell, "9029", "TC Quetzalcoatl").await;
    eventually(BOUND, "a refusal for now", || async { cell.count("written_failed").await >= 1 }).await;
    assert_eq!(cell.count("written_acked").await, 0);
    signal(privacy, "CONT");
    taken(&cell, 1).await;

    // The broker stands still: nothing is stored, nothing is answered.
    let broker = cell.pid("nats-server");
    freeze(broker).await;
    write(&cell, "9030", "STOP").await;
    write(&cell, "9031", &format!("Quetzalcoatl {}", "x".repeat(200))).await;
    signal(broker, "CONT");
    taken(&cell, 4).await;

    // A connector that dies has answered nothing that is not stored.
    write(&cell, "9029", "Quetzalcoatl").await;
    cell.kill("carrier").await;
    taken(&cell, 5).await;

    let mut stored: BTreeMap<String, usize> = BTreeMap::new();
    for delivery in read::<InboundBatch>(&cell, "INBOUND").await {
        assert_eq!(delivery.item.account.as_str(), "slow");
        *stored.entry(delivery.item.tenant.to_string()).or_default() += 1;
    }
    // None is lost. One that was stored and not answered in time is there twice.
    assert!(stored["acme"] >= 2 && stored["globex"] >= 1 && stored["unowned"] >= 2, "{stored:?}");
    let mut opt_outs: Vec<_> = read::<EventBatch>(&cell, "EVENTS")
        .await
        .into_iter()
        .filter_map(|event| match event {
            LogEvent::OptOut { tenant, keyword, .. } => Some(format!("{tenant} {keyword}")),
            LogEvent::Delivery(_) | LogEvent::ParkedReceipt { .. } => None,
        })
        .collect();
    opt_outs.sort();
    opt_outs.dedup();
    assert_eq!(opt_outs, ["acme TUCHOI", "globex STOP"]);
    // Messages of the business go on, and the ledger balances with these events in it.
    let sent = cell
        .json(["send", "--client", "shop", "--from", "ACMEBANK", "--to", "+84912345678", "--text", "hello"])
        .await
        .pop()
        .unwrap();
    cell.ended(sent["message_id"].as_str().unwrap()).await;
    cell.ledger().await;
    cell.stop().await;
    let found = canary.search_files(&cell.root()).unwrap();
    assert!(found.is_empty(), "{found:#?}");
}
