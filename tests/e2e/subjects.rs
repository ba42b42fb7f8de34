//! A person's messages are found by the number, by the tenant's officer alone, until the keys are gone.

use std::{cell::RefCell, collections::BTreeSet, fs, path::PathBuf};

use serde_json::json;
use sotto_bus::{Service, StreamReader};
use sotto_proto::pipeline::v1::IndexBatch;
use sotto_testkit::eventually;

use crate::{
    cell::{BOUND, Cell, SENDER, number, with_token},
    keys::{destroy, prepared},
    load::otp,
    quarantine,
};

/// A file with a number, as an officer has it.
fn number_file(cell: &Cell, n: u32) -> PathBuf {
    let file = cell.root().join(format!("operator/number-{n}"));
    fs::write(&file, format!("{}\n", number(n))).unwrap();
    file
}

/// The messages that an officer finds.
async fn find(cell: &Cell, officer: &str, n: u32) -> BTreeSet<String> {
    let file = number_file(cell, n);
    let mut told =
        cell.json(["subject", "find", "--client", officer, "--file", file.to_str().unwrap()]).await;
    let sum = told.pop().unwrap();
    let digits = number(n);
    let masked = format!("+84 9•• ••• •{}", &digits[digits.len() - 2..]);
    assert_eq!(sum, json!({ "number": masked, "found": told.len() }));
    told.iter().map(|one| one["message_id"].as_str().unwrap().to_owned()).collect()
}

async fn send(cell: &Cell, client: &str, from: &str, n: u32, key: &str) -> String {
    let mut request = otp(n);
    request.message.as_mut().unwrap().from = from.to_owned();
    request.idempotency_key = format!("{key}-{n}");
    let sent = cell.messages().send(with_token(request, &cell.token(client).await)).await.unwrap();
    sent.into_inner().message_id
}

/// The buckets that entries hang on.
async fn buckets(cell: &Cell) -> BTreeSet<String> {
    let bus = quarantine::bus(cell, Service::Operator).await;
    let reader: StreamReader<IndexBatch> = StreamReader::new(&bus, "INDEX").unwrap();
    let last = reader.state().await.unwrap().last;
    let (mut reading, mut buckets) = (reader.read(1, last), BTreeSet::new());
    while let Some(stored) = reading.next().await.unwrap() {
        buckets.extend(stored.batch.groups.into_iter().map(|group| group.bucket));
    }
    bus.close(BOUND).await;
    buckets
}

#[tokio::test]
async fn a_number_finds_its_messages_over_rotations_and_restarts_until_two_destroy_the_keys() {
    let mut cell = Cell::start_with(prepared).await;
    cell.new_client("rival", "rival", "RIVALVN").await;
    for (officer, tenant) in [("officer", "acme"), ("spy", "rival")] {
        let scope = ["--tenant", tenant, "--scope", "subject:read"];
        cell.run(["client", "create", "--name", officer].into_iter().chain(scope)).await;
    }
    let first = send(&cell, "shop", SENDER, 1, "first").await;
    let other = send(&cell, "shop", SENDER, 2, "first").await;
    let of_rival = send(&cell, "rival", "RIVALVN", 1, "first").await;
    let only = |ids: &[&String]| ids.iter().map(|id| (*id).clone()).collect::<BTreeSet<_>>();
    assert_eq!(find(&cell, "officer", 1).await, only(&[&first]));
    assert_eq!(find(&cell, "officer", 2).await, only(&[&other]));
    assert_eq!(find(&cell, "officer", 3).await, only(&[]));
    assert_eq!(find(&cell, "spy", 1).await, only(&[&of_rival]));
    assert_eq!(find(&cell, "spy", 2).await, only(&[]));
    // Without the scope nobody finds anything, and a command line takes no number.
    let file = number_file(&cell, 1).display().to_string();
    let refused = cell.try_run(["subject", "find", "--client", "shop", "--file", &file]).await;
    assert!(!refused.status.success());

    // Both sides of a rotation are found.
    let before = buckets(&cell).await;
    cell.run(["keys", "rotate", "--class", "index"]).await;
    let later = RefCell::new(Vec::new());
    eventually(BOUND, "entries under the new key", async || {
        let key = format!("later-{}", later.borrow().len());
        let id = send(&cell, "shop", SENDER, 1, &key).await;
        later.borrow_mut().push(id);
        buckets(&cell).await.len() > before.len()
    })
    .await;
    let later = later.into_inner();
    let all: Vec<_> = std::iter::once(&first).chain(&later).collect();
    assert_eq!(find(&cell, "officer", 1).await, only(&all));

    cell.kill("privacy").await;
    cell.running("privacy").await;
    eventually(BOUND, "privacy to answer", async || {
        cell.try_run(["subject", "find", "--client", "officer", "--file", &file]).await.status.success()
    })
    .await;
    assert_eq!(find(&cell, "officer", 1).await, only(&all));
    // Each look-up is in the log, with a pseudonym and without the number.
    let last = format!("found={}", all.len());
    eventually(BOUND, "the last look-up in the audit log", async || {
        let told = cell.json(["audit", "act", "subject.looked_up"]).await;
        assert!(!told[0].to_string().contains(&number(1)[3..]));
        let object = told[0]["object"].as_str().unwrap();
        assert!(object.contains(",subject="), "{object}");
        object.ends_with(&last)
    })
    .await;

    // Gone for good: what is on the broker's disk opens for nobody.
    destroy(&cell, &["--class", "index"], "index.json").await;
    assert_eq!(find(&cell, "officer", 1).await, only(&[]));
    let new = send(&cell, "shop", SENDER, 1, "last").await;
    let found = find(&cell, "officer", 1).await;
    // In the second in which ingress had not heard of it, an entry may hang on the dead key.
    assert!(found.is_subset(&only(&[&new])), "{found:?}");
    cell.stop().await;
}
