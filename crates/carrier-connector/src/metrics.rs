//! What the connector measures.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use sotto_core::{Lane, delivery::ReceiptState};
use sotto_metrics::{About, Age, Counter, Described, Each, Gauge, Histogram, Label, Metrics, TIMES, label};
use sotto_smpp::CommandStatus;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    adapters::broker::WaitingQueues,
    app::account::Account,
    domain::{claim::PartEnd, course::Bound, status::Refusal},
    ports::Unwrapped,
};

label! {
    /// How the submit of a part ended.
    pub(crate) enum End("end") {
        /// The carrier took it.
        Submitted = "submitted",
        /// The carrier asked to slow down.
        Throttled = "throttled",
        /// The carrier failed for a reason that passes.
        Passing = "passing",
        /// This carrier refused it; another may take it.
        Elsewhere = "elsewhere",
        /// No carrier will take it.
        Final = "final",
        /// Written, and no answer came: unknown.
        NoResponse = "no_response",
        /// Provably not written.
        Unsent = "unsent",
    }
}

impl From<&PartEnd> for End {
    fn from(end: &PartEnd) -> Self {
        match end {
            PartEnd::Submitted { .. } => Self::Submitted,
            PartEnd::Refused { status } => match Refusal::of(CommandStatus(*status)) {
                Refusal::Throttled => Self::Throttled,
                Refusal::Passing => Self::Passing,
                Refusal::Elsewhere => Self::Elsewhere,
                Refusal::Final => Self::Final,
            },
            PartEnd::NoResponse => Self::NoResponse,
            PartEnd::Unsent { .. } => Self::Unsent,
        }
    }
}

label! {
    /// Where the key of a message came from.
    pub(crate) enum KeyFound("result") {
        /// It was held.
        Held = "held",
        /// Privacy opened it.
        Opened = "opened",
        /// It is destroyed: what it guarded is deleted.
        Destroyed = "destroyed",
        /// The account may not carry the tenant's messages.
        NotAllowed = "not_allowed",
        /// The wrap belongs to nothing.
        Invalid = "invalid",
        /// Privacy did not answer, or the opening could not be announced.
        Unavailable = "unavailable",
    }
}

impl From<&Unwrapped> for KeyFound {
    fn from(answer: &Unwrapped) -> Self {
        match answer {
            Unwrapped::Key { .. } => Self::Opened,
            Unwrapped::Destroyed => Self::Destroyed,
            Unwrapped::NotAllowed => Self::NotAllowed,
            Unwrapped::Invalid => Self::Invalid,
        }
    }
}

label! {
    /// What became of a receipt.
    pub(crate) enum Receipt("result") {
        /// Its part is known.
        Matched = "matched",
        /// Its part is not known yet.
        Parked = "parked",
        /// It says nothing: refused.
        Refused = "refused",
    }
}

/// What the process measures as a whole. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct CarrierMetrics {
    /// Where accounts register theirs.
    registry: Metrics,
    /// When privacy last said which keys ended.
    pub(crate) revocations: Age,
}

impl CarrierMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self { registry: metrics.clone(), revocations: metrics.age(REVOCATIONS) }
    }

    /// The instruments of one account.
    pub(crate) fn of_account(&self, account: &str) -> AccountMetrics {
        AccountMetrics::new(&self.registry.with("account", account))
    }

    /// Reads what stands in the account whenever the page is asked for.
    pub(crate) fn watch(&self, id: &str, account: &Weak<Account>) {
        let metrics = self.registry.with("account", id);
        let read = |about: About, read: fn(&Account) -> usize| {
            let account = Weak::clone(account);
            metrics.read(about, move || Some(count(read(&*account.upgrade()?))));
        };
        read(LINKS, |account| account.line.bound().len());
        read(CONTRACTED, |account| usize::from(account.settings.binds));
        read(WINDOW, |account| {
            let line = account.line.snapshot(Instant::now());
            line.binds.len().saturating_mul(line.window)
        });
        read(WINDOW_USED, |account| {
            let line = account.line.snapshot(Instant::now());
            line.binds.iter().map(|(_, free)| line.window.saturating_sub(*free)).sum()
        });
        read(TPS_USED, |account| account.line.snapshot(Instant::now()).used);
        read(TPS_ALLOWED, |account| account.line.snapshot(Instant::now()).allowed);
        read(WAITING_RECEIPTS, Account::waiting_receipts);
        let throttled = Weak::clone(account);
        metrics.read(THROTTLED, move || {
            Some(throttled.upgrade()?.line.snapshot(Instant::now()).paused_for.as_secs_f64())
        });
        for bound in Bound::ALL {
            let account = Weak::clone(account);
            let is_it = move || Some(f64::from(u8::from(account.upgrade()?.bound_by() == *bound)));
            metrics.with(Bound::NAME, bound.value()).read(BOUND_BY, is_it);
        }
    }
}

/// What is measured of one account.
#[derive(Clone, Debug)]
pub(crate) struct AccountMetrics {
    /// Parts, by how their submit ended.
    pub(crate) parts: Each<End, Counter>,
    /// Seconds of the pauses that the carrier asked for.
    pub(crate) slowed: Counter,
    /// From the last byte of a message's parts to each answer.
    pub(crate) answered_in: Histogram,
    /// Answers that came after their part was given up.
    pub(crate) late: Counter,
    /// Keys, by where they came from.
    pub(crate) keys: Each<KeyFound, Counter>,
    /// Receipts, by what became of them.
    pub(crate) receipts: Each<Receipt, Counter>,
    /// Receipts, by what they say.
    pub(crate) said: Each<ReceiptState, Counter>,
    /// Receipts that lead to nothing and were kept aside.
    pub(crate) aside: Counter,
    /// Messages from handsets that were stored.
    pub(crate) inbound: Counter,
    /// Binds that came up.
    pub(crate) binds: Counter,
    queues: Each<Lane, QueueMetrics>,
}

#[derive(Clone, Debug)]
struct QueueMetrics {
    batches: Gauge,
    fill: Gauge,
    oldest: Gauge,
}

impl AccountMetrics {
    fn new(metrics: &Metrics) -> Self {
        Self {
            parts: metrics.counters(PARTS),
            slowed: metrics.counter(SLOWED),
            answered_in: metrics.times(ANSWERED_IN, TIMES),
            late: metrics.counter(LATE),
            keys: metrics.counters(KEYS),
            receipts: metrics.counters(RECEIPTS),
            said: metrics.counters(SAID),
            aside: metrics.counter(ASIDE),
            inbound: metrics.counter(INBOUND),
            binds: metrics.counter(BINDS),
            queues: metrics.each(|metrics| QueueMetrics {
                batches: metrics.gauge(BATCHES),
                fill: metrics.gauge(FILL),
                oldest: metrics.gauge(OLDEST),
            }),
        }
    }
}

/// How often it is looked at what waits.
const LOOK: Duration = Duration::from_secs(10);

/// Measures what waits for each account, for ever. While the broker is away the numbers stand still.
pub(crate) async fn measure_queues(accounts: Vec<Arc<Account>>, queues: Arc<WaitingQueues>) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Ok(subjects) = queues.subjects().await else { continue };
        for account in &accounts {
            let Ok(waiting) = queues.within(&subjects, &account.settings.id).await else { continue };
            for queue in waiting {
                let metrics = account.metrics.queues.of(queue.lane);
                metrics.batches.set_count(queue.batches);
                metrics.fill.set(share(queue.batches, subjects.most));
                let age = queue.oldest.map(|oldest| account.shared.clock.now().since(oldest));
                metrics.oldest.set_seconds(age.unwrap_or_default());
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn count(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn share(batches: u64, most: Option<u64>) -> f64 {
    most.map_or(0.0, |most| batches as f64 / most.max(1) as f64)
}

const REVOCATIONS: About = About {
    name: "sotto_carrier_revocation_age_seconds",
    what: "How long ago privacy last said which keys ended; asked every second",
    worry: "Above 5: what an operator destroyed may still be submitted, for `connector.keys_kept` at most",
};
const LINKS: About = About {
    name: "sotto_carrier_binds_up",
    what: "Binds of the account that are up in this replica",
    worry: "The sum over replicas below `sotto_carrier_binds_contracted`",
};
const CONTRACTED: About = About {
    name: "sotto_carrier_binds_contracted",
    what: "Binds of the account's contract, over all replicas",
    worry: "For comparison",
};
const WINDOW: About = About {
    name: "sotto_carrier_window_places",
    what: "Places in the windows of the binds that are up here",
    worry: "For comparison",
};
const WINDOW_USED: About = About {
    name: "sotto_carrier_window_used",
    what: "Places in the windows that are taken: parts whose answer is awaited",
    worry: "Stands at `sotto_carrier_window_places`: the carrier answers slowly",
};
const TPS_USED: About = About {
    name: "sotto_carrier_tps_used",
    what: "Parts written in the last second",
    worry: "Stands at `sotto_carrier_tps_allowed` while the queue grows: the contract is too small",
};
const TPS_ALLOWED: About = About {
    name: "sotto_carrier_tps_allowed",
    what: "Parts a second that this replica may write now",
    worry: "Below the contract's `tps` while all binds are up: the carrier throttles",
};
const THROTTLED: About = About {
    name: "sotto_carrier_throttled_seconds",
    what: "How much longer the carrier's wish to slow down holds everything, in seconds",
    worry: "Stays above 0",
};
const BOUND_BY: About = About {
    name: "sotto_carrier_bound_by",
    what: "1 for what bounds the account now, as `sotto carriers` tells it; else 0",
    worry: "`no_bind`, `privacy`, `redis`, `unheard`: for more than a minute",
};
const PARTS: About = About {
    name: "sotto_carrier_parts_total",
    what: "Parts by how their submit ended; `no_response`: written and never answered, which becomes unknown",
    worry: "`no_response`: any; `elsewhere`, `final`: a share above the usual; `throttled`: see `sotto_carrier_slowed_seconds_total`",
};
const SLOWED: About = About {
    name: "sotto_carrier_slowed_seconds_total",
    what: "Seconds for which the carrier's wish to slow down held everything in this replica; a pause counts when it begins",
    worry: "A rate above 0.05: a twentieth of the time. The carrier takes less than `tps` says",
};
const ANSWERED_IN: About = About {
    name: "sotto_carrier_answer_seconds",
    what: "Time from a message's last part on the wire to the carrier's answer, in seconds",
    worry: "The 99th percentile near `response_timeout`: it is the carrier",
};
const LATE: About = About {
    name: "sotto_carrier_late_answers_total",
    what: "Answers that came after their part was given up; each lifts a doubt",
    worry: "Any: `response_timeout` is too short for this carrier",
};
const KEYS: About = About {
    name: "sotto_carrier_keys_total",
    what: "Keys of messages looked for, by result: `held` is a hit of the cache, `opened` a miss that privacy answered",
    worry: "`not_allowed`, `invalid`: any; `unavailable`: privacy is away",
};
const RECEIPTS: About = About {
    name: "sotto_carrier_receipts_total",
    what: "Receipts, by what became of them; `parked`: its part is not known yet",
    worry: "`refused`: any; `parked`: a share above a hundredth",
};
const SAID: About = About {
    name: "sotto_carrier_receipt_states_total",
    what: "Receipts that were stored, by what they say",
    worry: "The share of `delivered` falls",
};
const WAITING_RECEIPTS: About = About {
    name: "sotto_carrier_receipts_waiting",
    what: "Receipts whose part did not turn up within a minute, and still may within the hour",
    worry: "Grows: ids do not match (`message_id_in_receipt`)",
};
const ASIDE: About = About {
    name: "sotto_carrier_receipts_aside_total",
    what: "Receipts of which nothing follows and of which a record went to quarantine, at most 100 an hour",
    worry: "Any",
};
const INBOUND: About = About {
    name: "sotto_carrier_inbound_total",
    what: "Messages from handsets that were stored",
    worry: "Stands still where answers are usual",
};
const BINDS: About = About {
    name: "sotto_carrier_binds_total",
    what: "Times a bind came up",
    worry: "Grows again and again: the link is cut, or two use the same system id",
};
const BATCHES: About = About {
    name: "sotto_carrier_queue_batches",
    what: "Batches that wait for the account; by lane, looked at every 10 seconds; every replica tells the same",
    worry: "Grows for long",
};
const FILL: About = About {
    name: "sotto_carrier_queue_fill_ratio",
    what: "Batches that wait for the account of those that its queue may hold; by lane; at 1 it refuses, and routing cannot move messages there",
    worry: "Above 0.7",
};
const OLDEST: About = About {
    name: "sotto_carrier_queue_oldest_seconds",
    what: "How long ago the oldest message that waits was accepted, or was to be sent; 0: none; by lane, looked at every 10 seconds",
    worry: "`otp` above 30, `transactional` above 600",
};

/// What the connector measures, for docs/METRICS.md.
pub fn described() -> Vec<Described> {
    let registry = Metrics::default();
    let metrics = CarrierMetrics::new(&registry);
    metrics.of_account("account");
    metrics.watch("account", &Weak::new());
    registry.described()
}
