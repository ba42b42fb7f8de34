//! A stream whose bound is wrong, and a broker that does not start.

use std::fs;

use sotto_bus::{Service, Topology, topology::apply};
use sotto_testkit::process::signal;

use super::{World, services::sending};
use crate::{cell::BOUND, quarantine::bus};

/// Somebody has lowered the bounds of two streams to less than a batch: neither takes anything more, and one holds much already.
pub(crate) async fn full(world: &World) {
    let alerts = ["SottoStreamFilling", "SottoStreamFull", "SottoRefusesMessages"];
    let bus = bus(&world.cell, Service::Provisioner).await;
    let mut lowered = Topology::embedded().unwrap();
    for stream in lowered.streams.iter_mut().filter(|it| ["INTAKE", "EVENTS"].contains(&it.name.as_str())) {
        stream.max_bytes = 100;
    }
    apply(&bus, &lowered, &[]).await.unwrap();
    assert!(bus.close(BOUND).await);
    sending(world, world.fire(&alerts)).await;
    sending(world, world.resolve(&alerts, &[world.carriers()])).await;
}

/// A broker whose configuration was damaged, found out when it died; ingress too was started again since.
pub(crate) async fn away(world: &World) {
    let conf = world.cell.root().join("nats/nats-server.conf");
    let good = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, good.replacen("jetstream {", "jetstream", 1)).unwrap();
    signal(world.cell.pid("nats-server"), "KILL");
    signal(world.cell.pid("ingress"), "KILL");
    let alerts = ["SottoBrokerAway", "SottoStreamUnseen", "SottoNotListening", "SottoAuditLogStuck"];
    world.fire(&alerts).await;
    world.resolve(&alerts, &[("BACKUP", world.backup(""))]).await;
}
