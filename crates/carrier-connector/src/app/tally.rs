//! What a carrier answered, counted.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sotto_smpp::CommandStatus;

use crate::domain::claim::PartEnd;

/// Kinds that are counted by themselves: more than any carrier has.
const KINDS: usize = 64;

/// Answers by kind, since the process started.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    /// Counts how a part ended. What was never written has no answer.
    pub(super) fn note(&self, end: &PartEnd) {
        let kind = match end {
            PartEnd::Submitted { .. } => "submitted".to_owned(),
            PartEnd::Refused { status } => CommandStatus(*status).to_string(),
            PartEnd::NoResponse => "no_response".to_owned(),
            PartEnd::Unsent { .. } => return,
        };
        let mut counts = self.lock();
        let kind = if counts.len() < KINDS || counts.contains_key(&kind) { kind } else { "other".to_owned() };
        let count = counts.entry(kind).or_default();
        *count = count.saturating_add(1);
    }

    /// The counts now.
    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        self.lock().iter().map(|(kind, count)| (kind.clone(), *count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_bounded_and_nothing_is_left_out() {
        let tally = Tally::default();
        for status in 1..=200 {
            tally.note(&PartEnd::Refused { status });
        }
        tally.note(&PartEnd::Submitted { carrier_id: "c1".to_owned() });
        tally.note(&PartEnd::Refused { status: 0x58 });
        let counts = tally.counts();
        assert_eq!(counts.len(), KINDS + 1);
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 202);
    }

    #[test]
    fn each_kind_has_its_name() {
        let tally = Tally::default();
        tally.note(&PartEnd::Refused { status: 0x58 });
        tally.note(&PartEnd::NoResponse);
        tally.note(&PartEnd::Submitted { carrier_id: String::new() });
        tally.note(&PartEnd::Unsent { end: sotto_core::work::AttemptEnd::LinkDown });
        let counts = tally.counts();
        let names: Vec<_> = counts.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        assert_eq!(names, [("ESME_RTHROTTLED", 1), ("no_response", 1), ("submitted", 1)]);
    }
}
