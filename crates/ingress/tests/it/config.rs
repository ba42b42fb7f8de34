use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use sotto_ingress::config::{Config, DEFAULT_TOML};
use sotto_runtime::config::testing::{faults_not_reported, load_text};
use tempfile::TempDir;

/// Sets what has no default, with files that exist.
fn required(folder: &Path) -> String {
    let file = |name: &str| {
        let path = folder.join(name);
        fs::write(&path, "text").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    format!(
        "cell.id = 'vn'\n\
         tls.ca_file = '{ca}'\ntls.cert_file = '{cert}'\ntls.key_file = '{key}'\n\
         tokens.issuer = 'https://identity.test'\ntokens.audience = 'sotto-vn'\n\
         tokens.jwks_url = 'https://localhost:7411/.well-known/jwks.json'\n\
         keystore.file = '{}'\nkeystore.unlock_secret_file = '{}'\n\
         privacy.endpoint = 'https://localhost:7421'\n\
         nats.url = 'tls://localhost:4222'\n\
         nats.ca_file = '{ca}'\nnats.cert_file = '{cert}'\nnats.key_file = '{key}'\nnats.nkey_seed_file = '{}'\n\
         redis.url = 'rediss://localhost:6379'\nredis.password_file = '{}'\n",
        file("ingress.sks"),
        file("unlock"),
        file("seed"),
        file("password"),
    )
}

#[test]
fn every_field_wrong_in_turn_is_told_with_its_path() {
    let folder = TempDir::new().unwrap();
    let unreported = faults_not_reported::<Config>(DEFAULT_TOML, &required(folder.path()));
    assert_eq!(unreported, Vec::<String>::new());
}

#[test]
fn every_range_is_checked() {
    let folder = TempDir::new().unwrap();
    let required = required(folder.path());
    for (wrong, path) in [
        ("cell.shards = 257", "cell.shards"),
        ("grpc.connections = 0", "grpc.connections"),
        ("grpc.streams_per_connection = 10001", "grpc.streams_per_connection"),
        ("tokens.issuer = ''", "tokens.issuer"),
        ("tokens.audience = ''", "tokens.audience"),
        ("tokens.jwks_url = 'http://localhost:1/'", "tokens.jwks_url"),
        ("tokens.jwks_url = 'https://localhost/no-port'", "tokens.jwks_url"),
        ("tokens.server_name = 'not a name'", "tokens.server_name"),
        ("tokens.elsewhere = { 'sotto-eu' = 'eu.example:7443' }", "tokens.elsewhere.sotto-eu"),
        ("tokens.elsewhere = { 'sotto-vn' = 'https://eu.example:7443' }", "tokens.elsewhere.sotto-vn"),
        (
            "residency.hosts = ['localhost']\ntelemetry.otlp_endpoint = 'http://o.example:4317'",
            "telemetry.otlp_endpoint",
        ),
        ("tokens.refresh = '9 s'", "tokens.refresh"),
        ("keystore.file = '/no/such/file'", "keystore.file"),
        ("keystore.unlock_secret_file = ''", "keystore.unlock_secret_file"),
        ("privacy.endpoint = 'localhost:7421'", "privacy.endpoint"),
        ("privacy.server_name = ''", "privacy.server_name"),
        ("privacy.timeout = '31 s'", "privacy.timeout"),
        ("privacy.margin = '121 s'", "privacy.margin"),
        ("validity.otp_default = '16 m'", "validity.otp_default"),
        ("validity.otp_max = '25 h'", "validity.otp_max"),
        ("validity.default = '73 h'", "validity.default"),
        ("validity.max = '31 d'", "validity.max"),
        ("rate.per_second = 0", "rate.per_second"),
        ("rate.burst = 0", "rate.burst"),
        ("rate.alone = 101", "rate.alone"),
        ("rate.reads_per_second = 0", "rate.reads_per_second"),
        ("rate.reads_burst = 0", "rate.reads_burst"),
        ("load.in_flight = 0", "load.in_flight"),
        ("load.reads_in_flight = 0", "load.reads_in_flight"),
        ("load.outstanding = 10001", "load.outstanding"),
        ("load.streams = 0", "load.streams"),
        ("load.streams_of_tenant = 0", "load.streams_of_tenant"),
        ("load.stall = '999 ms'", "load.stall"),
        ("load.idle = '61 m'", "load.idle"),
        ("publishers.in_flight = 0", "publishers.in_flight"),
        ("publishers.in_flight_of_tenant = 10001", "publishers.in_flight_of_tenant"),
        ("publishers.clear_until.acme = 'tomorrow'", "publishers.clear_until.acme"),
        ("publishers.clear_until.a_b = '2027-01-31T00:00:00Z'", "publishers.clear_until.a_b"),
        ("projection.sweep_every = '61 s'", "projection.sweep_every"),
        ("projection.grace = '999 ms'", "projection.grace"),
        ("projection.receipt_wait = '59 s'", "projection.receipt_wait"),
        ("projection.keep = '59 m'", "projection.keep"),
        ("nats.url = 'nats://localhost:4222'", "nats.url"),
        ("nats.nkey_seed_file = ''", "nats.nkey_seed_file"),
        ("nats.connect_timeout_ms = 99", "nats.connect_timeout_ms"),
        ("redis.url = 'redis://localhost:6379'", "redis.url"),
        ("redis.response_timeout = '49 ms'", "redis.response_timeout"),
        ("shutdown.grace = '0 s'", "shutdown.grace"),
    ] {
        let text = without(&required, wrong);
        let loaded = load_text::<Config>(DEFAULT_TOML, &format!("{text}{wrong}\n"));
        let paths: Vec<_> = match &loaded {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(|error| error.path.as_str()).collect(),
        };
        assert_eq!(paths, [path], "{wrong}");
    }
}

/// The text without the line that sets the same key.
fn without(text: &str, line: &str) -> String {
    let key = line.split('=').next().unwrap();
    text.lines().filter(|old| !old.starts_with(key)).map(|old| format!("{old}\n")).collect()
}
