//! `sotto audit prove | verify`: the log, checked here and not where it is kept.

use std::{path::PathBuf, time::Duration};

use prost::Message as _;
use sotto_proto::audit::v1::{
    GetEventProofRequest, GetEventProofResponse, InclusionProof, LogEntry,
    audit_service_client::AuditServiceClient, log_entry::Content,
};
use sotto_tlog::{Checkpoint, Directory, Hash, VerifierKey, fsck, verify_inclusion};
use tokio::time::Instant;
use tonic::Code;

use super::{channel, refused};
use crate::{CliError, Output, Tone, cell::CellDir, error::at};

/// How often the log is asked while a commitment is awaited.
const LOOK: Duration = Duration::from_millis(200);

/// Where `sotto init` puts the verifier key of the cell's log.
pub(crate) const KEY_FILE: &str = "audit/log.vkey";

/// Where the audit service keeps the log.
pub(crate) const LOG_DIR: &str = "data/audit";

pub(crate) async fn prove(
    dir: &CellDir,
    event_sequence: u64,
    wait: Duration,
    output: &Output,
) -> Result<(), CliError> {
    let key = pinned_key(dir)?;
    let mut audit = AuditServiceClient::new(channel(dir, "audit")?);
    let until = Instant::now() + wait;
    let proof = loop {
        match audit.get_event_proof(GetEventProofRequest { event_sequence }).await {
            Ok(response) => break response.into_inner(),
            Err(status) if is_early(status.code()) && Instant::now() < until => {
                tokio::time::sleep(LOOK).await
            }
            Err(status) => return Err(refused("there is no proof", &status)),
        }
    };
    let checked = check(&proof, event_sequence, &key)?;
    output.json(&serde_json::json!({
        "event_sequence": event_sequence,
        "entry": checked.index,
        "range": [checked.first, checked.last],
        "tree_size": checked.size,
        "root": checked.root.to_string(),
        "log": key.name(),
        "verified": true,
    }))?;
    output.line(format!("event {event_sequence} is in entry {} of {}", checked.index, key.name()))?;
    output.line(format!("  the entry commits to events {} to {}", checked.first, checked.last))?;
    output.line(format!("  tree of {} entries, root {}", checked.size, checked.root))?;
    output.line(format!(
        "  {}: event in range, range in tree, tree signed by the pinned key",
        output.tone(Tone::Good, "proof checked")
    ))
}

const fn is_early(code: Code) -> bool {
    matches!(code, Code::NotFound | Code::Unavailable | Code::OutOfRange | Code::FailedPrecondition)
}

struct Checked {
    index: u64,
    first: u64,
    last: u64,
    size: u64,
    root: Hash,
}

/// Checks the whole chain: batch → range → entry → tree → signature. Nothing the service says is taken on trust but the
/// hash of the batch itself.
fn check(proof: &GetEventProofResponse, event_sequence: u64, key: &VerifierKey) -> Result<Checked, CliError> {
    let wrong = |what: &str| {
        CliError::new(format!("the proof is wrong: {what}"))
            .fix("the log or the audit service is not what it was: compare with a witness, keep a copy of data/audit")
    };
    let entry = LogEntry::decode(proof.range_entry.clone()).map_err(|_| wrong("the entry cannot be read"))?;
    let Some(Content::EventRange(range)) = entry.content else {
        return Err(wrong("the entry is not a range of events"));
    };
    if !(range.first_sequence..=range.last_sequence).contains(&event_sequence) {
        return Err(wrong("the range does not hold the event"));
    }
    let leaf = hash(&proof.batch_leaf_hash).ok_or_else(|| wrong("a hash has another length"))?;
    let root = hash(&range.root).ok_or_else(|| wrong("a hash has another length"))?;
    let path = hashes(&proof.range_hashes).ok_or_else(|| wrong("a hash has another length"))?;
    verify_inclusion(&leaf, proof.index_in_range, range.batches, &path, &root)
        .map_err(|_| wrong("the event is not under the range's root"))?;

    let InclusionProof { index, hashes: path, checkpoint } =
        proof.proof.clone().ok_or_else(|| wrong("it has no second step"))?;
    let checkpoint = Checkpoint::open(checkpoint.as_bytes(), key)
        .map_err(|error| CliError::caused_by("the checkpoint is not signed by the pinned key", &error))?;
    let path = hashes(&path).ok_or_else(|| wrong("a hash has another length"))?;
    verify_inclusion(&Hash::leaf(&proof.range_entry), index, checkpoint.size, &path, &checkpoint.root)
        .map_err(|_| wrong("the entry is not under the tree's root"))?;
    Ok(Checked {
        index,
        first: range.first_sequence,
        last: range.last_sequence,
        size: checkpoint.size,
        root: checkpoint.root,
    })
}

fn hash(bytes: &[u8]) -> Option<Hash> {
    Hash::from_slice(bytes)
}

fn hashes(list: &[bytes::Bytes]) -> Option<Vec<Hash>> {
    list.iter().map(|bytes| hash(bytes)).collect()
}

pub(crate) fn verify(
    dir: &CellDir,
    log: Option<PathBuf>,
    key: Option<String>,
    output: &Output,
) -> Result<(), CliError> {
    let key = match key {
        Some(text) => parse_key(&text)?,
        None => pinned_key(dir)?,
    };
    let log = log.unwrap_or_else(|| dir.path(LOG_DIR));
    let mut counts = Counts::default();
    let report = fsck(&Directory::new(&log), &key, None, |_, entry| counts.take(entry)).map_err(|fault| {
        CliError::caused_by(format!("the log in {} does not verify", log.display()), &fault).fix(
            "do not repair it: keep it, compare it with a copy or a witness, and find out who changed it",
        )
    })?;
    output.json(&serde_json::json!({
        "verified": true, "log": key.name(), "entries": report.checkpoint.size,
        "root": report.checkpoint.root.to_string(), "acts": counts.acts, "event_ranges": counts.ranges,
        "gaps": counts.gaps, "unreadable": counts.unreadable,
    }))?;
    output.line(format!(
        "{} {} entries of {}: {} acts, {} event ranges, {} gaps",
        output.tone(Tone::Good, "verified"),
        report.checkpoint.size,
        key.name(),
        counts.acts,
        counts.ranges,
        counts.gaps
    ))?;
    if counts.gaps + counts.unreadable > 0 {
        let line = format!(
            "{} gaps, {} unreadable entries: see docs/formats/audit-log.md",
            counts.gaps, counts.unreadable
        );
        output.line(output.tone(Tone::Bad, &line))?;
    }
    Ok(())
}

#[derive(Default)]
struct Counts {
    acts: u64,
    ranges: u64,
    gaps: u64,
    unreadable: u64,
}

impl Counts {
    fn take(&mut self, entry: &[u8]) {
        match LogEntry::decode(entry).ok().and_then(|entry| entry.content) {
            Some(Content::Act(_)) => self.acts += 1,
            Some(Content::EventRange(_)) => self.ranges += 1,
            Some(Content::Gap(_)) => self.gaps += 1,
            None => self.unreadable += 1,
        }
    }
}

fn pinned_key(dir: &CellDir) -> Result<VerifierKey, CliError> {
    let path = dir.path(KEY_FILE);
    let text = std::fs::read_to_string(&path)
        .map_err(at(&path))
        .map_err(|error| error.fix("give the log's verifier key with --key"))?;
    parse_key(text.trim())
}

fn parse_key(text: &str) -> Result<VerifierKey, CliError> {
    text.parse().map_err(|error| {
        CliError::caused_by("the verifier key cannot be read", &error)
            .fix("give it as <name>+<hash>+<base64>")
    })
}
