//! What the connectors keep in Redis, and the scripts that decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sotto_core::{AccountId, WorkItem, cancel, delivery::EventKind};

use super::{Key, LEASE, Record, Rules, time};
use crate::domain::claim::{Claim, ClaimState, PartEnd, Standing};

/// Redis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ledger {
    /// Whether it was built or rebuilt since it was lost.
    pub(super) ready: bool,
    /// How often it was rebuilt.
    pub(super) epoch: u8,
    pub(super) claims: BTreeMap<Key, Claim>,
    /// The mark of the message: an attempt, or cancelled.
    pub(super) mark: Option<String>,
    /// Ids of the carrier that stand for their part.
    pub(super) ids: BTreeSet<Key>,
    pub(super) parked: BTreeSet<Key>,
    /// Intents of which the log told no end when it was last replayed.
    pub(super) restored: BTreeSet<Key>,
}

/// What came of a claim.
pub(super) enum Claimed {
    Won,
    Lost(Standing),
    Cancelled,
}

/// Where a claimed item stands at the fence.
pub(super) enum Fence {
    Passed,
    Taken,
    Cancelled,
    NotReady,
}

pub(super) fn keys(item: &WorkItem) -> Vec<Key> {
    item.wanted_parts().into_iter().map(|part| (item.attempt, part)).collect()
}

impl Ledger {
    pub(super) const fn new() -> Self {
        Self {
            ready: true,
            epoch: 0,
            claims: BTreeMap::new(),
            mark: None,
            ids: BTreeSet::new(),
            parked: BTreeSet::new(),
            restored: BTreeSet::new(),
        }
    }

    fn is_cancelled(&self) -> bool {
        self.mark.as_deref() == Some(cancel::CANCELLED)
    }

    /// How an item stands for an account, as [`crate::domain::claim::judge`] says it.
    pub(super) fn standing(&self, rules: &Rules, item: &WorkItem, account: &AccountId, now: i64) -> Standing {
        let claims: Vec<_> = keys(item).iter().map(|key| (key.1, self.claims.get(key).cloned())).collect();
        (rules.judge)(&claims, account, time(now))
    }

    /// `claim.lua`
    pub(super) fn claim(
        &mut self,
        rules: &Rules,
        item: &WorkItem,
        token: &str,
        enter: &ClaimState,
        now: i64,
    ) -> Claimed {
        let Some(account) = &item.account else { return Claimed::Lost(Standing::Finished) };
        match self.standing(rules, item, account, now) {
            Standing::Free if self.is_cancelled() => Claimed::Cancelled,
            Standing::Free => {
                self.set(item, token, now + LEASE, enter);
                Claimed::Won
            }
            lost @ (Standing::Held { .. } | Standing::Finished | Standing::Abandoned(_)) => {
                Claimed::Lost(lost)
            }
        }
    }

    fn set(&mut self, item: &WorkItem, token: &str, until: i64, state: &ClaimState) {
        for key in keys(item) {
            let claim = Claim { token: token.to_owned(), until: time(until), state: state.clone() };
            self.claims.insert(key, claim);
        }
    }

    /// `intend.lua`
    pub(super) fn intend(
        &mut self,
        item: &WorkItem,
        token: &str,
        epoch: Option<u8>,
        intended_at: i64,
        now: i64,
    ) -> Fence {
        if !self.ready || epoch.is_some_and(|epoch| epoch != self.epoch) {
            return Fence::NotReady;
        }
        let again = epoch.is_none();
        let restored = item.account.as_ref().map(|account| restored(account, intended_at));
        let ours = keys(item).iter().all(|key| match self.claims.get(key) {
            Some(claim) => {
                let mine =
                    claim.token == token && matches!(claim.state, ClaimState::Claimed | ClaimState::Intent);
                mine || (again && Some(claim) == restored.as_ref())
            }
            None => again,
        });
        if !ours {
            return Fence::Taken;
        }
        if self.is_cancelled() {
            return Fence::Cancelled;
        }
        self.mark = Some(item.attempt.to_string());
        self.set(item, token, now + LEASE, &ClaimState::Intent);
        Fence::Passed
    }

    /// `release.lua`
    pub(super) fn release(&mut self, item: &WorkItem, token: &str) {
        for key in keys(item) {
            let mine = |claim: &Claim| claim.token == token && claim.state == ClaimState::Claimed;
            if self.claims.get(&key).is_some_and(mine) {
                self.claims.remove(&key);
            }
        }
    }

    /// `note.lua` and `tie.lua`: returns the receipts that are parked under these ids.
    pub(super) fn note(
        &mut self,
        attempt: u16,
        ends: &[(u8, PartEnd)],
        token: &str,
        until: i64,
        done: bool,
    ) -> BTreeSet<Key> {
        let mut early = BTreeSet::new();
        for (part, end) in ends {
            let key = (attempt, *part);
            let state = if done { ClaimState::Done(end.clone()) } else { ClaimState::Ended(end.clone()) };
            self.claims.insert(key, Claim { token: token.to_owned(), until: time(until), state });
            if matches!(end, PartEnd::Submitted { .. }) {
                self.ids.insert(key);
                early.extend(self.parked.get(&key));
            }
        }
        early
    }

    /// `unmark.lua`
    pub(super) fn unmark(&mut self, attempt: u16) {
        if self.mark.as_deref() == Some(attempt.to_string().as_str()) {
            self.mark = None;
        }
    }

    /// The script of a cancellation. None while Redis is not ready.
    pub(super) fn cancel(&mut self) -> Option<bool> {
        if !self.ready {
            return None;
        }
        let free = self.mark.is_none() || self.is_cancelled();
        if free {
            self.mark = Some(cancel::CANCELLED.to_owned());
        }
        Some(free)
    }

    /// `receipts.lua`: whether the id stands for its part; if not, the receipt is parked. None while it is not ready.
    pub(super) fn receipt(&mut self, key: Key) -> Option<bool> {
        if !self.ready {
            return None;
        }
        let tied = self.ids.contains(&key);
        if !tied {
            self.parked.insert(key);
        }
        Some(tied)
    }

    pub(super) fn lose(&mut self) {
        *self = Self { ready: false, epoch: self.epoch, ..Self::new() };
    }

    /// What `app/rebuild.rs` puts back from the log; returns receipts whose part turned up and that the log does not
    /// show as matched.
    pub(super) fn restore(&mut self, rules: &Rules, log: &[Arc<Record>]) -> BTreeSet<Key> {
        let (mut found, mut matched) = (BTreeSet::new(), BTreeSet::new());
        for record in log {
            let (kind, at) = match record.as_ref() {
                Record::Parked(key) => {
                    self.parked.insert(*key);
                    found.extend(self.ids.get(key));
                    continue;
                }
                Record::Event(event) => (&event.kind, event.at.unix_millis()),
            };
            let end = |end: PartEnd| ClaimState::Ended(end);
            let (attempt, account, parts, state) = match kind {
                EventKind::Submitting { attempt, account, parts } => {
                    self.mark.get_or_insert_with(|| attempt.to_string());
                    (*attempt, account, parts.clone(), ClaimState::Intent)
                }
                EventKind::Submitted { attempt, account, part, carrier_id } => {
                    let key = (*attempt, *part);
                    self.ids.insert(key);
                    found.extend(self.parked.get(&key));
                    let carrier_id = carrier_id.clone();
                    (*attempt, account, vec![*part], end(PartEnd::Submitted { carrier_id }))
                }
                EventKind::Refused { attempt, account, part, status, .. } => {
                    (*attempt, account, vec![*part], end(PartEnd::Refused { status: *status }))
                }
                EventKind::NoResponse { attempt, account, part } => {
                    (*attempt, account, vec![*part], end(PartEnd::NoResponse))
                }
                EventKind::Unsent { attempt, account, end: why, parts } => {
                    (*attempt, account, parts.clone(), end(PartEnd::Unsent { end: *why }))
                }
                EventKind::Receipt { attempt, part, .. } => {
                    matched.insert((*attempt, *part));
                    continue;
                }
                EventKind::Cancelled => {
                    self.mark = Some(cancel::CANCELLED.to_owned());
                    continue;
                }
                EventKind::Accepted(_)
                | EventKind::Routed { .. }
                | EventKind::Expired { .. }
                | EventKind::Rejected { .. }
                | EventKind::ClosedUnknown
                | EventKind::Doubted => continue,
            };
            for part in parts {
                self.restore_claim(rules, (attempt, part), account, &state, at);
            }
        }
        self.ready = true;
        self.epoch += 1;
        found.difference(&matched).copied().collect()
    }

    /// `restore.lua`, or a plain SET of an end.
    fn restore_claim(&mut self, rules: &Rules, key: Key, account: &AccountId, state: &ClaimState, at: i64) {
        if *state != ClaimState::Intent {
            let token = Claim::restored_by(account);
            self.claims.insert(key, Claim { token, until: time(at), state: state.clone() });
            self.restored.remove(&key);
            return;
        }
        let gives_way = self.claims.get(&key).is_none_or(|claim| claim.state == ClaimState::Claimed);
        if gives_way {
            self.restored.insert(key);
            if !rules.forget_intents {
                self.claims.insert(key, restored(account, at));
            }
        }
    }
}

/// An intent as it is restored from its record.
fn restored(account: &AccountId, at: i64) -> Claim {
    Claim { token: Claim::restored_by(account), until: time(at + LEASE), state: ClaimState::Intent }
}
