//! What people do with the keys of buckets: look, destroy; and what other processes hear of it.

use std::{sync::Arc, time::Duration};

use sotto_core::Timestamp;
use sotto_keystore::{BucketInfo, Destruction, Fate};
use sotto_runtime::failpoint;
use tokio::time::timeout;

use super::{Inner, Keys, MAKER, OPENER, TELL_AGAIN, lock};
use crate::{
    domain::{
        approval::{self, Approved, Signed},
        limits::Rule,
        place::Place,
        tally::{Deed, Outcome},
    },
    error::KeyError,
    ports::AuditEntry,
};

/// Whose certificate may look at keys and end them.
pub(super) const OPERATOR: &str = "operator";

/// How long what people do to keys waits until the audit log has it. A key that leaked does not live on because the broker
/// is away.
const TOLD: Duration = Duration::from_secs(2);

/// The most destroyed keys of one answer: the last ones.
const MOST_DESTROYED: usize = 10_000;

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Seals and opens.
    Current,
    /// Opens.
    Superseded,
    /// Is gone.
    Destroyed {
        /// When.
        at: Timestamp,
        /// By which change of the keystore.
        generation: u64,
    },
}

/// What is known of the key of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// The bucket.
    pub bucket: String,
    /// What it is good for.
    pub state: KeyState,
    /// When it was made.
    pub made_at: Timestamp,
    /// When it dies, or was to die.
    pub dies_at: Timestamp,
    /// No more session keys than this hang on it.
    pub wraps_at_most: u64,
    /// When it gets a successor by schedule; none: not before it dies, or not while nothing hangs on it.
    pub rotates_at: Option<Timestamp>,
}

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The keys, by class and time of death.
    pub keys: Vec<KeyFacts>,
    /// The public key that receipts are signed with, as the `x` of its JWK.
    pub receipt_key: String,
}

/// Buckets that ended before their time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Nothing opens with them.
    pub destroyed: Vec<String>,
    /// Nothing is sealed with them any more.
    pub superseded: Vec<String>,
}

impl Keys {
    /// The keys there are, and those that were destroyed from `since` on (none: in the last week).
    ///
    /// # Errors
    /// [`KeyError::NotThisService`], [`KeyError::Keystore`].
    pub async fn inventory(
        &self,
        caller: &'static str,
        since: Option<Timestamp>,
    ) -> Result<Inventory, KeyError> {
        self.only(caller, &[OPERATOR])?;
        self.blocking(move |inner| {
            Ok(Inventory { keys: inner.inventory(since)?, receipt_key: inner.receipt_key()? })
        })
        .await
    }

    /// How long each class is kept.
    pub fn rules(&self) -> &[Rule] {
        &self.0.deps.rules
    }

    /// Submit timeout and skew, which come on top.
    pub fn submit_margin(&self) -> Duration {
        self.0.deps.retention.submit_margin
    }

    /// Destroys the keys that an approved act names; those that are destroyed already stay so.
    ///
    /// # Errors
    /// [`KeyError::NotThisService`], [`KeyError::Approval`], [`KeyError::Field`] for a bucket that is not here, before
    /// anything is destroyed; [`KeyError::Keystore`]: carry it out again.
    pub async fn destroy(
        &self,
        caller: &'static str,
        act: String,
        signed: Vec<Signed>,
    ) -> Result<Vec<KeyFacts>, KeyError> {
        self.only(caller, &[OPERATOR])?;
        let approved = self.blocking(move |inner| inner.approve(&act, &signed)).await?;
        self.told().await;
        failpoint("privacy.approved");
        self.blocking(move |inner| inner.destroy(&approved)).await
    }

    /// The buckets that ended before their time, until it is over.
    ///
    /// # Errors
    /// [`KeyError::NotThisService`], [`KeyError::Keystore`].
    pub async fn ended(&self, caller: &'static str) -> Result<Ended, KeyError> {
        self.only(caller, &[MAKER, OPENER])?;
        self.blocking(|inner| inner.ended()).await
    }

    /// Waits until the audit log has what was told, or has been away for too long.
    pub(super) async fn told(&self) {
        if timeout(TOLD, self.0.deps.audit.stored()).await.is_err() {
            tracing::warn!(
                "the audit log has not taken what is done to keys now: it is done, and told when the broker is back"
            );
        }
    }

    pub(super) fn only(&self, caller: &'static str, callers: &[&str]) -> Result<(), KeyError> {
        if callers.contains(&caller) {
            return Ok(());
        }
        self.refused_unread(caller, Deed::Other, Outcome::NotThisService);
        Err(KeyError::NotThisService)
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, KeyError> + Send + 'static,
    ) -> Result<T, KeyError> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(KeyError::Blocking)?
    }
}

/// On blocking threads: the keystore waits for the disk.
impl Inner {
    fn inventory(&self, since: Option<Timestamp>) -> Result<Vec<KeyFacts>, KeyError> {
        let since = since.unwrap_or_else(|| self.deps.clock.now().minus(TELL_AGAIN)).unix_millis();
        let living = self.deps.keys.buckets().map_err(KeyError::Keystore)?;
        let mut gone = self.deps.keys.destroyed().map_err(KeyError::Keystore)?;
        gone.retain(|gone| gone.destroyed_at_ms >= since);
        gone.sort_by_key(|gone| gone.generation);
        let gone = gone.split_off(gone.len().saturating_sub(MOST_DESTROYED));
        let mut keys: Vec<_> = living.iter().map(|living| self.facts(living)).collect();
        keys.extend(gone.iter().map(of_destroyed));
        keys.sort_by_cached_key(|key| (key.bucket.parse::<Place>().ok(), key.bucket.clone()));
        Ok(keys)
    }

    pub(super) fn facts(&self, living: &BucketInfo) -> KeyFacts {
        let place = living.bucket.parse::<Place>().ok();
        let superseded = place.as_ref().is_some_and(|place| self.is_superseded(place));
        let now = self.now().at;
        KeyFacts {
            bucket: living.bucket.clone(),
            state: if superseded { KeyState::Superseded } else { KeyState::Current },
            made_at: Timestamp::from_unix_millis(living.created_at_ms),
            dies_at: Timestamp::from_unix_millis(living.dies_at_ms),
            wraps_at_most: living.wraps_at_most,
            rotates_at: place.and_then(|place| self.rotates_at(living, &place, now)),
        }
    }

    pub(super) fn is_superseded(&self, place: &Place) -> bool {
        place.next().is_some_and(|next| self.deps.keys.fate(&next.to_string()) != Fate::Unknown)
    }

    /// The bucket of this time that seals now: the last one that was made, or the one after it if that is destroyed.
    pub(super) fn current(&self, first: &Place) -> Option<Place> {
        let mut current = first.clone();
        loop {
            match (self.deps.keys.fate(&current.to_string()), self.is_superseded(&current)) {
                (Fate::Unknown, _) | (Fate::Living, false) => return Some(current),
                (Fate::Living, true) | (Fate::Destroyed, _) => current = current.next()?,
            }
        }
    }

    /// Judges an act and tells who approved what is still to be done, before it is done: what is destroyed without a word of
    /// why would look like a fault.
    fn approve(&self, act: &str, signed: &[Signed]) -> Result<Approved, KeyError> {
        let now = self.now().at;
        let judged = approval::judge(&self.deps.people, &self.deps.cell, act, signed, now);
        let approved = judged.map_err(|error| {
            self.tell_of("bucket.destruction_approved", OPERATOR, "act", "not_approved");
            KeyError::Approval(error)
        })?;
        let Approved { act, by } = &approved;
        let missing = |bucket: &&String| self.deps.keys.fate(bucket) == Fate::Unknown;
        if act.buckets().iter().any(|bucket| missing(&bucket)) {
            let problem = "must name buckets that are here (sotto keys list): nothing was destroyed";
            return Err(KeyError::Field { field: "act", problem });
        }
        let by = by.join("+");
        for bucket in act.buckets().iter().filter(|bucket| self.deps.keys.fate(bucket) == Fate::Living) {
            let object = format!("{bucket},act={},by={by}", act.id());
            self.tell_of("bucket.destruction_approved", OPERATOR, &object, "ok");
        }
        Ok(approved)
    }

    fn destroy(&self, Approved { act, .. }: &Approved) -> Result<Vec<KeyFacts>, KeyError> {
        let now = self.now().at;
        for bucket in act.buckets() {
            let buried = self.bury(bucket, now);
            // Also after a failure: it may have been done.
            *lock(&self.ended) = None;
            buried.map_err(KeyError::Keystore)?;
        }
        tracing::warn!(act = act.id(), buckets = act.buckets().len(), "keys are destroyed before their time");
        let destroyed = self.deps.keys.destroyed().map_err(KeyError::Keystore)?;
        let of_act = |gone: &&Destruction| act.buckets().contains(&gone.bucket);
        Ok(destroyed.iter().filter(of_act).map(of_destroyed).collect())
    }

    /// Asked each second by every process that holds session keys: looked up after a change only.
    fn ended(&self) -> Result<Ended, KeyError> {
        let now = self.now().at;
        let mut known = lock(&self.ended);
        let all = match known.as_ref() {
            Some(all) => Arc::clone(all),
            None => {
                let all = Arc::new(self.look_for_ended(now)?);
                *known = Some(Arc::clone(&all));
                all
            }
        };
        drop(known);
        let lives = |name: &&String| name.parse::<Place>().is_ok_and(|place| !place.bucket.is_dead(now));
        Ok(Ended {
            destroyed: all.destroyed.iter().filter(lives).cloned().collect(),
            superseded: all.superseded.iter().filter(lives).cloned().collect(),
        })
    }

    fn look_for_ended(&self, now: Timestamp) -> Result<Ended, KeyError> {
        let destroyed = self.deps.keys.destroyed().map_err(KeyError::Keystore)?;
        let early = destroyed.into_iter().filter(|gone| gone.dies_at_ms > now.unix_millis());
        let living = self.deps.keys.buckets().map_err(KeyError::Keystore)?;
        let superseded = living.into_iter().map(|living| living.bucket);
        let superseded = superseded.filter(|name| name.parse().is_ok_and(|one| self.is_superseded(&one)));
        Ok(Ended { destroyed: early.map(|gone| gone.bucket).collect(), superseded: superseded.collect() })
    }

    pub(super) fn tell_of(
        &self,
        action: &'static str,
        actor: &'static str,
        object: &str,
        outcome: &'static str,
    ) {
        self.deps.audit.tell(AuditEntry {
            at: self.deps.clock.now(),
            action,
            actor,
            tenant: None,
            object: object.to_owned(),
            outcome,
        });
    }
}

fn of_destroyed(gone: &Destruction) -> KeyFacts {
    KeyFacts {
        bucket: gone.bucket.clone(),
        state: KeyState::Destroyed {
            at: Timestamp::from_unix_millis(gone.destroyed_at_ms),
            generation: gone.generation,
        },
        made_at: Timestamp::from_unix_millis(gone.created_at_ms),
        dies_at: Timestamp::from_unix_millis(gone.dies_at_ms),
        wraps_at_most: gone.wraps_at_most,
        rotates_at: None,
    }
}
