//! A storm of faults over a whole cell under load, drawn from a seed. `make torture` runs it for minutes; without orders
//! it is short and always the same.
//!
//! What counts as a failure: a message without a named end, a part that the carrier was given twice, a ledger that does not
//! balance, a refusal that was not honest, more doubt than the faults explain, a text found at rest. What the carrier was
//! given is read from its own journal, which outlives it.

mod brokers;
mod plan;
mod power;
mod report;
mod smsc;
mod traffic;
mod upgrade;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use sotto_core::{Clock as _, SystemClock};
use sotto_proto::message::v1::MessageState;
use sotto_testkit::{Disk, Routes, canary::Canary, eventually, eventually_ok, process::signal};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use self::{
    brokers::Brokers,
    plan::{FAILPOINTS, Fault, Field, Kind, plan},
    power::fill,
    report::{Report, Struck},
    smsc::{Smsc, WINDOW, repeated},
    traffic::{Sent, Traffic, WORD},
    upgrade::Programs,
};
use crate::{
    cell::{BOUND, Cell, SERVICES, with_token, write_durably},
    load::states,
};

/// The run that everybody makes.
const SEED: u64 = 7;
const SHORT: Duration = Duration::from_secs(20);

/// How long after the faults everything may take to be known, but for what nobody will ever know.
const SETTLED: Duration = Duration::from_secs(120);

/// Messages in doubt, and those whose receipt died with the carrier, are closed a minute after their submit, or when
/// their validity is over. A longer run waits for that.
const CLOSED: Duration = Duration::from_secs(480);

/// What a slow disk takes in a second: five syncs or so.
const SLOW_WRITES: u32 = 20;

/// How long what a fault was aimed at may take to be hit before the next one comes.
const AIMED: Duration = Duration::from_secs(5);

/// How far a clock jumps: within what clocks of a cell may differ by (an access token is good 30 s early and late).
const JUMP: Duration = Duration::from_secs(20);

/// How often a token is renewed.
const RENEW: Duration = Duration::from_secs(240);

struct Torture {
    cell: Cell,
    smsc: Smsc,
    traffic: Traffic,
    struck: Vec<Struck>,
    /// The disk of the cell, if it has one of its own.
    disk: Option<Arc<Disk>>,
    /// The cluster, if there is more than one broker.
    brokers: Option<Brokers>,
}

fn number_of(name: &str) -> Option<u64> {
    std::env::var_os(name).map(|value| value.to_str().unwrap().parse().unwrap())
}

fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn now() -> i64 {
    SystemClock.now().unix_millis()
}

#[tokio::test]
async fn a_storm_of_faults_loses_nothing_and_repeats_nothing() {
    let minutes = number_of("SOTTO_TORTURE_MINUTES");
    let seed = number_of("SOTTO_TORTURE_SEED").unwrap_or(SEED);
    let disk = std::env::var_os("SOTTO_TORTURE_DISK").map(|_| Arc::new(Disk::new()));
    let length = minutes.map_or(SHORT, |minutes| Duration::from_secs(60 * minutes));
    let cluster = std::env::var_os("SOTTO_TORTURE_CLUSTER").is_some();
    let faults =
        plan(seed, length, Field { own_disk: disk.is_some(), slow_disk: Disk::may_be_slow(), cluster });
    if disk.is_some() && !Disk::may_be_slow() {
        say("torture: no slow disk: this kernel does not bound writes by device for all (cgroup v1, blkio)");
    }
    say(&format!("torture: seed {seed}, {} faults", faults.len()));
    for Fault { after, kind, hold } in &faults {
        say(&format!("  after {after:?}: {kind}, for {hold:?}"));
    }
    let canary = Canary::new([("text", WORD), ("number", "910000007")]);
    canary.prove();

    let outside = TempDir::with_prefix("sotto-carrier-").unwrap();
    let parent = disk.as_ref().map_or_else(std::env::temp_dir, |disk| disk.path());
    let routes = if cluster { Some(brokers::routes().await) } else { None };
    let mut torture = Torture::start_of(&parent, outside.path(), None, routes).await;
    torture.disk.clone_from(&disk);
    torture.storm(&faults).await;
    torture.heal().await;
    let mut cell = torture.judge(seed, minutes).await;
    cell.stop().await;
    assert_eq!(cell.json(["audit", "verify"]).await[0]["verified"], true);
    let found = canary.search_files(&cell.root()).unwrap();
    assert!(found.is_empty(), "{found:#?}");
}

impl Torture {
    /// A cell under load, with its folder in `parent`; what the carrier keeps is in `outside`.
    async fn start(parent: &Path, outside: &Path) -> Self {
        Self::start_of(parent, outside, None, None).await
    }

    /// The same, made and run by these programs, and on three brokers with these ways between them.
    async fn start_of(
        parent: &Path,
        outside: &Path,
        programs: Option<&Programs>,
        routes: Option<Routes>,
    ) -> Self {
        let mut smsc = None;
        let options: &[&str] = if routes.is_some() { &["--replicas", "3"] } else { &[] };
        let cell = Cell::start_as("vn", parent, options, async |root| {
            if let Some(routes) = &routes {
                brokers::lead(root, routes);
            }
            if let Some(programs) = programs {
                programs.make_anew(root).await;
            }
            // Silence ends in a minute instead of three days.
            let config = root.join("config/ingress.toml");
            let text = fs::read_to_string(&config).unwrap();
            let more = "[projection]\nreceipt_wait = \"1 m\"\ngrace = \"1 s\"\n";
            write_durably(&config, &format!("{text}\n{more}"));
            let (started, carriers) = Smsc::start(root, outside).await;
            smsc = Some(started);
            Some(match programs {
                Some(programs) => carriers.and(programs.arguments()).started_by(programs.starter()),
                None => carriers,
            })
        })
        .await;
        for folder in ["run/failpoints", "run/clocks"] {
            fs::create_dir_all(cell.root().join(folder)).unwrap();
        }
        let mut traffic = Traffic::start(&cell).await;
        traffic.reach(20).await;
        let brokers = match routes {
            Some(routes) => Some(Brokers::of(&cell, routes).await),
            None => None,
        };
        Self { cell, smsc: smsc.unwrap(), traffic, struck: Vec::new(), disk: None, brokers }
    }

    async fn storm(&mut self, faults: &[Fault]) {
        let mut renewed = Instant::now();
        for Fault { after, kind, hold } in faults {
            // The moment is the plan's: nothing is waited for.
            sleep(*after).await;
            let at = now();
            let hit = self.strike(*kind, *hold).await;
            say(&format!("  {kind}{}", if hit { "" } else { " (not yet)" }));
            self.struck.push(Struck { what: kind.to_string(), at, explains: WINDOW * kind.explains() });
            if renewed.elapsed() > RENEW {
                self.traffic.renew(&self.cell).await;
                renewed = Instant::now();
            }
        }
    }

    fn armed(&self, place: &str) -> PathBuf {
        self.cell.root().join("run/failpoints").join(place)
    }

    /// Lets a fault come and, if it lasts, go. Whether it has hit by now.
    async fn strike(&mut self, kind: Kind, hold: Duration) -> bool {
        match kind {
            Kind::Kill(process) => signal(self.cell.running(process).await, "KILL"),
            Kind::Terminate(process) => signal(self.cell.running(process).await, "TERM"),
            Kind::Stop(process) => {
                let id = self.cell.running(process).await;
                signal(id, "STOP");
                sleep(hold).await;
                signal(id, "CONT");
            }
            Kind::DieAt(place) => {
                let armed = self.armed(place);
                fs::write(&armed, "").unwrap();
                let taken = async {
                    while armed.exists() {
                        sleep(Duration::from_millis(20)).await;
                    }
                };
                return timeout(AIMED, taken).await.is_ok();
            }
            Kind::Flush => {
                self.cell.running("redis-server").await;
                eventually_ok(BOUND, "Redis to be emptied", || self.cell.try_redis(&["FLUSHALL"])).await;
            }
            Kind::KillCarrier => self.smsc.die().await,
            Kind::StopCarrier => {
                self.smsc.signal("STOP");
                sleep(hold).await;
                self.smsc.signal("CONT");
            }
            Kind::DropLinks => self.smsc.drop_links().await,
            Kind::Cut => {
                self.smsc.proxy.cut();
                sleep(hold).await;
                self.smsc.proxy.pass();
            }
            Kind::HalfOpen => {
                self.smsc.proxy.stall();
                sleep(hold).await;
                self.smsc.proxy.pass();
            }
            Kind::Slow => {
                self.smsc.slow();
                sleep(hold).await;
                self.smsc.proxy.pass();
            }
            Kind::Uneven => {
                self.smsc.uneven();
                sleep(hold).await;
                self.smsc.proxy.pass();
            }
            Kind::Clock(process) => {
                for sign in ["", "-"] {
                    self.cell.shift_clock(process, &format!("{sign}{}", JUMP.as_millis()));
                    sleep(hold / 2).await;
                }
                self.cell.shift_clock(process, "0");
            }
            Kind::Roll => {
                for service in SERVICES {
                    self.cell.running(service).await;
                    self.cell.restart(service).await;
                }
            }
            Kind::Broker(harm, stream) => self.harm(harm, stream).await,
            Kind::SlowDisk => {
                let disk = self.disk.as_ref().unwrap();
                disk.limit(Some(SLOW_WRITES));
                sleep(hold).await;
                disk.limit(None);
            }
            Kind::FullDisk => {
                let filling = fill(self.disk.as_ref().unwrap()).await;
                sleep(hold).await;
                fs::remove_file(&filling).unwrap();
                signal(self.cell.running("nats-server").await, "TERM");
            }
        }
        true
    }

    /// Every place at which a process was to die has been reached, and everything runs again.
    async fn heal(&mut self) {
        eventually(BOUND, "every armed place to be reached", || {
            let left = FAILPOINTS.iter().any(|place| self.armed(place).exists());
            async move { !left }
        })
        .await;
        self.cell.wait_until_ready().await;
        self.traffic.renew(&self.cell).await;
    }

    /// No message is begun any more; all that was accepted is looked at.
    async fn judge(self, seed: u64, minutes: Option<u64>) -> Cell {
        let Self { cell, smsc, traffic, struck, disk: _, brokers: _ } = self;
        let sent = traffic.finish().await;
        say(&format!("torture: {} messages accepted; waiting for their ends", sent.len()));
        honest(&cell, &sent).await;
        let (ends, told) = agreed(&cell, &sent, minutes.is_some()).await;
        let parts = smsc.parts();
        let report = Report::new(seed, minutes, &struck, &sent, &ends, &parts);
        say(&report.line());

        assert_eq!(repeated(&parts), [], "given to the carrier twice");
        assert_eq!(report.lost, Vec::<u32>::new(), "delivered, and never given to the carrier");
        assert_eq!(report.other, Vec::<String>::new(), "ended as nothing here may end");
        assert!(report.unknown <= report.allowed, "{} unknown, {} explained", report.unknown, report.allowed);
        assert_eq!((&told["accepted"], &told["lost"]), (&sent.len().into(), &json!([])), "{told}");
        let open = told["in_flight"].as_u64().unwrap() + told["unknown"].as_u64().unwrap();
        assert_eq!(open, u64::try_from(report.unknown).unwrap(), "{told}");
        cell
    }
}

/// What was refused, or not answered, and accepted at last is one message: asked again, it is that one.
async fn honest(cell: &Cell, sent: &[Sent]) {
    let (client, token) = (cell.messages(), cell.token("shop").await);
    for one in sent.iter().filter(|one| !one.refused.is_empty()).take(200) {
        let again = eventually_ok(BOUND, "a repeat to be answered", async || {
            client.clone().send(with_token(traffic::message(one.number), &token)).await
        })
        .await
        .into_inner();
        assert_eq!((&again.message_id, again.repeated), (&one.id, true), "message {}", one.number);
    }
}

/// Waits until each message has ended; a short run leaves those open that only their deadline ends.
async fn ended(cell: &Cell, sent: &[Sent], all: bool) -> Vec<(String, MessageState)> {
    let mut open: Vec<_> = sent.iter().map(|one| one.id.clone()).collect();
    let mut ends = Vec::new();
    let until = Instant::now() + if all { CLOSED } else { SETTLED };
    loop {
        let quiet = !all && cell.count("receipts_waiting").await == 0;
        let (over, still): (Vec<_>, Vec<_>) =
            states(cell, &open).await.into_iter().partition(|(_, state)| {
                use MessageState::{Accepted, InDoubt, Routed, Submitted};
                !matches!(state, Accepted | Routed | Submitted | InDoubt)
            });
        ends.extend(over);
        let silent =
            still.iter().all(|(_, state)| matches!(state, MessageState::Submitted | MessageState::InDoubt));
        if still.is_empty() || (quiet && silent) {
            ends.extend(still);
            return ends;
        }
        assert!(Instant::now() < until, "no end: {still:?}");
        open = still.into_iter().map(|(id, _)| id).collect();
        sleep(Duration::from_millis(500)).await;
    }
}

/// The ends as clients see them, and the ledger that says the same. A receipt may still be on its way to both.
async fn agreed(cell: &Cell, sent: &[Sent], all: bool) -> (Vec<(String, MessageState)>, Value) {
    let until = Instant::now() + CLOSED + BOUND;
    loop {
        let ends = ended(cell, sent, all).await;
        let told = cell.ledger().await;
        let delivered = ends.iter().filter(|(_, state)| *state == MessageState::Delivered).count();
        if told["balanced"] == true && told["delivered"] == delivered {
            return (ends, told);
        }
        assert!(Instant::now() < until, "{delivered} are delivered, and the ledger says {told}");
    }
}
