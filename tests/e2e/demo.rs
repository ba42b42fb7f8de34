//! The newcomer's first command, as the README says it.

use std::process::Stdio;

use sotto_testkit::workspace;
use tokio::process::Command;

use crate::cell::text;

#[tokio::test]
async fn make_demo_ends_with_delivered_and_leaves_nothing_running() {
    let folder = tempfile::TempDir::with_prefix("sotto-demo-test-").unwrap();
    let output = Command::new("make")
        .arg("demo")
        .current_dir(workspace())
        .env("TMPDIR", folder.path())
        // This test runs under make itself; the inner one must not take its job server.
        .env_remove("MAKEFLAGS")
        .env_remove("MFLAGS")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}{}", text(&output.stderr));
    for needed in ["accepted", "routed", "submitted", "delivered", "proof checked", "balanced"] {
        assert!(printed.contains(needed), "no {needed:?} in:\n{printed}");
    }
    assert!(!printed.contains("482913"), "the code itself is shown");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let place = folder.path().display().to_string();
    let running: Vec<_> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| text(&line))
        .filter(|line| line.contains(&place))
        .collect();
    assert!(running.is_empty(), "{running:?}");
}
