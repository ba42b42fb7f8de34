//! INV-8 across crashes: stopped between any two steps, with any of the unsettled names lost, the log opens again,
//! verifies as a whole, and holds everything that was promised, once.

use std::sync::Arc;

use proptest::prelude::*;
use sotto_audit::{
    adapters::wire,
    domain::{Entry, EventRange},
    error::LogError,
    log::{Growth, Log},
    ports::{Disk, Signer},
};
use sotto_tlog::{Hash, fsck};

use crate::model::{ModelDisk, TestSigner, act};

const PRODUCERS: usize = 64;

fn open(disk: &Arc<ModelDisk>) -> Result<Log, LogError> {
    Log::open(Arc::<ModelDisk>::clone(disk), TestSigner::new(1), PRODUCERS)
}

/// Every entry of a log that verifies as a whole.
fn verified(disk: &Arc<ModelDisk>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let key = TestSigner::new(1).current().unwrap();
    fsck(&**disk, &key, None, |_, bytes| entries.push(wire::decode(bytes).unwrap())).unwrap();
    entries
}

fn growth(first: u64, acts: u64, range: Option<(u64, u64)>) -> Growth {
    Growth {
        acts: (first..first + acts).map(|sequence| act("privacy/1", sequence)).collect(),
        ranges: range
            .map(|(first, last)| EventRange {
                first,
                last,
                root: Hash::leaf(b"x"),
                batches: last - first + 1,
            })
            .into_iter()
            .collect(),
        balance: None,
    }
}

/// Growths that cross bundle and tile borders in different ways.
fn growths() -> Vec<Growth> {
    vec![
        growth(1, 1, None),
        growth(2, 250, Some((1, 9))),
        growth(252, 3, None),
        growth(255, 1, None),
        growth(256, 2, Some((10, 10))),
        growth(258, 256, Some((11, 300))),
        growth(514, 10, None),
    ]
}

/// Promised growths survive; the one under way is there as a whole or not at all.
fn check(disk: &Arc<ModelDisk>, promised: usize) {
    let mut log = open(disk).unwrap();
    let entries = verified(disk);
    let sizes: Vec<usize> = (promised..=promised + 1).map(|n| count(&growths()[..n.min(7)])).collect();
    assert!(sizes.contains(&entries.len()), "{} entries, expected {sizes:?}", entries.len());
    // Everything is told again, as the broker does; each thing is in the log once.
    for growth in growths() {
        let through = log.index().marks().through();
        let ranges = growth.ranges.into_iter().filter(|range| range.first > through).collect();
        log = log.append(Growth { acts: growth.acts, ranges, balance: None }).unwrap();
    }
    let entries = verified(disk);
    assert_eq!(entries.len(), count(&growths()));
    let sequences: Vec<u64> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Act(act) => Some(act.sequence),
            Entry::EventRange(_) | Entry::Gap(_) | Entry::ClosingBalance(_) => None,
        })
        .collect();
    assert_eq!(sequences, (1..=523).collect::<Vec<_>>());
    // And what is on the disk is what a start finds.
    assert_eq!(open(disk).unwrap().index(), log.index());
}

fn count(growths: &[Growth]) -> usize {
    growths.iter().map(|growth| growth.acts.len() + growth.ranges.len()).sum()
}

/// Runs the growths until the disk fails; says how many were promised.
fn run(disk: &Arc<ModelDisk>) -> usize {
    let Ok(mut log) = open(disk) else { return 0 };
    let mut promised = 0;
    for growth in growths() {
        match log.append(growth) {
            Ok(grown) => log = grown,
            Err(error) => {
                assert!(matches!(error, LogError::Disk { .. }), "{error:?}");
                break;
            }
        }
        promised += 1;
    }
    promised
}

fn steps() -> usize {
    let disk = Arc::new(ModelDisk::default());
    assert_eq!(run(&disk), 7);
    disk.operations()
}

#[test]
fn a_stop_between_any_two_steps_loses_nothing_promised() {
    for step in 0..steps() {
        let disk = Arc::new(ModelDisk::default());
        disk.fail_after(step);
        let promised = run(&disk);
        // The process died, the machine did not; the machine died and lost all, or every other, unsettled name.
        for keep in [|_| true, |_| false, |n| n % 2 == 0, |n| n % 2 == 1] {
            check(&disk.crash(keep), promised);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn two_crashes_with_any_loss_lose_nothing_promised(
        first in 0..120_usize, second in 0..60_usize, kept: u64, kept_again: u64
    ) {
        let disk = Arc::new(ModelDisk::default());
        disk.fail_after(first);
        let promised = run(&disk);
        let disk = disk.crash(|n| kept >> (n % 64) & 1 == 1);
        disk.fail_after(second);
        let promised = promised.max(run_again(&disk));
        check(&disk.crash(|n| kept_again >> (n % 64) & 1 == 1), promised);
    }
}

/// As `run`, from whatever is there: growths that are in the log already are told again.
fn run_again(disk: &Arc<ModelDisk>) -> usize {
    let Ok(mut log) = open(disk) else { return 0 };
    for (done, growth) in growths().into_iter().enumerate() {
        let through = log.index().marks().through();
        let ranges = growth.ranges.into_iter().filter(|range| range.first > through).collect();
        match log.append(Growth { acts: growth.acts, ranges, balance: None }) {
            Ok(grown) => log = grown,
            Err(_) => return done,
        }
    }
    7
}

#[test]
fn a_log_of_another_key_or_without_its_checkpoint_is_refused() {
    let disk = Arc::new(ModelDisk::default());
    run(&disk);
    let stranger = Log::open(Arc::<ModelDisk>::clone(&disk), TestSigner::new(2), PRODUCERS);
    assert!(matches!(stranger, Err(LogError::Checkpoint(_))));
    let checkpoint = sotto_tlog::Source::read(&*disk, "checkpoint").unwrap().unwrap();
    disk.remove("checkpoint").unwrap();
    assert!(matches!(open(&disk), Err(LogError::NoCheckpoint)));
    disk.put("checkpoint", &checkpoint).unwrap();
    open(&disk).unwrap();
}

#[test]
fn an_altered_log_is_refused_at_the_start() {
    let disk = Arc::new(ModelDisk::default());
    run(&disk);
    for path in ["tile/entries/000", "tile/entries/002.p/14", "tile/0/002.p/14", "tile/1/000.p/2"] {
        let bytes = sotto_tlog::Source::read(&*disk, path).unwrap().unwrap();
        let mut altered = bytes.clone();
        *altered.last_mut().unwrap() ^= 1;
        disk.put(path, &altered).unwrap();
        assert!(open(&disk).is_err(), "{path}");
        disk.put(path, &bytes).unwrap();
    }
    open(&disk).unwrap();
}

#[test]
fn partial_files_go_when_the_full_one_is_there() {
    let disk = Arc::new(ModelDisk::default());
    run(&disk);
    assert!(disk.names("tile/0/000.p").unwrap().is_empty());
    assert!(disk.names("tile/entries/001.p").unwrap().is_empty());
    assert_eq!(disk.names("tile/0/002.p").unwrap().len(), 2);
}
