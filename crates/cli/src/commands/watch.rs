//! `sotto watch`: what happens to a tenant's messages.

use std::time::Duration;

use sotto_core::Clock;
use sotto_proto::{
    from_wire_time,
    message::v1::{WatchEventsRequest, WatchEventsResponse, message_service_client::MessageServiceClient},
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use super::{authorised, channel, message::word, refused, send::client};
use crate::{CliError, Output, Tone, cell::CellDir};

/// Pause before it is watched again after the last cursor.
const AGAIN: Duration = Duration::from_millis(500);

/// How long nothing may be told until it is given up: a restart of the whole cell takes less.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn watch(
    dir: &CellDir,
    name: &str,
    mut after: String,
    message_id: String,
    clock: &dyn Clock,
    output: &Output,
) -> Result<(), CliError> {
    let client = client(dir, name)?;
    let mut heard = Instant::now();
    loop {
        let token = match client.token(dir, "message:read", clock).await {
            Ok(token) => token,
            Err(_) if heard.elapsed() < PATIENCE => {
                sleep(AGAIN).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let request = WatchEventsRequest { after: after.clone(), message_id: message_id.clone() };
        let mut ingress = MessageServiceClient::new(channel(dir, "ingress")?);
        let ended = match ingress.watch_events(authorised(request, &token)?).await {
            Ok(answer) => {
                let mut told = answer.into_inner();
                loop {
                    match told.message().await {
                        Ok(Some(answer)) => {
                            tell(&answer, output)?;
                            after = answer.cursor;
                            heard = Instant::now();
                        }
                        Ok(None) => break Status::unavailable("the stream ended"),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        // A token that came to its end, a restart: the cursor goes on where this ended.
        let passing = matches!(
            ended.code(),
            Code::Unavailable | Code::Unauthenticated | Code::Unknown | Code::Cancelled
        );
        if !passing || heard.elapsed() >= PATIENCE {
            let error = refused("events cannot be watched", &ended);
            return Err(if after.is_empty() {
                error
            } else {
                error.fix(format!("go on with --after {after}"))
            });
        }
        sleep(AGAIN).await;
    }
}

fn tell(answer: &WatchEventsResponse, output: &Output) -> Result<(), CliError> {
    let state = word(answer.state().as_str_name(), "MESSAGE_STATE_");
    let time =
        |at: Option<prost_types::Timestamp>| at.map(|at| from_wire_time(at).to_string()).unwrap_or_default();
    output.json(&serde_json::json!({
        "cursor": answer.cursor,
        "message_id": answer.message_id,
        "state": if answer.message_id.is_empty() { "" } else { state.as_str() },
        "steps": answer.steps.iter().map(|step| serde_json::json!({
            "at": time(step.at), "kind": step.kind, "attempt": step.attempt, "account": step.account,
            "part": step.part, "detail": step.detail, "event_sequence": step.event_sequence,
        })).collect::<Vec<_>>(),
    }))?;
    for step in &answer.steps {
        let mut line = format!("{}  {}  {:<12}", time(step.at), answer.message_id, step.kind);
        for extra in [&step.account, &step.detail].into_iter().filter(|extra| !extra.is_empty()) {
            line.push_str("  ");
            line.push_str(extra);
        }
        line.push_str("  ");
        line.push_str(&output.tone(Tone::Strong, &state));
        output.line(line)?;
    }
    Ok(())
}
