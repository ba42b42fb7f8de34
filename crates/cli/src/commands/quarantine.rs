//! `sotto quarantine list`: what could not be handled. It tells where a thing came from and what was wrong with it, and
//! never any of its bytes.

use std::time::Duration;

use prost::Message as _;
use sotto_bus::{ReadError, Service, StreamReader};
use sotto_core::Timestamp;
use sotto_proto::pipeline::v1::{QuarantineRecord, WorkBatch};

use crate::{CliError, Output, Tone, cell::CellDir, up::connect};

pub(crate) async fn list(dir: &CellDir, output: &Output) -> Result<(), CliError> {
    let cell = dir.open()?;
    let bus = connect(dir, &cell, &dir.running()?.nats, Service::Operator).await?;
    let unreadable = |error: ReadError| CliError::caused_by("quarantine cannot be read", &error);
    let reader: StreamReader<WorkBatch> = StreamReader::new(&bus, "QUARANTINE").map_err(unreadable)?;
    let state = reader.state().await.map_err(unreadable)?;
    let mut reading = reader.read(state.first, state.last);
    let mut count = 0;
    while let Some(stored) = reading.next_message().await.map_err(unreadable)? {
        let record = QuarantineRecord::decode(stored.payload).map_err(|error| {
            CliError::caused_by(format!("record {} cannot be read", stored.sequence), &error)
        })?;
        count += 1;
        tell(stored.sequence, &record, output)?;
    }
    bus.close(Duration::from_secs(2)).await;
    if count == 0 {
        output.line(output.tone(Tone::Good, "nothing is in quarantine"))?;
    }
    Ok(())
}

fn tell(number: u64, record: &QuarantineRecord, output: &Output) -> Result<(), CliError> {
    let at = Timestamp::from_unix_millis(record.at_ms);
    let digest: String = record.digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let sealed = record.sealed.as_ref().map_or(0, |batch| batch.items.len());
    output.json(&serde_json::json!({
        "number": number, "at": at.to_string(), "subject": record.subject, "stream": record.stream,
        "sequence": record.sequence, "size": record.size, "digest": digest, "error": record.error,
        "deliveries": record.deliveries, "service": record.service, "sealed_items": sealed,
    }))?;
    output.line(format!(
        "{number}  {at}  {}  {} bytes, digest {digest}, from {} ({} deliveries)",
        record.subject, record.size, record.service, record.deliveries
    ))?;
    output.line(format!("    {}", record.error))
}
