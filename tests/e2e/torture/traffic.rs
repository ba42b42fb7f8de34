//! An honest client that goes on sending at one pace whatever happens, until it is told to stop.

use std::{collections::BTreeMap, error::Error as _, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use sotto_core::{Clock as _, SystemClock};
use sotto_proto::message::v1::{
    MessageClass, OutboundMessage, SendRequest, message_service_client::MessageServiceClient,
};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tonic::{Code, transport::Channel};

use crate::cell::{Cell, Door, SENDER, number, with_token};

/// Messages a second.
const PACE: u32 = 40;

/// Requests that may wait for their acceptance. When so many do, no new one is begun.
const WAITING: usize = 400;

/// How long a client waits before it asks again.
const PAUSE: Duration = Duration::from_millis(250);

/// How long one request may stay unanswered, and how long it may take until it is accepted.
const PATIENCE: Duration = Duration::from_secs(10);
const ACCEPTED: Duration = Duration::from_secs(120);

/// A word that is in every text and nowhere else.
pub(crate) const WORD: &str = "Quetzalcoatl";

/// Longer than outages that follow one another here, on a machine that builds besides: a message that waits in a process that was
/// killed comes again after half a minute, maybe for another one that is killed.
const VALIDITY: i64 = 360;

/// A message that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) number: u32,
    pub(crate) id: String,
    /// When it was first asked for, in milliseconds since the Unix epoch.
    pub(crate) begun: i64,
    /// What was heard before it was accepted.
    pub(crate) refused: BTreeMap<String, u32>,
}

/// How the cell is reached: its door, and an access token.
type Access = (Door, String);

/// The same once connected.
type Reached = (MessageServiceClient<Channel>, String);

pub(crate) struct Traffic {
    stop: watch::Sender<bool>,
    access: watch::Sender<Access>,
    accepted: watch::Receiver<usize>,
    waiting: watch::Receiver<usize>,
    done: oneshot::Receiver<Vec<Sent>>,
}

/// The n-th message: every eighth has two parts.
pub(crate) fn message(n: u32) -> SendRequest {
    let more = if n.is_multiple_of(8) { "x".repeat(200) } else { String::new() };
    let message = OutboundMessage {
        to: number(n),
        from: SENDER.to_owned(),
        text: format!("{WORD} {n:06} {more}"),
        class: MessageClass::Otp.into(),
        validity: Some(prost_types::Duration { seconds: VALIDITY, nanos: 0 }),
        ..Default::default()
    };
    SendRequest { message: Some(message), idempotency_key: format!("torture-{n}"), ..Default::default() }
}

/// How many parts it has.
pub(crate) fn parts(n: u32) -> u64 {
    if n.is_multiple_of(8) { 2 } else { 1 }
}

impl Traffic {
    pub(crate) async fn start(cell: &Cell) -> Self {
        let (access, accesses) = watch::channel((cell.door(), cell.token("shop").await));
        let (stop, stopped) = watch::channel(false);
        let (progress, accepted) = watch::channel(0);
        let (queue, waiting) = watch::channel(0);
        let (tell, done) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let sent = runtime.block_on(run(accesses, stopped, &progress, &queue));
            // A test that failed meanwhile does not wait for it.
            let _gone = tell.send(sent);
        });
        Self { stop, access, accepted, waiting, done }
    }

    /// Connects anew, with a new access token: they live for ten minutes.
    pub(crate) async fn renew(&self, cell: &Cell) {
        self.access.send_replace((cell.door(), cell.token("shop").await));
    }

    /// How many are accepted by now.
    pub(crate) fn accepted(&self) -> usize {
        *self.accepted.borrow()
    }

    /// Whether requests pile up: for three seconds' worth of them.
    pub(crate) fn piles_up(&self) -> bool {
        *self.waiting.borrow() > 3 * usize::try_from(PACE).unwrap()
    }

    /// Waits until so many are accepted.
    pub(crate) async fn reach(&mut self, count: usize) {
        self.accepted.wait_for(|accepted| *accepted >= count).await.unwrap();
    }

    /// Begins no message any more, and returns all once each is accepted.
    pub(crate) async fn finish(self) -> Vec<Sent> {
        self.stop.send_replace(true);
        timeout(ACCEPTED + PATIENCE, self.done).await.unwrap().unwrap()
    }
}

async fn run(
    mut accesses: watch::Receiver<Access>,
    mut stopped: watch::Receiver<bool>,
    progress: &watch::Sender<usize>,
    queue: &watch::Sender<usize>,
) -> Vec<Sent> {
    let reach = |(door, token): &Access| (door.messages(), token.clone());
    let reached = watch::Sender::new(reach(&accesses.borrow_and_update()));
    let mut tick = interval(Duration::from_secs(1) / PACE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sent, mut waiting, mut next) = (Vec::new(), FuturesUnordered::new(), 0);
    loop {
        let stop = *stopped.borrow();
        if stop && waiting.is_empty() {
            return sent;
        }
        tokio::select! {
            _ = tick.tick(), if !stop && waiting.len() < WAITING => {
                waiting.push(accepted(&reached, next));
                queue.send_replace(waiting.len());
                next += 1;
            }
            Some(one) = waiting.next() => {
                sent.push(one);
                progress.send_replace(sent.len());
            }
            Ok(()) = accesses.changed() => {
                let now = reach(&accesses.borrow_and_update());
                reached.send_replace(now);
            }
            _ = stopped.changed(), if !stop => {}
        }
    }
}

/// Asks for a message, again and again with the same key, until it is accepted. Every refusal must be one that says so.
async fn accepted(reached: &watch::Sender<Reached>, n: u32) -> Sent {
    let begun = SystemClock.now().unix_millis();
    let until = Instant::now() + ACCEPTED;
    let mut refused = BTreeMap::new();
    loop {
        let (mut client, token) = reached.borrow().clone();
        let heard = match timeout(PATIENCE, client.send(with_token(message(n), &token))).await {
            Ok(Ok(response)) => {
                return Sent { number: n, id: response.into_inner().message_id, begun, refused };
            }
            Ok(Err(status)) => {
                // `Unknown` and `Cancelled` are a connection that broke off, and so is whatever our own end of it says.
                let honest = [Code::Unavailable, Code::ResourceExhausted, Code::Cancelled, Code::Unknown];
                let broke_off = status.source().is_some_and(|why| why.is::<tonic::transport::Error>());
                assert!(broke_off || honest.contains(&status.code()), "message {n}: {status:?}");
                format!("{:?}", status.code())
            }
            Err(_) => "no answer".to_owned(),
        };
        *refused.entry(heard).or_default() += 1;
        assert!(Instant::now() < until, "message {n} is not accepted: {refused:?}");
        sleep(PAUSE).await;
    }
}
