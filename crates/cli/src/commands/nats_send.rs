//! `sotto nats-send`: hands over one message over NATS, sealed to the cell's intake key.

use std::time::Duration;

use sotto_core::Clock;
use sotto_crypto::random::random_array;
use sotto_proto::message::v1::{SendStreamRequest, send_stream_response::Result as Answer};
use sotto_publisher::{AnswerError, Destination, IntakeKey, request, results};

use super::{
    nats,
    send::{NewMessage, accepted, client, outbound},
};
use crate::{CliError, Output, cell::CellDir, error::at, init::hex};

/// How long an answer may take: ingress waits 10 s for the broker.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) async fn send(
    dir: &CellDir,
    new: NewMessage,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    if new.dry_run {
        return Err(CliError::new("a request over NATS is never only checked")
            .fix("check it with: sotto send --dry-run"));
    }
    let name = new.client.clone();
    let credentials = client(dir, &name)?;
    let folder = nats::folder(dir, &name);
    let path = folder.join("intake-key.json");
    let jwk = std::fs::read_to_string(&path)
        .map_err(at(&path))
        .map_err(|error| error.fix(format!("let the client in first: sotto client nats add {name}")))?;
    let key = IntakeKey::from_jwk(&jwk)
        .map_err(|error| CliError::caused_by(format!("{}", path.display()), &error))?;
    let tenant = nats::tenant(&credentials)?;
    let to = Destination { cell: dir.open()?.id, tenant };
    let token = credentials.token(dir, "message:send", clock).await?;
    let connection = nats::connect(dir, &name).await.map_err(|error| {
        CliError::caused_by("the broker cannot be used", &error)
            .fix("check that the cell runs, and that the client may ask: sotto client nats add")
    })?;
    // Over NATS each message has a key: without one of the person's, it is for this call alone.
    let idempotency_key = if new.idempotency_key.is_empty() {
        let random = random_array::<16>().map_err(|error| CliError::caused_by("no randomness", &error))?;
        hex(&random)
    } else {
        new.idempotency_key.clone()
    };
    let again = format!("send it again with --idempotency-key {idempotency_key}");
    let message = SendStreamRequest { reference: 1, message: Some(outbound(new)?), idempotency_key };
    let request = request(&key, &to, token.expose(), vec![message])
        .map_err(|error| CliError::caused_by("the request cannot be made", &error))?;
    let answer = connection
        .submit(request.into(), PATIENCE)
        .await
        .map_err(|error| CliError::caused_by("the message was not answered", &error).fix(again.clone()))?;
    let result = match results(&answer) {
        Ok(mut results) => results.pop().and_then(|result| result.result),
        Err(AnswerError::Refused(error)) => Some(Answer::Error(error)),
        Err(error @ AnswerError::Unreadable) => {
            return Err(CliError::caused_by("the message may not be accepted", &error).fix(again));
        }
    };
    match result {
        Some(Answer::Accepted(sent)) => accepted(&sent, "accepted", output),
        Some(Answer::Error(refused)) => {
            let mut text = format!("the message was refused: {}", refused.message);
            for violation in refused.field_violations {
                text.push_str(&format!("\n  {}: {}", violation.field, violation.description));
            }
            let error = CliError::new(text);
            Err(if refused.retry_after.is_some() { error.fix(again) } else { error })
        }
        None => Err(CliError::new("the answer has no result").fix(again)),
    }
}
