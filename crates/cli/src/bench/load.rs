//! The client: hands messages over and notes how long each took to be accepted.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use futures::{
    SinkExt as _, StreamExt as _,
    channel::mpsc,
    future::try_join,
    stream::{self, FuturesUnordered},
};
use sotto_core::{Clock, Sensitive};
use sotto_proto::{
    MAX_SUBMIT_MESSAGES,
    message::v1::{
        MessageClass, OutboundMessage, SendRequest, SendStreamRequest, SendStreamResponse,
        message_service_client::MessageServiceClient, send_stream_response::Result as Sent,
    },
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tonic::{Code, transport::Channel};

use super::over_nats::Nats;
use crate::{
    CliError,
    commands::{authorised, refused},
};

/// The sender of every message.
pub(super) const SENDER: &str = "BENCH";

/// Messages that one stream has outstanding when it goes as fast as it can: what ingress allows.
const OUTSTANDING: usize = 1_000;

/// Calls that are under way at once when each message is one.
const CALLS: usize = 100;

/// Requests over NATS that are under way at once: as many messages as on a stream.
const REQUESTS: usize = OUTSTANDING / MAX_SUBMIT_MESSAGES;

/// How often an open loop looks what is due.
const TICK: Duration = Duration::from_millis(1);

/// How messages are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// On so many streams.
    Streams(usize),
    /// Each in a call of its own, a hundred at once.
    Unary,
    /// In sealed requests over NATS, of as many messages as lie ready.
    Nats,
}

/// Whom messages are handed to.
#[derive(Clone, Copy)]
pub(super) struct Door<'a> {
    pub(super) grpc: &'a MessageServiceClient<Channel>,
    /// If the client was let in over NATS.
    pub(super) nats: Option<&'a Nats>,
}

/// How many messages, and how fast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// The first number.
    pub(super) first: u32,
    /// At most so many messages.
    pub(super) messages: u32,
    /// For so long.
    pub(super) time: Duration,
    /// So many a second, whatever becomes of them (an open loop); none: as fast as they are accepted.
    pub(super) rate: Option<f64>,
    /// How.
    pub(super) way: Way,
    /// What they are.
    pub(super) class: MessageClass,
    /// Whether each has an idempotency key.
    pub(super) keyed: bool,
}

/// What became of a load.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    /// Of each message, by its number from the first: when it was due, microseconds since the Unix epoch.
    pub(super) due: Vec<i64>,
    /// How long each accepted message took from when it was due, microseconds.
    pub(super) took: Vec<u32>,
    /// Of each message id, where that was asked for: its number from the first, and when its acceptance was heard.
    pub(super) ids: BTreeMap<String, (u32, i64)>,
    /// Refusals by code.
    pub(super) refused: BTreeMap<String, u64>,
    /// From the first message to the last answer.
    pub(super) lasted: Duration,
}

impl Accepted {
    /// Accepted messages a second.
    pub(super) fn per_second(&self) -> f64 {
        let messages = u32::try_from(self.took.len()).unwrap_or(u32::MAX);
        f64::from(messages) / self.lasted.as_secs_f64().max(f64::EPSILON)
    }

    fn took(&mut self, index: u32, id: String, now: i64, keep_ids: bool) {
        let due = self.due.get(index as usize).copied().unwrap_or(now);
        self.took.push(u32::try_from(now.saturating_sub(due)).unwrap_or(0));
        if keep_ids {
            self.ids.insert(id, (index, now));
        }
    }

    fn refused(&mut self, code: Code) {
        self.failed(format!("{code:?}"), 1);
    }

    fn failed(&mut self, why: String, messages: usize) {
        let count = self.refused.entry(why).or_default();
        *count = count.saturating_add(u64::try_from(messages).unwrap_or(u64::MAX));
    }

    fn answered(&mut self, answer: SendStreamResponse, now: i64, keep_ids: bool) {
        let index = u32::try_from(answer.reference).unwrap_or(u32::MAX);
        match answer.result {
            Some(Sent::Accepted(sent)) => self.took(index, sent.message_id, now, keep_ids),
            Some(Sent::Error(error)) => self.refused(Code::from_i32(error.code)),
            None => self.refused(Code::Unknown),
        }
    }
}

/// Number of the n-th message: a Vietnamese mobile number that is nobody's concern, the simulator delivers to nobody.
pub(super) fn number(n: u32) -> String {
    format!("+8491{:07}", n % 10_000_000)
}

/// A text of 115 characters, as the messages of the published measurements have.
pub(super) fn text(n: u32) -> String {
    format!(
        "Don hang {n:08} cua quy khach da duoc giao cho don vi van chuyen, du kien den trong hai ngay. Cam on quy khach!"
    )
}

fn message(load: &Load, n: u32) -> OutboundMessage {
    OutboundMessage {
        to: number(n),
        from: SENDER.to_owned(),
        text: text(n),
        class: load.class.into(),
        ..Default::default()
    }
}

/// The same as a request of a stream or over NATS.
fn stream_request(load: &Load, index: u32, idempotency_key: String) -> SendStreamRequest {
    let message = Some(message(load, load.first.wrapping_add(index)));
    SendStreamRequest { reference: u64::from(index), message, idempotency_key }
}

/// When messages are due.
struct Pacer {
    load: Load,
    start: Instant,
    sent: u32,
}

impl Pacer {
    fn new(load: Load) -> Self {
        Self { load, start: Instant::now(), sent: 0 }
    }

    /// When the next message is due.
    fn due(&self) -> Instant {
        match self.load.rate {
            Some(rate) => self.start + Duration::from_secs_f64(f64::from(self.sent) / rate),
            None => Instant::now(),
        }
    }

    /// The next message, once it is due; none: the load is over.
    async fn next(&mut self) -> Option<(u32, Instant)> {
        let index = self.sent;
        if index >= self.load.messages {
            return None;
        }
        let due = self.due();
        if due.duration_since(self.start) >= self.load.time {
            return None;
        }
        if due > Instant::now() {
            // Timers are no finer than a tick: what is due within one goes out together.
            sleep_until(due.max(Instant::now() + TICK)).await;
        }
        self.sent = index.saturating_add(1);
        Some((index, due))
    }
}

/// Sends a load. `keep_ids`: the ids are told, which costs memory.
pub(super) async fn send(
    door: Door<'_>,
    token: &Sensitive<String>,
    load: Load,
    keep_ids: bool,
    clock: &dyn Clock,
) -> Result<Accepted, CliError> {
    let accepted = RefCell::new(Accepted::default());
    let pacer = tokio::sync::Mutex::new(Pacer::new(load));
    let start = Instant::now();
    // Due times are told on the clock that the simulator tells its arrivals on.
    let (epoch, epoch_at) = (clock.unix_micros(), Instant::now());
    let micros = |at: Instant| {
        let since = i64::try_from(at.saturating_duration_since(epoch_at).as_micros()).unwrap_or(i64::MAX);
        epoch.saturating_add(since)
    };
    // Taking the next messages, of which only the first is waited for, and noting when they were due is one step, so that
    // indices and times agree.
    let take_ready = async |most: usize| {
        let mut pacer = pacer.lock().await;
        let mut taken = Vec::new();
        while taken.len() < most && (taken.is_empty() || pacer.due() <= Instant::now()) {
            let Some((index, due)) = pacer.next().await else { break };
            accepted.borrow_mut().due.push(micros(due));
            taken.push(index);
        }
        taken
    };
    let take = async || take_ready(1).await.pop();
    match load.way {
        Way::Streams(streams) => {
            let mut running: FuturesUnordered<_> = (0..streams)
                .map(|_| stream_of(door.grpc.clone(), token, load, keep_ids, &take, &accepted, &micros))
                .collect();
            while let Some(ended) = running.next().await {
                ended?;
            }
        }
        Way::Unary => {
            let calls = stream::unfold((), async |()| take().await.map(|index| (index, ())));
            let (accepted, micros) = (&accepted, &micros);
            calls
                .map(|index| call(door.grpc, token, load, index, keep_ids, accepted, micros))
                .buffer_unordered(CALLS)
                .for_each(async |()| {})
                .await;
        }
        Way::Nats => {
            let nats = door.nats.ok_or_else(|| CliError::new("the client was not let in over NATS"))?;
            let requests = stream::unfold((), async |()| {
                let taken = take_ready(MAX_SUBMIT_MESSAGES).await;
                (!taken.is_empty()).then_some((taken, ()))
            });
            let (accepted, micros) = (&accepted, &micros);
            requests
                .map(|indices| submit(nats, token, load, indices, keep_ids, accepted, micros))
                .buffer_unordered(REQUESTS)
                .for_each(async |()| {})
                .await;
        }
    }
    let mut accepted = accepted.into_inner();
    accepted.lasted = start.elapsed();
    Ok(accepted)
}

async fn call(
    client: &MessageServiceClient<Channel>,
    token: &Sensitive<String>,
    load: Load,
    index: u32,
    keep_ids: bool,
    accepted: &RefCell<Accepted>,
    micros: &impl Fn(Instant) -> i64,
) {
    let n = load.first.wrapping_add(index);
    let request = SendRequest {
        message: Some(message(&load, n)),
        idempotency_key: key(&load, n),
        ..Default::default()
    };
    let Ok(request) = authorised(request, token) else { return };
    let answer = client.clone().send(request).await;
    let mut accepted = accepted.borrow_mut();
    match answer {
        Ok(sent) => accepted.took(index, sent.into_inner().message_id, micros(Instant::now()), keep_ids),
        Err(status) => accepted.refused(status.code()),
    }
}

async fn submit(
    nats: &Nats,
    token: &Sensitive<String>,
    load: Load,
    indices: Vec<u32>,
    keep_ids: bool,
    accepted: &RefCell<Accepted>,
    micros: &impl Fn(Instant) -> i64,
) {
    // Over NATS each message needs a key.
    let messages = indices.iter().map(|index| {
        let n = load.first.wrapping_add(*index);
        stream_request(&load, *index, format!("bench-{n}"))
    });
    let answer = nats.submit(token, messages.collect()).await;
    let (mut accepted, now) = (accepted.borrow_mut(), micros(Instant::now()));
    match answer {
        Ok(results) => results.into_iter().for_each(|result| accepted.answered(result, now, keep_ids)),
        Err(why) => accepted.failed(why, indices.len()),
    }
}

fn key(load: &Load, n: u32) -> String {
    if load.keyed { format!("bench-{n}") } else { String::new() }
}

async fn stream_of(
    mut client: MessageServiceClient<Channel>,
    token: &Sensitive<String>,
    load: Load,
    keep_ids: bool,
    take: &impl AsyncFn() -> Option<u32>,
    accepted: &RefCell<Accepted>,
    micros: &impl Fn(Instant) -> i64,
) -> Result<(), CliError> {
    let broken = |status: tonic::Status| refused("the stream broke off", &status);
    let (mut requests, incoming) = mpsc::channel(OUTSTANDING);
    let places = Semaphore::new(OUTSTANDING);
    let feed = async {
        while let Some(index) = take().await {
            if load.rate.is_none() {
                let Ok(place) = places.acquire().await else { break };
                place.forget();
                // It is due now that there is a place for it.
                if let Some(due) = accepted.borrow_mut().due.get_mut(index as usize) {
                    *due = micros(Instant::now());
                }
            }
            let request = stream_request(&load, index, key(&load, load.first.wrapping_add(index)));
            if requests.send(request).await.is_err() {
                // The other half tells why.
                break;
            }
        }
        requests.close_channel();
        Ok(())
    };
    let answers = async {
        let mut answers =
            client.send_stream(authorised(incoming, token)?).await.map_err(broken)?.into_inner();
        while let Some(answer) = answers.message().await.map_err(broken)? {
            places.add_permits(1);
            accepted.borrow_mut().answered(answer, micros(Instant::now()), keep_ids);
        }
        Ok::<(), CliError>(())
    };
    try_join(feed, answers).await.map(drop)
}
