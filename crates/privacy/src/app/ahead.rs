//! Keys for the next hour or day are made while those of this one are used, so that a keystore that makes no more is known
//! before a message is refused.

use std::collections::BTreeSet;

use sotto_core::TenantId;
use sotto_keystore::Fate;

use super::{Inner, Keys};
use crate::{
    domain::{bucket::Contents, place::Place},
    error::KeyError,
};

impl Keys {
    /// Makes what will be needed next of everything that is used now; returns the names of new buckets.
    ///
    /// # Errors
    /// [`KeyError::Keystore`]: what could be made is there, the rest is tried again at the next call.
    pub async fn make_ahead(self) -> Result<Vec<String>, KeyError> {
        self.blocking(Inner::make_ahead).await
    }
}

/// On blocking threads: the keystore waits for the disk.
impl Inner {
    fn make_ahead(&self) -> Result<Vec<String>, KeyError> {
        let now = self.now().at;
        let (mut made, mut failed) = (Vec::new(), None);
        for (contents, owner) in self.used()? {
            let Some(bucket) = self.deps.retention.latest(contents, now.plus(contents.grain())) else {
                continue;
            };
            let place = self.current(&Place { bucket, owner }).ok_or(KeyError::Spent)?;
            let name = place.to_string();
            if self.deps.keys.fate(&name) != Fate::Unknown {
                continue;
            }
            // One that fails must not keep the others from being made.
            match self.create(&name, place.bucket, now) {
                Ok(_) => made.push(name),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(made), |error| Err(KeyError::Keystore(error)))
    }

    /// What session keys were made of, and for whom; a bucket that nobody used is no reason for another.
    fn used(&self) -> Result<BTreeSet<(Contents, Option<TenantId>)>, KeyError> {
        let living = self.deps.keys.buckets().map_err(KeyError::Keystore)?;
        let wrapped = living.iter().any(|bucket| bucket.wraps_at_most > 0);
        let used = living.into_iter().filter_map(|bucket| {
            let place: Place = bucket.bucket.parse().ok()?;
            let contents = place.bucket.contents();
            // Nothing hangs on keys of the index: they are used where messages are sealed.
            let used = match contents {
                Contents::Index => wrapped,
                // Only what counts messages by number asks for one; without it they are taken uncounted.
                Contents::Abuse => false,
                Contents::Messages(_) | Contents::Inbound => bucket.wraps_at_most > 0,
            };
            used.then_some((contents, place.owner))
        });
        Ok(used.collect())
    }
}
