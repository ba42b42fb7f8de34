//! The connection below everything: a client of a broker, or, in the simulated world, one that is a value.

use async_nats::{
    Client, Message, PublishError, Request, RequestError, SubscribeError, Subscriber, connection::State,
};
use bytes::Bytes;
use futures::StreamExt as _;

#[cfg(any(test, feature = "simulated"))]
use crate::simulated;

/// What requests, publishes and subscribes.
#[derive(Clone, Debug)]
pub(crate) enum Wire {
    Nats(Client),
    #[cfg(any(test, feature = "simulated"))]
    Simulated(simulated::Session),
}

/// What was subscribed to.
#[derive(Debug)]
pub(crate) enum Subscription {
    Nats(Subscriber),
    #[cfg(any(test, feature = "simulated"))]
    Simulated(simulated::Inbox),
}

impl Wire {
    pub(crate) fn new_inbox(&self) -> String {
        match self {
            Self::Nats(client) => client.new_inbox(),
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(session) => session.new_inbox(),
        }
    }

    pub(crate) async fn subscribe(&self, subject: String) -> Result<Subscription, SubscribeError> {
        match self {
            Self::Nats(client) => client.subscribe(subject).await.map(Subscription::Nats),
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(session) => Ok(Subscription::Simulated(session.subscribe(&subject))),
        }
    }

    pub(crate) async fn queue_subscribe(
        &self,
        subject: String,
        queue: String,
    ) -> Result<Subscription, SubscribeError> {
        match self {
            Self::Nats(client) => client.queue_subscribe(subject, queue).await.map(Subscription::Nats),
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(session) => Ok(Subscription::Simulated(session.subscribe(&subject))),
        }
    }

    pub(crate) async fn publish(&self, subject: String, payload: Bytes) -> Result<(), PublishError> {
        match self {
            Self::Nats(client) => client.publish(subject, payload).await,
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(session) => {
                session.publish(&subject, None, payload).await;
                Ok(())
            }
        }
    }

    pub(crate) async fn publish_with_reply(
        &self,
        subject: String,
        reply: String,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        match self {
            Self::Nats(client) => client.publish_with_reply(subject, reply, payload).await,
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(session) => {
                session.publish(&subject, Some(reply), payload).await;
                Ok(())
            }
        }
    }

    pub(crate) async fn send_request(
        &self,
        subject: String,
        request: Request,
    ) -> Result<Message, RequestError> {
        match self {
            Self::Nats(client) => client.send_request(subject, request).await,
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(session) => session.request(&subject, request).await,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        match self {
            Self::Nats(client) => client.connection_state() == State::Connected,
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(session) => session.is_connected(),
        }
    }

    /// Whether its process is dead: nothing comes of whatever it waits for.
    #[cfg(any(test, feature = "simulated"))]
    pub(crate) fn is_dead(&self) -> bool {
        match self {
            Self::Nats(_) => false,
            Self::Simulated(session) => session.is_dead(),
        }
    }

    /// Leaves the server that it is connected to for another one.
    pub(crate) async fn go_elsewhere(&self) {
        match self {
            // A client that is gone goes nowhere.
            Self::Nats(client) => drop(client.force_reconnect().await),
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(_) => {}
        }
    }

    /// The version of the server.
    pub(crate) fn version(&self) -> String {
        match self {
            Self::Nats(client) => client.server_info().version,
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(_) => "2.12.0".to_owned(),
        }
    }

    /// Closes when all that was sent is with the server.
    pub(crate) async fn drain(&self) -> bool {
        match self {
            Self::Nats(client) => client.drain().await.is_ok(),
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(_) => true,
        }
    }
}

impl Subscription {
    /// What comes next; none at the end. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        match self {
            Self::Nats(subscriber) => subscriber.next().await,
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(inbox) => inbox.next().await,
        }
    }

    /// Takes no more; what was sent is still given.
    pub(crate) async fn drain(&mut self) -> Result<(), async_nats::UnsubscribeError> {
        match self {
            Self::Nats(subscriber) => subscriber.drain().await,
            #[cfg(any(test, feature = "simulated"))]
            Self::Simulated(inbox) => {
                inbox.leave();
                Ok(())
            }
        }
    }
}
