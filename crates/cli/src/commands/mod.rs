//! What people ask of a running cell, one file a command.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod carriers;
pub(crate) mod client;
pub(crate) mod containers;
pub(crate) mod doctor;
pub(crate) mod intake_key;
pub(crate) mod keys;
pub(crate) mod ledger;
pub(crate) mod list;
pub(crate) mod message;
pub(crate) mod nats;
pub(crate) mod nats_send;
pub(crate) mod owner;
pub(crate) mod provision;
pub(crate) mod quarantine;
pub(crate) mod rebuild;
pub(crate) mod retention;
pub(crate) mod send;
pub(crate) mod simulator;
pub(crate) mod subject;
pub(crate) mod top;
pub(crate) mod watch;

use sotto_core::Sensitive;
use sotto_runtime::grpc;
use tonic::{Request, Status, metadata::MetadataValue, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{CliError, cell::CellDir, credentials::tls, up::https_address};

/// How long a connection may take.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(5);

/// A gRPC channel to a service of the running cell, with the operator's certificate.
pub(crate) fn channel(dir: &CellDir, service: &str) -> Result<Channel, CliError> {
    channel_to(dir, service, "grpc")
}

/// The same to another of its listeners.
pub(crate) fn channel_to(dir: &CellDir, service: &str, listener: &str) -> Result<Channel, CliError> {
    channel_at(dir, service, dir.running()?.address(&format!("{service}.{listener}"))?)
}

/// The same to the one at this address.
pub(crate) fn channel_at(dir: &CellDir, service: &str, address: &str) -> Result<Channel, CliError> {
    let address = https_address(address);
    let tls = tls(dir, "operator")?;
    grpc::channel(&format!("https://{address}"), &tls, &format!("{service}.sotto.internal"), CONNECT)
        .map_err(|error| CliError::caused_by(format!("{service} cannot be reached"), &error))
}

/// A request with an access token.
pub(crate) fn authorised<T>(message: T, token: &Sensitive<String>) -> Result<Request<T>, CliError> {
    let mut request = Request::new(message);
    let mut value = MetadataValue::try_from(format!("Bearer {}", token.expose()))
        .map_err(|error| CliError::caused_by("identity gave an unusable token", &error))?;
    value.set_sensitive(true);
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

/// What a service refused, with the fields at fault.
pub(crate) fn refused(what: &str, status: &Status) -> CliError {
    let mut text = format!("{what}: {}", status.message());
    if let Some(request) = status.get_details_bad_request() {
        for violation in request.field_violations {
            text.push_str(&format!("\n  {}: {}", violation.field, violation.description));
        }
    }
    let error = CliError::new(text);
    match status.get_details_retry_info().and_then(|info| info.retry_delay) {
        Some(delay) => error.fix(format!("try again in {delay:?}")),
        None => error,
    }
}
