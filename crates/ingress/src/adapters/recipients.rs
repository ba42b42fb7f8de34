//! How many one-time codes a number has got today from all tenants of the cell together: counted in Redis, by what stands for the
//! number on this day alone (docs/adr/0032-codes-a-number-gets.md). Nothing here fails a message that is not above the count.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use sotto_core::{Clock, MessageId, Timestamp, abuse::COUNTED_LABEL, number::E164};
use sotto_crypto::MacKey;
use sotto_runtime::Tasks;
use tokio::time::Instant;

use super::{
    breaker::Breaker,
    lent::{Lent, Wear},
    store::Store,
    subjects::SubjectClient,
};
use crate::{
    domain::pseudonym::pseudonym,
    ports::{Counted, KeyError, Recipients},
};

/// After a key that could not be had messages are not counted for so long, and then one finds out.
const REST: Duration = Duration::from_secs(5);

/// What counts. Clones share everything.
#[derive(Clone)]
pub struct RecipientCount(Arc<Inner>);

struct Inner {
    store: Store,
    client: SubjectClient,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    most: u32,
    key: Arc<Lent<DayKey>>,
    breaker: Breaker,
}

/// The key of this day.
struct DayKey {
    key: MacKey,
    bucket: String,
    dies_at: Timestamp,
}

impl Wear for DayKey {}

impl fmt::Debug for RecipientCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecipientCount").field("most", &self.0.most).finish_non_exhaustive()
    }
}

impl RecipientCount {
    /// Counts up to `most` a number and day.
    pub fn new(store: Store, client: SubjectClient, clock: Arc<dyn Clock>, tasks: Tasks, most: u32) -> Self {
        let (key, breaker) = (Arc::default(), Breaker::new(REST));
        Self(Arc::new(Inner { store, client, clock, tasks, most, key, breaker }))
    }

    /// Forgets a key whose time is over, or whose bucket ended.
    pub fn forget(&self, ended: &HashSet<String>) {
        self.0.key.forget(self.0.clock.now(), |held| ended.contains(&held.bucket));
    }

    async fn fetch(self) -> Result<(DayKey, Timestamp), KeyError> {
        let pass = self.0.breaker.enter(Instant::now()).ok_or(KeyError::Unavailable)?;
        match self.0.client.abuse_key().await {
            Ok(made) => {
                pass.answered();
                let key = MacKey::from_bytes(*made.key);
                Ok((DayKey { key, bucket: made.bucket, dies_at: made.dies_at }, made.use_until))
            }
            Err(error) => {
                pass.failed(Instant::now());
                Err(error)
            }
        }
    }
}

impl Recipients for RecipientCount {
    fn count<'a>(&'a self, number: &'a E164, message: &'a MessageId) -> BoxFuture<'a, Counted> {
        Box::pin(async move {
            let Inner { store, clock, tasks, most, key, .. } = self.0.as_ref();
            let fetch = {
                let count = self.clone();
                || count.fetch()
            };
            let Ok(held) = key.get(clock, tasks, fetch).await else { return Counted::Not };
            // Neither the number nor the message can be told from what Redis holds.
            let number = pseudonym(&held.key, number);
            let message = held.key.keyed_id(COUNTED_LABEL, &[message.as_bytes()]);
            match store.count(&number, &message, *most, held.dies_at).await {
                Ok(true) => Counted::Within,
                Ok(false) => Counted::Above,
                Err(_) => Counted::Not,
            }
        })
    }
}
