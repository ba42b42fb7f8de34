//! The index: keys that make and seal its entries, and the way from a number's pseudonyms to its messages. There is no other.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use sotto_core::{
    MessageId, TenantId, Timestamp,
    index::{CLASS, IndexKey, Indexed, Pseudonym},
};
use sotto_crypto::{
    AeadKey, Zeroizing,
    envelope::{self, Binding},
    random::random_array,
};
use sotto_keystore::KeystoreError;
use sotto_proto::IndexDelivery;
use tokio::time::Instant;

use super::{Inner, Keys, MAKER, outcome_of};
use crate::{
    domain::{
        bucket::Contents,
        place::Place,
        tally::{Deed, Outcome, Use},
    },
    error::KeyError,
    ports::AuditEntry,
};

/// What the key of a tenant's pseudonyms is derived for.
const PSEUDONYM_KEY: &str = "sotto.index.pseudonym-key.v1";

/// What a key that seals entries is derived for.
const SEALING_KEY: &str = "sotto.index.sealing-key.v1";

/// Whose numbers the pseudonyms stand for: a key has one purpose.
const RECIPIENT: &[u8] = b"recipient";

/// The version of what is sealed ([`Indexed`]).
const SCHEMA: u16 = 1;

/// Pseudonyms of one request: far more than buckets that live.
pub const MOST_PSEUDONYMS: usize = 1_024;

/// A call reads so many batches at most,
const MOST_BATCHES: usize = 20_000;

/// for so long,
const LONGEST: Duration = Duration::from_secs(3);

/// and ends after the batch with which it has found so many messages.
const ENOUGH: usize = 1_000;

/// Keys that seal entries, held while they are read: those of a cell within some hours.
const MOST_SEALING_KEYS: usize = 4_096;

/// What one ingress process makes and seals index entries of one tenant with.
#[derive(Debug)]
pub struct IndexKeys {
    /// The id of the key that seals, and the bucket that both follow from.
    pub key: IndexKey,
    /// Seals.
    pub sealing: AeadKey,
    /// Makes pseudonyms.
    pub pseudonyms: AeadKey,
    /// Use neither after this time.
    pub seal_until: Timestamp,
}

/// The key that makes a tenant's pseudonyms in a bucket.
#[derive(Debug)]
pub struct PseudonymKey {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: AeadKey,
}

/// Whose messages are asked for.
#[derive(Debug)]
pub struct Asked {
    /// The tenant.
    pub tenant: TenantId,
    /// The client that asks.
    pub client: String,
    /// The number's pseudonyms by bucket, the one that is used now first; none: no bucket lives.
    pub pseudonyms: Vec<(String, Pseudonym)>,
    /// Where to go on; 0: at the beginning.
    pub from: u64,
}

/// What was found in a part of the index.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FoundHere {
    /// Messages and the hours in which they were accepted, as they are stored.
    pub messages: Vec<(MessageId, u32)>,
    /// Where to go on; none: this was all.
    pub next: Option<u64>,
}

impl Keys {
    /// Gives the keys of index entries. The bucket key is on disk before this returns.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn make_index(&self, caller: &'static str, tenant: TenantId) -> Result<IndexKeys, KeyError> {
        let deed = Deed::Make { contents: Contents::Index };
        let result = match caller {
            MAKER => self.blocking_for(tenant.clone(), Inner::make_index).await,
            _ => Err(KeyError::NotThisService),
        };
        self.0.counted(caller, deed, tenant, 1, &result);
        result
    }

    /// The keys that make a tenant's pseudonyms in every living bucket, the one that is used now first.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn pseudonym_keys(
        &self,
        caller: &'static str,
        tenant: TenantId,
    ) -> Result<Vec<PseudonymKey>, KeyError> {
        let result = match caller {
            MAKER => self.blocking_for(tenant.clone(), Inner::pseudonym_keys).await,
            _ => Err(KeyError::NotThisService),
        };
        let keys = result.as_ref().map_or(1, Vec::len);
        self.0.counted(caller, Deed::ListPseudonymKeys, tenant, keys, &result);
        result
    }

    /// Reads a part of the index for these pseudonyms, and tells the audit log that somebody asked.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn find(&self, caller: &'static str, asked: Asked) -> Result<FoundHere, KeyError> {
        let asked = Arc::new(asked);
        let result = match caller {
            MAKER => self.try_find(&asked).await,
            _ => Err(KeyError::NotThisService),
        };
        self.0.tell_look_up(caller, &asked, &result);
        result
    }

    async fn try_find(&self, asked: &Arc<Asked>) -> Result<FoundHere, KeyError> {
        let begun = Instant::now();
        let mut found = FoundHere::default();
        if asked.pseudonyms.is_empty() {
            return Ok(found);
        }
        let mut opener = Opener { asked: Arc::clone(asked), keys: HashMap::new() };
        let (mut from, mut batches) = (asked.from, 0);
        loop {
            let part = self.0.deps.index.read(from).await.map_err(KeyError::Index)?;
            batches += part.batches.len();
            let read = self.blocking(move |inner| inner.open_part(opener, part.batches)).await?;
            found.messages.extend(read.messages);
            opener = read.opener;
            if let Some(next) = read.next {
                found.next = Some(next);
                return Ok(found);
            }
            let Some(next) = part.next else { return Ok(found) };
            from = next;
            if found.messages.len() >= ENOUGH || batches >= MOST_BATCHES || begun.elapsed() >= LONGEST {
                found.next = Some(next);
                return Ok(found);
            }
        }
    }

    async fn blocking_for<T: Send + 'static>(
        &self,
        tenant: TenantId,
        work: fn(&Inner, &TenantId) -> Result<T, KeyError>,
    ) -> Result<T, KeyError> {
        self.blocking(move |inner| work(inner, &tenant)).await
    }
}

/// What opens entries while they are read.
struct Opener {
    asked: Arc<Asked>,
    /// By bucket and id; none of a bucket that is dead.
    keys: HashMap<IndexKey, Option<AeadKey>>,
}

/// What was found in some batches.
struct Read {
    messages: Vec<(MessageId, u32)>,
    /// Where to go on, if this was enough.
    next: Option<u64>,
    opener: Opener,
}

/// On blocking threads: the keystore waits for the disk.
impl Inner {
    fn make_index(&self, tenant: &TenantId) -> Result<IndexKeys, KeyError> {
        let now = self.now().at;
        let span = self.deps.retention.index_span(now).map_err(KeyError::Span)?;
        let owner = self.deps.own_keys.contains(tenant).then(|| tenant.clone());
        let first = Place { bucket: span.bucket, owner };
        let key_id = random_array().map_err(KeyError::Crypto)?;
        let make = || {
            let place = self.current(&first).ok_or(KeyError::Spent)?;
            let bucket = place.to_string();
            self.create(&bucket, place.bucket, now).map_err(KeyError::Keystore)?;
            let key = IndexKey { key_id, tenant: tenant.clone(), bucket };
            let sealing = self.sealing_key(&key).map_err(KeyError::Keystore)?;
            let pseudonyms = self.pseudonym_key(&key.bucket, tenant).map_err(KeyError::Keystore)?;
            Ok(IndexKeys { key, sealing, pseudonyms, seal_until: span.seal_until })
        };
        match make() {
            // Destroyed by an operator since it was looked up: there is another one now.
            Err(KeyError::Keystore(KeystoreError::BucketDestroyed)) => make(),
            made => made,
        }
    }

    fn pseudonym_keys(&self, tenant: &TenantId) -> Result<Vec<PseudonymKey>, KeyError> {
        let now = self.now().at;
        let living = self.deps.keys.buckets().map_err(KeyError::Keystore)?;
        let places = living.into_iter().filter_map(|living| living.bucket.parse::<Place>().ok());
        let of_tenant = |place: &Place| {
            place.bucket.contents() == Contents::Index && place.is_for(tenant) && !place.bucket.is_dead(now)
        };
        let mut places: Vec<_> = places.filter(of_tenant).collect();
        places.sort_by(|a, b| b.cmp(a));
        let mut keys = Vec::with_capacity(places.len());
        for place in places {
            let bucket = place.to_string();
            match self.pseudonym_key(&bucket, tenant) {
                Ok(key) => keys.push(PseudonymKey { bucket, key }),
                // It died while we looked.
                Err(KeystoreError::BucketDestroyed) => {}
                Err(error) => return Err(KeyError::Keystore(error)),
            }
        }
        Ok(keys)
    }

    fn pseudonym_key(&self, bucket: &str, tenant: &TenantId) -> Result<AeadKey, KeystoreError> {
        let fields = [self.deps.cell.as_str().as_bytes(), tenant.as_str().as_bytes(), RECIPIENT];
        self.derived(bucket, PSEUDONYM_KEY, &fields)
    }

    fn sealing_key(&self, key: &IndexKey) -> Result<AeadKey, KeystoreError> {
        let fields = [self.deps.cell.as_str().as_bytes(), key.tenant.as_str().as_bytes(), &key.key_id];
        self.derived(&key.bucket, SEALING_KEY, &fields)
    }

    pub(super) fn derived(
        &self,
        bucket: &str,
        purpose: &str,
        fields: &[&[u8]],
    ) -> Result<AeadKey, KeystoreError> {
        let key: Zeroizing<[u8; 32]> = self.deps.keys.derive_key(bucket, purpose, fields)?;
        Ok(AeadKey::from_bytes(*key))
    }

    fn open_part(
        &self,
        mut opener: Opener,
        batches: Vec<(u64, Vec<IndexDelivery>)>,
    ) -> Result<Read, KeyError> {
        let now = self.now().at;
        let asked = Arc::clone(&opener.asked);
        let wanted: HashMap<&str, Pseudonym> =
            asked.pseudonyms.iter().map(|(bucket, pseudonym)| (bucket.as_str(), *pseudonym)).collect();
        let dead: HashSet<&str> =
            wanted.keys().copied().filter(|bucket| !lives(bucket, &asked.tenant, now)).collect();
        let mut messages = Vec::new();
        let mut batches = VecDeque::from(batches);
        while let Some((sequence, items)) = batches.pop_front() {
            for IndexDelivery { entry, key } in items {
                let bucket = key.bucket.as_str();
                let Some(pseudonym) = wanted.get(bucket).filter(|_| key.tenant == asked.tenant) else {
                    continue;
                };
                if dead.contains(bucket) {
                    continue;
                }
                let Some(sealing) = self.held(&mut opener, &key)? else { continue };
                let binding = Binding {
                    cell: self.deps.cell.as_str(),
                    tenant: key.tenant.as_str(),
                    class: CLASS,
                    message_id: entry.message.as_bytes(),
                    schema: SCHEMA,
                };
                // What does not open was sealed by nobody who had a key of ours.
                let Ok(opened) = envelope::open(sealing, &binding, &entry.envelope.0) else { continue };
                if let Some(indexed) = Indexed::from_bytes(&opened)
                    && indexed.pseudonym == *pseudonym
                {
                    messages.push((entry.message, indexed.hour));
                }
            }
            if messages.len() >= ENOUGH && !batches.is_empty() {
                return Ok(Read { messages, next: Some(sequence + 1), opener });
            }
        }
        Ok(Read { messages, next: None, opener })
    }

    /// The key that sealed an entry; none if its bucket is dead.
    fn held<'a>(&self, opener: &'a mut Opener, key: &IndexKey) -> Result<Option<&'a AeadKey>, KeyError> {
        if opener.keys.len() >= MOST_SEALING_KEYS {
            opener.keys.clear();
        }
        if !opener.keys.contains_key(key) {
            let sealing = match self.sealing_key(key) {
                Ok(sealing) => Some(sealing),
                Err(KeystoreError::BucketDestroyed | KeystoreError::BucketUnknown) => None,
                Err(error) => return Err(KeyError::Keystore(error)),
            };
            opener.keys.insert(key.clone(), sealing);
        }
        Ok(opener.keys.get(key).and_then(Option::as_ref))
    }

    fn counted<T>(
        &self,
        caller: &'static str,
        deed: Deed,
        tenant: TenantId,
        keys: usize,
        result: &Result<T, KeyError>,
    ) {
        let outcome = result.as_ref().map_or_else(outcome_of, |_| Outcome::Ok);
        let keys = u64::try_from(keys).unwrap_or(u64::MAX);
        self.count(Use { caller, deed, tenant: Some(tenant), outcome }, keys);
    }

    /// Who asked, for whom by today's pseudonym, and how many were found. Never a number.
    fn tell_look_up(&self, caller: &'static str, asked: &Asked, result: &Result<FoundHere, KeyError>) {
        let subject = asked.pseudonyms.first().map(|(_, pseudonym)| hex::encode(pseudonym.0));
        let found = result.as_ref().map_or(0, |found| found.messages.len());
        let object = format!(
            "client={},subject={},from={},found={found}",
            asked.client,
            subject.unwrap_or_default(),
            asked.from
        );
        self.deps.audit.tell(AuditEntry {
            at: self.deps.clock.now(),
            action: "subject.looked_up",
            actor: caller,
            tenant: Some(asked.tenant.clone()),
            object,
            outcome: result.as_ref().map_or_else(outcome_of, |_| Outcome::Ok).name(),
        });
    }
}

/// Whether a bucket is a living one that this tenant's entries may hang on.
fn lives(bucket: &str, tenant: &TenantId, now: Timestamp) -> bool {
    bucket.parse::<Place>().is_ok_and(|place| {
        place.bucket.contents() == Contents::Index && place.is_for(tenant) && !place.bucket.is_dead(now)
    })
}
