//! A rolling upgrade under load, and the way back: for a while services of two versions work beside each other.
//!
//! `make torture-upgrade BASE=<revision>` builds that revision, and names the folder of its programs in `SOTTO_PREVIOUS_BIN`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use sotto_testkit::tools;
use tempfile::TempDir;
use tokio::process::Command;

use super::{Struck, Torture, now, say};
use crate::cell::{BOUND, SERVICES, text};

/// Messages that are accepted between two restarts, at least.
const MESSAGES: usize = 40;

/// The programs that a cell runs: for each service a link to one of two versions.
pub(crate) struct Programs {
    links: TempDir,
    before: PathBuf,
    after: PathBuf,
}

impl Programs {
    /// All are those of the version before.
    fn of_before() -> Self {
        let Some(before) = std::env::var_os("SOTTO_PREVIOUS_BIN") else {
            panic!("SOTTO_PREVIOUS_BIN is not set: make torture-upgrade BASE=<revision>")
        };
        let after = tools::built("sotto").parent().unwrap().to_owned();
        let links = TempDir::with_prefix("sotto-programs-").unwrap();
        let programs = Self { links, before: PathBuf::from(before), after };
        for service in SERVICES {
            programs.set(service, &programs.before);
        }
        programs
    }

    /// From its next start on a service is of the version in this folder.
    fn set(&self, service: &str, folder: &Path) {
        let name = format!("sotto-{service}");
        let (program, link) = (folder.join(&name), self.links.path().join(&name));
        assert!(program.is_file(), "{} is not there", program.display());
        let draft = link.with_extension("new");
        symlink(program, &draft).unwrap();
        fs::rename(&draft, &link).unwrap();
    }

    /// Makes the cell in this folder anew, as the version before does: it is what an upgrade finds.
    pub(super) async fn make_anew(&self, root: &Path) {
        fs::remove_dir_all(root).unwrap();
        let mut command = Command::new(self.before.join("sotto"));
        command.arg("--cell").arg(root).args(["init", "--id", "vn", "--shards", "4"]);
        let made = tokio::time::timeout(BOUND, command.output()).await.unwrap().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
    }

    /// Starts the cell: the version before, which also brings the streams to its own list.
    pub(super) fn starter(&self) -> PathBuf {
        self.before.join("sotto")
    }

    /// Of `sotto up`.
    pub(super) fn arguments(&self) -> Vec<String> {
        vec!["--programs".to_owned(), self.links.path().display().to_string()]
    }
}

#[tokio::test]
async fn a_rolling_upgrade_and_the_way_back_lose_nothing_and_repeat_nothing() {
    let programs = Programs::of_before();
    let outside = TempDir::with_prefix("sotto-carrier-").unwrap();
    let mut torture = Torture::start_of(&std::env::temp_dir(), outside.path(), Some(&programs), None).await;
    // There, back, and there again; the last roll begins at the other end.
    let mut order = SERVICES;
    for (what, folder) in
        [("forward", &programs.after), ("back", &programs.before), ("forward again", &programs.after)]
    {
        for service in order {
            say(&format!("  {what}: {service}"));
            programs.set(service, folder);
            torture.struck.push(Struck { what: format!("{what}: {service}"), at: now(), explains: 0 });
            torture.cell.running(service).await;
            torture.cell.restart(service).await;
            let enough = torture.traffic.accepted() + MESSAGES;
            torture.traffic.reach(enough).await;
        }
        order.reverse();
        torture.traffic.renew(&torture.cell).await;
    }
    // The list of streams comes after the programs, and every service of the new version starts on it.
    let carriers = torture.cell.carriers().unwrap();
    torture.cell.run(["provision".as_ref(), "--carriers".as_ref(), carriers.as_os_str()]).await;
    for service in SERVICES {
        torture.cell.restart(service).await;
    }
    let enough = torture.traffic.accepted() + MESSAGES;
    torture.traffic.reach(enough).await;
    let mut cell = torture.judge(0, None).await;
    cell.stop().await;
    assert_eq!(cell.json(["audit", "verify"]).await[0]["verified"], true);
}
