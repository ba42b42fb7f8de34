//! A carrier that refuses, is slow, or says nothing.

use std::{fs, time::Duration};

use serde_json::json;
use sotto_testkit::{eventually, process::signal};

use super::{
    World,
    services::{Sending, sending, sending_of},
};
use crate::cell::BOUND;

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
    sending_of(world, Sending { pause: Duration::from_millis(800), ..Sending::default() }, async {
        world.fire(&["SottoCarrierSlow"]).await;
        world.resolve(&["SottoCarrierSlow"], &[world.account()]).await;
    })
    .await;
    world.cell.behave(json!({"response_delay_ms": 0})).await;
    resume(world).await;
}

pub(crate) async fn answers_nothing(world: &World) {
    world.cell.behave(json!({"never_answer_share": 1.0})).await;
    sending(world, async {
        world.fire(&["SottoUnknowns"]).await;
        world.resolve(&["SottoUnknowns"], &[world.account()]).await;
    })
    .await;
    world.cell.behave(json!({"never_answer_share": 0.0})).await;
    resume(world).await;
}

/// The carrier begins to write the ids of receipts in another form than those of its answers.
pub(crate) async fn writes_ids_otherwise(world: &World) {
    world.cell.behave(json!({"receipt_id_form": "hex"})).await;
    let forms = "message_id_in_response = \"decimal\"\nmessage_id_in_receipt = \"hex\"\n";
    sending(world, async {
        world.fire(&["SottoReceiptsUnmatched"]).await;
        corrected(world, "SottoReceiptsUnmatched", |file| {
            file.replacen("window = 10\n", &format!("window = 10\n{forms}"), 1)
        })
        .await;
    })
    .await;
}

/// The carrier takes a tenth of what the carriers file says.
pub(crate) async fn takes_less(world: &World) {
    world.cell.behave(json!({"throttle_per_second": 5})).await;
    sending(world, async {
        world.fire(&["SottoCarrierThrottles"]).await;
        corrected(world, "SottoCarrierThrottles", |file| file.replacen("tps = 50", "tps = 5", 1)).await;
    })
    .await;
}

/// Does what the runbook says with a carriers file in which something was corrected.
async fn corrected(world: &World, alert: &str, correct: impl FnOnce(&str) -> String) {
    let wrong = fs::read_to_string(world.cell.carriers().unwrap()).unwrap();
    let right = correct(&wrong);
    assert_ne!(right, wrong);
    let file = world.cell.root().join("corrected.toml");
    fs::write(&file, right).unwrap();
    let words = [
        ("CORRECTED", file.display().to_string()),
        world.carriers(),
        ("ROUTING", world.cell.pid("routing").to_string()),
        ("CONNECTOR", world.cell.pid("carrier").to_string()),
    ];
    world.resolve(&[alert], &words).await;
    world.cell.wait_until_ready().await;
}

async fn resume(world: &World) {
    world.cell.run(["carriers", "resume", "slow"]).await;
    let paused = async || world.cell.json(["carriers"]).await[0]["bound_by"] == "paused";
    eventually(BOUND, "the account to be resumed", async || !paused().await).await;
}
