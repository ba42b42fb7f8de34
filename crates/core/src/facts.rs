//! Derived facts: all that travels in clear about a message (MSG-8, PRV-8, RTE-5).

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    MessageId, TenantId, Timestamp,
    number::{Country, OperatorRange},
    text::Encoding,
};

/// What a message is for. Decides its lane, its retention and whether doubt may lead to a second attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MessageClass {
    /// A one-time code.
    Otp,
    /// A service notice to a customer.
    Transactional,
    /// Consented advertising.
    Promotional,
    /// The one invitation to agree to advertising.
    AdInvite,
}

impl MessageClass {
    /// Every class, in the order of their lanes.
    pub const ALL: [Self; 4] = [Self::Otp, Self::Transactional, Self::Promotional, Self::AdInvite];

    /// The class's name in configuration, key buckets and additional authenticated data.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Otp => "otp",
            Self::Transactional => "transactional",
            Self::Promotional => "promotional",
            Self::AdInvite => "ad-invite",
        }
    }

    /// The lane that messages of this class travel on.
    pub const fn lane(self) -> Lane {
        match self {
            Self::Otp => Lane::Otp,
            Self::Transactional => Lane::Transactional,
            Self::Promotional | Self::AdInvite => Lane::Promotional,
        }
    }
}

impl fmt::Display for MessageClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no class or lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {0}")]
pub struct UnknownWord(&'static str);

impl FromStr for MessageClass {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|class| class.name() == word)
            .ok_or(UnknownWord("otp, transactional, promotional, ad-invite"))
    }
}

/// The priority of a message at every queue: one-time codes before service notices before advertising.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lane {
    /// First.
    Otp,
    /// Second.
    Transactional,
    /// Last.
    Promotional,
}

impl Lane {
    /// Every lane, most urgent first.
    pub const ALL: [Self; 3] = [Self::Otp, Self::Transactional, Self::Promotional];

    /// The lane's name in subjects.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Otp => "otp",
            Self::Transactional => "transactional",
            Self::Promotional => "promotional",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Lane {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|lane| lane.name() == word)
            .ok_or(UnknownWord("otp, transactional, promotional"))
    }
}

/// The derived facts of an accepted message. The INTAKE record that carries them is the accepted event (INV-1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The message.
    pub message: MessageId,
    /// Who sends it.
    pub tenant: TenantId,
    /// What it is for.
    pub class: MessageClass,
    /// The recipient's country.
    pub country: Country,
    /// The recipient's operator block: a hint only, numbers are ported.
    pub operator_range: OperatorRange,
    /// How the text is written.
    pub encoding: Encoding,
    /// Number of parts, 1 to 10.
    pub parts: u8,
    /// Septets or UTF-16 code units of the text.
    pub units: u32,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// After this time it is not handed to a carrier.
    pub expires_at: Timestamp,
    /// Keyed HMAC of the request's content; only with an idempotency key.
    pub content_mac: Option<[u8; 32]>,
    /// It is not handed to a carrier before this time; its validity counts from then.
    pub send_at: Option<Timestamp>,
}

impl Facts {
    /// The most parts one message may have.
    pub const MAX_PARTS: u8 = crate::text::MAX_PARTS;

    /// How far ahead a message may be scheduled.
    pub const MAX_AHEAD: Duration = Duration::from_secs(30 * 24 * 3600);

    /// The lane it travels on.
    pub const fn lane(&self) -> Lane {
        self.class.lane()
    }

    /// When it is to be sent, if that is still to come.
    pub fn scheduled(&self, now: Timestamp) -> Option<Timestamp> {
        self.send_at.filter(|at| *at > now)
    }
}
