//! The same trees, proofs and notes by two other implementations (dev only): `tlog_tiles` and `signed_note`.

use std::collections::HashMap;

use proptest::prelude::*;
use signed_note::{Note as OtherNote, StandardVerifier, VerifierList};
use sotto_tlog::{Hash, TileNodes, consistency_path, inclusion_path, root, tile_path, width_at};
use tlog_tiles::tlog::{self as other, HashReader};

use crate::support::{Memory, entries, key};

/// The other implementation's storage of a tree.
struct Stored(HashMap<u64, other::Hash>, u64);

impl Stored {
    fn of(entries: &[Vec<u8>]) -> Self {
        let mut stored = Self(HashMap::new(), 0);
        for (n, entry) in (0..).zip(entries) {
            let hashes = other::stored_hashes(n, entry, &stored).unwrap();
            for hash in hashes {
                stored.0.insert(stored.1, hash);
                stored.1 += 1;
            }
        }
        stored
    }
}

impl HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<other::Hash>, other::Error> {
        Ok(indexes.iter().map(|index| self.0[index]).collect())
    }
}

fn same(ours: &[Hash], theirs: &[other::Hash]) -> bool {
    ours.iter().map(Hash::as_bytes).eq(theirs.iter().map(|hash| &hash.0))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn trees_and_proofs_are_the_same(size in 1..1200_u64, at: prop::sample::Index, old: prop::sample::Index) {
        let entries = entries(size);
        let log = Memory::of(&entries);
        let nodes = TileNodes::new(&log, size);
        let stored = Stored::of(&entries);
        let at = u64::try_from(at.index(entries.len())).unwrap();
        let old = u64::try_from(old.index(entries.len())).unwrap() + 1;
        let their_root = other::tree_hash(size, &stored).unwrap();
        prop_assert_eq!(root(&nodes, size).unwrap(), Hash::from(their_root.0));
        let inclusion = other::prove_record(size, at, &stored).unwrap();
        prop_assert!(same(&inclusion_path(&nodes, at, size).unwrap(), &inclusion));
        let consistency = other::prove_tree(size, old, &stored).unwrap();
        prop_assert!(same(&consistency_path(&nodes, old, size).unwrap(), &consistency));
    }
}

#[test]
fn tiles_hold_the_same_hashes() {
    let size = 66_000;
    let entries = entries(size);
    let log = Memory::of(&entries);
    let stored = Stored::of(&entries);
    for tile in other_tiles(size) {
        let (level, index) = (tile.level(), tile.level_index());
        let ours = tile_path(level, index, width_at(size, level, index));
        // Go's path puts the tile's height first: tile/8/0/000 there is tile/0/000 here.
        assert_eq!(tile.path(), ours.replacen("tile/", "tile/8/", 1));
        assert_eq!(log.remove(&ours).unwrap(), tile.read_data(&stored).unwrap(), "{ours}");
    }
    assert!(!log.paths().iter().any(|path| path.starts_with("tile/") && !path.contains("entries")));
}

fn other_tiles(size: u64) -> Vec<tlog_tiles::Tile> {
    tlog_tiles::Tile::new_tiles(8, 0, size)
}

#[test]
fn notes_verify_there_and_alterations_do_not() {
    let (_, verifier) = key();
    let checkpoint = String::from_utf8(Memory::of(&entries(8)).remove("checkpoint").unwrap()).unwrap();
    let verify = |note: &str| {
        let theirs = StandardVerifier::new(&verifier.to_string()).unwrap();
        OtherNote::from_bytes(note.as_bytes())
            .unwrap()
            .verify(&VerifierList::new(vec![Box::new(theirs)]))
            .map(|(verified, unverified)| (verified.len(), unverified.len()))
    };
    assert_eq!(verify(&checkpoint).unwrap(), (1, 0));
    assert!(verify(&checkpoint.replace("\n8\n", "\n9\n")).is_err());
}
