//! Subjects as types: `sotto.v1.<cell>.<topic>…`.

use std::fmt;

use sotto_core::{AccountId, CellId, Lane, ShardId, Shards, TenantId};

use crate::Service;

/// The kinds of subject; also the last token of `quarantine.<topic>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Accepted messages.
    Accepted,
    /// Accepted messages that wait for their time.
    Scheduled,
    /// Messages on their way to another attempt.
    Retry,
    /// Messages that wait for an account.
    Waiting,
    /// What happened.
    Event,
    /// What is still needed of what happened, and was trimmed.
    Carried,
    /// Messages from handsets.
    Inbound,
    /// By what a number's messages are found again.
    Index,
    /// Security-relevant acts.
    Audit,
    /// What could not be handled.
    Quarantine,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 10] = [
        Self::Accepted,
        Self::Scheduled,
        Self::Retry,
        Self::Waiting,
        Self::Event,
        Self::Carried,
        Self::Inbound,
        Self::Index,
        Self::Audit,
        Self::Quarantine,
    ];

    /// The word in subjects.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Scheduled => "scheduled",
            Self::Retry => "retry",
            Self::Waiting => "waiting",
            Self::Event => "event",
            Self::Carried => "carried",
            Self::Inbound => "inbound",
            Self::Index => "index",
            Self::Audit => "audit",
            Self::Quarantine => "quarantine",
        }
    }

    fn from_name(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == word)
    }
}

/// The kinds of audit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuditCategory {
    /// Tokens and clients.
    Authentication,
    /// Key creation, unwrap, destruction.
    Keys,
    /// Changes of configuration.
    Configuration,
    /// Payload handling.
    Payload,
    /// Starts and stops.
    Lifecycle,
}

impl AuditCategory {
    /// Every category.
    pub const ALL: [Self; 5] =
        [Self::Authentication, Self::Keys, Self::Configuration, Self::Payload, Self::Lifecycle];

    /// The word in subjects and in `AuditRecord.category`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Keys => "keys",
            Self::Configuration => "configuration",
            Self::Payload => "payload",
            Self::Lifecycle => "lifecycle",
        }
    }
}

/// A subject within a cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// `accepted.<lane>.<shard>`
    Accepted(Lane, ShardId),
    /// `scheduled.<hour>.<second>.<lane>.<shard>`: both since the Unix epoch, the second in which it is to be sent.
    Scheduled(u32, Lane, ShardId),
    /// `retry.<lane>.<shard>`
    Retry(Lane, ShardId),
    /// `waiting.<account>.<lane>`
    Waiting(AccountId, Lane),
    /// `event.<shard>`
    Event(ShardId),
    /// `carried.<shard>`
    Carried(ShardId),
    /// `inbound.<tenant>`
    Inbound(TenantId),
    /// `index.<shard>`
    Index(ShardId),
    /// `audit.<service>.<category>`: a service may tell only its own acts.
    Audit(Service, AuditCategory),
    /// `quarantine.<topic>`
    Quarantine(Topic),
}

impl Subject {
    /// Its topic.
    pub const fn topic(&self) -> Topic {
        match self {
            Self::Accepted(..) => Topic::Accepted,
            Self::Scheduled(..) => Topic::Scheduled,
            Self::Retry(..) => Topic::Retry,
            Self::Waiting(..) => Topic::Waiting,
            Self::Event(..) => Topic::Event,
            Self::Carried(..) => Topic::Carried,
            Self::Inbound(..) => Topic::Inbound,
            Self::Index(..) => Topic::Index,
            Self::Audit(..) => Topic::Audit,
            Self::Quarantine(..) => Topic::Quarantine,
        }
    }

    /// The whole subject as the broker sees it.
    pub fn in_cell(&self, cell: &CellId) -> String {
        prefixed(cell, &self.to_string())
    }

    /// Reads a whole subject; `None` if it is not one of this cell's.
    pub fn parse(cell: &CellId, shards: Shards, subject: &str) -> Option<Self> {
        let mut tokens = subject.strip_prefix(&prefix(cell))?.split('.');
        let topic = Topic::from_name(tokens.next()?)?;
        let shard = |word: &str| {
            let number: u16 = word.parse().ok()?;
            // One shard has one spelling: no leading zeros or signs.
            shards.iter().find(|shard| shard.get() == number).filter(|shard| shard.to_string() == word)
        };
        let parsed = match topic {
            Topic::Accepted => Self::Accepted(tokens.next()?.parse().ok()?, shard(tokens.next()?)?),
            Topic::Scheduled => {
                let (hour, second) = (tokens.next()?, tokens.next()?);
                let read = Self::Scheduled(
                    second.parse().ok()?,
                    tokens.next()?.parse().ok()?,
                    shard(tokens.next()?)?,
                );
                // One spelling each, and the hour is the second's.
                let written = read.to_string();
                let same = written.strip_prefix("scheduled.")?.starts_with(&format!("{hour}.{second}."));
                Some(read).filter(|_| same)?
            }
            Topic::Retry => Self::Retry(tokens.next()?.parse().ok()?, shard(tokens.next()?)?),
            Topic::Waiting => Self::Waiting(tokens.next()?.parse().ok()?, tokens.next()?.parse().ok()?),
            Topic::Event => Self::Event(shard(tokens.next()?)?),
            Topic::Carried => Self::Carried(shard(tokens.next()?)?),
            Topic::Inbound => Self::Inbound(tokens.next()?.parse().ok()?),
            Topic::Index => Self::Index(shard(tokens.next()?)?),
            Topic::Audit => {
                let service = tokens.next()?.parse().ok().filter(|service: &Service| service.is_service())?;
                let word = tokens.next()?;
                Self::Audit(service, AuditCategory::ALL.into_iter().find(|it| it.name() == word)?)
            }
            Topic::Quarantine => Self::Quarantine(Topic::from_name(tokens.next()?)?),
        };
        tokens.next().is_none().then_some(parsed)
    }

    /// Where items of this subject go when they are put back: what was accepted once is not accepted again.
    #[must_use]
    pub fn put_back(&self) -> Self {
        match self {
            Self::Accepted(lane, shard) => Self::Retry(*lane, *shard),
            Self::Retry(..)
            | Self::Scheduled(..)
            | Self::Waiting(..)
            | Self::Event(..)
            | Self::Carried(..)
            | Self::Inbound(..)
            | Self::Index(..)
            | Self::Audit(..)
            | Self::Quarantine(..) => self.clone(),
        }
    }
}

impl fmt::Display for Subject {
    /// Without the cell's prefix.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = self.topic().name();
        match self {
            Self::Accepted(lane, shard) | Self::Retry(lane, shard) => write!(f, "{topic}.{lane}.{shard}"),
            Self::Scheduled(second, lane, shard) => {
                write!(f, "{topic}.{}.{second}.{lane}.{shard}", second / 3600)
            }
            Self::Waiting(account, lane) => write!(f, "{topic}.{account}.{lane}"),
            Self::Event(shard) | Self::Carried(shard) | Self::Index(shard) => write!(f, "{topic}.{shard}"),
            Self::Inbound(tenant) => write!(f, "{topic}.{tenant}"),
            Self::Audit(service, category) => write!(f, "{topic}.{service}.{}", category.name()),
            Self::Quarantine(of) => write!(f, "{topic}.{}", of.name()),
        }
    }
}

/// What clients ask, without the cell's prefix. It is answered and never kept, so it is no [`Subject`].
pub(crate) const SUBMIT: &str = "client.*.submit";

/// The whole subject of a tenant's submissions.
pub(crate) fn submit(cell: &CellId, tenant: &TenantId) -> String {
    format!("{}client.{tenant}.submit", prefix(cell))
}

/// Whose submissions a whole subject carries.
pub(crate) fn submitter(cell: &CellId, subject: &str) -> Option<TenantId> {
    let rest = subject.strip_prefix(&prefix(cell))?.strip_prefix("client.")?;
    rest.strip_suffix(".submit")?.parse().ok()
}

/// A subject of a cell, or a pattern of them, from how the list of streams writes it.
pub(crate) fn prefixed(cell: &CellId, written: &str) -> String {
    format!("{}{written}", prefix(cell))
}

/// `sotto.v1.<cell>.`
pub(crate) fn prefix(cell: &CellId) -> String {
    format!("sotto.v1.{cell}.")
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    #[test]
    fn subjects_survive_text() {
        let cell: CellId = "vn".parse().unwrap();
        let shards = Shards::new(NonZeroU16::new(12).unwrap());
        let shard = shards.iter().last().unwrap();
        let account: AccountId = "viettel-otp".parse().unwrap();
        for subject in [
            Subject::Accepted(Lane::Otp, shard),
            Subject::Scheduled(1_795_493_815, Lane::Promotional, shard),
            Subject::Retry(Lane::Promotional, shard),
            Subject::Waiting(account, Lane::Transactional),
            Subject::Event(shard),
            Subject::Carried(shard),
            Subject::Inbound("acme".parse().unwrap()),
            Subject::Audit(Service::Carrier, AuditCategory::Keys),
            Subject::Quarantine(Topic::Waiting),
        ] {
            let text = subject.in_cell(&cell);
            assert!(text.starts_with("sotto.v1.vn."));
            assert_eq!(Subject::parse(&cell, shards, &text), Some(subject));
        }
    }

    #[test]
    fn submissions_name_their_tenant() {
        let cell: CellId = "vn".parse().unwrap();
        let tenant: TenantId = "acme".parse().unwrap();
        assert_eq!(submit(&cell, &tenant), "sotto.v1.vn.client.acme.submit");
        assert_eq!(submitter(&cell, "sotto.v1.vn.client.acme.submit"), Some(tenant));
        for bad in
            ["sotto.v1.de.client.acme.submit", "sotto.v1.vn.client.a.b.submit", "sotto.v1.vn.client.submit"]
        {
            assert_eq!(submitter(&cell, bad), None, "{bad}");
        }
    }

    #[test]
    fn foreign_and_malformed_subjects_are_none() {
        let cell: CellId = "vn".parse().unwrap();
        let shards = Shards::new(NonZeroU16::new(4).unwrap());
        for bad in [
            "sotto.v1.de.event.0",
            "sotto.v2.vn.event.0",
            "sotto.v1.vn.event.4",
            "sotto.v1.vn.event.01",
            "sotto.v1.vn.event.+1",
            "sotto.v1.vn.event.0.0",
            "sotto.v1.vn.event",
            "sotto.v1.vn.accepted.fast.0",
            "sotto.v1.vn.scheduled.1.7200.otp.0",
            "sotto.v1.vn.scheduled.2.07200.otp.0",
            "sotto.v1.vn.scheduled.7200.otp.0",
            "sotto.v1.vn.audit.keys",
            "sotto.v1.vn.audit.identity.other",
            "sotto.v1.vn.audit.operator.keys",
            "sotto.v1.vn.audit.nobody.keys",
            "sotto.v1.vn.",
        ] {
            assert_eq!(Subject::parse(&cell, shards, bad), None, "{bad}");
        }
    }
}
