//! Between the log's entries and their protobuf form, both ways; from records off the broker to acts.

use prost::Message as _;
use sotto_core::{Classified, ErrorClass, delivery::Outcome, ledger::Sums};
use sotto_proto::{
    audit::v1::{self as audit, log_entry::Content},
    pipeline::v1::AuditRecord,
};
use sotto_tlog::Hash;

use crate::domain::{Act, Category, ClosingBalance, Entry, EventRange, Gap, InvalidAct};

/// The version of the entries written.
const VERSION: u32 = 1;

/// The bytes of a leaf. prost writes fields in the order of their numbers, so an entry has one spelling.
#[must_use]
pub fn encode(entry: &Entry) -> Vec<u8> {
    let content = match entry.clone() {
        Entry::Act(act) => Content::Act(audit::Act {
            producer: act.producer,
            sequence: act.sequence,
            at_s: act.at_s,
            category: act.category.as_str().to_owned(),
            action: act.action,
            actor: act.actor,
            tenant: act.tenant,
            object: act.object,
            outcome: act.outcome,
        }),
        Entry::EventRange(range) => Content::EventRange(from_range(range)),
        Entry::Gap(gap) => Content::Gap(audit::Gap {
            producer: gap.producer,
            first_missing: gap.first,
            last_missing: gap.last,
        }),
        Entry::ClosingBalance(balance) => Content::ClosingBalance(from_balance(&balance)),
    };
    audit::LogEntry { version: VERSION, content: Some(content) }.encode_to_vec()
}

/// Reads a leaf of this log.
///
/// # Errors
/// [`UnknownEntry`] for what this version does not write.
pub fn decode(bytes: &[u8]) -> Result<Entry, UnknownEntry> {
    let entry = audit::LogEntry::decode(bytes).map_err(|_| UnknownEntry)?;
    if entry.version != VERSION {
        return Err(UnknownEntry);
    }
    match entry.content.ok_or(UnknownEntry)? {
        Content::Act(act) => Ok(Entry::Act(Act {
            producer: act.producer,
            sequence: act.sequence,
            at_s: act.at_s,
            category: Category::of(&act.category).ok_or(UnknownEntry)?,
            action: act.action,
            actor: act.actor,
            tenant: act.tenant,
            object: act.object,
            outcome: act.outcome,
        })),
        Content::EventRange(range) => Ok(Entry::EventRange(to_range(&range)?)),
        Content::ClosingBalance(balance) => Ok(Entry::ClosingBalance(to_balance(&balance)?)),
        Content::Gap(gap) => {
            Ok(Entry::Gap(Gap { producer: gap.producer, first: gap.first_missing, last: gap.last_missing }))
        }
    }
}

fn from_range(range: EventRange) -> audit::EventRange {
    audit::EventRange {
        first_sequence: range.first,
        last_sequence: range.last,
        root: range.root.as_bytes().to_vec().into(),
        batches: range.batches,
    }
}

fn to_range(range: &audit::EventRange) -> Result<EventRange, UnknownEntry> {
    Ok(EventRange {
        first: range.first_sequence,
        last: range.last_sequence,
        root: Hash::from_slice(&range.root).ok_or(UnknownEntry)?,
        batches: range.batches,
    })
}

fn from_balance(balance: &ClosingBalance) -> audit::ClosingBalance {
    let ClosingBalance { through, stored_s, sums, orphans, unreadable, carried } = balance;
    let ended = |outcome| sums.ended.get(&outcome).copied().unwrap_or(0);
    audit::ClosingBalance {
        through_sequence: *through,
        stored_s: *stored_s,
        delivered: ended(Outcome::Delivered),
        undelivered: ended(Outcome::Undelivered),
        rejected: ended(Outcome::Rejected),
        expired: ended(Outcome::Expired),
        cancelled: ended(Outcome::Cancelled),
        unknown: ended(Outcome::Unknown),
        corrected: sums.corrected,
        strange_events: sums.strange,
        orphan_receipts: *orphans,
        unreadable_batches: *unreadable,
        carried: carried.map(from_range),
    }
}

fn to_balance(balance: &audit::ClosingBalance) -> Result<ClosingBalance, UnknownEntry> {
    Ok(ClosingBalance {
        through: balance.through_sequence,
        stored_s: balance.stored_s,
        sums: Sums::from(balance),
        orphans: balance.orphan_receipts,
        unreadable: balance.unreadable_batches,
        carried: balance.carried.as_ref().map(to_range).transpose()?,
    })
}

/// A leaf that is none of this version's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the entry is not a LogEntry of version {VERSION}")]
pub struct UnknownEntry;

impl Classified for UnknownEntry {
    fn class(&self) -> ErrorClass {
        ErrorClass::Bug
    }
}

/// Takes a record off the broker that was told under this service's subject of this category.
///
/// # Errors
/// [`RefusedAct`]: the record goes to quarantine.
pub fn told(record: AuditRecord, service: &str, category: &str) -> Result<Act, RefusedAct> {
    // The broker lets a service publish under its own name only. Were the record taken at its word, one service could
    // use up the numbers of another, whose own records would then count as repeats.
    let own = record.producer.split_once('/').is_some_and(|(name, _)| name == service);
    if !own {
        return Err(RefusedAct::Foreign { field: "producer" });
    }
    if record.category != category {
        return Err(RefusedAct::Foreign { field: "category" });
    }
    Ok(act(record)?)
}

/// A record that no entry is made of; it never gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedAct {
    /// By itself.
    #[error(transparent)]
    Invalid(#[from] InvalidAct),
    /// It is not of the subject that it came on.
    #[error("the record's {field} is not that of its subject")]
    Foreign {
        /// Which field.
        field: &'static str,
    },
}

impl Classified for RefusedAct {
    fn class(&self) -> ErrorClass {
        ErrorClass::Poison
    }
}

fn act(record: AuditRecord) -> Result<Act, InvalidAct> {
    Act {
        category: Category::of(&record.category).ok_or(InvalidAct { field: "category" })?,
        producer: record.producer,
        sequence: record.sequence,
        at_s: record.at_s,
        action: record.action,
        actor: record.actor,
        tenant: record.tenant,
        object: record.object,
        outcome: record.outcome,
    }
    .check()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Entry> {
        let acts = ("[a-z]{1,9}/[0-9a-f]{16}", 1..u64::MAX, 1..i64::MAX, "[!-~]{0,40}").prop_map(
            |(producer, sequence, at_s, name)| {
                Entry::Act(Act {
                    producer,
                    sequence,
                    at_s,
                    category: Category::Keys,
                    action: name.clone(),
                    actor: name.clone(),
                    tenant: name.clone(),
                    object: name.clone(),
                    outcome: name,
                })
            },
        );
        let ranges =
            (any::<(u64, u64, u64)>(), any::<[u8; 32]>()).prop_map(|((first, last, batches), root)| {
                Entry::EventRange(EventRange { first, last, root: root.into(), batches })
            });
        let gaps = ("[a-z]{1,9}/[0-9a-f]{16}", any::<(u64, u64)>())
            .prop_map(|(producer, (first, last))| Entry::Gap(Gap { producer, first, last }));
        let balances = (any::<(u64, i64, u64, u64)>(), any::<[u64; 6]>(), any::<Option<(u64, [u8; 32])>>());
        let balances = balances.prop_map(|((through, stored_s, orphans, unreadable), counts, carried)| {
            let ended = Outcome::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
            let sums = Sums { ended, corrected: counts[0] / 2, strange: counts[1] };
            let carried = carried.map(|(first, root)| EventRange {
                first,
                last: through,
                root: root.into(),
                batches: orphans,
            });
            Entry::ClosingBalance(ClosingBalance { through, stored_s, sums, orphans, unreadable, carried })
        });
        prop_oneof![acts, ranges, gaps, balances]
    }

    proptest! {
        #[test]
        fn entries_survive(entry in entries()) {
            prop_assert_eq!(decode(&encode(&entry)), Ok(entry));
        }

        #[test]
        fn noise_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(entry) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&entry)), Ok(entry));
            }
        }
    }

    #[test]
    fn the_largest_act_fits_in_a_bundle_many_times() {
        let record = AuditRecord {
            producer: format!("{}/{}", "s".repeat(32), "i".repeat(64)),
            sequence: u64::MAX,
            at_s: i64::MAX,
            category: "authentication".to_owned(),
            action: "a".repeat(64),
            actor: "a".repeat(128),
            tenant: "t".repeat(40),
            object: "o".repeat(200),
            outcome: "o".repeat(64),
        };
        let act = act(record).unwrap();
        assert!(encode(&Entry::Act(act)).len() < 1024);
    }

    #[test]
    fn a_service_tells_only_its_own_acts() {
        let record = |producer: &str| AuditRecord {
            producer: producer.to_owned(),
            sequence: 57,
            at_s: 1,
            category: "keys".to_owned(),
            action: "key.made".to_owned(),
            actor: "identity".to_owned(),
            outcome: "ok".to_owned(),
            ..AuditRecord::default()
        };
        assert!(told(record("identity/1"), "identity", "keys").is_ok());
        let foreign = |field| Err(RefusedAct::Foreign { field });
        for other in ["routing/1", "identity", "identity2/1", "", "/identity/1"] {
            assert_eq!(told(record(other), "identity", "keys"), foreign("producer"), "{other}");
        }
        assert_eq!(told(record("identity/1"), "identity", "payload"), foreign("category"));
        let invalid = Err(RefusedAct::Invalid(InvalidAct { field: "producer" }));
        assert_eq!(told(record("identity/two words"), "identity", "keys"), invalid);
    }

    #[test]
    fn another_version_is_refused() {
        let entry = audit::LogEntry { version: 2, content: Some(Content::Gap(audit::Gap::default())) };
        assert_eq!(decode(&entry.encode_to_vec()), Err(UnknownEntry));
        assert_eq!(decode(b""), Err(UnknownEntry));
    }
}
