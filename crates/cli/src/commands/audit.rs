//! `sotto audit prove | act | verify`: the log, checked here and not where it is kept.

mod chronicle;
mod verify;

pub(crate) use verify::verify;

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use sotto_bus::{Service, StreamReader};
use sotto_core::Timestamp;
use sotto_proto::{
    audit::v1::{
        Act, ClosingBalance, EventRange, GetCheckpointRequest, GetEntryRequest, GetEventProofRequest,
        GetEventProofResponse, GetRetentionRequest, InclusionProof, LogEntry,
        audit_service_client::AuditServiceClient, log_entry::Content,
    },
    pipeline::v1::EventBatch,
};
use sotto_tlog::{Checkpoint, Hash, VerifierKey, verify_inclusion};
use tokio::time::Instant;
use tonic::Code;

use super::{channel, refused};
use crate::{CliError, Output, Tone, cell::CellDir, error::at, up::connect};

/// Entries that are looked through for an act, newest first.
const NEWEST: u64 = 1_000;

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
    let batch = stored_event(dir, event_sequence).await?;
    let checked = check(&proof, event_sequence, &batch, &key)?;
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
        "  {}: stored event in range, range in tree, tree signed by the pinned key",
        output.tone(Tone::Good, "proof checked")
    ))
}

/// Reads an event from the broker, so that its hash need not be taken from the service that is checked.
async fn stored_event(dir: &CellDir, sequence: u64) -> Result<Bytes, CliError> {
    let cell = dir.open()?;
    let bus = connect(dir, &cell, &dir.running()?.nats, Service::Operator).await?;
    let read = async {
        let reader = StreamReader::<EventBatch>::new(&bus, "EVENTS")?;
        reader.read(sequence, sequence).next_message().await
    };
    let found = read.await;
    bus.close(Duration::from_secs(2)).await;
    match found {
        Ok(Some(stored)) => Ok(stored.payload),
        Ok(None) => Err(CliError::new(format!("event {sequence} is not in the stream any more"))
            .fix("prove it from a backup of EVENTS: without its bytes there is nothing to compare")),
        Err(error) => {
            Err(CliError::caused_by("the event cannot be read", &error).fix("check the broker: sotto doctor"))
        }
    }
}

/// The newest closing balance of the log, with the index of its entry, which is proved to be under a tree that the pinned key
/// signed; none when nothing was trimmed.
pub(crate) async fn closing_balance(dir: &CellDir) -> Result<Option<(u64, ClosingBalance)>, CliError> {
    let key = pinned_key(dir)?;
    let mut audit = AuditServiceClient::new(channel(dir, "audit")?);
    let failed = |status: tonic::Status| refused("the closing balance of the events cannot be read", &status);
    let retention = audit.get_retention(GetRetentionRequest {}).await.map_err(failed)?.into_inner();
    let Some(index) = retention.closing_entry else { return Ok(None) };
    let answer = audit.get_entry(GetEntryRequest { index }).await.map_err(failed)?.into_inner();
    let (at, _) = check_entry(&answer.entry, answer.proof, &key)?;
    match LogEntry::decode(answer.entry).ok().and_then(|entry| entry.content) {
        Some(Content::ClosingBalance(balance)) if at == index => Ok(Some((index, balance))),
        _ => Err(wrong("it is about another entry")),
    }
}

/// Which act is looked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) action: String,
    pub(crate) actor: Option<String>,
    pub(crate) object: Option<String>,
}

impl Wanted {
    fn is(&self, act: &Act) -> bool {
        let Self { action, actor, object } = self;
        act.action == *action
            && actor.as_ref().is_none_or(|actor| act.actor == *actor)
            && object.as_ref().is_none_or(|object| act.object == *object)
    }
}

/// Shows the newest act of a kind, with the proof that the log has it.
pub(crate) async fn act(
    dir: &CellDir,
    wanted: &Wanted,
    wait: Duration,
    output: &Output,
) -> Result<(), CliError> {
    let key = pinned_key(dir)?;
    let mut audit = AuditServiceClient::new(channel(dir, "audit")?);
    let failed = |status: tonic::Status| refused("the log cannot be read", &status);
    let until = Instant::now() + wait;
    let mut seen = 0;
    loop {
        let newest = audit.get_checkpoint(GetCheckpointRequest {}).await.map_err(failed)?.into_inner();
        let size = open_checkpoint(&newest.checkpoint, &key)?.size;
        for index in (seen.max(size.saturating_sub(NEWEST))..size).rev() {
            let answer = audit.get_entry(GetEntryRequest { index }).await.map_err(failed)?.into_inner();
            if let Some(Content::Act(act)) =
                LogEntry::decode(answer.entry.clone()).ok().and_then(|it| it.content)
                && wanted.is(&act)
            {
                let (at, checkpoint) = check_entry(&answer.entry, answer.proof, &key)?;
                if at != index {
                    return Err(wrong("it is about another entry"));
                }
                return tell_act(&act, index, &checkpoint, &key, output);
            }
        }
        seen = size;
        if Instant::now() >= until {
            return Err(CliError::new(format!(
                "no such act {} among the newest {NEWEST} entries",
                wanted.action
            ))
            .fix("wait longer with --wait, or look through a copy of the log: docs/formats/audit-log.md"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn tell_act(
    act: &Act,
    index: u64,
    checkpoint: &Checkpoint,
    key: &VerifierKey,
    output: &Output,
) -> Result<(), CliError> {
    let at = Timestamp::from_unix_seconds(act.at_s).to_string();
    output.json(&serde_json::json!({
        "entry": index, "action": act.action, "category": act.category, "actor": act.actor, "tenant": act.tenant,
        "object": act.object, "outcome": act.outcome, "at": at, "producer": act.producer, "sequence": act.sequence,
        "tree_size": checkpoint.size, "root": checkpoint.root.to_string(), "log": key.name(), "verified": true,
    }))?;
    let tenant = if act.tenant.is_empty() { String::new() } else { format!(" of tenant {}", act.tenant) };
    output.line(format!("entry {index} of {}: {} ({})", key.name(), act.action, act.outcome))?;
    output.line(format!("  at {at}, by {}{tenant}", act.actor))?;
    if !act.object.is_empty() {
        output.line(format!("  about {}", act.object))?;
    }
    output.line(format!("  told by {} as its number {}", act.producer, act.sequence))?;
    output.line(format!("  tree of {} entries, root {}", checkpoint.size, checkpoint.root))?;
    output.line(format!(
        "  {}: entry in tree, tree signed by the pinned key",
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

fn wrong(what: &str) -> CliError {
    CliError::new(format!("the proof is wrong: {what}")).fix(
        "the log or the audit service is not what it was: compare with a witness, keep a copy of data/audit",
    )
}

/// Checks the whole chain: stored batch → range → entry → tree → signature. Nothing the service says is taken on trust.
fn check(
    proof: &GetEventProofResponse,
    event_sequence: u64,
    batch: &[u8],
    key: &VerifierKey,
) -> Result<Checked, CliError> {
    let entry = LogEntry::decode(proof.range_entry.clone()).map_err(|_| wrong("the entry cannot be read"))?;
    let Some(Content::EventRange(range)) = entry.content else {
        return Err(wrong("the entry is not a range of events"));
    };
    if !may_be_at(&range, event_sequence, proof.index_in_range) {
        return Err(wrong("the range does not hold the event at that place"));
    }
    let leaf = Hash::leaf(batch);
    if hash(&proof.batch_leaf_hash) != Some(leaf) {
        return Err(wrong("it is about other bytes than those that the stream holds"));
    }
    let root = hash(&range.root).ok_or_else(|| wrong("a hash has another length"))?;
    let path = hashes(&proof.range_hashes).ok_or_else(|| wrong("a hash has another length"))?;
    verify_inclusion(&leaf, proof.index_in_range, range.batches, &path, &root)
        .map_err(|_| wrong("the event is not under the range's root"))?;
    let (index, checkpoint) = check_entry(&proof.range_entry, proof.proof.clone(), key)?;
    Ok(Checked {
        index,
        first: range.first_sequence,
        last: range.last_sequence,
        size: checkpoint.size,
        root: checkpoint.root,
    })
}

/// Whether the batch with this sequence can be the one at `index`: sequences rise within a range, so that as many lie
/// below it as before it, and exactly there if the range has no hole.
fn may_be_at(range: &EventRange, sequence: u64, index: u64) -> bool {
    let EventRange { first_sequence: first, last_sequence: last, batches, .. } = *range;
    if !(first..=last).contains(&sequence) || index >= batches {
        return false;
    }
    let (below, above) = (sequence - first, last - sequence);
    index <= below && batches - 1 - index <= above
}

/// Checks that an entry is under a tree that the pinned key signed: its index and that tree.
fn check_entry(
    entry: &[u8],
    proof: Option<InclusionProof>,
    key: &VerifierKey,
) -> Result<(u64, Checkpoint), CliError> {
    let InclusionProof { index, hashes: path, checkpoint } =
        proof.ok_or_else(|| wrong("it has no second step"))?;
    let checkpoint = open_checkpoint(&checkpoint, key)?;
    let path = hashes(&path).ok_or_else(|| wrong("a hash has another length"))?;
    verify_inclusion(&Hash::leaf(entry), index, checkpoint.size, &path, &checkpoint.root)
        .map_err(|_| wrong("the entry is not under the tree's root"))?;
    Ok((index, checkpoint))
}

fn open_checkpoint(note: &str, key: &VerifierKey) -> Result<Checkpoint, CliError> {
    Checkpoint::open(note.as_bytes(), key)
        .map_err(|error| CliError::caused_by("the checkpoint is not signed by the pinned key", &error))
}

fn hash(bytes: &[u8]) -> Option<Hash> {
    Hash::from_slice(bytes)
}

fn hashes(list: &[bytes::Bytes]) -> Option<Vec<Hash>> {
    list.iter().map(|bytes| hash(bytes)).collect()
}

pub(crate) fn pinned_key(dir: &CellDir) -> Result<VerifierKey, CliError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stands_in_its_range_where_its_sequence_says() {
        let range =
            |batches| EventRange { first_sequence: 11, last_sequence: 14, batches, ..EventRange::default() };
        for index in 0..4 {
            assert!(may_be_at(&range(4), 11 + index, index));
            assert!(!may_be_at(&range(4), 11 + index, (index + 1) % 4));
        }
        // One of four is missing: the third is at 1 or 2.
        assert!(may_be_at(&range(3), 13, 1) && may_be_at(&range(3), 13, 2));
        assert!(!may_be_at(&range(3), 13, 0) && !may_be_at(&range(3), 13, 3));
        assert!(!may_be_at(&range(4), 10, 0) && !may_be_at(&range(4), 15, 3) && !may_be_at(&range(0), 11, 0));
    }
}
