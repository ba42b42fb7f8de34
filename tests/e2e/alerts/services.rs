//! Processes that stand still, that begin again and again, that may open too few files.

use std::{cell::Cell as Count, convert::Infallible, fs, process::Command, time::Duration};

use futures::future::join_all;
use sotto_proto::message::v1::{MessageClass, SendRequest};
use sotto_testkit::process::{freeze, signal};

use super::World;
use crate::{cell::with_token, load::otp};

/// Who sends one message after the other, each once and whatever becomes of it.
#[derive(Clone, Copy)]
pub(crate) struct Sending {
    /// What.
    pub(crate) class: MessageClass,
    /// Clients that do so at the same time.
    pub(crate) clients: usize,
    /// The pause between two messages of a client.
    pub(crate) pause: Duration,
    /// How long a client waits for an answer.
    pub(crate) patience: Duration,
}

impl Default for Sending {
    fn default() -> Self {
        let [pause, patience] = [50, 2_000].map(Duration::from_millis);
        Self { class: MessageClass::Otp, clients: 1, pause, patience }
    }
}

/// Does something while a client sends.
pub(crate) async fn sending<T>(world: &World, work: impl Future<Output = T>) -> T {
    sending_of(world, Sending::default(), work).await
}

thread_local! {
    /// The number of the next message: no two have one key.
    static NEXT: Count<u32> = const { Count::new(1_000) };
}

/// The same of other clients.
pub(crate) async fn sending_of<T>(world: &World, sending: Sending, work: impl Future<Output = T>) -> T {
    let token = world.cell.token("shop").await;
    tokio::select! {
        done = work => done,
        _never = join_all((0..sending.clients).map(|_| send(world, sending, &token))) => {
            unreachable!("they send until the work is done")
        }
    }
}

/// One client.
async fn send(world: &World, sending: Sending, token: &str) -> Infallible {
    loop {
        let number = NEXT.replace(NEXT.get() + 1);
        let mut request: SendRequest = otp(number);
        request.message.as_mut().unwrap().class = sending.class.into();
        let mut client = world.cell.messages();
        let sent = client.send(with_token(request, token));
        let _refused = tokio::time::timeout(sending.patience, sent).await;
        tokio::time::sleep(sending.pause).await;
    }
}

pub(crate) async fn redis_stands_still(world: &World) {
    freeze(world.cell.pid("redis-server")).await;
    let alerts = ["SottoRedisLost", "SottoNotReady"];
    world.fire(&alerts).await;
    world.resolve(&alerts, &[world.pid("redis-server")]).await;
    world.cell.wait_until_ready().await;
}

/// Its deadlines are looked at every second, and it is told when that was two minutes ago.
pub(crate) async fn redis_is_away_for_long(world: &World) {
    freeze(world.cell.pid("redis-server")).await;
    world.fire(&["SottoDeadlinesWait"]).await;
    world.resolve(&["SottoDeadlinesWait"], &[world.pid("redis-server")]).await;
    world.cell.wait_until_ready().await;
}

pub(crate) async fn privacy_stands_still(world: &World) {
    freeze(world.cell.pid("privacy")).await;
    world.fire(&["SottoRevocationsUnheard"]).await;
    world.resolve(&["SottoRevocationsUnheard"], &[world.pid("privacy")]).await;
    world.cell.wait_until_ready().await;
}

pub(crate) async fn audit_stands_still(world: &World) {
    freeze(world.cell.pid("audit")).await;
    world.fire(&["SottoServiceDown"]).await;
    world.resolve(&["SottoServiceDown"], &[world.pid("audit")]).await;
    world.cell.wait_until_ready().await;
}

/// Ingress has no key of this class of messages yet, and gets none.
pub(crate) async fn privacy_away(world: &World) {
    freeze(world.cell.pid("privacy")).await;
    sending_of(world, Sending { class: MessageClass::Promotional, ..Sending::default() }, async {
        world.fire(&["SottoPrivacyAway"]).await;
        world.resolve(&["SottoPrivacyAway"], &[world.pid("privacy")]).await;
    })
    .await;
    world.cell.wait_until_ready().await;
}

pub(crate) async fn routing_stands_still(world: &World) {
    freeze(world.cell.pid("routing")).await;
    sending(world, world.fire(&["SottoIntakeWaits"])).await;
    world.resolve(&["SottoIntakeWaits"], &[world.pid("routing")]).await;
    world.cell.wait_until_ready().await;
}

/// Ingress is started while identity stands still.
pub(crate) async fn identity_stands_still(world: &World) {
    freeze(world.cell.pid("identity")).await;
    signal(world.cell.pid("ingress"), "KILL");
    world.fire(&["SottoTokenKeysUnknown"]).await;
    world.resolve(&["SottoTokenKeysUnknown"], &[world.pid("identity")]).await;
    world.cell.wait_until_ready().await;
}

pub(crate) async fn restarts(world: &World) {
    for _ in 0..4 {
        world.cell.kill("routing").await;
    }
    world.fire(&["SottoRestarts"]).await;
    world.resolve(&["SottoRestarts"], &[]).await;
}

/// A limit a little above what audit has open.
pub(crate) async fn files_run_out(world: &World) {
    let audit = world.cell.pid("audit");
    let open = fs::read_dir(format!("/proc/{audit}/fd")).unwrap().count();
    let limit = format!("--nofile={}:", open + open / 10);
    assert!(Command::new("prlimit").args(["--pid", &audit.to_string(), &limit]).status().unwrap().success());
    world.fire(&["SottoFilesRunOut"]).await;
    world.resolve(&["SottoFilesRunOut"], &[world.pid("audit"), ("LIMIT", "1024".to_owned())]).await;
}

/// The file of keys is not where it was, of a privacy that has them in memory.
pub(crate) async fn keystore_is_moved_away(world: &World) {
    let (file, kept) = (world.cell.root().join("keystore/buckets.sks"), world.backup("moved.sks"));
    fs::rename(file, &kept).unwrap();
    world.fire(&["SottoKeystoreLost"]).await;
    world.resolve(&["SottoKeystoreLost"], &[("MOVED", kept)]).await;
}
