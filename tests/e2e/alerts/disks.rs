//! Disks that another program writes to as well, and one that is full.

use std::{fs, time::Duration};

use sotto_core::{Clock as _, SystemClock, Timestamp};
use sotto_proto::message::v1::MessageClass;
use sotto_testkit::{Disk, Process, process::signal, tools};

use super::{
    World,
    services::{Sending, sending_of},
};

/// The other program: many writes at once, each synced.
const NEIGHBOUR: &str = "
import os, sys, threading
def write(number):
    file = os.open(f'{sys.argv[1]}/neighbour-{number}', os.O_CREAT | os.O_WRONLY | os.O_DSYNC)
    while True:
        os.pwrite(file, b'.' * 4096, 0)
for number in range(int(sys.argv[2])):
    threading.Thread(target=write, args=(number,)).start()
";

/// Several clients that have time.
const SENDING: Sending = Sending {
    class: MessageClass::Otp,
    clients: 8,
    pause: Duration::from_millis(100),
    patience: Duration::from_secs(20),
};

/// How long a start of privacy may take.
const START: Duration = Duration::from_secs(15);

/// Starts it on a disk.
fn neighbour(world: &World, disk: &Disk, writes: u32) -> Process {
    let arguments =
        ["-c".to_owned(), NEIGHBOUR.to_owned(), disk.path().display().to_string(), writes.to_string()];
    let none: [(&str, &str); 0] = [];
    Process::start(&tools::python(), arguments, none, &world.cell.root().with_file_name("neighbour.log"))
}

/// The disk would do for the broker alone: 220 writes a second, of which the neighbour wants 250 at any time.
pub(crate) async fn of_the_broker(world: &World, disk: &Disk) {
    let alerts = ["SottoBrokerSlow", "SottoAcceptsSlowly"];
    beside_another(world, disk, (220, 250), &alerts).await;
}

/// Each sync waits for seven seconds, and a growth of the log is several.
pub(crate) async fn of_the_log(world: &World, disk: &Disk) {
    beside_another(world, disk, (40, 256), &["SottoAuditBehind"]).await;
}

/// On a disk that takes so many writes a second the neighbour wants so many at any time.
async fn beside_another(world: &World, disk: &Disk, (takes, wants): (u32, u32), alerts: &[&str]) {
    disk.limit(Some(takes));
    let neighbour = neighbour(world, disk, wants);
    sending_of(world, SENDING, async {
        world.fire(alerts).await;
        world.resolve(alerts, &[("PID", neighbour.id().unwrap().to_string())]).await;
    })
    .await;
    disk.limit(None);
}

/// The disk of the keystore has no room: neither can the key of an hour be destroyed, nor the next one be made.
pub(crate) async fn full_of_keys(world: &World, disk: &Disk) {
    let filling = disk.fill();
    let keys = world.cell.json(["keys", "list"]).await;
    let dies_at = keys.iter().filter_map(|key| key["dies_at"].as_str());
    let dies_at = dies_at.map(|at| at.parse::<Timestamp>().unwrap()).min();
    // The clock is believed at a start.
    let ahead = dies_at.unwrap().minus(START).since(SystemClock.now());
    fs::create_dir_all(world.cell.root().join("run/clocks")).unwrap();
    world.cell.shift_clock("privacy", &ahead.as_millis().to_string());
    signal(world.cell.pid("privacy"), "TERM");
    let alerts = ["SottoDestructionFails", "SottoKeysNotAhead"];
    world.fire(&alerts).await;
    world.resolve(&alerts, &[("FILE", filling.display().to_string())]).await;
}
