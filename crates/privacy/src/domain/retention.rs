//! How far ahead a key may be asked for, and until when it may seal.

use std::time::Duration;

use sotto_core::{Facts, MessageClass, Timestamp, work::Need};

use super::bucket::{Bucket, Contents};

/// A key needed for less than this is of no use to anybody: it would be dead before its first message is submitted.
pub const LEAST_NEED: Duration = Duration::from_secs(5);

/// Sealing ends this long before the bucket dies, so that no key is used to seal into a dead bucket.
const SEAL_GUARD: Duration = Duration::from_secs(1);

/// How long each class's messages may wait.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Of one-time codes.
    pub otp: Duration,
    /// Of service notices.
    pub transactional: Duration,
    /// Of advertising.
    pub promotional: Duration,
    /// Of invitations to agree to advertising.
    pub ad_invite: Duration,
    /// Messages from handsets are kept for so long.
    pub inbound: Duration,
    /// For so long messages are found by their numbers.
    pub index: Duration,
    /// Submit timeout and clock skew, which are part of what is asked for.
    pub submit_margin: Duration,
    /// The longest time that one key seals.
    pub session: Duration,
}

/// What a session key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The bucket it hangs on.
    pub bucket: Bucket,
    /// Seal nothing with it after this time.
    pub seal_until: Timestamp,
}

/// Why a key is not made for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// It is over, or almost.
    #[error("must be at least {} s ahead", LEAST_NEED.as_secs())]
    TooSoon,
    /// Retention does not reach so far.
    #[error("must be at most {} s ahead for this class", max.as_secs())]
    TooFar {
        /// The furthest, from now.
        max: Duration,
    },
}

impl Retention {
    /// The furthest that a key of `class` may be needed, from now.
    pub fn furthest(&self, class: MessageClass) -> Duration {
        let waiting = match class {
            MessageClass::Otp => self.otp,
            MessageClass::Transactional => self.transactional,
            MessageClass::Promotional => self.promotional,
            MessageClass::AdInvite => self.ad_invite,
        };
        waiting.saturating_add(self.submit_margin)
    }

    /// The longest that a bucket of these contents lives, from the making of its key on: of what is scheduled as late as may be,
    /// or made ahead of its use. It dies on a whole hour or day.
    pub fn longest_life(&self, contents: Contents) -> Duration {
        let kept = match contents {
            Contents::Messages(class @ MessageClass::Otp) => self.furthest(class),
            Contents::Messages(
                class @ (MessageClass::Transactional | MessageClass::Promotional | MessageClass::AdInvite),
            ) => self.furthest(class) + Facts::MAX_AHEAD + self.submit_margin,
            Contents::Inbound => self.inbound,
            Contents::Index => self.index + self.session,
            Contents::Abuse => LEAST_NEED,
        };
        kept + 2 * contents.grain()
    }

    /// The bucket of what is made at this time and kept as long as its contents are, and is not scheduled; none beyond the
    /// year 9999.
    pub fn latest(&self, contents: Contents, at: Timestamp) -> Option<Bucket> {
        match contents {
            Contents::Messages(class) => Bucket::covering(class, at.plus(self.furthest(class))),
            Contents::Inbound => self.inbound_span(at).ok().map(|span| span.bucket),
            Contents::Index => self.index_span(at).ok().map(|span| span.bucket),
            Contents::Abuse => self.abuse_span(at).ok().map(|span| span.bucket),
        }
    }

    /// The bucket and the end of sealing for a key. What is scheduled waits as long as other messages, from its time on.
    ///
    /// # Errors
    /// [`SpanError`].
    pub fn span(&self, class: MessageClass, need: Need, now: Timestamp) -> Result<Span, SpanError> {
        if need.until < now.plus(LEAST_NEED) {
            return Err(SpanError::TooSoon);
        }
        let max = self.furthest(class);
        let too_far = SpanError::TooFar { max };
        let ahead = match class {
            MessageClass::Otp => None,
            MessageClass::Transactional | MessageClass::Promotional | MessageClass::AdInvite => need.from,
        };
        let from = ahead.map_or(now, |from| from.max(now));
        if from > now.plus(Facts::MAX_AHEAD + self.submit_margin) || need.until > from.plus(max) {
            return Err(too_far);
        }
        Bucket::covering(class, need.until).map(|bucket| self.seals(bucket, now)).ok_or(too_far)
    }

    /// The same for a key that seals messages from handsets, made now.
    ///
    /// # Errors
    /// [`SpanError::TooFar`], beyond the year 9999.
    pub fn inbound_span(&self, now: Timestamp) -> Result<Span, SpanError> {
        let bucket = Bucket::covering(Contents::Inbound, now.plus(self.inbound));
        bucket.map(|bucket| self.seals(bucket, now)).ok_or(SpanError::TooFar { max: self.inbound })
    }

    /// The same for keys of index entries: what they seal last is kept as long as what they seal first.
    ///
    /// # Errors
    /// [`SpanError::TooFar`], beyond the year 9999.
    pub fn index_span(&self, now: Timestamp) -> Result<Span, SpanError> {
        let bucket = Bucket::covering(Contents::Index, now.plus(self.index + self.session));
        bucket.map(|bucket| self.seals(bucket, now)).ok_or(SpanError::TooFar { max: self.index })
    }

    /// The same for the key of what stands for numbers to the whole cell: it is of one day (UTC), and gone with it.
    ///
    /// # Errors
    /// [`SpanError::TooFar`], beyond the year 9999.
    pub fn abuse_span(&self, now: Timestamp) -> Result<Span, SpanError> {
        let bucket = Bucket::covering(Contents::Abuse, now.plus(LEAST_NEED));
        bucket.map(|bucket| self.seals(bucket, now)).ok_or(SpanError::TooFar { max: LEAST_NEED })
    }

    fn seals(&self, bucket: Bucket, now: Timestamp) -> Span {
        Span { bucket, seal_until: now.plus(self.session).min(bucket.dies_at().minus(SEAL_GUARD)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RETENTION: Retention = Retention {
        otp: Duration::from_secs(15 * 60),
        transactional: Duration::from_secs(72 * 3600),
        promotional: Duration::from_secs(72 * 3600),
        ad_invite: Duration::from_secs(48 * 3600),
        inbound: Duration::from_secs(72 * 3600),
        index: Duration::from_secs(90 * 86_400),
        submit_margin: Duration::from_secs(120),
        session: Duration::from_secs(300),
    };

    #[test]
    fn reaches_as_far_as_the_class_is_kept_and_no_millisecond_further() {
        let now = Timestamp::from_unix_millis(1_795_493_815_007);
        for class in MessageClass::ALL {
            let max = RETENTION.furthest(class);
            assert!(RETENTION.span(class, now.plus(max).into(), now).is_ok());
            let beyond = now.plus(max).plus(Duration::from_millis(1));
            assert_eq!(RETENTION.span(class, beyond.into(), now), Err(SpanError::TooFar { max }));
        }
        assert_eq!(RETENTION.furthest(MessageClass::Otp), Duration::from_secs(17 * 60));
        assert_eq!(RETENTION.furthest(MessageClass::AdInvite), Duration::from_secs(48 * 3600 + 120));
    }

    #[test]
    fn what_is_scheduled_is_kept_as_long_as_others_from_its_time_on() {
        let now = Timestamp::from_unix_millis(1_795_493_815_007);
        let (ahead, moment) = (Facts::MAX_AHEAD, Duration::from_millis(1));
        let span =
            |class, from: Timestamp, until| RETENTION.span(class, Need { from: Some(from), until }, now);
        for class in [MessageClass::Transactional, MessageClass::Promotional, MessageClass::AdInvite] {
            let (max, furthest) = (RETENTION.furthest(class), now.plus(ahead));
            assert!(span(class, furthest, furthest.plus(max)).is_ok());
            for (from, until) in [
                (furthest, furthest.plus(max).plus(moment)),
                (now.minus(ahead), now.plus(max).plus(moment)),
                (now.plus(ahead + 2 * RETENTION.submit_margin), furthest),
            ] {
                assert_eq!(span(class, from, until), Err(SpanError::TooFar { max }));
            }
        }
        let max = RETENTION.furthest(MessageClass::Otp);
        let later = now.plus(max).plus(moment);
        assert_eq!(
            span(MessageClass::Otp, later, later),
            Err(SpanError::TooFar { max }),
            "codes live for minutes"
        );
    }

    #[test]
    fn messages_from_handsets_live_as_long_as_they_are_kept_and_less_than_a_day_longer() {
        let now = Timestamp::from_unix_millis(1_795_493_815_007);
        let span = RETENTION.inbound_span(now).unwrap();
        assert_eq!(span.bucket.to_string(), "inbound/2026-11-28");
        assert_eq!(span.seal_until, now.plus(RETENTION.session));
        let last = span.bucket.dies_at().minus(RETENTION.inbound);
        let span = RETENTION.inbound_span(last).unwrap();
        assert_eq!(span.bucket.dies_at(), last.plus(RETENTION.inbound));
    }

    #[test]
    fn an_entry_of_the_index_lives_for_ninety_days_and_less_than_a_day_and_a_session_longer() {
        let day = Duration::from_secs(86_400);
        for minutes in 0..1440 {
            let now = Timestamp::from_unix_millis(1_795_493_815_007).plus(Duration::from_secs(60 * minutes));
            let span = RETENTION.index_span(now).unwrap();
            assert_eq!(span.seal_until, now.plus(RETENTION.session));
            assert!(span.bucket.dies_at().since(span.seal_until) >= RETENTION.index);
            assert!(span.bucket.dies_at().since(now) < RETENTION.index + day + RETENTION.session);
        }
    }

    #[test]
    fn what_stands_for_a_number_to_the_whole_cell_is_of_one_day() {
        let day = 86_400_000;
        let midnight = 1_795_478_400_000;
        for ms in [0, 1, day / 2, day - 5_001, day - 5_000] {
            let span = RETENTION.abuse_span(Timestamp::from_unix_millis(midnight + ms)).unwrap();
            assert_eq!(span.bucket.dies_at().unix_millis(), midnight + day, "{ms}");
            assert!(span.seal_until < span.bucket.dies_at());
        }
        // Of use to nobody any more: that of the next day.
        let span = RETENTION.abuse_span(Timestamp::from_unix_millis(midnight + day - 4_999)).unwrap();
        assert_eq!(span.bucket.dies_at().unix_millis(), midnight + 2 * day);
    }

    #[test]
    fn refuses_what_is_over() {
        let now = Timestamp::from_unix_millis(1_795_493_815_007);
        for until in [now, now.minus(Duration::from_secs(1)), now.plus(Duration::from_millis(4999))] {
            assert_eq!(RETENTION.span(MessageClass::Otp, until.into(), now), Err(SpanError::TooSoon));
        }
        assert!(RETENTION.span(MessageClass::Otp, now.plus(LEAST_NEED).into(), now).is_ok());
    }

    proptest! {
        #[test]
        fn expiry_comes_before_destruction_and_sealing_before_both(
            class in proptest::sample::select(MessageClass::ALL.to_vec()),
            now in 0_i64..200_000_000_000_000,
            ahead_ms in 5_000_u64..1_020_000,
        ) {
            let now = Timestamp::from_unix_millis(now);
            let until = now.plus(Duration::from_millis(ahead_ms));
            let span = RETENTION.span(class, until.into(), now).unwrap();
            // What is needed until T is expired and submitted before T; the bucket dies at T or later.
            prop_assert!(span.bucket.dies_at() >= until);
            prop_assert!(span.seal_until < span.bucket.dies_at());
            prop_assert!(span.seal_until > now);
            prop_assert!(span.seal_until <= now.plus(Duration::from_secs(300)));
        }
    }
}
