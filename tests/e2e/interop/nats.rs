//! A client over NATS that shares no code with ours: its NATS, its HPKE and its messages are Python's.

use std::process::Stdio;

use serde_json::{Value, json};
use sotto_testkit::{tools, workspace};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    cell::{Cell, text},
    python,
};

async fn client(cell: &Cell, stubs: &std::path::Path) -> Value {
    let mut child = Command::new(tools::foreign("python"))
        .arg("-B")
        .arg(workspace().join("tests/e2e/interop/client_nats.py"))
        .arg(stubs)
        .arg(cell.nats_url())
        .arg(cell.root().join("clients/shop.nats"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let token = cell.token("shop").await;
    child.stdin.take().unwrap().write_all(format!("{token}\n").as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_client_of_python_seals_and_sends_over_nats() {
    let folder = tempfile::tempdir().unwrap();
    python::generate(folder.path()).await;
    let mut cell = Cell::start().await;
    cell.run(["client", "nats", "add", "shop"]).await;
    let seen = client(&cell, &folder.path().join("stubs")).await;

    let refused = json!({"reference": 2, "code": 3, "reasons": ["NUMBER_RENUMBERED"]});
    let first = &seen["first"];
    assert_eq!(
        (&first[1], &first[0]["repeated"], &first[2]["repeated"]),
        (&refused, &json!(false), &json!(false))
    );
    for again in ["replayed", "again"] {
        for place in [0, 2] {
            let (now, before) = (&seen[again][place], &first[place]);
            assert_eq!((&now["id"], &now["repeated"]), (&before["id"], &json!(true)), "{again}");
        }
    }
    assert_eq!(seen["clear"], json!({"code": 7, "reasons": []}), "PERMISSION_DENIED");
    assert_eq!(seen["other_info"], json!({"code": 3, "reasons": ["NOT_OPENABLE"]}));
    assert_eq!(seen["on_the_wire"], json!([false, false, false, false]));
    let broker = seen["broker"].as_array().unwrap();
    assert!(
        broker.len() >= 2
            && broker.iter().all(|it| it.to_string().to_lowercase().contains("permissions violation")),
        "{seen}"
    );

    for place in [0, 2] {
        assert_eq!(cell.ended(first[place]["id"].as_str().unwrap()).await["state"], "delivered");
    }
    assert_eq!((cell.count("parts").await, cell.count("duplicates").await), (2, 0));
    cell.stop().await;
}
