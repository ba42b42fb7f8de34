//! A request for the messages of a number, and its answer.

use sotto_core::{MessageId, Sensitive, index::hour_begins, number::E164};
use sotto_proto::{
    message::v1::{FindMessagesRequest, FindMessagesResponse, FoundMessage},
    to_wire_time,
};
use tonic::Status;

use super::refusal;
use crate::{domain::request::number_reason, ports::FoundPart};

/// What is asked for.
pub(super) struct Asked {
    pub(super) number: E164,
    pub(super) from: u64,
}

pub(super) fn asked(request: FindMessagesRequest) -> Result<Asked, Status> {
    let FindMessagesRequest { number, page_token } = request;
    // Into memory that is wiped.
    let number: Sensitive<String> = number.into();
    let number = E164::parse(number.expose())
        .map_err(|error| refusal::invalid("number", number_reason(error), error.to_string()))?;
    let from = if page_token.is_empty() { Some(0) } else { page_token.parse().ok() };
    let from = from.ok_or_else(|| {
        let description = "is not a token of an answer before".to_owned();
        refusal::invalid("page_token", "PAGE_TOKEN_INVALID", description)
    })?;
    Ok(Asked { number, from })
}

pub(super) fn response(found: FoundPart) -> FindMessagesResponse {
    let message = |(id, hour): (MessageId, u32)| FoundMessage {
        message_id: id.to_string(),
        accepted_from: Some(to_wire_time(hour_begins(hour))),
    };
    FindMessagesResponse {
        messages: found.messages.into_iter().map(message).collect(),
        next_page_token: found.next.map(|next| next.to_string()).unwrap_or_default(),
    }
}
