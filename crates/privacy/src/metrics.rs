//! What privacy measures.

use sotto_metrics::{About, Age, Counter, Described, Each, Label, Metrics, label};

use crate::domain::tally::{Deed, Outcome, Use};

label! {
    /// What was done with keys.
    pub(crate) enum Act("act") {
        /// A session key was asked for.
        Make = "make",
        /// Keys were to be opened.
        Open = "open",
        /// What exceeded the number of kinds.
        Other = "other",
    }
}

impl Label for Outcome {
    const NAME: &'static str = "outcome";
    const ALL: &'static [Self] = &Self::ALL;
    fn value(self) -> &'static str {
        self.name()
    }
}

/// The instruments. Clones share them.
#[derive(Clone, Debug)]
pub struct PrivacyMetrics {
    keys: Each<Act, Each<Outcome, Counter>>,
    /// Buckets that were destroyed.
    pub(crate) destroyed: Counter,
    /// When everything that was due was last destroyed.
    pub(crate) swept: Age,
}

impl PrivacyMetrics {
    /// Registers the instruments.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            keys: metrics.each(|metrics| metrics.counters(KEYS)),
            destroyed: metrics.counter(DESTROYED),
            swept: metrics.age(SWEPT),
        }
    }

    pub(crate) fn used(&self, one: &Use, keys: u64) {
        let act = match &one.deed {
            Deed::Make { .. } => Act::Make,
            Deed::Open { .. } => Act::Open,
            Deed::ListPseudonymKeys | Deed::Other => Act::Other,
        };
        self.keys.of(act).of(one.outcome).add(usize::try_from(keys).unwrap_or(usize::MAX));
    }
}

const KEYS: About = About {
    name: "sotto_privacy_keys_total",
    what: "Session keys that were made or opened, or should have been, by outcome as in the audit log",
    worry: "`not_this_service`, `invalid`, `unknown_bucket`: any; `not_allowed`: the carriers file and privacy's policy differ; \
            `failed`: the keystore; `too_many`: `bound` is too low, or somebody opens what he should not",
};
const DESTROYED: About = About {
    name: "sotto_privacy_buckets_destroyed_total",
    what: "Bucket keys that were destroyed because their time was over",
    worry: "Stands still for more than an hour while messages are sent",
};
const SWEPT: About = About {
    name: "sotto_privacy_destruction_age_seconds",
    what: "How long ago everything that was due was last destroyed",
    worry: "Above 300: keys live longer than promised",
};

/// What privacy measures, for docs/METRICS.md.
pub fn described() -> Vec<Described> {
    let metrics = Metrics::default();
    PrivacyMetrics::new(&metrics);
    metrics.described()
}
