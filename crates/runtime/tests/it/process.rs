use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State};
use sotto_testkit::{Process, eventually, process::http_get, tools};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};

const BOUND: Duration = Duration::from_secs(20);

const FEW_FILES: u32 = 64;

struct Tiny {
    folder: TempDir,
    process: Process,
}

fn binary() -> PathBuf {
    tools::built("examples/tiny")
}

fn password(folder: &TempDir) -> String {
    let path = folder.path().join("password");
    fs::write(&path, "hunter2-hunter2").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

impl Tiny {
    fn start(more: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let mut environment = vec![
            ("SOTTO__PASSWORD_FILE".to_owned(), password(&folder)),
            ("SOTTO__ADMIN__ADDRESS_FILE".to_owned(), folder.path().join("admin").display().to_string()),
        ];
        environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        // With a low limit that it may raise itself.
        let arguments = [format!("--nofile={FEW_FILES}:").into(), binary().into_os_string()];
        let process = Process::start("prlimit".as_ref(), arguments, environment, &folder.path().join("log"));
        Self { folder, process }
    }

    fn behaving(behaviour: &str) -> Self {
        Self::start(&[("SOTTO__BEHAVIOUR", behaviour)])
    }

    async fn ready(&mut self) -> std::net::SocketAddr {
        self.process.wait_until_ready(BOUND, &self.folder.path().join("admin")).await
    }
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(binary()).args(arguments).envs(environment.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn bad_configuration_exits_with_64_and_tells_everything() {
    let output = run(&["--check-config"], &[("SOTTO__BEHAVIOUR", "dance"), ("SOTTO_X", "1")]);
    assert_eq!(output.status.code(), Some(64));
    let told = text(&output.stderr);
    for path in ["behaviour: ", "password_file: ", "SOTTO_X: "] {
        assert!(told.contains(path), "{path} not in {told}");
    }
    assert_eq!(run(&["--no-such-flag"], &[]).status.code(), Some(64));
    assert_eq!(run(&["--config", "/nowhere.toml"], &[]).status.code(), Some(64));
}

#[test]
fn good_configuration_is_checked_and_printed_without_secrets() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tiny.toml");
    fs::write(&file, format!("password_file = {:?}\n[shutdown]\ngrace = '7 s'\n", password(&folder)))
        .unwrap();
    let file = file.display().to_string();
    let output = run(&["--config", &file, "--check-config"], &[]);
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(0), "the configuration is valid\n")
    );
    let output = run(&["--config", &file, "--print-config"], &[]);
    let printed = text(&output.stdout);
    assert!(output.status.success() && printed.contains("grace = \"7 s\""), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
    let version = run(&["--version"], &[]);
    assert!(version.status.success() && text(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn lives_gets_ready_tells_what_it_is_and_stops_when_asked() {
    let mut tiny = Tiny::behaving("serve");
    let admin = tiny.ready().await;
    assert_eq!(http_get(admin, "/live").await.unwrap().0, 200);
    let (_, ready) = http_get(admin, "/ready").await.unwrap();
    assert!(ready.contains("\"warm\":true"), "{ready}");
    let (_, info) = http_get(admin, "/info").await.unwrap();
    assert!(info.contains("\"name\":\"tiny\"") && info.contains(&admin.to_string()), "{info}");
    let (status, metrics) = http_get(admin, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    for line in [
        "sotto_ready 1.0",
        "sotto_stopping 0.0",
        "sotto_condition{condition=\"warm\"} 1.0",
        "sotto_build_info{service=\"tiny\",",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // What the kernel tells of it, although its memory is closed to others.
    for name in
        ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_max_fds"]
    {
        assert!(metrics.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}: {metrics}");
    }
    let limit = metrics.lines().find_map(|line| line.strip_prefix("process_max_fds ")).unwrap();
    assert!(limit.parse::<f64>().unwrap() > f64::from(FEW_FILES), "the limit was not raised: {limit}");
    let status = tiny.process.terminate(BOUND).await;
    assert_eq!(status.code(), Some(0), "{}", tiny.process.log());
    assert!(!tiny.process.log().contains("hunter2"));
}

#[tokio::test]
async fn a_probe_tells_ready_from_not_ready_from_not_there() {
    let probe = |admin: std::net::SocketAddr| {
        let folder = TempDir::new().unwrap();
        let (admin, password) = (admin.to_string(), password(&folder));
        run(&["--probe"], &[("SOTTO__ADMIN__LISTEN", &admin), ("SOTTO__PASSWORD_FILE", &password)])
    };
    let mut tiny = Tiny::behaving("linger");
    let admin = tiny.ready().await;
    assert_eq!(probe(admin).status.code(), Some(0));
    // It listens on every interface: the probe asks on loopback.
    let everywhere = std::net::SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), admin.port());
    assert_eq!(probe(everywhere).status.code(), Some(0));
    assert!(tiny.process.terminate(BOUND).await.success());
    let gone = probe(admin);
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("does not answer"), "{}", text(&gone.stderr));

    let unready = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = unready.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut asked, _) = unready.accept().unwrap();
        let (mut head, mut octet) = (Vec::new(), [0]);
        // All of it: a connection that is closed with something unread is reset, and its answer lost.
        while !head.ends_with(b"\r\n\r\n") {
            asked.read_exact(&mut octet).unwrap();
            head.extend(octet);
        }
        asked.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").unwrap();
        String::from_utf8(head).unwrap()
    });
    let told = probe(admin);
    assert_eq!((told.status.code(), text(&told.stderr).as_str()), (Some(1), ""));
    let asked = server.join().unwrap();
    assert!(asked.starts_with("GET /ready "), "{asked}");
}

#[tokio::test]
async fn ending_by_itself_failing_or_panicking_is_a_failure() {
    for (behaviour, told) in [
        ("return", "a critical task ended by itself"),
        ("fail", "told to fail"),
        ("panic", "\"task\":\"fragile\""),
    ] {
        let mut tiny = Tiny::behaving(behaviour);
        let status = tiny.process.wait(BOUND).await;
        assert_eq!(status.code(), Some(1), "{behaviour}: {}", tiny.process.log());
        assert!(tiny.process.log().contains(told), "{behaviour}: {}", tiny.process.log());
    }
}

#[tokio::test]
async fn a_panic_is_logged_with_its_place_and_without_its_data() {
    let mut tiny = Tiny::behaving("panic");
    tiny.process.wait(BOUND).await;
    let log = tiny.process.log();
    assert!(log.contains("examples/tiny.rs") && log.contains("(message withheld)"), "{log}");
}

#[tokio::test]
async fn a_drain_waits_for_held_work() {
    let mut tiny = Tiny::behaving("linger");
    tiny.ready().await;
    let status = tiny.process.terminate(BOUND).await;
    assert_eq!(status.code(), Some(0), "{}", tiny.process.log());
    assert!(tiny.process.log().contains("lingering work done"), "{}", tiny.process.log());
}

#[tokio::test]
async fn a_drain_names_who_holds_it_and_a_second_signal_cuts_it_short() {
    let mut tiny = Tiny::behaving("hold");
    let admin = tiny.ready().await;
    tiny.process.signal("TERM");
    eventually(BOUND, "readiness to go", || async {
        http_get(admin, "/ready").await.is_ok_and(|(code, _)| code == 503)
    })
    .await;
    assert_eq!(http_get(admin, "/live").await.unwrap().0, 200, "it answers while it drains");
    let (_, metrics) = http_get(admin, "/metrics").await.unwrap();
    assert!(metrics.contains("sotto_ready 0.0") && metrics.contains("sotto_stopping 1.0"), "{metrics}");
    tiny.process
        .wait_for_log(BOUND, "\"held_by\":\"{\\\"never done\\\": 1, \\\"stubborn work\\\": 1}\"")
        .await;
    tiny.process.signal("INT");
    let status = tiny.process.wait(BOUND).await;
    assert_eq!(status.code(), Some(1), "{}", tiny.process.log());
}

#[tokio::test]
async fn the_grace_ends_a_drain() {
    let mut tiny = Tiny::start(&[("SOTTO__BEHAVIOUR", "hold"), ("SOTTO__SHUTDOWN__GRACE", "1 s")]);
    tiny.ready().await;
    let status = tiny.process.terminate(BOUND).await;
    assert_eq!(status.code(), Some(1));
    assert!(tiny.process.log().contains("the grace is over"), "{}", tiny.process.log());
}

#[tokio::test]
async fn no_core_file_can_be_written() {
    let mut tiny = Tiny::behaving("serve");
    tiny.ready().await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", tiny.process.id().unwrap())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let values: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "soft and hard: {core}");
    tiny.process.terminate(BOUND).await;
}

#[tokio::test]
async fn a_process_that_crashes_leaves_no_core_file_where_others_do() {
    for (signal, number) in [("SEGV", 11), ("ABRT", 6)] {
        let folder = TempDir::new().unwrap();
        // Another program, with the same limit in the same place: the machine would write one.
        let others = Command::new("/bin/sh")
            .args(["-c", &format!("ulimit -c unlimited && kill -{signal} $$")])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert_eq!(others.status.signal(), Some(number));
        assert!(
            others.status.core_dumped(),
            "this machine writes no core files at all: the test proves nothing"
        );
        let cores = || fs::read_dir(folder.path()).unwrap().count();
        let of_others = cores();

        let inside = format!("ulimit -c unlimited && cd {} && exec \"$0\"", folder.path().display());
        let program = binary().display().to_string();
        let place = TempDir::new().unwrap();
        let environment = [
            ("SOTTO__PASSWORD_FILE", password(&place)),
            ("SOTTO__BEHAVIOUR", "serve".to_owned()),
            ("SOTTO__ADMIN__ADDRESS_FILE", place.path().join("admin").display().to_string()),
        ];
        let mut process = Process::start(
            "/bin/sh".as_ref(),
            ["-c", &inside, &program],
            environment,
            &place.path().join("log"),
        );
        process.wait_until_ready(BOUND, &place.path().join("admin")).await;
        // Rust's own handler takes the first SIGSEGV that no fault made, and puts the default back.
        eventually(BOUND, "the crash", || {
            process.signal(signal);
            let runs = process.is_running();
            async move { !runs }
        })
        .await;
        let status = process.wait(BOUND).await;
        assert_eq!(status.signal(), Some(number), "{status}");
        assert!(!status.core_dumped(), "{status}");
        assert_eq!(cores(), of_others);
    }
}

#[tokio::test]
async fn dies_with_its_parent_when_told_to() {
    let folder = TempDir::new().unwrap();
    let (log, script) = (folder.path().join("log"), r#""$0" --die-with-parent=$$ & wait"#);
    let program = binary().display().to_string();
    let environment = [
        ("SOTTO__PASSWORD_FILE", password(&folder)),
        ("SOTTO__BEHAVIOUR", "serve".to_owned()),
        ("SOTTO__ADMIN__ADDRESS_FILE", folder.path().join("admin").display().to_string()),
    ];
    let mut shell = Process::start("/bin/sh".as_ref(), ["-c", script, &program], environment, &log);
    shell.wait_until_ready(BOUND, &folder.path().join("admin")).await;
    // Without a chance to say good-bye.
    shell.kill().await;
    eventually(BOUND, "the orphan to stop", || async {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.lines().last().is_some_and(|line| line.contains("\"stopped\""))
    })
    .await;
}

#[tokio::test]
async fn a_process_that_stands_still_is_ended_by_its_fuse() {
    let mut tiny = Tiny::start(&[("SOTTO__BEHAVIOUR", "fuse")]);
    // It lives for longer than each fuse, because it sets one again and drops the others.
    tiny.process.wait_for_log(BOUND, "\"time\":15").await;
    tiny.process.signal("STOP");
    assert_eq!(tiny.process.wait(BOUND).await.signal(), Some(9));
}

#[test]
fn an_orphan_does_not_start() {
    let folder = TempDir::new().unwrap();
    let secret = password(&folder);
    let environment = [("SOTTO__PASSWORD_FILE", secret.as_str()), ("SOTTO__BEHAVIOUR", "serve")];
    // Not our process id: the parent that started it with that is gone.
    let output = run(&["--die-with-parent=4194303"], &environment);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the parent process has ended"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_taken_admin_address_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut tiny = Tiny::start(&[("SOTTO__ADMIN__LISTEN", &address)]);
    assert_eq!(tiny.process.wait(BOUND).await.code(), Some(1));
    assert!(tiny.process.log().contains("admin.listen"), "{}", tiny.process.log());
}

/// Takes what an OTLP exporter sends, as bytes: names in protobuf are plain text.
async fn collect(State(spans): State<mpsc::UnboundedSender<Bytes>>, body: Bytes) {
    spans.send(body).unwrap();
}

#[tokio::test]
async fn traces_are_sent_before_the_process_ends_also_when_it_fails() {
    let (sender, mut spans) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = Router::new().fallback(collect).with_state(sender);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, collector).await });
    let mut tiny =
        Tiny::start(&[("SOTTO__BEHAVIOUR", "fail"), ("SOTTO__TELEMETRY__OTLP_ENDPOINT", &endpoint)]);
    assert_eq!(tiny.process.wait(BOUND).await.code(), Some(1));
    let sent = text(&tokio::time::timeout(BOUND, spans.recv()).await.unwrap().unwrap());
    assert!(
        sent.contains("tiny_start") && sent.contains("sotto-tiny") && sent.contains("service.instance.id")
    );
}
