//! The binary.

use crate::support::{SOON, message, try_bind};
use serde_json::Value;
use sotto_smpp::client::BindOptions;
use std::process::Stdio;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sotto-simulator"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn addresses(child: &mut Child) -> Value {
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    timeout(SOON, out.read_line(&mut line)).await.unwrap().unwrap();
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn tells_its_addresses_and_ends_when_told() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let account = format!("sotto:{}", password.display());
    let arguments =
        ["--listen", "127.0.0.1:0", "--account", &account, "--behaviour", r#"{"receipts":false}"#];
    let mut child = command(&arguments).spawn().unwrap();
    let addresses = addresses(&mut child).await;
    let smpp = addresses["smpp"].as_str().unwrap().parse().unwrap();
    let partner = try_bind(smpp, BindOptions::transceiver("sotto", "secret"), SOON).await.unwrap();
    assert!(partner.answered(message("1", "x")).await.status.is_ok());
    let probe = ["--probe", "--admin", addresses["admin"].as_str().unwrap()];
    assert!(command(&probe).status().await.unwrap().success());
    sotto_testkit::process::signal(child.id().unwrap(), "TERM");
    assert!(timeout(SOON, child.wait()).await.unwrap().unwrap().success());
    assert!(!command(&probe).status().await.unwrap().success());
}

#[tokio::test]
async fn plays_a_scenario() {
    let folder = tempfile::tempdir().unwrap();
    let (password, file) = (folder.path().join("password"), folder.path().join("storm.toml"));
    std::fs::write(&password, "secret\n").unwrap();
    let storm = "[[step]]\nat_ms = 0\nbehaviour = { refuse_share = 1.0, refuse_status = 0x14 }\n\
                 [[step]]\nat_ms = 1000\nact = \"recover\"\n";
    std::fs::write(&file, storm).unwrap();
    let account = format!("sotto:{}", password.display());
    let arguments = ["--listen", "127.0.0.1:0", "--account", &account, "--scenario", file.to_str().unwrap()];
    let mut child = command(&arguments).spawn().unwrap();
    let addresses = addresses(&mut child).await;
    let smpp = addresses["smpp"].as_str().unwrap().parse().unwrap();
    let partner = try_bind(smpp, BindOptions::transceiver("sotto", "secret"), SOON).await.unwrap();
    let status = || async { partner.answered(message("1", "x")).await.status };
    sotto_testkit::eventually(SOON, "the storm", || async { status().await.0 == 0x14 }).await;
    sotto_testkit::eventually(SOON, "the calm after it", || async { status().await.is_ok() }).await;
}

#[tokio::test]
async fn says_what_is_wrong() {
    for (arguments, word) in [
        (vec!["--account", "sotto:/nowhere/password"], "/nowhere/password"),
        (vec!["--account", "sotto:/dev/null", "--scenario", "/nowhere/storm.toml"], "/nowhere/storm.toml"),
        (vec![], "--account"),
        (vec!["--account", "nofile"], "SYSTEM_ID:PASSWORD_FILE"),
    ] {
        let mut child = command(&arguments).spawn().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        assert!(said.contains(word), "{said}");
        assert!(!child.wait().await.unwrap().success());
    }
}
