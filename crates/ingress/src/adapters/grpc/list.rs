//! A request for a list, and its answer.

use sotto_core::{MessageClass, Timestamp};
use sotto_proto::{
    from_wire_time,
    message::v1::{self as public, ListMessagesRequest, ListMessagesResponse, MessageState},
};
use tonic::Status;

use super::{refusal, view};
use crate::{
    app::list::{Filter, MAX_PAGE, Page},
    domain::page::Place,
};

/// Messages on a page where nothing is said.
const DEFAULT_PAGE: usize = 50;

/// What is asked for.
pub(super) struct Asked {
    pub(super) filter: Filter,
    pub(super) after: Option<Place>,
    pub(super) size: usize,
}

pub(super) fn asked(request: ListMessagesRequest) -> Result<Asked, Status> {
    let ListMessagesRequest {
        page_size,
        page_token,
        states: states_wanted,
        class,
        accepted_from,
        accepted_until,
    } = request;
    let size = match usize::try_from(page_size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size @ 1..=MAX_PAGE) => size,
        Ok(_) | Err(_) => {
            let description = format!("a page has 1 to {MAX_PAGE} messages");
            return Err(refusal::invalid("page_size", "PAGE_SIZE_INVALID", description));
        }
    };
    let after = Some(page_token).filter(|token| !token.is_empty()).map(|token| {
        let place = token.parse();
        place.map_err(|error: crate::domain::page::InvalidPageToken| {
            refusal::invalid("page_token", "PAGE_TOKEN_INVALID", error.to_string())
        })
    });
    let states = |state: &i32| MessageState::try_from(*state).unwrap_or_default();
    let states: Vec<_> = states_wanted.iter().map(states).collect();
    let stage = |state: &MessageState| {
        let stage = view::stage(*state);
        stage.ok_or_else(|| {
            let description = "a message has none of these states: give others, or none for all";
            refusal::invalid("states", "STATE_UNKNOWN", description.to_owned())
        })
    };
    let class = match public::MessageClass::try_from(class) {
        Ok(public::MessageClass::Unspecified) => None,
        class => Some(class.ok().and_then(|class| MessageClass::try_from(class).ok()).ok_or_else(|| {
            let description = "give otp, transactional, promotional or ad invite, or leave it out for all";
            refusal::invalid("class", "CLASS_UNKNOWN", description.to_owned())
        })?),
    };
    let filter = Filter {
        scheduled: states.contains(&MessageState::Scheduled),
        stages: states
            .iter()
            .filter(|state| **state != MessageState::Scheduled)
            .map(stage)
            .collect::<Result<_, _>>()?,
        class,
        from: time("accepted_from", accepted_from)?,
        until: time("accepted_until", accepted_until)?,
    };
    Ok(Asked { filter, after: after.transpose()?, size })
}

fn time(field: &str, at: Option<prost_types::Timestamp>) -> Result<Option<Timestamp>, Status> {
    let Some(at) = at else { return Ok(None) };
    if at.seconds < 0 || !(0..1_000_000_000).contains(&at.nanos) {
        let description = "is no time after 1970".to_owned();
        return Err(refusal::invalid(field, "TIME_INVALID", description));
    }
    Ok(Some(from_wire_time(at)))
}

pub(super) fn response(page: &Page, now: Timestamp) -> ListMessagesResponse {
    ListMessagesResponse {
        messages: page.journals.iter().filter_map(|journal| view::summary(journal, now)).collect(),
        next_page_token: page.next.map(|place| place.to_string()).unwrap_or_default(),
    }
}
