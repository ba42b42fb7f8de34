//! For how long one key of a bucket seals before another takes its place by schedule.
//!
//! A bucket that dies within that time needs no other: its hour or day ends before. What decides is stored with each key, so
//! a restart changes nothing and no two looks disagree.

use std::{ops::RangeInclusive, time::Duration};

use sotto_core::{MessageClass, Timestamp};

use super::{bucket::Contents, retention::Retention};

/// A bucket has 999 names. So many are for the schedule, the others for people.
const MOST_BY_SCHEDULE: u32 = 900;

/// No bucket lives much longer. NIST SP 800-57 part 1 (5.3.6) would allow up to two years of use.
const LONGEST: Duration = Duration::from_secs(90 * 86_400);

/// How long one key of each class seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Of one-time codes.
    pub otp: Duration,
    /// Of service notices.
    pub transactional: Duration,
    /// Of advertising.
    pub promotional: Duration,
    /// Of invitations to agree to advertising.
    pub ad_invite: Duration,
    /// Of messages from handsets.
    pub inbound: Duration,
    /// Of the index.
    pub index: Duration,
}

impl Rotation {
    const fn every(&self, contents: Contents) -> Duration {
        match contents {
            Contents::Messages(MessageClass::Otp) => self.otp,
            Contents::Messages(MessageClass::Transactional) => self.transactional,
            Contents::Messages(MessageClass::Promotional) => self.promotional,
            Contents::Messages(MessageClass::AdInvite) => self.ad_invite,
            Contents::Inbound => self.inbound,
            Contents::Index => self.index,
            // Its bucket is of one day.
            Contents::Abuse => LONGEST,
        }
    }

    /// When another key takes the place of one that was made at this time, in a bucket that dies at that; none: the bucket dies
    /// before.
    pub fn due_at(&self, contents: Contents, made_at: Timestamp, dies_at: Timestamp) -> Option<Timestamp> {
        let due_at = made_at.plus(self.every(contents));
        (due_at < dies_at).then_some(due_at)
    }
}

/// What a key of these contents may be told to seal for: a bucket must not run out of names before it dies, and every key
/// costs its file or token room. Each key of the index is one more pseudonym that a look-up may hold 1,024 of.
pub fn bounds(contents: Contents, retention: &Retention) -> RangeInclusive<Duration> {
    let least = match contents {
        Contents::Messages(MessageClass::Otp) => Duration::from_secs(10),
        Contents::Messages(
            MessageClass::Transactional | MessageClass::Promotional | MessageClass::AdInvite,
        )
        | Contents::Inbound => Duration::from_secs(3600),
        Contents::Index | Contents::Abuse => Duration::from_secs(6 * 3600),
    };
    let share = retention.longest_life(contents) / MOST_BY_SCHEDULE;
    // In whole seconds, up: it is told to people.
    let named = Duration::from_secs(share.as_secs() + 1);
    least.max(named)..=LONGEST
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::bucket::Bucket;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    const START: Timestamp = Timestamp::from_unix_millis(1_795_493_815_007);

    const ROTATION: Rotation = Rotation {
        otp: DAY,
        transactional: Duration::from_secs(7 * 86_400),
        promotional: HOUR,
        ad_invite: DAY,
        inbound: DAY,
        index: DAY,
    };

    fn retention(kept: Duration) -> Retention {
        Retention {
            otp: DAY.min(kept),
            transactional: kept,
            promotional: kept,
            ad_invite: kept,
            inbound: kept,
            index: kept,
            submit_margin: Duration::from_secs(900),
            session: Duration::from_secs(300),
        }
    }

    fn all() -> Vec<Contents> {
        let classes = MessageClass::ALL.into_iter().map(Contents::Messages);
        classes.chain([Contents::Inbound, Contents::Index]).collect()
    }

    #[test]
    fn a_bucket_that_dies_before_needs_no_other_key() {
        let due = |contents, lives| ROTATION.due_at(contents, START, START.plus(lives));
        assert_eq!(due(Contents::Messages(MessageClass::Otp), HOUR), None);
        let transactional = Contents::Messages(MessageClass::Transactional);
        assert_eq!(due(transactional, 7 * DAY), None);
        assert_eq!(due(transactional, 7 * DAY + HOUR), Some(START.plus(7 * DAY)));
    }

    #[test]
    fn bounds_leave_names_to_people_however_long_messages_wait() {
        for kept in [Duration::from_secs(60), 3 * DAY, 30 * DAY] {
            let retention = retention(kept);
            for contents in all() {
                let bounds = bounds(contents, &retention);
                assert!(bounds.start() < bounds.end(), "{contents}");
                let life = retention.longest_life(contents);
                assert!(*bounds.start() * MOST_BY_SCHEDULE >= life, "{contents}: {bounds:?} in {life:?}");
            }
        }
        let shortest =
            |kept| *bounds(Contents::Messages(MessageClass::Promotional), &retention(kept)).start();
        assert_eq!(shortest(3 * DAY), HOUR);
        assert!(shortest(30 * DAY) > HOUR);
    }

    #[test]
    fn no_bucket_lives_longer_than_is_counted_with() {
        let retention = retention(3 * DAY);
        for contents in all() {
            // Made a grain before it is needed by what is kept longest.
            let needed_at = START.plus(contents.grain());
            let dies_at = retention.latest(contents, needed_at).unwrap().dies_at();
            assert!(dies_at.since(START) <= retention.longest_life(contents), "{contents}");
        }
        let promotional = MessageClass::Promotional;
        let from = START.plus(sotto_core::Facts::MAX_AHEAD);
        let need =
            sotto_core::work::Need { from: Some(from), until: from.plus(retention.furthest(promotional)) };
        let scheduled = retention.span(promotional, need, START).unwrap().bucket;
        assert!(scheduled.dies_at().since(START) <= retention.longest_life(promotional.into()));
    }

    /// The keys of one bucket: when each was made, and who made it.
    struct Keys {
        bucket: Bucket,
        made: Vec<(Timestamp, bool)>,
    }

    impl Keys {
        fn rotate(&mut self, now: Timestamp, by_schedule: bool) {
            self.made.push((now, by_schedule));
        }

        /// One look of a process. It has nothing but what is stored.
        fn look(&mut self, now: Timestamp) {
            let Some((made_at, _)) = self.made.last().copied() else { return };
            let due_at = ROTATION.due_at(self.bucket.contents(), made_at, self.bucket.dies_at());
            if due_at.is_some_and(|due_at| due_at <= now) && !self.bucket.is_dead(now) {
                self.rotate(now, true);
            }
        }
    }

    proptest! {
        /// However long a process is away, whichever way its clock is set, and whatever people do meanwhile: after a look no key
        /// that seals is older than the schedule allows, none was replaced by schedule before its time, and two looks at
        /// once are one.
        #[test]
        fn no_key_seals_for_longer_and_none_is_replaced_before(
            contents in proptest::sample::select(all()),
            lives in 1_u64..60 * 24,
            steps in proptest::collection::vec((-20_000_i64..200_000, proptest::bool::weighted(0.1)), 1..200),
        ) {
            let bucket = Bucket::covering(contents, START.plus(Duration::from_secs(lives * 3600))).unwrap();
            let mut keys = Keys { bucket, made: vec![(START, false)] };
            let mut now = START;
            for (seconds, by_hand) in steps {
                let by = Duration::from_secs(seconds.unsigned_abs());
                now = if seconds < 0 { now.minus(by) } else { now.plus(by) };
                if by_hand && !bucket.is_dead(now) {
                    keys.rotate(now, false);
                }
                keys.look(now);
                let before = keys.made.len();
                keys.look(now);
                prop_assert_eq!(keys.made.len(), before, "rotated twice");
                let (last, _) = *keys.made.last().unwrap();
                let every = ROTATION.every(contents);
                prop_assert!(bucket.is_dead(now) || now.since(last) < every || last.plus(every) >= bucket.dies_at());
                for pair in keys.made.windows(2) {
                    let [(made, _), (next, by_schedule)] = pair else { unreachable!() };
                    prop_assert!(!by_schedule || next.since(*made) >= every);
                }
            }
        }
    }
}
