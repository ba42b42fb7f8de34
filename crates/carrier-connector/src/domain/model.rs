//! Every order of claim, submit, crash and receipt of one message, tried (INV-2, INV-5, INV-6, INV-9).
//!
//! What decides is the production code: [`judge`], [`settle`], [`cancel`], [`expire`] and the fold of the log by
//! [`Delivery`]. What stores is written down here in a few lines each: a log, a work queue that delivers again, the
//! scripts of the ledger, the three steps of a cancellation, a carrier. `claim.lua` grants what [`judge`] calls free; the
//! tests of the ledger hold the two together, and `tests/world` runs the scripts themselves.
//!
//! Two connectors work on it. Each step of theirs is one effect on one of the stores, so that a crash between two steps
//! is a crash before or after each durable record. Time goes in ticks of one lease. What is left out: a log or a Redis
//! that does not answer (a lost request is a crash before the effect, a lost answer one after it, but the process goes
//! on), windows and rates. `tests/world` has these.
//!
//! Each invariant is proved able to fail: [`Rules`] can be broken one at a time, and then the search must find it.

mod ledger;
mod properties;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use sotto_core::{
    AccountId, Facts, MessageClass, MessageId, Timestamp, WorkItem,
    delivery::{Delivery, Event, EventKind},
    text::Encoding,
    work::Envelope,
};
use stateright::{Checker, HasDiscoveries, Model as _, Path};

use super::{
    claim::{Claim, PartEnd, Standing, judge},
    settle::Settled,
};
use ledger::Ledger;

/// How long a claim is good.
const LEASE: i64 = 1;

/// An attempt at a part.
type Key = (u16, u8);

type Judge = fn(&[(u8, Option<Claim>)], &AccountId, Timestamp) -> Standing;

/// Who decides, and what may be broken.
#[derive(Clone, Copy, Debug)]
struct Rules {
    judge: Judge,
    /// The old record is acknowledged before the message is at its new place.
    acknowledge_first: bool,
    /// The claim is not compared again before the first byte.
    no_fence: bool,
    /// After a loss of Redis the fence is asked for when the claim's time is over.
    late_fence: bool,
    /// A rebuilding puts no intents back.
    forget_intents: bool,
    /// A receipt is answered before it is in the log.
    answer_first: bool,
    /// A client hears that its message is cancelled when the mark is set.
    cancel_at_once: bool,
}

impl Rules {
    const OURS: Self = Self {
        judge,
        acknowledge_first: false,
        no_fence: false,
        late_fence: false,
        forget_intents: false,
        answer_first: false,
        cancel_at_once: false,
    };
}

/// What may happen in a search.
#[derive(Clone, Debug)]
struct World {
    rules: Rules,
    /// The accounts of the two connectors. If they differ, the first attempt waits at both: routing decided it twice.
    accounts: [AccountId; 2],
    parts: u8,
    /// When the message's validity ends, and silence is closed.
    expires: i64,
    /// The last tick. Nothing dies in it, so that every lease ends.
    end: i64,
    crashes: u8,
    /// How often Redis may be emptied.
    losses: u8,
    /// How often a record may be delivered that somebody holds.
    redeliveries: u8,
    refusals: bool,
    /// Answers may come after they were given up.
    late: bool,
    receipts: bool,
    cancel: bool,
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Record {
    Event(Event),
    /// A receipt of an id that stood for nothing.
    Parked(Key),
}

/// A record in a work queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Work {
    /// The message on its way to an account, or, without one, to routing.
    item: Arc<WorkItem>,
    acknowledged: Option<By>,
}

/// Who acknowledged a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum By {
    Connector(usize),
    Routing,
}

/// What a connector has in hand.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Job {
    work: usize,
    token: String,
    /// When it was claimed.
    at: i64,
}

/// Where a connector is: what it does next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At {
    Idle,
    /// Claims what was delivered.
    Claim {
        work: usize,
    },
    /// Records the intent.
    Intend {
        job: Job,
        epoch: u8,
    },
    /// Passes the fence; none: Redis was lost since the claim.
    Fence {
        job: Job,
        epoch: Option<u8>,
    },
    /// Writes.
    Write {
        job: Job,
    },
    /// Waits for the carrier.
    Wait {
        job: Job,
    },
    /// Notes the ends in Redis.
    Note {
        job: Job,
        ends: Vec<(u8, PartEnd)>,
        settled: Settled,
    },
    /// Records what follows.
    Tell {
        job: Job,
        ends: Vec<(u8, PartEnd)>,
        settled: Settled,
        early: BTreeSet<Key>,
    },
    /// Gives the message back.
    Back {
        job: Job,
        ends: Vec<(u8, PartEnd)>,
        back: WorkItem,
        early: BTreeSet<Key>,
    },
    /// Notes in Redis that all is stored.
    Finish {
        job: Job,
        ends: Vec<(u8, PartEnd)>,
        early: BTreeSet<Key>,
    },
    /// Tells receipts that turned up only then.
    TellFound {
        job: Job,
        found: BTreeSet<Key>,
    },
    Acknowledge {
        work: usize,
    },
}

/// A late answer on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Late {
    /// The carrier may still give it.
    Open,
    /// It is noted in Redis; whether a receipt was there.
    Noted { early: bool },
    /// It is in the log.
    Told,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Connector {
    at: At,
    /// Claimings so far: each has a word of its own.
    claimings: u8,
    late: BTreeMap<Key, Late>,
}

/// What the carrier knows of an attempt at a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct AtCarrier {
    /// How often it was written.
    writes: u8,
    refused: bool,
    receipt: Receipt,
}

/// A receipt on its way. What is in the connector's hand only is sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Receipt {
    #[default]
    Unsent,
    /// Its id stood for its part, or it is parked in Redis.
    Found { tied: bool },
    /// It was parked, and the log has it.
    Logged,
    /// The carrier forgets it.
    Answered,
}

/// What ingress told who wanted the message cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cancelling {
    Possible,
    Marked,
    Logged,
    Told,
    Over,
}

/// The message as everybody folds it: follows from the log alone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folded(Delivery);

impl Hash for Folded {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: i64,
    /// All after the acceptance.
    log: Vec<Arc<Record>>,
    folded: Folded,
    ledger: Ledger,
    works: Vec<Work>,
    connectors: [Connector; 2],
    carrier: BTreeMap<Key, AtCarrier>,
    cancelling: Cancelling,
    crashes: u8,
    losses: u8,
    redeliveries: u8,
    /// How much of the log a rebuilding has read.
    rebuilding: Option<usize>,
}

fn message() -> MessageId {
    MessageId::from_keyed_hash([1; 16])
}

fn time(tick: i64) -> Timestamp {
    Timestamp::from_unix_millis(tick)
}

fn facts(parts: u8, expires: i64) -> Facts {
    Facts {
        message: message(),
        tenant: "acme".parse().unwrap(),
        class: MessageClass::Otp,
        country: "VN".parse().unwrap(),
        operator_range: "8498".parse().unwrap(),
        encoding: Encoding::Gsm7,
        parts,
        units: 1,
        accepted_at: time(0),
        expires_at: time(expires),
        content_mac: None,
        send_at: None,
    }
}

impl State {
    fn new(world: &World) -> Self {
        let facts = facts(world.parts, world.expires);
        let mut item = WorkItem::accepted(facts.clone(), Envelope(Bytes::new()));
        item.attempt = 1;
        let [one, two] = &world.accounts;
        let queues = if one == two { vec![one] } else { vec![one, two] };
        let at = |account: &AccountId| WorkItem { account: Some(account.clone()), ..item.clone() };
        let works = queues.iter().map(|account| Work { item: Arc::new(at(account)), acknowledged: None });
        let connector = Connector { at: At::Idle, claimings: 0, late: BTreeMap::new() };
        let mut state = Self {
            now: 0,
            log: Vec::new(),
            folded: Folded(Delivery::accepted(facts)),
            ledger: Ledger::new(),
            works: works.collect(),
            connectors: [connector.clone(), connector],
            carrier: BTreeMap::new(),
            cancelling: if world.cancel { Cancelling::Possible } else { Cancelling::Over },
            crashes: world.crashes,
            losses: world.losses,
            redeliveries: world.redeliveries,
            rebuilding: None,
        };
        for account in queues {
            let account = account.clone();
            state.tell(EventKind::Routed { attempt: 1, account, table_version: String::new() });
        }
        state
    }

    /// When something happened matters for intents alone.
    fn tell(&mut self, kind: EventKind) {
        self.record(Event { message: message(), at: time(0), kind });
    }

    fn record(&mut self, event: Event) {
        self.folded.0.step(&event).unwrap();
        self.log.push(Arc::new(Record::Event(event)));
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.log.iter().filter_map(|record| match record.as_ref() {
            Record::Event(event) => Some(event),
            Record::Parked(_) => None,
        })
    }

    /// The message as everybody folds it.
    const fn delivery(&self) -> &Delivery {
        &self.folded.0
    }
}

impl World {
    fn small() -> Self {
        let account: AccountId = "a".parse().unwrap();
        Self {
            rules: Rules::OURS,
            accounts: [account.clone(), account],
            parts: 1,
            expires: 2,
            end: 2,
            crashes: 1,
            losses: 0,
            redeliveries: 1,
            refusals: false,
            late: false,
            receipts: false,
            cancel: false,
        }
    }

    fn two_accounts() -> Self {
        Self { accounts: ["a", "b"].map(|account| account.parse().unwrap()), ..Self::small() }
    }

    /// Searches all there is and holds it against every property.
    fn holds(self, name: &str) {
        let checker = self.clone().checker().spawn_bfs().join();
        println!("{name}: {} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
        let examples = properties::examples(&self);
        for (property, path) in checker.discoveries() {
            assert!(examples.contains(&property), "{name}: {property}\n{}", steps_of(&path));
        }
        for example in examples {
            assert!(checker.discovery(example).is_some(), "{name}: not seen: {example}");
        }
    }

    /// Searches until this property is seen broken.
    fn breaks(self, property: &'static str) {
        let found = HasDiscoveries::AllOf(BTreeSet::from([property]));
        let checker = self.checker().finish_when(found).spawn_bfs().join();
        let path = checker.discovery(property);
        println!("{property}: broken after {} states", checker.unique_state_count());
        assert!(path.is_some_and(|path| !path.into_actions().is_empty()), "{property} was not seen broken");
    }
}

/// What happened on a path, for people.
fn steps_of(path: &Path<State, steps::Action>) -> String {
    let last = path.last_state();
    let actions: Vec<_> = path.clone().into_actions().iter().map(|action| format!("{action:?}")).collect();
    let log: Vec<_> = last.events().map(|event| event.kind.name()).collect();
    format!(
        "{}\n{log:?}\n{:?}\n{:?}\n{:?}",
        actions.join("\n"),
        last.ledger,
        last.carrier,
        last.delivery().parts()
    )
}

#[test]
fn crashes_and_a_second_delivery() {
    World::small().holds("one account");
    // What is refused or not written goes back and comes again.
    World { refusals: true, redeliveries: 0, expires: 1, end: 1, ..World::small() }
        .holds("one account, refusals");
    World { refusals: true, crashes: 0, expires: 1, end: 1, ..World::small() }
        .holds("one account, refusals, held twice");
}

#[test]
fn a_redis_that_is_lost_once() {
    World { losses: 1, crashes: 0, ..World::small() }.holds("one account, Redis lost, held twice");
    World { losses: 1, redeliveries: 0, ..World::small() }.holds("one account, Redis lost, a crash");
}

/// A late answer that is in the log while its process dies before Redis has it, after Redis was lost: its id stays
/// untied until the next rebuilding (docs/INVARIANTS.md, INV-6). So either of the two.
#[test]
fn receipts_before_and_after_answers() {
    let all = World { redeliveries: 0, receipts: true, late: true, ..World::small() };
    World { losses: 1, crashes: 0, expires: 1, end: 1, ..all }.holds("receipts, Redis lost");
    let all = World { redeliveries: 0, receipts: true, late: true, ..World::small() };
    all.holds("receipts, a crash");
}

#[test]
fn an_attempt_that_waits_at_two_accounts() {
    World { redeliveries: 0, ..World::two_accounts() }.holds("two accounts, a crash");
    World { redeliveries: 0, crashes: 0, losses: 1, ..World::two_accounts() }
        .holds("two accounts, Redis lost");
}

#[test]
fn a_message_of_two_parts() {
    World { parts: 2, redeliveries: 0, ..World::small() }.holds("two parts, a crash");
    World { parts: 2, redeliveries: 0, crashes: 0, refusals: true, ..World::small() }
        .holds("two parts, refusals");
}

#[test]
fn a_cancellation_beside_it_all() {
    World { losses: 1, cancel: true, redeliveries: 0, ..World::small() }
        .holds("cancelled, Redis lost, a crash");
}

#[test]
fn a_message_that_is_too_late() {
    World { expires: 0, end: 1, losses: 1, ..World::small() }
        .holds("expired, Redis lost, a crash, held twice");
}

#[test]
fn a_judge_that_calls_an_intent_free_is_found_out() {
    fn free(claims: &[(u8, Option<Claim>)], account: &AccountId, now: Timestamp) -> Standing {
        match judge(claims, account, now) {
            Standing::Abandoned(_) => Standing::Free,
            other @ (Standing::Free | Standing::Held { .. } | Standing::Finished) => other,
        }
    }
    let rules = Rules { judge: free, ..Rules::OURS };
    World { rules, ..World::small() }.breaks(properties::ONCE);
    World { rules, ..World::small() }.breaks(properties::DOUBT_STAYS);
}

#[test]
fn a_message_that_is_acknowledged_before_it_moves_is_found_out() {
    let rules = Rules { acknowledge_first: true, ..Rules::OURS };
    World { rules, refusals: true, redeliveries: 0, ..World::small() }.breaks(properties::NOTHING_DISAPPEARS);
}

#[test]
fn a_connector_without_a_fence_is_found_out() {
    let rules = Rules { no_fence: true, ..Rules::OURS };
    World { rules, ..World::small() }.breaks(properties::ONCE);
}

#[test]
fn a_fence_that_is_asked_too_late_is_found_out() {
    let rules = Rules { late_fence: true, ..Rules::OURS };
    World { rules, losses: 1, crashes: 0, ..World::small() }.breaks(properties::ONCE);
    World { rules, losses: 1, crashes: 0, redeliveries: 0, ..World::two_accounts() }.breaks(properties::ONCE);
}

#[test]
fn a_rebuilding_without_intents_is_found_out() {
    let rules = Rules { forget_intents: true, ..Rules::OURS };
    World { rules, losses: 1, ..World::small() }.breaks(properties::ONCE);
    World { rules, losses: 1, ..World::small() }.breaks(properties::DOUBT_STAYS);
}

#[test]
fn a_receipt_that_is_answered_too_early_is_found_out() {
    let rules = Rules { answer_first: true, ..Rules::OURS };
    World { rules, receipts: true, ..World::small() }.breaks(properties::RECEIPTS_STAY);
}

#[test]
fn a_cancellation_that_is_told_too_early_is_found_out() {
    let rules = Rules { cancel_at_once: true, ..Rules::OURS };
    World { rules, losses: 1, cancel: true, redeliveries: 0, ..World::small() }
        .breaks(properties::CANCELLED_IS_NOT_SENT);
}
