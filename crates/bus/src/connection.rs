//! What is known about the connection, from the client's events. Nothing here names a person: subjects hold cells,
//! tenants, accounts and shards.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_nats::{ClientError, Event, ServerError};
use tokio::sync::watch;

/// Refused subjects that are remembered; more than any service can ask for by mistake.
const MOST_REFUSALS: usize = 256;

/// The connection as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionState {
    /// Whether the broker is connected now.
    pub connected: bool,
    /// How often it was connected, from 1.
    pub generation: u64,
    /// Whether the server said that it will stop; the client moves to another by itself.
    pub lame_duck: bool,
    /// How often a subscription overflowed and messages were dropped (they are delivered again).
    pub slow_consumers: u64,
    /// How often the broker refused a subject.
    pub refusals: u64,
}

/// Shared between the client's callback and everything that waits.
#[derive(Debug)]
pub(crate) struct Connection {
    state: watch::Sender<ConnectionState>,
    refused: watch::Sender<BTreeMap<String, u64>>,
    unstored: AtomicU32,
}

impl Connection {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: watch::Sender::new(ConnectionState::default()),
            refused: watch::Sender::new(BTreeMap::new()),
            unstored: AtomicU32::new(0),
        })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// A publish was not acknowledged, or could not be stored now.
    pub(crate) fn not_stored(&self) {
        self.unstored.fetch_add(1, Ordering::Relaxed);
    }

    /// One was, or it was refused for good: somebody decides.
    pub(crate) fn stored(&self) {
        self.unstored.store(0, Ordering::Relaxed);
    }

    /// How many in a row were not.
    pub(crate) fn unstored(&self) -> u32 {
        self.unstored.load(Ordering::Relaxed)
    }

    /// Resolves when the broker refuses this subject after now. Does not resolve otherwise.
    pub(crate) fn refused(&self, subject: &str) -> impl Future<Output = ()> + Send + use<> {
        let subject = subject.to_owned();
        let mut refused = self.refused.subscribe();
        let before = refused.borrow().get(&subject).copied();
        async move {
            if refused.wait_for(|refused| refused.get(&subject).copied() != before).await.is_err() {
                // The connection is gone: nobody will ever refuse anything.
                std::future::pending::<()>().await;
            }
        }
    }

    pub(crate) fn on_event(&self, event: Event) {
        match event {
            Event::Connected => {
                tracing::info!("broker connected");
                self.state.send_modify(|state| {
                    state.connected = true;
                    state.lame_duck = false;
                    state.generation += 1;
                });
            }
            Event::Disconnected => {
                tracing::warn!("broker disconnected");
                self.state.send_modify(|state| state.connected = false);
            }
            Event::LameDuckMode => {
                tracing::warn!("broker server is about to stop");
                self.state.send_modify(|state| state.lame_duck = true);
            }
            Event::Draining | Event::Closed => {
                tracing::info!("broker connection closed");
                self.state.send_modify(|state| state.connected = false);
            }
            Event::SlowConsumer(subscription)
            | Event::ServerError(ServerError::SlowConsumer(subscription)) => {
                tracing::warn!(subscription, "slow consumer: messages were dropped and will come again");
                self.state.send_modify(|state| state.slow_consumers += 1);
            }
            Event::ServerError(ServerError::AuthorizationViolation) => {
                tracing::error!("the broker refused this service's nkey");
            }
            Event::ServerError(ServerError::Other(error)) => self.on_server_error(&error),
            Event::ClientError(ClientError::Other(error)) => tracing::debug!(error, "broker client"),
            Event::ClientError(ClientError::MaxReconnects | ClientError::ServerNotInPool) => {
                tracing::error!("the broker client gave up reconnecting");
            }
        }
    }

    fn on_server_error(&self, error: &str) {
        let Some(subject) = refused_subject(error) else {
            tracing::warn!(error, "the broker complains");
            return;
        };
        tracing::error!(subject, "the broker's permissions refuse this subject to this service");
        self.state.send_modify(|state| state.refusals += 1);
        self.refused.send_modify(|refused| {
            if refused.len() >= MOST_REFUSALS && !refused.contains_key(subject) {
                refused.clear();
            }
            *refused.entry(subject.to_owned()).or_default() += 1;
        });
    }
}

/// The subject of `Permissions Violation for Publish to "subject"`.
fn refused_subject(error: &str) -> Option<&str> {
    let lower = error.get(.."permissions violation".len())?;
    if !lower.eq_ignore_ascii_case("permissions violation") {
        return None;
    }
    error.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_subject_is_found() {
        assert_eq!(
            refused_subject("Permissions Violation for Publish to \"sotto.v1.vn.event.0\""),
            Some("sotto.v1.vn.event.0")
        );
        assert_eq!(refused_subject("Stale Connection"), None);
    }

    #[tokio::test]
    async fn a_refusal_wakes_only_who_waits_for_that_subject() {
        let connection = Connection::new();
        let other = connection.refused("b");
        let waiting = connection.refused("a");
        connection.on_server_error("Permissions Violation for Publish to \"a\"");
        waiting.await;
        tokio::select! {
            biased;
            () = other => panic!("b was not refused"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(connection.watch().borrow().refusals, 1);
        // A refusal from before says nothing about the next try.
        tokio::select! {
            biased;
            () = connection.refused("a") => panic!("not refused again"),
            () = std::future::ready(()) => {}
        }
    }
}
