//! The yardstick of `sotto bench`: what a broker alone can do, with nothing of ours in between.
//!
//! It talks to a broker of its own, without TLS and users, on one stream a hop; the caller starts it with the settings
//! that are to be measured.

use std::time::Duration;

use async_nats::jetstream::{
    self, AckKind,
    consumer::{AckPolicy, PullConsumer, pull},
    stream::{DiscardPolicy, RetentionPolicy, StorageType},
};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sotto_core::{Classified, ErrorClass};
use tokio::time::Instant;

/// Bytes of one item: what a sealed message of about 115 characters takes with its facts.
const ITEM: usize = 400;

/// Items in one broker message.
pub const BATCH: usize = 100;

/// Hops of a batch: intake, waiting, and the room for two more.
pub const HOPS: usize = 4;

/// Publishes that are under way at once: enough to keep the broker busy.
const PIPELINE: usize = 256;

/// Batches that are under way at once at each hop.
const IN_FLIGHT: usize = 16;

/// How long anything of it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the broker was not measured.
#[derive(Debug, thiserror::Error)]
#[error("the broker alone could not be measured: {what}")]
pub struct CeilingError {
    what: &'static str,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Classified for CeilingError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Reject
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
) -> impl FnOnce(E) -> CeilingError {
    move |source| CeilingError { what, source: Some(Box::new(source)) }
}

/// What a broker alone can do.
#[derive(Debug)]
pub struct Ceiling {
    context: jetstream::Context,
}

impl Ceiling {
    /// Connects to a broker without TLS and users.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn connect(url: &str) -> Result<Self, CeilingError> {
        let options = async_nats::ConnectOptions::new().connection_timeout(PATIENCE);
        let client = options.connect(url).await.map_err(failed("it does not answer"))?;
        let context = jetstream::ContextBuilder::new()
            .timeout(PATIENCE)
            // Well above what is under way here: a full window would halve the rate.
            .max_ack_inflight(PIPELINE * 16)
            .build(client);
        Ok(Self { context })
    }

    async fn stream(&self, name: &str) -> Result<(), CeilingError> {
        let config = jetstream::stream::Config {
            name: name.to_owned(),
            subjects: vec![name.to_owned()],
            storage: StorageType::File,
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            ..Default::default()
        };
        self.context.create_stream(config).await.map(drop).map_err(failed("a stream"))
    }

    /// Items a second that are stored one by one, each acknowledged, many under way at once.
    ///
    /// # Errors
    /// The broker failed.
    pub async fn single(&self, time: Duration) -> Result<f64, CeilingError> {
        self.stream("single").await?;
        let item = Bytes::from(vec![0x5A; ITEM]);
        let start = Instant::now();
        let stored = stream::repeat(item)
            .take_while(|_| std::future::ready(start.elapsed() < time))
            .map(|item| store(&self.context, "single", item))
            .buffer_unordered(PIPELINE)
            .try_fold(0_u32, |stored, ()| std::future::ready(Ok(stored.saturating_add(1))))
            .await?;
        Ok(f64::from(stored) / start.elapsed().as_secs_f64())
    }

    /// Items a second that go through [`HOPS`] hops, [`BATCH`] in each broker message: at each hop pulled, published for
    /// the next with its acknowledgement, and acknowledged.
    ///
    /// # Errors
    /// The broker failed.
    pub async fn batch(&self, time: Duration) -> Result<f64, CeilingError> {
        let names: Vec<String> = (0..HOPS).map(|hop| format!("hop{hop}")).collect();
        for name in &names {
            self.stream(name).await?;
        }
        let until = Instant::now() + time;
        let first = names.first().map_or("hop0", String::as_str);
        let feeding = async {
            let batch = Bytes::from(vec![0x5A; ITEM * BATCH]);
            stream::repeat(batch)
                .take_while(|_| std::future::ready(Instant::now() < until))
                .map(|batch| store(&self.context, first, batch))
                .buffer_unordered(IN_FLIGHT)
                .try_for_each(|()| std::future::ready(Ok(())))
                .await
        };
        let start = Instant::now();
        let hops = names.iter().enumerate().map(|(hop, name)| self.hop(name, names.get(hop + 1), until));
        let moving = futures::future::try_join_all(hops);
        let ((), moved) = futures::future::try_join(feeding, moving).await?;
        let through = moved.last().copied().unwrap_or_default();
        let items = f64::from(through) * f64::from(u32::try_from(BATCH).unwrap_or(u32::MAX));
        Ok(items / start.elapsed().as_secs_f64())
    }

    /// Moves batches on until the time is over; returns how many.
    async fn hop(&self, from: &str, to: Option<&String>, until: Instant) -> Result<u32, CeilingError> {
        let stream = self.context.get_stream(from).await.map_err(failed("a stream"))?;
        let config = pull::Config {
            durable_name: Some("hop".to_owned()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: 4096,
            ..Default::default()
        };
        let consumer: PullConsumer = stream.create_consumer(config).await.map_err(failed("a consumer"))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(IN_FLIGHT * 2)
            .messages()
            .await
            .map_err(failed("a pull"))?;
        messages
            .take_until(tokio::time::sleep_until(until))
            .map(async |message| {
                let message = message.map_err(failed("a delivery"))?;
                if let Some(to) = to {
                    store(&self.context, to, message.payload.clone()).await?;
                }
                let acked = message.ack_with(AckKind::Ack).await;
                acked.map_err(|source| CeilingError { what: "an acknowledgement", source: Some(source) })
            })
            .buffer_unordered(IN_FLIGHT)
            .try_fold(0_u32, |moved, ()| std::future::ready(Ok(moved.saturating_add(1))))
            .await
    }
}

async fn store(context: &jetstream::Context, subject: &str, payload: Bytes) -> Result<(), CeilingError> {
    let publish = context.publish(subject.to_owned(), payload).await.map_err(failed("a publish"))?;
    publish.await.map(drop).map_err(failed("a publish"))
}
