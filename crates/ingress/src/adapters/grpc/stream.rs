//! `SendStream`: pipelined both ways, bounded, and independent of how fast the client reads.
//!
//! A task of its own reads requests and carries them to their end, so that what a client does not read holds up only
//! its own stream. A permit accompanies each request until its result is taken: when all are out, reading stops.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt as _, stream::FuturesUnordered};
use sotto_proto::message::v1::{
    SendStreamRequest, SendStreamResponse, send_stream_response::Result as Answer,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::{Status, Streaming};

use super::{Messages, asked, refusal, response};
use crate::domain::token::Caller;

/// A result and the permit of its request.
struct Outgoing {
    result: Result<SendStreamResponse, Status>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// The results of a stream, as tonic sends them.
#[derive(Debug)]
pub struct Results(mpsc::UnboundedReceiver<Outgoing>);

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outgoing")
    }
}

impl Stream for Results {
    type Item = Result<SendStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Taking a result lets its permit go.
        self.0.poll_recv(cx).map(|taken| taken.map(|outgoing| outgoing.result))
    }
}

/// Starts a stream of this caller.
pub(super) fn start(
    messages: &Messages,
    caller: Arc<Caller>,
    requests: Streaming<SendStreamRequest>,
    room: [OwnedSemaphorePermit; 2],
) -> Results {
    // Never more in it than permits: the channel needs no bound of its own.
    let (results, taken) = mpsc::unbounded_channel();
    let running = run(messages.clone(), caller, requests, results);
    messages.0.tasks.spawn_background("send stream", async move {
        running.await;
        drop(room);
    });
    Results(taken)
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
    let end = loop {
        tokio::select! {
            biased;
            Some(outgoing) = under_way.next(), if !under_way.is_empty() => {
                // Nobody reads any more: the requests under way come to their end all the same.
                let _gone = results.send(outgoing).is_err();
            }
            () = results.closed() => break None,
            () = messages.0.stop.requested() => {
                break Some(Status::unavailable("this server is stopping: open a new stream"));
            }
            request = next(&mut requests, &outstanding, bounds.stall) => match request {
                Ok(Some((request, permit))) => under_way.push(handle(&messages, &caller, request, permit)),
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
    stall: std::time::Duration,
) -> Result<Option<(SendStreamRequest, OwnedSemaphorePermit)>, Status> {
    let permit = tokio::time::timeout(stall, Arc::clone(outstanding).acquire_owned()).await;
    let Ok(Ok(permit)) = permit else {
        return Err(Status::resource_exhausted(
            "the results of this stream are not read: read them while sending",
        ));
    };
    Ok(requests.message().await?.map(|request| (request, permit)))
}

async fn handle(
    messages: &Messages,
    caller: &Caller,
    request: SendStreamRequest,
    permit: OwnedSemaphorePermit,
) -> Outgoing {
    let SendStreamRequest { reference, message, idempotency_key } = request;
    let asked = asked(message, idempotency_key);
    // A stream waits where a single call is refused: the semaphore is never closed.
    let under_way = messages.0.in_flight.acquire().await;
    let now_valid = messages.0.intake.is_valid(caller);
    let answer = if now_valid {
        match messages.0.intake.send(caller, asked).await {
            Ok(accepted) => Answer::Accepted(response(accepted)),
            Err(refused) => Answer::Error(refusal::error(&refused)),
        }
    } else {
        Answer::Error(refusal::expired())
    };
    drop(under_way);
    Outgoing { result: Ok(SendStreamResponse { reference, result: Some(answer) }), _permit: Some(permit) }
}
