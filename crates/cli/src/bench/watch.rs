//! What the client hears of its messages: when each was delivered.

use std::{cell::RefCell, collections::BTreeMap};

use sotto_core::{Clock, Sensitive};
use sotto_proto::message::v1::{
    MessageState, WatchEventsRequest, WatchEventsResponse, message_service_client::MessageServiceClient,
};
use tokio::{sync::Notify, time::Instant};
use tonic::{Code, transport::Channel};

use crate::{
    CliError,
    commands::{authorised, refused},
};

/// What was heard so far.
#[derive(Debug, Default)]
pub(super) struct Heard(RefCell<State>, Notify);

#[derive(Debug, Default)]
struct State {
    watching: bool,
    delivered: u32,
    ended_otherwise: u32,
    last: Option<Instant>,
    /// When each message was delivered, microseconds since the Unix epoch, where that is wanted.
    times: Option<BTreeMap<String, i64>>,
}

impl Heard {
    /// Forgets what was heard; from now on the time of each delivery is kept, or not.
    pub(super) fn begin(&self, keep_times: bool) {
        let mut state = self.0.borrow_mut();
        *state = State { watching: state.watching, ..State::default() };
        state.times = keep_times.then(BTreeMap::new);
    }

    /// Messages that were delivered, and those that ended otherwise.
    pub(super) fn ended(&self) -> (u32, u32) {
        let state = self.0.borrow();
        (state.delivered, state.ended_otherwise)
    }

    /// When the last one was heard of.
    pub(super) fn last(&self) -> Option<Instant> {
        self.0.borrow().last
    }

    /// The times that were kept.
    pub(super) fn times(&self) -> BTreeMap<String, i64> {
        self.0.borrow_mut().times.take().unwrap_or_default()
    }

    /// Waits until it is watched.
    pub(super) async fn watched(&self) {
        while !self.0.borrow().watching {
            self.1.notified().await;
        }
    }

    /// Waits until so many have ended.
    pub(super) async fn reach(&self, messages: u32) {
        loop {
            let (delivered, otherwise) = self.ended();
            if delivered.saturating_add(otherwise) >= messages {
                return;
            }
            self.1.notified().await;
        }
    }

    fn take(&self, answer: &WatchEventsResponse, clock: &dyn Clock) {
        let mut state = self.0.borrow_mut();
        // Messages of one part: each ends with exactly one step.
        let ends =
            |kind: &str| ["receipt", "expired", "rejected", "cancelled", "closed_unknown"].contains(&kind);
        if !answer.steps.iter().any(|step| ends(&step.kind)) {
            return;
        }
        state.last = Some(Instant::now());
        if answer.state() == MessageState::Delivered {
            state.delivered = state.delivered.saturating_add(1);
            if let Some(times) = &mut state.times {
                times.insert(answer.message_id.clone(), clock.unix_micros());
            }
        } else {
            state.ended_otherwise = state.ended_otherwise.saturating_add(1);
        }
        self.1.notify_one();
    }

    fn begun(&self) {
        self.0.borrow_mut().watching = true;
        self.1.notify_one();
    }
}

/// Watches for ever; a stream that comes to its end goes on after its cursor.
pub(super) async fn watch(
    client: &MessageServiceClient<Channel>,
    token: impl AsyncFn() -> Result<Sensitive<String>, CliError>,
    heard: &Heard,
    clock: &dyn Clock,
) -> Result<(), CliError> {
    let mut after = String::new();
    loop {
        let request = WatchEventsRequest { after: after.clone(), message_id: String::new() };
        let answer = client.clone().watch_events(authorised(request, &token().await?)?).await;
        let mut events = answer.map_err(|status| refused("events cannot be watched", &status))?.into_inner();
        heard.begun();
        let ended = loop {
            match events.message().await {
                Ok(Some(answer)) => {
                    heard.take(&answer, clock);
                    after = answer.cursor;
                }
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        };
        match ended {
            None => {}
            Some(status)
                if [Code::Unauthenticated, Code::ResourceExhausted, Code::Unavailable]
                    .contains(&status.code()) => {}
            Some(status) => return Err(refused("events cannot be watched", &status)),
        }
    }
}
