//! What follows from the ends of an item's parts: events, and whether the message goes back to routing.
//!
//! Deterministic in its input, so that doing it again after a crash tells and moves the same.

use sotto_core::{
    AccountId, Timestamp, WorkItem,
    delivery::{Event, EventKind, ExpiryCause, RejectCause},
    work::{Attempt, AttemptEnd},
};
use sotto_smpp::CommandStatus;

use super::{claim::PartEnd, status::Refusal};

/// How often an account may refuse a part of a message of which it has another part. Nobody else may take that part,
/// and some refusals pass.
const REFUSALS_OF_PINNED: usize = 3;

/// What follows from the end of an attempt. The events are stored first, then the message moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Settled {
    /// What happened.
    pub(crate) events: Vec<Event>,
    /// The message on its way back to routing.
    pub(crate) back: Option<WorkItem>,
}

/// Draws the consequence of the parts' ends. `ends` holds every part that the item was for.
pub(crate) fn settle(
    item: &WorkItem,
    account: &AccountId,
    ends: &[(u8, PartEnd)],
    now: Timestamp,
) -> Settled {
    let held = |end: &PartEnd| matches!(end, PartEnd::Submitted { .. } | PartEnd::NoResponse);
    // Once a part is, or may be, with the carrier, the message stays with this account.
    let pinned = item.pinned || ends.iter().any(|(_, end)| held(end));
    let refused_before = item
        .history
        .iter()
        .filter(|attempt| attempt.account == *account && attempt.end == AttemptEnd::Refused)
        .count();
    let is_final = |end: &PartEnd| match end {
        PartEnd::Refused { status } => match Refusal::of(CommandStatus(*status)) {
            Refusal::Final => true,
            Refusal::Elsewhere => pinned && refused_before + 1 >= REFUSALS_OF_PINNED,
            Refusal::Throttled | Refusal::Passing => false,
        },
        PartEnd::Submitted { .. } | PartEnd::NoResponse | PartEnd::Unsent { .. } => false,
    };
    // A text with a missing part cannot be read: one part refused for good ends the attempts of the others.
    let over = ends.iter().any(|(_, end)| is_final(end));

    let attempt = item.attempt;
    let mut events = Vec::new();
    let mut tell = |kind| events.push(Event { message: item.facts.message, at: now, kind });
    let mut back = Vec::new();
    let mut unsent: Option<(AttemptEnd, Vec<u8>)> = None;
    for (part, end) in ends {
        let (part, account) = (*part, account.clone());
        match end {
            PartEnd::Submitted { carrier_id } => {
                tell(EventKind::Submitted { attempt, account, part, carrier_id: carrier_id.clone() });
            }
            PartEnd::NoResponse => tell(EventKind::NoResponse { attempt, account, part }),
            PartEnd::Refused { status } => {
                tell(EventKind::Refused { attempt, account, part, status: *status, retried: !over });
                back.push(part);
            }
            PartEnd::Unsent { end } => {
                unsent.get_or_insert((*end, Vec::new())).1.push(part);
                back.push(part);
            }
        }
    }
    if let Some((end, parts)) = unsent {
        tell(EventKind::Unsent { attempt, account: account.clone(), end, parts });
        if over {
            tell(EventKind::Rejected { cause: RejectCause::Carrier });
        }
    }
    let returns = !over && !back.is_empty();
    Settled { events, back: returns.then(|| returned(item, account, ends, back, pinned, now)) }
}

/// The item as routing gets it back.
fn returned(
    item: &WorkItem,
    account: &AccountId,
    ends: &[(u8, PartEnd)],
    parts: Vec<u8>,
    pinned: bool,
    now: Timestamp,
) -> WorkItem {
    let (end, status) = why(ends);
    let mut back = item.clone();
    back.note(Attempt { number: item.attempt, account: account.clone(), end, status });
    back.account = None;
    back.pinned = pinned;
    if parts != item.wanted_parts() {
        back.parts = parts;
    }
    back.not_before = (end.is_passing() || pinned).then(|| now.plus(back.back_off()));
    back
}

/// The one reason that stands for all parts: the least passing.
fn why(ends: &[(u8, PartEnd)]) -> (AttemptEnd, u32) {
    let mut throttled = None;
    let mut unsent = AttemptEnd::LinkDown;
    for (_, end) in ends {
        match end {
            PartEnd::Refused { status } => match Refusal::of(CommandStatus(*status)) {
                Refusal::Elsewhere | Refusal::Final => return (AttemptEnd::Refused, *status),
                Refusal::Throttled | Refusal::Passing => throttled = Some(*status),
            },
            PartEnd::Unsent { end } => unsent = *end,
            PartEnd::Submitted { .. } | PartEnd::NoResponse => {}
        }
    }
    throttled.map_or((unsent, 0), |status| (AttemptEnd::Throttled, status))
}

/// What follows when a message can be submitted by nobody: it is told not sent, then rejected.
pub(crate) fn reject(item: &WorkItem, account: &AccountId, cause: RejectCause, now: Timestamp) -> Settled {
    end(item, account, EventKind::Rejected { cause }, now)
}

/// What follows when it is too late to submit a message.
pub(crate) fn expire(item: &WorkItem, account: &AccountId, cause: ExpiryCause, now: Timestamp) -> Settled {
    end(item, account, EventKind::Expired { cause }, now)
}

/// What follows when a message may have been sent in the time that a restored cell lost, and is not sent any more.
pub(crate) fn doubt(item: &WorkItem, account: &AccountId, now: Timestamp) -> Settled {
    end(item, account, EventKind::Doubted, now)
}

/// What follows when a message was cancelled before submit.
pub(crate) fn cancel(item: &WorkItem, account: &AccountId, now: Timestamp) -> Settled {
    end(item, account, EventKind::Cancelled, now)
}

/// The end of a message of which nothing was written. Its intent may be in the log, by us or by somebody whose claim
/// we took over: first that is taken back, since only what is pending can end.
fn end(item: &WorkItem, account: &AccountId, kind: EventKind, now: Timestamp) -> Settled {
    let tell = |kind| Event { message: item.facts.message, at: now, kind };
    let unsent = EventKind::Unsent {
        attempt: item.attempt,
        account: account.clone(),
        end: AttemptEnd::NotAllowed,
        parts: item.wanted_parts(),
    };
    Settled { events: vec![tell(unsent), tell(kind)], back: None }
}

#[cfg(test)]
mod tests;
