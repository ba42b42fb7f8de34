//! What stands for a number to the whole cell, for one day: by it ingress counts what a number gets from all tenants together.
//! It is in no stream and no index, and nothing is found by it.

use sotto_core::Timestamp;
use sotto_crypto::AeadKey;
use sotto_keystore::KeystoreError;

use super::{Inner, Keys, MAKER, outcome_of};
use crate::{
    domain::{
        bucket::Contents,
        place::Place,
        tally::{Deed, Outcome, Use},
    },
    error::KeyError,
};

/// What the key is derived for.
const PSEUDONYM_KEY: &str = "sotto.abuse.pseudonym-key.v1";

/// Whose numbers the pseudonyms stand for: a key has one purpose.
const RECIPIENT: &[u8] = b"recipient";

/// Makes what stands for numbers to the whole cell, until its day is over.
#[derive(Debug)]
pub struct AbuseKey {
    /// The key.
    pub key: AeadKey,
    /// The bucket that it follows from.
    pub bucket: String,
    /// Use it no longer; another one may be had then, of the same day or the next.
    pub use_until: Timestamp,
    /// The end of the day: everything that was made with it means nothing from then on.
    pub dies_at: Timestamp,
}

impl Keys {
    /// Gives the key of the day. The bucket key is on disk before this returns.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn make_abuse(&self, caller: &'static str) -> Result<AbuseKey, KeyError> {
        let result = match caller {
            MAKER => self.blocking(Inner::make_abuse).await,
            _ => Err(KeyError::NotThisService),
        };
        let outcome = result.as_ref().map_or_else(outcome_of, |_| Outcome::Ok);
        let deed = Deed::Make { contents: Contents::Abuse };
        self.0.count(Use { caller, deed, tenant: None, outcome }, 1);
        result
    }
}

/// On blocking threads: the keystore waits for the disk.
impl Inner {
    fn make_abuse(&self) -> Result<AbuseKey, KeyError> {
        let now = self.now().at;
        let span = self.deps.retention.abuse_span(now).map_err(KeyError::Span)?;
        let first = Place { bucket: span.bucket, owner: None };
        let make = || {
            let place = self.current(&first).ok_or(KeyError::Spent)?;
            let bucket = place.to_string();
            self.create(&bucket, place.bucket, now).map_err(KeyError::Keystore)?;
            let fields = [self.deps.cell.as_str().as_bytes(), RECIPIENT];
            let key = self.derived(&bucket, PSEUDONYM_KEY, &fields).map_err(KeyError::Keystore)?;
            Ok(AbuseKey { key, bucket, use_until: span.seal_until, dies_at: span.bucket.dies_at() })
        };
        match make() {
            // Destroyed by an operator since it was looked up: there is another one now.
            Err(KeyError::Keystore(KeystoreError::BucketDestroyed)) => make(),
            made => made,
        }
    }
}
