//! A live message while it moves between work streams: facts, sealed content, history.

use std::{fmt, time::Duration};

use bytes::Bytes;

use crate::{AccountId, MessageClass, TenantId, Timestamp, facts::Facts};

/// The sealed content of a message, as `sotto_crypto` made it. Opaque here.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Envelope(pub Bytes);

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envelope({} bytes)", self.0.len())
    }
}

/// A session data key wrapped under a bucket key that dies on time (docs/formats/envelope.md). It travels with every
/// batch whose envelopes the key opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWrap {
    /// The session key's id.
    pub key_id: [u8; 16],
    /// The tenant it was made for.
    pub tenant: TenantId,
    /// The class it was made for.
    pub class: MessageClass,
    /// The bucket, for example `otp/2026-11-24T06`.
    pub bucket: String,
    /// The wrap: useless without the bucket key.
    pub wrapped: Bytes,
}

/// When what a session key seals is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// It is submitted from this time on; none: from now on.
    pub from: Option<Timestamp>,
    /// It must open until then.
    pub until: Timestamp,
}

impl From<Timestamp> for Need {
    /// From now on.
    fn from(until: Timestamp) -> Self {
        Self { from: None, until }
    }
}

/// Why an attempt ended without a carrier taking the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptEnd {
    /// The carrier asked to slow down, or failed for a passing reason of its own: the same account may be tried later.
    Throttled,
    /// The carrier refused with a status that another account may not give.
    Refused,
    /// The account has no working link.
    LinkDown,
    /// The account may not carry this message.
    NotAllowed,
}

impl AttemptEnd {
    /// Whether the same account may take the message later.
    pub const fn is_passing(self) -> bool {
        match self {
            Self::Throttled | Self::LinkDown => true,
            Self::Refused | Self::NotAllowed => false,
        }
    }

    /// The word for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::LinkDown => "link_down",
            Self::NotAllowed => "not_allowed",
        }
    }
}

/// One earlier attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: u16,
    /// The account.
    pub account: AccountId,
    /// Why it ended.
    pub end: AttemptEnd,
    /// The carrier's status, 0 if it gave none.
    pub status: u32,
}

/// A live message in a work stream. Its sealed content is always in exactly one of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkItem {
    /// The facts.
    pub facts: Facts,
    /// The sealed content.
    pub envelope: Envelope,
    /// The attempt this item is for, from 1; 0 before the first routing.
    pub attempt: u16,
    /// The account it waits for; none before routing.
    pub account: Option<AccountId>,
    /// Parts to submit, from 1; empty means all.
    pub parts: Vec<u8>,
    /// Earlier attempts, oldest first.
    pub history: Vec<Attempt>,
    /// Not to be routed before this time.
    pub not_before: Option<Timestamp>,
    /// A part is with a carrier: the message never leaves this account.
    pub pinned: bool,
}

impl WorkItem {
    /// The longest history an item carries. Only attempts that used up their route must be remembered; of the others
    /// the newest are.
    pub const MAX_HISTORY: usize = 32;

    /// A fresh item, as intake makes it.
    pub const fn accepted(facts: Facts, envelope: Envelope) -> Self {
        Self {
            facts,
            envelope,
            attempt: 0,
            account: None,
            parts: Vec::new(),
            history: Vec::new(),
            not_before: None,
            pinned: false,
        }
    }

    /// Adds an attempt to the history. When that is full, the oldest attempt goes that left its route usable: patience
    /// has no end but the message's validity, and a refusal is never forgotten for it.
    pub fn note(&mut self, attempt: Attempt) {
        if self.history.len() >= Self::MAX_HISTORY {
            let spare = self.history.iter().position(|attempt| attempt.end.is_passing());
            self.history.remove(spare.unwrap_or(0));
        }
        self.history.push(attempt);
    }

    /// Whether as many routes have refused the message as can be remembered.
    pub fn is_exhausted(&self) -> bool {
        self.history.iter().filter(|attempt| !attempt.end.is_passing()).count() >= Self::MAX_HISTORY
    }

    /// How long the accounts that were tried without a final answer (throttled, link down) are left alone: 1 second,
    /// doubled with each such attempt, at most 30 seconds.
    pub fn back_off(&self) -> Duration {
        let passing = self.history.iter().filter(|attempt| attempt.end.is_passing()).count();
        let doublings = u32::try_from(passing.saturating_sub(1)).unwrap_or(u32::MAX).min(5);
        Duration::from_secs(2_u64.pow(doublings)).min(Duration::from_secs(30))
    }

    /// The parts to submit, from 1.
    pub fn wanted_parts(&self) -> Vec<u8> {
        if self.parts.is_empty() { (1..=self.facts.parts).collect() } else { self.parts.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MessageId, text::Encoding};

    #[test]
    fn patience_is_forgotten_before_refusals() {
        let facts = Facts {
            message: MessageId::from_keyed_hash([1; 16]),
            tenant: "acme".parse().unwrap(),
            class: MessageClass::Transactional,
            country: "VN".parse().unwrap(),
            operator_range: "8498".parse().unwrap(),
            encoding: Encoding::Gsm7,
            parts: 1,
            units: 1,
            accepted_at: Timestamp::from_unix_seconds(0),
            expires_at: Timestamp::from_unix_seconds(86_400),
            content_mac: None,
            send_at: None,
        };
        let mut item = WorkItem::accepted(facts, Envelope(Bytes::new()));
        let attempt = |number, end| Attempt { number, account: "a".parse().unwrap(), end, status: 0 };
        item.note(attempt(1, AttemptEnd::Refused));
        for number in 2..1_000 {
            item.note(attempt(number, AttemptEnd::LinkDown));
            assert!(item.history.len() <= WorkItem::MAX_HISTORY && !item.is_exhausted());
        }
        let numbers: Vec<_> = item.history.iter().map(|attempt| attempt.number).collect();
        assert_eq!((numbers[0], numbers[1], numbers[31]), (1, 969, 999));
        assert_eq!(item.back_off(), Duration::from_secs(30));
        for number in 1_000..1_031 {
            item.note(attempt(number, AttemptEnd::NotAllowed));
        }
        assert!(item.is_exhausted());
    }
}
