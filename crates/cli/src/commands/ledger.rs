//! `sotto ledger check`: proves the balance from the log alone, at a recorded cut, while traffic runs.

mod beginning;

use std::{
    collections::{BTreeSet, HashSet},
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use sotto_bus::{Bus, ReadError, SCHEDULED, Service, StreamReader, topology::stream_name};
use sotto_core::{
    Facts, MessageId,
    delivery::{EventKind, Outcome},
    ledger::{Balance, Ledger},
};
use sotto_proto::{
    Batch, LogEvent,
    pipeline::v1::{EventBatch, QuarantineRecord, WorkBatch},
};

use self::beginning::Beginning;
use crate::{CliError, Output, Tone, cell::CellDir, up::connect};

/// How often the work streams are looked through for messages that were moving at the cut.
const LOOKS: usize = 5;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Lost messages that are named to people; JSON names all.
const NAMED: usize = 20;

/// How often the check begins again because events were trimmed under it.
const TRIMS: usize = 3;

/// The sequences that the check speaks of.
#[derive(Clone, Copy, Debug)]
struct Cut {
    events: u64,
    intake: u64,
}

/// Stored messages that hold something unreadable: stream and sequence.
type Places = BTreeSet<(String, u64)>;

/// Receipts that came before, or without, a part with their id, and the parts that carriers took: fingerprints of account
/// and id.
#[derive(Debug, Default)]
struct Receipts {
    parked: HashSet<u64>,
    submitted: HashSet<u64>,
    hasher: RandomState,
}

impl Receipts {
    fn take(&mut self, event: &LogEvent) {
        if let LogEvent::ParkedReceipt { account, carrier_id, .. } = event {
            self.parked.insert(self.hasher.hash_one((account, carrier_id)));
        }
        if let LogEvent::Delivery(event) = event
            && let EventKind::Submitted { account, carrier_id, .. } = &event.kind
        {
            self.submitted.insert(self.hasher.hash_one((account, carrier_id)));
        }
    }

    /// Receipts for which no part is known: early ones whose part is still to come, and orphans.
    fn orphans(&self) -> u64 {
        u64::try_from(self.parked.difference(&self.submitted).count()).unwrap_or(u64::MAX)
    }
}

/// What quarantine keeps aside.
#[derive(Debug, Default)]
struct KeptAside {
    /// Messages whose sealed content is there.
    messages: BTreeSet<MessageId>,
    /// What was accepted of them.
    facts: Vec<Facts>,
    /// Where what is kept aside came from.
    places: Places,
    /// Records that cannot be read themselves.
    unreadable: Places,
}

/// What the check found.
#[derive(Debug)]
struct Found {
    cut: Cut,
    /// The last event that is closed, and the entry of the log that says so.
    closed: Option<(u64, u64)>,
    ledger: Ledger,
    orphan_receipts: u64,
    /// Messages of which no stream has the content though it must be there.
    lost: BTreeSet<MessageId>,
    /// Messages that have not ended and are kept aside.
    quarantined: BTreeSet<MessageId>,
    /// Unreadable things that quarantine accounts for.
    kept_aside: usize,
    /// Batches of events that were trimmed and could not be read.
    unreadable_closed: u64,
    /// Unreadable things that nobody accounts for.
    unaccounted: usize,
}

impl Found {
    /// Events that fit no message, and what nobody can read and nobody reported.
    fn strange(&self) -> u64 {
        self.ledger.sums().strange + u64::try_from(self.unaccounted).unwrap_or(u64::MAX)
    }

    fn balanced(&self) -> bool {
        self.ledger.balance().holds() && self.lost.is_empty() && self.strange() == 0
    }
}

pub(crate) async fn check(dir: &CellDir, output: &Output) -> Result<(), CliError> {
    let cell = dir.open()?;
    let bus = connect(dir, &cell, &dir.running()?.nats, Service::Operator).await?;
    let found = read(&bus, dir).await;
    bus.close(Duration::from_secs(2)).await;
    tell(&found?, output)
}

async fn read(bus: &Bus, dir: &CellDir) -> Result<Found, CliError> {
    for _ in 0..TRIMS {
        if let Some(found) = read_once(bus, dir).await? {
            return Ok(found);
        }
    }
    Err(CliError::new("events are being trimmed while they are checked").fix("try again in a minute"))
}

/// None when events were trimmed meanwhile.
async fn read_once(bus: &Bus, dir: &CellDir) -> Result<Option<Found>, CliError> {
    let events = Stream::<EventBatch>::new(bus, "EVENTS")?;
    let scheduled = Stream::<WorkBatch>::new(bus, SCHEDULED)?;
    let intake = Stream::<WorkBatch>::new(bus, "INTAKE")?;
    let waiting = Stream::<WorkBatch>::new(bus, "WAITING")?;
    let quarantine = Stream::<QuarantineRecord>::new(bus, "QUARANTINE")?;

    // Intake's cut is taken before that of the events: a message that leaves intake in between is in the events.
    let mut unreadable = Places::new();
    let mut ledger = Ledger::default();
    let (_, mut stored) = read_work(&scheduled, &mut ledger, &mut unreadable).await?;
    let (at_intake, at_work) = read_work(&intake, &mut ledger, &mut unreadable).await?;
    stored.extend(at_work);
    let state = events.reader.state().await.map_err(cannot_read)?;
    let cut = Cut { events: state.last, intake: at_intake };
    let Some(beginning) = beginning::find(bus, dir, &state).await? else { return Ok(None) };
    let Beginning { ledger: mut folded, through, entry, orphans, unreadable: unreadable_closed, stored_s } =
        beginning;
    // Events are folded over what intake has, in the log's order.
    let mut receipts = Receipts::default();
    read_events(&events, through + 1, cut.events, &mut folded, &mut receipts, &mut unreadable).await?;
    if events.reader.state().await.map_err(cannot_read)?.first > through + 1 {
        return Ok(None);
    }
    folded.absorb(ledger);

    // What no carrier has must lie in a work stream. What was moving while we read is looked for again; what went on
    // meanwhile is told by the events after the cut.
    let mut read_to = cut.events;
    let mut after = folded.clone();
    let mut lost = BTreeSet::new();
    let mut aside = KeptAside::default();
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let mut ignored = Ledger::default();
        stored.extend(read_work(&scheduled, &mut ignored, &mut unreadable).await?.1);
        stored.extend(read_work(&waiting, &mut ignored, &mut unreadable).await?.1);
        stored.extend(read_work(&intake, &mut ignored, &mut unreadable).await?.1);
        aside = read_quarantine(&quarantine).await?;
        stored.extend(&aside.messages);
        let now = events.reader.state().await.map_err(cannot_read)?.last;
        let mut ignored = Receipts::default();
        read_events(&events, read_to + 1, now, &mut after, &mut ignored, &mut unreadable).await?;
        read_to = now;
        let still = after.must_be_stored();
        lost =
            folded.must_be_stored().intersection(&still).filter(|id| !stored.contains(id)).copied().collect();
        if lost.is_empty() && unreadable.is_subset(&aside.places) {
            break;
        }
    }
    // What was kept aside before anybody told an event of it was accepted all the same.
    // One from before the cut that nothing more was told of is in the sums: what is kept aside stays when its events go.
    let after_cut = |facts: &&Facts| facts.accepted_at.unix_seconds() > stored_s;
    aside.facts.iter().filter(after_cut).for_each(|facts| folded.accept(facts));
    let quarantined =
        aside.messages.into_iter().filter(|id| folded.outcome(*id).is_none()).collect::<BTreeSet<_>>();
    let quarantined = quarantined.intersection(&folded.must_be_stored()).copied().collect();
    let unaccounted = unreadable.difference(&aside.places).count();
    Ok(Some(Found {
        cut,
        closed: entry.map(|entry| (through, entry)),
        orphan_receipts: orphans + receipts.orphans(),
        unreadable_closed,
        ledger: folded,
        lost,
        quarantined,
        kept_aside: unreadable.len() - unaccounted,
        unaccounted: unaccounted + aside.unreadable.len(),
    }))
}

/// A stream and the name it has on the broker, as quarantine writes it.
struct Stream<B> {
    reader: StreamReader<B>,
    name: String,
}

impl<B: prost::Message + Default> Stream<B> {
    fn new(bus: &Bus, stream: &str) -> Result<Self, CliError> {
        let reader = StreamReader::new(bus, stream).map_err(cannot_read)?;
        Ok(Self { reader, name: stream_name(&bus.cell().id, stream) })
    }

    /// Gives each message of a range to `take`, which says whether all of it could be read. What cannot be is noted
    /// and passed over: one malformed batch must not end every check there will ever be.
    async fn each(
        &self,
        from: u64,
        to: u64,
        unreadable: &mut Places,
        mut take: impl FnMut(B) -> bool,
    ) -> Result<(), CliError> {
        if from > to {
            return Ok(());
        }
        let mut reading = self.reader.read_stored(from, to);
        while let Some(stored) = reading.next_message().await.map_err(cannot_read)? {
            if !B::decode(stored.payload).is_ok_and(&mut take) {
                unreadable.insert((self.name.clone(), stored.sequence));
            }
        }
        Ok(())
    }
}

fn cannot_read(error: ReadError) -> CliError {
    CliError::caused_by("the log cannot be read", &error).fix("check the broker: sotto doctor")
}

async fn read_events(
    events: &Stream<EventBatch>,
    from: u64,
    to: u64,
    ledger: &mut Ledger,
    receipts: &mut Receipts,
    unreadable: &mut Places,
) -> Result<(), CliError> {
    let take = |batch: EventBatch| {
        let mut whole = true;
        for event in batch.into_items() {
            let Ok(event) = event else {
                whole = false;
                continue;
            };
            receipts.take(&event);
            match event {
                LogEvent::Delivery(event) => ledger.take(&event),
                LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => {}
            }
        }
        whole
    };
    events.each(from, to, unreadable, take).await
}

/// Reads a work stream as it is now: where it ends, and the messages whose sealed content is there.
async fn read_work(
    work: &Stream<WorkBatch>,
    ledger: &mut Ledger,
    unreadable: &mut Places,
) -> Result<(u64, BTreeSet<MessageId>), CliError> {
    let state = work.reader.state().await.map_err(cannot_read)?;
    let mut found = BTreeSet::new();
    let take = |batch: WorkBatch| {
        let mut whole = true;
        for item in batch.into_items() {
            match item {
                Ok(delivery) => {
                    found.insert(delivery.item.facts.message);
                    ledger.accept(&delivery.item.facts);
                }
                Err(_) => whole = false,
            }
        }
        whole
    };
    work.each(state.first, state.last, unreadable, take).await?;
    Ok((state.last, found))
}

/// Messages whose sealed content is kept in quarantine until an operator decides, and where what is there came from.
async fn read_quarantine(quarantine: &Stream<QuarantineRecord>) -> Result<KeptAside, CliError> {
    let state = quarantine.reader.state().await.map_err(cannot_read)?;
    let KeptAside { mut messages, mut facts, mut places, mut unreadable } = KeptAside::default();
    let take = |record: QuarantineRecord| {
        for delivery in record.sealed.map(Batch::into_items).unwrap_or_default().into_iter().flatten() {
            messages.insert(delivery.item.facts.message);
            facts.push(delivery.item.facts);
        }
        places.insert((record.stream, record.sequence));
        true
    };
    quarantine.each(state.first, state.last, &mut unreadable, take).await?;
    Ok(KeptAside { messages, facts, places, unreadable })
}

fn tell(found: &Found, output: &Output) -> Result<(), CliError> {
    let balance = found.ledger.balance();
    let Balance { accepted, waiting, in_flight, ended, corrected } = &balance;
    let Found { cut, closed, ledger, orphan_receipts, unreadable_closed, .. } = found;
    let Found { lost, quarantined, kept_aside, .. } = found;
    let count = |outcome| ended.get(&outcome).copied().unwrap_or(0);
    let in_silence = |id: &MessageId| ledger.outcome(*id).is_some();
    let mut told = serde_json::json!({
        "balanced": found.balanced(),
        "cut": { "events": cut.events, "intake": cut.intake },
        "accepted": accepted, "waiting": waiting, "quarantined": quarantined.len(), "in_flight": in_flight,
        "corrected": corrected,
        "lost": lost.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "lost_and_expired_in_silence": lost.iter().filter(|id| in_silence(id)).count(),
        "orphan_receipts": orphan_receipts,
        "strange_events": found.strange(), "unreadable_in_quarantine": kept_aside,
        "closed": closed.map(|(through, entry)| serde_json::json!({ "through": through, "entry": entry })),
        "closed_messages": ledger.sums().closed(), "unreadable_closed": unreadable_closed,
    });
    for outcome in Outcome::ALL {
        if let Some(object) = told.as_object_mut() {
            object.insert(outcome.name().to_owned(), count(outcome).into());
        }
    }
    output.json(&told)?;
    output.line(format!("cut: event {}, intake {}", cut.events, cut.intake))?;
    if let Some((through, entry)) = closed {
        output.line(format!(
            "events 1 to {through} are closed by entry {entry} of the audit log: {} messages",
            ledger.sums().closed()
        ))?;
    }
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
    if *orphan_receipts > 0 {
        output.line(format!("  ({orphan_receipts} receipt(s) for parts that are not known)"))?;
    }
    if *kept_aside > 0 {
        output.line(format!(
            "  ({kept_aside} unreadable record(s), all in quarantine: sotto quarantine list)"
        ))?;
    }
    if *unreadable_closed > 0 {
        output.line(format!("  ({unreadable_closed} unreadable batch(es) of events that were trimmed)"))?;
    }
    if found.balanced() {
        return output.line(output.tone(Tone::Good, "balanced: every accepted message is somewhere"));
    }
    for id in lost.iter().take(NAMED) {
        let how = if in_silence(id) { " (counted as expired: only silence ended it)" } else { "" };
        output.line(output.tone(Tone::Bad, &format!("lost: {id}{how}")))?;
    }
    if lost.len() > NAMED {
        output.line(format!("... and {} more: sotto ledger check --json", lost.len() - NAMED))?;
    }
    Err(CliError::new(format!(
        "the ledger does not balance: {} message(s) lost, {} event(s) that fit none or cannot be read",
        lost.len(),
        found.strange()
    ))
    .fix("stop intake, keep the streams, and read docs/runbooks/ledger-does-not-balance.md"))
}
