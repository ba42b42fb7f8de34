//! What waits for a carrier that nobody lets work, and the events that are kept for its sake.

use std::{cell::Cell as Count, fs, time::Duration};

use sotto_bus::topology::Stream;
use sotto_testkit::{eventually, eventually_ok};

use super::{
    World,
    services::{Sending, sending_of},
};
use crate::{
    cell::{BOUND, text},
    load::Load,
};

async fn stop(world: &World) {
    world.cell.run(["stop", "--carrier", "slow"]).await;
    let stopped = async || world.cell.json(["carriers"]).await[0]["bound_by"] == "stopped";
    eventually(BOUND, "the stop", stopped).await;
}

/// Events of messages that wait are to be carried on, and somebody has lowered the bound of where they go.
pub(crate) async fn events_do_not_fit(world: &World) {
    let cell = &world.cell;
    let times = cell.root().join("run/times");
    fs::create_dir_all(&times).unwrap();
    // Seconds instead of months.
    fs::write(times.join("events"), "1000").unwrap();
    stop(world).await;
    Load::start(cell, 0..3).await.finish().await;
    eventually(BOUND, "them to wait", async || cell.ledger().await["waiting"] == 3).await;
    let lower = |stream: &mut Stream| {
        if stream.name == "CARRIED" {
            stream.max_bytes = 100;
        }
    };
    world.rebound(lower).await;
    let next = Count::new(3);
    let said = eventually_ok(BOUND, "old events that cannot go", async || {
        // The clock is believed as far as the newest event.
        let number = next.replace(next.get() + 1);
        Load::start(cell, number..number + 1).await.finish().await;
        let ran = cell.try_run(["retention", "run"]).await;
        if ran.status.success() { Err(text(&ran.stdout)) } else { Ok(text(&ran.stderr)) }
    })
    .await;
    assert!(said.contains("maximum bytes exceeded"), "{said}");
    world.fire(&["SottoEventsNotTrimmed"]).await;
    world.resolve(&["SottoEventsNotTrimmed"], &[world.carriers()]).await;
    cell.run(["stop", "--carrier", "slow", "--lift"]).await;
}

/// Its queue fills, and what it does not take comes to routing again and again. That it does so with ten batches is for the
/// test's sake.
pub(crate) async fn a_stop_is_forgotten(world: &World) {
    stop(world).await;
    let lower = |stream: &mut Stream| {
        if stream.name == "WAITING" {
            stream.max_messages_per_subject = Some(10);
        }
    };
    world.rebound(lower).await;
    let alerts = ["SottoQueueFilling", "SottoRedeliveries"];
    let slowly = Sending { pause: Duration::from_millis(300), ..Sending::default() };
    sending_of(world, slowly, world.fire(&alerts)).await;
    world.resolve(&alerts, &[world.account()]).await;
    world.cell.run(["provision", "--carriers", &world.carriers().1]).await;
}
