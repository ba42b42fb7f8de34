//! What identity measures.

use sotto_metrics::{About, Age, Counter, Described, Histogram, Metrics, TIMES};

use crate::domain::Refusal;

/// The instruments. Clones share them.
#[derive(Clone, Debug)]
pub struct IdentityMetrics {
    registry: Metrics,
    issued: Counter,
    issued_in: Histogram,
    /// When the signing keys were last looked at and were as they should be.
    pub rotated: Age,
}

impl IdentityMetrics {
    /// Registers the instruments.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            registry: metrics.clone(),
            issued: metrics.counter(ISSUED),
            issued_in: metrics.times(ISSUED_IN, TIMES),
            rotated: metrics.age(ROTATED),
        }
    }

    /// What a token request came to, and how long that took.
    pub fn asked<T>(&self, answer: &Result<T, Refusal>, took: std::time::Duration) {
        match answer {
            Ok(_) => {
                self.issued.one();
                self.issued_in.took(took);
            }
            Err(refusal) => self.refused(refusal.outcome()).one(),
        }
    }

    /// The counter of a refusal: its name is one of those in the code.
    fn refused(&self, outcome: &'static str) -> Counter {
        self.registry.with("reason", outcome).counter(REFUSED)
    }
}

const ISSUED: About = About {
    name: "sotto_identity_tokens_total",
    what: "Access tokens issued",
    worry: "Stands still for longer than tokens live (10 minutes) while clients send",
};
const ISSUED_IN: About = About {
    name: "sotto_identity_token_seconds",
    what: "Time in which a token request was granted, in seconds",
    worry: "The 99th percentile above a second: the HSM or Redis",
};
const REFUSED: About = About {
    name: "sotto_identity_refused_total",
    what: "Token requests refused, by reason as in the audit log; a reason is there from its first time",
    worry: "`temporarily_unavailable`: Redis or the keystore; `server_error`: any; `wrong_secret`, `assertion_signature`, \
           `too_many_failures`: somebody guesses",
};
const ROTATED: About = About {
    name: "sotto_identity_keys_age_seconds",
    what: "How long ago the signing keys were last looked at and were as they should be; every second",
    worry: "Above 60: the keystore",
};

/// What identity measures, for docs/METRICS.md.
pub fn described() -> Vec<Described> {
    let metrics = Metrics::default();
    IdentityMetrics::new(&metrics).refused("server_error");
    metrics.described()
}
