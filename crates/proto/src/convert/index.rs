//! Entries of the index.

use sotto_core::{
    MessageId,
    index::{IndexEntry, IndexKey},
    work::Envelope,
};

use super::{WireError, bucket_name, parse};
use crate::pipeline::v1 as wire;

impl From<&IndexKey> for wire::IndexGroup {
    fn from(key: &IndexKey) -> Self {
        Self {
            key_id: key.key_id.to_vec().into(),
            tenant: key.tenant.to_string(),
            bucket: key.bucket.clone(),
            entries: Vec::new(),
        }
    }
}

impl TryFrom<wire::IndexGroup> for IndexKey {
    type Error = WireError;
    fn try_from(group: wire::IndexGroup) -> Result<Self, WireError> {
        Ok(Self {
            key_id: group.key_id.as_ref().try_into().map_err(|_| WireError::Invalid("index.key_id"))?,
            tenant: parse("index.tenant", &group.tenant)?,
            bucket: bucket_name(group.bucket)?,
        })
    }
}

impl From<&IndexEntry> for wire::IndexEntry {
    fn from(entry: &IndexEntry) -> Self {
        Self { message_id: entry.message.as_bytes().to_vec().into(), envelope: entry.envelope.0.clone() }
    }
}

impl TryFrom<wire::IndexEntry> for IndexEntry {
    type Error = WireError;
    fn try_from(entry: wire::IndexEntry) -> Result<Self, WireError> {
        Ok(Self {
            message: MessageId::from_bytes(&entry.message_id)
                .map_err(|_| WireError::Invalid("message_id"))?,
            envelope: Envelope(entry.envelope),
        })
    }
}
