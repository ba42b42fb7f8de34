//! Every field of the configuration wrong in turn.

use std::fs;

use sotto_audit::config::{Config, DEFAULT_TOML};
use sotto_runtime::config::testing::{faults_not_reported, load_text};

/// What has no default: the certificate's files must exist.
fn required(folder: &std::path::Path) -> String {
    let file = folder.join("some.pem");
    fs::write(&file, "").unwrap();
    let file = file.display();
    format!("[tls]\nca_file = '{file}'\ncert_file = '{file}'\nkey_file = '{file}'\n")
}

#[test]
fn every_wrong_field_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(faults_not_reported::<Config>(DEFAULT_TOML, &required(folder.path())), Vec::<String>::new());
}

#[test]
fn values_out_of_their_range_are_all_told_at_once() {
    let wrong = "[cell]\nshards = 257\n\
         [log]\nfolder = ''\norigin = 'https://example.com/log'\ninterval = '40 ms'\nproducers = 1\n\
         [keystore]\nfile = ''\nunlock_secret_file = ''\n\
         [nats]\nurl = 'nats://localhost'\nnkey_seed_file = ''\nconnect_timeout_ms = 1\n\
         [telemetry]\nlog = '=='\n[shutdown]\ngrace = '1 ms'\n";
    let errors = load_text::<Config>(DEFAULT_TOML, wrong).unwrap_err();
    let mut paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
    paths.sort_unstable();
    let expected = [
        "cell.shards",
        "keystore.file",
        "keystore.unlock_secret_file",
        "log.folder",
        "log.interval",
        "log.origin",
        "log.producers",
        "nats.connect_timeout_ms",
        "nats.nkey_seed_file",
        "nats.url",
        "shutdown.grace",
        "telemetry.log",
        "tls.ca_file",
        "tls.cert_file",
        "tls.key_file",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn the_origin_follows_the_cell_unless_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let origin = |more: &str| {
        let text = format!("{}{more}", required(folder.path()));
        load_text::<Config>(DEFAULT_TOML, &text).unwrap().config.origin()
    };
    assert_eq!(origin(""), "sotto.internal/audit/vn");
    assert_eq!(origin("[cell]\nid = 'sg'\n"), "sotto.internal/audit/sg");
    assert_eq!(origin("[log]\norigin = 'log.example.vn/2026h2'\n"), "log.example.vn/2026h2");
}
