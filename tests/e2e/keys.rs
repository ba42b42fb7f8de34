//! Keys of messages are replaced and destroyed while messages wait that hang on them. The carrier counts.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use serde_json::{Value, json};
use sotto_core::{Clock as _, SystemClock, Timestamp};
use sotto_proto::message::v1::{MessageClass, MessageState};
use sotto_testkit::{eventually, eventually_ok};

use crate::{
    cell::{BOUND, Carriers, Cell, SENDER, carrier_with, number, text, with_token},
    load::{Load, otp, shown, states},
};

/// Within it nobody opens with a destroyed key.
const HEEDED: Duration = Duration::from_secs(5);

/// Parts a second that the carrier takes: what waits, waits for some seconds.
const TPS: u32 = 25;

/// Gives privacy two people who may approve; their keys are beside the cell.
async fn name_people(root: &Path) {
    let mut config = fs::read_to_string(root.join("config/privacy.toml")).unwrap();
    for name in ["an", "binh"] {
        let out = root.join(format!("operator/{name}.key"));
        let arguments = ["--json", "keys", "person", name, "--out", out.to_str().unwrap()];
        let made = crate::cell::sotto(root, arguments).await;
        assert!(made.status.success(), "{}", text(&made.stderr));
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        let key = made["key"].as_str().unwrap();
        config.push_str(&format!("\n[[approval.people]]\nname = \"{name}\"\nkey = \"{key}\"\n"));
    }
    config.push_str("\n[own_keys]\ntenants = [\"bank\"]\n");
    fs::write(root.join("config/privacy.toml"), config).unwrap();
}

pub(crate) async fn prepared(root: &Path) -> Option<Carriers> {
    name_people(root).await;
    Some(carrier_with(root, TPS, "", &json!({})).await)
}

fn path(cell: &Cell, name: &str) -> String {
    cell.root().join("operator").join(name).display().to_string()
}

/// Lets nothing go to the carrier.
async fn hold(cell: &Cell) {
    cell.run(["stop", "--carrier", "slow"]).await;
    eventually(BOUND, "the stop", async || cell.json(["carriers"]).await[0]["bound_by"] == "stopped").await;
}

/// Destroys keys by the word of two.
pub(crate) async fn destroy(cell: &Cell, which: &[&str], act: &str) {
    let act = path(cell, act);
    cell.run([&["keys", "propose", "--out", &act], which].concat()).await;
    for name in ["an", "binh"] {
        approve(cell, &act, name).await;
    }
    assert!(!cell.json(["keys", "destroy", &act]).await.is_empty());
}

async fn approve(cell: &Cell, act: &str, name: &str) {
    cell.run(["keys", "approve", act, "--as", name, "--key", &path(cell, &format!("{name}.key"))]).await;
}

async fn in_state(cell: &Cell, state: &str) -> BTreeSet<String> {
    let keys = cell.json(["keys", "list"]).await;
    let rings: BTreeSet<_> = keys.iter().filter_map(|key| key["ring"].as_str()).collect();
    let all = ["checkpoint", "client-secrets", "client-store", "idempotency", "intake", "token"];
    assert_eq!(rings, BTreeSet::from(all), "{keys:?}");
    let of_state = keys.iter().filter(|key| key["state"] == state && key["bucket"].is_string());
    of_state.map(|key| key["bucket"].as_str().unwrap().to_owned()).collect()
}

/// The numbers that the carrier got parts for, and when.
async fn parts(cell: &Cell) -> Vec<(String, Timestamp)> {
    let parts = cell.carrier("/messages?limit=100000").await;
    let part = |part: &Value| {
        let at = Timestamp::from_unix_millis(part["at"].as_i64().unwrap());
        (part["destination"].as_str().unwrap().to_owned(), at)
    };
    parts.as_array().unwrap().iter().map(part).collect()
}

/// How many of these ended as expired because of their key; every other one is delivered.
async fn ended_by_their_key(cell: &Cell, ids: &[String]) -> usize {
    let open = eventually_ok(BOUND, "every end", async || {
        let states = states(cell, ids).await;
        let ends = [MessageState::Delivered, MessageState::Expired];
        let open = states.iter().filter(|(_, state)| !ends.contains(state)).count();
        if open == 0 { Ok(states) } else { Err(open) }
    })
    .await;
    let expired: Vec<_> = open.into_iter().filter(|(_, state)| *state == MessageState::Expired).collect();
    let (client, token) = (cell.messages(), cell.token("shop").await);
    for (id, _) in &expired {
        let journey = shown(&client, &token, id).await.journey;
        let last = journey.iter().rfind(|step| step.kind == "expired").unwrap();
        assert_eq!(last.detail, "key_destroyed", "{id}");
    }
    expired.len()
}

/// Each destroyed key has a receipt in the audit log, which verifies with the key that the log names and with no other; and
/// the plan names the living ones.
async fn receipts(cell: &Cell, destroyed: &[Value]) {
    let names: BTreeSet<_> = destroyed.iter().map(|key| key["bucket"].clone().to_string()).collect();
    let mut told = eventually_ok(BOUND, "the receipts", async || {
        let told = cell.json(["retention", "status"]).await;
        let proved = told.iter().filter(|one| one["verified"] == true && one["bucket"].is_string());
        let proved: BTreeSet<_> = proved.map(|one| one["bucket"].to_string()).collect();
        if proved.is_superset(&names) { Ok(told) } else { Err(format!("{proved:?}")) }
    })
    .await;
    let sum = told.pop().unwrap();
    assert_eq!((&sum["missing"], &sum["unsigned"], &sum["faults"]), (&json!([]), &json!([]), &json!([])));
    // Privacy was killed meanwhile: its key is the same.
    let [key] = sum["keys"].as_array().unwrap().as_slice() else { panic!("{sum}") };
    cell.run(["retention", "status", "--key", key.as_str().unwrap(), "--compare", "0"]).await;
    let other = sotto_crypto::sign::SigningKey::generate().unwrap().public().jwk_x();
    let refused = cell.try_run(["retention", "status", "--key", &other, "--compare", "0"]).await;
    assert!(!refused.status.success());

    // Some of them may be made ahead between the two questions.
    let plan = eventually_ok(BOUND, "the plan to name the living keys", async || {
        let plan = cell.json(["retention", "plan"]).await;
        let planned = plan.iter().filter(|one| one["what"] == "key");
        let planned: BTreeSet<_> = planned.map(|one| one["bucket"].as_str().unwrap().to_owned()).collect();
        if planned == in_state(cell, "current").await { Ok(plan) } else { Err(format!("{planned:?}")) }
    })
    .await;
    let classes = plan.iter().filter(|one| one["what"] == "class").count();
    assert_eq!(classes, 6, "{plan:?}");
    assert!(plan.iter().any(|one| one["stream"] == "WAITING" && one["kept"] == "until it is done"));
}

/// A tenant with keys of its own is deleted alone: what waits of it ends unread, what waits of another is delivered.
async fn shred_one_tenant(cell: &Cell) {
    cell.new_client("bank", "bank", "BANKVN").await;
    hold(cell).await;
    let send = async |client: &str, from: &str, n| {
        let mut request = otp(n);
        request.message.as_mut().unwrap().from = from.to_owned();
        let sent = cell.messages().send(with_token(request, &cell.token(client).await)).await.unwrap();
        sent.into_inner().message_id
    };
    let (ours, theirs) = (send("bank", "BANKVN", 9_000).await, send("shop", SENDER, 9_001).await);
    destroy(cell, &["--tenant", "bank"], "bank.json").await;
    let heeded = SystemClock.now().plus(HEEDED);
    eventually(BOUND, "five seconds to pass", async || SystemClock.now() > heeded).await;
    cell.run(["stop", "--carrier", "slow", "--lift"]).await;
    assert_eq!(cell.ended(&theirs).await["state"], "delivered");
    let token = cell.token("bank").await;
    eventually(BOUND, "its end", async || {
        shown(&cell.messages(), &token, &ours).await.state() == MessageState::Expired
    })
    .await;
    let journey = shown(&cell.messages(), &token, &ours).await.journey;
    assert!(journey.iter().any(|step| step.detail == "key_destroyed"), "{journey:?}");
    assert_eq!(cell.count("parts").await, 1);
}

#[tokio::test]
async fn keys_are_replaced_without_a_failure_and_destroyed_by_two_within_five_seconds() {
    let mut cell = Cell::start_with(prepared).await;
    shred_one_tenant(&cell).await;
    // Replaced while messages wait and more come: not one fails.
    let load = Load::start(&cell, 0..120).await;
    eventually(BOUND, "the first parts", async || cell.count("parts").await >= 20).await;
    let before = in_state(&cell, "current").await;
    cell.run(["keys", "rotate"]).await;
    let ids = load.finish().await;
    assert_eq!(ended_by_their_key(&cell, &ids).await, 0);
    let superseded = in_state(&cell, "superseded").await;
    assert!(!before.is_empty() && superseded.is_superset(&before), "{before:?} {superseded:?}");

    // One person is not enough, and neither is one who signs for two. What is sent meanwhile waits.
    hold(&cell).await;
    let ids_before = Load::start(&cell, 1_000..1_250).await.finish().await;
    let act = path(&cell, "act.json");
    cell.run(["keys", "propose", "--all", "--out", &act]).await;
    approve(&cell, &act, "an").await;
    let living = in_state(&cell, "current").await;
    let refused = cell.try_run(["keys", "destroy", &act]).await;
    assert!(text(&refused.stderr).contains("1 of 2"), "{}", text(&refused.stderr));
    cell.run(["keys", "approve", &act, "--as", "binh", "--key", &path(&cell, "an.key")]).await;
    let refused = cell.try_run(["keys", "destroy", &act]).await;
    assert!(text(&refused.stderr).contains("signature of binh"), "{}", text(&refused.stderr));
    assert!(in_state(&cell, "current").await.is_superset(&living), "something was destroyed");

    // Two are: what waits ends unread, and nothing of it leaves when five seconds are over. It would have, for ten.
    approve(&cell, &act, "binh").await;
    cell.run(["stop", "--carrier", "slow", "--lift"]).await;
    let destroyed = cell.json(["keys", "destroy", &act]).await;
    let heeded = SystemClock.now().plus(HEEDED);
    assert!(destroyed.len() >= 2 && destroyed.iter().all(|key| key["state"] == "destroyed"), "{destroyed:?}");
    cell.kill("privacy").await;
    eventually(BOUND, "five seconds to pass", async || SystemClock.now() > heeded).await;
    let after = Load::start(&cell, 2_000..2_020).await.finish().await;
    assert_eq!(ended_by_their_key(&cell, &after).await, 0, "new keys are good");
    let unread = ended_by_their_key(&cell, &ids_before).await;
    assert!(unread >= 20, "only {unread} of {} were still waiting", ids_before.len());
    let late: Vec<_> = parts(&cell).await.into_iter().filter(|(_, at)| *at > heeded).collect();
    let new: BTreeSet<_> = (2_000..2_020).map(|n| number(n)[1..].to_owned()).collect();
    assert!(late.iter().all(|(to, _)| new.contains(to)), "{late:?}");
    // Carried out once more, the act has nothing to do: the keys made since live.
    let current = in_state(&cell, "current").await;
    cell.run(["keys", "destroy", &act]).await;
    assert!(in_state(&cell, "current").await.is_superset(&current));

    let (all, unread) = (ids.len() + ids_before.len() + after.len() + 2, unread + 1);
    let ledger = eventually_ok(BOUND, "the ledger", async || {
        let told = cell.ledger().await;
        if told["balanced"] == true && told["expired"] == unread { Ok(told) } else { Err(told) }
    })
    .await;
    assert_eq!((&ledger["accepted"], &ledger["delivered"]), (&json!(all), &json!(all - unread)), "{ledger}");
    let (got, twice) = (cell.count("parts").await, cell.count("duplicates").await);
    assert_eq!((got, twice), (u64::try_from(all - unread).unwrap(), 0));
    let told = cell.json(["audit", "act", "bucket.destruction_approved", "--actor", "operator"]).await;
    assert!(told[0]["object"].as_str().unwrap().ends_with("by=an+binh"), "{told:?}");
    receipts(&cell, &destroyed).await;
    cell.stop().await;
}

/// The audit log says of each of these keys that two approved this act.
async fn approved(cell: &Cell, act: &str, destroyed: &[Value]) {
    let file: Value = serde_json::from_slice(&fs::read(act).unwrap()).unwrap();
    let id = file["act"].as_str().unwrap().lines().find_map(|line| line.strip_prefix("act ")).unwrap();
    for key in destroyed {
        let object = format!("{},act={id},by=an+binh", key["bucket"].as_str().unwrap());
        cell.run(["audit", "act", "bucket.destruction_approved", "--actor", "operator", "--object", &object])
            .await;
    }
}

/// Privacy dies at each step. Asked again, each act is done whole and once, the log says who approved it, and no message pays
/// for it with more than its keys.
#[tokio::test]
async fn privacy_may_die_at_every_step_of_a_rotation_and_of_a_destruction() {
    let soon = ["--longest-pause", "2"].map(str::to_owned).to_vec();
    let mut cell =
        Cell::start_with(async |root| prepared(root).await.map(|carriers| carriers.and(soon))).await;
    let places = cell.root().join("run/failpoints");
    fs::create_dir_all(&places).unwrap();
    let arm = |place: &str| {
        let armed = places.join(place);
        fs::write(&armed, "").unwrap();
        armed
    };
    // Keys of two classes, so that the death comes between two of them.
    let mut both = otp(0);
    both.message.as_mut().unwrap().class = MessageClass::Transactional.into();
    cell.messages().send(with_token(both, &cell.token("shop").await)).await.unwrap();

    let (mut sent, mut n) = (1, 1_000);
    for place in ["privacy.announced", "privacy.superseded"] {
        let load = Load::start(&cell, n..n + 40).await;
        eventually(BOUND, "keys of two classes", async || in_state(&cell, "current").await.len() >= 2).await;
        let before = in_state(&cell, "current").await;
        let armed = arm(place);
        assert!(!cell.try_run(["keys", "rotate"]).await.status.success(), "{place}");
        assert!(!armed.exists(), "{place} was not reached");
        cell.wait_until_ready().await;
        let left = in_state(&cell, "current").await;
        let kept = before.intersection(&left).count();
        assert_eq!(kept, before.len() - usize::from(place == "privacy.superseded"), "{place}: {left:?}");
        // The next session key hangs on a new one: its maker dies once more, maybe before the rotation was answered.
        let armed = arm("privacy.made");
        eventually_ok(BOUND, "the rotation", async || {
            let rotated = cell.try_run(["keys", "rotate"]).await;
            if rotated.status.success() { Ok(()) } else { Err(text(&rotated.stderr)) }
        })
        .await;
        assert!(in_state(&cell, "superseded").await.is_superset(&before), "{place}");
        let mut ids = load.finish().await;
        let mut next = n + 40;
        while armed.exists() {
            assert!(next < n + 1_000, "no key was made");
            ids.extend(Load::start(&cell, next..next + 10).await.finish().await);
            next += 10;
        }
        assert_eq!(ended_by_their_key(&cell, &ids).await, 0, "{place}");
        (sent, n) = (sent + ids.len(), n + 1_000);
    }

    let (mut destroyed, mut unread) = (Vec::new(), 0);
    for place in ["privacy.approved", "privacy.buried"] {
        hold(&cell).await;
        let ids = Load::start(&cell, n..n + 20).await.finish().await;
        let act = path(&cell, place);
        cell.run(["keys", "propose", "--all", "--out", &act]).await;
        approve(&cell, &act, "an").await;
        approve(&cell, &act, "binh").await;
        let before = in_state(&cell, "destroyed").await.len();
        let armed = arm(place);
        assert!(!cell.try_run(["keys", "destroy", &act]).await.status.success(), "{place}");
        assert!(!armed.exists(), "{place} was not reached");
        cell.wait_until_ready().await;
        let gone = in_state(&cell, "destroyed").await.len() - before;
        assert_eq!(gone, usize::from(place == "privacy.buried"), "{place}");
        let done = cell.json(["keys", "destroy", &act]).await;
        assert!(done.len() > gone, "{done:?}");
        approved(&cell, &act, &done).await;
        destroyed.extend(done);
        let heeded = SystemClock.now().plus(HEEDED);
        eventually(BOUND, "five seconds to pass", async || SystemClock.now() > heeded).await;
        cell.run(["stop", "--carrier", "slow", "--lift"]).await;
        assert_eq!(ended_by_their_key(&cell, &ids).await, ids.len(), "{place}");
        (sent, unread, n) = (sent + ids.len(), unread + ids.len(), n + 100);
    }

    receipts(&cell, &destroyed).await;
    let ledger = eventually_ok(BOUND, "the ledger", async || {
        let told = cell.ledger().await;
        if told["balanced"] == true && told["expired"] == unread { Ok(told) } else { Err(told) }
    })
    .await;
    assert_eq!(
        (&ledger["accepted"], &ledger["delivered"]),
        (&json!(sent), &json!(sent - unread)),
        "{ledger}"
    );
    assert_eq!(cell.count("duplicates").await, 0);
    cell.stop().await;
}

/// The key that took the place of this one.
fn successor(bucket: &str) -> String {
    match bucket.split_once('.') {
        Some((first, number)) => format!("{first}.{}", number.parse::<u32>().unwrap() + 1),
        None => format!("{bucket}.2"),
    }
}

/// Every ten seconds another key seals, while messages pass and privacy dies: not one fails, and the log says that nobody asked
/// for it.
#[tokio::test]
async fn keys_are_replaced_by_schedule_under_load_without_a_failure() {
    let mut cell = Cell::start_with(async |root| {
        let path = root.join("config/privacy.toml");
        let mut config = fs::read_to_string(&path).unwrap();
        config.push_str("\n[rotation]\notp = \"10 s\"\n");
        fs::write(path, config).unwrap();
        Some(carrier_with(root, 500, "", &json!({})).await)
    })
    .await;
    let (mut ids, mut n, mut killed) = (Vec::new(), 0, false);
    let superseded = loop {
        ids.extend(Load::start(&cell, n..n + 20).await.finish().await);
        n += 20;
        let superseded = in_state(&cell, "superseded").await;
        if superseded.len() >= 3 {
            break superseded;
        }
        if superseded.len() == 1 && !killed {
            cell.kill("privacy").await;
            killed = true;
        }
        assert!(n < 20_000, "nothing is replaced");
    };
    assert!(killed);
    let last = Load::start(&cell, n..n + 20).await.finish().await;
    ids.extend(last);
    assert_eq!(ended_by_their_key(&cell, &ids).await, 0);
    let keys = cell.json(["keys", "list"]).await;
    let rotates = |key: &&Value| key["state"] == "current" && key["next"]["act"] == "rotate";
    assert!(keys.iter().any(|key| rotates(&key)), "{keys:?}");
    for bucket in &superseded {
        let object = format!("{bucket},by={}", successor(bucket));
        let act = ["audit", "act", "bucket.superseded", "--actor", "schedule", "--object", &object];
        let told = cell.json(act).await;
        assert_eq!(told[0]["object"].as_str(), Some(object.as_str()), "{told:?}");
    }
    let ledger = eventually_ok(BOUND, "the ledger", async || {
        let told = cell.ledger().await;
        if told["balanced"] == true && told["delivered"] == ids.len() { Ok(told) } else { Err(told) }
    })
    .await;
    assert_eq!(ledger["accepted"], json!(ids.len()), "{ledger}");
    let (got, twice) = (cell.count("parts").await, cell.count("duplicates").await);
    assert_eq!((got, twice), (u64::try_from(ids.len()).unwrap(), 0));
    cell.stop().await;
}

/// The attacker has every backup from before the deletion, every secret, and the keystore as it is now; and runs the cell with
/// it, which would send what it can read.
#[tokio::test]
async fn what_was_destroyed_is_unreadable_with_every_backup_every_secret_and_the_living_keystore() {
    let mut cell = Cell::start_with(prepared).await;
    hold(&cell).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        let mut request = otp(n);
        request.message.as_mut().unwrap().class = MessageClass::Transactional.into();
        let sent = cell.messages().send(with_token(request, &cell.token("shop").await)).await.unwrap();
        ids.push(sent.into_inner().message_id);
    }
    cell.stop().await;
    let kept = tempfile::TempDir::with_prefix("sotto-backup-").unwrap();
    let (backup, secrets) = (kept.path().join("cell"), kept.path().join("apart"));
    let (backup, secrets) = (backup.to_str().unwrap(), secrets.to_str().unwrap());
    cell.run(["backup", backup, "--secrets", secrets]).await;

    cell.start_again().await;
    destroy(&cell, &["--all"], "all.json").await;
    cell.stop().await;
    let living = kept.path().join("buckets.sks");
    fs::copy(cell.root().join("keystore/buckets.sks"), &living).unwrap();
    fs::remove_dir_all(cell.root()).unwrap();

    fs::create_dir_all(cell.root().join("keystore")).unwrap();
    fs::copy(&living, cell.root().join("keystore/buckets.sks")).unwrap();
    cell.run(["restore", backup, "--secrets", secrets]).await;
    cell.start_again().await;
    cell.run(["release", "--resend", "--reason", "an attack"]).await;
    cell.run(["stop", "--carrier", "slow", "--lift"]).await;
    eventually_ok(BOUND, "every end", async || {
        let states = states(&cell, &ids).await;
        let open = states.iter().filter(|(_, state)| *state != MessageState::Unknown).count();
        if open == 0 { Ok(()) } else { Err(open) }
    })
    .await;
    assert_eq!(cell.count("parts").await, 0, "something was read");
    // What is new is sent: the cell itself works.
    let new = Load::start(&cell, 100..105).await.finish().await;
    assert_eq!(ended_by_their_key(&cell, &new).await, 0);
    assert_eq!(cell.count("parts").await, 5);
    cell.stop().await;
}
