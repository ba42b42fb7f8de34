//! `sotto retention plan | run | status`: what dies next, and the proof of what is dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Subcommand;
use prost::Message as _;
use sotto_bus::{Topology, topology::Retention};
use sotto_core::{
    CellId, Clock, Timestamp,
    deletion::{ACTION, Deletion, KEY_ACTION, Seal},
    ledger::Sums,
};
use sotto_crypto::sign::PublicKey;
use sotto_proto::{
    audit::v1::{
        Act, GetRetentionRequest, GetRetentionResponse, LogEntry, RunRetentionRequest, RunRetentionResponse,
        audit_service_client::AuditServiceClient, log_entry::Content,
    },
    from_wire_time,
    privacy::v1::{KeyFacts, KeyState, ListKeysResponse, RetentionRule},
};
use sotto_tlog::{Directory, fsck};

use super::{
    audit::{LOG_DIR, closing_balance, pinned_key},
    channel, keys, refused,
};
use crate::{CliError, Output, Tone, cell::CellDir};

/// Faults that are told one by one; more are only counted.
const TOLD: usize = 20;

/// How long the audit service waits, so that a day of events is closed together.
const CLOSED_TOGETHER: Duration = Duration::from_secs(24 * 3_600);

/// A receipt that is younger may not be in the log yet.
const ON_ITS_WAY: Duration = Duration::from_secs(60);

/// `sotto retention …`
#[derive(Debug, Subcommand)]
pub(crate) enum RetentionCommand {
    /// How long what is kept of messages, and what is destroyed next
    Plan,
    /// Trims events that are old enough now, instead of within the hour, and says what became of their messages
    Run,
    /// What was destroyed when, checked in the audit log: its tree, and the signature of each receipt
    Status {
        /// Folder with the log; default: the cell's own
        #[arg(long, value_name = "DIR")]
        log: Option<PathBuf>,
        /// The public key that receipts must be signed with, as noted elsewhere; default: each that the log names
        #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
        key: Option<String>,
        /// Also compare with the keys that a running privacy has destroyed in the last so many seconds; 0: do not ask it
        #[arg(long, value_name = "SECONDS", default_value = "604800")]
        compare: u64,
    },
}

pub(crate) async fn retention(
    dir: &CellDir,
    command: RetentionCommand,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    match command {
        RetentionCommand::Plan => plan(dir, clock.now(), output).await,
        RetentionCommand::Run => run(dir, output).await,
        RetentionCommand::Status { log, key, compare } => {
            let log = log.unwrap_or_else(|| dir.path(LOG_DIR));
            let now = clock.now();
            let known = match compare {
                0 => None,
                seconds => Some(keys::read(dir, now.minus(Duration::from_secs(seconds))).await?),
            };
            status(dir, &log, key.as_deref(), known.as_ref(), now, output)
        }
    }
}

async fn plan(dir: &CellDir, now: Timestamp, output: &Output) -> Result<(), CliError> {
    let ListKeysResponse { mut keys, rules, .. } = keys::read(dir, now).await?;
    for rule in &rules {
        tell_rule(rule, output)?;
    }
    keys.retain(|key| key.state() != KeyState::Destroyed);
    keys.sort_by_key(|key| key.dies_at.map(from_wire_time));
    for key in &keys {
        let dies = key.dies_at.map(from_wire_time).map(|at| at.to_string()).unwrap_or_default();
        let text = format!("{dies}  {} is destroyed: at most {} session keys", key.bucket, key.wraps_at_most);
        output.json(&serde_json::json!({
            "what": "key", "bucket": key.bucket, "at": dies, "session_keys_at_most": key.wraps_at_most,
        }))?;
        output.line(text)?;
    }
    let events = asked_events(dir).await?;
    let topology = Topology::embedded()
        .map_err(|error| CliError::caused_by("the list of streams cannot be used", &error))?;
    for stream in &topology.streams {
        let kept = match (stream.max_age_s, stream.retention) {
            _ if stream.name == "EVENTS" => {
                tell_events(&events, now, output)?;
                continue;
            }
            _ if stream.name == "CARRIED" => "until the next closing balance".to_owned(),
            _ if stream.name == "AUDIT" => "8 days after it is in the audit log".to_owned(),
            (Some(seconds), _) => format!("{seconds} s"),
            (None, Retention::WorkQueue) => "until it is done".to_owned(),
            (None, Retention::Latest) => "the latest word on each".to_owned(),
            (None, Retention::Limits | Retention::Aged) => "for ever: nothing trims it".to_owned(),
        };
        output.json(&serde_json::json!({ "what": "stream", "stream": stream.name, "kept": kept }))?;
        output.line(format!("stream {:12} {kept}", stream.name))?;
    }
    Ok(())
}

async fn asked_events(dir: &CellDir) -> Result<GetRetentionResponse, CliError> {
    let mut audit = AuditServiceClient::new(channel(dir, "audit")?);
    let asked = audit.get_retention(GetRetentionRequest {}).await;
    Ok(asked.map_err(|status| refused("how long events are kept cannot be read", &status))?.into_inner())
}

/// Events are closed a day together, so the oldest is up to a day older than what is kept.
fn tell_events(events: &GetRetentionResponse, now: Timestamp, output: &Output) -> Result<(), CliError> {
    let GetRetentionResponse { kept_s, least_s, closed_through, first_sequence, oldest_s, .. } = *events;
    let oldest = oldest_s.map(Timestamp::from_unix_seconds);
    let due = oldest.map(|oldest| oldest.plus(Duration::from_secs(kept_s) + CLOSED_TOGETHER));
    let nearly_full = events.bytes > events.max_bytes / 4 * 3;
    output.json(&serde_json::json!({
        "what": "stream", "stream": "EVENTS", "kept": format!("{kept_s} s"), "kept_seconds": kept_s,
        "least_seconds": least_s, "closed_through": closed_through, "first": first_sequence,
        "last": events.last_sequence, "oldest": oldest.map(|at| at.to_string()),
        "due": due.map(|at| at.to_string()), "bytes": events.bytes, "max_bytes": events.max_bytes,
        "nearly_full": nearly_full,
    }))?;
    let next = match due {
        None => "it holds nothing".to_owned(),
        Some(due) if due <= now => "the oldest is due".to_owned(),
        Some(due) => format!("the oldest goes about {due}"),
    };
    output.line(format!("stream {:12} {kept_s} s: {next}; 1 to {closed_through} are closed", "EVENTS"))?;
    if nearly_full {
        let line = format!("more than three quarters full: only {least_s} s are kept");
        output.line(output.tone(Tone::Bad, &line))?;
    }
    Ok(())
}

async fn run(dir: &CellDir, output: &Output) -> Result<(), CliError> {
    let mut audit = AuditServiceClient::new(channel(dir, "audit")?);
    let ran = audit.run_retention(RunRetentionRequest {}).await;
    let RunRetentionResponse { batches, closed_through } =
        ran.map_err(|status| refused("events were not trimmed", &status))?.into_inner();
    let closed = match closing_balance(dir).await? {
        Some((entry, balance)) => {
            let sums = Sums::from(&balance);
            output.line(format!(
                "entry {entry} of the audit log closes events 1 to {closed_through}: {} messages have ended",
                sums.closed()
            ))?;
            Some(serde_json::json!({ "entry": entry, "messages": sums.closed() }))
        }
        None => None,
    };
    output.json(&serde_json::json!({
        "batches": batches, "closed_through": closed_through, "closed": closed, "verified": closed.is_some(),
    }))?;
    output.line(match batches {
        0 => "nothing is old enough: sotto retention plan".to_owned(),
        _ => format!("{} {batches} batches of events are gone", output.tone(Tone::Good, "trimmed")),
    })
}

fn tell_rule(rule: &RetentionRule, output: &Output) -> Result<(), CliError> {
    let RetentionRule { class, kept_s, least_s, most_s, longer_s, why } = rule;
    output.json(&serde_json::json!({
        "what": "class", "class": class, "kept_seconds": kept_s, "least_seconds": least_s,
        "most_seconds": most_s, "key_lives_longer_seconds": longer_s, "why": why,
    }))?;
    output.line(format!(
        "{class:14} waits at most {kept_s} s (allowed {least_s} to {most_s}: {why}); its key dies at most {longer_s} s later"
    ))
}

/// What the log says of destroyed keys.
#[derive(Default)]
struct Deletions {
    /// Public keys that the log names for receipts, by the short id that receipts use.
    keys: BTreeMap<String, PublicKey>,
    /// Buckets whose receipt verifies, with it.
    proved: BTreeMap<String, Deletion>,
    /// Buckets that have a receipt which nobody signed.
    unsigned: BTreeSet<String>,
    faults: Vec<String>,
    more_faults: u64,
}

impl Deletions {
    fn take(&mut self, cell: &CellId, index: u64, entry: &[u8], pinned: Option<PublicKey>) {
        let content = LogEntry::decode(entry).ok().and_then(|entry| entry.content);
        let Some(Content::Act(act)) = content else { return };
        if !act.producer.starts_with("privacy/") {
            return;
        }
        match act.action.as_str() {
            KEY_ACTION => match PublicKey::from_jwk_x(&act.object) {
                Some(key) => drop(self.keys.insert(short_id(key), key)),
                None => self.fault(index, "names a key of receipts that is none"),
            },
            ACTION => self.receipt(cell, index, &act, pinned),
            _ => {}
        }
    }

    fn receipt(&mut self, cell: &CellId, index: u64, act: &Act, pinned: Option<PublicKey>) {
        let read = Deletion::of_act(cell.clone(), act.at_s, &act.tenant, &act.object);
        let Some((deletion, seal)) = read else {
            // Of a version that signed none.
            self.unsigned.extend(act.object.split(',').next().map(str::to_owned));
            return;
        };
        let Some(Seal { key_id, signature }) = seal else {
            self.unsigned.insert(deletion.bucket);
            return;
        };
        let key = pinned.or_else(|| self.keys.get(&key_id).copied());
        let Some(key) = key.filter(|key| short_id(*key) == key_id) else {
            self.fault(index, "is signed with a key that was not told before");
            return;
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
        if key.verify(deletion.to_string().as_bytes(), &signature).is_err() {
            self.fault(index, "is a receipt whose signature does not verify");
            return;
        }
        match self.proved.get(&deletion.bucket) {
            Some(before) if *before != deletion => self.fault(index, "contradicts an earlier receipt"),
            _ => drop(self.proved.insert(deletion.bucket.clone(), deletion)),
        }
    }

    fn fault(&mut self, index: u64, what: &str) {
        if self.faults.len() < TOLD {
            self.faults.push(format!("entry {index} {what}"));
        } else {
            self.more_faults += 1;
        }
    }

    /// Keys that privacy destroyed and of which the log has no good receipt.
    fn missing(&self, known: &[KeyFacts], now: Timestamp) -> Vec<String> {
        let is_due = |key: &&KeyFacts| {
            let at = key.destroyed_at.map(from_wire_time);
            key.state() == KeyState::Destroyed && at.is_some_and(|at| now.since(at) >= ON_ITS_WAY)
        };
        let lacks = |key: &&KeyFacts| {
            self.proved.get(&key.bucket).is_none_or(|proved| proved.generation != key.generation)
        };
        known.iter().filter(is_due).filter(lacks).map(|key| key.bucket.clone()).collect()
    }
}

/// The first characters of a key's id, as receipts name it.
fn short_id(key: PublicKey) -> String {
    key.thumbprint().chars().take(8).collect()
}

fn status(
    dir: &CellDir,
    log: &std::path::Path,
    key: Option<&str>,
    known: Option<&ListKeysResponse>,
    now: Timestamp,
    output: &Output,
) -> Result<(), CliError> {
    let pinned = key.map(|text| {
        PublicKey::from_jwk_x(text).ok_or_else(|| {
            CliError::new("the key is not an Ed25519 public key")
                .fix("give the x of its JWK, as sotto retention status tells it")
        })
    });
    let pinned = pinned.transpose()?;
    let cell = dir.open()?.id;
    let mut found = Deletions::default();
    let checked = fsck(&Directory::new(log), &pinned_key(dir)?, None, |index, entry| {
        found.take(&cell, index, entry, pinned);
    });
    let report = checked.map_err(|fault| {
        CliError::caused_by(format!("the log in {} does not verify", log.display()), &fault)
            .fix("do not repair it: keep it, and find out who changed it (sotto audit verify)")
    })?;
    for deletion in found.proved.values() {
        let at = Timestamp::from_unix_seconds(deletion.destroyed_at_s);
        output.json(&serde_json::json!({
            "bucket": deletion.bucket, "destroyed_at": at.to_string(), "generation": deletion.generation,
            "session_keys_at_most": deletion.wraps_at_most, "verified": true,
        }))?;
        output.line(format!(
            "{:28}  destroyed {at}  at most {} session keys  generation {}",
            deletion.bucket, deletion.wraps_at_most, deletion.generation
        ))?;
    }
    let unsigned: Vec<_> = found.unsigned.iter().filter(|name| !found.proved.contains_key(*name)).collect();
    let missing = known.map(|known| found.missing(&known.keys, now)).unwrap_or_default();
    let faults = u64::try_from(found.faults.len()).unwrap_or(u64::MAX).saturating_add(found.more_faults);
    let keys: Vec<_> = found.keys.values().map(|key| key.jwk_x()).collect();
    let bad = faults > 0 || !missing.is_empty();
    output.json(&serde_json::json!({
        "verified": !bad, "entries": report.checkpoint.size, "receipts": found.proved.len(),
        "unsigned": unsigned, "missing": missing, "faults": found.faults, "keys": keys,
    }))?;
    for fault in &found.faults {
        output.line(output.tone(Tone::Bad, fault))?;
    }
    for bucket in &unsigned {
        output.line(output.tone(Tone::Faint, &format!("{bucket}  destroyed, and nobody signed it")))?;
    }
    for bucket in &missing {
        output.line(
            output.tone(Tone::Bad, &format!("{bucket}  destroyed, and the log has no receipt of it")),
        )?;
    }
    output.line(format!("receipts are signed with {}", keys.join(", ")))?;
    if bad {
        let problem = format!("{faults} receipt(s) are not as they must be, {} are missing", missing.len());
        return Err(CliError::new(problem).fix("docs/runbooks/receipt-missing.md"));
    }
    output.line(format!(
        "{} {} receipts in {} entries of the log",
        output.tone(Tone::Good, "verified"),
        found.proved.len(),
        report.checkpoint.size
    ))
}

#[cfg(test)]
mod tests {
    use sotto_crypto::sign::SigningKey;

    use super::*;

    const AT: i64 = 1_795_497_600;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32]).unwrap()
    }

    fn cell() -> CellId {
        "vn".parse().unwrap()
    }

    fn deletion(generation: u64) -> Deletion {
        Deletion {
            cell: cell(),
            bucket: "otp/2026-11-24T06".to_owned(),
            made_at_ms: 1_795_493_815_007,
            destroyed_at_s: AT,
            wraps_at_most: 65_536,
            generation,
        }
    }

    fn signed(by: &SigningKey, deletion: &Deletion) -> String {
        let signature = URL_SAFE_NO_PAD.encode(by.sign(deletion.to_string().as_bytes()).unwrap());
        deletion.object(Some(&Seal { key_id: short_id(by.public()), signature }))
    }

    fn entry(producer: &str, action: &str, object: String) -> Vec<u8> {
        let act = Act {
            producer: producer.to_owned(),
            at_s: AT,
            action: action.to_owned(),
            object,
            ..Default::default()
        };
        LogEntry { version: 1, content: Some(Content::Act(act)) }.encode_to_vec()
    }

    /// What is found in a log of these acts of privacy's.
    fn found(acts: &[(&str, String)], pinned: Option<PublicKey>) -> Deletions {
        let mut found = Deletions::default();
        for (index, (action, object)) in (0..).zip(acts) {
            found.take(&cell(), index, &entry("privacy/a", action, object.clone()), pinned);
        }
        found
    }

    #[test]
    fn a_receipt_is_good_by_a_key_that_was_told_before_it_or_is_noted_elsewhere() {
        let (ours, other) = (key(1), key(2));
        let receipt = || (ACTION, signed(&ours, &deletion(9)));
        let told = || (KEY_ACTION, ours.public().jwk_x());
        let good = found(&[told(), receipt(), receipt()], None);
        assert_eq!((good.proved.len(), good.faults.as_slice()), (1, &[][..]), "told twice is one");
        assert!(found(&[receipt()], Some(ours.public())).faults.is_empty());
        for (acts, pinned) in [
            (vec![receipt()], None),
            (vec![receipt(), told()], None),
            (vec![told(), receipt()], Some(other.public())),
            (vec![(KEY_ACTION, other.public().jwk_x()), receipt()], None),
        ] {
            let bad = found(&acts, pinned);
            assert_eq!((bad.proved.len(), bad.faults.len()), (0, 1), "{acts:?}");
        }
    }

    #[test]
    fn a_receipt_that_was_altered_contradicts_another_or_is_of_somebody_else_does_not_count() {
        let ours = key(1);
        let told = (KEY_ACTION, ours.public().jwk_x());
        let object = signed(&ours, &deletion(9));
        for altered in [object.replace("generation=9", "generation=8"), object.replace("T06", "T07")] {
            let bad = found(&[told.clone(), (ACTION, altered)], None);
            assert_eq!((bad.proved.len(), bad.faults.len()), (0, 1));
        }
        let twice = [told.clone(), (ACTION, object.clone()), (ACTION, signed(&ours, &deletion(10)))];
        assert_eq!(found(&twice, None).faults, ["entry 2 contradicts an earlier receipt"]);
        let mut of_other = found(std::slice::from_ref(&told), None);
        of_other.take(&cell(), 1, &entry("identity/a", ACTION, object), None);
        assert!(of_other.proved.is_empty() && of_other.faults.is_empty());
        let unsigned = found(&[told, (ACTION, deletion(9).object(None))], None);
        assert_eq!(unsigned.unsigned.len(), 1);
        assert!(unsigned.proved.is_empty() && unsigned.faults.is_empty());
    }

    #[test]
    fn what_privacy_destroyed_a_minute_ago_must_have_its_receipt() {
        let ours = key(1);
        let proved =
            found(&[(KEY_ACTION, ours.public().jwk_x()), (ACTION, signed(&ours, &deletion(9)))], None);
        let known = |bucket: &str, generation| KeyFacts {
            bucket: bucket.to_owned(),
            state: KeyState::Destroyed.into(),
            destroyed_at: Some(sotto_proto::to_wire_time(Timestamp::from_unix_seconds(AT))),
            generation,
            ..Default::default()
        };
        let known = [known("otp/2026-11-24T06", 9), known("otp/2026-11-24T07", 10)];
        let at = Timestamp::from_unix_seconds(AT);
        assert!(proved.missing(&known, at.plus(Duration::from_secs(59))).is_empty(), "it is on its way");
        assert_eq!(proved.missing(&known, at.plus(Duration::from_secs(60))), ["otp/2026-11-24T07"]);
        // The same name from an older keystore is another destruction.
        let other = [KeyFacts { generation: 8, ..known[0].clone() }];
        assert_eq!(proved.missing(&other, at.plus(Duration::from_secs(60))).len(), 1);
    }
}
