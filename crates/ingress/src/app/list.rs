//! The messages of a tenant, page by page, the newest first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use sotto_core::{
    Clock, MessageClass, MessageId, ShardId, Shards, TenantId, Timestamp,
    delivery::{Delivery, Stage},
};

use crate::{
    adapters::store::Store,
    domain::{journal::Journal, page::Place},
    ports::StoreError,
};

/// The most messages on a page.
pub const MAX_PAGE: usize = 200;

/// Messages that one call looks at: a page may come back short, or empty, with a token that goes on.
const LOOKED_AT: usize = 1_000;

/// Messages that are read at a time.
const AT_A_TIME: usize = 250;

/// How far the clock of another process of the cell may be ahead of ours.
const AHEAD: Duration = Duration::from_secs(60);

/// Which messages are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Where they are; none and not scheduled: anywhere.
    pub stages: BTreeSet<Stage>,
    /// Those that wait for their time.
    pub scheduled: bool,
    /// What they are for; none: anything.
    pub class: Option<MessageClass>,
    /// Accepted at or after this time.
    pub from: Option<Timestamp>,
    /// Accepted before this time.
    pub until: Option<Timestamp>,
}

impl Filter {
    fn takes(&self, delivery: &Delivery, now: Timestamp) -> bool {
        let (facts, stage) = (delivery.facts(), delivery.stage());
        let waits = stage == Stage::Accepted && facts.scheduled(now).is_some();
        let there = if waits { self.scheduled } else { self.stages.contains(&stage) };
        self.class.is_none_or(|class| class == facts.class)
            && (there || (self.stages.is_empty() && !self.scheduled))
    }
}

/// Some messages, and where it goes on.
#[derive(Clone, Debug)]
pub struct Page {
    /// The newest first.
    pub journals: Vec<Journal>,
    /// Where the next page begins; none: there is nothing more.
    pub next: Option<Place>,
}

/// Lists messages. Clones share everything.
#[derive(Clone, Debug)]
pub struct Lister {
    /// Journals.
    pub store: Store,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The cell's shards.
    pub shards: Shards,
}

impl Lister {
    /// A page of at most `most` messages after `after`; none: the first.
    ///
    /// # Errors
    /// When what Redis knows cannot be used.
    pub async fn page(
        &self,
        tenant: &TenantId,
        filter: &Filter,
        after: Option<Place>,
        most: usize,
    ) -> Result<Page, StoreError> {
        // A clock that is a little ahead of ours has accepted messages too.
        let now = self.clock.now();
        let newest = now.plus(AHEAD);
        let newest = filter.until.map_or(newest, |until| until.minus(Duration::from_millis(1)));
        let oldest = filter.from.unwrap_or_default();
        let mut place = after.filter(|after| after.at <= newest).unwrap_or(Place { at: newest, id: None });
        let mut journals = Vec::new();
        if place.at < oldest {
            return Ok(Page { journals, next: None });
        }
        for _ in 0..LOOKED_AT / AT_A_TIME {
            let found = self.store.list(tenant, &place, oldest, AT_A_TIME).await?;
            let whole = found.len() == AT_A_TIME;
            let mut known = self.load(&found).await?;
            for at in found {
                place = at;
                let journal = at.id.and_then(|id| known.remove(&id));
                let taken = journal.filter(|journal| {
                    journal.delivery().is_some_and(|it| it.facts().tenant == *tenant && filter.takes(it, now))
                });
                journals.extend(taken);
                if journals.len() == most {
                    return Ok(Page { journals, next: Some(place) });
                }
            }
            if !whole {
                return Ok(Page { journals, next: None });
            }
        }
        Ok(Page { journals, next: Some(place) })
    }

    async fn load(&self, places: &[Place]) -> Result<BTreeMap<MessageId, Journal>, StoreError> {
        let mut of: BTreeMap<ShardId, Vec<MessageId>> = BTreeMap::new();
        for id in places.iter().filter_map(|place| place.id) {
            of.entry(self.shards.of(&id)).or_default().push(id);
        }
        let mut known = BTreeMap::new();
        for (shard, ids) in of {
            let journals = self.store.load(shard, &ids).await?.journals;
            known.extend(ids.into_iter().zip(journals).filter_map(|(id, it)| Some((id, it?.1))));
        }
        Ok(known)
    }
}
