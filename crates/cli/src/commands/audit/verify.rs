//! `sotto audit verify`: a copy of the whole log, offline, from its files and its verifier key alone.

use std::path::{Path, PathBuf};

use sotto_tlog::{Checkpoint, Directory, Frontier, Hash, Report, VerifierKey, fsck};

use super::{LOG_DIR, chronicle::Chronicle, parse_key, pinned_key};
use crate::{CliError, Output, Tone, cell::CellDir, error::at};

pub(crate) fn verify(
    dir: &CellDir,
    log: Option<PathBuf>,
    key: Option<String>,
    checkpoint: Option<PathBuf>,
    output: &Output,
) -> Result<(), CliError> {
    let key = match key {
        Some(text) => parse_key(&text)?,
        None => pinned_key(dir)?,
    };
    let log = log.unwrap_or_else(|| dir.path(LOG_DIR));
    let older = checkpoint.as_deref().map(|path| Older::read(path, &key)).transpose()?;
    let checked = check(&log, &key, older)?;
    tell(&checked, &key, output)
}

/// What was checked.
struct Checked {
    report: Report,
    chronicle: Chronicle,
    /// The size of the older tree, which this one contains.
    older: Option<u64>,
}

/// A checkpoint that was kept elsewhere: the log must contain its tree.
struct Older {
    path: PathBuf,
    checkpoint: Checkpoint,
}

impl Older {
    fn read(path: &Path, key: &VerifierKey) -> Result<Self, CliError> {
        let bytes = std::fs::read(path).map_err(at(path))?;
        let checkpoint = Checkpoint::open(&bytes, key).map_err(|error| {
            CliError::caused_by(format!("{} is not a checkpoint of {}", path.display(), key.name()), &error)
                .fix("give the signed note as it was kept, whole")
        })?;
        Ok(Self { path: path.to_owned(), checkpoint })
    }
}

fn check(log: &Path, key: &VerifierKey, older: Option<Older>) -> Result<Checked, CliError> {
    let fix = "do not repair it: keep it, compare it with a copy or a witness, and find out who changed it";
    let mut chronicle = Chronicle::default();
    let mut tree = Frontier::new();
    // The root that the log had when it was as long as the older checkpoint says.
    let mut then = None;
    let size_then = older.as_ref().map(|older| older.checkpoint.size);
    if size_then == Some(0) {
        then = Some(Hash::empty());
    }
    let report = fsck(&Directory::new(log), key, None, |index, entry| {
        chronicle.take(index, entry);
        if then.is_none() && size_then.is_some() {
            tree.push(Hash::leaf(entry));
            if size_then == Some(tree.size()) {
                then = Some(tree.root());
            }
        }
    });
    let report = report.map_err(|fault| {
        CliError::caused_by(format!("the log in {} does not verify", log.display()), &fault).fix(fix)
    })?;
    if let Some(Older { path, checkpoint }) = &older {
        let path = path.display();
        match then {
            Some(root) if root == checkpoint.root => {}
            Some(_) => {
                let what = format!("the log's first {} entries are not those of {path}", checkpoint.size);
                return Err(CliError::new(format!("{what}: its past was rewritten")).fix(fix));
            }
            None => {
                let (now, before) = (report.checkpoint.size, checkpoint.size);
                let what = format!("the log has {now} entries, and had {before} at {path}");
                return Err(CliError::new(format!("{what}: entries were removed")).fix(fix));
            }
        }
    }
    Ok(Checked { report, chronicle, older: size_then })
}

fn tell(checked: &Checked, key: &VerifierKey, output: &Output) -> Result<(), CliError> {
    let Checked { report, chronicle, older } = checked;
    let (faults, more) = chronicle.faults();
    let faulty = u64::try_from(faults.len()).unwrap_or(u64::MAX).saturating_add(more);
    output.json(&serde_json::json!({
        "verified": faulty == 0, "log": key.name(), "entries": report.checkpoint.size,
        "root": report.checkpoint.root.to_string(), "acts": chronicle.acts, "event_ranges": chronicle.ranges,
        "events": chronicle.events, "closed_events": chronicle.closed, "gaps": chronicle.gaps, "missing_acts": chronicle.missing,
        "repeated_acts": chronicle.repeated, "missing_event_batches": chronicle.missing_batches,
        "unreadable": chronicle.unreadable, "faults": faults, "contains_checkpoint_of_size": older,
    }))?;
    if faulty == 0 {
        output.line(format!(
            "{} {} entries of {}: {} acts, {} event ranges (events 1 to {}), {} gaps",
            output.tone(Tone::Good, "verified"),
            report.checkpoint.size,
            key.name(),
            chronicle.acts,
            chronicle.ranges,
            chronicle.events,
            chronicle.gaps
        ))?;
    }
    if let Some(size) = older {
        output.line(format!("it contains the older tree of {size} entries"))?;
    }
    if chronicle.missing + chronicle.missing_batches > 0 {
        let line = format!(
            "told by the log itself: {} act(s) never came, {} event batch(es) were gone when their turn came",
            chronicle.missing, chronicle.missing_batches
        );
        output.line(output.tone(Tone::Bad, &line))?;
    }
    if faulty == 0 {
        return Ok(());
    }
    for fault in faults {
        output.line(output.tone(Tone::Bad, fault))?;
    }
    Err(CliError::new(format!(
        "the tree is whole and signed, but {faulty} of its entries are not as the audit service writes them"
    ))
    .fix("keep the log and its key; read docs/formats/audit-log.md, and find out what wrote them"))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use sotto_crypto::sign::SigningKey;
    use sotto_proto::audit::v1::{Act, LogEntry, log_entry::Content};
    use sotto_tlog::{CHECKPOINT_PATH, Edge, NoteError};

    use super::*;

    struct Log {
        folder: tempfile::TempDir,
        signer: SigningKey,
        key: VerifierKey,
    }

    impl Log {
        fn new() -> Self {
            let signer = SigningKey::generate().unwrap();
            let key = VerifierKey::new("sotto.internal/audit/test", signer.public()).unwrap();
            Self { folder: tempfile::tempdir().unwrap(), signer, key }
        }

        fn put(&self, path: &str, bytes: &[u8]) {
            let path = self.folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }

        /// Writes a whole log of these entries and gives back its checkpoint.
        fn write(&self, entries: &[Vec<u8>]) -> Vec<u8> {
            let mut edge = Edge::new();
            for entry in entries {
                assert!(edge.push(entry.clone()).unwrap().is_empty(), "fewer than 256");
            }
            for file in edge.partials().unwrap() {
                self.put(&file.path, &file.bytes);
            }
            let checkpoint =
                Checkpoint { origin: self.key.name().to_owned(), size: edge.size(), root: edge.root() };
            let sign = |text: &[u8]| Ok::<_, NoteError>(self.signer.sign(text).unwrap().to_vec());
            let note = checkpoint.sign(&self.key, sign).unwrap().to_string();
            self.put(CHECKPOINT_PATH, note.as_bytes());
            note.into_bytes()
        }

        fn check(&self, older: Option<&[u8]>) -> Result<(), String> {
            let older = older.map(|bytes| {
                self.put("older", bytes);
                Older::read(&self.folder.path().join("older"), &self.key).unwrap()
            });
            let checked = check(self.folder.path(), &self.key, older).map_err(|error| error.to_string())?;
            tell(&checked, &self.key, &Output::new(true, true)).map_err(|error| error.to_string())
        }
    }

    fn act(sequence: u64, action: &str) -> Vec<u8> {
        let (producer, action) = ("identity/1".to_owned(), action.to_owned());
        let content = Content::Act(Act { producer, sequence, action, ..Act::default() });
        LogEntry { version: 1, content: Some(content) }.encode_to_vec()
    }

    #[test]
    fn a_log_that_grew_contains_its_older_checkpoints() {
        let log = Log::new();
        let empty = log.write(&[]);
        let one = log.write(&[act(1, "a")]);
        let three = log.write(&[act(1, "a"), act(2, "b"), act(3, "c")]);
        for older in [None, Some(&empty), Some(&one), Some(&three)] {
            assert_eq!(log.check(older.map(Vec::as_slice)), Ok(()));
        }
    }

    #[test]
    fn a_log_that_was_cut_or_rewritten_and_signed_anew_is_found_out() {
        let log = Log::new();
        let three = log.write(&[act(1, "a"), act(2, "b"), act(3, "c")]);
        log.write(&[act(1, "a")]);
        assert!(log.check(Some(&three)).unwrap_err().contains("entries were removed"));
        log.write(&[act(1, "a"), act(2, "x"), act(3, "c"), act(4, "d")]);
        assert_eq!(log.check(None), Ok(()));
        assert!(log.check(Some(&three)).unwrap_err().contains("its past was rewritten"));
    }

    #[test]
    fn entries_that_cannot_be_read_or_do_not_join_up_fail_the_check() {
        let log = Log::new();
        log.write(&[act(1, "a"), b"\xff".to_vec()]);
        assert!(log.check(None).unwrap_err().contains("1 of its entries"));
        log.write(&[act(2, "a")]);
        assert!(log.check(None).unwrap_err().contains("1 of its entries"));
    }
}
