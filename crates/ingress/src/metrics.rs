//! What ingress measures.

use std::time::Duration;

use sotto_core::{Lane, MessageClass};
use sotto_metrics::{About, Age, Counter, Described, Each, Gauge, Histogram, Metrics, TIMES, WAITS, label};

use crate::{
    app::intake::Accepted,
    error::Refusal,
    ports::{Counted, KeyError},
};

label! {
    /// Why a message was not accepted.
    pub enum Reason("reason") {
        /// Fields at fault.
        Invalid = "invalid",
        /// An idempotency key of another message.
        KeyReused = "key_reused",
        /// The tenant's rate.
        TooFast = "too_fast",
        /// The number has got as many codes today as it may.
        RecipientFull = "recipient_full",
        /// Too much under way here.
        Overloaded = "overloaded",
        /// Something is away, or an operator stopped it.
        Unavailable = "unavailable",
        /// Perhaps accepted.
        InDoubt = "in_doubt",
        /// A fault of ours.
        Internal = "internal",
    }
}

impl From<&Refusal> for Reason {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Invalid(_) => Self::Invalid,
            Refusal::KeyReused => Self::KeyReused,
            Refusal::TooFast { .. } => Self::TooFast,
            Refusal::RecipientFull => Self::RecipientFull,
            Refusal::Overloaded => Self::Overloaded,
            Refusal::Unavailable { .. } => Self::Unavailable,
            Refusal::InDoubt => Self::InDoubt,
            Refusal::Internal => Self::Internal,
        }
    }
}

label! {
    /// Where a session key came from.
    pub enum KeyFound("result") {
        /// It was held.
        Held = "held",
        /// It was fetched, or another request waited for had fetched it.
        Fetched = "fetched",
        /// Privacy does not answer.
        Unavailable = "unavailable",
        /// Privacy makes none.
        Refused = "refused",
    }
}

impl From<KeyError> for KeyFound {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unavailable => Self::Unavailable,
            KeyError::TooFar { .. } | KeyError::Refused => Self::Refused,
        }
    }
}

label! {
    /// Whether a one-time code was one of those that its number may get.
    pub enum Count("result") {
        /// It was.
        Within = "within",
        /// It was one more.
        Above = "above",
        /// Nobody could count.
        Uncounted = "uncounted",
    }
}

impl From<Counted> for Count {
    fn from(counted: Counted) -> Self {
        match counted {
            Counted::Within => Self::Within,
            Counted::Above => Self::Above,
            Counted::Not => Self::Uncounted,
        }
    }
}

/// The instruments. Clones share them.
#[derive(Clone, Debug)]
pub struct IngressMetrics {
    accepted: Each<MessageClass, Counter>,
    repeated: Counter,
    /// Messages that were not accepted.
    pub refused: Each<Reason, Counter>,
    accepted_in: Each<MessageClass, Histogram>,
    /// Session keys, by where they came from.
    pub keys: Each<KeyFound, Counter>,
    /// One-time codes, by whether their number may get them; without `[recipients]` none.
    pub recipients: Each<Count, Counter>,
    /// When privacy last said which keys ended.
    pub revocations: Age,
    /// Messages under way.
    pub under_way: Gauge,
    /// How many may be.
    pub most_under_way: Gauge,
    /// Messages that were closed at their deadline.
    pub closed: Counter,
    /// When deadlines were last looked through.
    pub swept: Age,
    /// Events that were folded.
    pub folded: Counter,
    /// How old a batch's newest event was when it was folded.
    pub folded_after: Histogram,
    /// How long the oldest message of each lane has waited for routing.
    pub oldest: Each<Lane, Gauge>,
    /// Calls and requests over NATS that were denied are counted here by reason.
    pub denials: Metrics,
}

impl IngressMetrics {
    /// Registers the instruments.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            accepted: metrics.counters(ACCEPTED),
            repeated: metrics.counter(REPEATED),
            refused: metrics.counters(REFUSED),
            accepted_in: metrics.each(|metrics| metrics.times(ACCEPTED_IN, TIMES)),
            keys: metrics.counters(KEYS),
            recipients: metrics.counters(RECIPIENTS),
            revocations: metrics.age(REVOCATIONS),
            under_way: metrics.gauge(UNDER_WAY),
            most_under_way: metrics.gauge(MOST_UNDER_WAY),
            closed: metrics.counter(CLOSED),
            swept: metrics.age(SWEPT),
            folded: metrics.counter(FOLDED),
            folded_after: metrics.times(FOLDED_AFTER, WAITS),
            oldest: metrics.each(|metrics| metrics.gauge(OLDEST)),
            denials: metrics.clone(),
        }
    }

    /// What became of a message that a client sent, and how long that took.
    pub fn sent(&self, class: Option<MessageClass>, result: &Result<Accepted, Refusal>, took: Duration) {
        match (result, class) {
            (Ok(accepted), _) if accepted.repeated => self.repeated.one(),
            (Ok(_), Some(class)) => {
                self.accepted.of(class).one();
                self.accepted_in.of(class).took(took);
            }
            // Never the case: without a class nothing is accepted.
            (Ok(_), None) => {}
            (Err(refusal), _) => self.refused.of(refusal.into()).one(),
        }
    }

    /// The counter of denials for a reason, one of the names in the code.
    pub fn denied(&self, action: &'static str, reason: &'static str) -> Counter {
        self.denials.with("action", action).with("reason", reason).counter(DENIED)
    }
}

const ACCEPTED: About = About {
    name: "sotto_ingress_accepted_total",
    what: "Messages accepted: stored and fsynced, repeats not counted; by class",
    worry: "Stands still while clients send",
};
const REPEATED: About = About {
    name: "sotto_ingress_repeated_total",
    what: "Messages that a client sent again with the same idempotency key, and that had been accepted before",
    worry: "A large share: clients do not hear the first answer",
};
const REFUSED: About = About {
    name: "sotto_ingress_refused_total",
    what: "Messages not accepted, by reason",
    worry: "`internal`: any; `unavailable`, `in_doubt`, `overloaded`: for more than a minute; the others are the clients'",
};
const ACCEPTED_IN: About = About {
    name: "sotto_ingress_accept_seconds",
    what: "Time from a decoded request to the acceptance, in seconds; by class",
    worry: "The 99th percentile above a second",
};
const KEYS: About = About {
    name: "sotto_ingress_session_keys_total",
    what: "Session keys looked for, by result: `held` is a hit of the cache, `fetched` a miss that privacy answered",
    worry: "`unavailable`: privacy is away; `refused`: retention or permissions",
};
const RECIPIENTS: About = About {
    name: "sotto_ingress_recipients_total",
    what: "One-time codes by what their number has got on this day from all tenants together: `within` `recipients.codes_per_day`, `above` it \
           (refused, or only counted), `uncounted` without Redis or privacy's key; nothing while it is 0",
    worry: "`above`: somebody floods a number, or uses one for many accounts; `uncounted`: nobody is protected",
};
const REVOCATIONS: About = About {
    name: "sotto_ingress_revocation_age_seconds",
    what: "How long ago privacy last said which keys ended; asked every second",
    worry: "Above 5: keys that an operator destroyed may still seal, for 5 minutes at most",
};
const UNDER_WAY: About = About {
    name: "sotto_ingress_under_way",
    what: "Messages under way in this process",
    worry: "Near `sotto_ingress_under_way_max`: clients hear `overloaded` or wait",
};
const MOST_UNDER_WAY: About = About {
    name: "sotto_ingress_under_way_max",
    what: "Messages that may be under way (`load.in_flight`); promotional ones half of it",
    worry: "For comparison",
};
const CLOSED: About = About {
    name: "sotto_ingress_closed_total",
    what: "Silent messages that were closed at their deadline, as expired or unknown",
    worry: "A rate above the usual: routing or a carrier stands, or receipts do not come",
};
const SWEPT: About = About {
    name: "sotto_ingress_sweep_age_seconds",
    what: "How long ago the deadlines of every shard were last looked through",
    worry: "Above 60: messages are not closed in time",
};
const FOLDED: About = About {
    name: "sotto_ingress_events_folded_total",
    what: "Events folded into the view of messages",
    worry: "Stands still while `sotto_consumer_pending` of `projection-*` grows",
};
const FOLDED_AFTER: About = About {
    name: "sotto_ingress_fold_age_seconds",
    what: "How old the newest event of a batch was when it was in the view of messages, in seconds: the lag of `GetMessage`",
    worry: "The median above 5",
};
const OLDEST: About = About {
    name: "sotto_ingress_intake_oldest_seconds",
    what: "How long ago the oldest message that waits for routing was accepted, or was to be sent; 0: none; by lane, looked at every 5 seconds",
    worry: "`otp` above 10: routing is away or behind",
};
const DENIED: About = About {
    name: "sotto_ingress_denied_total",
    what: "Calls (`token.denied`) and requests over NATS (`submission.refused`) that were denied as a whole, by reason; \
           a reason is there from its first time",
    worry: "`no_keys`: identity's keys are not known. Many of `signature` or `unknown_key`: somebody guesses",
};

/// What ingress measures, for docs/METRICS.md.
pub fn described() -> Vec<Described> {
    let metrics = Metrics::default();
    IngressMetrics::new(&metrics).denied("token.denied", "expired");
    metrics.described()
}
