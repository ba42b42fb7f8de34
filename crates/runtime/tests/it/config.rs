use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde::Deserialize;
use sotto_runtime::config::{
    AdminConfig, CellConfig, ConfigErrors, KeyPath, LogFormat, RedisConfig, SecretFile, ShutdownConfig,
    Sources, TelemetryConfig, TlsConfig, Validate, load, testing,
};
use tempfile::TempDir;

const DEFAULT: &str = r#"
workers = 4
ratio = 0.5
tags = ["a", "b"]
[cell]
id = ""
shards = 4
replicas = 1
[telemetry]
log = "info"
format = "text"
otlp_endpoint = ""
[admin]
listen = "127.0.0.1:0"
address_file = ""
[shutdown]
grace = "30 s"
[tls]
ca_file = ""
cert_file = ""
key_file = ""
[redis]
url = ""
username = ""
password_file = ""
connect_timeout = "5 s"
response_timeout = "1 s"
"#;

#[derive(Debug, Deserialize)]
struct Config {
    workers: u8,
    ratio: f64,
    tags: Vec<String>,
    cell: CellConfig,
    telemetry: TelemetryConfig,
    admin: AdminConfig,
    shutdown: ShutdownConfig,
    tls: TlsConfig,
    redis: RedisConfig,
}

impl Validate for Config {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.in_range(at, "workers", self.workers, 1..=64, "workers");
        errors.in_range(at, "ratio", self.ratio, 0.0..=1.0, "of the whole");
        self.cell.validate(&at.key("cell"), errors);
        self.telemetry.validate(&at.key("telemetry"), errors);
        self.admin.validate(&at.key("admin"), errors);
        self.shutdown.validate(&at.key("shutdown"), errors);
        self.tls.validate(&at.key("tls"), errors);
        self.redis.validate(&at.key("redis"), errors);
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What a deployment must set.
fn required(folder: &TempDir) -> String {
    let password = folder.path().join("password");
    write(&password, "hunter2-hunter2\n", 0o600);
    let pem = folder.path().join("some.pem");
    write(&pem, "", 0o600);
    format!(
        "[cell]\nid = 'vn'\n[tls]\nca_file = {pem:?}\ncert_file = {pem:?}\nkey_file = {pem:?}\n\
         [redis]\nurl = 'rediss://localhost:6379'\nusername = 'tiny'\npassword_file = {password:?}\n"
    )
}

fn paths(errors: &ConfigErrors) -> Vec<&str> {
    errors.iter().map(|error| error.path.as_str()).collect()
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn layers_defaults_file_and_environment() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tiny.toml");
    write(
        &file,
        &format!("workers = 8\ntags = ['file']\n{}\n[shutdown]\ngrace = '5 s'\n", required(&folder)),
        0o644,
    );
    let environment = variables(&[
        ("SOTTO__SHUTDOWN__GRACE", "1 m"),
        ("SOTTO__CELL__SHARDS", "16"),
        ("SOTTO__RATIO", "0.25"),
        ("SOTTO__TAGS", "x, y"),
        ("SOTTO__TELEMETRY__FORMAT", "json"),
        ("PATH", "/bin"),
    ]);
    let sources = Sources { file: Some(&file), environment: Some(&environment), ..Sources::default() };
    let loaded = load::<Config>(DEFAULT, sources).unwrap();
    let config = &loaded.config;
    assert_eq!(config.workers, 8, "file over default");
    assert_eq!(config.shutdown.grace.get().as_secs(), 60, "environment over file");
    assert_eq!((config.cell.shards.count(), config.cell.id.as_str()), (16, "vn"));
    assert_eq!((config.ratio, config.tags.join("+")), (0.25, "x+y".to_owned()));
    assert_eq!(config.telemetry.format, LogFormat::Json);
    assert_eq!(config.telemetry.otlp_endpoint, None);
    assert_eq!(config.admin.address_file, None);
    assert_eq!(config.redis.password_file.expose(), "hunter2-hunter2", "without the line break");

    let shown = loaded.to_redacted_toml();
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("grace = \"1 m\"") && shown.contains("password_file"), "{shown}");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn every_error_is_told_at_once() {
    let folder = TempDir::new().unwrap();
    let text = format!(
        "workers = 300\nratio = 7.5\ntypo = 1\n{}\n[telemetry]\nlog = 'info,=,x=y=z'\nformat = 'xml'\n\
         [admin]\nlisten = 'everywhere'\nport = 1\n[shutdown]\ngrace = '3 fortnights'\n[nonsense]\na = 1\n",
        required(&folder).replace("id = 'vn'", "id = 'V N'\nshards = 65")
    );
    let environment =
        variables(&[("SOTTO_ADMIN__LISTEN", "127.0.0.1:1"), ("SOTTO__REDIS__RESPONSE_TIMEOUT", "1 h")]);
    let sources = Sources { text: Some(&text), environment: Some(&environment), ..Sources::default() };
    let errors = load::<Config>(DEFAULT, sources).unwrap_err();
    let mut found = paths(&errors);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "SOTTO_ADMIN__LISTEN",
            "admin.listen",
            "admin.port",
            "cell.id",
            "cell.shards",
            "nonsense",
            "ratio",
            "redis.response_timeout",
            "shutdown.grace",
            "telemetry.format",
            "telemetry.log",
            "typo",
            "workers",
        ],
        "{errors}"
    );
    let report = errors.to_string();
    for told in [
        "the configuration has 13 errors",
        "workers: must be u8; given 300",
        "ratio: must be 0 to 1 of the whole; given 7.5",
        "shutdown.grace: must be a number and a unit",
        "redis.response_timeout: must be 50 ms to 30 s; given \"1 h\" in the environment",
        "admin.port: is not a known key; known here: address_file, listen",
        "SOTTO__ADMIN__LISTEN",
        "must be `text` or `json`",
    ] {
        assert!(report.contains(told), "{told} not in:\n{report}");
    }
}

#[test]
fn keys_without_default_must_be_set_and_all_are_told() {
    let errors = load::<Config>(DEFAULT, Sources::default()).unwrap_err();
    let mut found = paths(&errors);
    found.sort_unstable();
    let expected = [
        "cell.id",
        "redis.password_file",
        "redis.url",
        "redis.username",
        "tls.ca_file",
        "tls.cert_file",
        "tls.key_file",
    ];
    assert_eq!(found, expected, "{errors}");
    assert!(errors.to_string().contains("SOTTO__CELL__ID"), "{errors}");
}

#[test]
fn secrets_come_from_files_that_are_not_open_to_all() {
    let folder = TempDir::new().unwrap();
    let required = required(&folder);
    let inline = format!("{required}password = 'hunter2'\n");
    let errors = testing::load_text::<Config>(DEFAULT, &inline).unwrap_err();
    assert_eq!(paths(&errors), ["redis.password"]);
    assert!(!errors.to_string().contains("hunter2"), "{errors}");
    assert!(errors.to_string().contains("password_file"), "{errors}");

    let password = folder.path().join("password");
    for (mode, text, told) in [(0o644, "long-enough", "chmod 600"), (0o600, "", "1 to 65536 bytes")] {
        write(&password, text, mode);
        let errors = testing::load_text::<Config>(DEFAULT, &required).unwrap_err();
        assert_eq!(paths(&errors), ["redis.password_file"]);
        assert!(errors.to_string().contains(told), "{errors}");
    }
    fs::remove_file(&password).unwrap();
    let errors = testing::load_text::<Config>(DEFAULT, &required).unwrap_err();
    assert!(errors.to_string().contains("cannot be read"), "{errors}");
    assert!(format!("{:?}", SecretFile::in_memory("hunter2")).find("hunter2").is_none());
}

#[test]
fn passwords_in_addresses_are_refused_and_not_shown() {
    let folder = TempDir::new().unwrap();
    let text = required(&folder).replace("rediss://localhost", "rediss://me:hunter2@localhost");
    let errors = testing::load_text::<Config>(DEFAULT, &text).unwrap_err();
    assert_eq!(paths(&errors), ["redis.url"]);
    assert!(!errors.to_string().contains("hunter2"), "{errors}");
    let plain = required(&folder).replace("rediss://", "redis://");
    assert_eq!(paths(&testing::load_text::<Config>(DEFAULT, &plain).unwrap_err()), ["redis.url"]);
}

#[test]
fn sources_that_cannot_be_read_are_told() {
    let missing = Path::new("/nowhere/sotto.toml");
    let errors = load::<Config>(DEFAULT, Sources { file: Some(missing), ..Sources::default() }).unwrap_err();
    assert!(errors.to_string().contains("/nowhere/sotto.toml"), "{errors}");
    let errors = testing::load_text::<Config>(DEFAULT, "this is = = not TOML").unwrap_err();
    assert!(errors.to_string().contains("cannot be read"), "{errors}");
    let errors =
        testing::load_text::<Config>(DEFAULT, "redis.password_file = \"\\u0000stand-in\"").unwrap_err();
    assert!(errors.to_string().contains("NUL"), "{errors}");
}

#[test]
fn every_field_wrong_in_turn() {
    let folder = TempDir::new().unwrap();
    let unreported = testing::faults_not_reported::<Config>(DEFAULT, &required(&folder));
    assert!(unreported.is_empty(), "{}", unreported.join("\n"));
}
