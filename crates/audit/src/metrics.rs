//! What audit measures.

use std::{sync::Arc, time::Duration};

use sotto_bus::StreamReader;
use sotto_metrics::{About, Age, Counter, Described, Gauge, Metrics};
use sotto_proto::pipeline::v1::EventBatch;
use tokio::time::{MissedTickBehavior, interval};

use crate::view::View;

/// How often it is looked how far events are committed.
const LOOK: Duration = Duration::from_secs(5);

/// The instruments. Clones share them.
#[derive(Clone, Debug)]
pub struct AuditMetrics {
    /// Acts that are durable in the log.
    pub acts: Counter,
    /// Numbers of producers that never came.
    pub gaps: Gauge,
    /// Entries in the log.
    pub entries: Gauge,
    /// When the log last grew or had nothing to grow by.
    pub grown: Age,
    /// Openings that no connector announced.
    pub unjustified: Counter,
    /// How old the oldest event on the broker is.
    pub oldest_event: Gauge,
    lag: Gauge,
}

impl AuditMetrics {
    /// Registers the instruments.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            acts: metrics.counter(ACTS),
            gaps: metrics.gauge(GAPS),
            entries: metrics.gauge(ENTRIES),
            grown: metrics.age(GROWN),
            unjustified: metrics.counter(UNJUSTIFIED),
            oldest_event: metrics.gauge(OLDEST),
            lag: metrics.gauge(LAG),
        }
    }
}

/// Measures how far behind the log is with events, for ever.
pub async fn measure_lag(events: StreamReader<EventBatch>, view: Arc<View>, metrics: AuditMetrics) {
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let (Ok(state), Some(through)) = (events.state().await, view.through()) {
            metrics.lag.set_count(state.last.saturating_sub(through));
        }
    }
}

const ACTS: About = About {
    name: "sotto_audit_acts_total",
    what: "Acts that are durable in the audit log, those delivered twice included",
    worry: "Stands still while `sotto_consumer_pending` of `audit-acts` grows",
};
const GAPS: About = About {
    name: "sotto_audit_acts_missing",
    what: "Acts whose number a service used and that have not come, as far as numbering is remembered",
    worry: "Grows: acts are lost, and `sotto audit verify` tells the gap. What is known stays counted",
};
const ENTRIES: About = About {
    name: "sotto_audit_entries",
    what: "Entries in the audit log under the newest checkpoint",
    worry: "Falls: the log was put back",
};
const GROWN: About = About {
    name: "sotto_audit_checkpoint_age_seconds",
    what: "How long ago the log was last grown, also by nothing; usually every `log.interval`",
    worry: "Above 90: the disk or the keystore",
};
const UNJUSTIFIED: About = About {
    name: "sotto_audit_unjustified_openings_total",
    what: "Sums of opened keys that no connector had announced: openings that do not balance",
    worry: "Any: somebody has keys opened who should not",
};
const OLDEST: About = About {
    name: "sotto_audit_oldest_event_seconds",
    what: "How old the oldest batch of events on the broker is, looked at every hour",
    worry: "More than two days above `retention.events`: nothing is trimmed",
};
const LAG: About = About {
    name: "sotto_audit_events_lag",
    what: "Batches of events that are not in the audit log yet, looked at every 5 seconds",
    worry: "Above 1,000 for a minute",
};

/// What audit measures, for docs/METRICS.md.
pub fn described() -> Vec<Described> {
    let metrics = Metrics::default();
    AuditMetrics::new(&metrics);
    metrics.described()
}
