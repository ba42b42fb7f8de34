//! The commands that a runbook gives for an alert: code blocks whose first line is ```` ```sh ALERT … ````, on the page that the
//! rule names or on one that this page links to.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio};

use sotto_testkit::{tools, workspace};
use tokio::process::Command;

/// Each alert of the rules, with its page.
pub(crate) fn alerts() -> BTreeMap<String, String> {
    let mut alerts = BTreeMap::new();
    for file in ["sotto.rules.yml", "containers.rules.yml"] {
        let rules = fs::read_to_string(workspace().join("deploy/prometheus").join(file)).unwrap();
        let mut alert = None;
        for line in rules.lines() {
            if let Some(name) = line.trim_start().strip_prefix("- alert: ") {
                alert = Some(name.to_owned());
            }
            if let Some(page) = line.trim_start().strip_prefix("runbook_url: ") {
                alerts.insert(alert.take().unwrap(), page.to_owned());
            }
        }
    }
    alerts
}

/// The commands for an alert.
pub(crate) fn commands(alert: &str) -> String {
    let page = workspace().join(&alerts()[alert]);
    let text = fs::read_to_string(&page).unwrap();
    let linked = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
    let linked = linked.filter(|link| link.ends_with(".md")).map(|link| page.with_file_name(link));
    let pages = std::iter::once(page.clone()).chain(linked);
    let found = pages.map(|page| block(&fs::read_to_string(page).unwrap(), alert)).find(|it| !it.is_empty());
    found.unwrap_or_else(|| panic!("{} and what it links to have no commands for {alert}", page.display()))
}

/// The block of a page that is for this alert.
fn block(text: &str, alert: &str) -> String {
    let mut lines = text.lines();
    let is_its = |line: &&str| {
        let names = line.trim_start().strip_prefix("```sh ");
        names.is_some_and(|names| names.split(' ').any(|name| name == alert))
    };
    if lines.by_ref().find(is_its).is_none() {
        return String::new();
    }
    lines.take_while(|line| line.trim_start() != "```").map(|line| format!("{line}\n")).collect()
}

/// Runs the commands for an alert where an operator would, in the folder with the cell, with these words in the place of what
/// the page writes in capitals.
pub(crate) async fn follow(alert: &str, root: &Path, words: &[(&str, String)]) {
    let mut script = commands(alert);
    for (placeholder, word) in words {
        assert!(
            script.contains(placeholder),
            "{placeholder} is not among the commands for {alert}:\n{script}"
        );
        script = script.replace(placeholder, word);
    }
    let ours = tools::built("sotto").parent().unwrap().to_owned();
    let servers = tools::nats_server().parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([ours, servers].into_iter().chain(std::env::split_paths(&path))).unwrap();
    let told = Command::new("sh")
        .args(["-euc", &script])
        .current_dir(root.parent().unwrap())
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(told.status.success(), "the commands for {alert}:\n{script}\n{told:?}");
}
