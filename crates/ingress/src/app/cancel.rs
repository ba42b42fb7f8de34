//! Cancels messages that no carrier was handed yet (MSG-6).
//!
//! Three steps: the mark in Redis, so that no connector passes to intent any more; `cancelled` in the log; the mark once
//! more. Only if it stands then is the client told. Between the first two steps Redis may have been lost, and rebuilt
//! from a log that did not have the cancellation, and a connector may have gone ahead; after the third, every rebuild
//! finds it in the log.

use std::sync::Arc;

use sotto_core::{
    Classified, Clock, ErrorClass, MessageId, Shards, Timestamp, cancel,
    delivery::{Event, EventKind, Outcome},
};

use crate::{
    adapters::store::acceptance,
    app::intake::{Intake, Seen},
    domain::{journal::Journal, token::Caller},
    ports::{Log, LogError, Marks, StoreError},
};

/// Why a message is not known to be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// The tenant has no such message.
    #[error("no message of this tenant has this id")]
    Unknown,
    /// It may have been accepted; it is not there yet.
    #[error("the message is not visible yet: try again")]
    NotYet,
    /// A carrier has it, or may have.
    #[error("the message was handed to a carrier before it could be cancelled")]
    Submitted,
    /// It may have been sent before the cell was put back from a backup.
    #[error("the message may have been sent before the cell was put back from a backup")]
    Doubted,
    /// It has ended otherwise.
    #[error("the message has ended: it is {}", .0.name())]
    Ended(Outcome),
    /// Redis cannot be asked.
    #[error("whether the message is cancelled is not known: try again")]
    Store(#[source] StoreError),
    /// The log does not take it.
    #[error("whether the message is cancelled is not known: try again")]
    Log(#[source] LogError),
}

impl Classified for CancelError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Unknown | Self::Submitted | Self::Doubted | Self::Ended(_) => ErrorClass::Reject,
            Self::NotYet => StoreError::Rebuilding.class(),
            Self::Store(error) => error.class(),
            Self::Log(error) => error.class(),
        }
    }
}

/// Cancels. Clones share everything.
#[derive(Clone, Debug)]
pub struct Canceller {
    intake: Intake,
    log: Arc<dyn Log>,
    marks: Arc<dyn Marks>,
    clock: Arc<dyn Clock>,
    shards: Shards,
}

impl Canceller {
    /// A canceller on these parts.
    pub fn new(
        intake: Intake,
        log: Arc<dyn Log>,
        marks: Arc<dyn Marks>,
        clock: Arc<dyn Clock>,
        shards: Shards,
    ) -> Self {
        Self { intake, log, marks, clock, shards }
    }

    /// Cancels a message of the caller's tenant; returns when that was.
    ///
    /// # Errors
    /// [`CancelError`].
    pub async fn cancel(&self, caller: &Caller, id: &MessageId) -> Result<Timestamp, CancelError> {
        let journal = match self.intake.find(caller, id).await.map_err(CancelError::Store)? {
            Seen::Known(journal) => journal,
            Seen::NotYet => return Err(CancelError::NotYet),
            Seen::Unknown => return Err(CancelError::Unknown),
        };
        let now = self.clock.now();
        let Cancelling { keep_until, events } = match judge(&journal, now)? {
            Judged::Already(at) => return Ok(at),
            Judged::May(cancelling) => cancelling,
        };
        if journal.delivery().is_some_and(|delivery| self.intake.is_doubted(delivery.facts())) {
            return Err(CancelError::Doubted);
        }
        let keep = cancel::keep(keep_until, now);
        let mark = async || match self.marks.cancel(id, keep).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(CancelError::Submitted),
            Err(error) => Err(CancelError::Store(error)),
        };
        mark().await?;
        self.log.append(self.shards.of(id), events).await.map_err(CancelError::Log)?;
        mark().await?;
        Ok(now)
    }
}

/// What may be done about a message.
#[derive(Debug)]
enum Judged {
    /// It was cancelled at this time.
    Already(Timestamp),
    May(Cancelling),
}

#[derive(Debug)]
struct Cancelling {
    /// The end of its validity.
    keep_until: Timestamp,
    /// What the log is told.
    events: Vec<Event>,
}

/// Judges by the journal, which may be behind: what it does not know yet the mark does.
fn judge(journal: &Journal, now: Timestamp) -> Result<Judged, CancelError> {
    let delivery = journal.delivery().ok_or(CancelError::NotYet)?;
    match delivery.outcome() {
        Some(Outcome::Cancelled) => return Ok(Judged::Already(journal.ended_at().unwrap_or(now))),
        Some(outcome) => return Err(CancelError::Ended(outcome)),
        None => {}
    }
    if delivery.parts().iter().any(|part| *part != sotto_core::delivery::PartState::Pending) {
        return Err(CancelError::Submitted);
    }
    let facts = delivery.facts();
    // Nothing hands it to a carrier any more, and it is about to end so.
    if now >= facts.expires_at {
        return Err(CancelError::Ended(Outcome::Expired));
    }
    let mut events = Vec::new();
    // A message's first event is its acceptance, also where the log does not have it yet.
    if journal.is_intakes_word() {
        events.push(acceptance(facts));
    }
    events.push(Event { message: journal.id(), at: now, kind: EventKind::Cancelled });
    Ok(Judged::May(Cancelling { keep_until: facts.expires_at, events }))
}
