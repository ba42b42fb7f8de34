//! Work items and key wraps.

use sotto_core::{
    Facts, Timestamp,
    work::{Attempt, AttemptEnd, Envelope, KeyWrap, WorkItem},
};

use super::{WireError, attempt_number, bucket_name, parse, part_number, wrapped_key};
use crate::{message::v1 as public, pipeline::v1 as wire};

/// The session key id in an envelope's header: bytes 2 to 17 (docs/formats/envelope.md).
pub(crate) fn envelope_key_id(envelope: &Envelope) -> Result<[u8; 16], WireError> {
    envelope.0.get(2..18).and_then(|id| <[u8; 16]>::try_from(id).ok()).ok_or(WireError::Invalid("envelope"))
}

impl From<&KeyWrap> for wire::KeyWrap {
    fn from(wrap: &KeyWrap) -> Self {
        Self {
            key_id: wrap.key_id.to_vec().into(),
            tenant: wrap.tenant.to_string(),
            class: public::MessageClass::from(wrap.class).into(),
            bucket: wrap.bucket.clone(),
            wrapped: wrap.wrapped.clone(),
        }
    }
}

impl TryFrom<wire::KeyWrap> for KeyWrap {
    type Error = WireError;
    fn try_from(wrap: wire::KeyWrap) -> Result<Self, WireError> {
        let class = wrap.class().try_into()?;
        Ok(Self {
            key_id: wrap.key_id.as_ref().try_into().map_err(|_| WireError::Invalid("key_wrap.key_id"))?,
            tenant: parse("key_wrap.tenant", &wrap.tenant)?,
            class,
            bucket: bucket_name(wrap.bucket)?,
            wrapped: wrapped_key(wrap.wrapped)?,
        })
    }
}

impl From<AttemptEnd> for wire::AttemptEnd {
    fn from(end: AttemptEnd) -> Self {
        match end {
            AttemptEnd::Throttled => Self::Throttled,
            AttemptEnd::Refused => Self::Refused,
            AttemptEnd::LinkDown => Self::LinkDown,
            AttemptEnd::NotAllowed => Self::NotAllowed,
        }
    }
}

impl TryFrom<wire::AttemptEnd> for AttemptEnd {
    type Error = WireError;
    fn try_from(end: wire::AttemptEnd) -> Result<Self, WireError> {
        match end {
            wire::AttemptEnd::Unspecified => Err(WireError::Missing("end")),
            wire::AttemptEnd::Throttled => Ok(Self::Throttled),
            wire::AttemptEnd::Refused => Ok(Self::Refused),
            wire::AttemptEnd::LinkDown => Ok(Self::LinkDown),
            wire::AttemptEnd::NotAllowed => Ok(Self::NotAllowed),
        }
    }
}

impl From<&WorkItem> for wire::WorkItem {
    fn from(item: &WorkItem) -> Self {
        Self {
            facts: Some((&item.facts).into()),
            envelope: item.envelope.0.clone(),
            attempt: u32::from(item.attempt),
            account: item.account.as_ref().map(ToString::to_string).unwrap_or_default(),
            parts: item.parts.iter().map(|part| u32::from(*part)).collect(),
            history: item
                .history
                .iter()
                .map(|attempt| wire::Attempt {
                    attempt: u32::from(attempt.number),
                    account: attempt.account.to_string(),
                    end: wire::AttemptEnd::from(attempt.end).into(),
                    status: attempt.status,
                })
                .collect(),
            not_before_ms: item.not_before.map_or(0, Timestamp::unix_millis),
            pinned: item.pinned,
        }
    }
}

impl TryFrom<wire::WorkItem> for WorkItem {
    type Error = WireError;
    fn try_from(item: wire::WorkItem) -> Result<Self, WireError> {
        let facts: Facts = item.facts.ok_or(WireError::Missing("facts"))?.try_into()?;
        let parts = item
            .parts
            .iter()
            .map(|part| {
                part_number("parts", *part).and_then(|part| {
                    if part <= facts.parts { Ok(part) } else { Err(WireError::Invalid("parts")) }
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if item.history.len() > Self::MAX_HISTORY {
            return Err(WireError::Invalid("history"));
        }
        let history = item
            .history
            .into_iter()
            .map(|attempt| {
                let end = attempt.end().try_into()?;
                Ok(Attempt {
                    number: attempt_number(attempt.attempt)?,
                    account: parse("history.account", &attempt.account)?,
                    end,
                    status: attempt.status,
                })
            })
            .collect::<Result<Vec<_>, WireError>>()?;
        let account = if item.account.is_empty() { None } else { Some(parse("account", &item.account)?) };
        let not_before = (item.not_before_ms != 0).then(|| Timestamp::from_unix_millis(item.not_before_ms));
        Ok(Self {
            facts,
            envelope: Envelope(item.envelope),
            attempt: attempt_number(item.attempt)?,
            account,
            parts,
            history,
            not_before,
            pinned: item.pinned,
        })
    }
}
