//! The client over NATS: sealed requests of many messages, as a program with `sotto-publisher` makes them.

use std::time::Duration;

use sotto_bus::ClientConnection;
use sotto_core::{Clock, Sensitive};
use sotto_proto::message::v1::{SendStreamRequest, SendStreamResponse};
use sotto_publisher::{AnswerError, Destination, IntakeKey, request, results};
use tonic::Code;

use crate::{CliError, Output, cell::CellDir, commands::nats, error::at, init::keys::INTAKE_KEY};

/// How long an answer may take: ingress waits 10 s for the broker.
const PATIENCE: Duration = Duration::from_secs(15);

/// A client's connection, and what it seals to.
pub(super) struct Nats {
    connection: ClientConnection,
    key: IntakeKey,
    to: Destination,
}

impl Nats {
    /// Lets a client of this tenant in, and connects as it does.
    pub(super) async fn connect(
        dir: &CellDir,
        client: &str,
        tenant: &str,
        clock: &dyn Clock,
    ) -> Result<Self, CliError> {
        nats::add(dir, client, clock, &Output::unheard()).await?;
        let path = dir.path(INTAKE_KEY);
        let jwk = std::fs::read_to_string(&path).map_err(at(&path))?;
        let failed =
            |error: &dyn std::error::Error| CliError::caused_by("the client cannot send over NATS", error);
        Ok(Self {
            connection: nats::connect(dir, client).await.map_err(|error| failed(&error))?,
            key: IntakeKey::from_jwk(&jwk).map_err(|error| failed(&error))?,
            to: Destination { cell: dir.open()?.id, tenant: tenant.parse().map_err(|error| failed(&error))? },
        })
    }

    /// Hands messages over; a result for each, or the name of what became of all.
    pub(super) async fn submit(
        &self,
        token: &Sensitive<String>,
        messages: Vec<SendStreamRequest>,
    ) -> Result<Vec<SendStreamResponse>, String> {
        let request = request(&self.key, &self.to, token.expose(), messages);
        let request = request.map_err(|error| format!("{error:?}"))?;
        let answer = self.connection.submit(request.into(), PATIENCE).await;
        let answer = answer.map_err(|error| format!("{error:?}"))?;
        results(&answer).map_err(|error| match error {
            AnswerError::Refused(error) => format!("{:?}", Code::from_i32(error.code)),
            AnswerError::Unreadable => "Unreadable".to_owned(),
        })
    }
}
