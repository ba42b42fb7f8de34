//! Configuration as it may be shown.

use toml::{Table, Value};

const REDACTED: &str = "[REDACTED]";

/// Words that make a key one that may hold a secret.
const SECRET_WORDS: [&str; 8] =
    ["secret", "password", "passphrase", "seed", "token", "pin", "credential", "credentials"];

/// Whether the last part of `path` names a secret. A `*_file` key names a file: its path is not secret.
pub(super) fn is_secret(path: &str) -> bool {
    let key = path.rsplit('.').next().unwrap_or(path);
    !key.ends_with("_file") && key.split('_').any(|word| SECRET_WORDS.contains(&word))
}

/// A value as an error message may show it.
pub(super) fn shown(path: &str, value: &Value) -> String {
    let value = redact(path, value);
    match &value {
        Value::Table(_) => "a table".to_owned(),
        Value::Array(_)
        | Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_) => value.to_string(),
    }
}

/// The tree as TOML text, without secrets.
pub(super) fn redacted(tree: &Table) -> String {
    redact_table("", tree).to_string()
}

fn redact_table(path: &str, table: &Table) -> Table {
    table
        .iter()
        .map(|(key, value)| {
            (key.clone(), redact(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value))
        })
        .collect()
}

fn redact(path: &str, value: &Value) -> Value {
    match value {
        Value::Table(table) => Value::Table(redact_table(path, table)),
        Value::Array(values) => Value::Array(values.iter().map(|value| redact(path, value)).collect()),
        Value::String(text) if is_secret(path) && !text.is_empty() => REDACTED.into(),
        Value::String(text) => Value::String(without_userinfo(text)),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {
            if is_secret(path) {
                REDACTED.into()
            } else {
                value.clone()
            }
        }
    }
}

/// `scheme://user:password@host` without the part before `@` (RFC 3986 §3.2.1).
fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let authority = rest.find('/').unwrap_or(rest.len());
    match rest.get(..authority).and_then(|part| part.rfind('@')) {
        Some(at) => format!("{scheme}://{REDACTED}{}", rest.get(at..).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let tree: Table = toml::from_str(
            "url = 'rediss://me:hunter2@host:1/0'\npin = 1234\n[a]\npassword = 'hunter2'\npassword_file = '/run/pw'\nlist = ['x://u:hunter2@h']",
        )
        .unwrap();
        let text = redacted(&tree);
        assert!(!text.contains("hunter2") && !text.contains("1234"), "{text}");
        assert!(text.contains("/run/pw") && text.contains("@host:1/0"), "{text}");
    }
}
