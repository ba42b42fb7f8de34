//! Group commit: one publish in flight a subject, and what arrives meanwhile is the next batch.
//!
//! At low load a batch is one item and waits for nothing; at high load the broker's cost and its fsync are shared by
//! hundreds. A publish resolves only when the broker's acknowledgement says that the batch is stored (INV-1).

mod error;
mod queue;
mod store;

use std::{
    collections::{HashMap, hash_map::Entry as MapEntry},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sotto_proto::Batch;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Bus, Subject, Topic, topology::MAX_PAYLOAD, trace};

pub use error::PublishError;
use queue::Entry;
pub(crate) use store::{Outgoing, headers as names};

/// Bounds of a publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublisherConfig {
    /// Items in one batch.
    pub max_items: usize,
    /// Estimated bytes in one batch.
    pub max_bytes: usize,
    /// The least time between the beginnings of two batches on a subject: under load fewer and larger batches cost the
    /// broker, and everybody who reads them, less. After so long a rest a caller waits for nothing.
    pub linger: Duration,
    /// Publishes that may wait for one subject; more wait outside.
    pub queue: usize,
    /// Estimated bytes that may wait over all subjects; more wait outside.
    pub queued_bytes: usize,
    /// Subjects in use at one time; more are refused.
    pub max_subjects: usize,
    /// How long one attempt waits for the broker's acknowledgement.
    pub attempt: Duration,
    /// How long a publish may take, from the call: waiting for room, for its turn and for the broker. What is not sent by
    /// then is not sent at all. What is sent then gets one attempt; attempts are repeated with the same bytes and the
    /// same id. At most half the broker's duplicate window of 120 s, so that a repeat is still known as one.
    pub deadline: Duration,
}

impl PublisherConfig {
    /// For what is told of and nothing that is urgent waits for: batches lie further apart, so that the broker, and whoever folds and tells
    /// them, is asked less often.
    pub fn relaxed() -> Self {
        Self { linger: Duration::from_millis(15), ..Self::default() }
    }
}

impl Default for PublisherConfig {
    fn default() -> Self {
        Self {
            max_items: 1_000,
            max_bytes: MAX_PAYLOAD / 2,
            linger: Duration::from_millis(3),
            queue: 4_000,
            queued_bytes: 64 * 1_048_576,
            max_subjects: 1_024,
            attempt: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
        }
    }
}

/// Where the broker stored a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The batch's sequence in its stream.
    pub stream_sequence: u64,
}

/// Publishes items of one kind. Cheap to clone; clones share queues.
pub struct Publisher<B: Batch>(Arc<Shared<B>>);

pub(crate) struct Shared<B: Batch> {
    bus: Bus,
    config: PublisherConfig,
    bytes: Arc<Semaphore>,
    lanes: Mutex<HashMap<String, mpsc::Sender<Entry<B>>>>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl<B: Batch> Clone for Publisher<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Batch> fmt::Debug for Publisher<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl<B: Batch> Publisher<B> {
    /// A publisher on this bus. Settings out of their bounds are brought back into them.
    pub fn new(bus: &Bus, config: PublisherConfig) -> Self {
        let config = PublisherConfig {
            max_items: config.max_items.max(1),
            max_bytes: config.max_bytes.clamp(1_024, MAX_PAYLOAD / 2),
            linger: config.linger.min(Duration::from_secs(1)),
            queue: config.queue.max(1),
            queued_bytes: config.queued_bytes.clamp(MAX_PAYLOAD, Semaphore::MAX_PERMITS),
            deadline: config.deadline.min(Duration::from_secs(60)),
            ..config
        };
        Self(Arc::new(Shared {
            bus: bus.clone(),
            bytes: Arc::new(Semaphore::new(config.queued_bytes)),
            lanes: Mutex::new(HashMap::new()),
            closing: bus.publishing().stop.child_token(),
            tasks: TaskTracker::new(),
            config,
        }))
    }

    /// Publishes one item and waits until it is stored. Dropping the future does not take the item back.
    pub async fn publish(&self, subject: &Subject, item: B::Item) -> Result<Stored, PublishError> {
        self.publish_all(subject, vec![item]).await
    }

    /// Publishes items that belong together in one batch and waits until it is stored: all or none. No items are
    /// refused; more than a batch holds are [`PublishError::TooLarge`].
    pub async fn publish_all(&self, subject: &Subject, items: Vec<B::Item>) -> Result<Stored, PublishError> {
        let topic = subject.topic();
        let subject = subject.in_cell(&self.0.bus.cell().id);
        let size: usize = items.iter().map(B::item_size).sum();
        let limit = self.0.config.max_bytes;
        if items.is_empty() || items.len() > self.0.config.max_items || size > limit {
            return Err(PublishError::TooLarge { items: items.len(), size, limit });
        }
        let until = Instant::now() + self.0.config.deadline;
        let permits = u32::try_from(size).unwrap_or(u32::MAX);
        let late = |_elapsed| PublishError::Unavailable { subject: subject.clone() };
        let permit = time::timeout_at(until, Arc::clone(&self.0.bytes).acquire_many_owned(permits))
            .await
            .map_err(late)?
            .map_err(|_closed| PublishError::Closed)?;
        let (done, stored) = oneshot::channel();
        let entry = Entry { items, size, trace: trace::current(), until, _permit: permit, done };
        let lane = self.lane(topic, subject.clone())?;
        time::timeout_at(until, lane.send(entry))
            .await
            .map_err(late)?
            .map_err(|_closed| PublishError::Closed)?;
        drop(lane);
        stored.await.unwrap_or(Err(PublishError::Closed))
    }

    /// Takes nothing more and waits until all that was taken is stored or has failed. Returns whether that happened
    /// before the deadline.
    pub async fn close(&self, deadline: Duration) -> bool {
        self.0.closing.cancel();
        lock(&self.0.lanes).clear();
        self.0.tasks.close();
        time::timeout(deadline, self.0.tasks.wait()).await.is_ok()
    }

    /// The queue of a subject, made at its first use.
    fn lane(&self, topic: Topic, subject: String) -> Result<mpsc::Sender<Entry<B>>, PublishError> {
        if self.0.closing.is_cancelled() {
            return Err(PublishError::Closed);
        }
        let mut lanes = lock(&self.0.lanes);
        let full = lanes.len() >= self.0.config.max_subjects;
        match lanes.entry(subject) {
            MapEntry::Occupied(lane) => Ok(lane.get().clone()),
            MapEntry::Vacant(_) if full => {
                Err(PublishError::TooManySubjects { limit: self.0.config.max_subjects })
            }
            MapEntry::Vacant(place) => {
                let (lane, entries) = mpsc::channel(self.0.config.queue);
                let run = queue::run(Arc::clone(&self.0), topic, place.key().clone(), entries);
                self.0.bus.publishing().tasks.spawn(self.0.tasks.track_future(run));
                Ok(place.insert(lane).clone())
            }
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
