//! Buckets: named by what is in them and the instant of death, so that the name alone tells when everything in it is gone.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{civil, tz::TimeZone};
use sotto_core::{MessageClass, Timestamp, abuse, inbound, index};

const HOUR_S: u32 = 3_600;
const DAY_S: u32 = 24 * HOUR_S;

/// Keys that take one another's place in one bucket's time.
const MOST_KEYS: u16 = 999;

/// What the keys of a bucket seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contents {
    /// Messages to handsets.
    Messages(MessageClass),
    /// Messages from handsets. Nothing opens them.
    Inbound,
    /// Entries of the index. Its keys follow from that of the bucket, and are not wrapped.
    Index,
    /// What stands for numbers to the whole cell, for one day. Its key follows from that of the bucket, and is not wrapped.
    Abuse,
}

impl Contents {
    /// The name in buckets, counts and additional authenticated data.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages(class) => class.name(),
            Self::Inbound => inbound::CLASS,
            Self::Index => index::CLASS,
            Self::Abuse => abuse::CLASS,
        }
    }

    /// Their buckets die on multiples of this. One-time codes are of use for minutes: theirs die on the hour. The others'
    /// die on the day.
    pub fn grain(self) -> Duration {
        Duration::from_secs(self.grain_s().into())
    }

    const fn grain_s(self) -> u32 {
        match self {
            Self::Messages(MessageClass::Otp) => HOUR_S,
            Self::Messages(
                MessageClass::Transactional | MessageClass::Promotional | MessageClass::AdInvite,
            )
            | Self::Inbound
            | Self::Index
            | Self::Abuse => DAY_S,
        }
    }

    /// The contents of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            inbound::CLASS => Some(Self::Inbound),
            index::CLASS => Some(Self::Index),
            abuse::CLASS => Some(Self::Abuse),
            class => class.parse().ok().map(Self::Messages),
        }
    }
}

impl From<MessageClass> for Contents {
    fn from(class: MessageClass) -> Self {
        Self::Messages(class)
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A bucket: `otp/2026-11-24T06` dies on that hour, `transactional/2026-11-28` at the beginning of that day (UTC). When its
/// key is replaced or destroyed before its time, another bucket with the same time takes its place:
/// `transactional/2026-11-28.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket {
    contents: Contents,
    dies_at: Timestamp,
    /// From 1.
    number: u16,
}

/// Text that is not the canonical name of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a bucket is named class/YYYY-MM-DD, or otp/YYYY-MM-DDTHH, in UTC, and from the second key on with .2 and so on"
)]
pub struct InvalidBucket;

impl Bucket {
    /// The first bucket of `contents` that lives until `needed_until`; none beyond the year 9999.
    pub fn covering(contents: impl Into<Contents>, needed_until: Timestamp) -> Option<Self> {
        let contents = contents.into();
        let grain = i64::from(contents.grain_s()) * 1_000;
        let until = needed_until.unix_millis();
        let whole = until.div_euclid(grain).checked_add(i64::from(until.rem_euclid(grain) != 0))?;
        let dies_at = Timestamp::from_unix_millis(whole.checked_mul(grain)?);
        civil_of(dies_at).map(|_| Self { contents, dies_at, number: 1 })
    }

    /// The one that takes its place; none after [`MOST_KEYS`].
    pub fn next(self) -> Option<Self> {
        let number = self.number.checked_add(1).filter(|number| *number <= MOST_KEYS)?;
        Some(Self { number, ..self })
    }

    /// What its keys seal.
    pub const fn contents(self) -> Contents {
        self.contents
    }

    /// The instant of death: from then on nothing in it opens.
    pub const fn dies_at(self) -> Timestamp {
        self.dies_at
    }

    /// Whether its time has come.
    pub fn is_dead(self, now: Timestamp) -> bool {
        now >= self.dies_at
    }
}

/// Only years of four digits, so that every name has one length and order.
fn civil_of(at: Timestamp) -> Option<civil::DateTime> {
    let at = TimeZone::UTC.to_datetime(jiff::Timestamp::from_millisecond(at.unix_millis()).ok()?);
    (0..=9999).contains(&at.year()).then_some(at)
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = civil_of(self.dies_at).ok_or(fmt::Error)?;
        write!(f, "{}/{:04}-{:02}-{:02}", self.contents, at.year(), at.month(), at.day())?;
        if self.contents.grain_s() == HOUR_S {
            write!(f, "T{:02}", at.hour())?;
        }
        if self.number > 1 { write!(f, ".{}", self.number) } else { Ok(()) }
    }
}

impl FromStr for Bucket {
    type Err = InvalidBucket;
    fn from_str(name: &str) -> Result<Self, InvalidBucket> {
        read(name).filter(|bucket| bucket.to_string() == name).ok_or(InvalidBucket)
    }
}

/// Reads generously; the caller keeps only what prints as it was read.
fn read(name: &str) -> Option<Bucket> {
    let (class, death) = name.split_once('/')?;
    let contents = Contents::from_name(class)?;
    let (death, number) = match death.split_once('.') {
        Some((death, number)) => (death, number.parse().ok().filter(|number| *number <= MOST_KEYS)?),
        None => (death, 1),
    };
    let (date, hour) = match death.split_once('T') {
        Some((date, hour)) => (date, hour.parse().ok()?),
        None => (death, 0),
    };
    let mut fields = date.splitn(3, '-');
    let year = fields.next()?.parse().ok()?;
    let month = fields.next()?.parse().ok()?;
    let day = fields.next()?.parse().ok()?;
    let at = civil::DateTime::new(year, month, day, hour, 0, 0, 0).ok()?;
    let at = TimeZone::UTC.to_timestamp(at).ok()?;
    Some(Bucket { contents, dies_at: Timestamp::from_unix_millis(at.as_millisecond()), number })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAST_NAMED: i64 = 253_402_214_400_000;

    fn class() -> impl Strategy<Value = Contents> {
        let others = [Contents::Inbound, Contents::Index, Contents::Abuse];
        let all = MessageClass::ALL.into_iter().map(Contents::Messages).chain(others);
        proptest::sample::select(all.collect::<Vec<_>>())
    }

    #[test]
    fn is_named_by_its_death() {
        let at = Timestamp::from_unix_millis(1_795_493_815_007);
        let name = |class: MessageClass| Bucket::covering(class, at).unwrap().to_string();
        assert_eq!(Bucket::covering(Contents::Inbound, at).unwrap().to_string(), "inbound/2026-11-25");
        assert_eq!(Bucket::covering(Contents::Index, at).unwrap().to_string(), "index/2026-11-25");
        assert_eq!(Bucket::covering(Contents::Abuse, at).unwrap().to_string(), "abuse/2026-11-25");
        assert_eq!(name(MessageClass::Otp), "otp/2026-11-24T05");
        assert_eq!(name(MessageClass::Transactional), "transactional/2026-11-25");
        assert_eq!(name(MessageClass::Promotional), "promotional/2026-11-25");
        assert_eq!(name(MessageClass::AdInvite), "ad-invite/2026-11-25");
    }

    #[test]
    fn keys_that_take_its_place_have_its_time_and_a_number() {
        let mut bucket: Bucket = "otp/2026-11-24T06".parse().unwrap();
        let dies_at = bucket.dies_at();
        for number in 2..=MOST_KEYS {
            bucket = bucket.next().unwrap();
            assert_eq!(bucket.to_string(), format!("otp/2026-11-24T06.{number}"));
            assert_eq!(bucket.to_string().parse(), Ok(bucket));
            assert_eq!((bucket.dies_at(), bucket.contents()), (dies_at, MessageClass::Otp.into()));
        }
        assert_eq!(bucket.next(), None);
    }

    #[test]
    fn a_need_on_the_border_is_covered_by_that_border() {
        let midnight = Timestamp::from_unix_seconds(1_795_478_400);
        assert_eq!(Bucket::covering(MessageClass::Otp, midnight).unwrap().to_string(), "otp/2026-11-24T00");
        assert_eq!(Bucket::covering(MessageClass::Otp, midnight).unwrap().dies_at(), midnight);
        let day = Bucket::covering(MessageClass::Transactional, midnight).unwrap();
        assert_eq!(day.dies_at(), midnight);
        assert!(day.is_dead(midnight));
        assert!(!day.is_dead(Timestamp::from_unix_millis(midnight.unix_millis() - 1)));
    }

    #[test]
    fn has_one_spelling() {
        for wrong in [
            "",
            "otp",
            "otp/",
            "/2026-11-24",
            "otp/2026-11-24",
            "otp/2026-11-24T6",
            "otp/2026-11-24T24",
            "otp/2026-11-24T06:00",
            "otp/2026-11-24t06",
            "otp/2026-1-24T06",
            "otp/+2026-11-24T06",
            "otp/02026-11-24T06",
            "otp/2026-02-30T06",
            "otp/2026-11-24T+6",
            "otp/2026-11-24T06 ",
            " otp/2026-11-24T06",
            "OTP/2026-11-24T06",
            "otp/2026-11-24T06/x",
            "otp/2026-11-24T06.",
            "otp/2026-11-24T06.0",
            "otp/2026-11-24T06.1",
            "otp/2026-11-24T06.02",
            "otp/2026-11-24T06.+2",
            "otp/2026-11-24T06.1000",
            "otp/2026-11-24.2T06",
            "transactional/2026-11-24T00",
            "transactional/2026-11-24T",
            "transactional/-001-11-24",
            "ad_invite/2026-11-24",
            "unknown/2026-11-24",
        ] {
            assert_eq!(wrong.parse::<Bucket>(), Err(InvalidBucket), "{wrong:?}");
        }
    }

    #[test]
    fn there_is_none_beyond_the_calendar() {
        for at in [i64::MAX, i64::MIN, LAST_NAMED + 1] {
            assert_eq!(Bucket::covering(MessageClass::Promotional, Timestamp::from_unix_millis(at)), None);
        }
    }

    proptest! {
        #[test]
        fn lives_as_long_as_needed_and_less_than_a_grain_longer(
            class in class(),
            until in 0_i64..LAST_NAMED,
        ) {
            let bucket = Bucket::covering(class, Timestamp::from_unix_millis(until)).unwrap();
            let spare = bucket.dies_at().unix_millis() - until;
            prop_assert!(spare >= 0);
            let grain = if class == Contents::Messages(MessageClass::Otp) { HOUR_S } else { DAY_S };
            let grain = i64::from(grain) * 1_000;
            prop_assert!(spare < grain);
            prop_assert!(!bucket.is_dead(Timestamp::from_unix_millis(until - 1)));
        }

        #[test]
        fn survives_its_name(class in class(), until in 0_i64..LAST_NAMED) {
            let bucket = Bucket::covering(class, Timestamp::from_unix_millis(until)).unwrap();
            let name = bucket.to_string();
            prop_assert_eq!(name.parse::<Bucket>(), Ok(bucket));
            prop_assert!(name.len() <= 64, "a keystore name has at most 64 characters");
        }

        #[test]
        fn later_needs_never_die_earlier(class in class(), a in 0_i64..LAST_NAMED, b in 0_i64..LAST_NAMED) {
            let covering = |at| Bucket::covering(class, Timestamp::from_unix_millis(at)).unwrap();
            prop_assert!(covering(a.min(b)).dies_at() <= covering(a.max(b)).dies_at());
        }

        #[test]
        fn reading_never_panics(name in "\\PC{0,40}") {
            if let Ok(bucket) = name.parse::<Bucket>() {
                prop_assert_eq!(bucket.to_string(), name);
            }
        }
    }
}
