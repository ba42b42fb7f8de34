//! A cell that was put back from a backup: what its stores call waiting may have been sent in the time that was lost.

use std::time::Duration;

use crate::{Facts, MessageClass, Timestamp};

/// By how much the clock of the lost machine may have been ahead.
const CLOCKS: Duration = Duration::from_secs(60);

/// That a cell was put back from a backup, and when. The moment names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Restored {
    /// When it was put back: what was accepted until then was accepted before the loss.
    pub at: Timestamp,
}

/// What an operator decided about messages that may have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// They end as unknown.
    AsUnknown,
    /// They are sent, maybe for a second time; one-time codes are not.
    Resend,
}

impl Release {
    /// The word for people and for the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AsUnknown => "as_unknown",
            Self::Resend => "resend",
        }
    }
}

/// What may be done with a message of a cell that was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Nothing of it can have been sent in the time that was lost.
    Sure,
    /// It may have been sent, and nobody has decided yet: it stays.
    Held,
    /// It may have been sent, and an operator wants it sent all the same. If it ends unsent, nobody knows how it ended.
    Again,
    /// It may have been sent, and is not sent any more.
    Doubted,
}

impl Restored {
    /// Whether a message may have been sent in the time that was lost. Not what was accepted since; and not what was to be
    /// sent only after the cell had been put back.
    pub fn concerns(&self, facts: &Facts) -> bool {
        let later = facts.send_at.is_some_and(|at| at > self.at.plus(CLOCKS));
        facts.accepted_at <= self.at && !later
    }

    /// What may be done with a message now. A one-time code is never sent again: it is of no use any more, and two of
    /// them are a riddle.
    pub fn trust(&self, facts: &Facts, released: Option<Release>, now: Timestamp) -> Trust {
        if !self.concerns(facts) {
            return Trust::Sure;
        }
        if now >= facts.expires_at {
            return Trust::Doubted;
        }
        match released {
            None => Trust::Held,
            Some(Release::Resend) if facts.class != MessageClass::Otp => Trust::Again,
            Some(Release::Resend | Release::AsUnknown) => Trust::Doubted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MessageId, text::Encoding};

    fn second(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn facts(class: MessageClass, accepted: i64, send_at: Option<i64>) -> Facts {
        Facts {
            message: MessageId::from_keyed_hash([1; 16]),
            tenant: "acme".parse().unwrap(),
            class,
            country: "VN".parse().unwrap(),
            operator_range: "8498".parse().unwrap(),
            encoding: Encoding::Gsm7,
            parts: 1,
            units: 1,
            accepted_at: second(accepted),
            expires_at: second(10_000),
            content_mac: None,
            send_at: send_at.map(second),
        }
    }

    #[test]
    fn only_what_cannot_have_been_sent_is_sure() {
        let restored = Restored { at: second(1_000) };
        for (accepted, send_at, concerned) in [
            (999, None, true),
            (1_000, None, true),
            (1_001, None, false),
            (10, Some(900), true),
            (10, Some(1_030), true),
            (10, Some(1_100), false),
            (1_001, Some(1_002), false),
        ] {
            let facts = facts(MessageClass::Transactional, accepted, send_at);
            assert_eq!(restored.concerns(&facts), concerned, "{accepted} {send_at:?}");
            for released in [None, Some(Release::AsUnknown), Some(Release::Resend)] {
                let sure = restored.trust(&facts, released, second(2_000)) == Trust::Sure;
                assert_eq!(sure, !concerned);
            }
        }
    }

    #[test]
    fn nothing_goes_before_a_release_and_no_code_after_it() {
        let restored = Restored { at: second(1_000) };
        let trust = |class, released, now| restored.trust(&facts(class, 1, None), released, second(now));
        for class in MessageClass::ALL {
            assert_eq!(trust(class, None, 2_000), Trust::Held);
            assert_eq!(trust(class, Some(Release::AsUnknown), 2_000), Trust::Doubted);
            let again = if class == MessageClass::Otp { Trust::Doubted } else { Trust::Again };
            assert_eq!(trust(class, Some(Release::Resend), 2_000), again);
            for released in [None, Some(Release::AsUnknown), Some(Release::Resend)] {
                assert_eq!(trust(class, released, 10_000), Trust::Doubted, "its validity is over");
            }
        }
    }
}
