//! What a token allows.

use std::{collections::BTreeSet, fmt, str::FromStr};

/// One scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Send messages as one's tenant.
    MessageSend,
    /// Read one's tenant's messages and their events.
    MessageRead,
    /// Find the messages that a number of one's tenant got: for privacy officers.
    SubjectRead,
    /// Register and disable clients of every tenant.
    AdminClients,
    /// Read the whole log.
    AuditRead,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::MessageSend, Self::MessageRead, Self::SubjectRead, Self::AdminClients, Self::AuditRead];

    /// The scope as it stands in requests and tokens.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MessageSend => "message:send",
            Self::MessageRead => "message:read",
            Self::SubjectRead => "subject:read",
            Self::AdminClients => "admin:clients",
            Self::AuditRead => "audit:read",
        }
    }

    /// Whether it reaches beyond one tenant, so that only operators of the cell may have it.
    pub const fn is_for_operators(self) -> bool {
        match self {
            Self::MessageSend | Self::MessageRead | Self::SubjectRead => false,
            Self::AdminClients | Self::AuditRead => true,
        }
    }
}

/// Text that is no scope of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope; there are message:send, message:read, subject:read, admin:clients and audit:read")]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;
    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(UnknownScope)
    }
}

/// A set of scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// Every scope that only operators may have: the owner's.
    pub fn of_the_owner() -> Self {
        Scope::ALL.into_iter().filter(|scope| scope.is_for_operators()).collect()
    }

    /// Whether `scope` is in it.
    pub fn contains(&self, scope: Scope) -> bool {
        self.0.contains(&scope)
    }

    /// Whether everything in it is in `other` too.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The scopes in order.
    pub fn iter(&self) -> impl Iterator<Item = Scope> {
        self.0.iter().copied()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;
    /// Reads `scope` of RFC 6749 §3.3: scopes between single spaces; one named twice counts once.
    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        text.split(' ').map(str::parse).collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, scope) in self.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{}", scope.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_scopes() {
        let scopes: Scopes = "message:read message:send message:read".parse().unwrap();
        assert_eq!(scopes.to_string(), "message:send message:read");
        for bad in ["", " ", "message:send ", "message:send  message:read", "Message:send", "admin:*"] {
            assert!(bad.parse::<Scopes>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_owner_cannot_send() {
        assert_eq!(Scopes::of_the_owner().to_string(), "admin:clients audit:read");
    }
}
