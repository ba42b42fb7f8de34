//! What is told of the use of keys: counts once a minute, the first refusal of a kind at once.

use std::collections::BTreeMap;

use sotto_core::{AccountId, TenantId};

use super::bucket::Contents;

/// More kinds of use in a minute than any cell has; what comes above is counted together.
const MAX_KINDS: usize = 8192;

/// Refusals told at once, in a minute; those above wait for its end.
const MAX_AT_ONCE: usize = 64;

/// How the use of a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// A key was handed over.
    Ok,
    /// The caller's certificate is of a service that may not.
    NotThisService,
    /// Retention does not reach so far, or the time is over.
    OutOfRange,
    /// The account may not carry the tenant's messages.
    NotAllowed,
    /// The wrap is malformed or belongs elsewhere.
    Invalid,
    /// The bucket is dead.
    Destroyed,
    /// The bucket was never made here.
    UnknownBucket,
    /// The account opens too many keys.
    TooMany,
    /// The keystore failed.
    Failed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::NotThisService,
        Self::OutOfRange,
        Self::NotAllowed,
        Self::Invalid,
        Self::Destroyed,
        Self::UnknownBucket,
        Self::TooMany,
        Self::Failed,
    ];

    /// The stable name, in the audit log and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotThisService => "not_this_service",
            Self::OutOfRange => "out_of_range",
            Self::NotAllowed => "not_allowed",
            Self::Invalid => "invalid",
            Self::Destroyed => "destroyed",
            Self::UnknownBucket => "unknown_bucket",
            Self::TooMany => "too_many",
            Self::Failed => "failed",
        }
    }
}

/// What was done with a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// A session key was asked for.
    Make {
        /// For this class.
        contents: Contents,
    },
    /// Session keys were to be opened.
    Open {
        /// For this account; none when the caller named none that parses.
        account: Option<AccountId>,
    },
    /// The keys of a tenant's pseudonyms were asked for.
    ListPseudonymKeys,
    /// What exceeded the number of kinds.
    Other,
}

impl Deed {
    /// The action's name in the audit log.
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Make { .. } => "session_key.made",
            Self::Open { .. } => "session_key.opened",
            Self::ListPseudonymKeys => "pseudonym_keys.listed",
            Self::Other => "session_key.used",
        }
    }
}

/// One kind of use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The service that asked.
    pub caller: &'static str,
    /// What it asked for.
    pub deed: Deed,
    /// Whose messages.
    pub tenant: Option<TenantId>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Use {
    /// The use as the audit log groups it: opened keys by account and tenant, against which audit holds what connectors
    /// announced; refused ones by account and outcome, whatever the tenant.
    fn grouped(&self) -> Self {
        match (&self.deed, self.outcome) {
            (Deed::Make { .. } | Deed::ListPseudonymKeys, _) | (Deed::Open { .. }, Outcome::Ok) => {
                self.clone()
            }
            (Deed::Open { .. } | Deed::Other, _) => Self { tenant: None, ..self.clone() },
        }
    }
}

/// The counts of the running minute.
#[derive(Debug, Default)]
pub struct Tally {
    counts: BTreeMap<Use, u64>,
    /// What the audit log has been told already, of the running minute.
    told: BTreeMap<Use, u64>,
}

/// What a minute comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// By account and tenant, for the log.
    pub counts: Vec<(Use, u64)>,
    /// For the audit log, without what was told at once.
    pub audit: Vec<(Use, u64)>,
}

impl Tally {
    /// Counts `keys` of one use. Returns what must be told at once: the first refusal of its kind in the minute.
    pub fn count(&mut self, one: Use, keys: u64) -> Option<Use> {
        let one = if self.counts.len() < MAX_KINDS || self.counts.contains_key(&one) {
            one
        } else {
            Use { caller: one.caller, deed: Deed::Other, tenant: None, outcome: one.outcome }
        };
        *self.counts.entry(one.clone()).or_default() += keys;
        let group = one.grouped();
        let at_once =
            one.outcome != Outcome::Ok && self.told.len() < MAX_AT_ONCE && !self.told.contains_key(&group);
        at_once.then(|| {
            self.told.insert(group, keys);
            one
        })
    }

    /// Ends the minute.
    pub fn end(&mut self) -> Minute {
        let counts = std::mem::take(&mut self.counts);
        let told = std::mem::take(&mut self.told);
        let mut groups: BTreeMap<Use, u64> = BTreeMap::new();
        for (one, keys) in &counts {
            *groups.entry(one.grouped()).or_default() += keys;
        }
        let left = |(group, keys): (Use, u64)| {
            let keys = keys.saturating_sub(told.get(&group).copied().unwrap_or(0));
            (keys > 0).then_some((group, keys))
        };
        Minute { counts: counts.into_iter().collect(), audit: groups.into_iter().filter_map(left).collect() }
    }
}

/// Counts the uses of one request before they are tallied.
#[derive(Debug, Default)]
pub struct Batch(BTreeMap<Use, u64>);

impl Batch {
    /// Counts one key.
    pub fn add(&mut self, one: Use) {
        *self.0.entry(one).or_default() += 1;
    }
}

impl IntoIterator for Batch {
    type Item = (Use, u64);
    type IntoIter = std::collections::btree_map::IntoIter<Use, u64>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opened(account: &str, tenant: &str, outcome: Outcome) -> Use {
        Use {
            caller: "carrier",
            deed: Deed::Open { account: Some(account.parse().unwrap()) },
            tenant: Some(tenant.parse().unwrap()),
            outcome,
        }
    }

    #[test]
    fn successes_wait_for_the_minute_and_first_refusals_do_not() {
        let mut tally = Tally::default();
        assert_eq!(tally.count(opened("a", "t", Outcome::Ok), 5), None);
        assert_eq!(tally.count(opened("a", "u", Outcome::Ok), 2), None);
        let refused = opened("a", "t", Outcome::NotAllowed);
        assert_eq!(tally.count(refused.clone(), 3), Some(refused.clone()), "with its tenant");
        assert_eq!(tally.count(opened("a", "u", Outcome::NotAllowed), 4), None, "the same group");
        assert!(tally.count(opened("b", "t", Outcome::NotAllowed), 1).is_some(), "another account");
        let minute = tally.end();
        assert_eq!(minute.counts.len(), 5);
        let audit: Vec<_> =
            minute.audit.iter().map(|(one, keys)| (one.tenant.is_some(), one.outcome, *keys)).collect();
        assert_eq!(audit, [(false, Outcome::NotAllowed, 4), (true, Outcome::Ok, 5), (true, Outcome::Ok, 2)]);
        assert_eq!(tally.end(), Minute::default());
        assert!(tally.count(refused, 1).is_some(), "a new minute tells again");
    }

    #[test]
    fn a_flood_of_kinds_is_bounded_and_counted() {
        let mut tally = Tally::default();
        let mut at_once = 0;
        for number in 0..20_000 {
            at_once +=
                u32::from(tally.count(opened(&format!("a{number}"), "t", Outcome::Invalid), 1).is_some());
        }
        assert_eq!(at_once, 64);
        let minute = tally.end();
        assert_eq!(minute.counts.len(), MAX_KINDS + 1);
        assert_eq!(minute.counts.iter().map(|(_, keys)| keys).sum::<u64>(), 20_000);
    }

    proptest! {
        #[test]
        fn the_audit_log_hears_of_every_key_once(
            uses in proptest::collection::vec((0_u8..4, 0_u8..3, 0_u8..3, 1_u64..9), 0..100),
        ) {
            let mut tally = Tally::default();
            let (mut all, mut heard) = (0, 0);
            for (account, tenant, outcome, keys) in uses {
                let outcome = [Outcome::Ok, Outcome::Destroyed, Outcome::TooMany][usize::from(outcome)];
                let one = opened(&format!("a{account}"), &format!("t{tenant}"), outcome);
                all += keys;
                if tally.count(one, keys).is_some() {
                    heard += keys;
                }
            }
            let minute = tally.end();
            prop_assert_eq!(minute.counts.iter().map(|(_, keys)| keys).sum::<u64>(), all);
            prop_assert_eq!(heard + minute.audit.iter().map(|(_, keys)| keys).sum::<u64>(), all);
        }
    }
}
