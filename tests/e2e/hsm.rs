//! A cell whose keys are in tokens of an HSM (SoftHSM2), as `sotto init --hsm` makes it.

use std::{fs, path::Path};

use sotto_proto::message::v1::MessageClass;
use sotto_testkit::{eventually, eventually_ok};
use tonic::Code;

use crate::{
    cell::{BOUND, Cell, with_token},
    load,
    metrics::Page,
};

/// Every file below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut folders = vec![folder.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn advertisement(n: u32) -> sotto_proto::message::v1::SendRequest {
    let mut request = load::otp(n);
    let message = request.message.as_mut().unwrap();
    message.class = MessageClass::Promotional.into();
    message.text = "[QC] Giam gia".to_owned();
    request
}

#[tokio::test]
async fn a_cell_with_an_hsm_delivers_and_outlives_its_absence() {
    let mut cell = Cell::start_with_hsm().await;
    let (mut client, token) = (cell.messages(), cell.token("shop").await);
    let sent = client.send(with_token(load::otp(1), &token)).await.unwrap().into_inner();
    assert_eq!(cell.ended(&sent.message_id).await["state"], "delivered");
    // What clients seal opens with a key that rests in a token, before and after its rotation.
    cell.run(["client", "nats", "add", "shop"]).await;
    let over_nats =
        ["nats-send", "--client", "shop", "--from", "ACMEBANK", "--class", "otp", "--text", "482913", "--to"];
    cell.run(over_nats.into_iter().chain(["+84917345682"])).await;
    cell.run(["intake-key", "rotate"]).await;
    cell.run(over_nats.into_iter().chain(["+84917345683"])).await;

    // Each key is seen, and the messages' have successors while they go on opening.
    let keys = cell.json(["keys", "list"]).await;
    let rings = keys.iter().filter(|key| key["ring"].is_string()).count();
    let buckets = keys.iter().filter(|key| key["bucket"].is_string() && key["state"] == "current").count();
    assert!(rings >= 7 && buckets >= 1, "{keys:?}");
    let fetched = async |cell: &Cell| {
        let series = "sotto_ingress_session_keys_total{result=\"fetched\"}";
        Page::of(cell, "ingress").await.number(series)
    };
    let before = fetched(&cell).await;
    let rotated = cell.json(["keys", "rotate"]).await;
    assert_eq!(rotated.len(), buckets);
    // Ingress asks each second which keys ended; a message that comes before still has one of before.
    let mut numbers = 6..;
    let sent = eventually_ok(BOUND, "a session key under the new bucket", || {
        let request = with_token(load::otp(numbers.next().unwrap()), &token);
        let (mut client, cell) = (client.clone(), &cell);
        async move {
            let sent = client.send(request).await.unwrap().into_inner();
            if fetched(cell).await > before { Ok(sent) } else { Err("none was fetched") }
        }
    })
    .await;
    assert_eq!(cell.ended(&sent.message_id).await["state"], "delivered");

    // No file keeps a key of theirs, nor what would open one.
    let kept = files(&cell.root());
    let keyfile = |path: &&String| path.ends_with(".sks") || path.contains("secrets/unlock");
    assert_eq!(kept.iter().find(keyfile), None);
    assert!(kept.iter().any(|path| path.contains("hsm/tokens")), "{kept:?}");

    // The HSM is away: what has a session key goes on, what needs a new one is told to come again.
    let (tokens, away) = (cell.root().join("hsm/tokens"), cell.root().join("hsm/away"));
    fs::rename(&tokens, &away).unwrap();
    let refused = client.send(with_token(advertisement(2), &token)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    client.send(with_token(load::otp(3), &token)).await.unwrap();
    eventually(BOUND, "privacy to say so", async || !cell.is_ready("privacy").await).await;
    eventually(BOUND, "identity to say so", async || !cell.is_ready("identity").await).await;

    // It is back: nobody has to be restarted.
    let before = cell.pid("privacy");
    fs::rename(&away, &tokens).unwrap();
    for service in ["privacy", "identity"] {
        eventually(BOUND, service, async || cell.is_ready(service).await).await;
    }
    let sent = eventually_ok(BOUND, "an advertisement to be taken", async || {
        cell.messages().send(with_token(advertisement(4), &token)).await.map(tonic::Response::into_inner)
    })
    .await;
    assert_eq!(cell.ended(&sent.message_id).await["state"], "delivered");
    assert_eq!(cell.pid("privacy"), before);
    cell.token("shop").await;

    // And after a restart of everything the tokens are found again.
    cell.stop().await;
    cell.start_again().await;
    let sent = cell.messages().send(with_token(advertisement(5), &cell.token("shop").await)).await;
    assert_eq!(cell.ended(&sent.unwrap().into_inner().message_id).await["state"], "delivered");
    assert_eq!(cell.ledger().await["balanced"], true);
    cell.stop().await;
}
