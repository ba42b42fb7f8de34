//! A transparency log, built to the letter of RFC 9162 and C2SP: Merkle trees, tiles, signed notes, checkpoints,
//! offline receipts and the check of a whole log.
//!
//! The audit service writes with it; `sotto audit verify` and everyone else verify with it (docs/adr/0004).
//! Promises (INV-8): nothing here trusts what it reads; a proof or a checkpoint either verifies or is refused;
//! parsers of outside bytes never panic and are bounded. No I/O except the read-only [`Directory`].

#![warn(missing_docs)]

mod checkpoint;
mod edge;
mod fsck;
mod hash;
mod note;
mod proof;
mod receipt;
mod source;
mod tile;

pub use checkpoint::{Checkpoint, CheckpointError, MAX_ORIGIN, check_origin};
pub use edge::{Edge, EdgeError, Resource};
pub use fsck::{Fault, Report, fsck};
pub use hash::{Frontier, HASH_LEN, Hash};
pub use note::{
    KEY_NAME_MAX, MAX_NOTE, MAX_SIGNATURES, Note, NoteError, NoteSignature, VerifierKey, VerifierKeyError,
};
pub use proof::{
    Leaves, Nodes, ProofError, consistency_path, inclusion_path, root, verify_consistency, verify_inclusion,
};
pub use receipt::{Receipt, ReceiptError};
pub use source::{Directory, ReadError, Source, TileNodes, read_bundle};
pub use tile::{
    BundleError, CHECKPOINT_PATH, MAX_ENTRY, TILE_WIDTH, TileError, bundle_path, decode_bundle, decode_tile,
    encode_bundle, encode_tile, tile_path, width_at,
};
