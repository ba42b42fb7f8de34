//! The log, the way back to routing, and audit, over the bus.

use std::{collections::BTreeMap, time::Duration};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, try_join_all},
    stream,
};
use sotto_bus::{
    Act as BusAct, AuditCategory, AuditTrail, Bus, CARRIED, PublishError, Publisher, PublisherConfig,
    ReadError, Reading, StreamReader, Subject, Subjects, topology::is_there,
};
use sotto_core::{
    AccountId, Classified, Facts, Lane, MessageId, Shards, TenantId, Timestamp, delivery::EventKind,
};
use sotto_crypto::hash::Sha256;
use sotto_proto::{
    Batch as _, InboundDelivery, LogEvent, WorkDelivery,
    pipeline::v1::{EventBatch, InboundBatch, WorkBatch},
};

use crate::ports::{Act, History, KeysError, Log, LogError, Queue, Queues, Witness};

/// Items and estimated bytes of one publish: below the publisher's bounds.
const AT_A_TIME: usize = 500;
const BYTES_AT_A_TIME: usize = 256 * 1024;

/// Publishes to and reads from the streams of the cell.
#[derive(Debug)]
pub(crate) struct Broker {
    bus: Bus,
    /// What must be stored before a part is written: it is waited for.
    intents: Publisher<EventBatch>,
    events: Publisher<EventBatch>,
    work: Publisher<WorkBatch>,
    inbound: Publisher<InboundBatch>,
    shards: Shards,
}

impl Broker {
    pub(crate) fn new(bus: &Bus) -> Self {
        Self {
            bus: bus.clone(),
            intents: Publisher::new(bus, PublisherConfig::default()),
            events: Publisher::new(bus, PublisherConfig::relaxed()),
            work: Publisher::new(bus, PublisherConfig::default()),
            inbound: Publisher::new(bus, PublisherConfig::default()),
            shards: bus.cell().shards,
        }
    }

    /// Publishes to all subjects at the same time, in order within each.
    async fn publish<B: sotto_proto::Batch>(
        publisher: &Publisher<B>,
        by_subject: BTreeMap<Subject, Vec<B::Item>>,
    ) -> Result<(), PublishError> {
        let all = by_subject.into_iter().map(async |(subject, items)| {
            for items in chunks(items, B::item_size) {
                publisher.publish_all(&subject, items).await?;
            }
            Ok(())
        });
        try_join_all(all).await.map(drop)
    }

    fn subject(&self, event: &LogEvent) -> Subject {
        let id = match event {
            LogEvent::Delivery(event) => event.message,
            LogEvent::OptOut { message, .. } => *message,
            LogEvent::ParkedReceipt { account, carrier_id, .. } => stand_in(account, carrier_id),
        };
        Subject::Event(self.shards.of(&id))
    }
}

/// Cuts what one publish cannot hold. A long history makes an item several times as large as another.
fn chunks<T>(items: Vec<T>, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut all: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let bytes = size(&item);
        match all.last_mut() {
            Some(chunk) if chunk.len() < AT_A_TIME && bytes <= room => {
                room -= bytes;
                chunk.push(item);
            }
            Some(_) | None => {
                room = BYTES_AT_A_TIME.saturating_sub(bytes);
                all.push(vec![item]);
            }
        }
    }
    all
}

/// A parked receipt has no message: its id decides the shard.
fn stand_in(account: &AccountId, carrier_id: &str) -> MessageId {
    let mut hash = Sha256::new();
    hash.update(account.as_str().as_bytes());
    hash.update(b"|");
    hash.update(carrier_id.as_bytes());
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = hash.finish();
    MessageId::from_keyed_hash([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}

fn failed<E>(what: &'static str) -> impl FnOnce(E) -> LogError
where
    E: std::error::Error + Classified + Send + Sync + 'static,
{
    move |error| LogError { what, class: error.class(), source: error.into() }
}

const fn is_intent(event: &LogEvent) -> bool {
    matches!(event, LogEvent::Delivery(event) if matches!(event.kind, EventKind::Submitting { .. }))
}

impl Log for Broker {
    fn events(&self, events: Vec<LogEvent>) -> BoxFuture<'_, Result<(), LogError>> {
        let publisher = if events.iter().any(is_intent) { &self.intents } else { &self.events };
        let mut by_subject: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for event in events {
            by_subject.entry(self.subject(&event)).or_default().push(event);
        }
        Self::publish(publisher, by_subject).map(|result| result.map_err(failed("events"))).boxed()
    }

    fn inbound(&self, messages: Vec<InboundDelivery>) -> BoxFuture<'_, Result<(), LogError>> {
        let mut by_subject: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for message in messages {
            by_subject.entry(Subject::Inbound(message.item.tenant.clone())).or_default().push(message);
        }
        let stored = Self::publish(&self.inbound, by_subject);
        stored.map(|result| result.map_err(failed("messages from handsets"))).boxed()
    }

    fn aside<'a>(
        &'a self,
        account: &'a AccountId,
        why: String,
        octets: Vec<u8>,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        async move {
            let kept = self.bus.keep_aside(&format!("deliver_sm.{account}"), why, &octets).await;
            kept.map_err(failed("a record in quarantine"))
        }
        .boxed()
    }

    fn back(&self, items: Vec<WorkDelivery>) -> BoxFuture<'_, Result<(), LogError>> {
        let mut by_subject: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for delivery in items {
            let facts = &delivery.item.facts;
            let subject = Subject::Retry(facts.lane(), self.shards.of(&facts.message));
            by_subject.entry(subject).or_default().push(delivery);
        }
        Self::publish(&self.work, by_subject).map(|result| result.map_err(failed("messages"))).boxed()
    }

    fn history(&self) -> BoxFuture<'_, Result<History, LogError>> {
        async {
            // What was trimmed and is still needed is older than all of EVENTS, or is there too.
            let mut readings = Vec::new();
            if is_there(&self.bus, CARRIED).await.map_err(failed("carried events"))? {
                readings.push(self.reading(CARRIED).await?);
            }
            readings.push(self.reading("EVENTS").await?);
            let history: History = Box::pin(stream::iter(readings).flat_map(batches));
            Ok(history)
        }
        .boxed()
    }
}

impl Broker {
    /// A stream of events from its beginning to where it ends now.
    async fn reading(&self, of: &str) -> Result<Reading<EventBatch>, LogError> {
        let reader: StreamReader<EventBatch> = StreamReader::new(&self.bus, of).map_err(failed("events"))?;
        let state = reader.state().await.map_err(failed("events"))?;
        Ok(reader.read_stored(state.first.max(1), state.last))
    }
}

/// What each batch says.
fn batches(reading: Reading<EventBatch>) -> History {
    Box::pin(stream::try_unfold(reading, async |mut reading| {
        let next = match reading.next().await {
            Ok(next) => next,
            // One that nobody can read says nothing to anybody; the ledger check tells of it.
            Err(error @ ReadError::Malformed { .. }) => {
                tracing::error!(%error, "a batch of events is skipped");
                return Ok(Some((Vec::new(), reading)));
            }
            Err(error) => return Err(failed("events")(error)),
        };
        let Some(stored) = next else { return Ok(None) };
        let mut events = Vec::new();
        for event in stored.batch.into_items() {
            match event {
                Ok(event) => events.push(event),
                Err(error) => {
                    tracing::error!(sequence = stored.sequence, %error, "an event is skipped");
                }
            }
        }
        Ok(Some((events, reading)))
    }))
}

/// What waits in WAITING.
#[derive(Debug)]
pub(crate) struct WaitingQueues(StreamReader<WorkBatch>);

impl WaitingQueues {
    pub(crate) fn new(bus: &Bus) -> Result<Self, ReadError> {
        StreamReader::new(bus, "WAITING").map(Self)
    }
}

impl Queues for WaitingQueues {
    fn of<'a>(&'a self, account: &'a AccountId) -> BoxFuture<'a, Result<Vec<Queue>, LogError>> {
        async move { self.within(&self.subjects().await?, account).await }.boxed()
    }
}

impl WaitingQueues {
    /// What waits, for all accounts.
    pub(crate) async fn subjects(&self) -> Result<Subjects, LogError> {
        self.0.subjects().await.map_err(failed("what waits"))
    }

    /// What of it waits for an account, the most urgent lane first.
    pub(crate) async fn within(
        &self,
        subjects: &Subjects,
        account: &AccountId,
    ) -> Result<Vec<Queue>, LogError> {
        let mut queues = Vec::new();
        for lane in Lane::ALL {
            let subject = Subject::Waiting(account.clone(), lane);
            let batches = subjects.messages.get(&subject).copied().unwrap_or(0);
            let oldest = if batches > 0 { self.oldest(&subject).await? } else { None };
            queues.push(Queue { lane, batches, oldest });
        }
        Ok(queues)
    }

    async fn oldest(&self, subject: &Subject) -> Result<Option<Timestamp>, LogError> {
        let batch = self.0.oldest(subject).await.map_err(failed("what waits"))?;
        let items = batch.into_iter().flat_map(WorkBatch::into_items).filter_map(Result::ok);
        // One that was to be sent later has waited since then.
        let since = |facts: &Facts| facts.send_at.unwrap_or(facts.accepted_at);
        Ok(items.map(|delivery| since(&delivery.item.facts)).min())
    }
}

/// How long an announcement may take until the batch that needs the key is put off.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells acts to the audit log.
#[derive(Debug)]
pub(crate) struct AuditWitness(pub(crate) AuditTrail);

impl Witness for AuditWitness {
    fn tell(&self, act: Act, object: &str, outcome: &'static str) {
        let (category, action) = match act {
            Act::Started => (AuditCategory::Lifecycle, "service.started"),
            Act::Stopped => (AuditCategory::Lifecycle, "service.stopped"),
            Act::Configured => (AuditCategory::Configuration, "carriers.loaded"),
            Act::Held => (AuditCategory::Configuration, "traffic.held"),
            Act::Released => (AuditCategory::Configuration, "traffic.released"),
            Act::Traced => (AuditCategory::Payload, "carrier.traced"),
            Act::Tried => (AuditCategory::Payload, "carrier.tried"),
            Act::TlsWaived => (AuditCategory::Configuration, "carrier.tls_waived"),
            Act::Transferred => (AuditCategory::Configuration, "carrier.transfer"),
            Act::BindUp => (AuditCategory::Lifecycle, "bind.up"),
            Act::BindDown => (AuditCategory::Lifecycle, "bind.down"),
            Act::UnwrapRefused => (AuditCategory::Keys, "key.unwrap"),
            Act::Rebuilt => (AuditCategory::Payload, "ledger.rebuilt"),
        };
        self.0.tell(BusAct {
            category,
            action,
            actor: "carrier".to_owned(),
            tenant: None,
            object: object.to_owned(),
            outcome,
        });
    }

    fn announce<'a>(
        &'a self,
        account: &'a AccountId,
        tenant: &'a TenantId,
        keys: usize,
    ) -> BoxFuture<'a, Result<(), KeysError>> {
        let act = BusAct {
            category: AuditCategory::Keys,
            action: "session_key.asked",
            actor: "carrier".to_owned(),
            tenant: Some(tenant.clone()),
            object: format!("account={account},keys={keys}"),
            outcome: "ok",
        };
        let told = async move {
            let stored = tokio::time::timeout(PATIENCE, self.0.tell_stored(act)).await;
            match stored {
                Ok(told) => told.map_err(|untold| KeysError(Box::new(untold))),
                Err(late) => Err(KeysError(Box::new(late))),
            }
        };
        told.boxed()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn chunks_fit_and_lose_nothing(sizes in vec(0_usize..2 * BYTES_AT_A_TIME, 0..2_000)) {
            // Most items are small.
            let sizes: Vec<_> =
                sizes.into_iter().map(|size| if size % 100 == 0 { size + 1 } else { size / 500 + 1 }).collect();
            let chunks = chunks(sizes.clone(), |size| *size);
            for chunk in &chunks {
                prop_assert!((1..=AT_A_TIME).contains(&chunk.len()));
                prop_assert!(chunk.len() == 1 || chunk.iter().sum::<usize>() <= BYTES_AT_A_TIME);
            }
            prop_assert_eq!(chunks.concat(), sizes);
        }
    }
}
