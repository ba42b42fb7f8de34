//! One message from its arrival to its acknowledgement.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use sotto_proto::Batch;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::Instrument as _;

use super::{
    Delivery, Handler, Outcome, WorkerConfig,
    failures::{Failures, PATIENCE},
    message::{Acker, Incoming},
};
use crate::{
    Bus, Subject, Topic,
    measures::Became,
    publish::{lock, names},
    quarantine::Cause,
    topology::Retention,
    trace,
};

/// The shortest delay: a message that is wanted again at once.
const AT_ONCE: Duration = Duration::from_millis(1);

/// What all tasks of a worker share.
pub(super) struct Work<B: Batch, H> {
    pub(super) bus: Bus,
    handler: Arc<H>,
    pub(super) config: WorkerConfig,
    pub(super) retention: Retention,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    /// Messages in hand, by consumer and stream sequence.
    in_hand: Mutex<HashMap<(usize, u64), Acker>>,
    pub(super) failures: Mutex<Failures>,
    kind: std::marker::PhantomData<fn() -> B>,
}

/// A message that is ours: kept by in-progress acknowledgements until this value is dropped.
pub(super) struct Claim {
    pub(super) key: (usize, u64),
    pub(super) message: Incoming,
    pub(super) ack_wait: Duration,
    _keeper: DropGuard,
}

/// A readable batch.
pub(super) struct Readable<B: Batch> {
    pub(super) subject: Subject,
    pub(super) items: Vec<B::Item>,
    /// The place of each item in the message: some may not have been readable.
    pub(super) places: Vec<usize>,
}

impl<B: Batch, H: Handler<B>> Work<B, H> {
    pub(super) fn new(
        bus: &Bus,
        handler: Arc<H>,
        config: WorkerConfig,
        retention: Retention,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            bus: bus.clone(),
            handler,
            slots: Arc::new(Semaphore::new(config.concurrency.clamp(1, Semaphore::MAX_PERMITS))),
            config,
            retention,
            tasks,
            in_hand: Mutex::default(),
            failures: Mutex::default(),
            kind: std::marker::PhantomData,
        }
    }

    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }

    pub(super) fn slots(&self) -> &Arc<Semaphore> {
        &self.slots
    }

    pub(super) async fn ready(&self) -> usize {
        self.handler.ready().await
    }

    /// Takes a message into hand. None if it is in hand already: then it was delivered again while its handler still
    /// works, and the handler's end will acknowledge the newer delivery; see [`Self::let_go`].
    pub(super) fn claim(&self, consumer: usize, message: Incoming, ack_wait: Duration) -> Option<Claim> {
        let key = (consumer, message.meta.stream_sequence);
        {
            let mut in_hand = lock(&self.in_hand);
            if let Some(acker) = in_hand.get(&key) {
                tracing::warn!(sequence = key.1, "delivered again while being handled");
                acker.renew(&message.acker);
                lock(&self.failures).innocent(key);
                return None;
            }
            in_hand.insert(key, message.acker.clone());
        }
        let keeper = CancellationToken::new();
        let keep = keep(message.acker.clone(), ack_wait, keeper.clone());
        self.bus.work().tasks.spawn(self.tasks.track_future(keep));
        Some(Claim { key, message, ack_wait, _keeper: keeper.drop_guard() })
    }

    /// Gives a message back that was not started.
    pub(super) async fn give_back(&self, claim: Claim, after: Duration) {
        lock(&self.failures).innocent(claim.key);
        claim.message.acker.nak(after, claim.ack_wait).await;
        self.let_go(claim.key, &claim.message.acker, claim.ack_wait).await;
    }

    /// Ends what [`Self::claim`] began. A message that was given back may return before it is let go: that delivery was
    /// taken for one of a running handler, and without an answer the broker would keep it for a whole `ack_wait`.
    async fn let_go(&self, key: (usize, u64), acker: &Acker, patience: Duration) {
        lock(&self.in_hand).remove(&key);
        if acker.is_renewed_since_answer() {
            acker.nak(AT_ONCE, patience).await;
        }
    }

    /// Handles a message in a task of its own.
    pub(super) fn start(self: &Arc<Self>, claim: Claim, slot: OwnedSemaphorePermit) {
        let work = Arc::clone(self);
        let message = &claim.message;
        let span = tracing::info_span!(
            "bus.handle",
            subject = %message.subject,
            sequence = message.meta.stream_sequence,
            delivery = message.meta.delivered,
        );
        trace::adopt(&span, message.headers.as_ref());
        let task = async move {
            let (key, ack_wait, acker) = (claim.key, claim.ack_wait, claim.message.acker.clone());
            work.process(claim).await;
            work.let_go(key, &acker, ack_wait).await;
            drop(slot);
        };
        self.bus.work().tasks.spawn(self.tasks.track_future(task.instrument(span)));
    }

    async fn process(self: &Arc<Self>, claim: Claim) {
        if self.defer(&claim).await {
            return;
        }
        let Some(batch) = self.read(&claim).await else { return };
        let meta = claim.message.meta;
        let (measures, topic) = (self.bus.measures(), batch.subject.topic());
        measures.deliveries.of(topic).one();
        if meta.delivered > 1 {
            measures.redeliveries.of(topic).one();
        }
        let failed = lock(&self.failures).of(claim.key, meta.delivered, self.retention);
        let one = batch.items.len() == 1;
        let isolated = claim.message.header(names::ISOLATED).is_some();
        let give_up = if isolated { PATIENCE } else { 2 * PATIENCE };
        match self.retention {
            Retention::WorkQueue if one && failed >= give_up => {
                let why = vec![Outcome::Quarantine { why: format!("its handler failed {failed} times") }];
                self.settle(&claim, batch, why).await;
            }
            Retention::WorkQueue if !one && failed >= PATIENCE => self.take_apart(&claim, batch).await,
            Retention::Limits | Retention::Aged | Retention::Latest if failed >= PATIENCE => {
                self.one_by_one(&claim, batch).await
            }
            Retention::WorkQueue | Retention::Limits | Retention::Aged | Retention::Latest => {
                self.all_at_once(&claim, batch).await
            }
        }
    }

    async fn all_at_once(self: &Arc<Self>, claim: &Claim, batch: Readable<B>) {
        match self.call(claim, &batch.subject, batch.items.clone()).await {
            Some(outcomes) => self.settle(claim, batch, outcomes).await,
            None => self.failed(claim).await,
        }
    }

    /// In a log nothing can be published again, so a batch that made its handler panic is handled item by item in
    /// place; an item that still panics after three tries goes to quarantine.
    async fn one_by_one(self: &Arc<Self>, claim: &Claim, batch: Readable<B>) {
        let mut outcomes = Vec::new();
        for item in &batch.items {
            let mut outcome =
                Outcome::Quarantine { why: format!("its handler failed {PATIENCE} more times") };
            for _ in 0..PATIENCE {
                if let Some(mut known) = self.call(claim, &batch.subject, vec![item.clone()]).await {
                    outcome = known.pop().unwrap_or(Outcome::Retry { after: self.config.failure_pause });
                    break;
                }
            }
            outcomes.push(outcome);
        }
        self.settle(claim, batch, outcomes).await;
    }

    /// Runs the handler in a task of its own, so that its panic is seen and nothing else falls. None after a panic.
    async fn call(
        self: &Arc<Self>,
        claim: &Claim,
        subject: &Subject,
        items: Vec<B::Item>,
    ) -> Option<Vec<Outcome>> {
        let expected = items.len();
        let meta = claim.message.meta;
        let (measures, topic, began) = (self.bus.measures(), subject.topic(), time::Instant::now());
        let delivery = Delivery {
            subject: subject.clone(),
            items,
            stream_sequence: meta.stream_sequence,
            delivery_count: meta.delivered,
            pending: meta.pending,
        };
        let handler = Arc::clone(&self.handler);
        let run = async move { handler.handle(delivery).await }.in_current_span();
        let mut outcomes = match self.bus.work().tasks.spawn(self.tasks.track_future(run)).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                // Only the fact: a panic's message may hold what was being handled.
                tracing::error!(panic = error.is_panic(), "the handler failed");
                measures.items.of(topic).of(Became::Failed).add(expected);
                return None;
            }
        };
        measures.handled_in.of(topic).took(began.elapsed());
        if outcomes.len() != expected {
            tracing::error!(
                expected,
                found = outcomes.len(),
                "the handler returned another number of outcomes"
            );
            outcomes.resize(expected, Outcome::Retry { after: self.config.failure_pause });
        }
        Some(outcomes)
    }

    async fn failed(&self, claim: &Claim) {
        lock(&self.failures).panicked(claim.key);
        claim.message.acker.nak(self.config.failure_pause, claim.ack_wait).await;
    }

    /// Decodes; what cannot be read goes to quarantine. None if nothing is left to do.
    async fn read(&self, claim: &Claim) -> Option<Readable<B>> {
        let message = &claim.message;
        let cell = self.bus.cell();
        let Some(subject) = Subject::parse(&cell.id, cell.shards, &message.subject) else {
            self.quarantine_whole(claim, Topic::Quarantine, "not a subject of this cell").await;
            return None;
        };
        let Ok(batch) = B::decode(message.payload.clone()) else {
            self.quarantine_whole(claim, subject.topic(), "not a valid protobuf message").await;
            return None;
        };
        let parsed = batch.into_items();
        if parsed.is_empty() {
            self.quarantine_whole(claim, subject.topic(), "a batch without items").await;
            return None;
        }
        let count = parsed.len();
        let (mut items, mut places) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (index, item) in parsed.into_iter().enumerate() {
            match item {
                Ok(item) => {
                    items.push(item);
                    places.push(index);
                }
                Err(error) => {
                    let why = format!("item {} of {count}: {error}", index + 1);
                    let cause = Cause::unreadable::<B>(why, index, &message.payload);
                    if !self.quarantine(claim, subject.topic(), cause).await {
                        return None;
                    }
                }
            }
        }
        if items.is_empty() {
            self.acknowledge(claim).await;
            return None;
        }
        Some(Readable { subject, items, places })
    }

    async fn quarantine_whole(&self, claim: &Claim, topic: Topic, why: &str) {
        if self.quarantine(claim, topic, Cause::whole(why.to_owned())).await {
            self.acknowledge(claim).await;
        }
    }

    pub(super) async fn acknowledge(&self, claim: &Claim) {
        if claim.message.acker.ack(claim.ack_wait).await {
            lock(&self.failures).forget(claim.key);
        } else {
            // It will be delivered again; the handler knows its items.
            tracing::warn!("an acknowledgement was not confirmed");
            lock(&self.failures).innocent(claim.key);
        }
    }
}

/// Tells the broker three times within `ack_wait` that the message is still being worked on.
async fn keep(acker: Acker, ack_wait: Duration, ended: CancellationToken) {
    let mut ticks = time::interval(ack_wait / 3);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    // The first tick is at once; the broker has only just started to wait.
    ticks.tick().await;
    while ended.run_until_cancelled(ticks.tick()).await.is_some() {
        acker.progress().await;
    }
}
