//! A Redis that is a value, for the simulated world (docs/TESTING.md). Scripts are run by Lua 5.1, as Redis runs them; of the
//! commands there are those that services use. Its time is a clock of the world.

mod keys;
mod lua;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value};
use sotto_core::Clock;
use tokio_util::sync::CancellationToken;

use super::{Redis, Way};
use keys::Keys;

/// The longest way of a command or its answer.
const WAY_MICROS: u64 = 1_000;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The server. Clones are the same one.
#[derive(Clone)]
pub struct SimulatedRedis(Arc<Mutex<Server>>);

/// What a server holds and remembers.
pub(super) struct Server {
    keys: Keys,
    scripts: BTreeMap<String, String>,
    lua: Option<mlua::Lua>,
    clock: Arc<dyn Clock>,
    run: u64,
    up: bool,
    random: u64,
    /// Answers that get lost, after so many commands.
    lost: Option<u64>,
}

impl fmt::Debug for SimulatedRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedRedis").finish_non_exhaustive()
    }
}

impl SimulatedRedis {
    /// An empty server.
    pub fn new(clock: Arc<dyn Clock>, seed: u64) -> Self {
        let (keys, scripts) = (Keys::default(), BTreeMap::new());
        let server = Server { keys, scripts, lua: None, clock, run: 1, up: true, random: seed, lost: None };
        Self(Arc::new(Mutex::new(server)))
    }

    /// A process's way to it. When its `life` ends, nothing of it arrives any more.
    pub fn connect(&self, life: CancellationToken) -> Redis {
        Redis(Way::Simulated(Session { server: Arc::clone(&self.0), life }))
    }

    /// Everything in it is gone.
    pub fn burn(&self) {
        self.lock().keys = Keys::default();
    }

    /// All keys with this in their names are gone, and nothing shows it: what a Redis must never do.
    pub fn forget(&self, name: &str) {
        self.lock().keys.forget(name);
    }

    /// It starts anew with what it held: another run.
    pub fn restart(&self) {
        let mut server = self.lock();
        server.run += 1;
        server.scripts.clear();
    }

    /// Whether it answers.
    pub fn set_up(&self, up: bool) {
        self.lock().up = up;
    }

    /// The answer to the command after so many gets lost.
    pub fn lose_answer(&self, after: u64) {
        self.lock().lost = Some(after);
    }

    fn lock(&self) -> MutexGuard<'_, Server> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process's way to the server.
#[derive(Clone)]
pub(super) struct Session {
    server: Arc<Mutex<Server>>,
    life: CancellationToken,
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn command(&self, command: &Cmd) -> RedisResult<Value> {
        let words = words(command);
        self.ask(move |server| server.run(&words)).await?
    }

    pub(super) async fn commands(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let all: Vec<_> = pipeline.cmd_iter().map(words).collect();
        let values = self
            .ask(move |server| all.iter().map(|words| server.run(words)).collect::<RedisResult<Vec<_>>>())
            .await??;
        Ok(values.into_iter().skip(offset).take(count).collect())
    }

    async fn ask<T>(&self, work: impl FnOnce(&mut Server) -> T) -> RedisResult<T> {
        if !self.arrive().await {
            tokio::time::sleep(PATIENCE).await;
            return Err((ErrorKind::Io, "no answer").into());
        }
        let (answer, lost) = {
            let mut server = self.lock();
            (work(&mut server), server.is_lost())
        };
        if lost {
            tokio::time::sleep(PATIENCE).await;
            self.arrive().await;
            return Err((ErrorKind::Io, "no answer").into());
        }
        self.arrive().await;
        Ok(answer)
    }

    /// One way; false if there is nobody at its end.
    async fn arrive(&self) -> bool {
        let way = self.lock().way();
        tokio::time::sleep(way).await;
        if self.life.is_cancelled() {
            return std::future::pending().await;
        }
        self.lock().up
    }
}

fn words(command: &Cmd) -> Vec<Vec<u8>> {
    let word = |word: Arg<&[u8]>| match word {
        Arg::Simple(word) => word.to_vec(),
        Arg::Cursor | _ => b"0".to_vec(),
    };
    command.args_iter().map(word).collect()
}

/// A refusal of the server, by its code.
fn refusal(code: &'static str, text: &'static str) -> RedisError {
    let kind = if code == "NOSCRIPT" {
        ErrorKind::Server(redis::ServerErrorKind::NoScript)
    } else {
        ErrorKind::Server(redis::ServerErrorKind::ResponseError)
    };
    (kind, text).into()
}

impl Server {
    fn way(&mut self) -> Duration {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_micros((self.random >> 33) % WAY_MICROS)
    }

    fn is_lost(&mut self) -> bool {
        match self.lost {
            Some(0) => {
                self.lost = None;
                true
            }
            Some(after) => {
                self.lost = Some(after - 1);
                false
            }
            None => false,
        }
    }

    fn run(&mut self, words: &[Vec<u8>]) -> RedisResult<Value> {
        let word = |place: usize| words.get(place).map(|word| String::from_utf8_lossy(word).into_owned());
        let name = word(0).unwrap_or_default().to_ascii_uppercase();
        match name.as_str() {
            "SCRIPT" => {
                let script = word(2).unwrap_or_default();
                let digest = sha1_smol::Sha1::from(script.as_bytes()).digest().to_string();
                self.scripts.insert(digest.clone(), script);
                Ok(Value::BulkString(digest.into_bytes()))
            }
            "EVALSHA" => {
                let script = word(1).and_then(|digest| self.scripts.get(&digest).cloned());
                let script = script.ok_or_else(|| refusal("NOSCRIPT", "no such script"))?;
                self.eval(&script, words)
            }
            "EVAL" => self.eval(&word(1).unwrap_or_default(), words),
            _ => self.simple(&name, words),
        }
    }

    fn eval(&mut self, script: &str, words: &[Vec<u8>]) -> RedisResult<Value> {
        let count = words.get(2).and_then(|count| std::str::from_utf8(count).ok()?.parse().ok()).unwrap_or(0);
        let rest = words.get(3..).unwrap_or_default();
        let (keys, args) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        lua::eval(self, script, keys, args)
    }

    /// A command that is no script.
    fn simple(&mut self, name: &str, words: &[Vec<u8>]) -> RedisResult<Value> {
        let now = self.clock.now().unix_millis();
        match name {
            "PING" => Ok(Value::SimpleString("PONG".to_owned())),
            "TIME" => {
                let (seconds, micros) = (now.div_euclid(1_000), now.rem_euclid(1_000) * 1_000);
                let text = |number: i64| Value::BulkString(number.to_string().into_bytes());
                Ok(Value::Array(vec![text(seconds), text(micros)]))
            }
            "INFO" => {
                let text = format!("# Server\r\nrun_id:{:040x}\r\nmaxmemory_policy:noeviction\r\n", self.run);
                Ok(Value::BulkString(text.into_bytes()))
            }
            _ => self.keys.run(now, name, words.get(1..).unwrap_or_default()),
        }
    }
}
