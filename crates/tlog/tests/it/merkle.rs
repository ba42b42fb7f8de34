//! Roots of the classic leaves, and every proof of every small tree.

use sotto_tlog::{
    Frontier, Hash, Leaves, ProofError, consistency_path, inclusion_path, root, verify_consistency,
    verify_inclusion,
};

use crate::support::leaves;

/// Roots of the trees with 0 to 8 classic leaves: first and last bytes as published, whole for 8.
const ROOTS: [(&str, &str); 9] = [
    ("e3b0c442", "7852b855"),
    ("6e340b9c", "7afa01d"),
    ("fac54203", "0e3c125"),
    ("aeb6bcfe", "f329e06e77"),
    ("d37ee418", "95209614b7"),
    ("4e3bbb1f", "4c13a86264d4"),
    ("76e67dad", "127f2087ef"),
    ("ddb89be4", "94a74c8c"),
    ("5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328", ""),
];

fn hashes() -> Vec<Hash> {
    leaves().iter().map(|leaf| Hash::leaf(leaf)).collect()
}

#[test]
fn classic_leaves_have_the_published_roots() {
    let hashes = hashes();
    for (size, (first, last)) in ROOTS.iter().enumerate() {
        let frontier: Frontier = hashes[..size].iter().copied().collect();
        let hex = hex::encode(frontier.root().as_bytes());
        assert!(hex.starts_with(first) && hex.ends_with(last), "{size}: {hex}");
        assert_eq!(root(&Leaves(&hashes), u64::try_from(size).unwrap()).unwrap(), frontier.root());
    }
}

fn tree(size: u64) -> Vec<Hash> {
    (0..size).map(|n| Hash::leaf(&n.to_be_bytes())).collect()
}

#[test]
fn every_inclusion_proof_of_small_trees_verifies_and_no_other() {
    for size in 1..=70_u64 {
        let hashes = tree(size);
        let root = root(&Leaves(&hashes), size).unwrap();
        for (index, leaf) in (0..).zip(&hashes) {
            let path = inclusion_path(&Leaves(&hashes), index, size).unwrap();
            assert_eq!(verify_inclusion(leaf, index, size, &path, &root), Ok(()), "{index} of {size}");
            for other in (0..size).filter(|other| *other != index) {
                assert!(verify_inclusion(leaf, other, size, &path, &root).is_err(), "{index} as {other}");
            }
            assert!(verify_inclusion(&Hash::leaf(b"x"), index, size, &path, &root).is_err());
            let longer = [path.as_slice(), &[root]].concat();
            assert_eq!(verify_inclusion(leaf, index, size, &longer, &root), Err(ProofError::Length));
            if let Some((_, shorter)) = path.split_last() {
                assert!(verify_inclusion(leaf, index, size, shorter, &root).is_err());
            }
        }
        assert_eq!(verify_inclusion(&root, size, size, &[], &root), Err(ProofError::OutOfRange));
        assert_eq!(inclusion_path(&Leaves(&hashes), size, size).unwrap(), []);
    }
}

#[test]
fn every_consistency_proof_of_small_trees_verifies_and_no_other() {
    for new in 1..=40_u64 {
        let hashes = tree(new);
        let nodes = Leaves(&hashes);
        let new_root = root(&nodes, new).unwrap();
        for old in 1..=new {
            let old_root = root(&nodes, old).unwrap();
            let path = consistency_path(&nodes, old, new).unwrap();
            assert_eq!(verify_consistency(old, &old_root, new, &new_root, &path), Ok(()), "{old} to {new}");
            let false_root = Hash::leaf(b"x");
            assert!(verify_consistency(old, &false_root, new, &new_root, &path).is_err());
            assert!(verify_consistency(old, &old_root, new, &false_root, &path).is_err());
            for other in (1..new).filter(|other| *other != old) {
                assert!(verify_consistency(other, &old_root, new, &new_root, &path).is_err());
            }
            for at in 0..path.len() {
                let mut altered = path.clone();
                altered[at] = false_root;
                assert!(verify_consistency(old, &old_root, new, &new_root, &altered).is_err());
            }
            let longer = [path.as_slice(), &[new_root]].concat();
            assert_eq!(verify_consistency(old, &old_root, new, &new_root, &longer), Err(ProofError::Length));
        }
        assert_eq!(
            verify_consistency(0, &Hash::empty(), new, &new_root, &[]),
            Err(ProofError::OutOfRange),
            "an empty tree proves nothing"
        );
        assert_eq!(verify_consistency(new + 1, &new_root, new, &new_root, &[]), Err(ProofError::OutOfRange));
        assert_eq!(consistency_path(&nodes, 0, new).unwrap(), []);
    }
}

#[test]
fn sizes_at_the_end_of_the_range_neither_overflow_nor_verify() {
    let hash = Hash::leaf(b"x");
    for path in [vec![], vec![hash; 64], vec![hash; 65]] {
        assert!(verify_inclusion(&hash, u64::MAX - 1, u64::MAX, &path, &hash).is_err());
        assert!(verify_inclusion(&hash, 0, u64::MAX, &path, &hash).is_err());
        assert!(verify_consistency(u64::MAX - 1, &hash, u64::MAX, &hash, &path).is_err());
        assert!(verify_consistency(1 << 63, &hash, u64::MAX, &hash, &path).is_err());
    }
}
