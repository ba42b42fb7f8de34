//! What outcomes mean for the broker.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use sotto_core::Timestamp;
use sotto_proto::Batch;
use tokio::time::Instant;

use super::{
    Handler, Outcome,
    process::{Claim, Readable, Work},
};
use crate::{
    Topic,
    measures::Became,
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
/// Messages that a batch's items may become when they go back, but for rounding.
const GROUPS: u64 = 16;
/// Pause when the broker would not take what must be stored before the acknowledgement.
const NO_ROOM: Duration = Duration::from_secs(5);

impl<B: Batch, H: Handler<B>> Work<B, H> {
    /// Acts on the outcomes: first everything that must be stored, then the acknowledgement.
    pub(super) async fn settle(&self, claim: &Claim, batch: Readable<B>, outcomes: Vec<Outcome>) {
        let mut retries: Vec<(Duration, B::Item)> = Vec::new();
        let count = batch.items.len();
        let became = self.bus.measures().items.of(batch.subject.topic());
        for ((item, place), outcome) in batch.items.into_iter().zip(batch.places).zip(outcomes) {
            became.of(Became::from(&outcome)).one();
            match outcome {
                Outcome::Done => {}
                Outcome::Retry { after } => retries.push((after, item)),
                Outcome::Quarantine { why } => {
                    let cause = Cause::given_up::<B>(why, place, &item);
                    if !self.quarantine(claim, batch.subject.topic(), cause).await {
                        return;
                    }
                }
            }
        }
        let Some(longest) = retries.iter().map(|(after, _)| *after).max() else {
            self.acknowledge(claim).await;
            return;
        };
        let all = retries.len() == count;
        match self.retention {
            // Nothing can be published twice in a log: the whole batch comes again, and what is done is known.
            Retention::Limits | Retention::Aged | Retention::Latest => {
                self.nak(claim, longest.min(LONGEST_NAK)).await
            }
            Retention::WorkQueue if all && longest <= LONGEST_NAK && claim.message.meta.delivered <= NAKS => {
                self.nak(claim, longest).await;
            }
            Retention::WorkQueue => {
                let subject = batch.subject.put_back().in_cell(&self.bus.cell().id);
                let now = self.bus.clock().now();
                let mut outgoing = Vec::new();
                for (after, items) in together(retries, longest) {
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
            if let Err(error) = self.bus.store(&one, ATTEMPT, Instant::now() + DEADLINE).await {
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
        match self.bus.store(&outgoing, ATTEMPT, Instant::now() + DEADLINE).await {
            Ok(_) => {
                self.bus.measures().quarantined.of(topic).one();
                true
            }
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

/// Items that go back, by their delay. Delays are lengthened a little, so that a batch to which an outage gave a delay
/// for each item becomes a few messages and not one for each.
fn together<I>(retries: Vec<(Duration, I)>, longest: Duration) -> BTreeMap<Duration, Vec<I>> {
    let grain = longest.as_secs().div_ceil(GROUPS).max(1);
    let mut groups: BTreeMap<Duration, Vec<I>> = BTreeMap::new();
    for (after, item) in retries {
        let whole = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        groups.entry(Duration::from_secs(whole.next_multiple_of(grain))).or_default().push(item);
    }
    groups
}

fn set_not_before(outgoing: &mut Outgoing, at: Timestamp) {
    outgoing.headers.insert(names::NOT_BEFORE, at.unix_millis().to_string().as_str());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(delays: &[u64]) -> Vec<(u64, Vec<u64>)> {
        let retries: Vec<_> = delays.iter().map(|ms| (Duration::from_millis(*ms), *ms)).collect();
        let longest = retries.iter().map(|(after, _)| *after).max().unwrap();
        together(retries, longest).into_iter().map(|(after, items)| (after.as_secs(), items)).collect()
    }

    #[test]
    fn delays_of_one_second_go_back_together_and_never_early() {
        assert_eq!(
            groups(&[0, 1, 999, 1_000, 1_001]),
            [(0, vec![0]), (1, vec![1, 999, 1_000]), (2, vec![1_001])]
        );
    }

    #[test]
    fn a_hundred_delays_make_a_few_messages() {
        for longest in [1_000, 30_000, 300_000, 86_400_000] {
            let delays: Vec<_> = (1..=100).map(|n| longest * n / 100).collect();
            let groups = groups(&delays);
            assert!(groups.len() <= 17, "{}", groups.len());
            for (after, items) in groups {
                assert!(items.iter().all(|ms| *ms <= after * 1_000), "early");
                assert!(items.iter().all(|ms| after * 1_000 <= ms + longest / 16 + 2_000), "late");
            }
        }
    }
}
