//! `sotto doctor`: looks for what is wrong, and says what to do about it.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use super::audit::{KEY_FILE, LOG_DIR};
use crate::{
    CliError, Output, Tone,
    cell::{CellDir, SERVICES},
    http,
};

/// The oldest broker that does what the streams need.
const OLDEST_NATS: (u64, u64) = (2, 12);

/// One thing looked at.
struct Finding {
    what: String,
    /// `None`: all is well; otherwise what is wrong and what to do.
    problem: Option<(String, String)>,
}

pub(crate) async fn doctor(dir: &CellDir, output: &Output) -> Result<(), CliError> {
    let mut findings = vec![nats_server(), program("redis-server")];
    let cell = dir.open();
    findings.push(finding("the cell", cell.as_ref().map(|_| ()).map_err(CliError::to_string), || {
        format!("make one: sotto init --cell {}", dir.root().display())
    }));
    if cell.is_ok() {
        findings.extend(secrets(dir));
        findings.push(Finding {
            what: "the log's verifier key".to_owned(),
            problem: (!dir.path(KEY_FILE).is_file()).then(|| {
                (format!("{KEY_FILE} is missing"), "restore it from where you published it".to_owned())
            }),
        });
        findings.push(Finding {
            what: "the audit log's folder".to_owned(),
            problem: (!dir.path(LOG_DIR).is_dir())
                .then(|| (format!("{LOG_DIR} is missing"), "restore it from a backup".to_owned())),
        });
        findings.extend(processes(dir).await);
    }
    let mut wrong = 0;
    for finding in &findings {
        let problem = finding.problem.as_ref();
        output.json(&serde_json::json!({
            "what": finding.what, "ok": problem.is_none(),
            "problem": problem.map(|(problem, _)| problem), "fix": problem.map(|(_, fix)| fix),
        }))?;
        match problem {
            None => output.line(format!("{}  {}", output.tone(Tone::Good, "ok   "), finding.what))?,
            Some((problem, fix)) => {
                wrong += 1;
                output.line(format!("{}  {}: {problem}", output.tone(Tone::Bad, "wrong"), finding.what))?;
                output.line(format!("       fix: {fix}"))?;
            }
        }
    }
    if wrong == 0 { Ok(()) } else { Err(CliError::new(format!("{wrong} thing(s) are wrong"))) }
}

fn finding(what: &str, result: Result<(), String>, fix: impl FnOnce() -> String) -> Finding {
    Finding { what: what.to_owned(), problem: result.err().map(|problem| (problem, fix())) }
}

fn version_of(name: &str) -> Result<String, String> {
    let output = Command::new(name).arg("--version").output().map_err(|_| "is not on the PATH".to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn program(name: &str) -> Finding {
    finding(name, version_of(name).map(drop), || "install it: make setup".to_owned())
}

fn nats_server() -> Finding {
    let result = version_of("nats-server").and_then(|told| {
        let version = told.rsplit('v').next().unwrap_or_default();
        let mut numbers = version.split('.').map(|number| number.parse::<u64>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found >= OLDEST_NATS { Ok(()) } else { Err(format!("is {version}, too old")) }
    });
    finding("nats-server, 2.12 or newer", result, || "install it: make setup".to_owned())
}

/// Secrets that others could read.
fn secrets(dir: &CellDir) -> Vec<Finding> {
    ["ca", "secrets", "keystore", "nats/nkeys", "tls", "clients", "operator"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(dir.path(folder)).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none_or(|extension| extension != "pem"))
        .filter_map(|path| {
            let mode = std::fs::metadata(&path).ok()?.permissions().mode();
            (mode & 0o077 != 0).then(|| Finding {
                what: path.display().to_string(),
                problem: Some(("others can read it".to_owned(), format!("chmod 600 {}", path.display()))),
            })
        })
        .chain([Finding { what: "modes of the secret files".to_owned(), problem: None }])
        .collect()
}

async fn processes(dir: &CellDir) -> Vec<Finding> {
    let Ok(running) = dir.running() else {
        return vec![Finding { what: "the cell's processes: not running".to_owned(), problem: None }];
    };
    let mut findings = Vec::new();
    for service in SERVICES {
        let log = dir.path(format!("logs/{service}.log"));
        let result = match running.address(&format!("{service}.admin")) {
            Ok(address) => match http::get(address, "/ready").await {
                Ok((status, _)) if status.is_success() => Ok(()),
                Ok((_, body)) => Err(format!("is not ready: {}", String::from_utf8_lossy(&body))),
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        };
        findings.push(finding(service, result, || format!("read {}", display(&log))));
    }
    findings
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
