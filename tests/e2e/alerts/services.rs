//! Processes that stand still, that begin again and again, that may open too few files.

use std::{cell::Cell as Count, fs, process::Command, time::Duration};

use sotto_proto::message::v1::{MessageClass, SendRequest};
use sotto_testkit::process::{freeze, signal};

use super::World;
use crate::{cell::with_token, load::otp};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two messages of a client.
const PAUSE: Duration = Duration::from_millis(50);

/// Does something while a client sends one message after the other, each once and whatever becomes of it.
pub(crate) async fn sending<T>(world: &World, work: impl Future<Output = T>) -> T {
    sending_of(world, MessageClass::Otp, PAUSE, work).await
}

thread_local! {
    /// The number of the next message: no two have one key.
    static NEXT: Count<u32> = const { Count::new(1_000) };
}

/// The same with messages of a class, and another pause.
pub(crate) async fn sending_of<T>(
    world: &World,
    class: MessageClass,
    pause: Duration,
    work: impl Future<Output = T>,
) -> T {
    let token = world.cell.token("shop").await;
    let send = async {
        loop {
            let number = NEXT.replace(NEXT.get() + 1);
            let mut request: SendRequest = otp(number);
            request.message.as_mut().unwrap().class = class.into();
            let mut client = world.cell.messages();
            let _refused = tokio::time::timeout(PATIENCE, client.send(with_token(request, &token))).await;
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        done = work => done,
        () = send => unreachable!("it sends until the work is done"),
    }
}

pub(crate) async fn redis_stands_still(world: &World) {
    freeze(world.cell.pid("redis-server")).await;
    let alerts = ["SottoRedisLost", "SottoNotReady"];
    world.fire(&alerts).await;
    world.resolve(&alerts, &[world.pid("redis-server")]).await;
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
    sending_of(world, MessageClass::Promotional, PAUSE, async {
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
