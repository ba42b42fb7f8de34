//! A stream whose bound is wrong, and a broker that does not start.

use std::fs;

use sotto_bus::topology::Stream;
use sotto_testkit::process::signal;

use super::{World, services::sending};

/// Somebody has lowered the bounds of two streams to less than a batch: neither takes anything more, and one holds much already.
pub(crate) async fn full(world: &World) {
    let alerts = ["SottoStreamFilling", "SottoStreamFull", "SottoRefusesMessages"];
    let lower = |stream: &mut Stream| {
        if ["INTAKE", "EVENTS"].contains(&stream.name.as_str()) {
            stream.max_bytes = 100;
        }
    };
    world.rebound(lower).await;
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
