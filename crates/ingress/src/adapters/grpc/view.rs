//! A journal as its tenant reads it: state, parts, journey. Nothing personal is in it.

use sotto_core::{
    Timestamp,
    delivery::{Delivery, Doubt, EventKind, ExpiryCause, Outcome, PartState, Stage},
};
use sotto_proto::{
    message::v1::{
        self as public, GetMessageResponse, JourneyStep, MessageState, MessageSummary, PartState as WirePart,
        PartStatus, RouteCandidate, RouteOutlook, WatchEventsResponse,
    },
    to_wire_time,
};

use crate::{
    app::intake::Forecast,
    domain::journal::{Journal, Recorded},
};

/// `None` while the acceptance is not known.
pub(super) fn response(journal: &Journal, now: Timestamp) -> Option<GetMessageResponse> {
    let delivery = journal.delivery()?;
    let facts = delivery.facts();
    Some(GetMessageResponse {
        message_id: facts.message.to_string(),
        state: state(delivery, now).into(),
        class: public::MessageClass::from(facts.class).into(),
        encoding: public::Encoding::from(facts.encoding).into(),
        parts: parts(journal, delivery),
        journey: journey(journal, delivery),
        accepted_at: Some(to_wire_time(facts.accepted_at)),
        expires_at: Some(to_wire_time(facts.expires_at)),
        country: facts.country.to_string(),
        send_at: facts.send_at.map(to_wire_time),
    })
}

/// Where a message would go.
pub(super) fn outlook(forecast: &Forecast) -> RouteOutlook {
    let Some(outlook) = forecast else {
        let reason = "no route takes this number and class: it would be rejected".to_owned();
        return RouteOutlook { reason, ..RouteOutlook::default() };
    };
    let open = outlook.candidates.iter().filter(|candidate| candidate.barrier.is_none()).count();
    let reason = match open {
        0 => "no account of its route may carry it: it would be rejected".to_owned(),
        1 => "one account of its route may carry it".to_owned(),
        _ => format!("{open} accounts of its route may carry it"),
    };
    let candidates = outlook.candidates.iter().map(|candidate| RouteCandidate {
        account: candidate.account.to_string(),
        weight: candidate.weight.map(u32::from).unwrap_or_default(),
        barrier: candidate.barrier.map(|barrier| barrier.name().to_owned()).unwrap_or_default(),
    });
    RouteOutlook { reason, prefix: outlook.prefix.to_string(), candidates: candidates.collect() }
}

/// What a list tells of a message.
pub(super) fn summary(journal: &Journal, now: Timestamp) -> Option<MessageSummary> {
    let delivery = journal.delivery()?;
    let facts = delivery.facts();
    Some(MessageSummary {
        message_id: facts.message.to_string(),
        state: state(delivery, now).into(),
        class: public::MessageClass::from(facts.class).into(),
        parts: u32::from(facts.parts),
        accepted_at: Some(to_wire_time(facts.accepted_at)),
        expires_at: Some(to_wire_time(facts.expires_at)),
        country: facts.country.to_string(),
        send_at: facts.send_at.map(to_wire_time),
    })
}

/// The other way round; `None` for what is no stage of a journey.
pub(super) const fn stage(state: MessageState) -> Option<Stage> {
    Some(match state {
        MessageState::Unspecified | MessageState::Scheduled => return None,
        MessageState::Accepted => Stage::Accepted,
        MessageState::Routed => Stage::Routed,
        MessageState::Submitted => Stage::Submitted,
        MessageState::InDoubt => Stage::InDoubt,
        MessageState::Delivered => Stage::Ended(Outcome::Delivered),
        MessageState::Undelivered => Stage::Ended(Outcome::Undelivered),
        MessageState::Rejected => Stage::Ended(Outcome::Rejected),
        MessageState::Expired => Stage::Ended(Outcome::Expired),
        MessageState::Cancelled => Stage::Ended(Outcome::Cancelled),
        MessageState::Unknown => Stage::Ended(Outcome::Unknown),
    })
}

fn state(delivery: &Delivery, now: Timestamp) -> MessageState {
    match delivery.stage() {
        Stage::Accepted if delivery.facts().scheduled(now).is_some() => MessageState::Scheduled,
        Stage::Accepted => MessageState::Accepted,
        Stage::Routed => MessageState::Routed,
        Stage::Submitted => MessageState::Submitted,
        Stage::InDoubt => MessageState::InDoubt,
        Stage::Ended(Outcome::Delivered) => MessageState::Delivered,
        Stage::Ended(Outcome::Undelivered) => MessageState::Undelivered,
        Stage::Ended(Outcome::Rejected) => MessageState::Rejected,
        Stage::Ended(Outcome::Expired) => MessageState::Expired,
        Stage::Ended(Outcome::Cancelled) => MessageState::Cancelled,
        Stage::Ended(Outcome::Unknown) => MessageState::Unknown,
    }
}

fn parts(journal: &Journal, delivery: &Delivery) -> Vec<PartStatus> {
    let states = delivery.parts().iter().zip(1_u8..);
    states
        .map(|(state, part)| PartStatus {
            part: u32::from(part),
            state: part_state(state).into(),
            carrier_error: carrier_error(journal, part),
        })
        .collect()
}

const fn part_state(state: &PartState) -> WirePart {
    match state {
        PartState::Pending => WirePart::Pending,
        PartState::Cancelled => WirePart::Cancelled,
        PartState::Submitting { .. } => WirePart::Submitting,
        PartState::Submitted { .. } | PartState::Unknown { doubt: Doubt::NoReceipt, .. } => {
            WirePart::Submitted
        }
        PartState::NoResponse { .. }
        | PartState::Unknown { doubt: Doubt::NoResponse | Doubt::Restored, .. } => WirePart::NoResponse,
        PartState::Refused { .. } => WirePart::Refused,
        PartState::Delivered { .. } => WirePart::Delivered,
        PartState::Undelivered { .. } => WirePart::Undelivered,
        PartState::Expired => WirePart::Expired,
    }
}

/// The carrier's last word about a part.
fn carrier_error(journal: &Journal, about: u8) -> String {
    let said = journal.events().iter().rev().find_map(|recorded| match &recorded.event.kind {
        EventKind::Receipt { part, error, .. } if *part == about => Some(error.clone()),
        EventKind::Refused { part, status, .. } if *part == about => Some(format!("0x{status:08x}")),
        EventKind::Receipt { .. }
        | EventKind::Refused { .. }
        | EventKind::Accepted(_)
        | EventKind::Routed { .. }
        | EventKind::Submitting { .. }
        | EventKind::Submitted { .. }
        | EventKind::Unsent { .. }
        | EventKind::NoResponse { .. }
        | EventKind::Expired { .. }
        | EventKind::Rejected { .. }
        | EventKind::Cancelled
        | EventKind::ClosedUnknown
        | EventKind::Doubted => None,
    });
    said.unwrap_or_default()
}

/// What happened to a message in the batch of this sequence; `None`: nothing that its journal has.
pub(super) fn happened(journal: &Journal, sequence: u64, now: Timestamp) -> Option<WatchEventsResponse> {
    let delivery = journal.delivery()?;
    let steps: Vec<_> =
        journey(journal, delivery).into_iter().filter(|step| step.event_sequence == sequence).collect();
    (!steps.is_empty()).then(|| WatchEventsResponse {
        message_id: journal.id().to_string(),
        state: state(delivery, now).into(),
        steps,
        ..WatchEventsResponse::default()
    })
}

fn journey(journal: &Journal, delivery: &Delivery) -> Vec<JourneyStep> {
    let mut steps = Vec::new();
    for (recorded, correction) in journal.events().iter().zip(journal.corrections()) {
        steps.extend(told(recorded, delivery));
        if let Some((from, to)) = correction {
            let detail = format!("{} instead of {}", to.name(), from.name());
            steps.push(JourneyStep { kind: "correction".to_owned(), detail, ..step(recorded) });
        }
    }
    steps
}

fn step(Recorded { event, sequence }: &Recorded) -> JourneyStep {
    JourneyStep {
        at: Some(to_wire_time(event.at)),
        kind: event.kind.name().to_owned(),
        event_sequence: *sequence,
        ..JourneyStep::default()
    }
}

fn told(recorded: &Recorded, delivery: &Delivery) -> Vec<JourneyStep> {
    let at = |attempt: &u16, account: &sotto_core::AccountId, part: u8, detail: String| JourneyStep {
        attempt: u32::from(*attempt),
        account: account.to_string(),
        part: u32::from(part),
        detail,
        ..step(recorded)
    };
    let each = |attempt, account, parts: &[u8], detail: &str| {
        if parts.len() == delivery.parts().len() {
            return vec![at(attempt, account, 0, detail.to_owned())];
        }
        parts.iter().map(|part| at(attempt, account, *part, detail.to_owned())).collect()
    };
    match &recorded.event.kind {
        EventKind::Routed { attempt, account, table_version } => {
            vec![at(attempt, account, 0, table_version.clone())]
        }
        EventKind::Submitting { attempt, account, parts } => each(attempt, account, parts, ""),
        EventKind::Unsent { attempt, account, end, parts } => each(attempt, account, parts, end.name()),
        EventKind::Submitted { attempt, account, part, .. } => {
            vec![at(attempt, account, *part, String::new())]
        }
        EventKind::NoResponse { attempt, account, part } => vec![at(attempt, account, *part, String::new())],
        EventKind::Refused { attempt, account, part, status, retried } => {
            let onward = if *retried { ", tried again" } else { "" };
            vec![at(attempt, account, *part, format!("status 0x{status:08x}{onward}"))]
        }
        EventKind::Receipt { attempt, account, part, state, error } => {
            let detail =
                if error.is_empty() { state.name().to_owned() } else { format!("{} {error}", state.name()) };
            vec![at(attempt, account, *part, detail)]
        }
        EventKind::Rejected { cause } => {
            vec![JourneyStep { detail: cause.name().to_owned(), ..step(recorded) }]
        }
        EventKind::Expired { cause: cause @ ExpiryCause::KeyDestroyed } => {
            vec![JourneyStep { detail: cause.name().to_owned(), ..step(recorded) }]
        }
        EventKind::Accepted(_)
        | EventKind::Expired { cause: ExpiryCause::Validity | ExpiryCause::Silence }
        | EventKind::Cancelled
        | EventKind::ClosedUnknown
        | EventKind::Doubted => {
            vec![step(recorded)]
        }
    }
}
