//! Keys get successors, at the word of an operator or by schedule: what is sealed from then on hangs on the new one, and what
//! hangs on the old one still opens.

use std::{fmt, time::Duration};

use sotto_core::Timestamp;
use sotto_keystore::{BucketInfo, KeystoreError};
use sotto_runtime::failpoint;
use tokio::time::Instant;

use super::{Inner, KeyFacts, Keys, lock, operator::OPERATOR};
use crate::{
    domain::{
        bucket::{Bucket, Contents},
        place::Place,
    },
    error::KeyError,
};

/// The author of what nobody asked for.
const SCHEDULE: &str = "schedule";

/// A rotation by schedule that failed is tried again after this time: each attempt is told to the audit log.
const AGAIN: Duration = Duration::from_secs(60);

/// A key that takes another's place.
struct Succession {
    of: String,
    by: String,
    /// The time of both.
    bucket: Bucket,
}

impl fmt::Display for Succession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},by={}", self.of, self.by)
    }
}

impl Keys {
    /// Gives every living bucket of these contents (none: of all) another key; returns the new ones.
    ///
    /// # Errors
    /// [`KeyError::NotThisService`], [`KeyError::Keystore`].
    pub async fn rotate(
        &self,
        caller: &'static str,
        contents: Option<Contents>,
    ) -> Result<Vec<KeyFacts>, KeyError> {
        self.only(caller, &[OPERATOR])?;
        let all = self.blocking(move |inner| inner.asked_for(contents)).await?;
        self.succeed(OPERATOR, all).await
    }

    /// Makes keys before they are needed, and gives successors to those that sealed for as long as the schedule allows.
    /// Neither keeps the other from being done.
    ///
    /// # Errors
    /// As [`Keys::make_ahead`] and [`Keys::rotate_due`].
    pub async fn renew(self) -> Result<(), KeyError> {
        let ahead = self.clone().make_ahead().await;
        let rotated = self.rotate_due().await;
        ahead.and(rotated).map(drop)
    }

    /// Gives keys that sealed for as long as the schedule allows successors; returns these.
    ///
    /// # Errors
    /// [`KeyError::Keystore`]; [`KeyError::NotRotated`] within a minute of that, while nothing is tried.
    pub async fn rotate_due(&self) -> Result<Vec<KeyFacts>, KeyError> {
        let due = self.blocking(|inner| inner.due()).await?;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let failed_at = *lock(&self.0.not_rotated);
        if failed_at.is_some_and(|failed_at| failed_at.elapsed() < AGAIN) {
            return Err(KeyError::NotRotated);
        }
        let made = self.succeed(SCHEDULE, due).await;
        *lock(&self.0.not_rotated) = made.is_err().then(Instant::now);
        made
    }

    /// Tells which key takes which one's place, before it does: what is done without a word would not be known of if the
    /// process died between the two.
    async fn succeed(&self, author: &'static str, all: Vec<Succession>) -> Result<Vec<KeyFacts>, KeyError> {
        for one in &all {
            self.0.tell_of("bucket.superseded", author, &one.to_string(), "ok");
        }
        self.told().await;
        failpoint("privacy.announced");
        self.blocking(move |inner| inner.make_successors(author, &all)).await
    }
}

/// On blocking threads: the keystore waits for the disk.
impl Inner {
    fn asked_for(&self, contents: Option<Contents>) -> Result<Vec<Succession>, KeyError> {
        let now = self.now().at;
        // Keys of the index follow from the bucket of one day; nothing is sealed into those of days before.
        let in_use = self.deps.retention.index_span(now).map_err(KeyError::Span)?.bucket;
        let is_closed = |bucket: Bucket| bucket.contents() == Contents::Index && bucket < in_use;
        self.successions(now, |_, place| {
            let bucket = place.bucket;
            contents.is_none_or(|contents| bucket.contents() == contents)
                && !is_closed(bucket)
                && !self.is_superseded(place)
        })
    }

    fn due(&self) -> Result<Vec<Succession>, KeyError> {
        let now = self.now().at;
        self.successions(now, |living, place| {
            self.rotates_at(living, place, now).is_some_and(|due_at| due_at <= now)
        })
    }

    fn successions(
        &self,
        now: Timestamp,
        wanted: impl Fn(&BucketInfo, &Place) -> bool,
    ) -> Result<Vec<Succession>, KeyError> {
        let mut all = Vec::new();
        for living in self.deps.keys.buckets().map_err(KeyError::Keystore)? {
            let Ok(place) = living.bucket.parse::<Place>() else { continue };
            if place.bucket.is_dead(now) || !wanted(&living, &place) {
                continue;
            }
            let next = place.next().ok_or(KeyError::Spent)?;
            all.push(Succession { of: living.bucket, by: next.to_string(), bucket: next.bucket });
        }
        Ok(all)
    }

    /// When a living key gets a successor by schedule; none: not before it dies, or not while it seals nothing.
    pub(super) fn rotates_at(&self, living: &BucketInfo, place: &Place, now: Timestamp) -> Option<Timestamp> {
        let bucket = place.bucket;
        let seals = match bucket.contents() {
            // Nothing hangs on it: what is sealed on this day follows from it.
            Contents::Index => self
                .deps
                .retention
                .index_span(now)
                .is_ok_and(|span| span.bucket.dies_at() == bucket.dies_at()),
            // It dies with its day.
            Contents::Abuse => false,
            Contents::Messages(_) | Contents::Inbound => living.wraps_at_most > 0,
        };
        // One whose names are used up has none.
        place.next()?;
        if !seals || self.is_superseded(place) {
            return None;
        }
        let made_at = Timestamp::from_unix_millis(living.created_at_ms);
        self.deps.rotation.due_at(bucket.contents(), made_at, bucket.dies_at())
    }

    fn make_successors(&self, author: &'static str, all: &[Succession]) -> Result<Vec<KeyFacts>, KeyError> {
        let not_done = |one: &Succession| {
            self.tell_of("bucket.superseded", author, &one.to_string(), "not_done");
        };
        let mut made = Vec::new();
        for (done, one) in all.iter().enumerate() {
            if one.bucket.is_dead(self.now().at) {
                // Its time came while it was told.
                not_done(one);
                continue;
            }
            match self.make_successor(one) {
                Ok(info) => made.push(self.facts(&info)),
                Err(error) => {
                    all.iter().skip(done).for_each(not_done);
                    return Err(KeyError::Keystore(error));
                }
            }
            failpoint("privacy.superseded");
        }
        Ok(made)
    }

    fn make_successor(&self, one: &Succession) -> Result<BucketInfo, KeystoreError> {
        let info = self.create(&one.by, one.bucket, self.now().at)?;
        *lock(&self.ended) = None;
        tracing::info!(bucket = one.by, "another key seals from now on");
        Ok(info)
    }
}
