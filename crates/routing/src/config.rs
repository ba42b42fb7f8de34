//! Configuration; `default.toml` explains every option.

use std::path::PathBuf;

use serde::Deserialize;
use sotto_bus::NatsConfig;
use sotto_runtime::config::{
    AdminConfig, CellConfig, ConfigError, ConfigErrors, KeyPath, ResidencyConfig, RestoredConfig,
    ShutdownConfig, TelemetryConfig, Validate,
};
use sotto_runtime::service::ProcessConfig;

/// The embedded defaults.
pub(crate) const DEFAULT_TOML: &str = include_str!("default.toml");

/// Routing's configuration.
#[derive(Clone, Debug, Deserialize)]
pub struct RoutingConfig {
    pub(crate) cell: CellConfig,
    pub(crate) residency: ResidencyConfig,
    pub(crate) nats: NatsConfig,
    pub(crate) carriers: CarriersConfig,
    pub(crate) work: WorkConfig,
    pub(crate) restored: RestoredConfig,
    telemetry: TelemetryConfig,
    admin: AdminConfig,
    shutdown: ShutdownConfig,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CarriersConfig {
    pub(crate) file: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct WorkConfig {
    pub(crate) batches: u16,
}

impl Validate for RoutingConfig {
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors) {
        self.cell.validate(&at.key("cell"), errors);
        let places = [("nats.url", self.nats.url.as_str())];
        let telemetry = self.telemetry.otlp_endpoint.as_deref().map(|url| ("telemetry.otlp_endpoint", url));
        self.residency.check(at, places.into_iter().chain(telemetry), errors);
        self.restored.validate(&at.key("restored"), errors);
        self.telemetry.validate(&at.key("telemetry"), errors);
        self.admin.validate(&at.key("admin"), errors);
        self.shutdown.validate(&at.key("shutdown"), errors);
        errors.in_range(&at.key("work"), "batches", self.work.batches, 1..=256, "batches");
        let named = !self.carriers.file.as_os_str().is_empty();
        errors.require(&at.key("carriers"), "file", named, "must not be empty", "name the carriers file");
        for fault in self.nats.faults() {
            let (key, problem) = fault.split_once(": ").unwrap_or(("", &fault));
            errors.push(ConfigError::new(at.key("nats").key(key).to_string(), problem.to_owned()));
        }
    }
}

impl ProcessConfig for RoutingConfig {
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
    use sotto_runtime::config::testing::faults_not_reported;

    use super::*;

    #[test]
    fn every_wrong_field_is_named() {
        assert_eq!(faults_not_reported::<RoutingConfig>(DEFAULT_TOML, ""), Vec::<String>::new());
    }
}
