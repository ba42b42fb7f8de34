//! Merges the sources into one tree and remembers where each value came from.

use std::collections::BTreeMap;

use config::{Config, Environment, File, FileFormat, ValueKind};
use toml::{Table, Value};

use super::{
    Sources,
    error::{ConfigError, ConfigErrors},
};

/// What every variable of ours starts with. `SOTTO_X` with one underscore would be ignored silently by the
/// `config` crate, because the prefix takes the separator of the keys.
const PREFIX: &str = "SOTTO";
const SEPARATOR: &str = "__";

/// The merged tree, the embedded defaults, and the origin of each value that is not a default.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) tree: Table,
    pub(super) defaults: Table,
    origins: BTreeMap<String, String>,
}

impl Merged {
    /// The source of the value at `path`, unless it is the embedded default.
    pub(super) fn origin(&self, path: &str) -> Option<String> {
        self.origins.get(path).cloned()
    }
}

/// Reads all sources; `None` when one cannot be read at all (what it says is then unknown).
pub(super) fn merge(default_toml: &str, sources: Sources<'_>, errors: &mut ConfigErrors) -> Option<Merged> {
    let defaults: Table = match toml::from_str(default_toml) {
        Ok(table) => table,
        Err(e) => {
            errors.push(ConfigError::new(
                "default.toml",
                format!("embedded defaults do not parse: {}", e.message()),
            ));
            return None;
        }
    };
    let mut builder = Config::builder().add_source(File::from_str(default_toml, FileFormat::Toml));
    if let Some(path) = sources.file {
        builder = builder.add_source(File::from(path).format(FileFormat::Toml).required(true));
    }
    if let Some(text) = sources.text {
        builder = builder.add_source(File::from_str(text, FileFormat::Toml));
    }
    if let Some(variables) = sources.environment {
        let ours = ours(variables, errors);
        builder =
            builder.add_source(Environment::with_prefix(PREFIX).separator(SEPARATOR).source(Some(ours)));
    }
    let config = match builder.build() {
        Ok(config) => config,
        Err(e) => {
            let path =
                sources.file.map_or_else(|| "configuration".to_owned(), |path| path.display().to_string());
            errors.push(unreadable(path, e));
            return None;
        }
    };
    let mut origins = BTreeMap::new();
    let tree = match convert("", config.cache, Some(&Value::Table(defaults.clone())), &mut origins) {
        Some(Value::Table(tree)) => tree,
        Some(_) | None => Table::new(),
    };
    Some(Merged { tree, defaults, origins })
}

fn unreadable(path: String, error: config::ConfigError) -> ConfigError {
    let problem = error.to_string();
    ConfigError::new(path, format!("cannot be read: {}", problem.trim_end()))
}

/// Our variables; those with a single underscore are refused, since they look set and do nothing.
fn ours(variables: &BTreeMap<String, String>, errors: &mut ConfigErrors) -> config::Map<String, String> {
    let wanted = format!("{PREFIX}{SEPARATOR}");
    let mut ours = config::Map::new();
    for (name, value) in variables {
        let upper = name.to_ascii_uppercase();
        if upper.starts_with(&wanted) {
            ours.insert(name.clone(), value.clone());
        } else if upper.starts_with(&format!("{PREFIX}_")) {
            let meant = upper.replacen(&format!("{PREFIX}_"), &wanted, 1);
            errors.push(ConfigError::new(name.clone(), "this environment variable would be ignored").fix(
                format!(
                    "keys are separated by two underscores, such as {meant}; unset it if it is not for Sotto"
                ),
            ));
        }
    }
    ours
}

/// From the `config` crate's value, whose own decoding converts too freely (`true` to 1, 1.6 to 2).
fn convert(
    path: &str,
    value: config::Value,
    default: Option<&Value>,
    origins: &mut BTreeMap<String, String>,
) -> Option<Value> {
    let origin = value.origin().map(str::to_owned);
    let from_environment = origin.as_deref() == Some("the environment");
    if let Some(origin) = origin.filter(|_| !path.is_empty()) {
        origins.insert(path.to_owned(), origin);
    }
    Some(match value.kind {
        ValueKind::Nil => return None,
        ValueKind::Boolean(value) => Value::Boolean(value),
        ValueKind::I64(value) => Value::Integer(value),
        ValueKind::I128(value) => integer(value),
        ValueKind::U64(value) => integer(value),
        ValueKind::U128(value) => integer(value),
        ValueKind::Float(value) => Value::Float(value),
        ValueKind::String(text) if from_environment => typed_like(default, text),
        ValueKind::String(text) => Value::String(text),
        ValueKind::Array(values) => Value::Array(
            values.into_iter().filter_map(|value| convert(path, value, None, &mut BTreeMap::new())).collect(),
        ),
        ValueKind::Table(table) => Value::Table(
            table
                .into_iter()
                .filter_map(|(key, value)| {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    let default = default.and_then(|table| table.get(&key));
                    convert(&path, value, default, origins).map(|value| (key, value))
                })
                .collect(),
        ),
    })
}

/// An integer that TOML cannot hold stays text, so that decoding refuses it with its path.
fn integer<T: TryInto<i64> + ToString + Copy>(value: T) -> Value {
    value.try_into().map_or_else(|_| Value::String(value.to_string()), Value::Integer)
}

/// Environment variables are text: read one as the type its key has in the defaults. Text that does not fit stays
/// text and is refused by decoding.
fn typed_like(default: Option<&Value>, text: String) -> Value {
    let parsed = match default {
        Some(Value::Integer(_)) => text.parse().ok().map(Value::Integer),
        Some(Value::Float(_)) => text.parse().ok().map(Value::Float),
        Some(Value::Boolean(_)) => text.parse().ok().map(Value::Boolean),
        Some(Value::Array(_)) => Some(list(&text)),
        Some(Value::String(_) | Value::Datetime(_) | Value::Table(_)) | None => None,
    };
    parsed.unwrap_or(Value::String(text))
}

/// A list from the environment: a TOML array, or plain items between commas.
fn list(text: &str) -> Value {
    let parsed =
        toml::from_str::<Table>(&format!("list = {text}")).ok().and_then(|mut table| table.remove("list"));
    match parsed {
        Some(Value::Array(values)) => Value::Array(values),
        Some(_) | None => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
    }
}
