//! What outcomes mean for the broker.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use sotto_core::Timestamp;
use sotto_proto::Batch;

use super::{
    Handler, Outcome,
    process::{Claim, Readable, Work},
};
use crate::{
    Topic,
    publish::{Outgoing, lock, names},
    quarantine::Cause,
    topology::Retention,
};

/// The longest delay of a nak. The broker keeps delayed messages in memory and counts them as unacknowledged.
const LONGEST_NAK: Duration = Duration::from_secs(30);
/// Deliveries that may end in a nak of ours in a work queue; later ones are published anew, so that a high count
/// always means failures.
const NAKS: u64 = 2;
/// How long a publish on the way to an acknowledgement may take.
const ATTEMPT: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(20);
/// Pause when the broker would not take what must be stored before the acknowledgement.
const NO_ROOM: Duration = Duration::from_secs(5);

impl<B: Batch, H: Handler<B>> Work<B, H> {
    /// Acts on the outcomes: first everything that must be stored, then the acknowledgement.
    pub(super) async fn settle(&self, claim: &Claim, batch: Readable<B>, outcomes: Vec<Outcome>) {
        let mut retries: BTreeMap<Duration, Vec<B::Item>> = BTreeMap::new();
        let count = batch.items.len();
        for (index, (item, outcome)) in batch.items.into_iter().zip(outcomes).enumerate() {
            match outcome {
                Outcome::Done => {}
                Outcome::Retry { after } => retries.entry(after).or_default().push(item),
                Outcome::Quarantine { why } => {
                    let cause = Cause::new(why).at(index).item::<B>(&item);
                    if !self.quarantine(claim, batch.subject.topic(), cause).await {
                        return;
                    }
                }
            }
        }
        let Some(longest) = retries.keys().next_back().copied() else {
            self.acknowledge(claim).await;
            return;
        };
        let all = retries.values().map(Vec::len).sum::<usize>() == count;
        match self.retention {
            // Nothing can be published twice in a log: the whole batch comes again, and what is done is known.
            Retention::Limits => self.nak(claim, longest.min(LONGEST_NAK)).await,
            Retention::WorkQueue if all && longest <= LONGEST_NAK && claim.message.meta.delivered <= NAKS => {
                self.nak(claim, longest).await;
            }
            Retention::WorkQueue => {
                let subject = batch.subject.put_back().in_cell(&self.bus.cell().id);
                let now = self.bus.clock().now();
                let mut outgoing = Vec::new();
                for (after, items) in retries {
                    let mut one = self.outgoing(claim, &subject, &items);
                    set_not_before(&mut one, now.plus(after));
                    outgoing.push(one);
                }
                self.replace(claim, outgoing).await;
            }
        }
    }

    /// Gives each item a message of its own: an item that crashes its process then only takes itself along.
    pub(super) async fn take_apart(&self, claim: &Claim, batch: Readable<B>) {
        tracing::error!(items = batch.items.len(), "a batch failed repeatedly and is taken apart");
        let subject = batch.subject.put_back().in_cell(&self.bus.cell().id);
        let outgoing = batch.items.iter().map(|item| {
            let mut one = self.outgoing(claim, &subject, std::slice::from_ref(item));
            one.headers.insert(names::ISOLATED, "1");
            one
        });
        let outgoing: Vec<_> = outgoing.collect();
        self.replace(claim, outgoing).await;
    }

    /// A message that was put back for later: returns whether it was, again.
    pub(super) async fn defer(&self, claim: &Claim) -> bool {
        let message = &claim.message;
        let not_before = message.header(names::NOT_BEFORE).and_then(|value| value.parse().ok());
        let Some(not_before) = not_before.map(Timestamp::from_unix_millis) else { return false };
        let left = not_before.since(self.bus.clock().now());
        if left.is_zero() {
            return false;
        }
        if message.meta.delivered <= NAKS || self.retention == Retention::Limits {
            self.nak(claim, left.min(LONGEST_NAK)).await;
        } else {
            let mut again = Outgoing::new(
                &self.bus,
                &message.subject,
                message.payload.clone(),
                0,
                message.header("traceparent"),
            );
            for name in [names::NOT_BEFORE, names::ISOLATED, names::ITEMS] {
                if let Some(value) = message.header(name) {
                    again.headers.insert(name, value);
                }
            }
            self.replace(claim, vec![again]).await;
        }
        true
    }

    fn outgoing(&self, claim: &Claim, subject: &str, items: &[B::Item]) -> Outgoing {
        let payload = Bytes::from(B::from_items(items).encode_to_vec());
        let trace = claim.message.header("traceparent");
        Outgoing::new(&self.bus, subject, payload, items.len(), trace)
    }

    /// Publishes, then acknowledges: in between a crash repeats items, it never loses one.
    async fn replace(&self, claim: &Claim, outgoing: Vec<Outgoing>) {
        for one in outgoing {
            if let Err(error) = self.bus.store(&one, ATTEMPT, DEADLINE).await {
                tracing::warn!(%error, "items could not be put back; the batch comes again");
                self.nak(claim, NO_ROOM).await;
                return;
            }
        }
        self.acknowledge(claim).await;
    }

    /// Records what cannot be handled. Returns whether it is stored; if not, the batch comes again.
    pub(super) async fn quarantine(&self, claim: &Claim, topic: Topic, cause: Cause) -> bool {
        tracing::error!(why = cause.why(), "quarantined");
        let message = &claim.message;
        let origin = crate::quarantine::Origin {
            subject: &message.subject,
            payload: &message.payload,
            sequence: message.meta.stream_sequence,
            deliveries: message.meta.delivered,
        };
        let outgoing = cause.outgoing(&self.bus, topic, &origin);
        match self.bus.store(&outgoing, ATTEMPT, DEADLINE).await {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(%error, "quarantine does not take a record; the batch comes again");
                self.nak(claim, NO_ROOM).await;
                false
            }
        }
    }

    async fn nak(&self, claim: &Claim, after: Duration) {
        lock(&self.failures).innocent(claim.key);
        claim.message.acker.nak(after, claim.ack_wait).await;
    }
}

fn set_not_before(outgoing: &mut Outgoing, at: Timestamp) {
    outgoing.headers.insert(names::NOT_BEFORE, at.unix_millis().to_string().as_str());
}
