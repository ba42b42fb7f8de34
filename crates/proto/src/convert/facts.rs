//! Facts and the enums they use.

use sotto_core::{
    Facts, Lane, MessageClass, MessageId, Timestamp,
    number::{Country, OperatorRange},
    text::Encoding,
};

use super::{WireError, parse};
use crate::{message::v1 as public, pipeline::v1 as wire};

impl From<MessageClass> for public::MessageClass {
    fn from(class: MessageClass) -> Self {
        match class {
            MessageClass::Otp => Self::Otp,
            MessageClass::Transactional => Self::Transactional,
            MessageClass::Promotional => Self::Promotional,
            MessageClass::AdInvite => Self::AdInvite,
        }
    }
}

impl TryFrom<public::MessageClass> for MessageClass {
    type Error = WireError;
    fn try_from(class: public::MessageClass) -> Result<Self, WireError> {
        match class {
            public::MessageClass::Unspecified => Err(WireError::Missing("class")),
            public::MessageClass::Otp => Ok(Self::Otp),
            public::MessageClass::Transactional => Ok(Self::Transactional),
            public::MessageClass::Promotional => Ok(Self::Promotional),
            public::MessageClass::AdInvite => Ok(Self::AdInvite),
        }
    }
}

impl From<Encoding> for public::Encoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Gsm7 => Self::Gsm7,
            Encoding::Ucs2 => Self::Ucs2,
        }
    }
}

impl TryFrom<public::Encoding> for Encoding {
    type Error = WireError;
    fn try_from(encoding: public::Encoding) -> Result<Self, WireError> {
        match encoding {
            public::Encoding::Unspecified => Err(WireError::Missing("encoding")),
            public::Encoding::Gsm7 => Ok(Self::Gsm7),
            public::Encoding::Ucs2 => Ok(Self::Ucs2),
        }
    }
}

impl From<Lane> for wire::Lane {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Otp => Self::Otp,
            Lane::Transactional => Self::Transactional,
            Lane::Promotional => Self::Promotional,
        }
    }
}

impl From<&Facts> for wire::Facts {
    fn from(facts: &Facts) -> Self {
        Self {
            message_id: facts.message.as_bytes().to_vec().into(),
            tenant: facts.tenant.to_string(),
            class: public::MessageClass::from(facts.class).into(),
            country: facts.country.to_string(),
            operator_range: facts.operator_range.to_string(),
            encoding: public::Encoding::from(facts.encoding).into(),
            parts: u32::from(facts.parts),
            units: facts.units,
            accepted_at_ms: facts.accepted_at.unix_millis(),
            expires_at_ms: facts.expires_at.unix_millis(),
            content_mac: facts.content_mac.map(|mac| mac.to_vec().into()).unwrap_or_default(),
            send_at_ms: facts.send_at.map_or(0, Timestamp::unix_millis),
        }
    }
}

impl TryFrom<wire::Facts> for Facts {
    type Error = WireError;
    fn try_from(facts: wire::Facts) -> Result<Self, WireError> {
        let content_mac = if facts.content_mac.is_empty() {
            None
        } else {
            let mac = facts.content_mac.as_ref().try_into();
            Some(mac.map_err(|_| WireError::Invalid("facts.content_mac"))?)
        };
        Ok(Self {
            message: MessageId::from_bytes(&facts.message_id)
                .map_err(|_| WireError::Invalid("facts.message_id"))?,
            tenant: parse("facts.tenant", &facts.tenant)?,
            class: facts.class().try_into()?,
            country: parse::<Country>("facts.country", &facts.country)?,
            operator_range: parse::<OperatorRange>("facts.operator_range", &facts.operator_range)?,
            encoding: facts.encoding().try_into()?,
            parts: u8::try_from(facts.parts)
                .ok()
                .filter(|parts| (1..=Self::MAX_PARTS).contains(parts))
                .ok_or(WireError::Invalid("facts.parts"))?,
            units: facts.units,
            accepted_at: Timestamp::from_unix_millis(facts.accepted_at_ms),
            expires_at: Timestamp::from_unix_millis(facts.expires_at_ms),
            content_mac,
            send_at: (facts.send_at_ms != 0).then(|| Timestamp::from_unix_millis(facts.send_at_ms)),
        })
    }
}
