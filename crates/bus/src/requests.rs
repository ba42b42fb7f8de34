//! Requests of clients: answered once, never kept. The processes of the service that answers share them.

use bytes::Bytes;
use sotto_core::{CellId, TenantId};

use crate::{
    Bus, subject,
    wire::{Subscription, Wire},
};

/// The queue group of everybody who answers.
pub(crate) const QUEUE: &str = "answers";

/// What clients ask, one request after the other.
#[derive(Debug)]
pub struct Requests {
    subscriber: Subscription,
    client: Wire,
    cell: CellId,
}

/// One request of a client.
#[derive(Debug)]
pub struct Request {
    /// Whose client the broker let publish it.
    pub tenant: TenantId,
    /// What it says.
    pub payload: Bytes,
    /// Where the answer goes.
    pub answer: Answer,
}

/// Takes one answer. A request that names no inbox gets none.
#[derive(Debug)]
pub struct Answer {
    client: Wire,
    inbox: Option<async_nats::Subject>,
}

/// Why requests cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("the requests of clients cannot be subscribed to")]
pub struct RequestsError(#[source] async_nats::client::SubscribeError);

impl Requests {
    /// Takes a share of what clients ask, from now on and after every reconnect.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub async fn open(bus: &Bus) -> Result<Self, RequestsError> {
        let (client, cell) = (bus.client().clone(), bus.cell().id.clone());
        let subject = format!("{}{}", subject::prefix(&cell), subject::SUBMIT);
        let subscriber = client.queue_subscribe(subject, QUEUE.to_owned()).await.map_err(RequestsError)?;
        Ok(Self { subscriber, client, cell })
    }

    /// The next request; `None` after [`Requests::close`], when all that had come was taken. Safe to drop.
    pub async fn next(&mut self) -> Option<Request> {
        loop {
            let message = self.subscriber.next().await?;
            let tenant = subject::submitter(&self.cell, &message.subject);
            // The subject of a permission has one token there: nobody can publish what is no tenant's name.
            let Some(tenant) = tenant else {
                tracing::warn!("a request on a subject that names no tenant");
                continue;
            };
            let answer = Answer { client: self.client.clone(), inbox: message.reply };
            return Some(Request { tenant, payload: message.payload, answer });
        }
    }

    /// Takes no more; what the broker sent already is still given by [`Requests::next`].
    pub async fn close(&mut self) {
        if let Err(error) = self.subscriber.drain().await {
            tracing::debug!(%error, "the requests were over already");
        }
    }
}

impl Answer {
    /// Whether anybody waits for it.
    pub const fn is_wanted(&self) -> bool {
        self.inbox.is_some()
    }

    /// Sends it. Nobody learns whether it arrived: a client that hears nothing asks again.
    pub async fn send(self, payload: Bytes) {
        let Some(inbox) = self.inbox else { return };
        if let Err(error) = self.client.publish(inbox.to_string(), payload).await {
            tracing::debug!(%error, "an answer could not be sent");
        }
    }
}
