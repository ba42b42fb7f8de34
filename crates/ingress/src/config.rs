//! `default.toml` as types. Its text is the reference.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use sotto_bus::NatsConfig;
use sotto_core::{TenantId, Timestamp};
use sotto_keystore::TokenSettings;
use sotto_runtime::{
    config::{
        AdminConfig, CellConfig, ConfigDuration, ConfigError, ConfigErrors, KeyPath, KeystoreKind,
        Pkcs11Config, RedisConfig, ResidencyConfig, RestoredConfig, ShutdownConfig, TelemetryConfig,
        TlsConfig, Validate,
    },
    service::ProcessConfig,
};

use crate::domain::{
    pace::Pace,
    request::{MIN_VALIDITY, Validities, Validity},
    token::Elsewhere,
    waiver::Waivers,
};

/// The embedded defaults.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// Where messages go, for those who only ask.
#[derive(Clone, Debug, Deserialize)]
pub struct CarriersConfig {
    /// The carriers file; empty: dry runs do not tell the route.
    pub file: PathBuf,
}

/// All of the configuration.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// `[cell]`
    pub cell: CellConfig,
    /// `[residency]`
    pub residency: ResidencyConfig,
    /// `[grpc]`
    pub grpc: GrpcConfig,
    /// `[ops]`
    pub ops: OpsConfig,
    /// `[tls]`
    pub tls: TlsConfig,
    /// `[tokens]`
    pub tokens: TokensConfig,
    /// `[keystore]`
    pub keystore: KeystoreConfig,
    /// `[privacy]`
    pub privacy: PrivacyConfig,
    /// `[validity]`
    pub validity: ValidityConfig,
    /// `[rate]`
    pub rate: RateConfig,
    /// `[recipients]`
    pub recipients: RecipientsConfig,
    /// `[load]`
    pub load: LoadConfig,
    /// `[publishers]`
    pub publishers: PublishersConfig,
    /// `[carriers]`
    pub carriers: CarriersConfig,
    /// `[restored]`
    pub restored: RestoredConfig,
    /// `[projection]`
    pub projection: ProjectionConfig,
    /// `[nats]`
    pub nats: NatsConfig,
    /// `[redis]`
    pub redis: RedisConfig,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
    /// `[shutdown]`
    pub shutdown: ShutdownConfig,
}

/// The clients' side.
#[derive(Clone, Debug, Deserialize)]
pub struct GrpcConfig {
    /// The address.
    pub listen: SocketAddr,
    /// Connections at a time.
    pub connections: usize,
    /// Requests and streams on one connection.
    pub streams_per_connection: u32,
}

/// The operator's side.
#[derive(Clone, Debug, Deserialize)]
pub struct OpsConfig {
    /// The address.
    pub listen: SocketAddr,
}

/// What tokens must say, and whose they are.
#[derive(Clone, Debug, Deserialize)]
pub struct TokensConfig {
    /// `iss`
    pub issuer: String,
    /// `aud`
    pub audience: String,
    /// Where the public keys are.
    pub jwks_url: String,
    /// The name in identity's certificate.
    pub server_name: String,
    /// How often the keys are fetched.
    pub refresh: ConfigDuration,
    /// Endpoints of other cells, by the `aud` of their tokens.
    pub elsewhere: Elsewhere,
}

/// Where the idempotency keys are.
#[derive(Clone, Debug, Deserialize)]
pub struct KeystoreConfig {
    /// What keeps the keys.
    pub kind: KeystoreKind,
    /// The keystore.
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

/// Where session keys come from.
#[derive(Clone, Debug, Deserialize)]
pub struct PrivacyConfig {
    /// `https://host:port`
    pub endpoint: String,
    /// The name in privacy's certificate.
    pub server_name: String,
    /// How long a request may take.
    pub timeout: ConfigDuration,
    /// Submit timeout and skew.
    pub margin: ConfigDuration,
}

/// How long messages are valid.
#[derive(Clone, Debug, Deserialize)]
pub struct ValidityConfig {
    /// One-time codes without a wish.
    pub otp_default: ConfigDuration,
    /// One-time codes at most.
    pub otp_max: ConfigDuration,
    /// Others without a wish.
    pub default: ConfigDuration,
    /// Others at most.
    pub max: ConfigDuration,
}

/// How fast a tenant may send.
#[derive(Clone, Debug, Deserialize)]
pub struct RateConfig {
    /// Messages a second.
    pub per_second: u32,
    /// Messages at once.
    pub burst: u32,
    /// Per cent of it without Redis.
    pub alone: u8,
    /// Questions a second to one process.
    pub reads_per_second: u32,
    /// Questions at once.
    pub reads_burst: u32,
}

/// What a number may get.
#[derive(Clone, Debug, Deserialize)]
pub struct RecipientsConfig {
    /// One-time codes in a day from all tenants; 0: not counted.
    pub codes_per_day: u32,
    /// What becomes of those above it.
    pub above: Above,
}

/// What becomes of one-time codes above what a number may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Above {
    /// They are counted.
    Watch,
    /// They are refused.
    Refuse,
}

/// What one process carries.
#[derive(Clone, Debug, Deserialize)]
pub struct LoadConfig {
    /// Messages under way.
    pub in_flight: usize,
    /// Questions under way.
    pub reads_in_flight: usize,
    /// Results outstanding on a stream.
    pub outstanding: usize,
    /// Streams at a time.
    pub streams: usize,
    /// Streams of one tenant.
    pub streams_of_tenant: usize,
    /// How long results may wait to be read, and a single request may take to come.
    pub stall: ConfigDuration,
    /// How long a stream may be silent.
    pub idle: ConfigDuration,
}

/// Clients over the broker.
#[derive(Clone, Debug, Deserialize)]
pub struct PublishersConfig {
    /// Requests under way.
    pub in_flight: usize,
    /// Requests of one tenant.
    pub in_flight_of_tenant: usize,
    /// Tenants that may ask in clear, each until a time.
    pub clear_until: BTreeMap<TenantId, Until>,
}

/// A time as people write it (RFC 3339): `2027-01-31T00:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until(Timestamp);

impl<'de> Deserialize<'de> for Until {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let at: jiff::Timestamp = text.parse().map_err(|_| {
            serde::de::Error::custom("must be a time in RFC 3339, such as \"2027-01-31T00:00:00Z\"")
        })?;
        Ok(Self(Timestamp::from_unix_millis(at.as_millisecond())))
    }
}

/// How messages are followed.
#[derive(Clone, Debug, Deserialize)]
pub struct ProjectionConfig {
    /// How often deadlines are looked through.
    pub sweep_every: ConfigDuration,
    /// From the end of validity to `expired`.
    pub grace: ConfigDuration,
    /// From the last submit to `unknown`.
    pub receipt_wait: ConfigDuration,
    /// From the end to forgetting.
    pub keep: ConfigDuration,
}

impl Config {
    /// The validities as the domain knows them.
    pub const fn validities(&self) -> Validities {
        let ValidityConfig { otp_default, otp_max, default, max } = &self.validity;
        Validities {
            otp: Validity { default: otp_default.get(), max: otp_max.get() },
            other: Validity { default: default.get(), max: max.get() },
        }
    }

    /// Who may ask in clear over the broker.
    pub fn waivers(&self) -> Waivers {
        Waivers::new(self.publishers.clear_until.iter().map(|(tenant, until)| (tenant.clone(), until.0)))
    }

    /// The pace of a tenant in the whole cell.
    pub const fn pace(&self) -> Pace {
        Pace { rate: self.rate.per_second, burst: self.rate.burst }
    }

    /// The pace of a tenant's questions in one process.
    pub const fn reading(&self) -> Pace {
        Pace { rate: self.rate.reads_per_second, burst: self.rate.reads_burst }
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

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

impl Validate for Config {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        self.cell.validate(&at.key("cell"), errors);
        let places = [
            ("nats.url", self.nats.url.as_str()),
            ("redis.url", self.redis.url.as_str()),
            ("privacy.endpoint", self.privacy.endpoint.as_str()),
            ("tokens.jwks_url", self.tokens.jwks_url.as_str()),
        ];
        let telemetry = self.telemetry.otlp_endpoint.as_deref().map(|url| ("telemetry.otlp_endpoint", url));
        self.residency.check(at, places.into_iter().chain(telemetry), errors);
        self.restored.validate(&at.key("restored"), errors);
        self.grpc.validate(&at.key("grpc"), errors);
        self.tls.validate(&at.key("tls"), errors);
        self.tokens.validate(&at.key("tokens"), errors);
        self.keystore.validate(&at.key("keystore"), errors);
        self.privacy.validate(&at.key("privacy"), errors);
        self.validity.validate(&at.key("validity"), errors);
        self.rate.validate(&at.key("rate"), errors);
        self.recipients.validate(&at.key("recipients"), errors);
        self.load.validate(&at.key("load"), errors);
        self.publishers.validate(&at.key("publishers"), errors);
        self.projection.validate(&at.key("projection"), errors);
        for fault in self.nats.faults() {
            let (key, problem) = fault.split_once(": ").unwrap_or(("", &fault));
            errors.push(ConfigError::new(at.key("nats").key(key), problem));
        }
        self.redis.validate(&at.key("redis"), errors);
        self.admin.validate(&at.key("admin"), errors);
        self.telemetry.validate(&at.key("telemetry"), errors);
        self.shutdown.validate(&at.key("shutdown"), errors);
    }
}

impl Validate for GrpcConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.in_range(at, "connections", self.connections, 1..=100_000, "connections");
        errors.in_range(at, "streams_per_connection", self.streams_per_connection, 1..=10_000, "streams");
    }
}

impl Validate for TokensConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        let set = |text: &str| !text.is_empty();
        errors.require(at, "issuer", set(&self.issuer), "must not be empty", "give identity's issuer");
        errors.require(
            at,
            "audience",
            set(&self.audience),
            "must not be empty",
            "give the audience of this cell",
        );
        https(at, "jwks_url", &self.jwks_url, errors);
        server_name(at, &self.server_name, errors);
        errors.duration_in(at, "refresh", self.refresh, 10 * SECOND..=HOUR);
        let fix = "such as { \"https://eu.sotto.internal\" = \"https://messages.eu.example:7443\" }";
        for (audience, endpoint) in &self.elsewhere {
            let at = at.key("elsewhere");
            let told = *audience != self.audience && endpoint.starts_with("https://");
            errors.require(
                &at,
                audience,
                told,
                "must be the https:// endpoint of another cell's audience",
                fix,
            );
        }
    }
}

impl Validate for KeystoreConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        if self.kind == KeystoreKind::Pkcs11 {
            self.pkcs11.validate(&at.key("pkcs11"), errors);
            return;
        }
        for (key, path) in [("file", &self.file), ("unlock_secret_file", &self.unlock_secret_file)] {
            errors.require(at, key, path.is_file(), "must name a file", "sotto init makes it");
        }
    }
}

impl Validate for PrivacyConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        https(at, "endpoint", &self.endpoint, errors);
        server_name(at, &self.server_name, errors);
        errors.duration_in(at, "timeout", self.timeout, Duration::from_millis(100)..=30 * SECOND);
        errors.duration_in(at, "margin", self.margin, SECOND..=120 * SECOND);
    }
}

impl Validate for ValidityConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.duration_in(at, "otp_max", self.otp_max, MIN_VALIDITY..=DAY);
        errors.duration_in(at, "otp_default", self.otp_default, MIN_VALIDITY..=DAY);
        errors.duration_in(at, "max", self.max, MIN_VALIDITY..=30 * DAY);
        errors.duration_in(at, "default", self.default, MIN_VALIDITY..=30 * DAY);
        for (key, default, max) in
            [("otp_default", self.otp_default, self.otp_max), ("default", self.default, self.max)]
        {
            errors.require(
                at,
                key,
                default <= max,
                "must not be above the longest",
                "lower it, or raise the longest",
            );
        }
    }
}

impl Validate for RateConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.in_range(at, "per_second", self.per_second, 1..=1_000_000, "messages a second");
        errors.in_range(at, "burst", self.burst, 1..=1_000_000, "messages");
        errors.in_range(at, "alone", self.alone, 1..=100, "per cent");
        errors.in_range(at, "reads_per_second", self.reads_per_second, 1..=1_000_000, "questions a second");
        errors.in_range(at, "reads_burst", self.reads_burst, 1..=1_000_000, "questions");
    }
}

impl Validate for RecipientsConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.in_range(at, "codes_per_day", self.codes_per_day, 0..=1_000, "codes");
    }
}

impl Validate for LoadConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.in_range(at, "in_flight", self.in_flight, 1..=1_000_000, "messages");
        errors.in_range(at, "reads_in_flight", self.reads_in_flight, 1..=1_000_000, "questions");
        errors.in_range(at, "outstanding", self.outstanding, 1..=10_000, "results");
        errors.in_range(at, "streams", self.streams, 1..=100_000, "streams");
        errors.in_range(at, "streams_of_tenant", self.streams_of_tenant, 1..=100_000, "streams");
        errors.duration_in(at, "stall", self.stall, SECOND..=600 * SECOND);
        errors.duration_in(at, "idle", self.idle, SECOND..=HOUR);
    }
}

impl Validate for PublishersConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.in_range(at, "in_flight", self.in_flight, 1..=10_000, "requests");
        errors.in_range(at, "in_flight_of_tenant", self.in_flight_of_tenant, 1..=10_000, "requests");
    }
}

impl Validate for ProjectionConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.duration_in(at, "sweep_every", self.sweep_every, Duration::from_millis(100)..=60 * SECOND);
        errors.duration_in(at, "grace", self.grace, SECOND..=HOUR);
        errors.duration_in(at, "receipt_wait", self.receipt_wait, 60 * SECOND..=30 * DAY);
        errors.duration_in(at, "keep", self.keep, HOUR..=30 * DAY);
    }
}

fn https(at: &KeyPath, key: &str, url: &str, errors: &mut ConfigErrors) {
    let uri = url.parse::<http::Uri>().ok();
    let ok = uri.is_some_and(|uri| {
        uri.scheme_str() == Some("https")
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.port_u16().is_some()
    });
    errors.require(at, key, ok, "must be https://host:port", "give the service's address with its port");
}

fn server_name(at: &KeyPath, name: &str, errors: &mut ConfigErrors) {
    let ok = rustls_pki_types::ServerName::try_from(name).is_ok();
    errors.require(at, "server_name", ok, "must be a DNS name", "give the name in the service's certificate");
}
