//! What a client is told when something of ours refuses or is away.

use std::time::Duration;

use sotto_core::{Classified as _, MessageClass};
use sotto_runtime::telemetry::chain;

use super::Deps;
use crate::{
    domain::request,
    error::Refusal,
    ports::{KeyError, LogError, StoreError},
};

/// How long a client waits before it asks again while something of ours is away.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(error = chain(error), "a message could not be accepted");
    Refusal::Internal
}

pub(super) fn store_refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::Rebuilding => {
            Refusal::Unavailable { what: "the memory of idempotency keys is being rebuilt", after: PAUSE }
        }
        StoreError::Down => {
            Refusal::Unavailable { what: "the memory of idempotency keys is away", after: PAUSE }
        }
        StoreError::Refused => internal(&error),
    }
}

pub(super) fn log_refusal(error: LogError) -> Refusal {
    match error {
        LogError::Unavailable { after } => Refusal::Unavailable { what: "the log takes nothing now", after },
        LogError::InDoubt => Refusal::InDoubt,
        LogError::Refused => Refusal::Internal,
    }
}

pub(super) fn key_refusal(error: KeyError, class: MessageClass, deps: &Deps) -> Refusal {
    match error {
        KeyError::TooFar { max } => {
            let longest = max.map_or(deps.validities.of(class).max, |max| max.saturating_sub(deps.margin));
            Refusal::Invalid(vec![request::validity_too_long(longest)])
        }
        KeyError::Unavailable => Refusal::Unavailable { what: "no session key can be had", after: PAUSE },
        KeyError::Refused => {
            tracing::error!(class = ?error.class(), "privacy makes no session keys for this service");
            Refusal::Internal
        }
    }
}
