//! Events.

use sotto_core::{
    AccountId, MessageId, TenantId, Timestamp,
    delivery::{Event, EventKind, ExpiryCause, ReceiptState, RejectCause},
    inbound::OptOut,
};

use super::{WireError, attempt_number, parse, part_number};
use crate::pipeline::v1::{self as wire, event::Kind};

/// A record of the EVENTS stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// Something happened to a message.
    Delivery(Event),
    /// A receipt came before its message was known, or for nothing of ours.
    ParkedReceipt {
        /// When.
        at: Timestamp,
        /// The account.
        account: AccountId,
        /// The carrier's id, normalised.
        carrier_id: String,
        /// What it says.
        state: ReceiptState,
        /// The carrier's error code.
        error: String,
    },
    /// Somebody asked by SMS to be left alone.
    OptOut {
        /// The message from the handset.
        message: MessageId,
        /// When.
        at: Timestamp,
        /// The owner of the number that was written to.
        tenant: TenantId,
        /// The account that brought it.
        account: AccountId,
        /// The word.
        keyword: OptOut,
    },
}

impl From<ReceiptState> for wire::ReceiptState {
    fn from(state: ReceiptState) -> Self {
        match state {
            ReceiptState::Enroute => Self::Enroute,
            ReceiptState::Delivered => Self::Delivered,
            ReceiptState::Expired => Self::Expired,
            ReceiptState::Deleted => Self::Deleted,
            ReceiptState::Undeliverable => Self::Undeliverable,
            ReceiptState::Accepted => Self::Accepted,
            ReceiptState::Unknown => Self::Unknown,
            ReceiptState::Rejected => Self::Rejected,
        }
    }
}

impl TryFrom<wire::ReceiptState> for ReceiptState {
    type Error = WireError;
    fn try_from(state: wire::ReceiptState) -> Result<Self, WireError> {
        match state {
            wire::ReceiptState::Unspecified => Err(WireError::Missing("receipt.state")),
            wire::ReceiptState::Enroute => Ok(Self::Enroute),
            wire::ReceiptState::Delivered => Ok(Self::Delivered),
            wire::ReceiptState::Expired => Ok(Self::Expired),
            wire::ReceiptState::Deleted => Ok(Self::Deleted),
            wire::ReceiptState::Undeliverable => Ok(Self::Undeliverable),
            wire::ReceiptState::Accepted => Ok(Self::Accepted),
            wire::ReceiptState::Unknown => Ok(Self::Unknown),
            wire::ReceiptState::Rejected => Ok(Self::Rejected),
        }
    }
}

impl From<RejectCause> for wire::RejectCause {
    fn from(cause: RejectCause) -> Self {
        match cause {
            RejectCause::NoRoute => Self::NoRoute,
            RejectCause::RoutesExhausted => Self::RoutesExhausted,
            RejectCause::Carrier => Self::Carrier,
            RejectCause::Unopenable => Self::Unopenable,
            RejectCause::Content => Self::Content,
        }
    }
}

impl TryFrom<wire::RejectCause> for RejectCause {
    type Error = WireError;
    fn try_from(cause: wire::RejectCause) -> Result<Self, WireError> {
        match cause {
            wire::RejectCause::Unspecified => Err(WireError::Missing("rejected.cause")),
            wire::RejectCause::NoRoute => Ok(Self::NoRoute),
            wire::RejectCause::RoutesExhausted => Ok(Self::RoutesExhausted),
            wire::RejectCause::Carrier => Ok(Self::Carrier),
            wire::RejectCause::Unopenable => Ok(Self::Unopenable),
            wire::RejectCause::Content => Ok(Self::Content),
        }
    }
}

fn numbers(parts: &[u8]) -> Vec<u32> {
    parts.iter().map(|part| u32::from(*part)).collect()
}

fn part_numbers(parts: &[u32]) -> Result<Vec<u8>, WireError> {
    parts.iter().map(|part| part_number("parts", *part)).collect()
}

impl From<&EventKind> for Kind {
    fn from(kind: &EventKind) -> Self {
        match kind {
            EventKind::Accepted(facts) => {
                Self::Accepted(wire::AcceptedEvent { facts: Some(facts.as_ref().into()) })
            }
            EventKind::Routed { attempt, account, table_version } => Self::Routed(wire::RoutedEvent {
                attempt: u32::from(*attempt),
                account: account.to_string(),
                table_version: table_version.clone(),
            }),
            EventKind::Submitting { attempt, account, parts } => Self::Submitting(wire::SubmittingEvent {
                attempt: u32::from(*attempt),
                account: account.to_string(),
                parts: numbers(parts),
            }),
            EventKind::Submitted { attempt, account, part, carrier_id } => {
                Self::Submitted(wire::SubmittedEvent {
                    attempt: u32::from(*attempt),
                    account: account.to_string(),
                    part: u32::from(*part),
                    carrier_id: carrier_id.clone(),
                })
            }
            EventKind::Refused { attempt, account, part, status, retried } => {
                Self::Refused(wire::RefusedEvent {
                    attempt: u32::from(*attempt),
                    account: account.to_string(),
                    part: u32::from(*part),
                    status: *status,
                    retried: *retried,
                })
            }
            EventKind::Unsent { attempt, account, end, parts } => Self::Unsent(wire::UnsentEvent {
                attempt: u32::from(*attempt),
                account: account.to_string(),
                end: wire::AttemptEnd::from(*end).into(),
                parts: numbers(parts),
            }),
            EventKind::NoResponse { attempt, account, part } => Self::NoResponse(wire::NoResponseEvent {
                attempt: u32::from(*attempt),
                account: account.to_string(),
                part: u32::from(*part),
            }),
            EventKind::Receipt { attempt, account, part, state, error } => {
                Self::Receipt(wire::ReceiptEvent {
                    attempt: u32::from(*attempt),
                    account: account.to_string(),
                    part: u32::from(*part),
                    state: wire::ReceiptState::from(*state).into(),
                    error: error.clone(),
                })
            }
            EventKind::Expired { cause } => Self::Expired(wire::ExpiredEvent {
                in_silence: *cause == ExpiryCause::Silence,
                key_destroyed: *cause == ExpiryCause::KeyDestroyed,
            }),
            EventKind::Rejected { cause } => {
                Self::Rejected(wire::RejectedEvent { cause: wire::RejectCause::from(*cause).into() })
            }
            EventKind::Cancelled => Self::Cancelled(wire::CancelledEvent {}),
            EventKind::ClosedUnknown => Self::ClosedUnknown(wire::ClosedUnknownEvent {}),
            EventKind::Doubted => Self::Doubted(wire::DoubtedEvent {}),
        }
    }
}

impl From<&LogEvent> for wire::Event {
    fn from(event: &LogEvent) -> Self {
        match event {
            LogEvent::Delivery(event) => event.into(),
            LogEvent::ParkedReceipt { at, account, carrier_id, state, error } => Self {
                message_id: bytes::Bytes::new(),
                at_ms: at.unix_millis(),
                kind: Some(Kind::ParkedReceipt(wire::ParkedReceiptEvent {
                    account: account.to_string(),
                    carrier_id: carrier_id.clone(),
                    state: wire::ReceiptState::from(*state).into(),
                    error: error.clone(),
                })),
            },
            LogEvent::OptOut { message, at, tenant, account, keyword } => Self {
                message_id: message.as_bytes().to_vec().into(),
                at_ms: at.unix_millis(),
                kind: Some(Kind::OptOut(wire::OptOutEvent {
                    tenant: tenant.to_string(),
                    account: account.to_string(),
                    keyword: keyword.to_string(),
                })),
            },
        }
    }
}

impl From<&Event> for wire::Event {
    fn from(event: &Event) -> Self {
        Self {
            message_id: event.message.as_bytes().to_vec().into(),
            at_ms: event.at.unix_millis(),
            kind: Some((&event.kind).into()),
        }
    }
}

/// Carriers' ids and error codes are kept only in a form that cannot carry text of a message.
fn token(field: &'static str, max: usize, text: String) -> Result<String, WireError> {
    let ok = text.len() <= max && text.bytes().all(|b| b.is_ascii_graphic());
    if ok { Ok(text) } else { Err(WireError::Invalid(field)) }
}

fn delivery_kind(kind: Kind) -> Result<EventKind, WireError> {
    Ok(match kind {
        Kind::Accepted(it) => {
            EventKind::Accepted(Box::new(it.facts.ok_or(WireError::Missing("accepted.facts"))?.try_into()?))
        }
        Kind::Routed(it) => EventKind::Routed {
            attempt: attempt_number(it.attempt)?,
            account: parse("routed.account", &it.account)?,
            table_version: token("routed.table_version", 64, it.table_version)?,
        },
        Kind::Submitting(it) => EventKind::Submitting {
            attempt: attempt_number(it.attempt)?,
            account: parse("submitting.account", &it.account)?,
            parts: part_numbers(&it.parts)?,
        },
        Kind::Submitted(it) => EventKind::Submitted {
            attempt: attempt_number(it.attempt)?,
            account: parse("submitted.account", &it.account)?,
            part: part_number("submitted.part", it.part)?,
            carrier_id: token("submitted.carrier_id", 65, it.carrier_id)?,
        },
        Kind::Refused(it) => EventKind::Refused {
            attempt: attempt_number(it.attempt)?,
            account: parse("refused.account", &it.account)?,
            part: part_number("refused.part", it.part)?,
            status: it.status,
            retried: it.retried,
        },
        Kind::Unsent(it) => EventKind::Unsent {
            attempt: attempt_number(it.attempt)?,
            account: parse("unsent.account", &it.account)?,
            end: it.end().try_into()?,
            parts: part_numbers(&it.parts)?,
        },
        Kind::NoResponse(it) => EventKind::NoResponse {
            attempt: attempt_number(it.attempt)?,
            account: parse("no_response.account", &it.account)?,
            part: part_number("no_response.part", it.part)?,
        },
        Kind::Receipt(it) => EventKind::Receipt {
            attempt: attempt_number(it.attempt)?,
            account: parse("receipt.account", &it.account)?,
            part: part_number("receipt.part", it.part)?,
            state: it.state().try_into()?,
            error: token("receipt.error", 10, it.error)?,
        },
        Kind::Expired(it) => EventKind::Expired { cause: expiry_cause(it) },
        Kind::Rejected(it) => EventKind::Rejected { cause: it.cause().try_into()? },
        Kind::Cancelled(_) => EventKind::Cancelled,
        Kind::ClosedUnknown(_) => EventKind::ClosedUnknown,
        Kind::Doubted(_) => EventKind::Doubted,
        Kind::ParkedReceipt(_) | Kind::OptOut(_) => return Err(WireError::Invalid("kind")),
    })
}

/// Who destroyed the key knows more than who only closed a silence.
const fn expiry_cause(it: wire::ExpiredEvent) -> ExpiryCause {
    match (it.key_destroyed, it.in_silence) {
        (true, _) => ExpiryCause::KeyDestroyed,
        (false, true) => ExpiryCause::Silence,
        (false, false) => ExpiryCause::Validity,
    }
}

impl TryFrom<wire::Event> for LogEvent {
    type Error = WireError;
    fn try_from(event: wire::Event) -> Result<Self, WireError> {
        let at = Timestamp::from_unix_millis(event.at_ms);
        match event.kind.ok_or(WireError::Missing("kind"))? {
            Kind::ParkedReceipt(it) => Ok(Self::ParkedReceipt {
                at,
                account: parse("parked_receipt.account", &it.account)?,
                state: it.state().try_into()?,
                carrier_id: token("parked_receipt.carrier_id", 65, it.carrier_id)?,
                error: token("parked_receipt.error", 10, it.error)?,
            }),
            Kind::OptOut(it) => Ok(Self::OptOut {
                message: MessageId::from_bytes(&event.message_id)
                    .map_err(|_| WireError::Invalid("message_id"))?,
                at,
                tenant: parse("opt_out.tenant", &it.tenant)?,
                account: parse("opt_out.account", &it.account)?,
                keyword: it.keyword.parse().map_err(|_| WireError::Invalid("opt_out.keyword"))?,
            }),
            kind @ (Kind::Accepted(_)
            | Kind::Routed(_)
            | Kind::Submitting(_)
            | Kind::Submitted(_)
            | Kind::Refused(_)
            | Kind::Unsent(_)
            | Kind::NoResponse(_)
            | Kind::Receipt(_)
            | Kind::Expired(_)
            | Kind::Rejected(_)
            | Kind::Cancelled(_)
            | Kind::ClosedUnknown(_)
            | Kind::Doubted(_)) => Ok(Self::Delivery(Event {
                message: MessageId::from_bytes(&event.message_id)
                    .map_err(|_| WireError::Invalid("message_id"))?,
                at,
                kind: delivery_kind(kind)?,
            })),
        }
    }
}
