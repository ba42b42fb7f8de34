//! Journals that are begun together: the broker stores messages in batches, so many are accepted at one moment, and Redis is
//! asked once for all of them.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::missed::Missed;

/// Journals that are begun at a time.
const TOGETHER: usize = 256;

/// What somebody who waits is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Its journal is begun, or kept for later.
    Done,
    /// Its turn to begin those that wait.
    Lead,
}

/// A journal that is to be begun, and who waits for it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) missed: Missed,
    tell: Option<oneshot::Sender<Word>>,
}

impl Waiting {
    /// Its journal is begun, or kept for later.
    pub(super) fn done(self) {
        // Who does not wait any more need not be told.
        let _gone = self.tell.map(|tell| tell.send(Word::Done));
    }
}

#[derive(Debug, Default)]
struct State {
    led: bool,
    waiting: VecDeque<Waiting>,
}

/// Those that wait, and whether somebody is at it. Everybody who waits is told or leads, also when who leads gives up.
#[derive(Debug, Default)]
pub(super) struct Beginning(Mutex<State>);

/// Somebody is at it, as long as this lives.
#[derive(Debug)]
pub(super) struct Lead<'a>(&'a Beginning);

impl Beginning {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the journal is begun by another, or it is the caller's turn to begin those that wait.
    pub(super) async fn enter(&self, missed: Missed) -> Option<Lead<'_>> {
        let (tell, word) = oneshot::channel();
        {
            let mut state = self.lock();
            if !state.led {
                state.led = true;
                state.waiting.push_back(Waiting { missed, tell: None });
                return Some(Lead(self));
            }
            state.waiting.push_back(Waiting { missed, tell: Some(tell) });
        }
        match word.await {
            Ok(Word::Lead) => Some(Lead(self)),
            Ok(Word::Done) | Err(_) => None,
        }
    }
}

impl Lead<'_> {
    /// Those that wait: the caller's own is among them, unless others stand before it.
    pub(super) fn take(&self) -> Vec<Waiting> {
        let mut state = self.0.lock();
        let count = state.waiting.len().min(TOGETHER);
        state.waiting.drain(..count).collect()
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        for next in &mut state.waiting {
            if next.tell.take().is_some_and(|tell| tell.send(Word::Lead).is_ok()) {
                return;
            }
        }
        state.led = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{FutureExt as _, poll};
    use sotto_core::{Facts, MessageClass, MessageId, Timestamp, text::Encoding};

    use super::*;

    fn missed(number: u8) -> Missed {
        let at = Timestamp::from_unix_seconds(1_795_493_815);
        let facts = Facts {
            message: MessageId::from_keyed_hash([number; 16]),
            tenant: "acme".parse().unwrap(),
            class: MessageClass::Otp,
            country: "VN".parse().unwrap(),
            operator_range: "8491".parse().unwrap(),
            encoding: Encoding::Gsm7,
            parts: 1,
            units: 5,
            accepted_at: at,
            expires_at: at.plus(Duration::from_secs(300)),
            content_mac: None,
            send_at: None,
        };
        Missed { facts, remembered_until: None }
    }

    #[tokio::test]
    async fn who_comes_meanwhile_is_begun_together_by_one_of_them() {
        let beginning = Beginning::default();
        let lead = beginning.enter(missed(1)).await.unwrap();
        let first = lead.take();
        assert_eq!(first.len(), 1);
        let mut others: Vec<_> = (2..5).map(|number| Box::pin(beginning.enter(missed(number)))).collect();
        for other in &mut others {
            assert!(poll!(other).is_pending());
        }
        first.into_iter().for_each(Waiting::done);
        drop(lead);
        let lead = others.remove(0).now_or_never().unwrap().unwrap();
        let taken = lead.take();
        assert_eq!(taken.len(), 3);
        taken.into_iter().for_each(Waiting::done);
        drop(lead);
        for other in others {
            assert!(other.now_or_never().unwrap().is_none());
        }
        assert!(beginning.enter(missed(9)).now_or_never().unwrap().is_some());
    }

    #[tokio::test]
    async fn a_lead_that_nobody_takes_goes_on_and_nothing_is_left_behind() {
        let beginning = Beginning::default();
        let lead = beginning.enter(missed(1)).await.unwrap();
        let mut gone = Box::pin(beginning.enter(missed(2)));
        let mut there = Box::pin(beginning.enter(missed(3)));
        assert!(poll!(&mut gone).is_pending() && poll!(&mut there).is_pending());
        drop(gone);
        drop(lead);
        let lead = there.now_or_never().unwrap().unwrap();
        assert_eq!(lead.take().len(), 3, "also those whose caller is gone");
    }
}
