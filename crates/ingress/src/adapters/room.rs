//! Room for so many at a time, and for so many of one tenant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use sotto_core::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Rooms of one kind: streams, requests.
#[derive(Debug)]
pub struct Rooms {
    all: Arc<Semaphore>,
    count: usize,
    of_tenant: usize,
    by_tenant: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub struct Room {
    _of_tenant: OwnedSemaphorePermit,
    _any: OwnedSemaphorePermit,
}

impl Rooms {
    /// So many, and at most so many of one tenant.
    pub fn new(count: usize, of_tenant: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(count)), count, of_tenant, by_tenant: Mutex::default() }
    }

    /// Room for one more of this tenant, if there is.
    pub fn try_take(&self, tenant: &TenantId) -> Option<Room> {
        let of_tenant = {
            let mut all = self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner);
            // Tenants without any are forgotten.
            all.retain(|_, rooms| rooms.available_permits() < self.of_tenant);
            let full = || Arc::new(Semaphore::new(self.of_tenant));
            Arc::clone(all.entry(tenant.clone()).or_insert_with(full)).try_acquire_owned().ok()?
        };
        let any = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Room { _of_tenant: of_tenant, _any: any })
    }

    /// Waits until all are free.
    pub async fn empty(&self) {
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        // Nobody closes the semaphore.
        drop(self.all.acquire_many(count).await);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn nobody_takes_more_than_his_share_nor_all_more_than_there_is() {
        let rooms = Rooms::new(3, 2);
        let [acme, other]: [TenantId; 2] = ["acme", "other"].map(|name| name.parse().unwrap());
        let own: Vec<_> = std::iter::from_fn(|| rooms.try_take(&acme)).collect();
        assert_eq!(own.len(), 2);
        let last = rooms.try_take(&other);
        assert!(last.is_some() && rooms.try_take(&other).is_none());
        assert!(rooms.empty().now_or_never().is_none());
        drop(own);
        assert!(rooms.try_take(&other).is_some());
        drop(last);
        assert!(rooms.empty().now_or_never().is_some());
    }
}
