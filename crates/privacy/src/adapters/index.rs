//! The index on the broker: read by sequence, nothing is ever written to it here.

use futures::future::BoxFuture;
use prost::Message as _;
use sotto_bus::{Bus, StreamReader};
use sotto_proto::{Batch as _, pipeline::v1::IndexBatch};
use tokio::sync::watch;

use crate::ports::{IndexError, IndexLog, IndexPart};

/// The stream, as the list writes it.
const STREAM: &str = "INDEX";

/// Batches of one reading: as many as the broker gives at a time.
const AT_A_TIME: usize = 256;

/// The index of the broker that acts are told to, as soon as it is reached.
#[derive(Debug)]
pub struct StoredIndex(watch::Receiver<Option<Bus>>);

impl StoredIndex {
    /// The index on this connection, when there is one.
    pub fn new(bus: watch::Receiver<Option<Bus>>) -> Self {
        Self(bus)
    }
}

impl IndexLog for StoredIndex {
    fn read(&self, from: u64) -> BoxFuture<'_, Result<IndexPart, IndexError>> {
        Box::pin(async move {
            let bus = self.0.borrow().clone().ok_or(IndexError::Away)?;
            let reader = StreamReader::<IndexBatch>::new(&bus, STREAM).map_err(IndexError::Read)?;
            let mut reading = reader.read(from.max(1), u64::MAX);
            let mut part = IndexPart { batches: Vec::new(), next: None };
            for _ in 0..AT_A_TIME {
                let Some(stored) = reading.next_message().await.map_err(IndexError::Read)? else {
                    return Ok(IndexPart { next: None, ..part });
                };
                part.next = Some(stored.sequence + 1);
                // What no ingress wrote holds nobody up.
                let Ok(batch) = IndexBatch::decode(stored.payload) else {
                    tracing::warn!(sequence = stored.sequence, "a batch of the index cannot be read");
                    continue;
                };
                part.batches.push((stored.sequence, batch.into_items().into_iter().flatten().collect()));
            }
            Ok(part)
        })
    }
}
