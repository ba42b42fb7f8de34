//! `sotto rebuild`: what Redis holds, again from the log.

use sotto_proto::ops::v1::{
    RebuildRequest, rebuild_response::Scope, rebuild_service_client::RebuildServiceClient,
};

use super::{channel_to, refused};
use crate::{CliError, Output, Tone, cell::CellDir};

/// Services that keep something in Redis which the log can restore, and the listener at which they take orders: clients
/// connect to ingress's other one.
const SERVICES: [(&str, &str); 2] = [("ingress", "ops"), ("carrier", "grpc")];

pub(crate) async fn rebuild(dir: &CellDir, output: &Output) -> Result<(), CliError> {
    for (service, listener) in SERVICES {
        let failed = |status: tonic::Status| refused(&format!("{service} could not rebuild"), &status);
        let mut client = RebuildServiceClient::new(channel_to(dir, service, listener)?);
        let mut progress = client.rebuild(RebuildRequest::default()).await.map_err(failed)?.into_inner();
        while let Some(told) = progress.message().await.map_err(failed)? {
            let scope = match told.scope {
                Some(Scope::Shard(shard)) => format!("shard {shard}"),
                Some(Scope::Account(account)) => format!("account {account}"),
                None => String::new(),
            };
            output.json(&serde_json::json!({
                "service": service, "scope": scope, "read": told.read, "written": told.written, "done": told.done,
            }))?;
            if told.done {
                output.line(format!(
                    "{service} {scope}: {}, {} records read, {} entries written",
                    output.tone(Tone::Good, "rebuilt"),
                    told.read,
                    told.written
                ))?;
            }
        }
    }
    Ok(())
}
