//! Which faults come when: drawn from a seed, and from nothing else.

use std::{collections::BTreeSet, fmt, time::Duration};

use super::brokers::Harm;
use crate::cell::SERVICES;

/// The processes of a cell, without the carrier.
const PROCESSES: [&str; 8] =
    ["privacy", "identity", "audit", "routing", "carrier", "ingress", BROKER, "redis-server"];

/// The broker where there is one.
const BROKER: &str = "nats-server";

/// The streams whose leading broker is harmed, where there are three.
const LED: [&str; 2] = ["VN_EVENTS", "VN_INTAKE"];

/// What a cell of a run is like.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Field {
    /// It lies on a disk of its own.
    pub(crate) own_disk: bool,
    /// That disk can be made slow.
    pub(crate) slow_disk: bool,
    /// It has three brokers.
    pub(crate) cluster: bool,
}

/// Named places in the product at which a process can be made to die (`sotto_runtime::failpoint`).
pub(crate) const FAILPOINTS: [&str; 13] = [
    "audit.stored",
    "carrier.answered",
    "carrier.claimed",
    "carrier.concluded",
    "carrier.fenced",
    "carrier.intended",
    "carrier.receipt",
    "carrier.recorded",
    "carrier.written",
    "ingress.claimed",
    "ingress.stored",
    "routing.moved",
    "routing.recorded",
];

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A process is killed as it stands.
    Kill(&'static str),
    /// A process is told to end, and is started again.
    Terminate(&'static str),
    /// A process stands still.
    Stop(&'static str),
    /// A process dies at a named place, the next time that it comes there.
    DieAt(&'static str),
    /// Redis forgets everything.
    Flush,
    /// The carrier dies, and forgets which receipts it owes.
    KillCarrier,
    /// The carrier stands still.
    StopCarrier,
    /// The carrier drops every link.
    DropLinks,
    /// Nothing connects to the carrier.
    Cut,
    /// Connections to the carrier stand, and nothing passes.
    HalfOpen,
    /// Each piece between cell and carrier is late.
    Slow,
    /// What goes over one of the binds is late, and is overtaken on the other.
    Uneven,
    /// The wall clock of a service jumps ahead, then behind, and back to the right time.
    Clock(&'static str),
    /// Every service is restarted, one after the other, as in an upgrade.
    Roll,
    /// The cell's disk is full to the last byte. Then there is room, and the broker is restarted, as its runbook says.
    FullDisk,
    /// The cell's disk takes a few syncs a second.
    SlowDisk,
    /// The broker that leads this stream comes to harm.
    Broker(Harm, &'static str),
}

impl Kind {
    /// One of each. A disk is filled only where the cell has one of its own, and one broker.
    pub(crate) fn all(Field { own_disk, slow_disk, cluster }: Field) -> Vec<Self> {
        let mut all = vec![
            Self::Terminate(BROKER),
            Self::Flush,
            Self::KillCarrier,
            Self::StopCarrier,
            Self::DropLinks,
            Self::Cut,
            Self::HalfOpen,
            Self::Slow,
            Self::Uneven,
            Self::Roll,
        ];
        all.extend(PROCESSES.map(Self::Kill));
        all.extend(PROCESSES.map(Self::Stop));
        all.extend(FAILPOINTS.map(Self::DieAt));
        all.extend(SERVICES.map(Self::Clock));
        all.extend((own_disk && slow_disk).then_some(Self::SlowDisk));
        if cluster {
            let only = [Self::Terminate(BROKER), Self::Kill(BROKER), Self::Stop(BROKER)];
            all.retain(|kind| !only.contains(kind));
            all.extend(LED.iter().flat_map(|led| Harm::ALL.map(|harm| Self::Broker(harm, led))));
        } else {
            all.extend(own_disk.then_some(Self::FullDisk));
        }
        all
    }

    /// How many windows of messages it may leave without a known end: what is on the wire when a link or connector ends or
    /// is late. A carrier that dies also forgets the receipts that it owes for what it has answered just now.
    pub(crate) fn explains(self) -> usize {
        match self {
            Self::Kill(process) | Self::Terminate(process) | Self::Stop(process) | Self::Clock(process) => {
                usize::from(process == "carrier")
            }
            Self::DieAt(place) => usize::from(place.starts_with("carrier.")),
            // A connector that is told to end waits for its answers.
            Self::Flush | Self::Roll => 0,
            Self::KillCarrier => 2,
            // An answer that neither log nor Redis takes is kept by the connector, and goes with it if that dies meanwhile.
            Self::FullDisk => 1,
            // A connector whose leases are not stored in time gives its binds up, with what is on the wire.
            Self::SlowDisk => 1,
            // A connector that is at this broker may lose its leases before it finds another, and with them its binds.
            Self::Broker(..) => 1,
            Self::StopCarrier | Self::DropLinks | Self::Cut | Self::HalfOpen | Self::Slow | Self::Uneven => 1,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(process) => write!(f, "kill {process}"),
            Self::Terminate(process) => write!(f, "restart {process}"),
            Self::Stop(process) => write!(f, "stop {process}"),
            Self::DieAt(place) => write!(f, "die at {place}"),
            Self::Flush => f.write_str("empty redis"),
            Self::KillCarrier => f.write_str("kill the carrier"),
            Self::StopCarrier => f.write_str("stop the carrier"),
            Self::DropLinks => f.write_str("drop links"),
            Self::Cut => f.write_str("cut the link"),
            Self::HalfOpen => f.write_str("half-open link"),
            Self::Slow => f.write_str("slow link"),
            Self::Uneven => f.write_str("uneven links"),
            Self::Clock(process) => write!(f, "clock of {process} jumps"),
            Self::Roll => f.write_str("restart all, one by one"),
            Self::FullDisk => f.write_str("full disk"),
            Self::SlowDisk => f.write_str("slow disk"),
            Self::Broker(harm, led) => write!(f, "{harm} the leader of {led}"),
        }
    }
}

/// A fault, and how long it lasts, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Since the one before was over.
    pub(crate) after: Duration,
    pub(crate) kind: Kind,
    pub(crate) hold: Duration,
}

/// The faults of a run of this length. Kinds are dealt like cards: each comes once before any comes again.
pub(crate) fn plan(seed: u64, length: Duration, field: Field) -> Vec<Fault> {
    let mut draw = Draw(seed);
    let (mut faults, mut deck) = (Vec::new(), Vec::new());
    let mut at = Duration::ZERO;
    loop {
        if deck.is_empty() {
            deck = Kind::all(field);
        }
        let place = draw.below(deck.len());
        let kind = deck.swap_remove(place);
        let after = draw.millis(500, 3_000);
        let hold = draw.millis(500, 7_000);
        let lasts = match kind {
            Kind::Stop(_)
            | Kind::StopCarrier
            | Kind::Cut
            | Kind::HalfOpen
            | Kind::Slow
            | Kind::Uneven
            | Kind::Clock(_)
            | Kind::FullDisk
            | Kind::SlowDisk => hold,
            Kind::Kill(_)
            | Kind::Terminate(_)
            | Kind::DieAt(_)
            | Kind::Flush
            | Kind::KillCarrier
            | Kind::DropLinks
            // It lasts until the others go on without it.
            | Kind::Broker(..)
            | Kind::Roll => Duration::ZERO,
        };
        at += after + lasts;
        if at > length {
            return faults;
        }
        faults.push(Fault { after, kind, hold: lasts });
    }
}

/// SplitMix64: a sequence that is the same everywhere.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next() % (to - from))
    }
}

#[test]
fn a_seed_is_a_plan_and_every_kind_comes() {
    let length = Duration::from_secs(600);
    let field = Field::default();
    let faults = plan(7, length, field);
    assert_eq!(faults, plan(7, length, field));
    assert_ne!(faults, plan(8, length, field));
    let kinds: BTreeSet<_> = faults.iter().map(|fault| fault.kind).collect();
    assert_eq!(kinds, Kind::all(field).into_iter().collect());
    let own_disk = Field { own_disk: true, slow_disk: true, ..field };
    for kind in [Kind::FullDisk, Kind::SlowDisk] {
        assert!(plan(7, length, own_disk).iter().any(|fault| fault.kind == kind), "{kind}");
    }
    let cluster = Field { cluster: true, ..field };
    assert!(plan(7, length, cluster).iter().any(|fault| matches!(fault.kind, Kind::Broker(..))));
    // A shorter run is the beginning of a longer one.
    let short = plan(7, Duration::from_secs(20), field);
    assert!(short.len() > 3);
    assert_eq!(short, faults.get(..short.len()).unwrap());
    let lasts: Duration = faults.iter().map(|fault| fault.after + fault.hold).sum();
    assert!(lasts <= length && lasts > length - Duration::from_secs(20));
}
