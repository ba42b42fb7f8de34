//! Session keys opened for connectors: every wrap is judged alone.

use std::{collections::HashMap, sync::Arc};

use sotto_core::{AccountId, TenantId, Timestamp, work::KeyWrap};
use sotto_crypto::{AeadKey, wrap::WrapBinding};
use sotto_keystore::KeystoreError;

use super::{Inner, Keys, OPENER, lock, outcome_of};
use crate::{
    domain::{
        bucket::Contents,
        place::Place,
        tally::{Batch, Deed, Outcome, Use},
    },
    error::KeyError,
};

/// Most wraps of one request.
pub const MAX_WRAPS: usize = 256;

/// Why one wrap is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bucket is dead: what it guarded is deleted.
    Destroyed,
    /// The account may not carry this tenant's messages.
    NotAllowed,
    /// The wrap is malformed or belongs elsewhere.
    Invalid,
    /// The bucket was never made here.
    UnknownBucket,
}

/// What came of one wrap.
#[derive(Debug)]
pub struct Opened {
    /// The key in clear, or why not.
    pub result: Result<AeadKey, Refusal>,
    /// When the bucket dies, if the wrap names one.
    pub dies_at: Option<Timestamp>,
}

impl Keys {
    /// Opens wraps for an account, in the order given; what does not parse as a wrap is `None`.
    ///
    /// # Errors
    /// [`KeyError`], for the request as a whole.
    pub async fn open(
        &self,
        caller: &'static str,
        account: AccountId,
        wraps: Vec<Option<KeyWrap>>,
    ) -> Result<Vec<Opened>, KeyError> {
        let opener = Opener { caller, account };
        let asked = u64::try_from(wraps.len()).unwrap_or(u64::MAX);
        let result = self.try_open(&opener, wraps).await;
        if let Err(error) = &result {
            self.0.count(opener.used(None, outcome_of(error)), asked);
        }
        result
    }

    async fn try_open(&self, opener: &Opener, wraps: Vec<Option<KeyWrap>>) -> Result<Vec<Opened>, KeyError> {
        if opener.caller != OPENER {
            return Err(KeyError::NotThisService);
        }
        if wraps.is_empty() || wraps.len() > MAX_WRAPS {
            return Err(KeyError::Field { field: "wraps", problem: "must be 1 to 256" });
        }
        let keys = u32::try_from(wraps.len()).unwrap_or(u32::MAX);
        let since = self.0.started.elapsed();
        let taken = lock(&self.0.rates).take(&opener.account, keys, since);
        taken.map_err(|retry_after| KeyError::TooMany { retry_after })?;
        let inner = Arc::clone(&self.0);
        let opener = opener.clone();
        let open = move || inner.open_all(&opener, wraps);
        tokio::task::spawn_blocking(open).await.map_err(KeyError::Blocking)?
    }
}

/// Who wants wraps opened.
#[derive(Clone)]
struct Opener {
    caller: &'static str,
    account: AccountId,
}

impl Opener {
    fn used(&self, tenant: Option<TenantId>, outcome: Outcome) -> Use {
        let deed = Deed::Open { account: Some(self.account.clone()) };
        Use { caller: self.caller, deed, tenant, outcome }
    }
}

/// On blocking threads: the keystore may wait for an HSM.
impl Inner {
    fn open_all(&self, opener: &Opener, wraps: Vec<Option<KeyWrap>>) -> Result<Vec<Opened>, KeyError> {
        let mut counts = Batch::default();
        // A request often names one dead bucket many times.
        let mut dead: HashMap<Place, Refusal> = HashMap::new();
        let mut opened = Vec::with_capacity(wraps.len());
        for wrap in wraps {
            let one = match &wrap {
                Some(wrap) => self.open_one(&opener.account, wrap, &mut dead)?,
                None => Opened { result: Err(Refusal::Invalid), dies_at: None },
            };
            let outcome = one.result.as_ref().map_or_else(|refusal| refusal.outcome(), |_| Outcome::Ok);
            counts.add(opener.used(wrap.map(|wrap| wrap.tenant), outcome));
            opened.push(one);
        }
        for (one, keys) in counts {
            self.count(one, keys);
        }
        Ok(opened)
    }

    /// Every check, on every wrap. The tenant that the policy judges is the one that the wrap's tag proves.
    fn open_one(
        &self,
        account: &AccountId,
        wrap: &KeyWrap,
        dead: &mut HashMap<Place, Refusal>,
    ) -> Result<Opened, KeyError> {
        let refused = |refusal, dies_at| Ok(Opened { result: Err(refusal), dies_at });
        if !self.deps.policy.allows(account, &wrap.tenant) {
            return refused(Refusal::NotAllowed, None);
        }
        let fits = |place: &Place| {
            place.bucket.contents() == Contents::Messages(wrap.class) && place.is_for(&wrap.tenant)
        };
        let place = match wrap.bucket.parse::<Place>() {
            Ok(place) if fits(&place) => place,
            Ok(_) | Err(_) => return refused(Refusal::Invalid, None),
        };
        let dies_at = Some(place.bucket.dies_at());
        let now = self.now().at;
        if place.bucket.is_dead(now) {
            // Its key may still be in the file: the next sweep is seconds away. Nothing opens with it any more.
            let refusal = match dead.get(&place) {
                Some(refusal) => *refusal,
                None => self.refusal_of_dead(&place, now)?,
            };
            dead.insert(place, refusal);
            return refused(refusal, dies_at);
        }
        let result = match self.deps.keys.unwrap_session_key(&self.binding(wrap), &wrap.wrapped) {
            Ok(key) => Ok(key),
            Err(KeystoreError::BucketDestroyed) => Err(Refusal::Destroyed),
            Err(KeystoreError::BucketUnknown) => Err(Refusal::UnknownBucket),
            Err(KeystoreError::Unwrap(_)) => Err(Refusal::Invalid),
            Err(error) => return Err(KeyError::Keystore(error)),
        };
        Ok(Opened { result, dies_at })
    }

    fn refusal_of_dead(&self, place: &Place, now: Timestamp) -> Result<Refusal, KeyError> {
        match self.bury(&place.to_string(), now) {
            Ok(_) => Ok(Refusal::Destroyed),
            Err(KeystoreError::BucketUnknown) => Ok(Refusal::UnknownBucket),
            Err(error) => Err(KeyError::Keystore(error)),
        }
    }

    fn binding<'a>(&'a self, wrap: &'a KeyWrap) -> WrapBinding<'a> {
        WrapBinding {
            cell: self.deps.cell.as_str(),
            tenant: wrap.tenant.as_str(),
            class: wrap.class.name(),
            bucket: &wrap.bucket,
            key_id: &wrap.key_id,
        }
    }
}

impl Refusal {
    const fn outcome(self) -> Outcome {
        match self {
            Self::Destroyed => Outcome::Destroyed,
            Self::NotAllowed => Outcome::NotAllowed,
            Self::Invalid => Outcome::Invalid,
            Self::UnknownBucket => Outcome::UnknownBucket,
        }
    }
}
