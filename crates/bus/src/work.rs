//! Workers: pull what there is room for, hand it over, and alone decide what is acknowledged.
//!
//! A worker pulls from one or more consumers in strict order: as long as an earlier consumer has messages and there
//! is room, later ones wait. Pulls ask for exactly as many batches as can start at once; only while every queue is
//! empty does one pull for each consumer wait at the broker, so at most one batch a consumer may be held for a moment
//! until there is room. Held and running batches are kept by in-progress acknowledgements sent by tasks of their own,
//! so a busy queue never starves them.

mod failures;
mod message;
mod process;
mod pull;
mod run;
mod settle;

use std::{fmt, future::Future, marker::PhantomData, sync::Arc, time::Duration};

use sotto_core::{Classified, ErrorClass};
use sotto_proto::Batch;
use tokio::time;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Bus, Subject,
    topology::{self, Retention, SetupError},
};

/// What became of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handled; never again.
    Done,
    /// Not now.
    Retry {
        /// Not before this time from now. It may come later, and beside other items.
        after: Duration,
    },
    /// It cannot be handled: keep it aside.
    Quarantine {
        /// Why, for operators. Nothing of its content.
        why: String,
    },
}

/// A batch for a handler.
#[derive(Clone, Debug)]
pub struct Delivery<B: Batch> {
    /// Where it came from.
    pub subject: Subject,
    /// Its items that could be read, in order.
    pub items: Vec<B::Item>,
    /// Its sequence in the stream.
    pub stream_sequence: u64,
    /// How often it was delivered, from 1.
    pub delivery_count: u64,
    /// Messages that waited behind it for this consumer when it was sent.
    pub pending: u64,
}

/// Handles batches. Must be idempotent by item: the same item may come again, also while it is being handled by
/// another process.
pub trait Handler<B: Batch>: Send + Sync + 'static {
    /// Handles a batch and says what became of each item, in their order. Runs inside a span that continues the
    /// publisher's trace. A panic counts as a failed delivery of the whole batch.
    fn handle(&self, delivery: Delivery<B>) -> impl Future<Output = Vec<Outcome>> + Send;

    /// Resolves when at least one batch can be taken, and says how many: free window slots, rate.
    fn ready(&self) -> impl Future<Output = usize> + Send {
        std::future::ready(usize::MAX)
    }
}

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Batches that are handled at one time.
    pub concurrency: usize,
    /// The longest that a handler waits for the outside, for example a carrier's answer. With `skew` it must stay
    /// below the consumer's `ack_wait`.
    pub handler_timeout: Duration,
    /// Allowance for clocks and pauses.
    pub skew: Duration,
    /// Pause before a batch comes again whose handler failed.
    pub failure_pause: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: 8,
            handler_timeout: Duration::from_secs(10),
            skew: Duration::from_secs(2),
            failure_pause: Duration::from_secs(1),
        }
    }
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The list of streams has no such consumer of this service.
    #[error("the list of streams has no consumer {consumer} on {stream} for this service")]
    NoConsumer {
        /// The stream, as the list writes it.
        stream: String,
        /// The consumer.
        consumer: String,
    },
    /// Its settings on the broker are not those of the list, or too short.
    #[error("the consumer is not set up")]
    Setup(#[from] SetupError),
    /// The broker is not connected.
    #[error("cannot subscribe at the broker")]
    Subscribe(#[source] async_nats::SubscribeError),
}

impl Classified for WorkError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NoConsumer { .. } => ErrorClass::Bug,
            Self::Setup(error) => error.class(),
            Self::Subscribe(_) => ErrorClass::Retry { after: Duration::from_secs(1) },
        }
    }
}

/// A running worker.
pub struct Worker<B: Batch> {
    stop: CancellationToken,
    tasks: TaskTracker,
    kind: PhantomData<fn() -> B>,
}

impl<B: Batch> fmt::Debug for Worker<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl<B: Batch> Worker<B> {
    /// Starts pulling from `consumers` of `stream` (both as the list writes them), most urgent first. Their settings
    /// are read back first.
    pub async fn start<H: Handler<B>>(
        bus: &Bus,
        stream: &str,
        consumers: &[String],
        handler: Arc<H>,
        config: WorkerConfig,
    ) -> Result<Self, WorkError> {
        let retention = bus
            .topology()
            .streams
            .iter()
            .find(|candidate| candidate.name == stream)
            .map_or(Retention::Limits, |found| found.retention);
        let mut pulls = Vec::new();
        for consumer in consumers {
            let spec = bus
                .topology()
                .consumer(bus.cell(), stream, consumer)
                .filter(|spec| spec.service == bus.service())
                .ok_or_else(|| WorkError::NoConsumer {
                    stream: stream.to_owned(),
                    consumer: consumer.clone(),
                })?;
            topology::check_ack_wait(&spec, config.handler_timeout, config.skew)?;
            topology::verify_consumer(bus, &spec).await?;
            pulls.push(pull::Pull::open(bus, &spec).await.map_err(WorkError::Subscribe)?);
        }
        let stop = bus.work().stop.child_token();
        let tasks = TaskTracker::new();
        let work = process::Work::new(bus, handler, config, retention, tasks.clone());
        bus.work().tasks.spawn(tasks.track_future(run::run(Arc::new(work), pulls, stop.clone())));
        Ok(Self { stop, tasks, kind: PhantomData })
    }

    /// Pulls nothing more, gives back what has not started and waits for what runs. Returns whether that happened
    /// before the deadline; what still runs then goes on, and if it is cut off it is delivered again.
    pub async fn stop(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        time::timeout(deadline, self.tasks.wait()).await.is_ok()
    }

    /// Whether pulling has ended, by [`Self::stop`] or because the process closes its bus.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }
}
