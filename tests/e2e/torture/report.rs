//! What a run found, in one line of JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sotto_proto::message::v1::MessageState;

use super::{
    smsc::{Part, repeated},
    traffic::{self, Sent},
};

/// A fault that came.
#[derive(Clone, Debug)]
pub(super) struct Struck {
    pub(super) what: String,
    /// Milliseconds since the Unix epoch.
    pub(super) at: i64,
    /// How many messages it may leave without a known end.
    pub(super) explains: usize,
}

pub(super) struct Report {
    /// Nobody knows whether they were delivered.
    pub(super) unknown: usize,
    /// As many as the faults explain.
    pub(super) allowed: usize,
    /// Delivered, it is said, but the carrier was not given every part.
    pub(super) lost: Vec<u32>,
    /// Ends that no fault explains.
    pub(super) other: Vec<String>,
    told: Value,
}

impl Report {
    pub(super) fn new(
        seed: u64,
        minutes: Option<u64>,
        struck: &[Struck],
        sent: &[Sent],
        ends: &[(String, MessageState)],
        parts: &[Part],
    ) -> Self {
        let numbers: BTreeMap<_, _> = sent.iter().map(|one| (one.id.as_str(), one.number)).collect();
        assert_eq!(numbers.len(), sent.len(), "two messages have one id");
        let given: BTreeSet<_> = parts.iter().map(|part| part.key).collect();
        let (mut delivered, mut unknown) = (0, 0);
        let (mut lost, mut other) = (Vec::new(), Vec::new());
        for (id, state) in ends {
            match state {
                MessageState::Delivered => {
                    delivered += 1;
                    let number = *numbers.get(id.as_str()).unwrap();
                    if (1..=traffic::parts(number)).any(|part| !given.contains(&(number, part))) {
                        lost.push(number);
                    }
                }
                MessageState::Submitted | MessageState::InDoubt | MessageState::Unknown => unknown += 1,
                MessageState::Unspecified
                | MessageState::Accepted
                | MessageState::Routed
                | MessageState::Undelivered
                | MessageState::Rejected
                | MessageState::Expired
                | MessageState::Cancelled
                | MessageState::Scheduled => other.push(format!("{id} {state:?}")),
            }
        }
        let allowed = struck.iter().map(|struck| struck.explains).sum();
        let mut refused: BTreeMap<&str, u32> = BTreeMap::new();
        for (heard, times) in sent.iter().flat_map(|one| &one.refused) {
            *refused.entry(heard).or_default() += times;
        }
        let mut faults: BTreeMap<String, u32> = BTreeMap::new();
        for struck in struck {
            *faults.entry(struck.what.clone()).or_default() += 1;
        }
        let reached = struck.iter().filter(|struck| struck.what.starts_with("die at ")).count();
        let told = json!({
            "seed": seed, "minutes": minutes, "faults": struck.len(), "failpoints_reached": reached,
            "messages": sent.len(), "parts": parts.len(), "delivered": delivered, "lost": lost.len(),
            "duplicated": repeated(parts).len(), "unknown": unknown, "unknown_explained": allowed,
            "refused": refused, "recovery_ms": recovery(struck, sent, parts), "by_kind": faults,
        });
        Self { unknown, allowed, lost, other, told }
    }

    pub(super) fn line(&self) -> String {
        self.told.to_string()
    }
}

/// By kind of fault, the time from a fault to the next part, at the carrier, of a message that was begun after it: median
/// and most.
fn recovery(struck: &[Struck], sent: &[Sent], parts: &[Part]) -> Value {
    let begun: BTreeMap<_, _> = sent.iter().map(|one| (one.number, one.begun)).collect();
    let mut by_kind: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for struck in struck {
        let after = |part: &&Part| begun.get(&part.key.0).is_some_and(|begun| *begun >= struck.at);
        if let Some(first) = parts.iter().filter(after).map(|part| part.at).min() {
            by_kind.entry(struck.what.clone()).or_default().push(first - struck.at);
        }
    }
    let figures = by_kind.into_iter().map(|(kind, mut times)| {
        times.sort_unstable();
        let (median, most) = (times.get(times.len().saturating_sub(1) / 2), times.last());
        (kind, json!({ "p50": median, "max": most }))
    });
    Value::Object(figures.collect())
}
