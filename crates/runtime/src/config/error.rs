//! What is wrong with a configuration, told so that the reader can mend it.

use std::fmt;

use sotto_core::{Classified, ErrorClass};

use super::layers::Merged;

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key's full path (`admin.listen`), or the source's name when a whole source cannot be read.
    pub path: String,
    /// What was given, ready to print; `None` where nothing was given or it may be secret.
    pub given: Option<String>,
    /// The source it was given in.
    pub origin: Option<String>,
    /// What is wrong with it, with range and unit.
    pub problem: String,
    /// What to do about it.
    pub fix: Option<String>,
}

impl ConfigError {
    /// A problem with a key.
    pub fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), given: None, origin: None, problem: problem.into(), fix: None }
    }

    /// Adds what was given. Never for secrets.
    #[must_use]
    pub fn given(mut self, given: impl fmt::Display) -> Self {
        self.given = Some(given.to_string());
        self
    }

    /// Adds the fix.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)?;
        if let Some(given) = &self.given {
            write!(f, "; given {given}")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " in {origin}")?;
        }
        if let Some(fix) = &self.fix {
            write!(f, "; {fix}")?;
        }
        Ok(())
    }
}

/// Everything wrong with the configuration, in the order in which it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Adds an error.
    pub fn push(&mut self, error: ConfigError) {
        self.0.push(error);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The errors one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }

    /// Adds `later`, except what lies at or under a key that already has an error; fills in what was given.
    pub(super) fn extend_unless_covered(&mut self, later: Self, merged: &Merged) {
        let known: Vec<String> = self.0.iter().map(|error| error.path.clone()).collect();
        for mut error in later.0 {
            let covered = known.iter().any(|path| {
                error.path == *path || error.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
            });
            if !covered {
                error.origin = error.origin.or_else(|| merged.origin(&error.path));
                self.0.push(error);
            }
        }
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.0.len();
        write!(f, "the configuration has {errors} {}:", if errors == 1 { "error" } else { "errors" })?;
        for error in &self.0 {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl Classified for ConfigErrors {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}
