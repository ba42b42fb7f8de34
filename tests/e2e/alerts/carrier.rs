//! A carrier that refuses, is slow, or says nothing.

use std::{fs, time::Duration};

use serde_json::json;
use sotto_proto::message::v1::MessageClass;
use sotto_testkit::{eventually, process::signal};

use super::{
    World,
    services::{sending, sending_of},
};
use crate::cell::BOUND;

fn account() -> (&'static str, String) {
    ("ACCOUNT", "slow".to_owned())
}

/// A password that is not the carrier's, which a restart of the connector brings to light.
pub(crate) async fn wrong_password(world: &World) {
    let file = world.cell.root().join("secrets/simulator");
    fs::write(&file, "no-more").unwrap();
    signal(world.cell.pid("carrier"), "KILL");
    world.fire(&["SottoBindsMissing"]).await;
    let words = [
        ("RIGHT", world.backup("secrets/simulator")),
        ("PASSWORD_FILE", file.display().to_string()),
        world.pid("carrier"),
    ];
    world.resolve(&["SottoBindsMissing"], &words).await;
}

/// Answers come after six seconds, and without gaps: fewer messages are sent than the window takes.
pub(crate) async fn slow(world: &World) {
    world.cell.behave(json!({"response_delay_ms": 6_000})).await;
    sending_of(world, MessageClass::Otp, Duration::from_millis(800), async {
        world.fire(&["SottoCarrierSlow"]).await;
        world.resolve(&["SottoCarrierSlow"], &[account()]).await;
    })
    .await;
    world.cell.behave(json!({"response_delay_ms": 0})).await;
    resume(world).await;
}

pub(crate) async fn answers_nothing(world: &World) {
    world.cell.behave(json!({"never_answer_share": 1.0})).await;
    sending(world, async {
        world.fire(&["SottoUnknowns"]).await;
        world.resolve(&["SottoUnknowns"], &[account()]).await;
    })
    .await;
    world.cell.behave(json!({"never_answer_share": 0.0})).await;
    resume(world).await;
}

async fn resume(world: &World) {
    world.cell.run(["carriers", "resume", "slow"]).await;
    let paused = async || world.cell.json(["carriers"]).await[0]["bound_by"] == "paused";
    eventually(BOUND, "the account to be resumed", async || !paused().await).await;
}
