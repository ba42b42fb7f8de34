//! Cases that were found, and some that somebody thought of.

use std::time::Duration;

use crate::{
    carrier::Mood,
    run::{Run, wait},
    steps::{Op, Process, Wrong},
};

fn holds(steps: &[Op]) {
    let run = Run { seed: 1, steps: steps.to_vec() };
    run.run(None).unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn a_connector_dies_at_each_of_its_requests() {
    for after in 0..5 {
        for wrong in [Wrong::DieBefore, Wrong::DieAfter, Wrong::LoseRequest, Wrong::LoseAnswer] {
            let process = Process::One;
            holds(&[
                Op::Kill { process: Process::Two },
                Op::Plan { process, after, wrong },
                Op::Send { parts: 2 },
                Op::Send { parts: 1 },
                wait(Duration::from_secs(30)),
                Op::Start { process },
                Op::Bind,
            ]);
        }
    }
}

#[test]
fn redis_burns_between_intent_and_answer() {
    holds(&[
        Op::CarrierIs { b: false, mood: Mood::Slow },
        Op::CarrierIs { b: true, mood: Mood::Slow },
        Op::Send { parts: 2 },
        wait(Duration::from_millis(100)),
        Op::RedisBurns,
        wait(Duration::from_millis(500)),
        Op::Kill { process: Process::One },
        wait(Duration::from_secs(40)),
        Op::CarrierIs { b: false, mood: Mood::Takes },
        Op::CarrierIs { b: true, mood: Mood::Takes },
        Op::Receipts { again: false },
    ]);
}
