//! For services' tests: every field of a configuration made wrong in turn.

use std::fmt::Write as _;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{ConfigErrors, Loaded, Sources, Validate, load};

/// Loads `default_toml` under `overrides` (TOML text in the place of a configuration file), without environment.
///
/// # Errors
/// As [`load`].
pub fn load_text<C>(default_toml: &str, overrides: &str) -> Result<Loaded<C>, ConfigErrors>
where
    C: DeserializeOwned + Validate,
{
    load(default_toml, Sources { text: Some(overrides), ..Sources::default() })
}

/// What is not reported as it should be when each key of `default_toml` in turn gets a value of a wrong type, and
/// each table an unknown key; `required` is TOML text that sets the keys without default. Empty when all is well.
///
/// Each fault must be reported with the key's full path, and alone.
pub fn faults_not_reported<C>(default_toml: &str, required: &str) -> Vec<String>
where
    C: DeserializeOwned + Validate,
{
    let base = overlay(default_toml, required);
    let mut unreported = Vec::new();
    if let Err(errors) = load::<C>(&base, Sources::default()) {
        unreported.push(format!("the configuration is not valid to begin with: {errors}"));
        return unreported;
    }
    let tree: Table = toml::from_str(&base).unwrap_or_default();
    let mut places = Vec::new();
    collect("", &tree, &mut places);
    for (path, value) in places {
        let broken = broken(&tree, &path, value);
        let expected = match value {
            Fault::WrongType => path.clone(),
            Fault::UnknownKey => join(&path, UNKNOWN),
        };
        match load_text::<C>(&base, &broken.to_string()) {
            Ok(_) => unreported.push(format!("{expected}: the wrong value was accepted")),
            Err(errors) => {
                let mut paths = errors.iter().map(|error| error.path.as_str());
                if paths.next() != Some(&expected) || paths.next().is_some() {
                    let mut text = format!("{expected}: expected one error of that path, got ");
                    // Writing to a String cannot fail.
                    let _ok = write!(text, "{errors}");
                    unreported.push(text);
                }
            }
        }
    }
    unreported
}

const UNKNOWN: &str = "no_such_key";

#[derive(Clone, Copy)]
enum Fault {
    WrongType,
    UnknownKey,
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn collect(path: &str, table: &Table, places: &mut Vec<(String, Fault)>) {
    places.push((path.to_owned(), Fault::UnknownKey));
    for (key, value) in table {
        match value {
            Value::Table(inner) => collect(&join(path, key), inner, places),
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => {
                places.push((join(path, key), Fault::WrongType));
            }
        }
    }
}

fn broken(tree: &Table, path: &str, fault: Fault) -> Table {
    let mut tree = tree.clone();
    let (target, key) = match fault {
        Fault::UnknownKey => (path, UNKNOWN),
        Fault::WrongType => path.rsplit_once('.').unwrap_or(("", path)),
    };
    let mut table = &mut tree;
    for key in target.split('.').filter(|key| !key.is_empty()) {
        table = match table.entry(key).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(inner) => inner,
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_) => return tree,
        };
    }
    // No scalar, list or section of ours is a table with this one key.
    let wrong = Value::Table(Table::from_iter([("wrong".to_owned(), Value::Boolean(true))]));
    table.insert(key.to_owned(), wrong);
    tree
}

fn overlay(default_toml: &str, overrides: &str) -> String {
    let parse = |text: &str| toml::from_str::<Table>(text);
    match (parse(default_toml), parse(overrides)) {
        (Ok(mut tree), Ok(over)) => {
            merge(&mut tree, over);
            tree.to_string()
        }
        // Not TOML: loading the text tells why.
        (Ok(_), Err(_)) => overrides.to_owned(),
        (Err(_), _) => default_toml.to_owned(),
    }
}

fn merge(tree: &mut Table, over: Table) {
    for (key, value) in over {
        match (tree.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => merge(inner, over),
            (_, value) => {
                tree.insert(key, value);
            }
        }
    }
}
