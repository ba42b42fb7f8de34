//! C2SP tlog-checkpoint: what a log signs about its tree.

use std::fmt;

use crate::{
    hash::Hash,
    note::{KEY_NAME_MAX, Note, NoteError, VerifierKey},
};

/// Longest origin accepted, bytes: it is also the name of the log's key.
pub const MAX_ORIGIN: usize = KEY_NAME_MAX;

/// Whether a log may have this origin: a URL without scheme, such as `sotto.internal/audit/vn`.
#[must_use]
pub fn check_origin(origin: &str) -> bool {
    !origin.is_empty()
        && origin.len() <= MAX_ORIGIN
        && !origin.contains("://")
        && !origin.starts_with('/')
        && !origin.ends_with('/')
        && origin.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'+')
}

/// The state of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
}

impl Checkpoint {
    /// Reads a signed checkpoint and verifies it: the origin must be the key's name.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn open(bytes: &[u8], key: &VerifierKey) -> Result<Self, CheckpointError> {
        let note = Note::parse(bytes).map_err(CheckpointError::Note)?;
        let checkpoint = Self::parse_text(note.verify(key).map_err(CheckpointError::Note)?)?;
        if checkpoint.origin == key.name() { Ok(checkpoint) } else { Err(CheckpointError::Origin) }
    }

    /// Signs the checkpoint.
    ///
    /// # Errors
    /// What `sign` reports; [`NoteError::Text`] for an origin with control characters.
    pub fn sign<E: From<NoteError>>(
        &self,
        key: &VerifierKey,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Note, E> {
        Note::sign(self.to_string(), key, sign)
    }

    /// Reads the text of a checkpoint's note. Extension lines are refused: this log writes none and nobody can
    /// audit them.
    ///
    /// # Errors
    /// [`CheckpointError::Form`].
    pub fn parse_text(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.strip_suffix('\n').ok_or(CheckpointError::Form)?.split('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::Form);
        };
        if origin.is_empty() {
            return Err(CheckpointError::Form);
        }
        let size = parse_decimal(size).ok_or(CheckpointError::Form)?;
        let root = Hash::from_base64(root).ok_or(CheckpointError::Form)?;
        Ok(Self { origin: origin.to_owned(), size, root })
    }
}

impl fmt::Display for Checkpoint {
    /// The text that is signed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root)
    }
}

/// ASCII decimal without sign and leading zeroes.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// A checkpoint was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The note around it.
    #[error("the checkpoint's signed note was refused")]
    Note(#[source] NoteError),
    /// Not origin, size and root.
    #[error("a checkpoint is three lines: origin, size and root in base64")]
    Form,
    /// Signed for another log.
    #[error("the checkpoint is of another log than its key")]
    Origin,
}
