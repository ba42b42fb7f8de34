//! `sotto doctor`: looks for what is wrong, and says what to do about it. It changes nothing.

mod files;
mod limits;
mod machine;
mod running;
mod settings;

use sotto_core::Clock;

use crate::{CliError, Output, Tone, cell::CellDir};

/// One thing looked at.
#[derive(Debug)]
struct Finding {
    what: String,
    verdict: Verdict,
}

#[derive(Debug)]
enum Verdict {
    /// All is well.
    Fine,
    /// Worth knowing, and nothing to mend.
    Note(String),
    /// What is wrong, and what to do.
    Wrong { problem: String, fix: String },
}

impl Finding {
    fn fine(what: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Fine }
    }

    fn note(what: impl Into<String>, note: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Note(note.into()) }
    }

    fn wrong(what: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Wrong { problem: problem.into(), fix: fix.into() } }
    }

    /// Fine, or what is wrong, with one remedy for whatever it is.
    fn of(what: impl Into<String>, result: Result<(), String>, fix: impl Into<String>) -> Self {
        match result {
            Ok(()) => Self::fine(what),
            Err(problem) => Self::wrong(what, problem, fix),
        }
    }
}

pub(crate) async fn doctor(dir: &CellDir, clock: &dyn Clock, output: &Output) -> Result<(), CliError> {
    let mut findings = machine::look(dir, clock);
    match dir.open() {
        Ok(cell) => {
            findings.extend(files::look(dir, &cell, clock));
            findings.extend(settings::look(dir, &cell));
            findings.extend(limits::look(dir, &cell));
            findings.extend(running::look(dir, &cell).await);
        }
        Err(error) => {
            let fix = error.remedy().unwrap_or("restore it from a backup").to_owned();
            findings.push(Finding::wrong("the cell", error.to_string(), fix));
        }
    }
    tell(&findings, output)
}

fn tell(findings: &[Finding], output: &Output) -> Result<(), CliError> {
    let mut wrong = 0;
    for Finding { what, verdict } in findings {
        let (problem, fix, note) = match verdict {
            Verdict::Fine => (None, None, None),
            Verdict::Note(note) => (None, None, Some(note)),
            Verdict::Wrong { problem, fix } => (Some(problem), Some(fix), None),
        };
        output.json(&serde_json::json!({
            "what": what, "ok": problem.is_none(), "problem": problem, "fix": fix, "note": note,
        }))?;
        match verdict {
            Verdict::Fine => output.line(format!("{}  {what}", output.tone(Tone::Good, "ok   ")))?,
            Verdict::Note(note) => {
                output.line(format!("{}  {what}: {note}", output.tone(Tone::Strong, "note ")))?;
            }
            Verdict::Wrong { problem, fix } => {
                wrong += 1;
                output.line(format!("{}  {what}: {problem}", output.tone(Tone::Bad, "wrong")))?;
                output.line(format!("       fix: {fix}"))?;
            }
        }
    }
    if wrong == 0 {
        Ok(())
    } else {
        Err(CliError::new(format!("{wrong} thing(s) are wrong")).fix("do what is said at each of them"))
    }
}
