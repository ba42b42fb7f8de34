//! The task behind one subject: takes what waits, makes a batch, stores it, tells the waiters.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sotto_proto::Batch;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{self, Instant},
};

use super::{Outgoing, PublishError, Shared, Stored, lock};
use crate::{Topic, measures::Unstored};

/// A subject that nobody used for so long gives its task back.
const IDLE: Duration = Duration::from_secs(30);

/// Items of one call.
pub(super) struct Entry<B: Batch> {
    pub(super) items: Vec<B::Item>,
    pub(super) size: usize,
    pub(super) trace: Option<String>,
    /// Not sent after this.
    pub(super) until: Instant,
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) done: oneshot::Sender<Result<Stored, PublishError>>,
}

pub(super) async fn run<B: Batch>(
    shared: Arc<Shared<B>>,
    topic: Topic,
    subject: String,
    mut entries: mpsc::Receiver<Entry<B>>,
) {
    let mut left_over = None;
    let mut before = None;
    loop {
        let first = match left_over.take() {
            Some(entry) => entry,
            None => match next(&shared, &subject, &mut entries).await {
                Some(entry) => entry,
                None => return,
            },
        };
        // While the broker is away entries wait one by one, each to its own deadline; a batch is made only when it
        // can be sent, of what is not late.
        if let Some(at) = earliest(before, Instant::now(), shared.config.linger) {
            time::sleep_until(at.min(first.until)).await;
        }
        let late = first.until <= Instant::now();
        if late || time::timeout_at(first.until, shared.bus.connected()).await.is_err() {
            refuse(&shared, &subject, first);
            continue;
        }
        let mut batch = vec![first];
        left_over = fill(&shared, &subject, &mut batch, &mut entries);
        before = Some(Instant::now());
        store(&shared, topic, &subject, batch).await;
    }
}

/// When the next batch may begin, after one that began then; none: at once.
fn earliest(before: Option<Instant>, now: Instant, linger: Duration) -> Option<Instant> {
    before.map(|began| began + linger).filter(|at| *at > now)
}

/// The next entry; none when the publisher is closed and the queue is empty, or when the subject is idle.
async fn next<B: Batch>(
    shared: &Shared<B>,
    subject: &str,
    entries: &mut mpsc::Receiver<Entry<B>>,
) -> Option<Entry<B>> {
    loop {
        tokio::select! {
            biased;
            entry = entries.recv() => return entry,
            () = shared.closing.cancelled(), if !entries.is_closed() => entries.close(),
            () = time::sleep(IDLE) => {
                // Senders are cloned under this lock only: with one left, nobody is about to send.
                let mut lanes = lock(&shared.lanes);
                if entries.is_empty() && lanes.get(subject).is_some_and(|lane| lane.strong_count() == 1) {
                    lanes.remove(subject);
                    return None;
                }
            }
        }
    }
}

/// It is late and was never sent.
fn refuse<B: Batch>(shared: &Shared<B>, subject: &str, entry: Entry<B>) {
    shared.bus.measures().unstored.of(Unstored::Unavailable).one();
    let refused = Err(PublishError::Unavailable { subject: subject.to_owned() });
    // A waiter that went away needs no answer.
    let _gone = entry.done.send(refused);
}

/// Adds what waits already, up to the bounds; returns the entry that did not fit.
fn fill<B: Batch>(
    shared: &Shared<B>,
    subject: &str,
    batch: &mut Vec<Entry<B>>,
    entries: &mut mpsc::Receiver<Entry<B>>,
) -> Option<Entry<B>> {
    let mut items: usize = batch.iter().map(|entry| entry.items.len()).sum();
    let mut size: usize = batch.iter().map(|entry| entry.size).sum();
    while items < shared.config.max_items && size < shared.config.max_bytes {
        let Ok(entry) = entries.try_recv() else { return None };
        if entry.until <= Instant::now() {
            refuse(shared, subject, entry);
            continue;
        }
        items += entry.items.len();
        size += entry.size;
        if items > shared.config.max_items || size > shared.config.max_bytes {
            return Some(entry);
        }
        batch.push(entry);
    }
    None
}

async fn store<B: Batch>(shared: &Shared<B>, topic: Topic, subject: &str, mut batch: Vec<Entry<B>>) {
    let items: Vec<B::Item> = batch.iter_mut().flat_map(|entry| std::mem::take(&mut entry.items)).collect();
    // Encoded once: every attempt sends the same bytes under the same id.
    let payload = Bytes::from(B::from_items(&items).encode_to_vec());
    let trace = batch.iter().find_map(|entry| entry.trace.as_deref());
    let outgoing = Outgoing::new(&shared.bus, subject, payload, items.len(), trace);
    let now = Instant::now();
    let earliest = batch.iter().map(|entry| entry.until).min().unwrap_or(now);
    // The oldest entry's deadline, but what is sent gets one attempt: its companions are not to fail because of it.
    let until = earliest.max(now + shared.config.attempt);
    let result = shared.bus.store(&outgoing, shared.config.attempt, until).await;
    let measures = shared.bus.measures();
    match &result {
        Ok(_) => {
            measures.stored_in.of(topic).took(now.elapsed());
            measures.batch.of(topic).sized(items.len());
        }
        Err(error) => measures.unstored.of(error.into()).one(),
    }
    for entry in batch {
        // A waiter that went away does not change what is stored.
        let _gone = entry.done.send(result.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_comes_soon_after_another_lingers() {
        let (began, linger) = (Instant::now(), Duration::from_millis(3));
        assert_eq!(earliest(None, began, linger), None);
        assert_eq!(earliest(Some(began), began + linger / 2, linger), Some(began + linger));
        assert_eq!(earliest(Some(began), began + linger, linger), None);
    }
}
