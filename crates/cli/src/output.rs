//! What people see: colours only on a terminal, JSON when asked for.

use std::io::{IsTerminal as _, Write as _};

use crate::CliError;

/// Where and how results are written.
#[derive(Debug)]
pub struct Output {
    json: bool,
    colours: bool,
    unheard: bool,
}

/// How a word is shown on a terminal.
#[derive(Clone, Copy, Debug)]
pub enum Tone {
    /// As it is.
    Plain,
    /// All is well.
    Good,
    /// Not as it should be.
    Bad,
    /// Less important.
    Faint,
    /// A heading.
    Strong,
}

impl Output {
    /// Standard output; JSON if `json`.
    pub fn new(json: bool, no_colour: bool) -> Self {
        Self { json, colours: !json && !no_colour && std::io::stdout().is_terminal(), unheard: false }
    }

    /// Nowhere: for what a command asks of another on its way.
    pub(crate) const fn unheard() -> Self {
        Self { json: false, colours: false, unheard: true }
    }

    /// Whether results are JSON.
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Puts a word into its tone.
    pub fn tone(&self, tone: Tone, word: &str) -> String {
        let code = match tone {
            Tone::Plain => return word.to_owned(),
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        if self.colours { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
    }

    /// Writes a line for people; nothing when results are JSON.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), CliError> {
        if self.json || self.unheard { Ok(()) } else { write(text.as_ref()) }
    }

    /// Writes the result as JSON; nothing when results are for people.
    pub fn json(&self, value: &serde_json::Value) -> Result<(), CliError> {
        if self.json { write(&value.to_string()) } else { Ok(()) }
    }

    /// Tells an error on standard error: what is wrong, then the fix. As JSON when results are.
    pub fn error(&self, error: &CliError) {
        if self.json {
            let told = serde_json::json!({ "error": error.to_string(), "fix": error.remedy() });
            let _told = writeln!(std::io::stderr(), "{told}");
            return;
        }
        let mut text = format!("error: {error}\n");
        if let Some(fix) = error.remedy() {
            text.push_str("  fix: ");
            text.push_str(fix);
            text.push('\n');
        }
        // Nobody is left to be told when standard error is closed.
        let _told = std::io::stderr().write_all(text.as_bytes());
    }
}

fn write(line: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| CliError::caused_by("standard output", &error))
}
