//! What a receipt says, and which part an id stands for.

use std::{ops::RangeInclusive, str::FromStr};

use sotto_core::{MessageId, delivery::ReceiptState};
use sotto_smpp::{MessageState, Receipt};

use super::doubt::{Mark, Open};

/// What a receipt says. Its free text was dropped when it was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Said {
    /// What became of the part.
    pub(crate) state: ReceiptState,
    /// The carrier's error code: at most 5 letters and digits.
    pub(crate) error: String,
}

/// The part that a carrier's id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Submitted {
    /// The message.
    pub(crate) message: MessageId,
    /// The attempt, from 1.
    pub(crate) attempt: u16,
    /// The part, from 1.
    pub(crate) part: u8,
}

/// The parts of a message that one submit carries: one, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// The first of them, from 1.
    pub(crate) first: u8,
    /// The last.
    pub(crate) last: u8,
}

/// What a request to a carrier is about, for its answer when that comes late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// A submit, and the mark of its recipient if it is noted in Redis.
    Submit(Open, Option<Mark>),
    /// A question after a part.
    Question,
    /// An operator's test message.
    Trial,
}

/// Text in Redis that is not of a form known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry in Redis is not of a known form")]
pub(crate) struct UnknownEntry;

impl Said {
    /// What a receipt says. An intermediate notification tells that the carrier is at work, whatever its state is
    /// called: a final one follows.
    pub(crate) fn of(receipt: Receipt) -> Self {
        let state = if receipt.intermediate { MessageState::Enroute } else { receipt.state };
        Self { state: receipt_state(state), error: receipt.error.unwrap_or_default() }
    }

    /// What a carrier told when it was asked.
    pub(crate) const fn told(state: MessageState, error: String) -> Self {
        Self { state: receipt_state(state), error }
    }

    /// As kept: `<state>|<error>`.
    pub(crate) fn to_entry(&self) -> String {
        format!("{}|{}", self.state.name(), self.error)
    }
}

impl FromStr for Said {
    type Err = UnknownEntry;
    fn from_str(text: &str) -> Result<Self, UnknownEntry> {
        let (state, error) = text.split_once('|').ok_or(UnknownEntry)?;
        let state = ReceiptState::ALL.into_iter().find(|known| known.name() == state);
        Ok(Self { state: state.ok_or(UnknownEntry)?, error: error.to_owned() })
    }
}

impl Span {
    /// One part.
    pub(crate) const fn one(part: u8) -> Self {
        Self { first: part, last: part }
    }

    /// All parts of a message of so many.
    pub(crate) const fn all(parts: u8) -> Self {
        Self { first: 1, last: parts }
    }

    /// The parts.
    pub(crate) const fn parts(self) -> RangeInclusive<u8> {
        self.first..=self.last
    }
}

impl Submitted {
    /// As kept, `<message>|<attempt>|<part>`, in two: as far as the number of the part, and that.
    pub(crate) fn to_halves(self) -> (String, String) {
        (format!("{}|{}|", self.message, self.attempt), self.part.to_string())
    }

    /// The parts of an entry that ties an id to those of one submit: `<message>|<attempt>|<part>`, or
    /// `<message>|<attempt>|<part>,<part>…`.
    pub(crate) fn of_entry(entry: &str) -> Result<Vec<Self>, UnknownEntry> {
        let (of, parts) = entry.rsplit_once('|').ok_or(UnknownEntry)?;
        parts.split(',').map(|part| format!("{of}|{part}").parse()).collect()
    }
}

impl FromStr for Submitted {
    type Err = UnknownEntry;
    fn from_str(text: &str) -> Result<Self, UnknownEntry> {
        let mut fields = text.split('|');
        let mut next = || fields.next().ok_or(UnknownEntry);
        let (message, attempt, part) = (next()?, next()?, next()?);
        Ok(Self {
            message: message.parse().map_err(|_| UnknownEntry)?,
            attempt: attempt.parse().map_err(|_| UnknownEntry)?,
            part: part.parse().map_err(|_| UnknownEntry)?,
        })
    }
}

/// The state of a receipt in the words of the core.
const fn receipt_state(state: MessageState) -> ReceiptState {
    match state {
        MessageState::Enroute => ReceiptState::Enroute,
        MessageState::Delivered => ReceiptState::Delivered,
        MessageState::Expired => ReceiptState::Expired,
        MessageState::Deleted => ReceiptState::Deleted,
        MessageState::Undeliverable => ReceiptState::Undeliverable,
        MessageState::Accepted => ReceiptState::Accepted,
        MessageState::Unknown => ReceiptState::Unknown,
        MessageState::Rejected => ReceiptState::Rejected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intermediate_notification_is_never_final() {
        let receipt = |intermediate| Receipt {
            id: "7".to_owned(),
            state: MessageState::Undeliverable,
            intermediate,
            error: Some("001".to_owned()),
            done_at: None,
        };
        assert_eq!(Said::of(receipt(true)).state, ReceiptState::Enroute);
        assert_eq!(Said::of(receipt(false)).state, ReceiptState::Undeliverable);
    }

    #[test]
    fn entries_survive_text() {
        for state in ReceiptState::ALL {
            for error in ["", "000", "1F"] {
                let said = Said { state, error: error.to_owned() };
                assert_eq!(said.to_entry().parse(), Ok(said));
            }
        }
        let part = Submitted { message: MessageId::from_keyed_hash([7; 16]), attempt: 3, part: 2 };
        let (of, number) = part.to_halves();
        assert_eq!(Submitted::of_entry(&format!("{of}{number}")), Ok(vec![part]));
        let both = format!("{of}{number},1");
        assert_eq!(Submitted::of_entry(&both), Ok(vec![part, Submitted { part: 1, ..part }]));
        assert_eq!(Submitted::of_entry("x|1|1,"), Err(UnknownEntry));
        for text in ["", "delivered", "gone|0"] {
            assert_eq!(text.parse::<Said>(), Err(UnknownEntry), "{text}");
            assert_eq!(text.parse::<Submitted>(), Err(UnknownEntry), "{text}");
        }
    }
}
