//! Alerts that look back an hour, and the queue that the stranger's key comes from.

use sotto_bus::{AuditCategory, Publisher, PublisherConfig, Service, Subject};
use sotto_core::Shards;
use sotto_proto::pipeline::v1::{AuditBatch, AuditRecord, KeyWrap};
use sotto_testkit::eventually;

use super::World;
use crate::{
    canary::keys::{ask, waiting},
    cell::BOUND,
    load::{Load, settled},
    quarantine::{bus, publish},
};

/// Something unreadable, acts that never come, a key that a stranger opens: of a code that an operator's stop holds.
pub(crate) async fn provoke(world: &World) {
    let cell = &world.cell;
    let shard = Shards::new(4.try_into().unwrap()).iter().next().unwrap();
    publish(cell, Service::Routing, Subject::Event(shard), "khong-phai-protobuf").await;
    acts_are_missing(world).await;

    // A connector opens a key as it should.
    let ids = Load::start(cell, 0..1).await.finish().await;
    settled(cell, &ids, false).await;
    cell.run(["stop", "--carrier", "slow"]).await;
    eventually(BOUND, "the stop", async || cell.json(["carriers"]).await[0]["bound_by"] == "stopped").await;
    Load::start(cell, 1..2).await.finish().await;
    eventually(BOUND, "it to wait for the carrier", async || waiting(cell).await.len() == 1).await;
    let wrap = KeyWrap::from(waiting(cell).await[0].wrap.as_ref());
    ask(cell, &cell.tls("carrier"), vec![wrap]).await.unwrap();
    // Privacy tells what it has opened each minute and at its end.
    cell.restart("privacy").await;
    world.fire(&["SottoQuarantine", "SottoAuditGap", "SottoOpeningsDoNotBalance"]).await;
}

/// The code that is held waits for too long.
pub(crate) async fn queue_grows_old(world: &World) {
    world.fire(&["SottoQueueOld"]).await;
    world.resolve(&["SottoQueueOld"], &[world.account()]).await;
}

/// What is to be looked at is looked at, and an hour later they are over.
pub(crate) async fn resolve(world: &World) {
    futures::join!(
        world.resolve(&["SottoQuarantine"], &[]),
        world.resolve(&["SottoAuditGap"], &[]),
        world.resolve(&["SottoOpeningsDoNotBalance"], &[]),
    );
}

/// A process of routing tells its first act and its fourth.
async fn acts_are_missing(world: &World) {
    let bus = bus(&world.cell, Service::Routing).await;
    let publisher = Publisher::<AuditBatch>::new(&bus, PublisherConfig::default());
    let category = AuditCategory::ALL[0];
    for sequence in [1, 4] {
        let act = AuditRecord {
            producer: "routing/test".to_owned(),
            sequence,
            at_s: 1_795_000_000,
            category: category.name().to_owned(),
            action: "service.started".to_owned(),
            actor: "routing".to_owned(),
            tenant: String::new(),
            object: "test".to_owned(),
            outcome: "ok".to_owned(),
        };
        publisher.publish(&Subject::Audit(Service::Routing, category), act).await.unwrap();
    }
    assert!(bus.close(BOUND).await);
}
