use std::fs;

use sotto_identity::config::{Config, DEFAULT_TOML};
use sotto_runtime::config::testing::{faults_not_reported, load_text};
use tempfile::TempDir;

fn required(folder: &TempDir) -> String {
    let folder = folder.path().display();
    for name in ["ca", "cert", "key", "slot", "unlock", "password", "seed"] {
        fs::write(format!("{folder}/{name}"), "text").unwrap();
        let private = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        fs::set_permissions(format!("{folder}/{name}"), private).unwrap();
    }
    format!(
        "cell.id = 'vn'\n\
         tls.ca_file = '{folder}/ca'\ntls.cert_file = '{folder}/cert'\ntls.key_file = '{folder}/key'\n\
         keystore.slot_file = '{folder}/slot'\nkeystore.unlock_secret_file = '{folder}/unlock'\n\
         store.clients_file = '{folder}/clients.json'\nstore.invitation_file = '{folder}/invitation.json'\n\
         redis.url = 'rediss://localhost:6379'\nredis.password_file = '{folder}/password'\n\
         nats.url = 'tls://localhost:4222'\nnats.ca_file = '{folder}/ca'\nnats.cert_file = '{folder}/cert'\n\
         nats.key_file = '{folder}/key'\nnats.nkey_seed_file = '{folder}/seed'\n"
    )
}

#[test]
fn every_field_wrong_in_turn_is_told_with_its_path() {
    let folder = TempDir::new().unwrap();
    let unreported = faults_not_reported::<Config>(DEFAULT_TOML, &required(&folder));
    assert_eq!(unreported, Vec::<String>::new());
}

#[test]
fn every_range_is_checked() {
    let folder = TempDir::new().unwrap();
    let required = required(&folder);
    for (wrong, path) in [
        ("https.connections = 0", "https.connections"),
        ("keystore.slot_file = '/no/such/file'", "keystore.slot_file"),
        ("keystore.unlock_secret_file = ''", "keystore.unlock_secret_file"),
        ("store.clients_file = ''", "store.clients_file"),
        ("store.clients_file = '/no/such/folder/file'", "store.clients_file"),
        ("store.invitation_file = ''", "store.invitation_file"),
        ("tokens.issuer = 'http://identity.sotto.internal'", "tokens.issuer"),
        ("tokens.issuer = 'https://identity.sotto.internal/'", "tokens.issuer"),
        ("tokens.audience = 'vn'", "tokens.audience"),
        ("tokens.lifetime = '61 m'", "tokens.lifetime"),
        ("tokens.lifetime = '59 s'", "tokens.lifetime"),
        ("tokens.rotate_every = '31 m'", "tokens.rotate_every"),
        ("tokens.publish_ahead = '9 m'", "tokens.publish_ahead"),
        ("tokens.publish_ahead = '24 h'", "tokens.publish_ahead"),
        ("secrets.environment = 'Live'", "secrets.environment"),
        ("limits.client_failures_per_minute = 0", "limits.client_failures_per_minute"),
        ("limits.source_failures_per_minute = 10001", "limits.source_failures_per_minute"),
        ("redis.url = 'redis://localhost'", "redis.url"),
        ("nats.url = 'nats://localhost:4222'", "nats.url"),
        ("nats.nkey_seed_file = ''", "nats.nkey_seed_file"),
        ("nats.connect_timeout_ms = 99", "nats.connect_timeout_ms"),
        ("cell.shards = 65", "cell.shards"),
    ] {
        let key = wrong.split('=').next().unwrap();
        let kept: String =
            required.lines().filter(|old| !old.starts_with(key)).map(|old| format!("{old}\n")).collect();
        let errors = load_text::<Config>(DEFAULT_TOML, &format!("{kept}{wrong}\n")).unwrap_err();
        let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
        // rotate_every below the default publish_ahead is told with both.
        assert_eq!(paths.first(), Some(&path), "{wrong}: {paths:?}");
    }
}

#[test]
fn the_audience_follows_the_cell_unless_it_is_set() {
    let folder = TempDir::new().unwrap();
    let required = required(&folder);
    let load = |more: &str| load_text::<Config>(DEFAULT_TOML, &format!("{required}{more}")).unwrap().config;
    assert_eq!(load("").parties().audience, "https://vn.sotto.internal");
    assert_eq!(load("tokens.audience = 'urn://x'\n").parties().audience, "urn://x");
}
