//! Sections that services share. A service embeds those it needs and copies their lines into its `default.toml`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use sotto_core::{CellId, Replicas, Restored, Shards, Timestamp, clock::InvalidTime};

use super::{
    ConfigDuration, ConfigError, ConfigErrors, KeyPath, SecretFile, Validate, secret::only_ours,
    validate::empty_is_none,
};

/// Which cell this process belongs to.
#[derive(Clone, Debug, Deserialize)]
pub struct CellConfig {
    /// The cell's name (`vn`): part of every subject and bound into every envelope.
    pub id: CellId,
    /// The number of shards, 1 to 64 (`deploy/streams.toml`); fixed at the birth of the cell.
    pub shards: Shards,
    /// How many brokers keep a copy of each message, 1 or 3; fixed at the birth of the cell.
    pub replicas: Replicas,
}

impl Validate for CellConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.in_range(at, "shards", self.shards.count(), 1..=64, "shards");
    }
}

/// Whether the cell was put back from a backup.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct RestoredConfig {
    /// When, RFC 3339; `sotto restore` writes it. Empty: never.
    #[serde(default, deserialize_with = "empty_is_none")]
    at: Option<At>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct At(Timestamp);

impl TryFrom<String> for At {
    type Error = InvalidTime;
    fn try_from(text: String) -> Result<Self, InvalidTime> {
        text.parse().map(Self)
    }
}

impl RestoredConfig {
    /// That it was, and when.
    pub fn cell(&self) -> Option<Restored> {
        self.at.map(|At(at)| Restored { at })
    }
}

impl Validate for RestoredConfig {
    fn validate(&self, _: &KeyPath, _: &mut ConfigErrors) {}
}

/// How a process tells what it does.
#[derive(Clone, Debug, Deserialize)]
pub struct TelemetryConfig {
    /// Log filter, such as `info` or `info,sotto_bus=debug` (tracing-subscriber's `EnvFilter`).
    pub log: String,
    /// How log lines look.
    pub format: LogFormat,
    /// Where traces go: OTLP over gRPC, `http://host:4317`. Empty: nowhere.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub otlp_endpoint: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; colours only on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

impl Validate for TelemetryConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        if let Err(e) = tracing_subscriber::EnvFilter::builder().parse(&self.log) {
            errors.push(
                ConfigError::new(at.key("log"), format!("is not a log filter: {e}"))
                    .fix("such as \"info,sotto_bus=debug\""),
            );
        }
        if let Some(endpoint) = &self.otlp_endpoint {
            let ok = endpoint.strip_prefix("http://").is_some_and(|rest| !rest.is_empty())
                && endpoint.parse::<axum::http::Uri>().is_ok();
            let fix =
                "give http://host:port of an OpenTelemetry agent beside this process, or leave it empty";
            errors.require(at, "otlp_endpoint", ok, "must be an http:// address", fix);
        }
    }
}

/// The process's own small HTTP server: `/live`, `/ready`, `/info`.
#[derive(Clone, Debug, Deserialize)]
pub struct AdminConfig {
    /// Where it listens. Port 0 lets the system choose. Nothing secret is told there, but keep it off the internet.
    pub listen: SocketAddr,
    /// A file to write the bound address into, for a supervisor that let the system choose the port. Empty: none.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub address_file: Option<PathBuf>,
}

impl Validate for AdminConfig {
    fn validate(&self, _: &KeyPath, _: &mut ConfigErrors) {}
}

/// This process's certificate and the authority that all of a cell's certificates come from (PEM files).
#[derive(Clone, Debug, Deserialize)]
pub struct TlsConfig {
    /// Certificates of the authorities that peers are checked against.
    pub ca_file: PathBuf,
    /// This process's certificate, then any intermediates.
    pub cert_file: PathBuf,
    /// The certificate's private key (PKCS#8, mode 600).
    pub key_file: PathBuf,
}

impl Validate for TlsConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        for (key, path) in
            [("ca_file", &self.ca_file), ("cert_file", &self.cert_file), ("key_file", &self.key_file)]
        {
            let fix = "set it to a readable PEM file (sotto init makes them)";
            errors.require(at, key, path.is_file(), "must name a file", fix);
        }
    }
}

/// The cell's Redis, as this service's own user.
#[derive(Clone, Debug, Deserialize)]
pub struct RedisConfig {
    /// `rediss://host:port`: TLS only.
    pub url: String,
    /// The service's ACL user.
    pub username: String,
    /// The file that holds its password.
    pub password_file: SecretFile,
    /// How long a connection may take to come up, 100 ms to 30 s.
    pub connect_timeout: ConfigDuration,
    /// How long a command may take, 50 ms to 30 s.
    pub response_timeout: ConfigDuration,
}

impl Validate for RedisConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        let rest = self.url.strip_prefix("rediss://");
        let fix = "give rediss://host:port; user and password have keys of their own";
        let ok = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('@'));
        errors.require(at, "url", ok, "must be a rediss:// address without user and password", fix);
        errors.require(
            at,
            "username",
            !self.username.is_empty(),
            "must not be empty",
            "name the service's ACL user",
        );
        let longest = Duration::from_secs(30);
        errors.duration_in(at, "connect_timeout", self.connect_timeout, Duration::from_millis(100)..=longest);
        errors.duration_in(
            at,
            "response_timeout",
            self.response_timeout,
            Duration::from_millis(50)..=longest,
        );
    }
}

/// What keeps a service's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeystoreKind {
    /// An encrypted file.
    Software,
    /// A token of an HSM.
    Pkcs11,
}

/// A token of an HSM. Looked at only where it is what keeps the keys.
#[derive(Clone, Debug, Deserialize)]
pub struct Pkcs11Config {
    /// The HSM's library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The file with its user PIN (mode 600).
    pub pin_file: PathBuf,
    /// Calls at once, 1 to 256.
    pub sessions: usize,
    /// How long a call waits for its turn, 100 ms to 30 s.
    pub wait: ConfigDuration,
    /// The folder of a token in software, synced after each change. Empty: none.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub sync_folder: Option<PathBuf>,
}

impl Validate for Pkcs11Config {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        let fix = "give the path of the HSM's library (SoftHSM2: /usr/lib/softhsm/libsofthsm2.so)";
        errors.require(at, "module", self.module.is_file(), "must name a file", fix);
        // CK_TOKEN_INFO has 32 bytes for it.
        let named = (1..=32).contains(&self.token.len());
        errors.require(at, "token", named, "must have 1 to 32 characters", "give the label of the token");
        if let Err(problem) = only_ours(&self.pin_file) {
            let fix =
                "write the user PIN into a file of the user that this service runs as, and chmod 600 it";
            errors.push(ConfigError::new(at.key("pin_file"), problem).fix(fix));
        }
        errors.in_range(at, "sessions", self.sessions, 1..=256, "sessions");
        let waits = Duration::from_millis(100)..=Duration::from_secs(30);
        errors.duration_in(at, "wait", self.wait, waits);
        if let Some(folder) = &self.sync_folder {
            let fix = "name SoftHSM's folder of tokens, or leave it empty";
            errors.require(at, "sync_folder", folder.is_dir(), "must name a folder", fix);
        }
    }
}

/// How the process ends.
#[derive(Clone, Debug, Deserialize)]
pub struct ShutdownConfig {
    /// How long work under way may take to finish after a stop is asked for, 1 s to 10 m.
    pub grace: ConfigDuration,
}

impl Validate for ShutdownConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.duration_in(at, "grace", self.grace, Duration::from_secs(1)..=Duration::from_secs(600));
    }
}
