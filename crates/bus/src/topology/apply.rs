//! Creating, updating and reading back: the broker's settings are what the list says, or nothing starts.

use std::time::Duration;

use serde_json::{Value, json};
use sotto_core::{AccountId, Classified, ErrorClass};

use super::{
    Topology, TopologyError,
    expand::{ConsumerSpec, StreamSpec, stream_name},
    settings,
};
use crate::{Bus, api::ApiError};

/// Why the broker is not set up as the list says.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The list itself.
    #[error("the list of streams cannot be used")]
    Topology(#[from] TopologyError),
    /// The broker refused or did not answer.
    #[error("{what}")]
    Api {
        /// What was asked, for example `create stream VN_INTAKE`.
        what: String,
        /// Why.
        #[source]
        source: ApiError,
    },
    /// Settings on the broker differ from the list.
    #[error("settings of {what} differ from the list of streams: {}", .differences.join("; "))]
    Drift {
        /// The stream or consumer.
        what: String,
        /// Each setting with both values.
        differences: Vec<String>,
    },
    /// A message could be delivered again while its first handler still works.
    #[error(
        "ack_wait of consumer {consumer} is {ack_wait:?}, which does not exceed the handler's timeout {timeout:?} \
         plus clock skew {skew:?}: raise ack_wait_s in the list of streams or lower the timeout"
    )]
    AckWait {
        /// The consumer.
        consumer: String,
        /// Its setting.
        ack_wait: Duration,
        /// How long its handler may take.
        timeout: Duration,
        /// The allowance for clocks.
        skew: Duration,
    },
}

impl Classified for SetupError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Topology(error) => error.class(),
            Self::Api { source, .. } => source.class(),
            Self::Drift { .. } | Self::AckWait { .. } => ErrorClass::Reject,
        }
    }
}

/// What [`apply`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Streams and consumers that were made.
    pub created: Vec<String>,
    /// Those whose settings were changed.
    pub updated: Vec<String>,
    /// Streams that may be missing and still are: the broker has the permissions or the room of the list before until it is started
    /// with a configuration of this one.
    pub missing: Vec<String>,
    /// Consumers on the broker that the list does not have, for example of an account that was removed. They are left
    /// alone: their messages would be stranded.
    pub stale: Vec<String>,
}

/// Makes the broker what the list says, then reads everything back. Safe to repeat. Run as [`crate::Service::Provisioner`].
pub async fn apply(bus: &Bus, topology: &Topology, accounts: &[AccountId]) -> Result<Applied, SetupError> {
    let mut applied = Applied::default();
    let streams = topology.streams(bus.cell());
    let consumers = topology.consumers(bus.cell(), accounts)?;
    for (stream, spec) in topology.streams.iter().zip(&streams) {
        match apply_stream(bus, spec, &mut applied).await {
            Err(error) if stream.may_be_missing && is_of_before(&error) => {
                applied.missing.push(spec.name.clone());
            }
            done => done?,
        }
    }
    for spec in &consumers {
        apply_consumer(bus, spec, &mut applied).await?;
    }
    for spec in streams.iter().filter(|spec| !applied.missing.contains(&spec.name)) {
        for name in consumer_names(bus, &spec.name).await? {
            if !consumers.iter().any(|consumer| consumer.stream == spec.name && consumer.name == name) {
                applied.stale.push(format!("{}/{name}", spec.name));
            }
        }
    }
    Ok(applied)
}

async fn apply_stream(bus: &Bus, spec: &StreamSpec, applied: &mut Applied) -> Result<(), SetupError> {
    let wanted = settings::stream(spec);
    match stream_settings(bus, &spec.name).await? {
        None => {
            let what = format!("create stream {}", spec.name);
            call(bus, what, &format!("STREAM.CREATE.{}", spec.name), &wanted).await?;
            applied.created.push(spec.name.clone());
        }
        Some(found) if !settings::differences(&wanted, &found).is_empty() => {
            let what = format!("update stream {}", spec.name);
            call(bus, what, &format!("STREAM.UPDATE.{}", spec.name), &wanted).await?;
            applied.updated.push(spec.name.clone());
        }
        Some(_) => {}
    }
    verify_stream(bus, spec).await
}

/// Whether the broker's configuration is of a list that does not have the stream: no permission, or no room.
fn is_of_before(error: &SetupError) -> bool {
    match error {
        SetupError::Api { source, .. } => source.is_not_allowed() || source.is_no_room(),
        SetupError::Topology(_) | SetupError::Drift { .. } | SetupError::AckWait { .. } => false,
    }
}

async fn apply_consumer(bus: &Bus, spec: &ConsumerSpec, applied: &mut Applied) -> Result<(), SetupError> {
    let wanted = settings::consumer(spec, bus.cell().replicas);
    let label = format!("{}/{}", spec.stream, spec.name);
    let found = consumer_settings(bus, spec).await?;
    let action = match &found {
        None => "create",
        Some(found) if settings::differences(&wanted, found).is_empty() => return Ok(()),
        Some(_) => "update",
    };
    let request = json!({ "stream_name": spec.stream, "config": wanted, "action": action });
    let api = format!("CONSUMER.CREATE.{}.{}", spec.stream, spec.name);
    call(bus, format!("{action} consumer {label}"), &api, &request).await?;
    if found.is_none() {
        applied.created.push(label)
    } else {
        applied.updated.push(label)
    }
    verify_consumer(bus, spec).await
}

/// Reads back the settings of every stream and consumer that this service uses. Read only; run at each start.
/// `accounts` are those whose consumers the service pulls from.
pub async fn verify(bus: &Bus, accounts: &[AccountId]) -> Result<(), SetupError> {
    let service = bus.service();
    let topology = bus.topology();
    for stream in topology.used_by(service) {
        if stream.may_be_missing && !is_there(bus, &stream.name).await? {
            tracing::warn!(stream = stream.name, "the cell has no such stream yet: sotto provision makes it");
            continue;
        }
        verify_stream(bus, &topology.stream_spec(stream, bus.cell())).await?;
    }
    for spec in topology.consumers(bus.cell(), accounts)? {
        if spec.service == service || !service.is_service() {
            verify_consumer(bus, &spec).await?;
        }
    }
    Ok(())
}

/// Whether the broker has this stream of the list, and this service may use it. For streams that may be missing.
pub async fn is_there(bus: &Bus, stream: &str) -> Result<bool, SetupError> {
    match stream_settings(bus, &stream_name(&bus.cell().id, stream)).await {
        Ok(found) => Ok(found.is_some()),
        // The broker's permissions are of the list before.
        Err(SetupError::Api { source, .. }) if source.is_not_allowed() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses a consumer that would deliver a message again while its handler may still work on it.
pub fn check_ack_wait(spec: &ConsumerSpec, timeout: Duration, skew: Duration) -> Result<(), SetupError> {
    let ack_wait = Duration::from_secs(spec.ack_wait_s);
    if ack_wait > timeout.saturating_add(skew) {
        Ok(())
    } else {
        Err(SetupError::AckWait { consumer: spec.name.clone(), ack_wait, timeout, skew })
    }
}

async fn verify_stream(bus: &Bus, spec: &StreamSpec) -> Result<(), SetupError> {
    let found = stream_settings(bus, &spec.name).await?.unwrap_or_default();
    drift(format!("stream {}", spec.name), settings::differences(&settings::stream(spec), &found))
}

pub(crate) async fn verify_consumer(bus: &Bus, spec: &ConsumerSpec) -> Result<(), SetupError> {
    let found = consumer_settings(bus, spec).await?.unwrap_or_default();
    let wanted = settings::consumer(&settings::as_few_as_found(spec, &found), bus.cell().replicas);
    drift(format!("consumer {}/{}", spec.stream, spec.name), settings::differences(&wanted, &found))
}

fn drift(what: String, differences: Vec<String>) -> Result<(), SetupError> {
    if differences.is_empty() { Ok(()) } else { Err(SetupError::Drift { what, differences }) }
}

async fn call(bus: &Bus, what: String, api: &str, request: &Value) -> Result<Value, SetupError> {
    bus.api(api, request).await.map_err(|source| SetupError::Api { what, source })
}

/// The settings of a stream; none if there is no such stream.
async fn stream_settings(bus: &Bus, name: &str) -> Result<Option<Value>, SetupError> {
    Ok(stream_info(bus, name).await?.and_then(|mut info| info.get_mut("config").map(Value::take)))
}

/// All that the broker says of a stream; none if there is no such stream.
pub(super) async fn stream_info(bus: &Bus, name: &str) -> Result<Option<Value>, SetupError> {
    match bus.api(&format!("STREAM.INFO.{name}"), &json!({})).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(source) => Err(SetupError::Api { what: format!("read stream {name}"), source }),
    }
}

async fn consumer_settings(bus: &Bus, spec: &ConsumerSpec) -> Result<Option<Value>, SetupError> {
    match bus.api(&format!("CONSUMER.INFO.{}.{}", spec.stream, spec.name), &json!({})).await {
        Ok(mut info) => Ok(info.get_mut("config").map(Value::take)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(source) => {
            Err(SetupError::Api { what: format!("read consumer {}/{}", spec.stream, spec.name), source })
        }
    }
}

async fn consumer_names(bus: &Bus, stream: &str) -> Result<Vec<String>, SetupError> {
    let mut names = Vec::new();
    loop {
        let what = format!("list consumers of {stream}");
        let request = json!({ "offset": names.len() });
        let page = call(bus, what, &format!("CONSUMER.NAMES.{stream}"), &request).await?;
        let before = names.len();
        let listed = page.get("consumers").and_then(Value::as_array).into_iter().flatten();
        names.extend(listed.filter_map(Value::as_str).map(ToOwned::to_owned));
        let total = page.get("total").and_then(Value::as_u64).unwrap_or(0);
        if names.len() == before || u64::try_from(names.len()).unwrap_or(u64::MAX) >= total {
            return Ok(names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Service;

    #[test]
    fn ack_wait_must_exceed_timeout_and_skew() {
        let spec = ConsumerSpec {
            stream: "VN_WAITING".to_owned(),
            name: "carrier-a-otp".to_owned(),
            service: Service::Carrier,
            filters: Vec::new(),
            ack_wait_s: 30,
            max_ack_pending: 1,
        };
        let seconds = Duration::from_secs;
        assert!(check_ack_wait(&spec, seconds(25), seconds(4)).is_ok());
        assert!(matches!(check_ack_wait(&spec, seconds(25), seconds(5)), Err(SetupError::AckWait { .. })));
    }
}
