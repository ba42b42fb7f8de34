//! `default.toml` as types. Its text is the reference.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use sotto_bus::NatsConfig;
use sotto_keystore::TokenSettings;
use sotto_runtime::{
    config::{
        AdminConfig, CellConfig, ConfigDuration, ConfigError, ConfigErrors, KeyPath, KeystoreKind,
        Pkcs11Config, RedisConfig, ResidencyConfig, ShutdownConfig, TelemetryConfig, TlsConfig, Validate,
        empty_is_none,
    },
    service::ProcessConfig,
};

use crate::domain::{access::Parties, rotation::Schedule, secret, throttle::Limits};

/// The embedded defaults.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// How long verifiers may keep the published keys. A key is published longer than that before its first use.
pub const JWKS_MAX_AGE: Duration = Duration::from_secs(300);

/// Sources and clients whose failures are remembered: some 100 bytes each.
const REMEMBERED: usize = 10_000;

/// All of the configuration.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// `[cell]`
    pub cell: CellConfig,
    /// `[residency]`
    pub residency: ResidencyConfig,
    /// `[https]`
    pub https: HttpsConfig,
    /// `[grpc]`
    pub grpc: GrpcConfig,
    /// `[tls]`
    pub tls: TlsConfig,
    /// `[keystore]`
    pub keystore: KeystoreConfig,
    /// `[store]`
    pub store: StoreConfig,
    /// `[tokens]`
    pub tokens: TokensConfig,
    /// `[secrets]`
    pub secrets: SecretsConfig,
    /// `[limits]`
    pub limits: LimitsConfig,
    /// `[redis]`
    pub redis: RedisConfig,
    /// `[nats]`
    pub nats: NatsConfig,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
    /// `[shutdown]`
    pub shutdown: ShutdownConfig,
}

/// Where tokens are asked for.
#[derive(Clone, Debug, Deserialize)]
pub struct HttpsConfig {
    /// The address.
    pub listen: SocketAddr,
    /// Connections at a time.
    pub connections: usize,
}

/// Where clients are registered.
#[derive(Clone, Debug, Deserialize)]
pub struct GrpcConfig {
    /// The address.
    pub listen: SocketAddr,
}

/// Where identity's keys are.
#[derive(Clone, Debug, Deserialize)]
pub struct KeystoreConfig {
    /// What keeps the keys.
    pub kind: KeystoreKind,
    /// The file of the slot's keys.
    pub slot_file: PathBuf,
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

/// Where clients are kept.
#[derive(Clone, Debug, Deserialize)]
pub struct StoreConfig {
    /// The registered clients.
    pub clients_file: PathBuf,
    /// The owner's invitation.
    pub invitation_file: PathBuf,
}

/// What tokens say and how they are signed.
#[derive(Clone, Debug, Deserialize)]
pub struct TokensConfig {
    /// The issuer identifier.
    pub issuer: String,
    /// The audience; `None` for the one made of the cell's name.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub audience: Option<String>,
    /// How long a token is good for.
    pub lifetime: ConfigDuration,
    /// How long a key signs.
    pub rotate_every: ConfigDuration,
    /// How long a key is published before.
    pub publish_ahead: ConfigDuration,
}

/// How client secrets look.
#[derive(Clone, Debug, Deserialize)]
pub struct SecretsConfig {
    /// The environment's name in them.
    pub environment: String,
}

/// How many failed attempts are taken.
#[derive(Clone, Debug, Deserialize)]
pub struct LimitsConfig {
    /// Of one client from one source.
    pub client_failures_per_minute: u32,
    /// From one source.
    pub source_failures_per_minute: u32,
}

impl Config {
    /// Who issues tokens and for whom.
    pub fn parties(&self) -> Parties {
        let of_the_cell = || format!("https://{}.sotto.internal", self.cell.id);
        Parties {
            issuer: self.tokens.issuer.clone(),
            audience: self.tokens.audience.clone().unwrap_or_else(of_the_cell),
        }
    }

    /// When keys are made, used and forgotten.
    pub const fn schedule(&self) -> Schedule {
        Schedule {
            rotate_every: self.tokens.rotate_every.get(),
            publish_ahead: self.tokens.publish_ahead.get(),
            token_lifetime: self.tokens.lifetime.get(),
        }
    }

    /// How many failed attempts are taken.
    pub const fn limits(&self) -> Limits {
        Limits {
            client_per_minute: self.limits.client_failures_per_minute,
            source_per_minute: self.limits.source_failures_per_minute,
            remembered: REMEMBERED,
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

impl Validate for Config {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        self.cell.validate(&at.key("cell"), errors);
        let places = [("nats.url", self.nats.url.as_str()), ("redis.url", self.redis.url.as_str())];
        let telemetry = self.telemetry.otlp_endpoint.as_deref().map(|url| ("telemetry.otlp_endpoint", url));
        self.residency.check(at, places.into_iter().chain(telemetry), errors);
        errors.in_range(&at.key("https"), "connections", self.https.connections, 1..=65_536, "connections");
        self.tls.validate(&at.key("tls"), errors);
        self.keystore.validate(&at.key("keystore"), errors);
        self.store.validate(&at.key("store"), errors);
        self.tokens.validate(&at.key("tokens"), errors);
        errors.require(
            &at.key("secrets"),
            "environment",
            secret::is_environment(&self.secrets.environment),
            "must have 1 to 12 characters of a-z and 0-9",
            "such as \"dev\" or \"live\"",
        );
        self.limits.validate(&at.key("limits"), errors);
        self.redis.validate(&at.key("redis"), errors);
        validate_nats(&self.nats, &at.key("nats"), errors);
        self.admin.validate(&at.key("admin"), errors);
        self.telemetry.validate(&at.key("telemetry"), errors);
        self.shutdown.validate(&at.key("shutdown"), errors);
    }
}

impl Validate for KeystoreConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        if self.kind == KeystoreKind::Pkcs11 {
            self.pkcs11.validate(&at.key("pkcs11"), errors);
            return;
        }
        for (key, path) in [("slot_file", &self.slot_file), ("unlock_secret_file", &self.unlock_secret_file)]
        {
            errors.require(at, key, path.is_file(), "must name a file", "sotto init makes it");
        }
    }
}

impl Validate for StoreConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        for (key, path) in [("clients_file", &self.clients_file), ("invitation_file", &self.invitation_file)]
        {
            let folder = path.parent().filter(|_| path.file_name().is_some());
            let ok = folder.is_some_and(|folder| folder.as_os_str().is_empty() || folder.is_dir());
            errors.require(
                at,
                key,
                ok,
                "must name a file in a folder that exists",
                "sotto init makes the folder",
            );
        }
    }
}

impl Validate for TokensConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        let minute = Duration::from_secs(60);
        let day = Duration::from_secs(86_400);
        let fix = "give https://host or https://host:port, nothing after it";
        errors.require(at, "issuer", is_origin(&self.issuer), "must be an issuer identifier (RFC 8414)", fix);
        let audience = self.audience.as_deref().is_none_or(|text| !text.is_empty() && text.contains("://"));
        errors.require(at, "audience", audience, "must be an absolute URI (RFC 8707)", "leave it empty");
        errors.duration_in(at, "lifetime", self.lifetime, minute..=minute * 60);
        errors.duration_in(at, "rotate_every", self.rotate_every, minute * 60..=day * 30);
        errors.duration_in(at, "publish_ahead", self.publish_ahead, minute * 10..=day);
        errors.require(
            at,
            "publish_ahead",
            self.publish_ahead < self.rotate_every,
            "must be shorter than rotate_every",
            "an hour is plenty: verifiers look every few minutes",
        );
    }
}

impl Validate for LimitsConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        for (key, value) in [
            ("client_failures_per_minute", self.client_failures_per_minute),
            ("source_failures_per_minute", self.source_failures_per_minute),
        ] {
            errors.in_range(at, key, value, 1..=10_000, "failures");
        }
    }
}

fn validate_nats(nats: &NatsConfig, at: &KeyPath, errors: &mut ConfigErrors) {
    for fault in nats.faults() {
        let (key, problem) = fault.split_once(": ").unwrap_or(("url", &fault));
        errors.push(ConfigError::new(at.key(key), problem));
    }
}

/// Scheme and authority alone: then the well-known address is the issuer plus a path (RFC 8414 §3.1).
fn is_origin(text: &str) -> bool {
    let Some(authority) = text.strip_prefix("https://") else { return false };
    !authority.is_empty()
        && !authority.contains(['/', '?', '#', '@'])
        && text.parse::<axum::http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_are_origins() {
        for (text, ok) in [
            ("https://identity.sotto.internal", true),
            ("https://id.example:8443", true),
            ("https://[::1]:8443", true),
            ("http://id.example", false),
            ("https://", false),
            ("https://id.example/", false),
            ("https://id.example/tenant", false),
            ("https://user@id.example", false),
            ("https://id example", false),
            ("https://:8443", false),
        ] {
            assert_eq!(is_origin(text), ok, "{text}");
        }
    }
}
