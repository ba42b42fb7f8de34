//! C2SP tlog-proof: a receipt that verifies offline, `*.tlog-proof`.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    checkpoint::{Checkpoint, CheckpointError, parse_decimal},
    hash::Hash,
    note::{MAX_NOTE, VerifierKey},
    proof::{ProofError, verify_inclusion},
};

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Longest receipt read, bytes.
const MAX_RECEIPT: usize = MAX_NOTE + 128 * 1024;

/// An inclusion proof with the checkpoint it proves against. The entry itself is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Opaque data beside the proof. Not authenticated by anything.
    pub extra: Option<Vec<u8>>,
    /// The entry's index, from 0.
    pub index: u64,
    /// The inclusion proof, leaf to root.
    pub path: Vec<Hash>,
    /// The signed checkpoint, a note.
    pub checkpoint: String,
}

impl Receipt {
    /// Checks that `leaf` is in the log of `key`, and returns the checkpoint that says so.
    ///
    /// # Errors
    /// [`ReceiptError::Checkpoint`] or [`ReceiptError::Proof`].
    pub fn verify(&self, leaf: &Hash, key: &VerifierKey) -> Result<Checkpoint, ReceiptError> {
        let checkpoint =
            Checkpoint::open(self.checkpoint.as_bytes(), key).map_err(ReceiptError::Checkpoint)?;
        verify_inclusion(leaf, self.index, checkpoint.size, &self.path, &checkpoint.root)
            .map_err(ReceiptError::Proof)?;
        Ok(checkpoint)
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{hash}")?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        if text.len() > MAX_RECEIPT {
            return Err(ReceiptError::Form);
        }
        let (head, checkpoint) = text.split_once("\n\n").ok_or(ReceiptError::Form)?;
        let mut lines = head.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(ReceiptError::Form);
        }
        let mut line = lines.next().ok_or(ReceiptError::Form)?;
        let mut extra = None;
        if let Some(encoded) = line.strip_prefix("extra ") {
            extra = Some(STANDARD.decode(encoded).map_err(|_| ReceiptError::Form)?);
            line = lines.next().ok_or(ReceiptError::Form)?;
        }
        let index = line.strip_prefix("index ").and_then(parse_decimal).ok_or(ReceiptError::Form)?;
        let path = lines.map(Hash::from_base64).collect::<Option<Vec<_>>>().ok_or(ReceiptError::Form)?;
        // A tree of 2^64 leaves is 64 high.
        if path.len() > 64 {
            return Err(ReceiptError::Form);
        }
        Ok(Self { extra, index, path, checkpoint: checkpoint.to_owned() })
    }
}

/// A receipt was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not in the form of c2sp.org/tlog-proof@v1.
    #[error("not a receipt of the form c2sp.org/tlog-proof@v1")]
    Form,
    /// Its checkpoint.
    #[error("the receipt's checkpoint was refused")]
    Checkpoint(#[source] CheckpointError),
    /// Its proof.
    #[error("the receipt's inclusion proof was refused")]
    Proof(#[source] ProofError),
}
