//! Where a check begins: with the first event, or with what the log signed of those that were trimmed.

use sotto_bus::{Bus, CARRIED, StreamReader, StreamState};
use sotto_core::ledger::{Ledger, Sums};
use sotto_proto::{
    Batch as _, LogEvent,
    audit::v1::{ClosingBalance, EventRange},
    pipeline::v1::EventBatch,
};
use sotto_tlog::{Frontier, Hash};

use super::cannot_read;
use crate::{CliError, cell::CellDir, commands::audit::closing_balance};

/// What is known before the first event that is read.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    /// The messages and sums of what was trimmed.
    pub(super) ledger: Ledger,
    /// The last sequence of it; 0: nothing.
    pub(super) through: u64,
    /// The entry of the log that says so.
    pub(super) entry: Option<u64>,
    /// Receipts of nobody in it.
    pub(super) orphans: u64,
    /// Batches in it that could not be read.
    pub(super) unreadable: u64,
    /// When the last batch of it was stored, whole seconds since the Unix epoch.
    pub(super) stored_s: i64,
}

const PURGED: &str = "keep what is left, and find out who took it away: only the audit service trims EVENTS. Else restore it \
                      from a backup";

/// Where a check of EVENTS begins that holds this; none when more was closed meanwhile.
pub(super) async fn find(
    bus: &Bus,
    dir: &CellDir,
    held: &StreamState,
) -> Result<Option<Beginning>, CliError> {
    let StreamState { messages, first, last, .. } = *held;
    // Nothing was ever stored.
    if last == 0 {
        return Ok(Some(Beginning::default()));
    }
    if messages != (last + 1).saturating_sub(first) {
        let problem = format!("the log holds {messages} of the batches of events {first} to {last}");
        return Err(CliError::new(problem).fix(PURGED));
    }
    if first <= 1 {
        return Ok(Some(Beginning::default()));
    }
    // Of what is missing at its beginning there must be the log's word.
    let Some((entry, balance)) = closing_balance(dir).await? else {
        let problem = format!("the first event is {first}, and there is no closing balance");
        return Err(CliError::new(problem).fix(PURGED));
    };
    let through = balance.through_sequence;
    if first > through + 1 {
        let problem =
            format!("events {} to {} are missing: the closing balance ends before", through + 1, first - 1);
        return Err(CliError::new(problem).fix(PURGED));
    }
    let sums = Sums::from(&balance);
    let ClosingBalance { orphan_receipts, unreadable_batches, stored_s, carried, .. } = balance;
    let ledger = match carried {
        Some(range) => match resume(bus, sums, &range).await {
            Ok(ledger) => ledger,
            // The next balance takes what this one names away.
            Err(_) if closing_balance(dir).await?.is_some_and(|(newest, _)| newest != entry) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        },
        None => Ledger::resume(sums, []),
    };
    Ok(Some(Beginning {
        ledger,
        through,
        entry: Some(entry),
        orphans: orphan_receipts,
        unreadable: unreadable_batches,
        stored_s,
    }))
}

/// Goes on from the events that were carried, which must be those of the signed root.
async fn resume(bus: &Bus, sums: Sums, range: &EventRange) -> Result<Ledger, CliError> {
    let EventRange { first_sequence: first, last_sequence: last, root, batches } = range;
    let reader = StreamReader::<EventBatch>::new(bus, CARRIED).map_err(cannot_read)?;
    let mut reading = reader.read_stored(*first, *last);
    let (mut tree, mut carried) = (Frontier::new(), Vec::new());
    while let Some(stored) = reading.next_message().await.map_err(cannot_read)? {
        tree.push(Hash::leaf(&stored.payload));
        let items = <EventBatch as prost::Message>::decode(stored.payload).map(EventBatch::into_items);
        for item in items.unwrap_or_default() {
            if let Ok(LogEvent::Delivery(event)) = item {
                carried.push(event);
            }
        }
    }
    if tree.size() != *batches || Some(tree.root()) != Hash::from_slice(root) {
        let problem = format!("CARRIED {first} to {last} is not what the closing balance names");
        return Err(CliError::new(problem).fix("restore CARRIED from a backup, and find out who changed it"));
    }
    Ok(Ledger::resume(sums, &carried))
}
