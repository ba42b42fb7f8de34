//! EVENTS and CARRIED in memory.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prost::Message as _;
use sotto_audit::{
    domain::{EventRange, Keep},
    ports::{EventsUnavailable, Held, Shelf, StoredEvents},
};
use sotto_core::{Timestamp, delivery::Event};
use sotto_proto::{Batch as _, LogEvent, pipeline::v1::EventBatch};
use sotto_tlog::{Frontier, Hash};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3_600);
pub(crate) const KEEP: Keep =
    Keep { usual: Duration::from_secs(10 * 24 * 3_600), least: Duration::from_secs(8 * 24 * 3_600) };
pub(crate) const BEGIN: Timestamp = Timestamp::from_unix_seconds(1_795_000_000);

/// A broker in memory.
#[derive(Debug, Default)]
pub(crate) struct TestShelf {
    pub(crate) events: Mutex<BTreeMap<u64, (Timestamp, Vec<u8>)>>,
    pub(crate) carried: Mutex<BTreeMap<u64, Vec<u8>>>,
    /// The last sequences of both.
    pub(crate) last: Mutex<(u64, u64)>,
    pub(crate) max_bytes: Mutex<u64>,
    /// Changes that still work.
    pub(crate) left: AtomicUsize,
}

fn stored(sequence: u64, stored_at: Timestamp, bytes: &[u8]) -> StoredEvents {
    let items = EventBatch::decode(bytes).map(EventBatch::into_items);
    let whole = items.is_ok();
    let events = items.unwrap_or_default().into_iter().map(Result::unwrap).collect();
    StoredEvents { sequence, stored_at, leaf: Hash::leaf(bytes), events, whole }
}

impl TestShelf {
    /// A log with a batch a day, and the ranges that commit to it: two batches each.
    pub(crate) fn new(days: &[Vec<LogEvent>]) -> (Arc<Self>, Vec<EventRange>) {
        let shelf = Self::default();
        *shelf.max_bytes.lock().unwrap() = u64::MAX;
        shelf.left.store(usize::MAX, Ordering::SeqCst);
        for (sequence, (day, items)) in (1..).zip((0..).zip(days)) {
            let bytes = EventBatch::from_items(items).encode_to_vec();
            shelf.events.lock().unwrap().insert(sequence, (BEGIN.plus(DAY * day), bytes));
            shelf.last.lock().unwrap().0 = sequence;
        }
        let leaves: Vec<_> =
            shelf.events.lock().unwrap().values().map(|(_, bytes)| Hash::leaf(bytes)).collect();
        let ranges = (1..).step_by(2).zip(leaves.chunks(2)).map(|(first, leaves)| {
            let tree: Frontier = leaves.iter().copied().collect();
            EventRange { first, last: first + tree.size() - 1, root: tree.root(), batches: tree.size() }
        });
        (Arc::new(shelf), ranges.collect())
    }

    fn change(&self) -> Result<(), EventsUnavailable> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(EventsUnavailable("the broker is gone".into()));
        }
        self.left.store(left - 1, Ordering::SeqCst);
        Ok(())
    }

    pub(crate) fn sequences(&self) -> Vec<u64> {
        self.events.lock().unwrap().keys().copied().collect()
    }
}

impl Shelf for TestShelf {
    async fn held(&self) -> Result<Held, EventsUnavailable> {
        let events = self.events.lock().unwrap();
        let last = self.last.lock().unwrap().0;
        let first = events.keys().next().copied().unwrap_or(last + 1);
        let bytes = events.values().map(|(_, bytes)| u64::try_from(bytes.len()).unwrap()).sum();
        Ok(Held { first, last, bytes, max_bytes: *self.max_bytes.lock().unwrap() })
    }

    async fn read(&self, from: u64, through: u64) -> Result<Vec<StoredEvents>, EventsUnavailable> {
        let events = self.events.lock().unwrap();
        // Fewer than a range: the trim must ask on.
        let some = events.range(from..).take_while(|(sequence, _)| **sequence <= through).take(1);
        Ok(some.map(|(sequence, (at, bytes))| stored(*sequence, *at, bytes)).collect())
    }

    async fn carry(&self, after: u64, events: Vec<Event>) -> Result<Option<EventRange>, EventsUnavailable> {
        self.carried.lock().unwrap().retain(|sequence, _| *sequence <= after);
        if events.is_empty() {
            return Ok(None);
        }
        let mut last = self.last.lock().unwrap();
        let first = last.1 + 1;
        let mut tree = Frontier::new();
        for some in events.chunks(2) {
            self.change()?;
            let items: Vec<_> = some.iter().cloned().map(LogEvent::Delivery).collect();
            let bytes = EventBatch::from_items(&items).encode_to_vec();
            tree.push(Hash::leaf(&bytes));
            last.1 += 1;
            self.carried.lock().unwrap().insert(last.1, bytes);
        }
        Ok(Some(EventRange { first, last: last.1, root: tree.root(), batches: tree.size() }))
    }

    async fn carried(&self, first: u64, last: u64) -> Result<Vec<StoredEvents>, EventsUnavailable> {
        let carried = self.carried.lock().unwrap();
        Ok(carried.range(first..=last).map(|(sequence, bytes)| stored(*sequence, BEGIN, bytes)).collect())
    }

    async fn trim(&self, before: u64) -> Result<(), EventsUnavailable> {
        self.change()?;
        self.events.lock().unwrap().retain(|sequence, _| *sequence >= before);
        Ok(())
    }

    async fn forget_acts(&self, _before: Timestamp) -> Result<(), EventsUnavailable> {
        Ok(())
    }

    async fn forget(&self, before: Option<u64>) -> Result<(), EventsUnavailable> {
        self.change()?;
        self.carried.lock().unwrap().retain(|sequence, _| before.is_some_and(|before| *sequence >= before));
        Ok(())
    }
}
