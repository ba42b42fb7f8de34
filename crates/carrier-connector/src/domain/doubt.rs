//! Which submit without an answer a receipt speaks of whose id is unknown: by our own reference, which the carrier
//! repeats, or because there is only one to that recipient.

use std::{fmt, str::FromStr, time::Duration};

use sotto_core::{MessageId, Timestamp};
use sotto_crypto::MacKey;

use super::receipt::{Span, Submitted, UnknownEntry};

/// What marks of recipients are made for.
const LABEL: &str = "sotto.recipient.v1";

/// The digits at the end of a number that tell recipients apart: carriers write a number with or without its country code
/// or a zero in front.
const DIGITS: usize = 9;

/// Stands for a recipient in Redis.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mark([u8; 16]);

impl Mark {
    /// Of a number. None if it has too few digits to tell anybody.
    pub(crate) fn of(key: &MacKey, number: &[u8]) -> Option<Self> {
        let digits: Vec<u8> = number.iter().copied().filter(u8::is_ascii_digit).collect();
        let from = digits.len().checked_sub(DIGITS)?;
        Some(Self(key.keyed_id(LABEL, &[digits.get(from..)?])))
    }

    /// Stands for the key itself: what was marked with another one is not found.
    pub(crate) fn of_key(key: &MacKey) -> Self {
        Self(key.keyed_id(LABEL, &[]))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

/// A submit whose answer is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// The message.
    pub(crate) message: MessageId,
    /// The attempt, from 1.
    pub(crate) attempt: u16,
    /// The parts.
    pub(crate) span: Span,
    /// What was sent as `user_message_reference`.
    pub(crate) reference: u16,
    /// When it was about to be written.
    pub(crate) at: Timestamp,
}

impl Open {
    /// Its parts.
    pub(crate) fn parts(self) -> impl Iterator<Item = Submitted> {
        let Self { message, attempt, span, .. } = self;
        span.parts().map(move |part| Submitted { message, attempt, part })
    }

    /// Its name among those to one recipient: `<message>|<attempt>|<first>|<last>`.
    pub(crate) fn name(&self) -> String {
        let Self { message, attempt, span: Span { first, last }, .. } = self;
        format!("{message}|{attempt}|{first}|{last}")
    }

    /// The rest of it: `<reference>|<milliseconds>`.
    pub(crate) fn rest(&self) -> String {
        format!("{}|{}", self.reference, self.at.unix_millis())
    }

    /// Reads both.
    pub(crate) fn read(name: &str, rest: &str) -> Result<Self, UnknownEntry> {
        fn next<'a, T: FromStr>(fields: &mut impl Iterator<Item = &'a str>) -> Result<T, UnknownEntry> {
            fields.next().and_then(|field| field.parse().ok()).ok_or(UnknownEntry)
        }
        let (name, rest) = (&mut name.split('|'), &mut rest.split('|'));
        Ok(Self {
            message: next(name)?,
            attempt: next(name)?,
            span: Span { first: next(name)?, last: next(name)? },
            reference: next(rest)?,
            at: Timestamp::from_unix_millis(next(rest)?),
        })
    }
}

/// What is known of the submits to one recipient that have no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opens {
    /// They are. None: more than are kept.
    pub(crate) known: Option<Vec<Open>>,
    /// Since when none is missing among them. None: nothing is known of that.
    pub(crate) whole_since: Option<Timestamp>,
}

/// How an account's receipts may be told to belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ways {
    /// By `user_message_reference`, which is sent with each submit.
    pub(crate) reference: bool,
    /// By the recipient, where only one submit fits.
    pub(crate) recipient: bool,
    /// How long after its submit a receipt comes at most.
    pub(crate) receipt_wait: Duration,
}

impl Ways {
    /// Whether there is any.
    pub(crate) const fn any(&self) -> bool {
        self.reference || self.recipient
    }

    /// The one submit to its recipient that a receipt speaks of. Where two fit, or another may that is not known, none.
    pub(crate) fn only(&self, reference: Option<u16>, opens: &Opens, now: Timestamp) -> Option<Open> {
        let waits = |open: &&Open| now.since(open.at) < self.receipt_wait;
        let reference = reference.filter(|_| self.reference);
        let mut fits = opens
            .known
            .as_ref()?
            .iter()
            .filter(waits)
            .filter(|open| reference.is_none_or(|reference| reference == open.reference));
        let (only, more) = (fits.next()?, fits.next());
        // Any receipt of these days names a recipient; one that names our reference too says which submit it means.
        let whole = || opens.whole_since.is_some_and(|since| now.since(since) >= self.receipt_wait);
        (more.is_none() && (reference.is_some() || (self.recipient && whole()))).then_some(*only)
    }
}

/// What is sent as `user_message_reference` with a submit: the same at every attempt, and different for the parts of one
/// message.
pub(crate) fn reference(message: &MessageId, span: Span) -> u16 {
    wide_reference(message).wrapping_add(span.first.into())
}

/// A reference of 16 bits that is a message's own, the same at every attempt.
pub(crate) fn wide_reference(message: &MessageId) -> u16 {
    let (pairs, _) = message.as_bytes().as_chunks::<2>();
    pairs.iter().fold(0, |sum, pair| sum ^ u16::from_be_bytes(*pair))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    const WAIT: Duration = Duration::from_secs(100);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1_000)
    }

    fn open() -> impl Strategy<Value = Open> {
        (0_u8..6, 1_u16..3, 0_u16..3, 0_i64..400).prop_map(|(seed, attempt, reference, seconds)| Open {
            message: MessageId::from_keyed_hash([seed; 16]),
            attempt,
            span: Span { first: 1, last: 1 + seed % 3 },
            reference,
            at: at(seconds),
        })
    }

    fn opens() -> impl Strategy<Value = Opens> {
        (option::weighted(0.9, vec(open(), 0..5)), option::of((0_i64..400).prop_map(at)))
            .prop_map(|(known, whole_since)| Opens { known, whole_since })
    }

    #[test]
    fn a_number_has_one_mark_however_it_is_written() {
        let key = MacKey::from_bytes([1; 32]);
        let mark = |number: &str| Mark::of(&key, number.as_bytes());
        let same = ["84912345678", "+84912345678", "0084912345678", "0912345678", "912345678"];
        assert!(same.iter().all(|number| mark(number).is_some() && mark(number) == mark(same[0])));
        assert_ne!(mark("84912345679"), mark(same[0]));
        assert_eq!((mark(""), mark("ACMEBANK"), mark("12345678")), (None, None, None));
        assert_ne!(Mark::of(&MacKey::from_bytes([2; 32]), same[0].as_bytes()), mark(same[0]));
        assert_eq!(format!("{:?}", mark(same[0])), "Some(Mark)");
        assert_eq!(Mark::of_key(&key).to_string().len(), 32);
    }

    #[test]
    fn parts_of_a_message_have_other_references() {
        let message = MessageId::from_keyed_hash([0xFF; 16]);
        let all: Vec<_> = (1..=10).map(|part| reference(&message, Span::one(part))).collect();
        assert!(all.iter().enumerate().all(|(place, one)| !all[..place].contains(one)));
    }

    #[test]
    fn only_the_one_that_waits_is_meant() {
        let open = |seed, reference, seconds| Open {
            message: MessageId::from_keyed_hash([seed; 16]),
            attempt: 1,
            span: Span::one(1),
            reference,
            at: at(seconds),
        };
        let (old, one, two) = (open(1, 7, 0), open(2, 7, 120), open(3, 8, 130));
        let opens = |known: &[Open]| Opens { known: Some(known.to_vec()), whole_since: Some(at(0)) };
        let ways = Ways { reference: true, recipient: true, receipt_wait: WAIT };
        let only = |reference, known: &[Open]| ways.only(reference, &opens(known), at(150));
        assert_eq!(only(None, &[old, one]), Some(one), "nobody waits for the old one any more");
        assert_eq!(only(None, &[old, one, two]), None);
        assert_eq!(only(Some(8), &[old, one, two]), Some(two));
        assert_eq!(only(Some(9), &[one]), None, "it means another");
        // An account that sends none is not answered with one that counts.
        let by_recipient = Ways { reference: false, ..ways };
        assert_eq!(by_recipient.only(Some(9), &opens(&[one]), at(150)), Some(one));
        // What was submitted before the record began may be what is meant.
        let late = Opens { whole_since: Some(at(51)), ..opens(&[one]) };
        assert_eq!(ways.only(None, &late, at(150)), None);
        assert_eq!(ways.only(None, &late, at(151)), Some(one));
        assert_eq!(ways.only(Some(7), &late, at(150)), Some(one), "by the reference it is this one");
        assert_eq!(ways.only(Some(7), &Opens { known: None, ..late }, at(150)), None, "too many");
    }

    proptest! {
        #[test]
        fn entries_survive_text(open in open()) {
            prop_assert_eq!(Open::read(&open.name(), &open.rest()), Ok(open));
        }

        #[test]
        fn foreign_entries_are_no_submits(name in "[0-9a-f|]{0,12}", rest in "[0-9a-f|]{0,6}") {
            prop_assert_eq!(Open::read(&name, &rest), Err(UnknownEntry));
        }

        #[test]
        fn never_is_one_of_two_taken(
            opens in opens(),
            reference in option::of(0_u16..3),
            seconds in 0_i64..600,
            by_reference: bool,
            by_recipient: bool,
        ) {
            let ways = Ways { reference: by_reference, recipient: by_recipient, receipt_wait: WAIT };
            let now = at(seconds);
            let named = reference.filter(|_| by_reference);
            let known = opens.known.clone().unwrap_or_default();
            let fits = known.iter().filter(|open| {
                now.since(open.at) < WAIT && named.is_none_or(|named| named == open.reference)
            });
            let fits: Vec<_> = fits.collect();
            let whole = opens.whole_since.is_some_and(|since| now.since(since) >= WAIT);
            let may = named.is_some() || (by_recipient && whole);
            match ways.only(reference, &opens, now) {
                Some(found) => {
                    prop_assert_eq!(fits, [&found]);
                    prop_assert!(may && ways.any());
                }
                None => prop_assert!(fits.len() != 1 || !may),
            }
        }
    }
}
