//! `sotto ledger check`: proves the balance from the log alone, at a recorded cut, while traffic runs.

use std::{collections::BTreeSet, time::Duration};

use prost::Message as _;
use sotto_bus::{Bus, ReadError, Service, StreamReader};
use sotto_core::{MessageId, delivery::Outcome};
use sotto_proto::{
    Batch, LogEvent,
    pipeline::v1::{EventBatch, QuarantineRecord, WorkBatch},
};

use crate::{
    CliError, Output, Tone,
    cell::CellDir,
    ledger::{Balance, Ledger},
    up::connect,
};

/// How often the work streams are looked through for messages that were moving at the cut.
const LOOKS: usize = 5;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// The sequences that the check speaks of.
#[derive(Clone, Copy, Debug)]
struct Cut {
    events: u64,
    intake: u64,
}

pub(crate) async fn check(dir: &CellDir, output: &Output) -> Result<(), CliError> {
    let cell = dir.open()?;
    let bus = connect(dir, &cell, &dir.running()?.nats, Service::Operator).await?;
    let result = read_and_judge(&bus, output).await;
    bus.close(Duration::from_secs(2)).await;
    result
}

async fn read_and_judge(bus: &Bus, output: &Output) -> Result<(), CliError> {
    let events = reader::<EventBatch>(bus, "EVENTS")?;
    let intake = reader::<WorkBatch>(bus, "INTAKE")?;
    let waiting = reader::<WorkBatch>(bus, "WAITING")?;
    let waiting_in_quarantine = reader::<WorkBatch>(bus, "QUARANTINE")?;

    // Intake's cut is taken before that of the events: a message that leaves intake in between is in the events.
    let mut ledger = Ledger::default();
    let (at_intake, mut stored) = read_work(&intake, &mut ledger).await?;
    let state = events.state().await.map_err(unreadable)?;
    let cut = Cut { events: state.last, intake: at_intake };
    if state.messages > 0 && state.first > 1 {
        return Err(CliError::new(format!(
            "the log begins at event {}, and there is no closing balance",
            state.first
        ))
        .fix("restore EVENTS from a backup: it is never trimmed without a signed closing balance"));
    }
    // Events are folded over what intake has, in the log's order.
    let mut folded = Ledger::default();
    read_events(&events, 1, cut.events, &mut folded).await?;
    folded.absorb(ledger);

    // What no carrier has must lie in a work stream. What was moving while we read is looked for again; what went on
    // meanwhile is told by the events after the cut.
    let mut read_to = cut.events;
    let mut after = folded.clone();
    let mut missing = BTreeSet::new();
    let mut quarantined = BTreeSet::new();
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let mut ignored = Ledger::default();
        stored.extend(read_work(&waiting, &mut ignored).await?.1);
        stored.extend(read_work(&intake, &mut ignored).await?.1);
        quarantined = read_quarantine(&waiting_in_quarantine).await?;
        stored.extend(&quarantined);
        let now = events.state().await.map_err(unreadable)?.last;
        read_events(&events, read_to + 1, now, &mut after).await?;
        read_to = now;
        let still = after.must_be_stored();
        missing =
            folded.must_be_stored().intersection(&still).filter(|id| !stored.contains(id)).copied().collect();
        if missing.is_empty() {
            break;
        }
    }
    quarantined.retain(|id| folded.must_be_stored().contains(id));
    tell(cut, &folded, &missing, &quarantined, output)
}

fn reader<B: Batch>(bus: &Bus, stream: &str) -> Result<StreamReader<B>, CliError> {
    StreamReader::new(bus, stream).map_err(unreadable)
}

fn unreadable(error: ReadError) -> CliError {
    CliError::caused_by("the log cannot be read", &error).fix("check the broker: sotto doctor")
}

async fn read_events(
    reader: &StreamReader<EventBatch>,
    from: u64,
    to: u64,
    ledger: &mut Ledger,
) -> Result<(), CliError> {
    if from > to {
        return Ok(());
    }
    let mut reading = reader.read(from, to);
    while let Some(stored) = reading.next().await.map_err(unreadable)? {
        for event in stored.batch.into_items() {
            match event {
                Ok(LogEvent::Delivery(event)) => ledger.take(&event),
                Ok(LogEvent::ParkedReceipt { .. }) => {}
                Err(_) => ledger.note_strange(),
            }
        }
    }
    Ok(())
}

/// Reads a work stream as it is now: where it ends, and the messages whose sealed content is there.
async fn read_work(
    reader: &StreamReader<WorkBatch>,
    ledger: &mut Ledger,
) -> Result<(u64, BTreeSet<MessageId>), CliError> {
    let state = reader.state().await.map_err(unreadable)?;
    let mut found = BTreeSet::new();
    if state.messages == 0 {
        return Ok((state.last, found));
    }
    let mut reading = reader.read(state.first, state.last);
    while let Some(stored) = reading.next().await.map_err(unreadable)? {
        for item in stored.batch.into_items() {
            match item {
                Ok(delivery) => {
                    found.insert(delivery.item.facts.message);
                    ledger.accept(&delivery.item.facts);
                }
                Err(_) => ledger.note_strange(),
            }
        }
    }
    Ok((state.last, found))
}

/// Messages whose sealed content is kept in quarantine until an operator decides.
async fn read_quarantine(reader: &StreamReader<WorkBatch>) -> Result<BTreeSet<MessageId>, CliError> {
    let state = reader.state().await.map_err(unreadable)?;
    let mut found = BTreeSet::new();
    let mut reading = reader.read(state.first, state.last);
    while let Some(stored) = reading.next_message().await.map_err(unreadable)? {
        let record = QuarantineRecord::decode(stored.payload).map_err(|error| {
            CliError::caused_by(format!("quarantine record {} cannot be read", stored.sequence), &error)
        })?;
        let items = record.sealed.map(Batch::into_items).unwrap_or_default();
        found.extend(items.into_iter().flatten().map(|delivery| delivery.item.facts.message));
    }
    Ok(found)
}

fn tell(
    cut: Cut,
    ledger: &Ledger,
    missing: &BTreeSet<MessageId>,
    quarantined: &BTreeSet<MessageId>,
    output: &Output,
) -> Result<(), CliError> {
    let balance = ledger.balance();
    let Balance { accepted, waiting, in_flight, ended, corrected } = &balance;
    let count = |outcome| ended.get(&outcome).copied().unwrap_or(0);
    let ok = balance.holds() && missing.is_empty() && ledger.strange() == 0;
    let mut told = serde_json::json!({
        "balanced": ok,
        "cut": { "events": cut.events, "intake": cut.intake },
        "accepted": accepted, "waiting": waiting, "quarantined": quarantined.len(), "in_flight": in_flight, "corrected": corrected,
        "lost": missing.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "strange_events": ledger.strange(),
    });
    for outcome in Outcome::ALL {
        if let Some(object) = told.as_object_mut() {
            object.insert(outcome.name().to_owned(), count(outcome).into());
        }
    }
    output.json(&told)?;
    output.line(format!("cut: event {}, intake {}", cut.events, cut.intake))?;
    output.line(format!("  accepted     {accepted:>10}"))?;
    output.line(format!("= waiting      {waiting:>10}"))?;
    if !quarantined.is_empty() {
        output.line(format!("  (of which {} in quarantine)", quarantined.len()))?;
    }
    output.line(format!("+ in flight    {in_flight:>10}"))?;
    for outcome in Outcome::ALL {
        output.line(format!("+ {:<12} {:>10}", outcome.name(), count(outcome)))?;
    }
    if *corrected > 0 {
        output.line(format!("  ({corrected} corrected by later evidence)"))?;
    }
    if ok {
        return output.line(output.tone(Tone::Good, "balanced: every accepted message is somewhere"));
    }
    for id in missing.iter().take(20) {
        output.line(output.tone(Tone::Bad, &format!("lost: {id}")))?;
    }
    Err(CliError::new(format!(
        "the ledger does not balance: {} message(s) lost, {} event(s) that fit none",
        missing.len(),
        ledger.strange()
    ))
    .fix("stop intake, keep the streams, and read docs/runbooks/ledger-does-not-balance.md"))
}
