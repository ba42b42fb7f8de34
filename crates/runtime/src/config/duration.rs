//! Durations as people write them.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A duration given as a number and a unit: `250 ms`, `30 s`, `5 m`, `12 h`, `7 d`. From 1 ms to 90 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigDuration(Duration);

/// Text that is not such a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a number and a unit (ms, s, m, h or d) from 1 ms to 90 d, such as \"30 s\"")]
pub struct InvalidDuration;

const MAX: Duration = Duration::from_secs(90 * 86_400);
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl ConfigDuration {
    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// A duration as this type would be written.
    pub(super) fn shown(duration: Duration) -> String {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        UNITS
            .iter()
            .find(|(_, size)| millis >= *size && millis.is_multiple_of(*size))
            .map_or_else(|| format!("{millis} ms"), |(unit, size)| format!("{} {unit}", millis / size))
    }
}

impl TryFrom<Duration> for ConfigDuration {
    type Error = InvalidDuration;
    fn try_from(duration: Duration) -> Result<Self, InvalidDuration> {
        let ok = duration >= Duration::from_millis(1) && duration <= MAX;
        if ok { Ok(Self(duration)) } else { Err(InvalidDuration) }
    }
}

impl FromStr for ConfigDuration {
    type Err = InvalidDuration;
    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.strip_prefix(' ').unwrap_or(unit);
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(InvalidDuration)?;
        let number: u64 = number.parse().map_err(|_| InvalidDuration)?;
        let millis = number.checked_mul(*size).ok_or(InvalidDuration)?;
        Duration::from_millis(millis).try_into()
    }
}

impl fmt::Display for ConfigDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Self::shown(self.0))
    }
}

impl<'de> Deserialize<'de> for ConfigDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [
            ("250 ms", 250),
            ("250ms", 250),
            ("30 s", 30_000),
            ("5 m", 300_000),
            ("12 h", 43_200_000),
            ("90 d", 7_776_000_000),
        ] {
            let duration: ConfigDuration = text.parse().unwrap();
            assert_eq!(duration.get(), Duration::from_millis(millis), "{text}");
            assert_eq!(duration.to_string().parse(), Ok(duration), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "5",
            "s",
            "0 s",
            "-1 s",
            "1.5 s",
            "5 min",
            "91 d",
            "5  s",
            "99999999999999999999 s",
            "9999999999999 d",
        ] {
            assert_eq!(text.parse::<ConfigDuration>(), Err(InvalidDuration), "{text}");
        }
    }
}
