//! A client's own connection to the broker: it may ask, and nothing else (`topology::client_permissions`).

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Request, client::RequestErrorKind};
use bytes::Bytes;
use sotto_core::{CellId, Classified, ErrorClass, TenantId};

use crate::{
    ConnectError, NatsConfig,
    bus::{connect_error, read_seed},
    subject,
    topology::permissions::client_inbox,
};

/// A client of the cell, connected. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientConnection {
    client: Client,
    cell: CellId,
    tenant: TenantId,
}

/// Who connects.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The cell.
    pub cell: CellId,
    /// The tenant that the client acts for.
    pub tenant: TenantId,
    /// The client's id, part of its inboxes.
    pub client: String,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Nobody takes requests now: certainly nothing was accepted.
    #[error("no ingress takes requests now: nothing was accepted; try again")]
    NobodyAnswers,
    /// No answer came in time.
    #[error(
        "no answer came: whether anything was accepted is not known; try again with the same idempotency keys"
    )]
    InDoubt,
    /// Nothing was sent.
    #[error("the request has more than the broker takes")]
    TooLarge,
}

impl Classified for SubmitError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NobodyAnswers | Self::InDoubt => ErrorClass::Retry { after: Duration::from_secs(1) },
            Self::TooLarge => ErrorClass::Reject,
        }
    }
}

impl ClientConnection {
    /// Connects as [`crate::Bus`] does: TLS first, mutual, with the client's nkey and inboxes of its own.
    ///
    /// # Errors
    /// Those of [`crate::Bus::connect`].
    pub async fn connect(config: &NatsConfig, identity: ClientIdentity) -> Result<Self, ConnectError> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(ConnectError::Settings(faults));
        }
        let seed = read_seed(&config.nkey_seed_file)?;
        let client = ConnectOptions::with_nkey(seed.trim().to_owned())
            .name(&identity.client)
            .custom_inbox_prefix(client_inbox(&identity.client))
            .require_tls(true)
            .tls_first()
            .add_root_certificates(config.ca_file.clone())
            .add_client_certificate(config.cert_file.clone(), config.key_file.clone())
            .connection_timeout(Duration::from_millis(config.connect_timeout_ms))
            .connect(config.urls().collect::<Vec<_>>())
            .await
            .map_err(|source| connect_error(config, source))?;
        Ok(Self { client, cell: identity.cell, tenant: identity.tenant })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn submit(&self, request: Bytes, patience: Duration) -> Result<Bytes, SubmitError> {
        let subject = subject::submit(&self.cell, &self.tenant);
        let request = Request::new().payload(request).timeout(Some(patience));
        let answer = self.client.send_request(subject, request).await;
        answer.map(|message| message.payload).map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => SubmitError::NobodyAnswers,
            RequestErrorKind::MaxPayloadExceeded => SubmitError::TooLarge,
            RequestErrorKind::TimedOut | RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                SubmitError::InDoubt
            }
        })
    }
}
