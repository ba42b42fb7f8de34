//! Batches: how many items travel in one broker message.

use std::{collections::HashMap, sync::Arc};

use prost::Message;
use sotto_core::{
    inbound::{Inbound, InboundWrap},
    index::{IndexEntry, IndexKey},
    work::{KeyWrap, WorkItem},
};

use crate::{
    WireError,
    convert::{LogEvent, envelope_key_id},
    pipeline::v1 as wire,
};

/// A message on a hot subject: 1 to N items in one broker message.
pub trait Batch: Message + Default + Send + Sync + 'static {
    /// One item, complete in memory.
    type Item: Clone + Send + Sync + 'static;

    /// Builds the wire batch; what items share is carried once.
    fn from_items(items: &[Self::Item]) -> Self;

    /// Takes it apart. An item that does not parse is an error that holds nothing of its bytes.
    fn into_items(self) -> Vec<Result<Self::Item, WireError>>;

    /// An upper estimate of an item's encoded size in bytes.
    fn item_size(item: &Self::Item) -> usize;
}

/// A work item and the wrap of the key that opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkDelivery {
    /// The item.
    pub item: WorkItem,
    /// The wrap of its envelope's session key.
    pub wrap: Arc<KeyWrap>,
}

impl Batch for wire::WorkBatch {
    type Item = WorkDelivery;

    fn from_items(items: &[WorkDelivery]) -> Self {
        let mut batch = Self::default();
        let mut seen = Vec::new();
        for delivery in items {
            // A batch rarely holds more than a handful of keys: a scan beats a map.
            if !seen.contains(&delivery.wrap.key_id) {
                seen.push(delivery.wrap.key_id);
                batch.key_wraps.push(wire::KeyWrap::from(delivery.wrap.as_ref()));
            }
            batch.items.push(wire::WorkItem::from(&delivery.item));
        }
        batch
    }

    fn into_items(self) -> Vec<Result<WorkDelivery, WireError>> {
        let mut wraps: HashMap<[u8; 16], Result<Arc<KeyWrap>, WireError>> = HashMap::new();
        for wrap in self.key_wraps {
            let key_id = <[u8; 16]>::try_from(wrap.key_id.as_ref());
            if let Ok(key_id) = key_id {
                wraps.insert(key_id, KeyWrap::try_from(wrap).map(Arc::new));
            }
        }
        self.items
            .into_iter()
            .map(|item| {
                let item = WorkItem::try_from(item)?;
                let key_id = envelope_key_id(&item.envelope)?;
                let wrap = wraps.get(&key_id).cloned().ok_or(WireError::Missing("key_wraps"))??;
                Ok(WorkDelivery { item, wrap })
            })
            .collect()
    }

    fn item_size(item: &WorkDelivery) -> usize {
        item.item.envelope.0.len() + 256 + item.item.history.len() * 64
    }
}

/// A message from a handset and the wrap of the key that sealed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundDelivery {
    /// The message.
    pub item: Inbound,
    /// The wrap of its envelope's session key.
    pub wrap: Arc<InboundWrap>,
}

impl Batch for wire::InboundBatch {
    type Item = InboundDelivery;

    fn from_items(items: &[InboundDelivery]) -> Self {
        let mut batch = Self::default();
        let mut seen = Vec::new();
        for delivery in items {
            if !seen.contains(&delivery.wrap.key_id) {
                seen.push(delivery.wrap.key_id);
                batch.key_wraps.push(wire::InboundWrap::from(delivery.wrap.as_ref()));
            }
            batch.items.push(wire::InboundItem::from(&delivery.item));
        }
        batch
    }

    fn into_items(self) -> Vec<Result<InboundDelivery, WireError>> {
        let mut wraps: HashMap<[u8; 16], Result<Arc<InboundWrap>, WireError>> = HashMap::new();
        for wrap in self.key_wraps {
            if let Ok(key_id) = <[u8; 16]>::try_from(wrap.key_id.as_ref()) {
                wraps.insert(key_id, InboundWrap::try_from(wrap).map(Arc::new));
            }
        }
        self.items
            .into_iter()
            .map(|item| {
                let item = Inbound::try_from(item)?;
                let key_id = envelope_key_id(&item.envelope)?;
                let wrap = wraps.get(&key_id).cloned().ok_or(WireError::Missing("key_wraps"))??;
                Ok(InboundDelivery { item, wrap })
            })
            .collect()
    }

    fn item_size(item: &InboundDelivery) -> usize {
        // With a wrap of its own.
        item.item.envelope.0.len() + 512
    }
}

/// An entry of the index and the key that sealed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexDelivery {
    /// The entry.
    pub entry: IndexEntry,
    /// The key of its envelope.
    pub key: Arc<IndexKey>,
}

impl Batch for wire::IndexBatch {
    type Item = IndexDelivery;

    fn from_items(items: &[IndexDelivery]) -> Self {
        let mut groups: Vec<wire::IndexGroup> = Vec::new();
        for IndexDelivery { entry, key } in items {
            let entry = wire::IndexEntry::from(entry);
            match groups.iter_mut().find(|group| group.key_id.as_ref() == key.key_id) {
                Some(group) => group.entries.push(entry),
                None => groups.push(wire::IndexGroup { entries: vec![entry], ..key.as_ref().into() }),
            }
        }
        Self { groups }
    }

    fn into_items(self) -> Vec<Result<IndexDelivery, WireError>> {
        let of_group = |mut group: wire::IndexGroup| {
            let entries = std::mem::take(&mut group.entries);
            let key = IndexKey::try_from(group).map(Arc::new);
            entries.into_iter().map(move |entry| {
                Ok(IndexDelivery { entry: IndexEntry::try_from(entry)?, key: key.clone()? })
            })
        };
        self.groups.into_iter().flat_map(of_group).collect()
    }

    fn item_size(item: &IndexDelivery) -> usize {
        // With a key of its own.
        item.entry.envelope.0.len() + 192
    }
}

impl Batch for wire::EventBatch {
    type Item = LogEvent;

    fn from_items(items: &[LogEvent]) -> Self {
        Self { events: items.iter().map(wire::Event::from).collect() }
    }

    fn into_items(self) -> Vec<Result<LogEvent, WireError>> {
        self.events.into_iter().map(LogEvent::try_from).collect()
    }

    fn item_size(_: &LogEvent) -> usize {
        256
    }
}

impl Batch for wire::AuditBatch {
    type Item = wire::AuditRecord;

    fn from_items(items: &[wire::AuditRecord]) -> Self {
        Self { records: items.to_vec() }
    }

    fn into_items(self) -> Vec<Result<wire::AuditRecord, WireError>> {
        self.records
            .into_iter()
            .map(|record| {
                if record.producer.is_empty() || record.sequence == 0 {
                    Err(WireError::Missing("producer and sequence"))
                } else {
                    Ok(record)
                }
            })
            .collect()
    }

    fn item_size(record: &wire::AuditRecord) -> usize {
        record.encoded_len() + 8
    }
}
