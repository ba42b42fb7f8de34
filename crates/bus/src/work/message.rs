//! A delivered message and its acknowledgement.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{HeaderMap, Request};
use bytes::Bytes;
use tokio::time::{self, Instant};

use crate::{Bus, publish::lock};

/// How long one acknowledgement waits for the broker's confirmation.
const CONFIRM: Duration = Duration::from_secs(3);

/// What the broker tells with a delivery, in its reply subject (ADR-15):
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) delivered: u64,
    pub(super) stream_sequence: u64,
    pub(super) pending: u64,
}

impl Meta {
    pub(super) fn parse(reply: &str) -> Option<Self> {
        let mut tokens = reply.strip_prefix("$JS.ACK.")?.split('.').skip(2);
        let delivered = tokens.next()?.parse().ok()?;
        let stream_sequence = tokens.next()?.parse().ok()?;
        let mut rest = tokens.skip(2);
        let pending = rest.next()?.parse().ok()?;
        rest.next().is_none().then_some(Self { delivered, stream_sequence, pending })
    }
}

/// A message as it was delivered.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) subject: String,
    pub(super) payload: Bytes,
    pub(super) headers: Option<HeaderMap>,
    pub(super) meta: Meta,
    pub(super) acker: Acker,
}

impl Incoming {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.as_ref()?.get(name).map(|value| value.as_str())
    }
}

/// Acknowledges one message. When the message is delivered again while it is being handled, the newer reply subject
/// takes the place of the older one.
#[derive(Clone)]
pub(super) struct Acker {
    bus: Bus,
    reply: Arc<Mutex<Reply>>,
}

/// Where the newest delivery is answered.
#[derive(Debug)]
struct Reply {
    subject: String,
    /// What was answered, as far as the broker has confirmed it.
    answered: Option<String>,
}

impl Reply {
    const fn new(subject: String) -> Self {
        Self { subject, answered: None }
    }

    /// Whether the message was delivered once more after the delivery that was answered.
    fn is_renewed_since_answer(&self) -> bool {
        self.answered.as_ref().is_some_and(|answered| *answered != self.subject)
    }
}

impl std::fmt::Debug for Acker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acker").field("reply", &self.reply).finish_non_exhaustive()
    }
}

impl Acker {
    pub(super) fn new(bus: &Bus, reply: &str) -> Self {
        Self { bus: bus.clone(), reply: Arc::new(Mutex::new(Reply::new(reply.to_owned()))) }
    }

    /// Takes over the reply subject of a newer delivery of the same message.
    pub(super) fn renew(&self, newer: &Self) {
        let newer = lock(&newer.reply).subject.clone();
        lock(&self.reply).subject = newer;
    }

    /// Whether the message was delivered once more after the delivery that was answered.
    pub(super) fn is_renewed_since_answer(&self) -> bool {
        lock(&self.reply).is_renewed_since_answer()
    }

    /// "Still working": the broker waits another `ack_wait`. Not confirmed: the next one is soon.
    pub(super) async fn progress(&self) {
        let reply = lock(&self.reply).subject.clone();
        if let Err(error) = self.bus.client().publish(reply, Bytes::from_static(b"+WPI")).await {
            tracing::debug!(%error, "an in-progress acknowledgement was not sent");
        }
    }

    /// "Handled": repeated until the broker confirms it or the message would be delivered again anyway.
    pub(super) async fn ack(&self, patience: Duration) -> bool {
        self.confirmed(Bytes::from_static(b"+ACK"), patience).await
    }

    /// "Again, after this time".
    pub(super) async fn nak(&self, delay: Duration, patience: Duration) -> bool {
        // A nak without delay is delivered again at once, in a loop.
        let nanos = delay.max(Duration::from_millis(1)).as_nanos();
        self.confirmed(Bytes::from(format!("-NAK {{\"delay\":{nanos}}}")), patience).await
    }

    async fn confirmed(&self, payload: Bytes, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            if time::timeout_at(end, self.bus.connected()).await.is_err() {
                return false;
            }
            let reply = lock(&self.reply).subject.clone();
            let request = Request::new().payload(payload.clone()).timeout(Some(CONFIRM));
            let mut state = self.bus.state();
            let generation = state.borrow_and_update().generation;
            let answer = tokio::select! {
                answer = time::timeout(CONFIRM, self.bus.client().send_request(reply.clone(), request)) => answer,
                _ = state.wait_for(|state| state.generation != generation) => continue,
            };
            match answer {
                Ok(Ok(_)) => {
                    lock(&self.reply).answered = Some(reply);
                    return true;
                }
                Ok(Err(error)) => tracing::debug!(%error, "an acknowledgement was not confirmed"),
                Err(_elapsed) => tracing::debug!("an acknowledgement was not confirmed in time"),
            }
            if Instant::now() + Duration::from_millis(100) >= end {
                return false;
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_that_came_after_the_answer_is_told() {
        let mut reply = Reply::new("first".to_owned());
        assert!(!reply.is_renewed_since_answer());
        // Delivered again while its handler works: the handler's end will answer it.
        reply.subject = "second".to_owned();
        assert!(!reply.is_renewed_since_answer());
        reply.answered = Some("second".to_owned());
        assert!(!reply.is_renewed_since_answer());
        // Given back, and it returned before it was let go.
        reply.subject = "third".to_owned();
        assert!(reply.is_renewed_since_answer());
    }

    #[test]
    fn reads_the_reply_subject() {
        assert_eq!(
            Meta::parse("$JS.ACK.VN_INTAKE.routing-otp.3.17.40.1795493815007000000.9"),
            Some(Meta { delivered: 3, stream_sequence: 17, pending: 9 })
        );
        for bad in ["", "$JS.ACK.a.b.1.2.3.4", "$JS.ACK.a.b.1.2.3.4.5.6", "$JS.ACK.a.b.x.2.3.4.5", "_INBOX.x"]
        {
            assert_eq!(Meta::parse(bad), None, "{bad}");
        }
    }
}
