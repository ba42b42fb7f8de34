//! What a receipt says, and which part an id stands for.

use std::str::FromStr;

use sotto_core::{MessageId, delivery::ReceiptState};
use sotto_smpp::{MessageState, Receipt};

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

/// The part number of a question after a part: a late answer to it is no answer to a submit.
pub(crate) const QUESTION: u8 = 0;

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

impl Submitted {
    /// As kept: `<message>|<attempt>|<part>`.
    pub(crate) fn to_entry(self) -> String {
        format!("{}|{}|{}", self.message, self.attempt, self.part)
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
        assert_eq!(part.to_entry().parse(), Ok(part));
        for text in ["", "delivered", "gone|0"] {
            assert_eq!(text.parse::<Said>(), Err(UnknownEntry), "{text}");
            assert_eq!(text.parse::<Submitted>(), Err(UnknownEntry), "{text}");
        }
    }
}
