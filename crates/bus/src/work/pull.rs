//! Pull requests to one consumer (ADR-13), over one subscription that lives as long as the worker: what the broker
//! sends late is not lost.

use std::time::Duration;

use async_nats::{Message, StatusCode, SubscribeError};
use serde_json::json;
use tokio::time::{self, Instant};

use super::message::{Acker, Incoming, Meta};
use crate::{Bus, topology::ConsumerSpec, wire::Subscription};

/// How long a pull waits at the broker while there is nothing.
const WAIT: Duration = Duration::from_secs(5);
/// How long the broker may take for a round trip.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an immediate pull waits. The broker answers at once, except when so much is unacknowledged that it may not
/// deliver: then it keeps the request, and more urgent queues must not wait for that.
const AT_ONCE: Duration = Duration::from_millis(250);
/// Pause after the broker said that the consumer cannot be pulled from now.
pub(super) const PAUSE: Duration = Duration::from_millis(300);

pub(super) struct Pull {
    bus: Bus,
    request: String,
    inbox: String,
    subscriber: Subscription,
    asked: u64,
    waiting: Option<Waiting>,
    blocked_until: Option<Instant>,
    pub(super) ack_wait: Duration,
    pub(super) consumer: String,
}

/// A pull that waits at the broker.
struct Waiting {
    id: u64,
    until: Instant,
    generation: u64,
}

/// What came over the subscription.
pub(super) enum Arrival {
    Message(Incoming),
    /// A request with this id ended.
    Ended(u64),
    /// Something without meaning for us.
    Nothing,
    /// The subscription is gone: the connection was closed for good.
    Closed,
}

impl Pull {
    pub(super) async fn open(bus: &Bus, spec: &ConsumerSpec) -> Result<Self, SubscribeError> {
        let inbox = bus.client().new_inbox();
        let subscriber = bus.client().subscribe(format!("{inbox}.*")).await?;
        Ok(Self {
            bus: bus.clone(),
            request: format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", spec.stream, spec.name),
            inbox,
            subscriber,
            asked: 0,
            waiting: None,
            blocked_until: None,
            ack_wait: Duration::from_secs(spec.ack_wait_s),
            consumer: spec.name.clone(),
        })
    }

    /// Asks for what there is now, at most `most`. While a pull waits at the broker there is nothing: it would have been
    /// answered.
    pub(super) async fn fetch_now(&mut self, most: usize) -> Vec<Incoming> {
        let mut messages = Vec::new();
        self.forget_stale_wait();
        if self.is_blocked() || most == 0 || self.waiting.is_some() {
            return messages;
        }
        let Some(id) = self.ask(json!({ "batch": most, "no_wait": true })).await else {
            return messages;
        };
        let end = Instant::now() + AT_ONCE;
        while messages.len() < most {
            match time::timeout_at(end, self.arrival()).await {
                Ok(Arrival::Message(message)) => messages.push(message),
                Ok(Arrival::Ended(ended)) if ended == id => break,
                Ok(Arrival::Ended(_) | Arrival::Nothing) => {}
                Ok(Arrival::Closed) => break,
                Err(_elapsed) => {
                    messages.extend(self.withdraw().await);
                    break;
                }
            }
        }
        messages
    }

    /// Takes back every request that the broker keeps, by leaving their inbox for a new one; returns what it had sent.
    /// Kept requests would add up, and be answered when nobody has room.
    async fn withdraw(&mut self) -> Vec<Incoming> {
        let inbox = self.bus.client().new_inbox();
        let subscriber = match self.bus.client().subscribe(format!("{inbox}.*")).await {
            Ok(subscriber) => subscriber,
            Err(error) => {
                tracing::debug!(%error, consumer = self.consumer, "no new inbox");
                return Vec::new();
            }
        };
        let sent = self.drain().await;
        (self.inbox, self.subscriber, self.waiting) = (inbox, subscriber, None);
        sent
    }

    /// Lets one pull for one message wait at the broker, unless one waits already.
    pub(super) async fn wait_for_more(&mut self) {
        if self.is_blocked() {
            return;
        }
        self.forget_stale_wait();
        if self.waiting.is_none() {
            let generation = self.bus.state().borrow().generation;
            if let Some(id) = self.ask(json!({ "batch": 1, "expires": WAIT.as_nanos() })).await {
                // A little longer than the broker: its "timed out" is on the way.
                self.waiting = Some(Waiting { id, until: Instant::now() + WAIT + PATIENCE, generation });
            }
        }
    }

    /// What comes next over the subscription. Dropping the future loses nothing.
    pub(super) async fn arrival(&mut self) -> Arrival {
        match self.subscriber.next().await {
            Some(message) => self.read(message),
            None => Arrival::Closed,
        }
    }

    /// A message of the waiting pull, outside of [`Self::fetch_now`].
    pub(super) async fn late_message(&mut self) -> Option<Incoming> {
        match self.arrival().await {
            Arrival::Message(message) => {
                self.waiting = None;
                Some(message)
            }
            Arrival::Ended(_) | Arrival::Nothing => None,
            // Nothing will ever come: leave it to the worker's stop.
            Arrival::Closed => std::future::pending().await,
        }
    }

    /// Ends all requests and returns what the broker had already sent.
    pub(super) async fn close(mut self) -> Vec<Incoming> {
        self.drain().await
    }

    async fn drain(&mut self) -> Vec<Incoming> {
        let mut messages = Vec::new();
        let end = Instant::now() + PATIENCE;
        if let Err(error) = self.subscriber.drain().await {
            tracing::debug!(%error, "a subscription was not drained");
        }
        while let Ok(arrival) = time::timeout_at(end, self.arrival()).await {
            match arrival {
                Arrival::Message(message) => messages.push(message),
                Arrival::Ended(_) | Arrival::Nothing => {}
                Arrival::Closed => break,
            }
        }
        messages
    }

    /// Whether the broker refused a pull a moment ago.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_until.is_some_and(|until| Instant::now() < until)
    }

    /// A lost connection takes its waiting pulls along.
    fn forget_stale_wait(&mut self) {
        let generation = self.bus.state().borrow().generation;
        self.waiting.take_if(|waiting| waiting.generation != generation || waiting.until <= Instant::now());
    }

    async fn ask(&mut self, request: serde_json::Value) -> Option<u64> {
        self.asked += 1;
        let reply = format!("{}.{}", self.inbox, self.asked);
        let payload = request.to_string().into_bytes();
        let sent = self.bus.client().publish_with_reply(self.request.clone(), reply, payload.into()).await;
        match sent {
            Ok(()) => Some(self.asked),
            Err(error) => {
                tracing::debug!(%error, consumer = self.consumer, "a pull was not sent");
                None
            }
        }
    }

    fn read(&mut self, message: Message) -> Arrival {
        if let Some(status) = message.status.filter(|status| *status != StatusCode::OK) {
            return self.read_status(&message, status);
        }
        let Some((reply, meta)) =
            message.reply.as_ref().and_then(|reply| Some((reply.as_str(), Meta::parse(reply.as_str())?)))
        else {
            tracing::error!(
                consumer = self.consumer,
                "a message came without a known acknowledgement subject"
            );
            return Arrival::Nothing;
        };
        Arrival::Message(Incoming {
            acker: Acker::new(&self.bus, reply),
            meta,
            subject: message.subject.to_string(),
            payload: message.payload,
            headers: message.headers,
        })
    }

    fn read_status(&mut self, message: &Message, status: StatusCode) -> Arrival {
        let id = message.subject.rsplit('.').next().and_then(|id| id.parse().ok());
        let Some(id) = id else { return Arrival::Nothing };
        if status == StatusCode::IDLE_HEARTBEAT {
            return Arrival::Nothing;
        }
        self.waiting.take_if(|waiting| waiting.id == id);
        let words = message.description.as_deref().unwrap_or_default();
        let empty = status == StatusCode::NOT_FOUND || status == StatusCode::TIMEOUT;
        // All unacknowledged messages are with handlers, here or in another instance.
        let busy = words.contains("MaxAckPending");
        if !empty && !busy {
            tracing::warn!(consumer = self.consumer, %status, words, "the broker refused a pull");
            self.blocked_until = Some(Instant::now() + PAUSE);
        }
        Arrival::Ended(id)
    }
}
