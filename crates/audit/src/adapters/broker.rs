//! Acts and events off the broker.

use sotto_bus::{Bus, Delivery, Handler, Outcome, ReadError, StreamReader, Subject};
use sotto_proto::pipeline::v1::{AuditBatch, AuditRecord, EventBatch};
use sotto_tlog::Hash;
use tokio::sync::{mpsc, oneshot};

use super::wire;
use crate::{
    domain::Act,
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
        for told in told(delivery.items, Some(&delivery.subject)) {
            match told {
                Ok(act) => {
                    acts.push(act);
                    outcomes.push(Outcome::Done);
                }
                Err(why) => outcomes.push(Outcome::Quarantine { why }),
            }
        }
        let (done, answer) = oneshot::channel();
        let told = Told { at: delivery.stream_sequence, acts, balance: None, done };
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

/// Each record's act, or why it is none.
fn told(records: Vec<AuditRecord>, subject: Option<&Subject>) -> Vec<Result<Act, String>> {
    let Some(Subject::Audit(service, category)) = subject else {
        return records.iter().map(|_| Err("not a subject of acts".to_owned())).collect();
    };
    let told =
        |record| wire::told(record, service.name(), category.name()).map_err(|error| error.to_string());
    records.into_iter().map(told).collect()
}

/// Logs what an earlier run was given and did not answer for. The broker delivers it again only after a while and
/// everything newer before it, which the log would take for gaps. It comes again all the same: then it is known.
///
/// # Errors
/// When the stream cannot be read.
pub async fn log_unanswered(bus: &Bus, consumer: &str, intake: &Intake) -> Result<(), ReadError> {
    let reader = StreamReader::<AuditBatch>::new(bus, "AUDIT")?;
    let state = reader.consumer(consumer).await?;
    let mut reading = reader.read_stored(state.acknowledged + 1, state.delivered);
    let mut answers = Vec::new();
    loop {
        let stored = match reading.next().await {
            Ok(Some(stored)) => stored,
            Ok(None) => break,
            // For quarantine, when it is delivered.
            Err(ReadError::Malformed { .. }) => continue,
            Err(error) => return Err(error),
        };
        let acts: Vec<_> =
            told(stored.batch.records, stored.subject.as_ref()).into_iter().filter_map(Result::ok).collect();
        let (done, answer) = oneshot::channel();
        if acts.is_empty() {
            continue;
        }
        if intake.0.send(Told { at: stored.sequence, acts, balance: None, done }).await.is_err() {
            return Ok(());
        }
        answers.push(answer);
    }
    for answer in answers {
        // Without one the sequencer has ended, and the process is about to.
        let _logged = answer.await;
    }
    Ok(())
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
