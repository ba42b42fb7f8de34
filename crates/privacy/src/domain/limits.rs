//! How long messages may and must be kept, as data: one table for each set of rules that a cell may be under.

use std::time::Duration;

/// The bounds of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The class, as in buckets.
    pub class: &'static str,
    /// Not shorter than this.
    pub least: Duration,
    /// Not longer than this.
    pub most: Duration,
    /// Where the bounds come from.
    pub why: &'static str,
}

/// A set of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Its name in the configuration.
    pub name: &'static str,
    /// One for each class.
    pub of: [Limit; 6],
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

const SHORTEST: &str = "no law asks to keep a text; below a minute nothing could be submitted";
const CODES: &str = "one-time codes: 15 minutes and the carrier's retries";
const TEXTS: &str = "texts: 72 hours at most";
const INDEX: &str = "who got which message: 90 days, in which people ask";
const TECHNICAL: &str = "what this software can hold: no law is applied";

const fn limit(class: &'static str, most: Duration, why: &'static str) -> Limit {
    Limit { class, least: MINUTE, most, why }
}

/// The sets of rules there are. Floors of the law concern accounts, consent and the audit log, which no key here guards.
pub const LIMITS: [Limits; 2] = [
    Limits {
        name: "vn",
        of: [
            limit("otp", Duration::from_secs(15 * 60), CODES),
            limit("transactional", Duration::from_secs(72 * 3600), TEXTS),
            limit("promotional", Duration::from_secs(72 * 3600), TEXTS),
            limit("ad-invite", Duration::from_secs(72 * 3600), TEXTS),
            limit("inbound", Duration::from_secs(30 * 86_400), SHORTEST),
            limit("index", Duration::from_secs(90 * 86_400), INDEX),
        ],
    },
    Limits {
        name: "technical",
        of: [
            limit("otp", DAY, TECHNICAL),
            limit("transactional", Duration::from_secs(30 * 86_400), TECHNICAL),
            limit("promotional", Duration::from_secs(30 * 86_400), TECHNICAL),
            limit("ad-invite", Duration::from_secs(30 * 86_400), TECHNICAL),
            limit("inbound", Duration::from_secs(30 * 86_400), TECHNICAL),
            limit("index", Duration::from_secs(90 * 86_400), TECHNICAL),
        ],
    },
];

impl Limits {
    /// The set of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        LIMITS.iter().find(|limits| limits.name == name)
    }

    /// The bounds of a class.
    pub fn of(&self, class: &str) -> Option<&Limit> {
        self.of.iter().find(|limit| limit.class == class)
    }
}

/// How long the messages of a class are kept, within which bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The bounds.
    pub limit: Limit,
    /// How long the configuration keeps them.
    pub kept: Duration,
    /// How much longer its bucket may live at most.
    pub grain: Duration,
}

impl Rule {
    /// The rule of a class.
    pub const fn new(limit: Limit, kept: Duration, is_code: bool) -> Self {
        Self { limit, kept, grain: if is_code { HOUR } else { DAY } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bucket::Contents;

    #[test]
    fn every_set_has_every_class_and_bounds_that_can_be_kept() {
        for limits in &LIMITS {
            assert_eq!(Limits::named(limits.name), Some(limits));
            for limit in limits.of {
                assert!(Contents::from_name(limit.class).is_some(), "{}", limit.class);
                assert!(limit.least < limit.most && limit.least >= MINUTE && limit.most <= 90 * DAY);
                assert_eq!(limits.of(limit.class), Some(&limit), "each class once");
            }
        }
        assert_eq!(Limits::named("nowhere"), None);
    }
}
