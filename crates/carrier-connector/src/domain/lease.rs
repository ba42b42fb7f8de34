//! Who holds which bind of an account (CAR-1): what one replica decides from what it read, and when it read it.
//!
//! Two rules keep a bind from having two holders, whatever the wall clocks say:
//! - A holder counts from before it asked to write, and uses two thirds of the time it asked for.
//! - Everybody else counts from after they first saw a word, and takes the bind only when its whole time is over.
//!
//! The third in between is for closing the bind, and longer than the second over which the carrier counts parts: what the
//! old holder wrote and what the new one writes never fall into one window.

use std::{collections::BTreeMap, time::Duration};

use sotto_bus::{Lease, LeaseKey, LeaseRecord};
use tokio::time::Instant;

use super::pace::{SECOND, Slice};

/// What a replica knows and holds of one account's binds.
#[derive(Debug)]
pub(crate) struct Leases {
    me: String,
    binds: u16,
    ttl: Duration,
    seen: BTreeMap<LeaseKey, Seen>,
    held: BTreeMap<u16, Held>,
    /// Others go first until then: no bind could be had from here.
    sits_out_until: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    sequence: u64,
    /// After the answer in which it was first seen.
    since: Instant,
    record: LeaseRecord,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    sequence: u64,
    /// Not used from then on, unless it is renewed.
    until: Instant,
    /// What it allows to be written counts only from then on.
    paced_from: Instant,
    /// It is being given to another replica: nothing new goes that way.
    leaving: bool,
    /// It is up at the carrier.
    bound: bool,
}

/// What to write next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The key.
    pub(crate) key: LeaseKey,
    /// The sequence that its latest word must have.
    pub(crate) expected: u64,
    /// What to say.
    pub(crate) record: LeaseRecord,
}

/// One bind as its keeper sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tenure {
    /// Not ours.
    None,
    /// Ours until then, unless it is renewed.
    Held {
        /// The end.
        until: Instant,
    },
    /// Still ours, but to be unbound in order.
    Leaving {
        /// The end.
        until: Instant,
    },
}

impl Tenure {
    /// Whether parts may be written on the bind at this moment.
    pub(crate) fn allows(self, now: Instant) -> bool {
        match self {
            Self::None => false,
            Self::Held { until } | Self::Leaving { until } => now < until,
        }
    }
}

impl Leases {
    pub(crate) const fn new(me: String, binds: u16, ttl: Duration) -> Self {
        Self { me, binds, ttl, seen: BTreeMap::new(), held: BTreeMap::new(), sits_out_until: None }
    }

    /// How often to read and renew.
    pub(crate) fn period(&self) -> Duration {
        self.ttl / 5
    }

    /// What was read, by an answer that was complete at `now`.
    pub(crate) fn observe(&mut self, leases: Vec<Lease>, now: Instant) {
        let mut before = std::mem::take(&mut self.seen);
        for Lease { key, sequence, record } in leases {
            let known = before.remove(&key);
            let seen = match known {
                // A copy that lags may answer with an older word.
                Some(known) if known.sequence >= sequence => known,
                Some(_) | None => Seen { sequence, since: now, record },
            };
            if let LeaseKey::Bind(bind) = &key
                && let Some(held) = self.held.get_mut(bind)
                && held.sequence < seen.sequence
            {
                if seen.record.holder == self.me && !seen.record.released {
                    // Our own word, of which the acknowledgement was lost: its time is not counted.
                    held.sequence = seen.sequence;
                } else {
                    self.held.remove(bind);
                }
            }
            self.seen.insert(key, seen);
        }
    }

    /// What to write now.
    pub(crate) fn plan(&mut self, now: Instant) -> Vec<Step> {
        self.expire(now);
        let others = self.others(now);
        let most = if others > 0 && self.sits_out_until.is_some_and(|until| until > now) {
            0
        } else {
            usize::from(self.binds).div_ceil(others + 1)
        };
        // Those with the highest numbers go first, and only as many as are too many.
        let staying = self.held.values().filter(|held| !held.leaving).count();
        let too_many = staying.saturating_sub(most);
        for held in self.held.values_mut().rev().filter(|held| !held.leaving).take(too_many) {
            held.leaving = true;
        }
        let mut steps = vec![self.step(LeaseKey::Replica(self.me.clone()), false)];
        for bind in self.held.keys() {
            steps.push(self.step(LeaseKey::Bind(*bind), false));
        }
        let room = most.saturating_sub(self.held.len());
        let free = (1..=self.binds).filter(|bind| !self.held.contains_key(bind) && self.is_free(*bind, now));
        steps.extend(free.take(room).map(|bind| self.step(LeaseKey::Bind(bind), false)));
        steps
    }

    /// Lets a bind go, of which nothing is in use any more. From here on it is not ours, whether or not the word with which
    /// others need not wait arrives.
    pub(crate) fn release(&mut self, bind: u16) -> Step {
        let step = self.step(LeaseKey::Bind(bind), true);
        self.held.remove(&bind);
        step
    }

    /// The same for a bind that may be ours or not.
    pub(crate) fn release_held(&mut self, bind: u16) -> Option<Step> {
        self.held.contains_key(&bind).then(|| self.release(bind))
    }

    /// The word with which this replica leaves.
    pub(crate) fn farewell(&self) -> Step {
        self.step(LeaseKey::Replica(self.me.clone()), true)
    }

    fn step(&self, key: LeaseKey, released: bool) -> Step {
        let held = match &key {
            LeaseKey::Bind(bind) => self.held.get(bind).map(|held| held.sequence),
            LeaseKey::Replica(_) => None,
        };
        let expected = held.or_else(|| self.seen.get(&key).map(|seen| seen.sequence)).unwrap_or(0);
        let bound = match &key {
            LeaseKey::Bind(bind) => !released && self.held.get(bind).is_some_and(|held| held.bound),
            LeaseKey::Replica(_) => false,
        };
        let record = LeaseRecord { holder: self.me.clone(), ttl: self.ttl, released, bound };
        Step { key, expected, record }
    }

    /// A step was written: it got this sequence, and was asked for at `asked`.
    pub(crate) fn written(&mut self, step: &Step, sequence: u64, asked: Instant) {
        if let LeaseKey::Bind(bind) = step.key
            && !step.record.released
        {
            let until = asked + self.ttl * 2 / 3;
            // A word that was never released may be a former run's of our own name: what it wrote in the last second is not
            // known here.
            let clean = self.seen.get(&step.key).is_none_or(|seen| seen.record.released);
            let paced_from = if clean { asked } else { asked + SECOND };
            let held = self.held.entry(bind).or_insert(Held {
                sequence,
                until,
                paced_from,
                leaving: false,
                bound: false,
            });
            (held.sequence, held.until) = (sequence, until);
        }
        let seen = Seen { sequence, since: asked, record: step.record.clone() };
        self.seen.insert(step.key.clone(), seen);
    }

    /// A step was refused: another word came first. What is held is another's by now.
    pub(crate) fn refused(&mut self, step: &Step) {
        if let LeaseKey::Bind(bind) = step.key {
            self.held.remove(&bind);
        }
    }

    /// No bind can be had from here: others go first for a while.
    pub(crate) fn sit_out(&mut self, now: Instant) {
        self.sits_out_until = Some(now + 2 * self.ttl);
    }

    /// Forgets what was not renewed in time.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.held.retain(|_, held| now < held.until);
    }

    /// How many other replicas are there.
    fn others(&self, now: Instant) -> usize {
        let there = |(key, seen): &(&LeaseKey, &Seen)| {
            matches!(key, LeaseKey::Replica(name) if *name != self.me)
                && !seen.record.released
                && now < seen.since + seen.record.ttl
        };
        self.seen.iter().filter(there).count()
    }

    /// The binds that are up at this moment: told with their next renewal.
    pub(crate) fn set_bound(&mut self, up: &[u16]) {
        for (bind, held) in &mut self.held {
            held.bound = up.contains(bind);
        }
    }

    /// Whether another replica has a bind up, and so takes what waits for the account.
    pub(crate) fn served_elsewhere(&self, now: Instant) -> bool {
        self.seen.iter().any(|(key, Seen { record, since, .. })| {
            let others = matches!(key, LeaseKey::Bind(_)) && record.holder != self.me;
            others && record.bound && !record.released && now < *since + record.ttl
        })
    }

    fn is_free(&self, bind: u16, now: Instant) -> bool {
        self.seen.get(&LeaseKey::Bind(bind)).is_none_or(|seen| {
            // Two processes never run under one name at the same time: what has our name is a former run's.
            seen.record.released || seen.record.holder == self.me || now >= seen.since + seen.record.ttl
        })
    }

    /// One bind as its keeper is to see it.
    pub(crate) fn tenure(&self, bind: u16) -> Tenure {
        match self.held.get(&bind) {
            None => Tenure::None,
            Some(Held { until, leaving: false, .. }) => Tenure::Held { until: *until },
            Some(Held { until, leaving: true, .. }) => Tenure::Leaving { until: *until },
        }
    }

    /// What this replica may use of the account's `tps`, each slice as long as its lease.
    pub(crate) fn slices(&self, tps: u16) -> Vec<Slice> {
        let staying = self.held.iter().filter(|(_, held)| !held.leaving);
        let slice = |(bind, held): (&u16, &Held)| Slice {
            tps: share(*bind, self.binds, tps),
            from: held.paced_from,
            until: held.until,
        };
        staying.map(slice).collect()
    }
}

/// The share of one bind: shares differ by one at most, and their sum is `tps`.
fn share(bind: u16, binds: u16, tps: u16) -> u16 {
    let up_to = |bind: u16| u32::from(tps) * u32::from(bind) / u32::from(binds.max(1));
    u16::try_from(up_to(bind) - up_to(bind.saturating_sub(1))).unwrap_or(tps)
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
