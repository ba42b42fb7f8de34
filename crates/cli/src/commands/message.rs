//! `sotto message show`: the state and the journey of a message. `sotto message cancel`: no carrier gets it.

use std::time::Duration;

use sotto_core::{Clock, Sensitive};
use sotto_proto::{
    from_wire_time,
    message::v1::{
        CancelMessageRequest, GetMessageRequest, GetMessageResponse, JourneyStep, MessageClass, MessageState,
        PartState, message_service_client::MessageServiceClient,
    },
};
use tokio::time::Instant;
use tonic::{Code, transport::Channel};

use super::{authorised, channel, refused, send::client};
use crate::{CliError, Output, Tone, cell::CellDir};

/// How often a message is looked at while its end is awaited.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn show(
    dir: &CellDir,
    name: &str,
    message_id: &str,
    wait: Option<Duration>,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let token = client(dir, name)?.token(dir, "message:read", clock).await?;
    let mut ingress = MessageServiceClient::new(channel(dir, "ingress")?);
    let until = Instant::now() + wait.unwrap_or_default();
    let message = loop {
        let found = get(&mut ingress, message_id, &token).await?;
        let ended = found.as_ref().is_some_and(|message| is_final(message.state()));
        if ended || Instant::now() >= until {
            break found;
        }
        tokio::time::sleep(LOOK).await;
    };
    let message = message
        .ok_or_else(|| CliError::new("the message is not visible yet").fix("ask again in a second"))?;
    tell(&message, output)?;
    if wait.is_some() && !is_final(message.state()) {
        return Err(
            CliError::new("the message has not ended yet").fix("wait longer, or look at the carrier's link")
        );
    }
    Ok(())
}

/// Cancels a message.
pub(crate) async fn cancel(
    dir: &CellDir,
    name: &str,
    message_id: &str,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let token = client(dir, name)?.token(dir, "message:send", clock).await?;
    let mut ingress = MessageServiceClient::new(channel(dir, "ingress")?);
    let request = CancelMessageRequest { message_id: message_id.to_owned() };
    let answer = ingress.cancel_message(authorised(request, &token)?).await;
    let cancelled = answer.map_err(|status| refused("the message is not cancelled", &status))?.into_inner();
    let at = cancelled.cancelled_at.map(|at| from_wire_time(at).to_string()).unwrap_or_default();
    output.json(&serde_json::json!({ "message_id": cancelled.message_id, "cancelled_at": at }))?;
    output.line(format!("message {}  cancelled", cancelled.message_id))
}

/// `None` while the cell says that it will be visible soon.
async fn get(
    ingress: &mut MessageServiceClient<Channel>,
    message_id: &str,
    token: &Sensitive<String>,
) -> Result<Option<GetMessageResponse>, CliError> {
    let request = GetMessageRequest { message_id: message_id.to_owned() };
    match ingress.get_message(authorised(request, token)?).await {
        Ok(response) => Ok(Some(response.into_inner())),
        Err(status) if status.code() == Code::Unavailable => Ok(None),
        Err(status) => Err(refused("the message cannot be shown", &status)),
    }
}

const fn is_final(state: MessageState) -> bool {
    match state {
        MessageState::Unspecified
        | MessageState::Scheduled
        | MessageState::Accepted
        | MessageState::Routed
        | MessageState::Submitted
        | MessageState::InDoubt => false,
        MessageState::Delivered
        | MessageState::Undelivered
        | MessageState::Rejected
        | MessageState::Expired
        | MessageState::Cancelled
        | MessageState::Unknown => true,
    }
}

/// `MESSAGE_STATE_IN_DOUBT` → `in doubt`.
pub(super) fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase().replace('_', " ")
}

/// A state in words, and how it is told.
pub(super) fn state_word(state: MessageState) -> (String, Tone) {
    let tone = match state {
        MessageState::Delivered => Tone::Good,
        MessageState::Undelivered
        | MessageState::Rejected
        | MessageState::Expired
        | MessageState::Unknown => Tone::Bad,
        MessageState::Unspecified
        | MessageState::Scheduled
        | MessageState::Accepted
        | MessageState::Routed
        | MessageState::Submitted
        | MessageState::InDoubt
        | MessageState::Cancelled => Tone::Strong,
    };
    (word(state.as_str_name(), "MESSAGE_STATE_"), tone)
}

fn tell(message: &GetMessageResponse, output: &Output) -> Result<(), CliError> {
    let (state, tone) = state_word(message.state());
    let time =
        |at: Option<prost_types::Timestamp>| at.map(|at| from_wire_time(at).to_string()).unwrap_or_default();
    output.json(&serde_json::json!({
        "message_id": message.message_id,
        "state": state,
        "class": word(MessageClass::as_str_name(&message.class()), "MESSAGE_CLASS_"),
        "country": message.country,
        "accepted_at": time(message.accepted_at),
        "expires_at": time(message.expires_at),
        "send_at": message.send_at.map(|at| from_wire_time(at).to_string()),
        "parts": message.parts.iter().map(|part| serde_json::json!({
            "part": part.part,
            "state": word(PartState::as_str_name(&part.state()), "PART_STATE_"),
            "carrier_error": part.carrier_error,
        })).collect::<Vec<_>>(),
        "journey": message.journey.iter().map(|step| serde_json::json!({
            "at": time(step.at), "kind": step.kind, "attempt": step.attempt, "account": step.account,
            "part": step.part, "detail": step.detail, "event_sequence": step.event_sequence,
        })).collect::<Vec<_>>(),
    }))?;
    output.line(format!("message {}  {}", message.message_id, output.tone(tone, &state)))?;
    let mut before: Option<&JourneyStep> = None;
    for step in &message.journey {
        let since = match (before.and_then(|before| before.at), step.at) {
            (Some(before), Some(at)) => {
                let millis = from_wire_time(at).since(from_wire_time(before)).as_millis();
                format!("+{millis} ms")
            }
            (Some(_) | None, _) => String::new(),
        };
        let mut line = format!("  {}  {since:>9}  {:<12}", time(step.at), step.kind);
        if step.attempt > 0 {
            line.push_str(&format!(" attempt {}", step.attempt));
        }
        if step.part > 0 {
            line.push_str(&format!(" part {}", step.part));
        }
        for extra in [&step.account, &step.detail].into_iter().filter(|extra| !extra.is_empty()) {
            line.push_str("  ");
            line.push_str(extra);
        }
        output.line(line)?;
        before = Some(step);
    }
    Ok(())
}
