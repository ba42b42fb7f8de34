//! What needs no running cell.

use std::os::unix::fs::PermissionsExt as _;

use crate::cell::Cell;

#[tokio::test]
async fn a_cell_is_made_once_and_its_secrets_are_its_owners() {
    let cell = Cell::none();
    let told = cell.json(&["init", "--id", "test", "--host", "sms.example.vn"]).await.json();
    assert_eq!((told.len(), told[0]["id"].as_str()), (1, Some("test")));

    for (arguments, form) in [(vec!["init"], "people"), (vec!["--json", "init"], "programs")] {
        let (error, fix) = cell.sotto(&arguments).await.refused();
        assert!(error.contains("is not empty") && fix.contains("--cell"), "{form}: {error}; {fix}");
    }
    for secret in
        ["ca/ca.key", "tls/nats.key", "secrets/redis-ingress", "owner-invitation", "redis/users.acl"]
    {
        let mode = std::fs::metadata(cell.path(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    for service in ["identity", "ingress"] {
        let config = std::fs::read_to_string(cell.path(&format!("config/{service}.toml"))).unwrap();
        assert!(config.contains("issuer = \"https://sms.example.vn:7444\""), "{config}");
    }
}

#[tokio::test]
async fn a_cell_for_containers_is_made_once_and_not_started_here() {
    let cell = Cell::none();
    let shares = cell.beside("shares").display().to_string();
    for made in [true, false] {
        let told = cell.json(&["init", "--id", "test", "--containers", &shares]).await.json();
        assert_eq!((told.len(), told[0]["made"].as_bool()), (1, Some(made)));
    }
    for process in
        ["nats", "redis", "simulator", "ingress", "routing", "carrier", "identity", "privacy", "audit"]
    {
        assert!(cell.beside("shares").join(process).join("tls/ca.pem").exists(), "{process}");
    }
    let (error, fix) = cell.sotto(&["up"]).await.refused();
    assert!(error.contains("made for containers") && fix.contains("compose up"), "{error}; {fix}");
}

#[tokio::test]
async fn whatever_is_asked_of_no_cell_is_told_how_to_make_one() {
    let cell = Cell::none();
    for arguments in [&["up"][..], &["ledger", "check"], &["quarantine", "list"]] {
        for form in [&[][..], &["--json"]] {
            let (error, fix) = cell.sotto(&[form, arguments].concat()).await.refused();
            assert!(error.contains("is not a cell"), "{arguments:?}: {error}");
            assert!(fix.contains("sotto init --cell"), "{arguments:?}: {fix}");
        }
    }
    let doctor = cell.sotto(&["doctor"]).await;
    assert_eq!(doctor.code, Some(1));
    assert!(doctor.out.contains("fix: make one with: sotto init"), "{doctor:?}");
}

#[tokio::test]
async fn whatever_is_asked_of_a_cell_that_does_not_run_is_told_how_to_start_it() {
    let cell = Cell::new().await;
    let id = "01993ccc-0000-7000-8000-000000000000";
    for arguments in [
        &["ledger", "check"][..],
        &["rebuild"],
        &["owner", "claim"],
        &["audit", "prove", "1"],
        &["audit", "act", "token.issued"],
        &["quarantine", "show", "1"],
    ] {
        for form in [&[][..], &["--json"]] {
            let (error, fix) = cell.sotto(&[form, arguments].concat()).await.refused();
            assert!(error.contains("is not running"), "{arguments:?}: {error}");
            assert!(fix.contains("sotto up --cell"), "{arguments:?}: {fix}");
        }
    }
    let (_, fix) = cell.sotto(&["client", "list"]).await.refused();
    assert!(fix.contains("sotto owner claim"), "{fix}");
    for arguments in [
        &["send", "--client", "shop", "--to", "+84912345678", "--from", "ACMEBANK", "--text", "x"][..],
        &["message", "show", id, "--client", "shop"],
    ] {
        let (_, fix) = cell.sotto(arguments).await.refused();
        assert!(fix.contains("sotto client create"), "{fix}");
    }
    let (error, fix) = cell.sotto(&["audit", "verify", "--key", "nonsense"]).await.refused();
    assert!(error.contains("verifier key") && fix.contains("<name>+<hash>+<base64>"), "{error}; {fix}");
    let doctor = cell.sotto(&["doctor"]).await.well();
    assert!(doctor.contains("not running; start them with: sotto up"), "{doctor}");
}

#[tokio::test]
async fn a_wrong_command_line_has_its_own_exit_code() {
    let cell = Cell::none();
    for arguments in [
        &[][..],
        &["init", "--shards", "65"],
        &["init", "--host", "not a host"],
        &["init", "--issuer", "http://id.example"],
        &["audit", "prove", "one"],
        &["message", "show", "x", "--client", "shop", "--wait", "86401"],
        &["send", "--client", "shop", "--to", "-", "--from", "X", "--text", "x", "--class", "spam"],
    ] {
        let said = cell.sotto(arguments).await;
        assert_eq!(said.code, Some(2), "{arguments:?}: {said:?}");
        assert!(!cell.path("").exists(), "{arguments:?}");
    }
}
