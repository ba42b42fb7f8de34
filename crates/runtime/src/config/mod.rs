//! Configuration: embedded defaults < file < environment, decoded strictly, every error at once.
//!
//! A service's `default.toml` names every key it knows, with its meaning and its default: it is the reference
//! documentation of the service's options and the list against which the environment is typed. A key that has no
//! sensible default stands there as an empty string and is refused until it is set.
//!
//! Rules for configuration structs: `#[derive(Deserialize)]` without `flatten` (unknown keys would pass
//! unseen), sections as nested structs, and a [`Validate`] implementation that calls that of its sections.
//! Secrets never stand in the configuration: a key `x_file` of type [`SecretFile`] names the file that holds one.

mod decode;
mod duration;
mod error;
mod layers;
mod print;
mod residency;
mod secret;
mod sections;
pub mod testing;
mod validate;

use std::{collections::BTreeMap, path::Path};

use serde::de::DeserializeOwned;

pub use duration::{ConfigDuration, InvalidDuration};
pub use error::{ConfigError, ConfigErrors};
pub use residency::ResidencyConfig;
pub use secret::SecretFile;
pub use sections::{
    AdminConfig, CellConfig, KeystoreKind, LogFormat, Pkcs11Config, RedisConfig, RestoredConfig,
    ShutdownConfig, TelemetryConfig, TlsConfig,
};
pub use validate::{KeyPath, Validate, empty_is_none};

/// Where configuration comes from, besides the embedded defaults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// The file given on the command line.
    pub file: Option<&'a Path>,
    /// TOML text in the place of a file, above it: for tests.
    pub text: Option<&'a str>,
    /// Environment variables: only those that start with `SOTTO_` are looked at.
    pub environment: Option<&'a BTreeMap<String, String>>,
}

/// A checked configuration and the merged tree it came from.
#[derive(Debug)]
pub struct Loaded<C> {
    /// The typed configuration.
    pub config: C,
    effective: toml::Table,
}

impl<C> Loaded<C> {
    /// The effective configuration as TOML. What holds a secret prints `[REDACTED]`; paths of secret files show.
    pub fn to_redacted_toml(&self) -> String {
        print::redacted(&self.effective)
    }
}

/// Merges the layers, decodes and validates.
///
/// # Errors
/// Everything that is wrong, in one report: unreadable sources, unknown keys, wrong types, failed validations.
pub fn load<C>(default_toml: &str, sources: Sources<'_>) -> Result<Loaded<C>, ConfigErrors>
where
    C: DeserializeOwned + Validate,
{
    let mut errors = ConfigErrors::default();
    let Some(merged) = layers::merge(default_toml, sources, &mut errors) else {
        return Err(errors);
    };
    let config = decode::decode::<C>(&merged, &mut errors);
    if let Some(config) = &config {
        let mut invalid = ConfigErrors::default();
        config.validate(&KeyPath::root(), &mut invalid);
        // What failed to decode was replaced by a stand-in: its validation says nothing.
        errors.extend_unless_covered(invalid, &merged);
    }
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, effective: merged.tree }),
        Some(_) | None => Err(errors),
    }
}
