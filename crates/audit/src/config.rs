//! Configuration; `default.toml` explains every option.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use sotto_bus::NatsConfig;
use sotto_keystore::TokenSettings;
use sotto_runtime::{
    config::{
        AdminConfig, CellConfig, ConfigDuration, ConfigError, ConfigErrors, KeyPath, KeystoreKind,
        Pkcs11Config, ResidencyConfig, ShutdownConfig, TelemetryConfig, TlsConfig, Validate, empty_is_none,
    },
    service::ProcessConfig,
};
use sotto_tlog::check_origin;

use crate::trim::LEAST_KEPT;

/// Ten years.
const MOST_KEPT: Duration = Duration::from_secs(3_653 * 24 * 3_600);

/// The embedded defaults.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// All of the configuration.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// `[cell]`
    pub cell: CellConfig,
    /// `[residency]`
    pub residency: ResidencyConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[retention]`
    pub retention: RetentionConfig,
    /// `[keystore]`
    pub keystore: KeystoreConfig,
    /// `[nats]`
    pub nats: NatsConfig,
    /// `[grpc]`
    pub grpc: GrpcConfig,
    /// `[tls]`
    pub tls: TlsConfig,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[shutdown]`
    pub shutdown: ShutdownConfig,
}

/// The log.
#[derive(Clone, Debug, Deserialize)]
pub struct LogConfig {
    /// Where its files are.
    pub folder: PathBuf,
    /// Its name.
    #[serde(deserialize_with = "empty_is_none")]
    pub origin: Option<String>,
    /// The longest time to a checkpoint.
    pub interval: ConfigDuration,
    /// Producers remembered.
    pub producers: u32,
}

/// How long events are kept.
#[derive(Clone, Debug, Deserialize)]
pub struct RetentionConfig {
    /// How long.
    pub events: ConfigDuration,
    /// Messages that are noted at a time.
    pub messages_at_once: u32,
}

/// The key that signs checkpoints.
#[derive(Clone, Debug, Deserialize)]
pub struct KeystoreConfig {
    /// What keeps the keys.
    pub kind: KeystoreKind,
    /// The slot's file.
    pub file: PathBuf,
    /// The secret that opens it: 32 bytes, not text.
    pub unlock_secret_file: PathBuf,
    /// `[keystore.pkcs11]`
    pub pkcs11: Pkcs11Config,
}

impl KeystoreConfig {
    /// The token as the keystore knows it; none when a file keeps the keys.
    pub fn token(&self) -> Option<TokenSettings> {
        let Pkcs11Config { module, token, pin_file, sessions, wait, sync_folder } = self.pkcs11.clone();
        let settings =
            TokenSettings { module, label: token, pin_file, sessions, wait: wait.get(), sync_folder };
        (self.kind == KeystoreKind::Pkcs11).then_some(settings)
    }
}

/// Where proofs are served.
#[derive(Clone, Debug, Deserialize)]
pub struct GrpcConfig {
    /// The address.
    pub listen: SocketAddr,
}

impl Config {
    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> String {
        self.log.origin.clone().unwrap_or_else(|| format!("sotto.internal/audit/{}", self.cell.id))
    }
}

impl Validate for Config {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        self.cell.validate(&at.key("cell"), errors);
        let places = [("nats.url", self.nats.url.as_str())];
        let telemetry = self.telemetry.otlp_endpoint.as_deref().map(|url| ("telemetry.otlp_endpoint", url));
        self.residency.check(at, places.into_iter().chain(telemetry), errors);
        self.log.validate(&at.key("log"), errors);
        self.retention.validate(&at.key("retention"), errors);
        self.keystore.validate(&at.key("keystore"), errors);
        self.tls.validate(&at.key("tls"), errors);
        self.telemetry.validate(&at.key("telemetry"), errors);
        self.admin.validate(&at.key("admin"), errors);
        self.shutdown.validate(&at.key("shutdown"), errors);
        for fault in self.nats.faults() {
            let (key, problem) = fault.split_once(": ").unwrap_or(("", &fault));
            errors.push(ConfigError::new(at.key("nats").key(key).to_string(), problem.to_owned()));
        }
    }
}

impl Validate for LogConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        let named = !self.folder.as_os_str().is_empty();
        errors.require(at, "folder", named, "must not be empty", "name the folder of the log's files");
        if let Some(origin) = &self.origin {
            let fix = "give a URL without scheme and without '+', such as sotto.internal/audit/vn";
            errors.require(at, "origin", check_origin(origin), "cannot name a log", fix);
        }
        errors.duration_in(
            at,
            "interval",
            self.interval,
            Duration::from_millis(50)..=Duration::from_secs(60),
        );
        errors.in_range(at, "producers", self.producers, 64..=1_048_576, "producers");
    }
}

impl Validate for RetentionConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.duration_in(at, "events", self.events, LEAST_KEPT..=MOST_KEPT);
        errors.in_range(at, "messages_at_once", self.messages_at_once, 10_000..=100_000_000, "messages");
    }
}

impl Validate for KeystoreConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        if self.kind == KeystoreKind::Pkcs11 {
            self.pkcs11.validate(&at.key("pkcs11"), errors);
            return;
        }
        for (key, path) in [("file", &self.file), ("unlock_secret_file", &self.unlock_secret_file)] {
            let named = !path.as_os_str().is_empty();
            errors.require(at, key, named, "must not be empty", "name the file (sotto init makes it)");
        }
    }
}

impl ProcessConfig for Config {
    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }
    fn admin(&self) -> &AdminConfig {
        &self.admin
    }
    fn shutdown(&self) -> &ShutdownConfig {
        &self.shutdown
    }
}
