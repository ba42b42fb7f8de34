//! A real redis-server.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use crate::{
    free_port,
    pki::CertFiles,
    process::Process,
    tools,
    wait::{must, poll},
};

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(20);

/// The testkit's own user, added to every ACL file, for what tests do behind the services' backs.
const OWN_USER: &str = "testkit";

/// Another process may take the free port between our look and the server's start.
const PORT_TRIES: usize = 5;

/// How a test's redis-server differs from the plain one.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Serve TLS only, and ask clients for certificates.
    pub tls: Option<CertFiles>,
    /// Users, in the format of an ACL file. Without it the default user needs no password.
    pub acl: Option<String>,
    /// More arguments of redis-server (`["--maxmemory", "1mb"]`).
    pub arguments: Vec<String>,
}

/// A redis-server of its own, on a free port of 127.0.0.1 and in a temporary folder, with an append-only file. It
/// ends with this value.
#[derive(Debug)]
pub struct RedisServer {
    folder: TempDir,
    options: RedisOptions,
    port: u16,
    process: Process,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When redis-server is missing or does not come up.
    pub async fn start(options: RedisOptions) -> Self {
        let folder = must("a temporary folder", TempDir::with_prefix("sotto-redis-"));
        if let Some(acl) = &options.acl {
            let own = format!("user {OWN_USER} on >{OWN_USER} ~* &* +@all\n");
            must(
                "writing users.acl",
                std::fs::write(acl_file(folder.path()), format!("{}\n{own}", acl.trim_end())),
            );
        }
        let mut last = String::new();
        for _ in 0..PORT_TRIES {
            let port = free_port();
            match launch(folder.path(), &options, port).await {
                Ok(process) => return Self { folder, options, port, process },
                Err(why) => last = why,
            }
        }
        panic!("redis-server does not start: {last}")
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// `redis://127.0.0.1:port`, or `rediss://localhost:port` with TLS.
    pub fn url(&self) -> String {
        match self.options.tls {
            Some(_) => format!("rediss://localhost:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// Its files.
    pub fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Removes everything it holds, as if all of Redis were lost.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn flush_all(&self) {
        let answer = self.command("FLUSHALL").await;
        assert_eq!(answer, "+OK", "FLUSHALL");
    }

    /// Sends one inline command over its local socket and returns the first line of the answer.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn command(&self, command: &str) -> String {
        let own_user = self.options.acl.is_some();
        must(command, command_over(&socket(self.folder.path()), own_user, command).await)
    }

    /// A section of what it says of itself (`INFO`).
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn section(&self, name: &str) -> String {
        let own_user = self.options.acl.is_some();
        let command = format!("INFO {name}");
        must(&command, section_over(&socket(self.folder.path()), own_user, &command).await)
    }

    /// Stops it in an orderly way.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&mut self) {
        self.process.terminate(STOP).await;
    }

    /// Ends it as a crash would (SIGKILL).
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Stops it if it runs, then starts it on the same port with the same files.
    ///
    /// # Panics
    /// When it does not stop or come up again.
    pub async fn restart(&mut self) {
        if self.process.is_running() {
            self.stop().await;
        }
        match launch(self.folder.path(), &self.options, self.port).await {
            Ok(process) => self.process = process,
            Err(why) => panic!("redis-server does not start again: {why}"),
        }
    }
}

fn acl_file(folder: &Path) -> PathBuf {
    folder.join("users.acl")
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("redis.sock")
}

fn arguments(folder: &Path, options: &RedisOptions, port: u16) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    let mut settings = vec![
        ("--bind", "127.0.0.1".to_owned()),
        ("--dir", text(folder)),
        ("--unixsocket", text(&socket(folder))),
        ("--appendonly", "yes".to_owned()),
        ("--save", String::new()),
        // What a search of its files is to find must lie there as it is.
        ("--rdbcompression", "no".to_owned()),
    ];
    match &options.tls {
        None => settings.push(("--port", port.to_string())),
        Some(files) => settings.extend([
            ("--port", "0".to_owned()),
            ("--tls-port", port.to_string()),
            ("--tls-ca-cert-file", text(&files.ca)),
            ("--tls-cert-file", text(&files.cert)),
            ("--tls-key-file", text(&files.key)),
            ("--tls-auth-clients", "yes".to_owned()),
        ]),
    }
    if options.acl.is_some() {
        settings.push(("--aclfile", text(&acl_file(folder))));
    }
    let settings = settings.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    settings.chain(options.arguments.iter().cloned()).collect()
}

async fn launch(folder: &Path, options: &RedisOptions, port: u16) -> Result<Process, String> {
    let none: [(&str, &str); 0] = [];
    let log = folder.join("redis-server.log");
    let mut process = Process::start(&tools::redis_server(), arguments(folder, options, port), none, &log);
    let (socket, own_user) = (socket(folder), options.acl.is_some());
    let result = poll(START, || {
        let running = process.is_running();
        let socket = socket.clone();
        async move {
            if !running {
                return Ok(false);
            }
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            match command_over(&socket, own_user, "PING").await?.as_str() {
                "+PONG" => Ok(true),
                other => Err(io::Error::other(other.to_owned())),
            }
        }
    })
    .await;
    match result {
        Ok(true) => Ok(process),
        Ok(false) => Err(format!("it ended; its log:\n{}", process.log())),
        Err(last) => Err(format!("{last}; its log:\n{}", process.log())),
    }
}

async fn command_over(socket: &Path, own_user: bool, command: &str) -> io::Result<String> {
    let mut stream = asked(socket, own_user, command).await?;
    line(&mut stream).await
}

/// The same for an answer of many lines: `$`, how many bytes it has, and those.
async fn section_over(socket: &Path, own_user: bool, command: &str) -> io::Result<String> {
    let mut stream = asked(socket, own_user, command).await?;
    let head = line(&mut stream).await?;
    let length = head.strip_prefix('$').and_then(|length| length.parse().ok());
    let mut bytes = vec![0; length.ok_or_else(|| io::Error::other(head.clone()))?];
    stream.read_exact(&mut bytes).await?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

async fn asked(socket: &Path, own_user: bool, command: &str) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    if own_user {
        stream.write_all(format!("AUTH {OWN_USER} {OWN_USER}\r\n").as_bytes()).await?;
        let answer = line(&mut stream).await?;
        if answer != "+OK" {
            return Err(io::Error::other(answer));
        }
    }
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    Ok(stream)
}

async fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n") {
        text.push(stream.read_u8().await?);
    }
    text.truncate(text.len() - 2);
    String::from_utf8(text).map_err(io::Error::other)
}
