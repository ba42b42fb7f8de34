//! Decodes the merged tree, going on after each error so that all of them are told at once.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_path_to_error::{Segment, Track};
use toml::{Table, Value};

use super::{
    error::{ConfigError, ConfigErrors},
    layers::Merged,
    print::{is_secret, shown},
    secret,
};

/// A bound on the search: no configuration of ours has this many keys.
const MAX_TRIES: usize = 500;

/// Values tried in place of a required key that has no default, only so that decoding reaches the next error.
/// What is built from them is thrown away.
fn stand_ins() -> [Value; 10] {
    [
        Value::String("stand-in".to_owned()),
        Value::String(secret::STAND_IN.to_owned()),
        Value::Integer(1),
        Value::String("1 s".to_owned()),
        Value::String("127.0.0.1:1".to_owned()),
        Value::String("https://localhost:1".to_owned()),
        Value::Boolean(true),
        Value::Array(Vec::new()),
        Value::Float(1.0),
        Value::Table(Table::new()),
    ]
}

/// The decoded configuration, or `None` when not even stand-ins let it be built. A value is returned beside errors
/// so that the parts which decoded can be validated.
pub(super) fn decode<C: DeserializeOwned>(merged: &Merged, errors: &mut ConfigErrors) -> Option<C> {
    if holds_nul(&Value::Table(merged.tree.clone())) {
        errors.push(ConfigError::new("configuration", "must not hold NUL characters"));
        return None;
    }
    let mut tree = merged.tree.clone();
    let mut unknown = BTreeSet::new();
    let mut tried: BTreeMap<Vec<String>, usize> = BTreeMap::new();
    let mut built = None;
    for _ in 0..MAX_TRIES {
        let (path, message) = match attempt::<C>(tree.clone(), &mut unknown) {
            Ok(config) => {
                built = Some(config);
                break;
            }
            Err(failure) => failure,
        };
        let tries = tried.entry(path.clone()).or_insert(0);
        if *tries == 0 {
            errors.push(describe(merged, &path.join("."), &message));
        }
        let Some(replacement) = next_replacement(&tree, &merged.defaults, &path, tries) else { break };
        if !set(&mut tree, &path, replacement) {
            break;
        }
    }
    for path in unknown {
        errors.push(unknown_key(merged, &path));
    }
    built
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(holds_nul),
        Value::Table(table) => table.values().any(holds_nul),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => false,
    }
}

type Failure = (Vec<String>, String);

fn attempt<C: DeserializeOwned>(tree: Table, unknown: &mut BTreeSet<String>) -> Result<C, Failure> {
    let mut track = Track::new();
    let mut ignored = |path: serde_ignored::Path<'_>| {
        unknown.insert(path.to_string());
    };
    let tracked = serde_path_to_error::Deserializer::new(Value::Table(tree), &mut track);
    let decoded = C::deserialize(serde_ignored::Deserializer::new(tracked, &mut ignored));
    decoded.map_err(|e| {
        let mut path = keys(&track.path());
        let message = e.message().to_owned();
        // A missing key is reported at its table.
        if let Some(key) = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            path.push(key.to_owned());
        }
        (path, message)
    })
}

/// The path's keys up to the first list: a list is replaced as a whole.
fn keys(path: &serde_path_to_error::Path) -> Vec<String> {
    let mut keys = Vec::new();
    for segment in path {
        match segment {
            Segment::Map { key } => keys.push(key.clone()),
            Segment::Seq { .. } | Segment::Enum { .. } | Segment::Unknown => break,
        }
    }
    keys
}

/// First the embedded default, if it is not what just failed, then the stand-ins one by one.
fn next_replacement(tree: &Table, defaults: &Table, path: &[String], tries: &mut usize) -> Option<Value> {
    *tries += 1;
    if *tries == 1 {
        let default = get(defaults, path);
        if default.is_some() && default != get(tree, path) {
            return default.cloned();
        }
        *tries += 1;
    }
    stand_ins().get(*tries - 2).cloned()
}

fn get<'a>(tree: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (last, parents) = path.split_last()?;
    let mut table = tree;
    for key in parents {
        table = table.get(key)?.as_table()?;
    }
    table.get(last)
}

fn set(tree: &mut Table, path: &[String], value: Value) -> bool {
    let Some((last, parents)) = path.split_last() else { return false };
    let mut table = tree;
    for key in parents {
        match table.get_mut(key).and_then(Value::as_table_mut) {
            Some(inner) => table = inner,
            None => return false,
        }
    }
    table.insert(last.clone(), value);
    true
}

fn describe(merged: &Merged, path: &str, message: &str) -> ConfigError {
    let keys: Vec<String> = path.split('.').map(str::to_owned).collect();
    let given = get(&merged.tree, &keys);
    let empty = matches!(given, Some(Value::String(text)) if text.is_empty());
    // serde's messages quote the value; only what it expected is taken from them.
    let problem = match message.split_once(", expected ") {
        Some((_, expected)) => format!("must be {expected}"),
        None if message.starts_with("missing field") => "is required".to_owned(),
        None if is_secret(path) => "is not valid".to_owned(),
        None => message.to_owned(),
    };
    let mut error = ConfigError::new(path, problem);
    error.given = given.filter(|_| !empty).map(|value| shown(path, value));
    error.origin = merged.origin(path).filter(|_| error.given.is_some());
    if empty || given.is_none() {
        error = error.fix(format!("it is not set: set it in the file or as {}", variable(path)));
    }
    error
}

fn unknown_key(merged: &Merged, path: &str) -> ConfigError {
    let keys: Vec<String> = path.split('.').map(str::to_owned).collect();
    let (last, parents) = keys.split_last().map_or(("", &[][..]), |(last, parents)| (last.as_str(), parents));
    let siblings = if parents.is_empty() {
        Some(&merged.defaults)
    } else {
        get(&merged.defaults, parents).and_then(Value::as_table)
    };
    let mut error = ConfigError::new(path, "is not a known key");
    error.origin = merged.origin(path);
    let file_key = format!("{last}_file");
    match siblings {
        Some(siblings) if siblings.contains_key(&file_key) => {
            error.fix(format!("secrets are given by file: put it in a file and name that as {file_key}"))
        }
        Some(siblings) if !siblings.is_empty() => {
            let known: Vec<&str> = siblings.keys().map(String::as_str).collect();
            error.fix(format!("known here: {}", known.join(", ")))
        }
        Some(_) | None => error.fix("remove it"),
    }
}

/// The environment variable that sets `path`.
fn variable(path: &str) -> String {
    format!("SOTTO__{}", path.to_ascii_uppercase().replace('.', "__"))
}
