//! Foreign clients of our server side, which the simulator speaks. What they sent is counted by it, and what they were
//! told by them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Stdio,
};

use serde_json::{Value, json};
use sotto_testkit::{
    Pki, Process, eventually, eventually_ok, free_port, process::http_get, tools, workspace,
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    cell::{BOUND, simulator, text},
    peer::Peer,
};

const SENDER: &str = "ACMEBANK";

/// Number and text of each message: GSM 7-bit with extensions, UCS-2, three parts.
fn texts() -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("84912345601", "Ma {1}: 482913 @".to_owned()),
        ("84912345602", "Mã xác thực: 482913".to_owned()),
        ("84912345603", "a".repeat(307)),
    ])
}

/// A simulator with the account `peer`.
struct Server {
    folder: TempDir,
    pki: Pki,
    _process: Process,
    port: u16,
    admin: String,
}

impl Server {
    async fn start(tls: bool) -> Self {
        let folder = TempDir::with_prefix("sotto-interop-").unwrap();
        let pki = Pki::new();
        let files = pki.service("simulator");
        let password = folder.path().join("password");
        sotto_testkit::write_secret(&password, "the-pass");
        let mut arguments = vec!["--account".to_owned(), format!("peer:{}", password.display())];
        if tls {
            let path = |path: &Path| path.display().to_string();
            arguments.extend([
                "--tls-cert".to_owned(),
                path(&files.cert),
                "--tls-key".to_owned(),
                path(&files.key),
            ]);
        }
        let (process, port, admin) = simulator(&folder.path().join("simulator.log"), arguments).await;
        Self { folder, pki, _process: process, port, admin }
    }

    async fn ask(&self, path: &str) -> Value {
        let (status, body) = http_get(self.admin.parse().unwrap(), path).await.unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Each text arrived whole and once, in the right coding; this many receipts were sent and taken; nobody is bound.
    async fn check(&self, receipts: usize) {
        eventually(BOUND, "the client to be gone", || async { self.ask("/counters").await["links"] == 0 })
            .await;
        let parts = self.ask("/messages").await;
        let parts = parts.as_array().unwrap();
        for (to, text) in texts() {
            let mine = || parts.iter().filter(|part| part["destination"] == to);
            let joined: String = mine().map(|part| part["text"].as_str().unwrap()).collect();
            assert_eq!(joined, text);
            let coding = if text.is_ascii() { 0 } else { 8 };
            assert!(
                mine().all(|part| part["data_coding"] == coding && part["source"] == SENDER),
                "{parts:?}"
            );
            let places: Vec<_> = mine().filter_map(|part| part["concatenation"]["index"].as_u64()).collect();
            assert_eq!(places, if text.len() > 160 { vec![1, 2, 3] } else { vec![] });
        }
        let counters = self.ask("/counters").await;
        assert_eq!(counters["responses"], json!({"ESME_ROK": 5}));
        assert_eq!(
            (&counters["parts"], &counters["duplicates"], &counters["binds"]),
            (&json!(5), &json!(0), &json!(1))
        );
        let told = ["receipts_sent", "receipts_acked", "receipts_failed", "receipts_waiting"];
        assert_eq!(
            told.map(|name| counters[name].as_u64().unwrap()),
            [receipts as u64, receipts as u64, 0, 0]
        );
    }
}

/// Runs a client to its end; what it told.
async fn run(script: &str, arguments: &[&str]) -> Vec<Value> {
    let mut child = Command::new(tools::foreign("python"))
        .arg(workspace().join("tests/e2e/interop").join(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let input = serde_json::to_vec(&texts()).unwrap();
    child.stdin.take().unwrap().write_all(&input).await.unwrap();
    let output = tokio::time::timeout(BOUND, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn events<'a>(told: &'a [Value], event: &str) -> Vec<&'a Value> {
    told.iter().filter(|told| told["event"] == event).collect()
}

#[tokio::test]
async fn smpplib_over_tls() {
    let server = Server::start(true).await;
    let (port, password) = (server.port.to_string(), server.folder.path().join("password"));
    let (password, ca) = (password.display().to_string(), server.pki.ca().display().to_string());
    let told = run("client_smpplib.py", &["localhost", &port, &password, &ca]).await;
    let receipts = events(&told, "receipt");
    let ids: BTreeSet<_> = receipts.iter().map(|receipt| receipt["id"].to_string()).collect();
    assert_eq!((receipts.len(), ids.len()), (5, 5));
    assert!(receipts.iter().all(|receipt| receipt["delivered"] == true && receipt["state"] == 2), "{told:?}");
    let done = json!({"event": "done", "sent": 5, "receipts": 5, "alive": "enquire_link_resp", "unbound": "unbind_resp"});
    assert_eq!(told.last(), Some(&done));
    server.check(5).await;
}

#[tokio::test]
async fn aiosmpplib_with_two_ways_to_join() {
    let server = Server::start(false).await;
    let (port, password) = (server.port.to_string(), server.folder.path().join("password"));
    let told = run("client_aiosmpplib.py", &["localhost", &port, &password.display().to_string()]).await;
    for event in ["answer", "receipt"] {
        let ids: Vec<_> = events(&told, event).iter().map(|told| told["log_id"].to_string()).collect();
        let distinct: BTreeSet<_> = ids.iter().collect();
        assert_eq!((ids.len(), distinct.len()), (3, 3), "{told:?}");
    }
    assert!(events(&told, "receipt").iter().all(|receipt| receipt["delivered"] == true), "{told:?}");
    assert!(events(&told, "strange").is_empty(), "{told:?}");
    server.check(5).await;
}

/// bearerbox and smsbox in a folder of their own, with TLS to the simulator.
struct Kannel {
    boxes: [Process; 2],
    admin: u16,
    sendsms: u16,
}

impl Kannel {
    async fn start(server: &Server) -> Self {
        let folder = server.folder.path();
        let [admin, inner, sendsms] = [free_port(), free_port(), free_port()];
        let text = format!(
            "group = core\nadmin-port = {admin}\nadmin-interface = 127.0.0.1\nadmin-password = admin\n\
             smsbox-port = {inner}\nsmsbox-interface = 127.0.0.1\nbox-allow-ip = 127.0.0.1\n\
             dlr-storage = internal\nssl-trusted-ca-file = {}\n\n\
             group = smsc\nsmsc = smpp\nhost = localhost\nport = {}\nuse-ssl = true\n\
             transceiver-mode = true\nsmsc-username = peer\nsmsc-password = the-pass\nsystem-type = \"\"\n\
             interface-version = 34\nenquire-link-interval = 1\nmsg-id-type = 0x00\n\
             source-addr-ton = 5\nsource-addr-npi = 0\ndest-addr-ton = 1\ndest-addr-npi = 1\n\n\
             group = smsbox\nbearerbox-host = 127.0.0.1\nbearerbox-port = {inner}\nsendsms-port = {sendsms}\n\
             sendsms-interface = 127.0.0.1\n\n\
             group = sendsms-user\nusername = test\npassword = test\nconcatenation = true\nmax-messages = 10\n\n\
             group = sms-service\nkeyword = default\nmax-messages = 0\ntext = none\n",
            server.pki.ca().display(),
            server.port,
        );
        let file = folder.join("kannel.conf");
        fs::write(&file, text).unwrap();
        let start = |name: &str| {
            let environment: [(&str, &str); 0] = [];
            let log = folder.join(format!("{name}.log"));
            Process::start(&tools::foreign(name), [&file], environment, &log)
        };
        let bearerbox = start("bearerbox");
        let kannel = |path: &str| format!("{path}?password=admin");
        let address = ([127, 0, 0, 1], admin).into();
        let bound = async || match http_get(address, &kannel("/status.xml")).await {
            Ok((200, body)) if body.contains("<status>online") => Ok(()),
            other => Err(format!("{other:?}\n{}", bearerbox.log())),
        };
        eventually_ok(BOUND, "Kannel to be bound", bound).await;
        let smsbox = start("smsbox");
        Self { boxes: [smsbox, bearerbox], admin, sendsms }
    }

    /// Sends by HTTP, as Kannel's users do, and asks for the final receipt.
    async fn send(&self, to: &str, text: &str, reports: u64) {
        let coding = if text.is_ascii() { 0 } else { 2 };
        let report = format!("http://127.0.0.1:{reports}/?to={to}&state=%d");
        let path = format!(
            "/cgi-bin/sendsms?username=test&password=test&from={SENDER}&to={to}&charset=utf-8&coding={coding}\
             &dlr-mask=3&dlr-url={}&text={}",
            encoded(&report),
            encoded(text),
        );
        let address = ([127, 0, 0, 1], self.sendsms).into();
        eventually_ok(BOUND, "Kannel to accept a message", async || match http_get(address, &path).await {
            Ok((202, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    async fn status(&self) -> String {
        let address = ([127, 0, 0, 1], self.admin).into();
        http_get(address, "/status.xml?password=admin").await.unwrap().1
    }
}

/// For a query: every octet.
fn encoded(text: &str) -> String {
    text.bytes().map(|octet| format!("%{octet:02X}")).collect()
}

#[tokio::test]
async fn kannel_over_tls() {
    let server = Server::start(true).await;
    let nothing: [&str; 0] = [];
    let reports =
        Peer::start(server.folder.path(), &tools::foreign("python"), "interop/reports.py", nothing).await;
    let mut kannel = Kannel::start(&server).await;
    for (to, text) in texts() {
        kannel.send(to, &text, reports.port).await;
    }
    // 1: delivered. Of a message in parts Kannel asks for one receipt.
    eventually(BOUND, "a report of each message", || async { reports.count("report") == 3 }).await;
    let states: BTreeMap<_, _> = reports
        .events("report")
        .iter()
        .map(|told| (told["to"].as_str().unwrap().to_owned(), told["state"].clone()))
        .collect();
    assert_eq!(states, texts().keys().map(|to| ((*to).to_owned(), json!("1"))).collect());
    let status = kannel.status().await;
    for counted in ["<failed>0</failed>", "<queued>0</queued>", "<sent>3</sent>", "<received>3</received>"] {
        assert!(status.contains(counted), "no {counted} in {status}");
    }
    for process in &mut kannel.boxes {
        process.terminate(BOUND).await;
    }
    server.check(3).await;
}
