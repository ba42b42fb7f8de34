//! Who connects to the broker.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A service or tool with its own certificate, nkey and permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// Intake, queries and the projection.
    Ingress,
    /// Routes, attempts, retry and expiry.
    Routing,
    /// The carrier connector.
    Carrier,
    /// Tokens and clients.
    Identity,
    /// Keys.
    Privacy,
    /// The transparency log.
    Audit,
    /// People's tool, read only.
    Operator,
    /// Creates and updates streams and consumers, nothing else.
    Provisioner,
}

impl Service {
    /// Every service and tool.
    pub const ALL: [Self; 8] = [
        Self::Ingress,
        Self::Routing,
        Self::Carrier,
        Self::Identity,
        Self::Privacy,
        Self::Audit,
        Self::Operator,
        Self::Provisioner,
    ];

    /// Its name: TLS name, NATS user and inbox.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Routing => "routing",
            Self::Carrier => "carrier",
            Self::Identity => "identity",
            Self::Privacy => "privacy",
            Self::Audit => "audit",
            Self::Operator => "operator",
            Self::Provisioner => "provisioner",
        }
    }

    /// Whether it is one of the six services; the others are tools.
    pub const fn is_service(self) -> bool {
        match self {
            Self::Ingress | Self::Routing | Self::Carrier | Self::Identity | Self::Privacy | Self::Audit => {
                true
            }
            Self::Operator | Self::Provisioner => false,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected ingress, routing, carrier, identity, privacy, audit, operator or provisioner")]
pub struct UnknownService;

impl FromStr for Service {
    type Err = UnknownService;
    fn from_str(word: &str) -> Result<Self, UnknownService> {
        Self::ALL.into_iter().find(|service| service.name() == word).ok_or(UnknownService)
    }
}
