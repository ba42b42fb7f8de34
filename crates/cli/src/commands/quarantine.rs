//! `sotto quarantine list | show`: what could not be handled. It tells where a thing came from and what was wrong with
//! it, and never any of its bytes.

use std::time::Duration;

use sotto_bus::{Bus, Quarantine, Quarantined, ReadError, Service};
use sotto_core::Timestamp;
use sotto_proto::{Batch, pipeline::v1::QuarantineRecord};

use crate::{CliError, Output, Tone, cell::CellDir, up::connect};

/// Records that are read at a time.
const PAGE: usize = 100;

pub(crate) async fn list(dir: &CellDir, output: &Output) -> Result<(), CliError> {
    let bus = operator(dir).await?;
    let told = tell_all(&bus, output).await;
    bus.close(Duration::from_secs(2)).await;
    told
}

async fn tell_all(bus: &Bus, output: &Output) -> Result<(), CliError> {
    let quarantine = Quarantine::new(bus).map_err(unreadable)?;
    let mut next = 1;
    loop {
        let page = quarantine.list(next, PAGE).await.map_err(unreadable)?;
        for Quarantined { sequence, record } in &page {
            tell(*sequence, record, output)?;
        }
        match page.last() {
            Some(last) => next = last.sequence + 1,
            None if next == 1 => return output.line(output.tone(Tone::Good, "nothing is in quarantine")),
            None => return Ok(()),
        }
    }
}

pub(crate) async fn show(dir: &CellDir, number: u64, output: &Output) -> Result<(), CliError> {
    let bus = operator(dir).await?;
    let found = async { Quarantine::new(&bus)?.show(number).await }.await;
    bus.close(Duration::from_secs(2)).await;
    let record = found.map_err(unreadable)?.ok_or_else(|| {
        CliError::new(format!("there is no number {number} in quarantine"))
            .fix("list it: sotto quarantine list")
    })?;
    tell(number, &record, output)?;
    output.line(format!("    stream {}, sequence {}", record.stream, record.sequence))?;
    for item in messages(&record) {
        output.line(format!("    message {item}, sealed: it is kept until you decide"))?;
    }
    Ok(())
}

async fn operator(dir: &CellDir) -> Result<Bus, CliError> {
    let cell = dir.open()?;
    connect(dir, &cell, &dir.running()?.nats, Service::Operator).await
}

fn unreadable(error: ReadError) -> CliError {
    CliError::caused_by("quarantine cannot be read", &error).fix("check the broker: sotto doctor")
}

/// Ids of the messages whose sealed content the record keeps.
fn messages(record: &QuarantineRecord) -> Vec<String> {
    let items = record.sealed.clone().map(Batch::into_items).unwrap_or_default();
    items.into_iter().flatten().map(|delivery| delivery.item.facts.message.to_string()).collect()
}

fn tell(number: u64, record: &QuarantineRecord, output: &Output) -> Result<(), CliError> {
    let at = Timestamp::from_unix_millis(record.at_ms);
    let digest: String = record.digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    output.json(&serde_json::json!({
        "number": number, "at": at.to_string(), "subject": record.subject, "stream": record.stream,
        "sequence": record.sequence, "size": record.size, "digest": digest, "error": record.error,
        "deliveries": record.deliveries, "service": record.service, "sealed_messages": messages(record),
    }))?;
    output.line(format!(
        "{number}  {at}  {}  {} bytes, digest {digest}, from {} ({} deliveries)",
        record.subject, record.size, record.service, record.deliveries
    ))?;
    output.line(format!("    {}", record.error))
}
