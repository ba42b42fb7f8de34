//! When signing keys are made, used and forgotten.
//!
//! A key is published `publish_ahead` before its first use, so that verifiers which keep the set for its cache time
//! know it. It signs for `rotate_every`. Afterwards it stays published until every token it signed is over. When it
//! was used last is not written anywhere: this process counts from when it first saw the key out of use.

use std::{collections::BTreeMap, time::Duration};

use sotto_core::Timestamp;
use sotto_keystore::{KeyInfo, KeyRole};

/// A token may be in the making while its key goes out of use, and clocks of verifiers differ.
const MARGIN: Duration = Duration::from_secs(300);

/// The times of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How long a key signs.
    pub rotate_every: Duration,
    /// How long it is published before.
    pub publish_ahead: Duration,
    /// How long a token lives.
    pub token_lifetime: Duration,
}

/// One thing to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the next key, or the first.
    Generate,
    /// Sign with the next key from now on.
    Promote,
    /// Forget the key of this id.
    Retire(String),
}

/// When each key was first seen out of use.
#[derive(Clone, Debug, Default)]
pub struct OutOfUse(BTreeMap<String, Timestamp>);

impl OutOfUse {
    /// Takes notice of the keys as they are now.
    pub fn observe(&mut self, keys: &[KeyInfo], now: Timestamp) {
        let previous = || keys.iter().filter(|key| key.role == KeyRole::Previous);
        self.0.retain(|id, _| previous().any(|key| key.id == *id));
        for key in previous() {
            self.0.entry(key.id.clone()).or_insert(now);
        }
    }
}

/// The next thing to do, if anything; ask again after it is done.
pub fn next_step(
    keys: &[KeyInfo],
    out_of_use: &OutOfUse,
    schedule: &Schedule,
    now: Timestamp,
) -> Option<Step> {
    let made = |key: &KeyInfo| Timestamp::from_unix_millis(key.created_at_ms);
    let of = |role: KeyRole| keys.iter().find(move |key| key.role == role);
    let Some(current) = of(KeyRole::Current) else { return Some(Step::Generate) };
    match of(KeyRole::Next) {
        None if now.since(made(current)) >= schedule.rotate_every => return Some(Step::Generate),
        Some(next) if now.since(made(next)) >= schedule.publish_ahead => return Some(Step::Promote),
        None | Some(_) => {}
    }
    let kept = schedule.token_lifetime + MARGIN;
    let over = |key: &&KeyInfo| out_of_use.0.get(&key.id).is_some_and(|since| now.since(*since) >= kept);
    let old = keys.iter().filter(|key| key.role == KeyRole::Previous).find(over)?;
    Some(Step::Retire(old.id.clone()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sotto_keystore::KeyKind;

    use super::*;

    const SCHEDULE: Schedule = Schedule {
        rotate_every: Duration::from_secs(24 * 3600),
        publish_ahead: Duration::from_secs(3600),
        token_lifetime: Duration::from_secs(600),
    };

    /// A keystore's ring without keys.
    #[derive(Default)]
    struct Ring {
        keys: Vec<KeyInfo>,
        made: u32,
        out_of_use: OutOfUse,
    }

    impl Ring {
        fn take(&mut self, step: &Step, now: Timestamp) {
            match step {
                Step::Generate => {
                    assert!(self.of(KeyRole::Next).is_none());
                    self.made += 1;
                    let role = if self.keys.is_empty() { KeyRole::Current } else { KeyRole::Next };
                    self.keys.push(KeyInfo {
                        id: format!("k{}", self.made),
                        kind: KeyKind::Ed25519,
                        role,
                        created_at_ms: now.unix_millis(),
                        public: None,
                        sealing: None,
                    });
                }
                Step::Promote => {
                    for key in &mut self.keys {
                        key.role = match key.role {
                            KeyRole::Next => KeyRole::Current,
                            KeyRole::Current | KeyRole::Previous => KeyRole::Previous,
                        };
                    }
                }
                Step::Retire(id) => self.keys.retain(|key| key.id != *id),
            }
        }

        fn tick(&mut self, now: Timestamp) -> Vec<Step> {
            let mut steps = Vec::new();
            loop {
                self.out_of_use.observe(&self.keys, now);
                let Some(step) = next_step(&self.keys, &self.out_of_use, &SCHEDULE, now) else { break };
                self.take(&step, now);
                steps.push(step);
            }
            steps
        }

        fn of(&self, role: KeyRole) -> Option<&KeyInfo> {
            self.keys.iter().find(|key| key.role == role)
        }

        fn has(&self, id: &str) -> bool {
            self.keys.iter().any(|key| key.id == id)
        }
    }

    #[test]
    fn a_day_of_a_key() {
        let start = Timestamp::from_unix_seconds(1_795_000_000);
        let at = |seconds| start.plus(Duration::from_secs(seconds));
        let mut ring = Ring::default();
        assert_eq!(ring.tick(at(0)), [Step::Generate]);
        assert!(ring.tick(at(24 * 3600 - 1)).is_empty());
        assert_eq!(ring.tick(at(24 * 3600)), [Step::Generate]);
        assert!(ring.tick(at(25 * 3600 - 1)).is_empty());
        assert_eq!(ring.tick(at(25 * 3600)), [Step::Promote]);
        assert!(ring.tick(at(25 * 3600 + 899)).is_empty());
        assert_eq!(ring.tick(at(25 * 3600 + 900)), [Step::Retire("k1".to_owned())]);
    }

    proptest! {
        /// However irregularly the process runs, restarts or sleeps: every key is published long enough before its
        /// first token, and until its last token is over.
        #[test]
        fn every_token_verifies_all_its_life(
            pauses in proptest::collection::vec((1_u64..200_000, proptest::bool::weighted(0.1)), 1..200),
        ) {
            let mut now = Timestamp::from_unix_seconds(1_795_000_000);
            let mut ring = Ring::default();
            ring.tick(now);
            let mut published: BTreeMap<String, Timestamp> = BTreeMap::new();
            let mut last_signed: BTreeMap<String, Timestamp> = BTreeMap::new();
            for (pause, restarts) in pauses {
                // Tokens are signed until just before the pause ends.
                now = now.plus(Duration::from_secs(pause));
                if restarts {
                    ring.out_of_use = OutOfUse::default();
                } else {
                    last_signed.insert(ring.of(KeyRole::Current).unwrap().id.clone(), now);
                }
                ring.tick(now);
                for key in &ring.keys {
                    published.entry(key.id.clone()).or_insert(now);
                }
                let current = ring.of(KeyRole::Current).unwrap().id.clone();
                if current != "k1" {
                    prop_assert!(now.since(published[&current]) >= SCHEDULE.publish_ahead);
                }
                for (id, signed) in &last_signed {
                    prop_assert!(ring.has(id) || now.since(*signed) >= SCHEDULE.token_lifetime);
                }
                last_signed.insert(current, now);
            }
        }
    }
}
