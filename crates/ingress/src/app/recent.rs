//! Journals that the projection of this process has folded into last: it need not read them again, and neither need those who
//! tell of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sotto_core::{MessageId, ShardId, delivery::Illegal};
use tokio::{sync::watch, time::Instant};

use crate::{adapters::store::Version, domain::journal::Journal};

/// Journals of a shard after which the older half is let go: some ten megabytes.
const HALF: usize = 4_096;

/// Batches of a shard of which it is known what was said of them.
const AHEAD: usize = 4_096;

/// A journal and the sequence that changed it last.
pub(super) type Known = (Version, Arc<Journal>);

/// What was folded last, by shard. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Recent(Arc<Mutex<BTreeMap<ShardId, Arc<Shard>>>>);

/// The same of one shard.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// Who folds.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// The last sequence that this process has folded.
    folded: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    young: HashMap<MessageId, Known>,
    old: HashMap<MessageId, Known>,
    /// What was said of batches that were folded before they were delivered; of the last ones, since some are delivered to
    /// other processes.
    ahead: BTreeMap<u64, Vec<Result<(), Illegal>>>,
    /// When to fold next, at the earliest.
    next: Option<Instant>,
}

impl Recent {
    pub(super) fn shard(&self, shard: ShardId) -> Arc<Shard> {
        let mut shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shards.entry(shard).or_default())
    }
}

impl Shard {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far this process has folded, and where to wait for more; 0: nothing is known for certain.
    pub(super) fn folded(&self) -> watch::Receiver<u64> {
        self.folded.subscribe()
    }

    pub(super) fn get(&self, id: &MessageId) -> Option<Known> {
        let state = self.state();
        state.young.get(id).or_else(|| state.old.get(id)).cloned()
    }

    /// All of these; none if one of them is not known.
    pub(super) fn all(&self, ids: &[MessageId]) -> Option<Vec<Arc<Journal>>> {
        ids.iter().map(|id| self.get(id).map(|(_, journal)| journal)).collect()
    }

    /// What is written, up to a sequence.
    pub(super) fn put(&self, journals: impl Iterator<Item = Known>, folded: u64) {
        {
            let mut state = self.state();
            for (version, journal) in journals {
                state.young.insert(journal.id(), (version, journal));
            }
            if state.young.len() >= HALF {
                state.old = std::mem::take(&mut state.young);
            }
        }
        self.folded.send_replace(folded);
    }

    /// Lets go of everything: somebody else has read on, or Redis has lost something.
    pub(super) fn forget(&self) {
        *self.state() = State::default();
        self.folded.send_replace(0);
    }

    /// When to fold next, at the earliest.
    pub(super) fn next_fold(&self) -> Instant {
        self.state().next.unwrap_or_else(Instant::now)
    }

    pub(super) fn set_next_fold(&self, at: Instant) {
        self.state().next = Some(at);
    }

    /// One fold of a shard at a time, in this process.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn said(&self, sequence: u64, verdicts: Vec<Result<(), Illegal>>) {
        let mut state = self.state();
        state.ahead.insert(sequence, verdicts);
        if state.ahead.len() > AHEAD {
            state.ahead.pop_first();
        }
    }

    /// What was said of a batch that is delivered now.
    pub(super) fn verdicts(&self, sequence: u64) -> Option<Vec<Result<(), Illegal>>> {
        self.state().ahead.remove(&sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> MessageId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        MessageId::from_keyed_hash(bytes)
    }

    #[test]
    fn the_last_thousands_are_known_and_no_more() {
        let shard = Shard::default();
        for number in 0..10 * HALF {
            shard.put(std::iter::once((1, Arc::new(Journal::empty(id(number))))), 1);
        }
        let state = shard.state();
        assert!(state.young.len() + state.old.len() <= 2 * HALF);
        drop(state);
        assert!(shard.all(&[id(10 * HALF - 1), id(9 * HALF)]).is_some());
        assert!(shard.all(&[id(10 * HALF - 1), id(0)]).is_none());
        shard.forget();
        assert!(shard.get(&id(10 * HALF - 1)).is_none());
    }

    #[test]
    fn what_was_said_ahead_is_said_once() {
        let shard = Shard::default();
        for sequence in [5, 7, 9] {
            shard.said(sequence, vec![Ok(())]);
        }
        assert_eq!(shard.verdicts(7), Some(vec![Ok(())]));
        assert_eq!(
            (shard.verdicts(7), shard.verdicts(5), shard.verdicts(9)),
            (None, Some(vec![Ok(())]), Some(vec![Ok(())]))
        );
        for sequence in 0..3 * AHEAD as u64 {
            shard.said(sequence, Vec::new());
        }
        assert_eq!(shard.state().ahead.len(), AHEAD);
        assert_eq!((shard.verdicts(0), shard.verdicts(3 * AHEAD as u64 - 1)), (None, Some(Vec::new())));
    }
}
