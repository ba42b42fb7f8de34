//! `WatchEvents`: what happens to a tenant's messages, as it happens.
//!
//! A task of its own reads the log, so that a watcher that does not read holds up only itself, and is told.

use std::{
    pin::Pin,
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use sotto_core::{Classified as _, ErrorClass, MessageId, Timestamp};
use sotto_proto::message::v1::{WatchEventsRequest, WatchEventsResponse};
use sotto_runtime::telemetry::chain;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tonic::Status;

use super::{Messages, refusal, view};
use crate::{
    adapters::room::Room,
    app::watch::{Told, Watch, WatchError},
    domain::{cursor::Cursor, token::Caller},
    error::Refusal,
};

/// Answers that may wait for a watcher to read them.
const WAITING: usize = 256;

/// How often a watcher to whom nothing happens is told how far the log is.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// What a watcher is told, as tonic sends it; then why it ended.
#[derive(Debug)]
pub struct Events {
    told: mpsc::Receiver<WatchEventsResponse>,
    end: Arc<Mutex<Option<Status>>>,
    _room: Arc<Room>,
}

impl Stream for Events {
    type Item = Result<WatchEventsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.told.poll_recv(cx).map(|told| match told {
            Some(told) => Some(Ok(told)),
            None => self.end.lock().unwrap_or_else(PoisonError::into_inner).take().map(Err),
        })
    }
}

/// Starts a watcher of this caller.
pub(super) async fn start(
    messages: &Messages,
    caller: Arc<Caller>,
    request: WatchEventsRequest,
) -> Result<Events, Status> {
    let WatchEventsRequest { after, message_id } = request;
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let after = optional(&after).map(|text| Cursor::from_str(&text)).transpose();
    let after = after.map_err(|error| refusal::invalid("after", "CURSOR_INVALID", error.to_string()))?;
    let only = optional(&message_id).map(|text| MessageId::from_str(&text)).transpose();
    let only =
        only.map_err(|error| refusal::invalid("message_id", "MESSAGE_ID_INVALID", error.to_string()))?;
    let room = messages.room(&caller.tenant).map_err(|refused| refusal::status(&refused))?;
    let watching = messages.0.acts.events.watch(caller.tenant.clone(), only, after).await;
    let watch = watching.map_err(|error| status(&error))?;
    let (tell, told) = mpsc::channel(WAITING);
    let room = Arc::new(room);
    let end: Arc<Mutex<Option<Status>>> = Arc::default();
    let (held, ended, messages) = (Arc::clone(&room), Arc::clone(&end), messages.clone());
    messages.0.tasks.clone().spawn_background("watcher", async move {
        let why = run(&messages, &caller, watch, &tell).await;
        *ended.lock().unwrap_or_else(PoisonError::into_inner) = why;
        drop((tell, held));
    });
    Ok(Events { told, end, _room: room })
}

/// Tells until it ends; why it ended, if anybody is there to hear it.
async fn run(
    messages: &Messages,
    caller: &Caller,
    mut watch: Watch,
    tell: &mpsc::Sender<WatchEventsResponse>,
) -> Option<Status> {
    let expiry = tokio::time::sleep(messages.0.acts.intake.valid_for(caller));
    tokio::pin!(expiry);
    // At once: a watcher knows from the start where it is.
    let mut quiet_until = Instant::now();
    loop {
        let told = tokio::select! {
            biased;
            () = tell.closed() => return None,
            () = messages.0.stop.requested() => {
                return Some(Status::unavailable("this server is stopping: watch again after the last cursor"));
            }
            () = &mut expiry => return Some(refusal::expired()),
            () = tokio::time::sleep_until(quiet_until) => {
                Ok(Told { cursor: watch.cursor(), journals: Vec::new() })
            }
            told = watch.next() => match told {
                Ok(told) if told.journals.is_empty() => continue,
                told => told,
            },
        };
        let answers = match told {
            Ok(told) => answers(&told, messages.now()),
            Err(error) => return Some(status(&error)),
        };
        quiet_until = Instant::now() + SIGN_OF_LIFE;
        for answer in answers {
            if let Err(end) = hand_over(tell, answer, messages.0.bounds.stall).await {
                return end;
            }
        }
    }
}

/// Waits for room for one more answer. The error is what the watcher is told, if it is still there.
async fn hand_over(
    tell: &mpsc::Sender<WatchEventsResponse>,
    answer: WatchEventsResponse,
    stall: Duration,
) -> Result<(), Option<Status>> {
    match timeout(stall, tell.send(answer)).await {
        Ok(sent) => sent.map_err(|_gone| None),
        Err(_) => Err(Some(Status::resource_exhausted(
            "events are not read fast enough: watch again after the last cursor that you got",
        ))),
    }
}

/// One answer a message; the last of them has the batch's cursor, so that none is left out by who goes on from there.
fn answers(told: &Told, now: Timestamp) -> Vec<WatchEventsResponse> {
    let Told { cursor: Cursor(sequence), journals } = told;
    let before = Cursor(sequence.saturating_sub(1)).to_string();
    let mut answers: Vec<_> = journals
        .iter()
        .filter_map(|journal| view::happened(journal, *sequence, now))
        .map(|answer| WatchEventsResponse { cursor: before.clone(), ..answer })
        .collect();
    match answers.last_mut() {
        Some(last) => last.cursor = told.cursor.to_string(),
        None => answers.push(WatchEventsResponse { cursor: told.cursor.to_string(), ..Default::default() }),
    }
    answers
}

fn status(error: &WatchError) -> Status {
    match error {
        WatchError::TooOld => Status::out_of_range(
            "the events after this cursor are older than what is kept of ended messages: watch without a cursor, and ask for messages by id",
        ),
        WatchError::Ahead => refusal::invalid("after", "CURSOR_INVALID", error.to_string()),
        WatchError::Store(error) => refusal::unreadable(*error),
        WatchError::Log(_) | WatchError::Behind => match error.class() {
            ErrorClass::Retry { after } => {
                let what = "events cannot be told";
                refusal::status(&Refusal::Unavailable { what, after })
            }
            ErrorClass::Reject | ErrorClass::Poison | ErrorClass::Bug => {
                tracing::error!(error = chain(error), "a watcher cannot be told");
                refusal::status(&Refusal::Internal)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use sotto_core::TenantId;
    use tonic::Code;

    use super::*;
    use crate::adapters::room::Rooms;

    #[tokio::test(start_paused = true)]
    async fn a_watcher_that_does_not_read_is_told_after_what_waits_for_it() {
        let tenant: TenantId = "acme".parse().unwrap();
        let room = Arc::new(Rooms::new(1, 1).try_take(&tenant).unwrap());
        let (tell, told) = mpsc::channel(2);
        let end: Arc<Mutex<Option<Status>>> = Arc::default();
        let mut events = Events { told, end: Arc::clone(&end), _room: room };
        let answer =
            |cursor: u64| WatchEventsResponse { cursor: Cursor(cursor).to_string(), ..Default::default() };
        let stall = Duration::from_secs(30);
        let begun = Instant::now();
        for cursor in 1..=2 {
            hand_over(&tell, answer(cursor), stall).await.unwrap();
        }
        let why = hand_over(&tell, answer(3), stall).await.unwrap_err().unwrap();
        assert_eq!((why.code(), begun.elapsed()), (Code::ResourceExhausted, stall));
        *end.lock().unwrap() = Some(why);
        drop(tell);
        // Nothing that was handed over is lost, and the last cursor is the one to go on from.
        for cursor in 1..=2 {
            assert_eq!(events.next().await.unwrap().unwrap(), answer(cursor));
        }
        assert_eq!(events.next().await.unwrap().unwrap_err().code(), Code::ResourceExhausted);
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn one_that_is_gone_is_told_nothing() {
        let (tell, told) = mpsc::channel(1);
        drop(told);
        let gone = hand_over(&tell, WatchEventsResponse::default(), Duration::from_secs(30)).await;
        assert!(gone.unwrap_err().is_none());
    }
}
