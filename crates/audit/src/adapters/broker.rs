//! Acts and events off the broker.

use sotto_bus::{Bus, Delivery, Handler, Outcome, ReadError, StreamReader};
use sotto_proto::pipeline::v1::{AuditBatch, EventBatch};
use sotto_tlog::Hash;
use tokio::sync::{mpsc, oneshot};

use super::wire;
use crate::{
    ports::{EventLeaf, Events, EventsUnavailable},
    sequencer::Told,
};

/// Hands acts to the sequencer and answers for them when they are durable in the log.
#[derive(Debug)]
pub struct Intake(mpsc::Sender<Told>);

impl Intake {
    /// Hands them over here.
    #[must_use]
    pub const fn new(acts: mpsc::Sender<Told>) -> Self {
        Self(acts)
    }

    /// Waits until the acts are in the log; `false` when the sequencer is gone.
    async fn logged(&self, told: Told, answer: oneshot::Receiver<()>) -> bool {
        self.0.send(told).await.is_ok() && answer.await.is_ok()
    }
}

impl Handler<AuditBatch> for Intake {
    async fn handle(&self, delivery: Delivery<AuditBatch>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(delivery.items.len());
        let mut acts = Vec::with_capacity(delivery.items.len());
        for record in delivery.items {
            match wire::act(record) {
                Ok(act) => {
                    acts.push(act);
                    outcomes.push(Outcome::Done);
                }
                Err(error) => outcomes.push(Outcome::Quarantine { why: error.to_string() }),
            }
        }
        let (done, answer) = oneshot::channel();
        let told = Told { at: delivery.stream_sequence, acts, done };
        if told.acts.is_empty() || self.logged(told, answer).await {
            return outcomes;
        }
        for outcome in &mut outcomes {
            if *outcome == Outcome::Done {
                *outcome = Outcome::Retry { after: std::time::Duration::from_secs(1) };
            }
        }
        outcomes
    }
}

/// The EVENTS stream by direct reads; the bytes are hashed as they come and kept nowhere.
#[derive(Debug)]
pub struct EventStream(StreamReader<EventBatch>);

impl EventStream {
    /// Reads on this connection.
    ///
    /// # Errors
    /// When the list of streams has no EVENTS.
    pub fn new(bus: &Bus) -> Result<Self, ReadError> {
        StreamReader::new(bus, "EVENTS").map(Self)
    }
}

impl Events for EventStream {
    async fn leaves(&self, from: u64, through: u64, max: usize) -> Result<Vec<EventLeaf>, EventsUnavailable> {
        let mut reading = self.0.read(from, through);
        let mut leaves = Vec::new();
        while leaves.len() < max {
            let message = reading.next_message().await.map_err(|error| EventsUnavailable(Box::new(error)))?;
            let Some(message) = message else { break };
            leaves.push(EventLeaf { sequence: message.sequence, hash: Hash::leaf(&message.payload) });
        }
        Ok(leaves)
    }
}
