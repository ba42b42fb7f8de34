//! Reads TOML tables field by field and collects every problem instead of stopping at the first.

use std::{ops::RangeInclusive, time::Duration};

use toml::{Table, Value};

use super::CarrierFileError;

/// Parses the TOML syntax.
pub(super) fn parse(text: &str, errors: &mut Vec<CarrierFileError>) -> Option<Table> {
    text.parse()
        .map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
            errors.push(CarrierFileError {
                path: format!("line {line}"),
                problem: error.message().to_owned(),
                fix: "mend the TOML syntax, then the fields are checked".to_owned(),
            });
        })
        .ok()
}

/// One table of the file. A field is `None` only when a problem with it has been reported.
#[derive(Debug)]
pub(super) struct Section<'t, 'e> {
    path: String,
    table: &'t Table,
    known: Vec<&'static str>,
    errors: &'e mut Vec<CarrierFileError>,
}

impl<'t, 'e> Section<'t, 'e> {
    pub(super) const fn new(path: String, table: &'t Table, errors: &'e mut Vec<CarrierFileError>) -> Self {
        Self { path, table, known: Vec::new(), errors }
    }

    /// A field that must be there. `parse` returns the problem with a value.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        fix: &str,
        parse: impl FnOnce(&'t Value) -> Result<T, String>,
    ) -> Option<T> {
        self.known.push(key);
        let table = self.table;
        match table.get(key).map(parse) {
            Some(Ok(value)) => return Some(value),
            Some(Err(problem)) => self.error(key, problem, fix),
            None => self.error(key, "is missing".to_owned(), fix),
        }
        None
    }

    /// A field with a default.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        fix: &str,
        parse: impl FnOnce(&'t Value) -> Result<T, String>,
    ) -> Option<T> {
        if self.table.contains_key(key) {
            return self.required(key, fix, parse);
        }
        self.known.push(key);
        Some(default)
    }

    /// A field that may be left out.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        fix: &str,
        parse: impl FnOnce(&'t Value) -> Result<T, String>,
    ) -> Option<Option<T>> {
        self.or(key, None, fix, |value| parse(value).map(Some))
    }

    /// An array of tables that must not be empty, each with its path.
    pub(super) fn tables(&mut self, key: &'static str, fix: &str) -> Vec<(String, &'t Table)> {
        let prefix = self.path_of(key);
        let found = self.required(key, fix, |value| {
            let tables = value.as_array().and_then(|values| values.iter().map(Value::as_table).collect());
            let tables: Vec<&Table> =
                tables.ok_or_else(|| format!("is not an array of tables, as [[{key}]] makes it"))?;
            if tables.is_empty() { Err("is empty".to_owned()) } else { Ok(tables) }
        });
        let numbered = found.into_iter().flatten().enumerate();
        numbered.map(|(index, table)| (format!("{prefix}[{}]", index + 1), table)).collect()
    }

    /// A problem with a field found by looking at several of them.
    pub(super) fn error(&mut self, key: &str, problem: String, fix: &str) {
        let path = self.path_of(key);
        self.errors.push(CarrierFileError { path, problem, fix: fix.to_owned() });
    }

    /// A table inside this one.
    pub(super) const fn inner<'i>(&mut self, path: String, table: &'i Table) -> Section<'i, '_> {
        Section::new(path, table, self.errors)
    }

    /// The path of a field of this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(mut self) {
        let table = self.table;
        let fix = format!("remove it or mend its spelling; known here: {}", self.known.join(", "));
        for key in table.keys().filter(|key| !self.known.contains(&key.as_str())).collect::<Vec<_>>() {
            self.error(key, "is not a key of this table".to_owned(), &fix);
        }
    }
}

/// A text. Its content is never repeated in a problem: it may be a secret put in the wrong place.
pub(super) fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("is of type {}, not a text", value.type_str()))
}

/// A text of so many characters that can be printed in ASCII.
pub(super) fn ascii(value: &Value, length: RangeInclusive<usize>) -> Result<String, String> {
    let text = text(value)?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        Err("has characters other than printable ASCII".to_owned())
    } else if !length.contains(&text.len()) {
        Err(format!("has {} characters", text.len()))
    } else {
        Ok(text.to_owned())
    }
}

/// A text with at least so many characters besides spaces around it.
pub(super) fn words(value: &Value, least: usize) -> Result<String, String> {
    let text = text(value)?.trim();
    let length = text.chars().count();
    if length < least { Err(format!("has {length} characters")) } else { Ok(text.to_owned()) }
}

/// A whole number in a range.
pub(super) fn integer<N: TryFrom<i64> + PartialOrd>(
    value: &Value,
    range: RangeInclusive<N>,
) -> Result<N, String> {
    let given =
        value.as_integer().ok_or_else(|| format!("is of type {}, not a whole number", value.type_str()))?;
    N::try_from(given).ok().filter(|number| range.contains(number)).ok_or_else(|| format!("is {given}"))
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("is of type {}, not true or false", value.type_str()))
}

/// One of a few words.
pub(super) fn choice<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Result<T, String> {
    let given = text(value)?;
    let found = choices.iter().find(|(word, _)| *word == given);
    found.map(|(_, choice)| *choice).ok_or_else(|| "is none of the words allowed here".to_owned())
}

/// A list of texts, each read by `parse`, without repetitions.
pub(super) fn list<T: PartialEq>(
    value: &Value,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let values =
        value.as_array().ok_or_else(|| format!("is of type {}, not a list of texts", value.type_str()))?;
    let mut items = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        let item =
            text(value).and_then(&parse).map_err(|problem| format!("item {}: {problem}", index + 1))?;
        if items.contains(&item) {
            return Err(format!("item {}: is in the list already", index + 1));
        }
        items.push(item);
    }
    Ok(items)
}

/// As [`list`], with at least one item.
pub(super) fn filled_list<T: PartialEq>(
    value: &Value,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let items = list(value, parse)?;
    if items.is_empty() { Err("is empty".to_owned()) } else { Ok(items) }
}

/// A duration such as `30 s`: a whole number and one of the units ms, s, m and h.
pub(super) fn duration(value: &Value, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let given = text(value)?;
    let digits = given.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = given.split_at(digits);
    let milliseconds = match unit.trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("is not a whole number and a unit".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "is not a whole number and a unit".to_owned())?;
    let duration = Duration::from_millis(number.saturating_mul(milliseconds));
    if range.contains(&duration) { Ok(duration) } else { Err(format!("is {number} {}", unit.trim_start())) }
}
