//! Configuration; `default.toml` explains every option.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use sotto_bus::NatsConfig;
use sotto_core::AccountId;
use sotto_runtime::{
    config::{
        AdminConfig, CellConfig, ConfigDuration, ConfigError, ConfigErrors, KeyPath, RedisConfig,
        ResidencyConfig, RestoredConfig, ShutdownConfig, TelemetryConfig, TlsConfig, Validate,
    },
    service::ProcessConfig,
};

/// The embedded defaults.
pub(crate) const DEFAULT_TOML: &str = include_str!("default.toml");

/// The connector's configuration.
#[derive(Clone, Debug, Deserialize)]
pub struct CarrierConfig {
    pub(crate) cell: CellConfig,
    pub(crate) residency: ResidencyConfig,
    pub(crate) carriers: CarriersConfig,
    pub(crate) connector: ConnectorConfig,
    pub(crate) restored: RestoredConfig,
    pub(crate) nats: NatsConfig,
    pub(crate) redis: RedisConfig,
    pub(crate) privacy: PrivacyConfig,
    pub(crate) grpc: GrpcConfig,
    pub(crate) tls: TlsConfig,
    admin: AdminConfig,
    telemetry: TelemetryConfig,
    shutdown: ShutdownConfig,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CarriersConfig {
    pub(crate) file: PathBuf,
    pub(crate) transfers: BTreeSet<AccountId>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ConnectorConfig {
    pub(crate) failover_after: ConfigDuration,
    pub(crate) skew: ConfigDuration,
    pub(crate) batches: u16,
    pub(crate) keys: u32,
    pub(crate) keys_kept: ConfigDuration,
    pub(crate) replica: String,
    pub(crate) lease: ConfigDuration,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PrivacyConfig {
    pub(crate) endpoint: String,
    pub(crate) connect_timeout: ConfigDuration,
    pub(crate) timeout: ConfigDuration,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct GrpcConfig {
    pub(crate) listen: SocketAddr,
}

impl Validate for CarrierConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        self.cell.validate(&at.key("cell"), errors);
        let places = [
            ("nats.url", self.nats.url.as_str()),
            ("redis.url", self.redis.url.as_str()),
            ("privacy.endpoint", self.privacy.endpoint.as_str()),
        ];
        let telemetry = self.telemetry.otlp_endpoint.as_deref().map(|url| ("telemetry.otlp_endpoint", url));
        self.residency.check(at, places.into_iter().chain(telemetry), errors);
        let named = !self.carriers.file.as_os_str().is_empty();
        errors.require(&at.key("carriers"), "file", named, "must not be empty", "name the carriers file");
        self.connector.validate(&at.key("connector"), errors);
        self.restored.validate(&at.key("restored"), errors);
        for fault in self.nats.faults() {
            let (key, problem) = fault.split_once(": ").unwrap_or(("", &fault));
            errors.push(ConfigError::new(at.key("nats").key(key).to_string(), problem.to_owned()));
        }
        self.redis.validate(&at.key("redis"), errors);
        // A claim ends one skew after the last question at the fence. An answer that takes longer could find a Redis that
        // was lost, restored and used by others meanwhile.
        errors.require(
            &at.key("connector"),
            "skew",
            self.connector.skew.get() > self.redis.response_timeout.get(),
            "must be longer than redis.response_timeout",
            "raise it, or give Redis less time to answer",
        );
        self.privacy.validate(&at.key("privacy"), errors);
        self.tls.validate(&at.key("tls"), errors);
        self.admin.validate(&at.key("admin"), errors);
        self.telemetry.validate(&at.key("telemetry"), errors);
        self.shutdown.validate(&at.key("shutdown"), errors);
    }
}

const TENTH: Duration = Duration::from_millis(100);
const LONGEST_SKEW: Duration = Duration::from_secs(10);

impl Validate for ConnectorConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        errors.duration_in(at, "failover_after", self.failover_after, TENTH..=Duration::from_secs(600));
        // With the carrier's response_timeout it stays below the time after which the broker delivers again.
        errors.duration_in(at, "skew", self.skew, TENTH..=LONGEST_SKEW);
        errors.in_range(at, "batches", self.batches, 1..=1024, "batches");
        errors.in_range(at, "keys", self.keys, 1..=100_000, "keys");
        let second = Duration::from_secs(1);
        errors.duration_in(at, "keys_kept", self.keys_kept, second..=900 * second);
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let named = self.replica.len() <= 40 && self.replica.bytes().all(plain);
        let fix = "leave it empty, or give a name that no other replica has";
        errors.require(at, "replica", named, "must be at most 40 of a-z, 0-9 and -", fix);
        errors.duration_in(at, "lease", self.lease, 5 * second..=120 * second);
    }
}

impl Validate for PrivacyConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        let ok = self.endpoint.strip_prefix("https://").is_some_and(|rest| rest.contains(':'));
        errors.require(at, "endpoint", ok, "must be https://host:port", "give the address of sotto-privacy");
        let longest = Duration::from_secs(30);
        errors.duration_in(at, "connect_timeout", self.connect_timeout, TENTH..=longest);
        errors.duration_in(at, "timeout", self.timeout, TENTH..=longest);
    }
}

impl ProcessConfig for CarrierConfig {
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use sotto_runtime::config::testing::{faults_not_reported, load_text};

    use super::*;
    use crate::error::CarrierError;

    /// A batch must never be delivered again while its carrier may still answer.
    #[test]
    fn the_longest_patience_stays_below_ack_wait() {
        let carriers = sotto_core::carriers::CarriersFile::parse(sotto_core::carriers::EXAMPLE).unwrap();
        for (id, ack_wait) in carriers.redeliveries() {
            assert!(carriers.account(&id).unwrap().response_timeout + LONGEST_SKEW < ack_wait, "{id}");
        }
    }

    #[test]
    fn every_wrong_field_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("any");
        fs::write(&file, "text").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let required = required(&file);
        assert_eq!(faults_not_reported::<CarrierConfig>(DEFAULT_TOML, &required), Vec::<String>::new());
    }

    #[test]
    fn redis_answers_while_a_claim_still_holds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(file.path(), "text").unwrap();
        let load = |skew: &str, redis: &str| {
            let text = required(file.path()).replace(
                "[redis]\n",
                &format!("[connector]\nskew = '{skew}'\n[redis]\nresponse_timeout = '{redis}'\n"),
            );
            let loaded = load_text::<CarrierConfig>(DEFAULT_TOML, &text);
            loaded.err().map(|errors| errors.iter().map(|error| error.path.clone()).collect::<Vec<_>>())
        };
        assert_eq!(load("2001 ms", "2 s"), None);
        assert_eq!(load("2 s", "2 s"), Some(vec!["connector.skew".to_owned()]));
    }

    #[test]
    fn accounts_abroad_are_named_one_by_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(file.path(), "text").unwrap();
        let carriers = sotto_core::carriers::CarriersFile::parse(sotto_core::carriers::EXAMPLE).unwrap();
        // All but the simulator of the example.
        let away = |account: &&sotto_core::carriers::Account| {
            account.hosts.iter().any(|host| host.name != "localhost")
        };
        let away: Vec<_> = carriers.accounts.iter().filter(away).collect();
        let all: BTreeSet<_> = away.iter().map(|account| account.id.clone()).collect();
        assert!(all.len() >= 2);
        let abroad = |hosts: &str, transfers: &str| {
            let text = format!(
                "{}[residency]\nhosts = {hosts}\n[carriers]\ntransfers = {transfers}\n",
                required(file.path())
            );
            let config = load_text::<CarrierConfig>(DEFAULT_TOML, &text).unwrap().config;
            crate::service::abroad(&config, &carriers)
        };
        assert_eq!(abroad("[]", "[]").unwrap(), BTreeSet::new(), "no region, no rule");
        let refused = abroad("['localhost']", "[]").unwrap_err();
        assert!(matches!(&refused, CarrierError::Abroad(accounts) if *accounts == all), "{refused}");
        let named: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(abroad("['localhost']", &format!("{named:?}")).unwrap(), all);
        // What a file names that is at home, or not there, is no transfer.
        let first = away.first().unwrap();
        let home = format!("['localhost', '{}']", first.hosts.first().unwrap().name);
        assert!(!abroad(&home, &format!("{named:?}")).unwrap().contains(&first.id));
    }

    fn required(file: &std::path::Path) -> String {
        let file = file.display();
        let tls = format!("ca_file = '{file}'\ncert_file = '{file}'\nkey_file = '{file}'\n");
        format!(
            "[cell]\nid = 'vn'\n[nats]\n{tls}nkey_seed_file = '{file}'\n[redis]\npassword_file = '{file}'\n[tls]\n{tls}"
        )
    }
}
