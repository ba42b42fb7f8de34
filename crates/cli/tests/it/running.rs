//! One cell through its life: people's commands, and ends of every kind. A start takes seconds, so that there are few
//! and each serves many checks.

use std::path::Path;

use serde_json::Value;
use sotto_testkit::{eventually, eventually_ok, process::signal};

use crate::{
    cell::{Cell, LONG},
    forged,
};

#[tokio::test]
async fn a_cell_serves_people_and_outlives_every_end_of_its_supervisor() {
    let mut cell = Cell::new().await;
    let mut up = cell.up().await;
    a_second_up_is_refused(&cell, up.id().unwrap()).await;
    nothing_is_in_quarantine(&cell).await;
    streams_are_set_up_again(&cell).await;
    the_owner_registers_a_client(&cell).await;
    let id = a_message_is_sent_and_shown(&cell).await;
    wrong_messages_are_refused_with_the_field(&cell).await;
    the_ledger_balances(&cell).await;
    redis_is_rebuilt(&cell).await;
    let checkpoint = the_log_proves(&cell, &id).await;
    doctor_finds_nothing(&cell).await;
    top_shows_what_the_cell_does(&cell).await;

    // The terminal is closed.
    up.signal("HUP");
    assert!(up.wait(LONG).await.success(), "{}", up.log());
    cell.quiet().await;
    assert!(!cell.path("run/cell.json").exists());
    up_to_date_copies_verify(&cell, &checkpoint).await;

    // Nobody reads what it says; it works, and stops in its order.
    let mut unheard = cell.up_unheard().await;
    a_message_is_sent_and_shown(&cell).await;
    children_that_die_are_started_again(&cell).await;
    the_ledger_balances(&cell).await;

    // Killed, it takes its children with it; until the last has drained, nobody gets their data. We hold their lock as such a
    // last one would. (One of them that is stopped would not do: the kernel hangs up on it and wakes it when its parent dies.)
    let last_one = std::fs::File::open(cell.path("run/lock")).unwrap();
    unheard.kill().await.unwrap();
    eventually(LONG, "the lock of the cell", || async { last_one.try_lock().is_ok() }).await;
    a_cell_that_still_ends_is_not_started(&cell).await;
    drop(last_one);
    cell.quiet().await;
    let mut up = cell.up().await;
    let told = cell.json(&["message", "show", &id, "--client", "shop"]).await.json();
    assert_eq!(told[0]["state"], "delivered");
    the_ledger_balances(&cell).await;
    let last = a_message_is_sent_and_shown(&cell).await;
    the_log_proves(&cell, &last).await;
    forged::a_malformed_batch_is_counted_and_breaks_no_check(&cell).await;
    forged::a_message_kept_aside_before_its_first_event_is_counted(&cell).await;
    forged::a_message_that_only_silence_ended_is_lost(&cell).await;
    assert!(up.terminate(LONG).await.success(), "{}", up.log());
    cell.quiet().await;
}

async fn a_second_up_is_refused(cell: &Cell, first: u32) {
    for form in [&[][..], &["--json"]] {
        let (error, fix) = cell.sotto(&[form, &["up"]].concat()).await.refused();
        assert!(error.contains(&format!("running already (sotto up, process {first})")), "{error}");
        assert!(fix.contains(&format!("kill {first}")), "{fix}");
    }
    assert_eq!(cell.running()["supervisor"], first, "run/cell.json is the first one's");
}

async fn the_owner_registers_a_client(cell: &Cell) {
    let claimed = cell.json(&["owner", "claim"]).await.json();
    assert_eq!(private(&cell.path("operator/owner.json"))["client_id"], claimed[0]["client_id"]);
    let (_, fix) = cell.sotto(&["owner", "claim"]).await.refused();
    assert!(fix.contains("operator/owner.json"), "{fix}");

    let create = ["client", "create", "--name", "shop", "--tenant", "acme", "--sender", "ACMEBANK"];
    let said = cell.sotto(&create).await.well();
    assert!(said.contains("of tenant acme"), "{said}");
    let shop = private(&cell.path("clients/shop.json"));
    let (error, fix) = cell.sotto(&create).await.refused();
    assert!(error.contains("is there already") && fix.contains("--name"), "{error}; {fix}");
    let mut bad = create;
    bad[3] = "other";
    bad[5] = "not a tenant";
    let (error, _) = cell.sotto(&bad).await.refused();
    assert!(error.contains("tenant"), "{error}");
    for folder in ["clients", "operator"] {
        let files = std::fs::read_dir(cell.path(folder)).unwrap().flatten();
        let names: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
        assert_eq!(names.len(), 1, "no key is left behind: {names:?}");
    }
    let listed = cell.json(&["client", "list"]).await.json();
    assert!(listed.iter().any(|client| client["client_id"] == shop["client_id"]), "{listed:?}");
    assert!(cell.sotto(&["client", "list"]).await.well().contains("shop"));
}

/// Reads a file that nobody else may read.
fn private(path: &Path) -> Value {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

async fn a_message_is_sent_and_shown(cell: &Cell) -> String {
    // Neither number nor text on the command line, where others could read them.
    let send = ["send", "--client", "shop", "--from", "ACMEBANK", "--to", "-", "--text", "-"];
    let input = "+84912345678\nMã của bạn là 482913";
    let sent = cell.sotto_with(&[&["--json"], &send[..]].concat(), input).await.json();
    assert_eq!((&sent[0]["encoding"], &sent[0]["parts"]), (&"UCS-2".into(), &1.into()));
    let id = sent[0]["message_id"].as_str().unwrap().to_owned();
    let show = ["message", "show", &id, "--client", "shop", "--wait", "30"];
    let shown = cell.json(&show).await.json();
    assert_eq!(shown[0]["state"], "delivered", "{shown:?}");
    let said = cell.sotto(&show).await.well();
    for step in ["delivered", "accepted", "routed", "submitting", "submitted", "receipt"] {
        assert!(said.contains(step), "{step} in {said}");
    }
    assert!(cell.sotto_with(&send, input).await.well().starts_with("accepted "));
    id
}

async fn wrong_messages_are_refused_with_the_field(cell: &Cell) {
    let send = |to, from, text| ["send", "--client", "shop", "--to", to, "--from", from, "--text", text];
    for (arguments, field) in [
        (send("0912", "ACMEBANK", "x"), "to"),
        (send("+84912345678", "OTHERBANK", "x"), "from"),
        (send("+84912345678", "ACMEBANK", ""), "text"),
    ] {
        let (error, _) = cell.json(&arguments).await.refused();
        assert!(error.contains(field), "{field} in {error}");
    }
    let (error, fix) = cell.sotto_with(&send("-", "ACMEBANK", "-"), "+84912345678").await.refused();
    assert!(error.contains("one line") && fix.contains("then the text"), "{error}; {fix}");
}

async fn the_ledger_balances(cell: &Cell) {
    let told = cell.json(&["ledger", "check"]).await.json();
    assert_eq!(told[0]["balanced"], true, "{told:?}");
    assert_eq!(told[0]["lost"], serde_json::json!([]));
    assert!(told[0]["delivered"].as_u64().unwrap() > 0, "{told:?}");
    let said = cell.sotto(&["ledger", "check"]).await.well();
    assert!(said.contains("balanced: every accepted message is somewhere"), "{said}");
}

async fn redis_is_rebuilt(cell: &Cell) {
    let told = cell.json(&["rebuild"]).await.json();
    for (service, scopes) in [("ingress", &["shard 0", "shard 1"][..]), ("carrier", &["account simulator"])] {
        for scope in scopes {
            let done =
                |line: &&Value| line["service"] == service && line["scope"] == *scope && line["done"] == true;
            assert!(told.iter().any(|line| done(&line)), "{service} {scope}: {told:?}");
        }
    }
    assert!(cell.sotto(&["rebuild"]).await.well().contains("carrier account simulator: rebuilt"));
}

/// Gives back a checkpoint of the log, kept elsewhere.
async fn the_log_proves(cell: &Cell, id: &str) -> std::path::PathBuf {
    let shown = cell.json(&["message", "show", id, "--client", "shop"]).await.json();
    let journey = shown[0]["journey"].as_array().unwrap();
    let event = journey.last().unwrap()["event_sequence"].to_string();
    let proved = cell.json(&["audit", "prove", &event, "--wait", "30"]).await.json();
    assert_eq!(proved[0]["verified"], true);
    assert!(cell.sotto(&["audit", "prove", &event]).await.well().contains("proof checked"));
    let (_, fix) = cell.sotto(&["audit", "prove", "999999", "--wait", "0"]).await.refused();
    assert!(fix.contains("try again"), "{fix}");

    let shop = private(&cell.path("clients/shop.json"))["client_id"].as_str().unwrap().to_owned();
    let act = cell.json(&["audit", "act", "token.issued", "--actor", &shop, "--wait", "30"]).await.json();
    assert_eq!(act[0]["actor"], shop);
    assert_eq!((&act[0]["outcome"], &act[0]["verified"]), (&"ok".into(), &true.into()));
    assert!(cell.sotto(&["audit", "act", "token.issued"]).await.well().contains("proof checked"));
    let (error, _) = cell.sotto(&["audit", "act", "no.such", "--wait", "0"]).await.refused();
    assert!(error.contains("no such act no.such"), "{error}");

    let kept = cell.beside("checkpoint");
    std::fs::copy(cell.path("data/audit/checkpoint"), &kept).unwrap();
    kept
}

/// Verifies the log of a stopped cell, and copies of it that were tampered with.
async fn up_to_date_copies_verify(cell: &Cell, checkpoint: &Path) {
    let checkpoint = checkpoint.to_str().unwrap();
    let told = cell.json(&["audit", "verify", "--checkpoint", checkpoint]).await.json();
    assert_eq!((&told[0]["verified"], &told[0]["unreadable"]), (&true.into(), &0.into()), "{told:?}");
    let said = cell.sotto(&["audit", "verify", "--checkpoint", checkpoint]).await.well();
    assert!(said.contains("verified") && said.contains("contains the older tree"), "{said}");

    let copy = cell.beside("copy");
    let copied = std::process::Command::new("cp").arg("-r").arg(cell.path("data/audit")).arg(&copy).status();
    assert!(copied.unwrap().success());
    // A log of fewer than 256 entries has them in one bundle, stored anew at each growth: the widest counts.
    let bundles = std::fs::read_dir(copy.join("tile/entries/000.p")).unwrap().flatten();
    let width =
        |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap();
    let entries = bundles.map(|bundle| bundle.path()).max_by_key(width).unwrap();
    let mut bytes = std::fs::read(&entries).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&entries, bytes).unwrap();
    for form in [&[][..], &["--json"]] {
        let arguments = [form, &["audit", "verify", "--log", copy.to_str().unwrap()]].concat();
        let (error, fix) = cell.sotto(&arguments).await.refused();
        assert!(error.contains("does not verify") && fix.contains("do not repair it"), "{error}; {fix}");
    }
}

async fn nothing_is_in_quarantine(cell: &Cell) {
    assert_eq!(cell.sotto(&["quarantine", "list"]).await.well(), "nothing is in quarantine\n");
    assert_eq!(cell.json(&["quarantine", "list"]).await.json(), Vec::<Value>::new());
    let (error, fix) = cell.sotto(&["quarantine", "show", "7"]).await.refused();
    assert!(error.contains("no number 7") && fix.contains("quarantine list"), "{error}; {fix}");
}

async fn streams_are_set_up_again(cell: &Cell) {
    let carriers = cell.path("run/carriers.toml").display().to_string();
    let told = cell.json(&["provision", "--carriers", &carriers]).await.json();
    assert_eq!(told, [serde_json::json!({ "accounts": 1, "missing": [] })]);
    // A cell of one machine has no carriers file of its own.
    let (error, _) = cell.sotto(&["provision"]).await.refused();
    assert!(error.contains("carriers.toml"), "{error}");
}

async fn doctor_finds_nothing(cell: &Cell) {
    let said = cell.sotto(&["doctor"]).await.well();
    for what in ["nats-server", "redis-server", "free disk", "certificates", "ingress", "streams", "Redis"] {
        assert!(said.contains(what), "{what} in {said}");
    }
    let told = cell.json(&["doctor"]).await.json();
    assert!(told.iter().all(|finding| finding["ok"] == true), "{told:?}");
}

async fn top_shows_what_the_cell_does(cell: &Cell) {
    let told = cell.json(&["top", "--once", "--every", "1"]).await.json();
    let services = told[0]["services"].as_array().unwrap();
    assert_eq!(services.iter().filter(|service| service["ready"] == true).count(), 6, "{told:?}");
    let account = &told[0]["accounts"][0];
    assert_eq!(
        (&account["account"], &account["bound_by"]),
        (&"simulator".into(), &"nothing".into()),
        "{told:?}"
    );
    assert!(account["binds"].as_f64() >= Some(1.0) && told[0]["streams"]["INTAKE"].is_number(), "{told:?}");
    assert_eq!(told[0]["bound_by"], serde_json::json!([]), "{told:?}");
    let said = cell.sotto(&["top", "--once", "--every", "1"]).await.well();
    assert!(said.contains("6 of 6 services ready") && said.contains("nothing bounds the cell"), "{said}");
}

/// Two die at a time; neither waits for the other. (What consumes work is left alone: the broker gives it to the dead
/// one until `ack_wait` is over.)
async fn children_that_die_are_started_again(cell: &Cell) {
    let before = cell.running();
    let victims = ["audit", "identity"];
    for victim in victims {
        kill(before["processes"][victim].as_u64().unwrap());
    }
    eventually(LONG, "both to be started again", || async {
        let now = cell.running();
        victims.iter().all(|victim| now["processes"][*victim] != before["processes"][*victim])
    })
    .await;
    assert_eq!(cell.running()["addresses"], before["addresses"], "they have the addresses that they had");
    eventually_ok(LONG, "doctor to find all of them ready", || async {
        let said = cell.sotto(&["doctor"]).await;
        if said.code == Some(0) { Ok(()) } else { Err(said.out) }
    })
    .await;
    a_message_is_sent_and_shown(cell).await;
}

async fn a_cell_that_still_ends_is_not_started(cell: &Cell) {
    let left = cell.sotto(&["doctor"]).await;
    assert!(left.out.contains("outlived their `sotto up`"), "{left:?}");
    let (error, fix) = cell.sotto(&["up"]).await.refused();
    assert!(error.contains("some of what it started still runs") && fix.contains("kill "), "{error}; {fix}");
}

fn kill(id: u64) {
    signal(u32::try_from(id).unwrap(), "KILL");
}
