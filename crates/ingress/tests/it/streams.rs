//! Streams: pipelined, bounded, and ended when they should be.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::json;
use sotto_core::{Clock as _, SystemClock};
use sotto_proto::message::v1::{
    SendStreamRequest, SendStreamResponse, send_stream_response::Result as Answer,
};
use sotto_testkit::{ChaosProxy, eventually};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{
    cell::BOUND,
    clients::{Client, World, around, encoded, numbered},
    tokens,
};

/// All results, and how the stream ended.
async fn read(mut results: Streaming<SendStreamResponse>) -> (Vec<SendStreamResponse>, Result<(), Status>) {
    let mut read = Vec::new();
    loop {
        match results.message().await {
            Ok(Some(result)) => read.push(result),
            Ok(None) => return (read, Ok(())),
            Err(status) => return (read, Err(status)),
        }
    }
}

fn open() -> (mpsc::UnboundedSender<SendStreamRequest>, UnboundedReceiverStream<SendStreamRequest>) {
    let (requests, taken) = mpsc::unbounded_channel();
    (requests, UnboundedReceiverStream::new(taken))
}

async fn no_stream_runs(world: &World) {
    let tasks = &world.context.tasks;
    eventually(BOUND, "the stream's end", async || !tasks.held().contains_key("send stream")).await;
}

#[tokio::test]
async fn each_request_has_one_result_and_a_fault_ends_no_stream() {
    let world = World::start("").await;
    let requests = (1..=100).map(|reference| {
        let mut request = numbered(reference);
        if reference % 10 == 0 {
            request.message.as_mut().unwrap().to = "0912345678".to_owned();
        }
        request
    });
    let results = world.client().stream(futures::stream::iter(requests.collect::<Vec<_>>())).await.unwrap();
    let (mut results, end) = read(results).await;
    end.unwrap();
    results.sort_by_key(|result| result.reference);
    assert_eq!(
        results.iter().map(|result| result.reference).collect::<Vec<_>>(),
        (1..=100).collect::<Vec<_>>()
    );
    for SendStreamResponse { reference, result } in results {
        match result.unwrap() {
            Answer::Accepted(_) => assert_ne!(reference % 10, 0),
            Answer::Error(error) => {
                assert_eq!(reference % 10, 0, "{error:?}");
                assert_eq!(error.code, i32::from(Code::InvalidArgument));
                assert_eq!(error.field_violations[0].field, "message.to");
            }
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn what_cannot_be_decoded_ends_the_stream_after_the_results_that_are_due() {
    let world = World::start("").await;
    let mut unknown = encoded(&numbered(3)).to_vec();
    unknown.extend([0x98, 0x06, 1]);
    for (wrong, field) in [
        (unknown.into(), "99"),
        (around(&[1]), "reference"),
        (bytes::Bytes::from_static(&[0x12, 4, 0x1a, 2, 0xc3, 0x28]), "message.text"),
    ] {
        let requests = vec![encoded(&numbered(1)), encoded(&numbered(2)), wrong, encoded(&numbered(4))];
        let (results, end) = read(world.client().stream_raw(requests).await.unwrap()).await;
        assert_eq!(results.len(), 2, "{field}");
        let end = end.unwrap_err();
        assert_eq!(end.code(), Code::InvalidArgument, "{end:?}");
        let violations = tonic_types::StatusExt::get_details_bad_request(&end).unwrap().field_violations;
        assert_eq!(violations[0].field, field);
    }
    let mut long = numbered(1);
    long.message.as_mut().unwrap().text = "x".repeat(17 * 1024);
    let (results, end) = read(world.client().stream(futures::stream::iter([long])).await.unwrap()).await;
    assert_eq!((results.len(), end.unwrap_err().code()), (0, Code::OutOfRange));
    world.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_when_nothing_is_asked() {
    let world = World::start("load.idle = '1 s'\n").await;
    // Two seconds are left of it, the skew included.
    let mut claims = tokens::claims("acme", SystemClock.now());
    claims["exp"] = json!(SystemClock.now().unix_seconds() - 28);
    let (requests, stream) = open();
    let results = world.client_with(&claims).stream(stream).await.unwrap();
    let asking = async {
        let mut tick = tokio::time::interval(Duration::from_millis(300));
        while requests.send(numbered(1)).is_ok() {
            tick.tick().await;
        }
    };
    let (ended, ()) = tokio::join!(read(results), asking);
    let end = ended.1.unwrap_err();
    assert_eq!(end.code(), Code::Unauthenticated, "{end:?}");
    assert!(end.metadata().get("www-authenticate").is_some());
    assert!(!ended.0.is_empty());

    let (requests, stream) = open();
    let results = world.client().stream(stream).await.unwrap();
    requests.send(numbered(1)).unwrap();
    let (results, end) = read(results).await;
    assert_eq!((results.len(), end.unwrap_err().code()), (1, Code::Unavailable));
    no_stream_runs(&world).await;
    world.stop().await;
}

#[tokio::test]
async fn results_that_nobody_reads_end_their_stream_alone() {
    let world = World::start("load.stall = '1 s'\nload.outstanding = 4\n").await;
    let client = world.client();
    // Refused at once, with answers long enough to fill every window between the two.
    let requests =
        futures::stream::iter(1..).map(|reference| SendStreamRequest { reference, ..Default::default() });
    let results = client.stream(requests).await.unwrap();
    no_stream_runs(&world).await;
    client.send(crate::clients::with_key("")).await.unwrap();
    let (results, end) = read(results).await;
    assert!(!results.is_empty());
    assert_eq!(end.unwrap_err().code(), Code::ResourceExhausted);
    world.stop().await;
}

#[tokio::test]
async fn a_tenant_has_so_many_streams_and_a_dead_peer_keeps_none() {
    let world = World::start("load.streams_of_tenant = 2\n").await;
    let proxy = ChaosProxy::start(([127, 0, 0, 1], world.port).into()).await;
    let token = tokens::token(&tokens::claims("acme", SystemClock.now()));
    let client = Client::new(world.channel_to(proxy.address().port()), &token);
    let mut held = Vec::new();
    for _ in 0..2 {
        let (requests, stream) = open();
        requests.send(numbered(1)).unwrap();
        let mut results = client.stream(stream).await.unwrap();
        results.message().await.unwrap().unwrap();
        held.push((requests, results));
    }
    let refused = world.client().stream(futures::stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let other = world.client_with(&tokens::claims("other", SystemClock.now()));
    let (results, end) = read(other.stream(futures::stream::iter([numbered(1)])).await.unwrap()).await;
    assert_eq!((results.len(), end.is_ok()), (1, true));

    proxy.cut();
    no_stream_runs(&world).await;
    drop(held);
    eventually(BOUND, "room", async || world.client().stream(futures::stream::empty()).await.is_ok()).await;
    world.stop().await;
}

#[tokio::test]
async fn a_drain_finishes_what_was_read_and_ends_the_streams() {
    let world = World::start("").await;
    let (requests, stream) = open();
    let mut results = world.client().stream(stream).await.unwrap();
    requests.send(numbered(1)).unwrap();
    results.message().await.unwrap().unwrap();
    world.context.stop.request();
    let (_, end) = read(results).await;
    let end = end.unwrap_err();
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    drop(requests);
    world.stop().await;
}
