//! The bounded run of the fuzz targets: the committed corpus as it is, then mutated. On a failure proptest prints the
//! smallest input it finds and keeps its seed in `tests/proptest-regressions`. `PROPTEST_CASES` sets how many, for a
//! longer run; `cargo fuzz` in `crates/smpp/fuzz` runs the same harness without an end.

#[path = "../../fuzz/harness.rs"]
mod harness;

use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};
use std::{collections::BTreeSet, path::Path};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
    Repeat(Index, Index),
    Splice(Index, Index),
    /// Makes the length of the last PDU fit again, so that mutants reach further than framing.
    Mend(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let octet = || prop_oneof![any::<u8>(), Just(0), Just(1), Just(0x7F), Just(0x80), Just(0xFF)];
    prop_oneof![
        (at(), octet()).prop_map(|(at, octet)| Mutation::Set(at, octet)),
        (at(), 0_u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (at(), octet()).prop_map(|(at, octet)| Mutation::Insert(at, octet)),
        at().prop_map(Mutation::Remove),
        at().prop_map(Mutation::Truncate),
        (at(), at()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
        (at(), at()).prop_map(|(at, seed)| Mutation::Splice(at, seed)),
        at().prop_map(Mutation::Mend),
    ]
}

fn mutate(octets: &mut Vec<u8>, mutation: &Mutation, seeds: &[Vec<u8>]) {
    if octets.is_empty() {
        return;
    }
    let length = octets.len();
    match mutation {
        Mutation::Set(at, octet) => octets[at.index(length)] = *octet,
        Mutation::Flip(at, bit) => octets[at.index(length)] ^= 1 << bit,
        Mutation::Insert(at, octet) => octets.insert(at.index(length), *octet),
        Mutation::Remove(at) => drop(octets.remove(at.index(length))),
        Mutation::Truncate(at) => octets.truncate(at.index(length)),
        Mutation::Repeat(from, to) => {
            let (from, to) = (from.index(length), to.index(length));
            octets.extend_from_within(from.min(to)..from.max(to));
        }
        Mutation::Splice(at, seed) => {
            octets.truncate(at.index(length));
            octets.extend_from_slice(&seeds[seed.index(seeds.len())]);
        }
        Mutation::Mend(at) => {
            let at = at.index(length).min(8) * usize::from(length >= 24);
            let rest = u32::try_from(length - at).unwrap();
            if rest >= 16 {
                octets[at..at + 4].copy_from_slice(&rest.to_be_bytes());
            }
        }
    }
    octets.truncate(4096);
}

fn run(target: &str, rounds: u32, harness: fn(&[u8])) {
    let seeds = corpus(target);
    for seed in &seeds {
        harness(seed);
    }
    let mut config = ProptestConfig::with_source_file(file!());
    config.cases = config.cases.saturating_mul(rounds);
    let mutant = (any::<Index>(), vec(mutation(), 1..8)).prop_map(|(seed, mutations)| {
        let mut octets = seeds[seed.index(seeds.len())].clone();
        for mutation in &mutations {
            mutate(&mut octets, mutation, &seeds);
        }
        octets
    });
    TestRunner::new(config)
        .run(&mutant, |octets| {
            harness(&octets);
            Ok(())
        })
        .unwrap();
}

#[test]
fn pdus() {
    run("pdu", 16, harness::pdu);
}

#[test]
fn streams() {
    run("stream", 8, harness::stream);
}

#[test]
fn sessions() {
    run("session", 2, harness::session);
}

#[test]
fn the_corpus_has_every_command() {
    let id = |pdu: &Vec<u8>| u32::from_be_bytes(pdu[4..8].try_into().unwrap());
    let have: BTreeSet<u32> = corpus("pdu").iter().map(id).collect();
    let requests = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0x15, 0x21, 0x103, 0x111, 0x112, 0x113];
    let notices = [0x0B, 0x102, 0x8000_0000];
    for id in requests.into_iter().flat_map(|id: u32| [id, id | 0x8000_0000]).chain(notices) {
        assert!(have.contains(&id), "{id:08X}");
    }
}
