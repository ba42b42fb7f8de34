//! What goes wrong at the command line: what it is, and what to do about it.

use std::fmt;

use sotto_core::{Classified, ErrorClass};

/// An error for people: one sentence, its causes, and the fix.
#[derive(Debug)]
pub struct CliError {
    problem: String,
    causes: Vec<String>,
    fix: Option<String>,
}

impl CliError {
    /// A problem.
    pub fn new(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), causes: Vec::new(), fix: None }
    }

    /// A problem with the chain of errors that led to it.
    pub fn caused_by(problem: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut causes = vec![error.to_string()];
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            if causes.last() != Some(&text) {
                causes.push(text);
            }
            source = error.source();
        }
        Self { problem: problem.into(), causes, fix: None }
    }

    /// What the person should do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The fix, if one is known.
    pub fn remedy(&self) -> Option<&str> {
        self.fix.as_deref()
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CliError {}

impl Classified for CliError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

/// Names the file that an operation failed on.
pub(crate) fn at(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> CliError {
    move |error| CliError::caused_by(format!("{}", path.display()), &error)
}
