//! Messages from handsets.

use sotto_core::{
    MessageId, Timestamp,
    inbound::{Inbound, InboundWrap, OptOut},
    work::Envelope,
};

use super::{WireError, bucket_name, parse, wrapped_key};
use crate::pipeline::v1 as wire;

impl From<&InboundWrap> for wire::InboundWrap {
    fn from(wrap: &InboundWrap) -> Self {
        Self {
            key_id: wrap.key_id.to_vec().into(),
            tenant: wrap.tenant.to_string(),
            bucket: wrap.bucket.clone(),
            wrapped: wrap.wrapped.clone(),
        }
    }
}

impl TryFrom<wire::InboundWrap> for InboundWrap {
    type Error = WireError;
    fn try_from(wrap: wire::InboundWrap) -> Result<Self, WireError> {
        Ok(Self {
            key_id: wrap.key_id.as_ref().try_into().map_err(|_| WireError::Invalid("key_wrap.key_id"))?,
            tenant: parse("key_wrap.tenant", &wrap.tenant)?,
            bucket: bucket_name(wrap.bucket)?,
            wrapped: wrapped_key(wrap.wrapped)?,
        })
    }
}

impl From<&Inbound> for wire::InboundItem {
    fn from(item: &Inbound) -> Self {
        Self {
            message_id: item.id.as_bytes().to_vec().into(),
            tenant: item.tenant.to_string(),
            account: item.account.to_string(),
            received_at_ms: item.received_at.unix_millis(),
            envelope: item.envelope.0.clone(),
            opt_out: item.opt_out.map(OptOut::name).unwrap_or_default().to_owned(),
        }
    }
}

impl TryFrom<wire::InboundItem> for Inbound {
    type Error = WireError;
    fn try_from(item: wire::InboundItem) -> Result<Self, WireError> {
        let keyword = |word: &str| word.parse().map_err(|_| WireError::Invalid("inbound.opt_out"));
        Ok(Self {
            id: MessageId::from_bytes(&item.message_id).map_err(|_| WireError::Invalid("message_id"))?,
            tenant: parse("inbound.tenant", &item.tenant)?,
            account: parse("inbound.account", &item.account)?,
            received_at: Timestamp::from_unix_millis(item.received_at_ms),
            envelope: Envelope(item.envelope),
            opt_out: if item.opt_out.is_empty() { None } else { Some(keyword(&item.opt_out)?) },
        })
    }
}
