//! `sotto message list`: the messages of a tenant.

use sotto_core::Clock;
use sotto_proto::{
    from_wire_time,
    message::v1::{
        ListMessagesRequest, MessageClass, MessageState, MessageSummary,
        message_service_client::MessageServiceClient,
    },
    to_wire_time,
};
use sotto_runtime::config::ConfigDuration;

use super::{
    authorised, channel,
    message::{state_word, word},
    refused,
    send::{CLASSES, class, client},
};
use crate::{CliError, Output, cell::CellDir};

/// Messages on a page (`sotto_ingress` gives at most 200).
const PAGE: usize = 200;

/// States as they are written here: the names of the interface.
const STATES: [&str; 11] = [
    "accepted",
    "routed",
    "submitted",
    "in-doubt",
    "delivered",
    "undelivered",
    "rejected",
    "expired",
    "cancelled",
    "unknown",
    "scheduled",
];

/// Which messages are wanted.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Client that asks: the name given to `sotto client create`; it sees all messages of its tenant
    #[arg(long)]
    client: String,
    /// Only messages in this state; may be given several times
    #[arg(long, value_parser = STATES)]
    state: Vec<String>,
    /// Only messages of this class
    #[arg(long, value_parser = CLASSES)]
    class: Option<String>,
    /// Only messages accepted within this time, for example "2 h"
    #[arg(long, value_name = "TIME")]
    last: Option<ConfigDuration>,
    /// At most so many
    #[arg(long, default_value = "50", value_name = "COUNT")]
    limit: usize,
}

pub(crate) async fn list(
    dir: &CellDir,
    wanted: Wanted,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let credentials = client(dir, &wanted.client)?;
    let mut ingress = MessageServiceClient::new(channel(dir, "ingress")?);
    let mut request = ListMessagesRequest {
        states: wanted.state.iter().map(|name| state(name).into()).collect(),
        class: wanted.class.as_deref().map(class).unwrap_or_default().into(),
        accepted_from: wanted.last.map(|last| to_wire_time(clock.now().minus(last.get()))),
        ..ListMessagesRequest::default()
    };
    let mut left = wanted.limit;
    while left > 0 {
        request.page_size = u32::try_from(left.min(PAGE)).unwrap_or(u32::MAX);
        // A long list may outlive a token.
        let token = credentials.token(dir, "message:read", clock).await?;
        let answer = ingress.list_messages(authorised(request.clone(), &token)?).await;
        let page = answer.map_err(|status| refused("the messages cannot be listed", &status))?.into_inner();
        left = left.saturating_sub(page.messages.len());
        for message in &page.messages {
            tell(message, output)?;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    Ok(())
}

fn state(name: &str) -> MessageState {
    let name = format!("MESSAGE_STATE_{}", name.to_uppercase().replace('-', "_"));
    MessageState::from_str_name(&name).unwrap_or_default()
}

fn tell(message: &MessageSummary, output: &Output) -> Result<(), CliError> {
    let time =
        |at: Option<prost_types::Timestamp>| at.map(|at| from_wire_time(at).to_string()).unwrap_or_default();
    let (state, tone) = state_word(message.state());
    let class = word(MessageClass::as_str_name(&message.class()), "MESSAGE_CLASS_");
    let accepted_at = time(message.accepted_at);
    output.json(&serde_json::json!({
        "message_id": message.message_id, "state": state, "class": class, "parts": message.parts,
        "accepted_at": accepted_at, "expires_at": time(message.expires_at), "country": message.country,
        "send_at": message.send_at.map(|at| from_wire_time(at).to_string()),
    }))?;
    let state = output.tone(tone, &format!("{state:<11}"));
    let (id, country, parts) = (&message.message_id, &message.country, message.parts);
    output.line(format!("{id}  {accepted_at}  {state}  {class:<13}  {country}  {parts} part(s)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_name_here() {
        let named: Vec<_> = STATES.iter().map(|name| state(name)).collect();
        let all: Vec<_> = (1..).map_while(|number| MessageState::try_from(number).ok()).collect();
        assert_eq!(named, all);
    }
}
