//! What may happen, and how a seed makes a run of it.

use serde::{Deserialize, Serialize};

use crate::carrier::Mood;

/// A process of the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Process {
    Ingress,
    Routing,
    One,
    Two,
}

impl Process {
    pub(crate) const ALL: [Self; 4] = [Self::Ingress, Self::Routing, Self::One, Self::Two];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Routing => "routing",
            Self::One => "one",
            Self::Two => "two",
        }
    }
}

/// What goes wrong with a request to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wrong {
    LoseRequest,
    LoseAnswer,
    DieBefore,
    DieAfter,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Op {
    /// A client sends a message of so many parts.
    Send {
        parts: u8,
    },
    /// A client that heard of no outcome sends again, with the same key.
    SendAgain,
    Wait {
        millis: u64,
    },
    /// One request of a process goes wrong, after so many.
    Plan {
        process: Process,
        after: u64,
        wrong: Wrong,
    },
    Kill {
        process: Process,
    },
    Start {
        process: Process,
    },
    Bind,
    RedisBurns,
    /// Forgets its claims and does not show it. A bug of the world's own: no seed has it.
    RedisForgetsClaims,
    RedisRestarts,
    RedisLosesAnswer {
        after: u64,
    },
    RedisAway {
        away: bool,
    },
    BrokerStops,
    BrokerRestarts {
        forget: bool,
    },
    WaitingFull {
        full: bool,
    },
    CarrierIs {
        b: bool,
        mood: Mood,
    },
    CutLinks {
        b: bool,
    },
    Receipts {
        again: bool,
    },
}

impl Op {
    /// Whether it may leave a message in doubt.
    pub(crate) const fn is_misfortune(self) -> bool {
        match self {
            Self::Send { .. }
            | Self::SendAgain
            | Self::Wait { .. }
            | Self::Start { .. }
            | Self::Bind
            | Self::Receipts { .. } => false,
            Self::Plan { .. }
            | Self::Kill { .. }
            | Self::RedisBurns
            | Self::RedisForgetsClaims
            | Self::RedisRestarts
            | Self::RedisLosesAnswer { .. }
            | Self::RedisAway { .. }
            | Self::BrokerStops
            | Self::BrokerRestarts { .. }
            | Self::WaitingFull { .. }
            | Self::CarrierIs { .. }
            | Self::CutLinks { .. } => true,
        }
    }
}

/// splitmix64: a run is its seed, on every machine.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `below`.
    pub(crate) const fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.roll(u64::try_from(of.len()).unwrap())).unwrap()]
    }
}

/// The steps of a seed. Each tenth seed knows no misfortune.
pub(crate) fn of_seed(seed: u64) -> Vec<Op> {
    let mut dice = Dice::new(seed);
    let calm = seed.is_multiple_of(10);
    let mut steps = Vec::new();
    while steps.len() < 60 {
        let op = any(&mut dice);
        if !(calm && op.is_misfortune()) {
            steps.push(op);
        }
    }
    steps
}

fn any(dice: &mut Dice) -> Op {
    let wrongs = [Wrong::LoseRequest, Wrong::LoseAnswer, Wrong::DieBefore, Wrong::DieAfter];
    let moods =
        [Mood::Takes, Mood::Takes, Mood::ReceiptFirst, Mood::Refuses, Mood::Silent, Mood::Slow, Mood::Cuts];
    let process = dice.one_of(&Process::ALL);
    match dice.roll(40) {
        0..=9 => Op::Send { parts: u8::try_from(1 + dice.roll(3)).unwrap() },
        10..=11 => Op::SendAgain,
        12..=20 => Op::Wait { millis: dice.one_of(&[1, 5, 20, 100, 500, 3_000, 12_000, 40_000]) },
        21..=25 => Op::Plan { process, after: dice.roll(6), wrong: dice.one_of(&wrongs) },
        26 => Op::Kill { process },
        27..=29 => Op::Start { process },
        30 => Op::Bind,
        31 => dice.one_of(&[Op::RedisBurns, Op::RedisRestarts]),
        32 => Op::RedisLosesAnswer { after: dice.roll(4) },
        33 => Op::RedisAway { away: dice.roll(2) == 0 },
        34 => dice.one_of(&[Op::BrokerStops, Op::BrokerRestarts { forget: true }]),
        35 => Op::BrokerRestarts { forget: dice.roll(2) == 0 },
        36 => Op::WaitingFull { full: dice.roll(3) == 0 },
        37..=38 => Op::CarrierIs { b: dice.roll(2) == 0, mood: dice.one_of(&moods) },
        _ => dice.one_of(&[
            Op::CutLinks { b: false },
            Op::CutLinks { b: true },
            Op::Receipts { again: false },
            Op::Receipts { again: true },
        ]),
    }
}
