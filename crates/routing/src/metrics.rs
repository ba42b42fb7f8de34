//! What routing measures.

use std::collections::BTreeMap;

use sotto_core::{AccountId, Lane, Timestamp, WorkItem, delivery::RejectCause};
use sotto_metrics::{About, Counter, Described, Each, Histogram, Metrics, WAITS, label};

use crate::domain::Decision;

label! {
    /// What was decided.
    pub(crate) enum Decided("decision") {
        /// Its first attempt.
        First = "first",
        /// Another attempt.
        Again = "again",
        /// Its time has not come, or every account asked for patience.
        Hold = "hold",
        /// Its validity is over.
        Expired = "expired",
        /// It may have been sent in the time that a restored cell lost.
        Doubted = "doubted",
        /// No carrier may or will take it.
        Rejected = "rejected",
    }
}

/// The instruments.
#[derive(Debug)]
pub(crate) struct RoutingMetrics {
    decided: Each<Lane, Each<Decided, Counter>>,
    /// Messages that no carrier takes, by the cause as it is told.
    pub(crate) rejected: Each<RejectCause, Counter>,
    waited: Each<Lane, Histogram>,
    sent: BTreeMap<AccountId, Counter>,
    /// Messages that could not be moved now and stay in intake.
    pub(crate) put_off: Counter,
}

impl RoutingMetrics {
    /// Registers the instruments; `accounts` are those of the carriers file.
    pub(crate) fn new(metrics: &Metrics, accounts: impl IntoIterator<Item = AccountId>) -> Self {
        let of_account = |id: AccountId| {
            let sent = metrics.with("account", id.as_str()).counter(SENT);
            (id, sent)
        };
        Self {
            decided: metrics.each(|metrics| metrics.counters(DECIDED)),
            rejected: metrics.counters(REJECTED),
            waited: metrics.each(|metrics| metrics.times(WAITED, WAITS)),
            sent: accounts.into_iter().map(of_account).collect(),
            put_off: metrics.counter(PUT_OFF),
        }
    }

    /// One decision.
    pub(crate) fn decided(&self, item: &WorkItem, decision: &Decision, now: Timestamp) {
        let lane = item.facts.lane();
        let first = item.history.is_empty();
        let decided = match decision {
            Decision::Send { account, .. } => {
                if let Some(sent) = self.sent.get(account) {
                    sent.one();
                }
                if first { Decided::First } else { Decided::Again }
            }
            Decision::Hold { .. } => Decided::Hold,
            Decision::Expire => Decided::Expired,
            Decision::Doubt => Decided::Doubted,
            Decision::Reject(_) => Decided::Rejected,
        };
        self.decided.of(lane).of(decided).one();
        // What was to be sent later has waited for its time, not for us.
        if decided == Decided::First && item.facts.send_at.is_none() {
            self.waited.of(lane).took(now.since(item.facts.accepted_at));
        }
    }
}

const DECIDED: About = About {
    name: "sotto_routing_decisions_total",
    what: "Decisions about messages, by lane; `again`: another attempt of a message that came back",
    worry: "`rejected`, `expired`: a share above the usual; `again`: more than `first`; `doubted`: after a restore only",
};
const REJECTED: About = About {
    name: "sotto_routing_rejected_total",
    what: "Messages that no carrier may or will take, by cause",
    worry: "`no_route`: a country, tenant or class without a route in the carriers file",
};
const WAITED: About = About {
    name: "sotto_routing_wait_seconds",
    what: "Time from the acceptance of a message to its first decision, in seconds; by lane; scheduled ones not counted",
    worry: "The 99th percentile of `otp` above a second",
};
const SENT: About = About {
    name: "sotto_routing_sent_total",
    what: "Messages that were given to an account, each attempt counted",
    worry: "Stands still for an account that has routes: it refuses, or its weight is small",
};
const PUT_OFF: About = About {
    name: "sotto_routing_put_off_total",
    what: "Messages that could not be moved now and stay in intake: the broker is away, or the account's queue is full",
    worry: "A rate above 0 for a minute",
};

/// What routing measures, for docs/METRICS.md.
pub fn described() -> Vec<Described> {
    let metrics = Metrics::default();
    let account: Option<AccountId> = "account".parse().ok();
    RoutingMetrics::new(&metrics, account);
    metrics.described()
}
