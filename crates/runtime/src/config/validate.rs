//! What a type alone cannot say about a value.

use std::{fmt, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Deserializer, de::IntoDeserializer};

use super::{
    ConfigDuration,
    error::{ConfigError, ConfigErrors},
};

/// Checks values against each other and against their ranges. Reports all faults, not the first.
pub trait Validate {
    /// Adds what is wrong to `errors`; `at` is where this section stands in the tree.
    fn validate(&self, at: &KeyPath, errors: &mut ConfigErrors);
}

/// A place in the configuration tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPath(String);

impl KeyPath {
    /// The top of the tree.
    pub fn root() -> Self {
        Self::default()
    }

    /// The key `name` under this place.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<KeyPath> for String {
    fn from(path: KeyPath) -> Self {
        path.0
    }
}

impl ConfigErrors {
    /// Requires `value` to lie in `range`; `unit` names what is counted (`messages`, `bytes`).
    pub fn in_range<T>(&mut self, at: &KeyPath, key: &str, value: T, range: RangeInclusive<T>, unit: &str)
    where
        T: PartialOrd + fmt::Display,
    {
        if !range.contains(&value) {
            let problem = format!("must be {} to {} {unit}", range.start(), range.end());
            self.push(ConfigError::new(at.key(key), problem).given(value));
        }
    }

    /// Requires a duration to lie in `range`.
    pub fn duration_in(
        &mut self,
        at: &KeyPath,
        key: &str,
        value: ConfigDuration,
        range: RangeInclusive<Duration>,
    ) {
        if !range.contains(&value.get()) {
            let (low, high) = (ConfigDuration::shown(*range.start()), ConfigDuration::shown(*range.end()));
            self.push(
                ConfigError::new(at.key(key), format!("must be {low} to {high}"))
                    .given(format!("\"{value}\"")),
            );
        }
    }

    /// Requires a condition; `problem` says what must hold.
    pub fn require(&mut self, at: &KeyPath, key: &str, holds: bool, problem: &str, fix: &str) {
        if !holds {
            self.push(ConfigError::new(at.key(key), problem).fix(fix));
        }
    }
}

/// For optional keys: TOML has no null, so an empty string stands for "none" and the key can be documented in
/// `default.toml`. Use as `#[serde(default, deserialize_with = "sotto_runtime::config::empty_is_none")]`.
///
/// # Errors
/// When the value is not a string, or a string that is not empty and not a `T`.
pub fn empty_is_none<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { T::deserialize(text.into_deserializer()).map(Some) }
}
