//! Replicas, a register, messages that are late, lost or doubled in effect, and processes that stand still.

use std::collections::{BTreeMap, VecDeque};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::domain::pace::Pace;

const TTL: Duration = Duration::from_secs(15);
const BINDS: u16 = 3;
const TPS: u16 = 10;

/// The broker's side.
#[derive(Default)]
struct Register {
    words: BTreeMap<LeaseKey, (u64, LeaseRecord)>,
    sequence: u64,
}

impl Register {
    fn all(&self) -> Vec<Lease> {
        let lease = |(key, (sequence, record)): (&LeaseKey, &(u64, LeaseRecord))| Lease {
            key: key.clone(),
            sequence: *sequence,
            record: record.clone(),
        };
        self.words.iter().map(lease).collect()
    }

    fn write(&mut self, step: &Step) -> Option<u64> {
        let latest = self.words.get(&step.key).map_or(0, |(sequence, _)| *sequence);
        (latest == step.expected).then(|| {
            self.sequence += 1;
            self.words.insert(step.key.clone(), (self.sequence, step.record.clone()));
            self.sequence
        })
    }
}

/// What happens to a round of one replica.
#[derive(Clone, Copy, Debug)]
struct Round {
    replica: usize,
    /// Before the round begins, milliseconds: pauses of the whole process are in here.
    wait: u64,
    /// Between reading and writing, and between writing and hearing of it.
    delay: u64,
    /// A write is not carried out, or only its acknowledgement is lost: one step's after the other.
    fates: [Fate; 4],
    sits_out: bool,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Heard,
    NotWritten,
    NotHeard,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let wait = prop_oneof![8 => 0_u64..3_000, 1 => 3_000_u64..40_000];
    let delay = prop_oneof![8 => 0_u64..200, 1 => 200_u64..20_000];
    let fate = prop_oneof![6 => Just(Fate::Heard), 1 => Just(Fate::NotWritten), 1 => Just(Fate::NotHeard)];
    let sits_out = prop::bool::weighted(0.05);
    let round = (0_usize..3, wait, delay, prop::array::uniform4(fate), sits_out);
    vec(round, 1..80).prop_map(|rounds| {
        let round = |(replica, wait, delay, fates, sits_out)| Round { replica, wait, delay, fates, sits_out };
        rounds.into_iter().map(round).collect()
    })
}

fn replicas(count: usize) -> Vec<Leases> {
    (0..count).map(|number| Leases::new(format!("r{number}"), BINDS, TTL)).collect()
}

/// At this moment no bind may be used by two.
fn check(replicas: &[Leases], now: Instant) -> Result<(), TestCaseError> {
    for bind in 1..=BINDS {
        let users = replicas.iter().filter(|replica| replica.tenure(bind).allows(now)).count();
        prop_assert!(users <= 1, "bind {bind} has {users} users");
    }
    Ok(())
}

/// What a replica may use now, as its pace has it.
fn usable(replica: &Leases, now: Instant) -> u16 {
    let slices = replica.slices(TPS).into_iter();
    slices.filter(|slice| slice.from <= now && now < slice.until).map(|slice| slice.tps).sum()
}

/// Replicas that write as fast as their slices let them, also while nobody tells them anything.
struct Writers {
    paces: Vec<Pace>,
    written: Vec<Instant>,
}

impl Writers {
    fn new(count: usize) -> Self {
        Self { paces: (0..count).map(|_| Pace::new(TPS)).collect(), written: Vec::new() }
    }

    /// What they are told at the end of a round.
    fn tell(&mut self, replicas: &[Leases]) {
        for (pace, leases) in self.paces.iter_mut().zip(replicas) {
            pace.set_slices(leases.slices(TPS));
        }
    }

    /// Time passes.
    async fn pass(&mut self, time: Duration) {
        let (start, end) = (Instant::now(), Instant::now() + time);
        for pace in &mut self.paces {
            let mut now = start;
            while now < end {
                let at = pace.next(now);
                if at <= now {
                    pace.write(now);
                    self.written.push(now);
                }
                now = at.max(now);
            }
        }
        tokio::time::advance(time).await;
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.written.sort_unstable();
        for (index, first) in self.written.iter().enumerate() {
            let second = *first + Duration::from_secs(1);
            let most = self.written.iter().skip(index).take_while(|at| **at < second).count();
            prop_assert!(most <= usize::from(TPS), "{most} parts in a second");
        }
        Ok(())
    }
}

fn round(leases: &mut Leases, register: &mut Register) {
    let now = Instant::now();
    leases.observe(register.all(), now);
    for step in leases.plan(now) {
        match register.write(&step) {
            Some(sequence) => leases.written(&step, sequence, now),
            None => leases.refused(&step),
        }
    }
}

/// Binds that are being left are unbound and released at once.
fn leave(leases: &mut Leases, register: &mut Register) {
    for bind in 1..=BINDS {
        if matches!(leases.tenure(bind), Tenure::Leaving { .. }) {
            let step = leases.release(bind);
            let now = Instant::now();
            match register.write(&step) {
                Some(sequence) => leases.written(&step, sequence, now),
                None => leases.refused(&step),
            }
        }
    }
}

fn counts(replicas: &[Leases]) -> Vec<usize> {
    let now = Instant::now();
    let held = |replica: &Leases| (1..=BINDS).filter(|bind| replica.tenure(*bind).allows(now)).count();
    replicas.iter().map(held).collect()
}

#[test]
fn shares_are_whole_and_add_up() {
    for (binds, tps) in [(1, 1), (3, 10), (7, 20), (64, 64), (10, 9_999)] {
        let shares: Vec<_> = (1..=binds).map(|bind| share(bind, binds, tps)).collect();
        assert_eq!(shares.iter().sum::<u16>(), tps);
        assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_replica_takes_all_and_hands_over_to_a_second() {
    let (mut register, mut replicas) = (Register::default(), replicas(2));
    round(&mut replicas[0], &mut register);
    assert_eq!(counts(&replicas), [3, 0]);
    let now = Instant::now();
    assert_eq!(usable(&replicas[0], now), TPS);
    // The second announces itself; the first leaves what is too much.
    round(&mut replicas[1], &mut register);
    round(&mut replicas[0], &mut register);
    leave(&mut replicas[0], &mut register);
    round(&mut replicas[1], &mut register);
    assert_eq!(counts(&replicas), [2, 1]);
    assert_eq!(usable(&replicas[0], now) + usable(&replicas[1], now), TPS);
    // It says farewell: the first takes all again, at once.
    for bind in 1..=BINDS {
        if replicas[1].tenure(bind) != Tenure::None {
            let step = replicas[1].release(bind);
            register.write(&step).unwrap();
        }
    }
    let farewell = replicas[1].farewell();
    register.write(&farewell).unwrap();
    round(&mut replicas[0], &mut register);
    assert_eq!(counts(&replicas[..1]), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_waited_out_and_a_restart_of_the_same_name_is_not() {
    let (mut register, mut replicas) = (Register::default(), replicas(2));
    round(&mut replicas[0], &mut register);
    // It dies. Whoever comes sees its words now and waits their whole time.
    round(&mut replicas[1], &mut register);
    tokio::time::advance(TTL - Duration::from_millis(1)).await;
    round(&mut replicas[1], &mut register);
    assert_eq!(counts(&replicas[1..]), [0]);
    // Its next run, under its name, takes its part at once, and writes only when the last second of the former is over.
    let mut again = Leases::new("r0".to_owned(), BINDS, TTL);
    round(&mut again, &mut register);
    let now = Instant::now();
    let shares: Vec<_> = again.slices(TPS).iter().map(|slice| (slice.tps, slice.from)).collect();
    assert_eq!(shares, [(3, now + SECOND), (3, now + SECOND)]);
    tokio::time::advance(Duration::from_millis(1)).await;
    round(&mut replicas[1], &mut register);
    assert_eq!(counts(&replicas[1..]), [1], "the others were renewed");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_lapses_takes_its_share_along_although_another_goes_on() {
    let (mut register, mut replicas) = (Register::default(), replicas(1));
    round(&mut replicas[0], &mut register);
    tokio::time::advance(TTL * 3 / 5).await;
    // Of three renewals one arrives.
    let (leases, asked) = (&mut replicas[0], Instant::now());
    leases.observe(register.all(), asked);
    let renewal = leases.plan(asked).into_iter().find(|step| step.key == LeaseKey::Bind(1)).unwrap();
    let sequence = register.write(&renewal).unwrap();
    leases.written(&renewal, sequence, asked);
    let mut pace = Pace::new(TPS);
    pace.set_slices(leases.slices(TPS));
    assert_eq!(usable(leases, asked), TPS);
    // Nobody looks at the leases meanwhile, and still no more than one share is used.
    let (mut now, end, mut late) = (asked, asked + TTL * 2 / 3, 0);
    while now < end {
        let at = pace.next(now);
        if at <= now {
            pace.write(now);
            late += u32::from(now >= asked + TTL / 3);
        }
        now = at.max(now);
    }
    // Between the end of two leases and that of the third.
    assert!(late <= u32::from(share(1, BINDS, TPS)) * 6, "{late} parts in 5 s");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_bind_lets_another_try() {
    let (mut register, mut replicas) = (Register::default(), replicas(2));
    round(&mut replicas[0], &mut register);
    // Alone it goes on trying: there is nobody to be let.
    replicas[0].sit_out(Instant::now());
    round(&mut replicas[0], &mut register);
    assert_eq!(counts(&replicas), [3, 0]);
    round(&mut replicas[1], &mut register);
    round(&mut replicas[0], &mut register);
    leave(&mut replicas[0], &mut register);
    round(&mut replicas[1], &mut register);
    assert_eq!(counts(&replicas), [0, 2]);
    // Neither of them takes the other for one that serves the account, until it does.
    round(&mut replicas[0], &mut register);
    let serves = |replicas: &[Leases]| {
        let now = Instant::now();
        replicas.iter().map(|replica| replica.served_elsewhere(now)).collect::<Vec<_>>()
    };
    assert_eq!(serves(&replicas), [false, false]);
    replicas[1].set_bound(&[1]);
    round(&mut replicas[1], &mut register);
    round(&mut replicas[0], &mut register);
    assert_eq!(serves(&replicas), [true, false]);
    tokio::time::advance(TTL).await;
    assert_eq!(serves(&replicas), [false, false], "it was not renewed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_bind_is_used_by_two_and_no_second_holds_more_than_the_contract(rounds in rounds()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (mut register, mut replicas) = (Register::default(), replicas(3));
            let mut writers = Writers::new(3);
            for Round { replica, wait, delay, fates, sits_out } in rounds {
                writers.pass(Duration::from_millis(wait)).await;
                check(&replicas, Instant::now())?;
                let read = register.all();
                writers.pass(Duration::from_millis(delay / 2)).await;
                let leases = &mut replicas[replica];
                if sits_out {
                    leases.sit_out(Instant::now());
                }
                leases.observe(read, Instant::now());
                let mut asked = Instant::now();
                let mut steps: VecDeque<_> = leases.plan(asked).into();
                let (mut left, mut fates) = (false, fates.into_iter().cycle());
                loop {
                    let Some(step) = steps.pop_front() else {
                        writers.tell(&replicas);
                        let leases = &mut replicas[replica];
                        let leaving = |bind: &u16| matches!(leases.tenure(*bind), Tenure::Leaving { .. });
                        let binds: Vec<_> = (1..=BINDS).filter(leaving).collect();
                        if std::mem::replace(&mut left, true) || binds.is_empty() {
                            break;
                        }
                        // What is being left is unbound, and released a second after it was used last.
                        writers.pass(SECOND).await;
                        asked = Instant::now();
                        steps.extend(binds.into_iter().map(|bind| leases.release(bind)));
                        continue;
                    };
                    let fate = fates.next().unwrap_or(Fate::Heard);
                    // Others' words may come in between.
                    let written = match fate {
                        Fate::NotWritten => None,
                        Fate::Heard | Fate::NotHeard => Some(register.write(&step)),
                    };
                    check(&replicas, Instant::now())?;
                    writers.pass(Duration::from_millis(delay / 2)).await;
                    let leases = &mut replicas[replica];
                    match (fate, written) {
                        (Fate::Heard, Some(Some(sequence))) => leases.written(&step, sequence, asked),
                        (Fate::Heard, Some(None)) => leases.refused(&step),
                        (Fate::NotWritten | Fate::NotHeard | Fate::Heard, _) => {}
                    }
                    check(&replicas, Instant::now())?;
                }
            }
            // In quiet, everything is held again, evenly.
            for _ in 0..40 {
                writers.pass(TTL / 5).await;
                for replica in &mut replicas {
                    round(replica, &mut register);
                }
                writers.tell(&replicas);
                writers.pass(SECOND).await;
                for replica in &mut replicas {
                    leave(replica, &mut register);
                }
                check(&replicas, Instant::now())?;
            }
            prop_assert_eq!(counts(&replicas), [1, 1, 1]);
            // And the rate is used.
            let before = writers.written.len();
            for _ in 0..10 {
                writers.pass(TTL / 5).await;
                replicas.iter_mut().for_each(|replica| round(replica, &mut register));
                writers.tell(&replicas);
            }
            let (used, full) = (writers.written.len() - before, usize::from(TPS) * 30);
            prop_assert!(used * 100 >= full * 95, "{} of {} parts", used, full);
            writers.check()?;
            Ok(())
        })?;
    }
}
