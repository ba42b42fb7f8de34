//! Runs of the world.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use sotto_bus::simulated::Defect;

use crate::{
    carrier::Mood,
    cell::Cell,
    invariants::Seen,
    steps::{Op, Process, of_seed},
};

/// Runs of each test run.
const SEEDS: u64 = 50;
/// A generator that skips most of its steps tests nothing.
const MOST_SKIPPED: usize = 3;
/// Of so many delivered messages at most one may be unknown: marking all that is hard as unknown is no answer.
const DELIVERED_TO_UNKNOWN: usize = 5;
/// Rounds of 30 s until everything must have ended: more than a validity and the wait for a receipt.
const ROUNDS: usize = 60;

/// A run: what a file for `SOTTO_WORLD_REPLAY` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) steps: Vec<Op>,
}

/// What came of a run.
pub(crate) struct Report {
    pub(crate) ends: BTreeMap<&'static str, usize>,
    pub(crate) skipped: usize,
}

impl Run {
    pub(crate) fn of_seed(seed: u64) -> Self {
        Self { seed, steps: of_seed(seed) }
    }

    /// Runs it: what was found, or what went wrong.
    pub(crate) fn run(&self, defect: Option<Defect>) -> Result<Report, String> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().map_err(|error| error.to_string())?;
        runtime.block_on(self.go(defect))
    }

    async fn go(&self, defect: Option<Defect>) -> Result<Report, String> {
        let mut cell = Cell::start(self.seed).await;
        if let Some(defect) = defect {
            cell.break_broker(defect);
        }
        for (number, op) in self.steps.iter().enumerate() {
            cell.apply(*op).await;
            let seen = Seen::of(&cell).and_then(|seen| seen.check(&cell));
            seen.map_err(|problem| format!("after step {number}, {op:?}: {problem}"))?;
        }
        let calm = !self.steps.iter().any(|op| op.is_misfortune());
        for _ in 0..ROUNDS {
            let seen = Seen::of(&cell)?;
            seen.check(&cell).map_err(|problem| format!("while it heals: {problem}"))?;
            if seen.is_over(&cell) {
                // Receipts that are under way arrive, and late ones correct.
                cell.heal(Vec::new()).await;
                cell.heal(Vec::new()).await;
                let seen = Seen::of(&cell)?;
                seen.check(&cell)?;
                seen.check_end(&cell, calm)?;
                return Ok(Report { ends: seen.ends(), skipped: cell.skipped });
            }
            let closing = seen.closing(&cell);
            cell.heal(closing).await;
        }
        let seen = Seen::of(&cell)?;
        Err(format!("not everything has ended:\n{}", seen.unfinished(&cell)))
    }

    /// Where a failing run is kept.
    fn keep(&self) -> PathBuf {
        let file = std::env::temp_dir().join(format!("sotto-world-{}.json", self.seed));
        fs::write(&file, serde_json::to_string(self).unwrap()).unwrap();
        file
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
fn switch(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
fn whatever_happens_nothing_is_lost_or_sent_twice() {
    if let Some(file) = switch("SOTTO_WORLD_REPLAY") {
        let run: Run = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let report = run.run(None).unwrap_or_else(|problem| panic!("{problem}"));
        println!("{:?}, {} steps skipped", report.ends, report.skipped);
        return;
    }
    let seeds = switch("SOTTO_WORLD_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let (mut ends, mut skipped, mut steps) = (BTreeMap::<_, usize>::new(), 0, 0);
    // Each in a runtime of its own, so they may run beside one another.
    let share = |of: u64| (of..seeds).step_by(2).map(run_seed).collect::<Vec<_>>();
    let reports = std::thread::scope(|scope| {
        let other = scope.spawn(|| share(1));
        let ours = share(0);
        ours.into_iter().chain(other.join().unwrap()).collect::<Vec<_>>()
    });
    for (count, report) in reports {
        steps += count;
        skipped += report.skipped;
        report.ends.into_iter().for_each(|(end, count)| *ends.entry(end).or_default() += count);
    }
    println!("{seeds} seeds, {steps} steps, {skipped} skipped, {ends:?}");
    assert!(skipped * MOST_SKIPPED < steps, "{skipped} of {steps} steps had nothing to do");
    let count = |end: &str| ends.get(end).copied().unwrap_or(0);
    assert!(count("unknown") > 0, "no misfortune of any run led to doubt: {ends:?}");
    assert!(count("unknown") * DELIVERED_TO_UNKNOWN < count("delivered"), "{ends:?}");
}

fn run_seed(seed: u64) -> (usize, Report) {
    let run = Run::of_seed(seed);
    let report = run.run(None).unwrap_or_else(|problem| {
        panic!("seed {seed}: {problem}\nSOTTO_WORLD_REPLAY={}", run.keep().display())
    });
    (run.steps.len(), report)
}

/// The invariants are able to fail.
#[test]
fn a_broker_that_lies_is_found_out() {
    let lies = Some(Defect::AnswersUnstored(7));
    let found: Vec<_> = (0..4).filter_map(|seed| Run::of_seed(seed).run(lies).err()).collect();
    assert!(found.iter().any(|problem| problem.contains("nowhere")), "{found:?}");
}

#[test]
fn a_redis_that_forgets_is_found_out() {
    let run = |forgets: bool| {
        let mut steps = vec![
            Op::CarrierIs { b: false, mood: Mood::Silent },
            Op::CarrierIs { b: true, mood: Mood::Silent },
            Op::Send { parts: 1 },
            wait(Duration::from_millis(500)),
            Op::Kill { process: Process::One },
            Op::Kill { process: Process::Two },
            Op::Start { process: Process::One },
            Op::Start { process: Process::Two },
            Op::Bind,
            wait(Duration::from_secs(60)),
        ];
        if forgets {
            steps.insert(6, Op::RedisForgetsClaims);
        }
        Run { seed: 1, steps }.run(None)
    };
    assert!(run(false).is_ok());
    let found = run(true).err().unwrap();
    assert!(found.contains("taken twice"), "{found}");
}

/// What a file holds is the run that it was made of.
#[test]
fn a_run_is_replayed_from_its_file() {
    let run = Run::of_seed(3);
    let text = fs::read_to_string(run.keep()).unwrap();
    let again: Run = serde_json::from_str(&text).unwrap();
    assert_eq!(again, run);
    assert!(again.run(None).is_ok());
}

pub(crate) const fn wait(duration: Duration) -> Op {
    #[expect(clippy::cast_possible_truncation, reason = "minutes at most")]
    Op::Wait { millis: duration.as_millis() as u64 }
}
