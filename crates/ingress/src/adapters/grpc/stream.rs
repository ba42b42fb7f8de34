//! `SendStream`: pipelined both ways, bounded, and independent of how fast the client reads.
//!
//! A task of its own reads requests and carries them to their end, so that what a client does not read holds up only
//! its own stream. A permit accompanies each request until its result is taken: when all are out, reading stops. One
//! request a stream is decoded at most before the process has a place for it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream::FuturesUnordered};
use sotto_proto::message::v1::{
    SendStreamRequest, SendStreamResponse, send_stream_response::Result as Answer,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};
use tonic::{Status, Streaming};

use super::{Messages, asked, load::Place, refusal, response};
use crate::{
    adapters::room::Room,
    domain::{request::Asked, token::Caller},
};

/// A result and the permit of its request.
struct Outgoing {
    result: Result<SendStreamResponse, Status>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// A request that was read.
struct Incoming {
    reference: u64,
    asked: Asked,
    permit: OwnedSemaphorePermit,
}

/// The results of a stream, as tonic sends them. The stream keeps its room until they are read or the client is gone.
#[derive(Debug)]
pub struct Results {
    taken: mpsc::UnboundedReceiver<Outgoing>,
    _room: Arc<Room>,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outgoing")
    }
}

impl Stream for Results {
    type Item = Result<SendStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Taking a result lets its permit go.
        self.taken.poll_recv(cx).map(|taken| taken.map(|outgoing| outgoing.result))
    }
}

/// Starts a stream of this caller.
pub(super) fn start(
    messages: &Messages,
    caller: Arc<Caller>,
    requests: Streaming<SendStreamRequest>,
    room: Room,
) -> Results {
    // Never more in it than permits: the channel needs no bound of its own.
    let (results, taken) = mpsc::unbounded_channel();
    let room = Arc::new(room);
    let held = Arc::clone(&room);
    let running = run(messages.clone(), caller, requests, results);
    messages.0.tasks.spawn_background("send stream", async move {
        running.await;
        drop(held);
    });
    Results { taken, _room: room }
}

async fn run(
    messages: Messages,
    caller: Arc<Caller>,
    mut requests: Streaming<SendStreamRequest>,
    results: mpsc::UnboundedSender<Outgoing>,
) {
    let bounds = messages.0.bounds;
    let outstanding = Arc::new(Semaphore::new(bounds.outstanding));
    let mut under_way = FuturesUnordered::new();
    let mut waiting: Option<Incoming> = None;
    let expiry = tokio::time::sleep(messages.0.acts.intake.valid_for(&caller));
    tokio::pin!(expiry);
    let mut last = Instant::now();
    let end = loop {
        let class = waiting.as_ref().and_then(|incoming| incoming.asked.class);
        let silent = under_way.is_empty() && waiting.is_none();
        tokio::select! {
            biased;
            Some(outgoing) = under_way.next(), if !under_way.is_empty() => {
                // Nobody reads any more: the requests under way come to their end all the same.
                let _gone = results.send(outgoing).is_err();
                last = Instant::now();
            }
            () = results.closed() => break None,
            () = messages.0.stop.requested() => {
                break Some(Status::unavailable("this server is stopping: open a new stream"));
            }
            () = &mut expiry => break Some(refusal::expired()),
            () = tokio::time::sleep_until(last + bounds.idle), if silent => {
                break Some(Status::unavailable("nothing was asked on this stream for a while: open a new one"));
            }
            place = messages.0.load.take(class), if waiting.is_some() => {
                // The wall clock may have come to the token's end before the timer.
                if messages.0.acts.intake.valid_for(&caller).is_zero() {
                    break Some(refusal::expired());
                }
                under_way.extend(waiting.take().map(|incoming| handle(&messages, &caller, incoming, place)));
            }
            request = next(&mut requests, &outstanding, bounds.stall), if waiting.is_none() => match request {
                Ok(Some(incoming)) => {
                    waiting = Some(incoming);
                    last = Instant::now();
                }
                Ok(None) => break None,
                Err(status) => break Some(status),
            },
        }
    };
    while let Some(outgoing) = under_way.next().await {
        let _gone = results.send(outgoing).is_err();
    }
    if let Some(status) = end {
        let _gone = results.send(Outgoing { result: Err(status), _permit: None }).is_err();
    }
}

/// The next request and its permit. Safe to drop: nothing is read before there is a permit.
async fn next(
    requests: &mut Streaming<SendStreamRequest>,
    outstanding: &Arc<Semaphore>,
    stall: Duration,
) -> Result<Option<Incoming>, Status> {
    let permit = tokio::time::timeout(stall, Arc::clone(outstanding).acquire_owned()).await;
    let Ok(Ok(permit)) = permit else {
        return Err(Status::resource_exhausted(
            "the results of this stream are not read: read them while sending",
        ));
    };
    let Some(request) = requests.message().await? else { return Ok(None) };
    let SendStreamRequest { reference, message, idempotency_key } = request;
    Ok(Some(Incoming { reference, asked: asked(message, idempotency_key), permit }))
}

async fn handle(messages: &Messages, caller: &Caller, incoming: Incoming, place: Option<Place>) -> Outgoing {
    let Incoming { reference, asked, permit } = incoming;
    let answer = match messages.0.acts.intake.send(caller, asked, place).await {
        Ok(accepted) => Answer::Accepted(response(accepted)),
        Err(refused) => Answer::Error(refusal::error(&refused)),
    };
    Outgoing { result: Ok(SendStreamResponse { reference, result: Some(answer) }), _permit: Some(permit) }
}
