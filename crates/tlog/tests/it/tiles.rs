//! Paths, widths, tiles and bundles by the examples of the specification, and the edge that writes them.

use proptest::prelude::*;
use sotto_tlog::{
    BundleError, Edge, EdgeError, Frontier, Hash, MAX_ENTRY, ReadError, TileNodes, bundle_path,
    consistency_path, decode_bundle, decode_tile, encode_bundle, encode_tile, inclusion_path, read_bundle,
    root, tile_path, verify_consistency, verify_inclusion, width_at,
};

use crate::support::{Memory, entries};

#[test]
fn paths_are_those_of_the_specification() {
    assert_eq!(tile_path(0, 1_234_067, 256), "tile/0/x001/x234/067");
    assert_eq!(tile_path(0, 0, 256), "tile/0/000");
    assert_eq!(tile_path(1, 0, 17), "tile/1/000.p/17");
    assert_eq!(tile_path(63, 1000, 1), "tile/63/x001/000.p/1");
    assert_eq!(bundle_path(273, 112), "tile/entries/273.p/112");
    assert_eq!(bundle_path(1_000_000, 256), "tile/entries/x001/x000/000");
}

#[test]
fn widths_are_those_of_the_specification() {
    // "A tree of size 70,000 will be represented by 273 full level 0 tiles, one partial level 0 tile of width
    // 112, one full level 1 tile, one partial level 1 tile of width 17, and one partial level 2 tile of width 1."
    let widths =
        |level: u8, tiles: u64| (0..tiles).map(|index| width_at(70_000, level, index)).collect::<Vec<_>>();
    assert_eq!(widths(0, 275)[272..], [256, 112, 0]);
    assert_eq!(widths(1, 3), [256, 17, 0]);
    assert_eq!(widths(2, 2), [1, 0]);
    assert_eq!(width_at(256, 0, 0), 256);
    assert_eq!(width_at(256, 1, 0), 1);
    assert_eq!(width_at(u64::MAX, 255, 0), 0);
    assert_eq!(width_at(u64::MAX, 0, u64::MAX), 0);
}

#[test]
fn a_log_of_70_000_has_exactly_the_tiles_of_the_specification() {
    let log = Memory::of(&entries(70_000));
    let count = |prefix: &str| log.paths().iter().filter(|path| path.starts_with(prefix)).count();
    assert_eq!([count("tile/0/"), count("tile/1/"), count("tile/2/")], [274, 2, 1]);
    assert_eq!(count("tile/entries/"), 274);
    assert_eq!(log.paths().len(), 274 + 2 + 1 + 274 + 1);
    for path in
        ["tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1", "tile/entries/273.p/112"]
    {
        assert!(log.paths().iter().any(|is| is == path), "{path}");
    }
    let leaves: Vec<Hash> = entries(70_000).iter().map(|entry| Hash::leaf(entry)).collect();
    let nodes = TileNodes::new(&log, 70_000);
    let frontier: Frontier = leaves.iter().copied().collect();
    assert_eq!(root(&nodes, 70_000).unwrap(), frontier.root());
    for index in [0, 1, 255, 256, 65_535, 65_536, 69_887, 69_888, 69_999_usize] {
        let at = u64::try_from(index).unwrap();
        let path = inclusion_path(&nodes, at, 70_000).unwrap();
        verify_inclusion(&leaves[index], at, 70_000, &path, &frontier.root()).unwrap();
    }
    for old in [1, 255, 256, 257, 65_536, 69_888, 69_999] {
        let older: Frontier = leaves[..usize::try_from(old).unwrap()].iter().copied().collect();
        let path = consistency_path(&nodes, old, 70_000).unwrap();
        verify_consistency(old, &older.root(), 70_000, &frontier.root(), &path).unwrap();
    }
}

#[test]
fn an_edge_read_back_is_the_edge_that_wrote() {
    let all = entries(600);
    let mut edge = Edge::new();
    for (size, entry) in (1..).zip(&all) {
        edge.push(entry.clone()).unwrap();
        if size % 37 == 0 || size % 256 < 2 {
            let log = Memory::of(&all[..usize::try_from(size).unwrap()]);
            assert_eq!(Edge::load(&log, size).unwrap(), edge, "{size}");
        }
    }
    assert_eq!(Edge::load(&Memory::default(), 0).unwrap(), Edge::new());
    assert_eq!(Edge::new().root(), Hash::empty());
}

#[test]
fn a_full_tile_stands_in_for_a_partial_one() {
    let log = Memory::of(&entries(300));
    let nodes = TileNodes::new(&log, 40);
    let forty: Frontier = entries(40).iter().map(|entry| Hash::leaf(entry)).collect();
    assert_eq!(root(&nodes, 40).unwrap(), forty.root());
    assert_eq!(read_bundle(&log, 40, 0).unwrap(), entries(40));
    assert!(matches!(read_bundle(&log, 40, 1), Err(ReadError::Missing { .. })));
}

#[test]
fn a_missing_or_damaged_edge_is_refused() {
    let log = Memory::of(&entries(10));
    let bundle = log.remove("tile/entries/000.p/10").unwrap();
    assert!(matches!(Edge::load(&log, 10), Err(EdgeError::Read(ReadError::Missing { .. }))));
    let mut altered = bundle.clone();
    *altered.last_mut().unwrap() ^= 1;
    log.put("tile/entries/000.p/10", altered);
    assert!(matches!(Edge::load(&log, 10), Err(EdgeError::Entry { bundle: 0 })));
    log.put("tile/entries/000.p/10", bundle[..bundle.len() - 1].to_vec());
    assert!(matches!(Edge::load(&log, 10), Err(EdgeError::Read(ReadError::Bundle { .. }))));
    log.put("tile/0/000.p/10", vec![0; 319]);
    assert!(matches!(Edge::load(&log, 10), Err(EdgeError::Read(ReadError::Tile { .. }))));
}

#[test]
fn an_entry_of_65_535_bytes_fits_and_a_longer_one_is_refused() {
    let mut edge = Edge::new();
    assert!(matches!(edge.push(vec![0; MAX_ENTRY + 1]), Err(EdgeError::TooLong(BundleError::TooLong))));
    assert_eq!(edge, Edge::new());
    edge.push(vec![0; MAX_ENTRY]).unwrap();
    let bundle = &edge.partials().unwrap()[0];
    assert_eq!(bundle.bytes[..2], [0xff, 0xff]);
    assert_eq!(decode_bundle(&bundle.bytes, 1).unwrap(), [vec![0; MAX_ENTRY]]);
    assert_eq!(encode_bundle([vec![0; MAX_ENTRY + 1].as_slice()]), Err(BundleError::TooLong));
}

proptest! {
    #[test]
    fn bundles_and_tiles_survive(entries in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)) {
        let width = u64::try_from(entries.len()).unwrap();
        let bundle = encode_bundle(entries.iter().map(Vec::as_slice)).unwrap();
        prop_assert_eq!(decode_bundle(&bundle, width).unwrap(), entries.iter().map(Vec::as_slice).collect::<Vec<_>>());
        prop_assert_eq!(decode_bundle(&bundle, width + 1), Err(BundleError::Count { width: width + 1 }));
        let hashes: Vec<Hash> = entries.iter().map(|entry| Hash::leaf(entry)).collect();
        let tile = encode_tile(&hashes);
        prop_assert_eq!(decode_tile(&tile, width).unwrap(), hashes);
        prop_assert!(decode_tile(&tile, width + 1).is_err());
    }
}
