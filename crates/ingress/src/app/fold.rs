//! Folding events of the log into a journal that was read: the same for the projection and for a rebuild.

use sotto_core::{
    MessageId,
    delivery::{Event, EventKind, Illegal},
};

use crate::{adapters::store::Version, domain::idempotency::Entry, domain::journal::Journal};

/// A journal while events are folded into it.
pub(super) struct Open {
    /// What it was read as; `None` when there was none.
    pub(super) before: Option<Version>,
    pub(super) journal: Journal,
    /// The last sequence that changed it.
    pub(super) changed: Option<Version>,
    accepted: bool,
}

impl Open {
    pub(super) fn new(id: MessageId, known: Option<(Version, Journal)>) -> Self {
        let (before, journal) = match known {
            Some((version, journal)) => (Some(version), journal),
            None => (None, Journal::empty(id)),
        };
        Self { before, journal, changed: None, accepted: false }
    }

    pub(super) fn take(&mut self, event: &Event, sequence: u64) -> Result<(), Illegal> {
        self.accepted |= matches!(event.kind, EventKind::Accepted(_));
        // A rebuild may have read further than this consumer has come.
        if self.before.is_some_and(|version| version > sequence) {
            // Whether it is one of this message does not depend on what came later: who folded it may have died before it
            // could say so.
            return self.journal.clone().take(event.clone(), sequence).map(drop);
        }
        if self.journal.take(event.clone(), sequence)? {
            self.changed = Some(sequence);
        }
        Ok(())
    }

    /// The use of an idempotency key, if the message's acceptance was among the events: it is stored for certain.
    pub(super) fn entry(&self) -> Option<(MessageId, Entry)> {
        let facts = self.journal.delivery().filter(|_| self.accepted)?.facts();
        Some((facts.message, Entry::of(facts)?))
    }
}
