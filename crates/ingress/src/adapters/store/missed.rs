//! What could not be written when a message was accepted, because Redis was away for a moment: it is kept here and
//! written when Redis is back. Only more of it than fits makes a shard be rebuilt from the log.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sotto_core::{Facts, MessageId, ShardId, Timestamp};

/// Messages kept: a few megabytes.
const MOST: usize = 20_000;

/// An accepted message whose journal is not begun.
#[derive(Clone, Debug)]
pub(super) struct Missed {
    pub(super) facts: Facts,
    pub(super) remembered_until: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: HashMap<MessageId, Missed>,
    behind: HashSet<ShardId>,
}

impl Queue {
    /// Keeps what was missed; beyond the bound the shard is behind the log from now on.
    pub(super) fn keep(&self, shard: ShardId, missed: Missed) {
        let mut inner = self.lock();
        if inner.waiting.len() < MOST || inner.waiting.contains_key(&missed.facts.message) {
            inner.waiting.insert(missed.facts.message, missed);
        } else if inner.behind.insert(shard) {
            tracing::warn!(%shard, "more messages were accepted without Redis than are kept: rebuilding from the log");
        }
    }

    /// Some of what waits. It goes on waiting until it is [`Queue::written`], so that it can be found at every moment.
    pub(super) fn some(&self, limit: usize) -> Vec<Missed> {
        self.lock().waiting.values().take(limit).cloned().collect()
    }

    /// These are in Redis now. What was missed anew meanwhile stays.
    pub(super) fn written(&self, done: &[Missed]) {
        let mut inner = self.lock();
        for one in done {
            let id = &one.facts.message;
            if inner.waiting.get(id).is_some_and(|waiting| waiting.facts.accepted_at == one.facts.accepted_at)
            {
                inner.waiting.remove(id);
            }
        }
    }

    pub(super) fn get(&self, id: &MessageId) -> Option<Facts> {
        self.lock().waiting.get(id).map(|missed| missed.facts.clone())
    }

    /// Whether the shard lacks something that is not kept here.
    pub(super) fn is_behind(&self, shard: ShardId) -> bool {
        self.lock().behind.contains(&shard)
    }

    pub(super) fn behind(&self) -> Vec<ShardId> {
        self.lock().behind.iter().copied().collect()
    }

    /// The shard is about to be read off the log, with all that was missed until now.
    pub(super) fn caught_up(&self, shard: ShardId) {
        self.lock().behind.remove(&shard);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use sotto_core::{MessageClass, Shards, text::Encoding};

    use super::*;

    fn missed(number: usize) -> Missed {
        let mut hash = [0; 16];
        // The first half of an id has bits of its own.
        for (to, from) in hash.iter_mut().rev().zip(number.to_le_bytes()).take(6) {
            *to = from;
        }
        let facts = Facts {
            message: MessageId::from_keyed_hash(hash),
            tenant: "acme".parse().unwrap(),
            class: MessageClass::Otp,
            country: "VN".parse().unwrap(),
            operator_range: "8491".parse().unwrap(),
            encoding: Encoding::Gsm7,
            parts: 1,
            units: 10,
            accepted_at: Timestamp::from_unix_millis(1),
            expires_at: Timestamp::from_unix_millis(2),
            content_mac: None,
            send_at: None,
        };
        Missed { facts, remembered_until: None }
    }

    #[test]
    fn a_shard_is_behind_only_when_more_was_missed_than_is_kept() {
        let queue = Queue::default();
        let shard = Shards::new(std::num::NonZeroU16::MIN).iter().next().unwrap();
        for number in 0..MOST {
            queue.keep(shard, missed(number));
        }
        queue.keep(shard, missed(0));
        assert!(!queue.is_behind(shard), "the same message needs no room");
        assert!(queue.get(&missed(7).facts.message).is_some());
        queue.keep(shard, missed(MOST));
        assert_eq!(queue.behind(), [shard]);
        queue.caught_up(shard);
        assert!(!queue.is_behind(shard));
    }

    #[test]
    fn what_is_being_written_waits_until_it_is_written() {
        let queue = Queue::default();
        let shard = Shards::new(std::num::NonZeroU16::MIN).iter().next().unwrap();
        for number in 0..3 {
            queue.keep(shard, missed(number));
        }
        let some = queue.some(2);
        assert_eq!(some.len(), 2);
        assert!(some.iter().all(|one| queue.get(&one.facts.message).is_some()));
        // Accepted again while the first acceptance is being written.
        let mut again = some[0].clone();
        again.facts.accepted_at = Timestamp::from_unix_millis(9);
        queue.keep(shard, again.clone());
        queue.written(&some);
        assert_eq!(queue.get(&some[0].facts.message).unwrap().accepted_at, again.facts.accepted_at);
        assert!(queue.get(&some[1].facts.message).is_none());
        assert_eq!(queue.some(9).len(), 2);
    }
}
