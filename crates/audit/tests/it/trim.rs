//! The trim on a model of the broker: what is left says the same as all of it, wherever it was interrupted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use proptest::prelude::*;
use sotto_audit::{
    domain::{ClosingBalance, EventRange, Fold, Survey},
    error::TrimError,
    log::{Growth, Log},
    metrics::AuditMetrics,
    ports::{Shelf as _, StoredEvents},
    sequencer::Told,
    trim::{Parts, Trimmed, Trimmer},
    view::View,
};
use sotto_core::{
    Facts, ManualClock, MessageClass, MessageId,
    delivery::{Event, EventKind, ExpiryCause, Outcome, ReceiptState, RejectCause},
    ledger::{Ledger, Sums},
    text::Encoding,
    work::AttemptEnd,
};
use sotto_metrics::Metrics;
use sotto_proto::LogEvent;
use sotto_runtime::Readiness;
use sotto_tlog::{CHECKPOINT_PATH, Frontier, Hash, Source as _};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    model::{ModelDisk, TestSigner},
    shelf::{BEGIN, DAY, KEEP, TestShelf},
};

fn facts(seed: u8) -> Facts {
    Facts {
        message: MessageId::from_keyed_hash([seed; 16]),
        tenant: "acme".parse().unwrap(),
        class: MessageClass::Otp,
        country: "VN".parse().unwrap(),
        operator_range: "8498".parse().unwrap(),
        encoding: Encoding::Gsm7,
        parts: 2,
        units: 2,
        accepted_at: BEGIN,
        expires_at: BEGIN.plus(Duration::from_secs(300)),
        content_mac: None,
        send_at: None,
    }
}

fn event(seed: u8, kind: EventKind) -> Event {
    Event { message: facts(seed).message, at: BEGIN, kind }
}

fn accepted(seed: u8) -> Event {
    event(seed, EventKind::Accepted(Box::new(facts(seed))))
}

fn rejected(seed: u8) -> Event {
    event(seed, EventKind::Rejected { cause: RejectCause::NoRoute })
}

/// Any event of one of a few messages: also in an impossible order, about no message, or about a part that is not there.
fn any_event() -> impl Strategy<Value = Event> {
    let account = || "a".parse().unwrap();
    let kinds = (0_u8..14, 1_u16..4, 1_u8..4, any::<bool>()).prop_map(move |(kind, attempt, part, flag)| {
        let parts = if flag { vec![1, 2] } else { vec![part] };
        match kind {
            0 | 1 => None,
            2 => Some(EventKind::Routed { attempt, account: account(), table_version: "1".to_owned() }),
            3 => Some(EventKind::Submitting { attempt, account: account(), parts }),
            4 => Some(EventKind::Submitted { attempt, account: account(), part, carrier_id: "c".to_owned() }),
            5 => Some(EventKind::Refused { attempt, account: account(), part, status: 8, retried: flag }),
            6 => Some(EventKind::Unsent { attempt, account: account(), end: AttemptEnd::LinkDown, parts }),
            7 => Some(EventKind::NoResponse { attempt, account: account(), part }),
            8 => Some(EventKind::Receipt {
                attempt,
                account: account(),
                part,
                state: if flag { ReceiptState::Delivered } else { ReceiptState::Undeliverable },
                error: String::new(),
            }),
            9 => Some(EventKind::Expired { cause: ExpiryCause::Validity }),
            10 => Some(EventKind::Expired { cause: ExpiryCause::Silence }),
            11 => Some(EventKind::Rejected { cause: RejectCause::NoRoute }),
            12 => Some(EventKind::Cancelled),
            _ => Some(if flag { EventKind::ClosedUnknown } else { EventKind::Doubted }),
        }
    });
    (1_u8..9, kinds).prop_map(|(seed, kind)| match kind {
        Some(kind) => event(seed, kind),
        None => accepted(seed),
    })
}

fn whole(events: &[Event]) -> Ledger {
    let mut ledger = Ledger::default();
    events.iter().for_each(|event| ledger.take(event));
    ledger
}

/// Closes ranges after an earlier cut, seeing `beyond`.
fn close(ranges: &[&[Event]], beyond: &[Event], sums: Sums, carried: Vec<Event>) -> (Sums, Vec<Event>) {
    let mut survey = Survey::new(1_000);
    carried.iter().for_each(|event| survey.take(0, event).unwrap());
    for (number, range) in (1..).zip(ranges) {
        range.iter().for_each(|event| survey.take(number, event).unwrap());
    }
    beyond.iter().for_each(|event| survey.beyond(event));
    let mut fold = Fold::new(survey, sums, carried, BEGIN.plus(DAY));
    for (number, range) in (1..).zip(ranges) {
        range.iter().for_each(|event| fold.take(event.clone()));
        // As it does when it holds many.
        fold.let_go(number);
    }
    let (sums, _orphans, carried) = fold.finish(u32::try_from(ranges.len()).unwrap());
    (sums, carried)
}

proptest! {
    #[test]
    fn what_is_left_says_the_same(
        events in proptest::collection::vec(any_event(), 0..120),
        (first, second) in (0_usize..121, 0_usize..121),
        width in 1_usize..9,
    ) {
        let (first, second) = (first.min(second).min(events.len()), first.max(second).min(events.len()));
        let (mut sums, mut carried, mut from) = (Sums::default(), Vec::new(), 0);
        for cut in [first, second] {
            let ranges: Vec<_> = events[from..cut].chunks(width).collect();
            (sums, carried) = close(&ranges, &events[cut..], sums, carried);
            from = cut;
            let mut resumed = Ledger::resume(sums.clone(), &carried);
            let mut then = whole(&events[..cut]);
            prop_assert_eq!(resumed.balance(), then.balance(), "at the cut");
            for event in &events[cut..] {
                resumed.take(event);
                then.take(event);
                prop_assert_eq!(resumed.balance(), then.balance());
            }
            prop_assert_eq!(resumed.must_be_stored(), then.must_be_stored());
            prop_assert_eq!(resumed.sums().strange, then.sums().strange);
        }
    }
}

/// The log of a cell on a model disk, and the trim beside it.
struct Running {
    trimmer: Trimmer<TestShelf>,
    view: Arc<View>,
    clock: Arc<ManualClock>,
    tasks: JoinSet<()>,
}

impl Running {
    /// Goes on with what is on the disk.
    fn start(disk: &Arc<ModelDisk>, shelf: &Arc<TestShelf>, ranges: Vec<EventRange>, most: usize) -> Self {
        Self::start_on(30, disk, shelf, ranges, most)
    }

    /// The same, on a day after the first.
    fn start_on(
        day: u32,
        disk: &Arc<ModelDisk>,
        shelf: &Arc<TestShelf>,
        ranges: Vec<EventRange>,
        most: usize,
    ) -> Self {
        let begun = disk.read(CHECKPOINT_PATH).unwrap().is_some();
        let signer = if begun { TestSigner::begun(1) } else { TestSigner::new(1) };
        let log = Log::open(Arc::<ModelDisk>::clone(disk), signer, 64).unwrap();
        let through = log.index().marks().through();
        let ranges = ranges.into_iter().filter(|range| range.first > through).collect();
        let mut log = log.append(Growth { ranges, ..Growth::default() }).unwrap();
        let view = Arc::new(View::default());
        view.show(&log);
        let (told, mut acts) = mpsc::channel::<Told>(1);
        let (shown, mut tasks) = (Arc::clone(&view), JoinSet::new());
        tasks.spawn(async move {
            while let Some(Told { balance, done, .. }) = acts.recv().await {
                log = log.append(Growth { balance, ..Growth::default() }).unwrap();
                shown.show(&log);
                done.send(()).unwrap();
            }
        });
        let clock = Arc::new(ManualClock::default());
        clock.set(BEGIN.plus(DAY * day));
        let trimmer = Trimmer::new(Parts {
            shelf: Arc::clone(shelf),
            view: Arc::clone(&view),
            disk: Arc::<ModelDisk>::clone(disk),
            log: told,
            keep: KEEP,
            most,
            clock: Arc::<ManualClock>::clone(&clock),
            metrics: AuditMetrics::new(&Metrics::default()),
            trimmed: Readiness::default().condition("events_trimmed"),
        });
        Self { trimmer, view, clock, tasks }
    }

    fn balance(&self) -> ClosingBalance {
        self.view.closing().unwrap().balance
    }

    async fn run(&self) -> Result<Trimmed, TrimError> {
        self.trimmer.look(Duration::ZERO).await
    }

    async fn stop(self) {
        let Self { trimmer, mut tasks, .. } = self;
        drop(trimmer);
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// What a checker finds by the newest balance, CARRIED and EVENTS.
async fn check(view: &View, shelf: &TestShelf) -> Ledger {
    let mut ledger = Ledger::default();
    let mut after = 0;
    if let Some(closed) = view.closing() {
        let ClosingBalance { through, sums, carried, .. } = closed.balance;
        let batches = match carried {
            Some(range) => shelf.carried(range.first, range.last).await.unwrap(),
            None => Vec::new(),
        };
        let tree: Frontier = batches.iter().map(|batch| batch.leaf).collect();
        assert_eq!(carried.map_or_else(Hash::empty, |range| range.root), tree.root());
        ledger = Ledger::resume(sums, &deliveries(batches));
        after = through;
    }
    let held = shelf.held().await.unwrap();
    assert!(held.first <= after + 1, "a hole after {after}");
    let mut from = after + 1;
    while let Some(batch) = shelf.read(from, held.last).await.unwrap().pop() {
        from = batch.sequence + 1;
        deliveries(vec![batch]).iter().for_each(|event| ledger.take(event));
    }
    ledger
}

fn deliveries(batches: Vec<StoredEvents>) -> Vec<Event> {
    let delivery = |event| match event {
        LogEvent::Delivery(event) => Some(event),
        LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => None,
    };
    batches.into_iter().flat_map(|batch| batch.events).filter_map(delivery).collect()
}

fn submitted(seed: u8, carrier_id: &str) -> Event {
    let (account, carrier_id) = ("a".parse().unwrap(), carrier_id.to_owned());
    event(seed, EventKind::Submitted { attempt: 1, account, part: 1, carrier_id })
}

fn parked(carrier_id: &str) -> LogEvent {
    LogEvent::ParkedReceipt {
        at: BEGIN,
        account: "a".parse().unwrap(),
        carrier_id: carrier_id.to_owned(),
        state: ReceiptState::Delivered,
        error: String::new(),
    }
}

/// Thirty days, and what the whole of them says. Messages 1 to 3 end before day 20; message 4 goes on until day 22,
/// message 5 never ends.
fn month() -> (Arc<TestShelf>, Vec<EventRange>, Ledger) {
    let mut days: Vec<Vec<LogEvent>> = vec![Vec::new(); 30];
    let mut put = |day: usize, event: Event| days[day].push(LogEvent::Delivery(event));
    put(0, accepted(1));
    put(0, rejected(1));
    put(2, accepted(2));
    put(5, rejected(2));
    put(17, accepted(3));
    put(17, rejected(3));
    put(18, accepted(4));
    put(18, submitted(4, "late"));
    put(22, rejected(4));
    put(6, accepted(5));
    put(25, accepted(6));
    put(25, rejected(6));
    put(9, rejected(9));
    days[3].extend([parked("late"), parked("orphan")]);
    let all: Vec<_> = days.iter().flatten().cloned().collect();
    let delivery = |event| match event {
        LogEvent::Delivery(event) => Some(event),
        LogEvent::ParkedReceipt { .. } | LogEvent::OptOut { .. } => None,
    };
    let events: Vec<_> = all.into_iter().filter_map(delivery).collect();
    let (shelf, ranges) = TestShelf::new(&days);
    (shelf, ranges, whole(&events))
}

#[tokio::test]
async fn what_is_old_goes_and_what_is_left_says_the_same() {
    let (shelf, ranges, all) = month();
    let disk = Arc::new(ModelDisk::default());
    let running = Running::start(&disk, &shelf, ranges, 1_000);
    assert_eq!(check(&running.view, &shelf).await.balance(), all.balance());
    // The newest batch is of day 29: what was stored before day 19 goes, as whole ranges of two days.
    assert_eq!(running.run().await.unwrap(), Trimmed { batches: 18, through: 18 });
    assert_eq!(shelf.sequences(), (19..=30).collect::<Vec<_>>());
    let balance = running.balance();
    assert_eq!(balance.through, 18);
    assert_eq!(balance.sums.ended, BTreeMap::from([(Outcome::Rejected, 3)]));
    assert_eq!((balance.sums.strange, balance.orphans, balance.unreadable), (1, 1, 0));
    // Message 5 alone: message 4 begins after the cut.
    assert_eq!(balance.carried.unwrap().batches, 1);
    assert_eq!(balance.stored_s, BEGIN.plus(DAY * 17).unix_seconds());
    let left = check(&running.view, &shelf).await;
    assert_eq!(left.balance(), all.balance());
    assert_eq!(left.must_be_stored(), BTreeSet::from([facts(5).message]));
    // Nothing more is due, and a day that is not over is waited for.
    assert_eq!(running.run().await.unwrap(), Trimmed { batches: 0, through: 18 });
    running.stop().await;
}

#[tokio::test]
async fn parts_are_as_small_as_memory_wants() {
    let (shelf, ranges, all) = month();
    let disk = Arc::new(ModelDisk::default());
    // A range has three messages and receipts at most.
    let running = Running::start(&disk, &shelf, ranges, 4);
    assert_eq!(running.run().await.unwrap(), Trimmed { batches: 18, through: 18 });
    assert_eq!(check(&running.view, &shelf).await.balance(), all.balance());
    running.stop().await;
    let (shelf, ranges, all) = month();
    let running = Running::start(&Arc::new(ModelDisk::default()), &shelf, ranges, 1);
    // The second range has three.
    assert!(matches!(running.run().await, Err(TrimError::TooMany(_))));
    assert_eq!(shelf.sequences(), (3..=30).collect::<Vec<_>>());
    assert_eq!(check(&running.view, &shelf).await.balance(), all.balance());
    running.stop().await;
}

#[tokio::test]
async fn wherever_it_ends_the_next_one_finishes() {
    for changes in 0..40 {
        let (shelf, ranges, all) = month();
        let disk = Arc::new(ModelDisk::default());
        shelf.left.store(changes, Ordering::SeqCst);
        let running = Running::start(&disk, &shelf, ranges.clone(), 3);
        let done = running.run().await.is_ok();
        assert_eq!(check(&running.view, &shelf).await.balance(), all.balance(), "after {changes} changes");
        running.stop().await;
        shelf.left.store(usize::MAX, Ordering::SeqCst);
        let again = Running::start(&disk, &shelf, ranges, 3);
        again.run().await.unwrap();
        assert_eq!(shelf.sequences(), (19..=30).collect::<Vec<_>>());
        let carried: Vec<_> = shelf.carried.lock().unwrap().keys().copied().collect();
        let named = again.balance().carried.unwrap();
        assert_eq!(carried, (named.first..=named.last).collect::<Vec<_>>(), "after {changes} changes");
        assert_eq!(check(&again.view, &shelf).await.balance(), all.balance());
        again.stop().await;
        if done {
            assert!(changes > 6, "{changes} changes are too few for this test");
            return;
        }
    }
    panic!("it never came to its end");
}

#[tokio::test]
async fn what_was_altered_is_not_closed() {
    let (shelf, ranges, _) = month();
    let bytes = shelf.events.lock().unwrap().get(&1).unwrap().1.clone();
    shelf.events.lock().unwrap().get_mut(&6).unwrap().1 = bytes;
    let disk = Arc::new(ModelDisk::default());
    let running = Running::start(&disk, &shelf, ranges.clone(), 1_000);
    assert!(matches!(running.run().await, Err(TrimError::Altered { first: 5, last: 6 })));
    assert_eq!(shelf.sequences().len(), 30);
    running.stop().await;
    // One that somebody took away is not told from one that was changed.
    let (shelf, ranges, _) = month();
    shelf.events.lock().unwrap().remove(&6);
    let running = Running::start(&Arc::new(ModelDisk::default()), &shelf, ranges, 1_000);
    assert!(matches!(running.run().await, Err(TrimError::Altered { first: 5, last: 6 })));
    running.stop().await;
}

#[tokio::test]
async fn nothing_goes_over_a_set_or_a_log_that_the_balance_does_not_speak_of() {
    let (shelf, ranges, _) = month();
    let disk = Arc::new(ModelDisk::default());
    // The balance is in the log, and nothing was taken away yet.
    shelf.left.store(1, Ordering::SeqCst);
    let running = Running::start(&disk, &shelf, ranges.clone(), 1_000);
    assert!(matches!(running.run().await, Err(TrimError::Events(_))));
    let named = running.balance().carried.unwrap();
    running.stop().await;
    shelf.left.store(usize::MAX, Ordering::SeqCst);
    // A broker that was put back: its CARRIED is another one.
    let right = shelf.carried.lock().unwrap().insert(named.first, Vec::new()).unwrap();
    let running = Running::start(&disk, &shelf, ranges.clone(), 1_000);
    assert!(matches!(running.run().await, Err(TrimError::CarriedAltered { .. })));
    assert_eq!(shelf.sequences().len(), 30);
    running.stop().await;
    // One that was made anew: its EVENTS are.
    shelf.carried.lock().unwrap().insert(named.first, right);
    let wrong = shelf.events.lock().unwrap().get(&1).unwrap().1.clone();
    let right = std::mem::replace(&mut shelf.events.lock().unwrap().get_mut(&18).unwrap().1, wrong);
    let running = Running::start(&disk, &shelf, ranges.clone(), 1_000);
    assert!(matches!(running.run().await, Err(TrimError::Altered { first: 17, last: 18 })));
    assert_eq!(shelf.sequences().len(), 30);
    running.stop().await;
    shelf.events.lock().unwrap().get_mut(&18).unwrap().1 = right;
    let running = Running::start(&disk, &shelf, ranges, 1_000);
    assert_eq!(running.run().await.unwrap(), Trimmed { batches: 18, through: 18 });
    running.stop().await;
}

#[tokio::test]
async fn what_waits_for_its_time_goes_on_though_it_was_cancelled() {
    let mut scheduled = facts(7);
    let at = BEGIN.plus(DAY * 29);
    (scheduled.send_at, scheduled.expires_at) = (Some(at), at.plus(DAY));
    let mut days: Vec<Vec<LogEvent>> = vec![Vec::new(); 30];
    days[1].push(LogEvent::Delivery(event(7, EventKind::Accepted(Box::new(scheduled)))));
    days[2].push(LogEvent::Delivery(event(7, EventKind::Cancelled)));
    let (shelf, ranges) = TestShelf::new(&days);
    let running = Running::start(&Arc::new(ModelDisk::default()), &shelf, ranges, 1_000);
    assert_eq!(running.run().await.unwrap().through, 18);
    let balance = running.balance();
    assert_eq!((balance.sums.closed(), balance.carried.unwrap().batches), (0, 1));
    let left = check(&running.view, &shelf).await;
    assert_eq!(left.balance().ended, BTreeMap::from([(Outcome::Cancelled, 1)]));
    running.stop().await;
}

#[tokio::test]
async fn a_clock_that_jumps_takes_nothing_away_and_a_full_stream_keeps_less() {
    let (shelf, ranges, all) = month();
    let disk = Arc::new(ModelDisk::default());
    // The cell's clocks jump together, and events confirm the wrong time.
    let running = Running::start_on(9, &disk, &shelf, ranges.clone(), 1_000);
    running.clock.set(BEGIN.plus(DAY * 30));
    assert_eq!(running.run().await.unwrap().batches, 0);
    running.stop().await;
    let running = Running::start_on(4_000, &disk, &shelf, ranges, 1_000);
    assert_eq!(running.run().await.unwrap().through, 18);
    // Three quarters full: eight days are kept instead of ten.
    *shelf.max_bytes.lock().unwrap() = 10;
    assert_eq!(running.run().await.unwrap().through, 20);
    // Message 4 ended after the cut, and is carried.
    let left = check(&running.view, &shelf).await;
    assert_eq!(left.balance(), all.balance());
    running.stop().await;
}

#[tokio::test]
async fn a_day_is_closed_together() {
    let (shelf, ranges, _) = month();
    let disk = Arc::new(ModelDisk::default());
    let minutes = Duration::from_secs(60);
    let running = Running::start_on(10, &disk, &shelf, ranges.clone(), 1_000);
    running.clock.set(BEGIN.plus(DAY * 10).plus(minutes));
    assert_eq!(running.trimmer.look(DAY).await.unwrap().batches, 0);
    running.stop().await;
    let running = Running::start_on(12, &disk, &shelf, ranges, 1_000);
    assert_eq!(running.trimmer.look(DAY).await.unwrap().batches, 2);
    running.stop().await;
}

#[test]
fn the_clock_is_believed_as_far_as_the_log_confirms_it() {
    let newest = BEGIN.plus(DAY * 20);
    for (now, full, before) in [
        (BEGIN.plus(DAY * 15), false, BEGIN.plus(DAY * 5)),
        (BEGIN.plus(DAY * 900), false, BEGIN.plus(DAY * 10)),
        (BEGIN.plus(DAY * 900), true, BEGIN.plus(DAY * 12)),
    ] {
        assert_eq!(KEEP.before(now, newest, full), before);
    }
}
