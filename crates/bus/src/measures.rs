//! What a connection to the broker measures: in a registry of its own, which a process takes in.

use std::sync::Arc;

use sotto_metrics::{About, Counter, Described, Each, Histogram, ITEMS, Label, Metrics, TIMES, label};

use crate::{Outcome, PublishError, Topic, connection::Connection};

impl Label for Topic {
    const NAME: &'static str = "topic";
    const ALL: &'static [Self] = &Self::ALL;
    fn value(self) -> &'static str {
        self.name()
    }
}

label! {
    /// Why a batch is not known to be stored.
    pub(crate) enum Unstored("why") {
        /// The stream is full.
        Full = "full",
        /// The broker was away until the deadline.
        Unavailable = "unavailable",
        /// No acknowledgement: it may be stored.
        InDoubt = "in_doubt",
        /// A mistake of ours or of the broker's settings.
        Refused = "refused",
        /// This process stops.
        Closed = "closed",
    }
}

label! {
    /// What became of an item.
    pub(crate) enum Became("outcome") {
        /// Handled.
        Done = "done",
        /// It comes again.
        Retry = "retry",
        /// It is kept aside.
        Quarantine = "quarantine",
        /// Its handler failed; its batch comes again.
        Failed = "failed",
    }
}

impl From<&PublishError> for Unstored {
    fn from(error: &PublishError) -> Self {
        match error {
            PublishError::Full { .. } => Self::Full,
            PublishError::Unavailable { .. } => Self::Unavailable,
            PublishError::OutcomeUnknown { .. } => Self::InDoubt,
            PublishError::TooLarge { .. }
            | PublishError::NotAllowed { .. }
            | PublishError::Refused { .. }
            | PublishError::TooManySubjects { .. } => Self::Refused,
            PublishError::Closed => Self::Closed,
        }
    }
}

impl From<&Outcome> for Became {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::Done,
            Outcome::Retry { .. } => Self::Retry,
            Outcome::Quarantine { .. } => Self::Quarantine,
        }
    }
}

/// The instruments of one connection.
#[derive(Debug)]
pub(crate) struct Measures {
    pub(crate) registry: Metrics,
    /// From the batch's turn to its acknowledgement.
    pub(crate) stored_in: Each<Topic, Histogram>,
    /// Items of a batch.
    pub(crate) batch: Each<Topic, Histogram>,
    pub(crate) unstored: Each<Unstored, Counter>,
    pub(crate) deliveries: Each<Topic, Counter>,
    pub(crate) redeliveries: Each<Topic, Counter>,
    pub(crate) handled_in: Each<Topic, Histogram>,
    pub(crate) items: Each<Topic, Each<Became, Counter>>,
    pub(crate) quarantined: Each<Topic, Counter>,
}

impl Measures {
    pub(crate) fn new(connection: &Arc<Connection>) -> Self {
        let registry = Metrics::default();
        of_connection(&registry, connection);
        Self {
            stored_in: registry.each(|metrics| metrics.times(STORED_IN, TIMES)),
            batch: registry.each(|metrics| metrics.sizes(BATCH, ITEMS)),
            unstored: registry.counters(UNSTORED),
            deliveries: registry.counters(DELIVERIES),
            redeliveries: registry.counters(REDELIVERIES),
            handled_in: registry.each(|metrics| metrics.times(HANDLED_IN, TIMES)),
            items: registry.each(|metrics| metrics.counters(ITEM)),
            quarantined: registry.counters(QUARANTINED),
            registry,
        }
    }
}

fn of_connection(registry: &Metrics, connection: &Arc<Connection>) {
    let tell = |read: fn(&crate::ConnectionState) -> u64| {
        let state = connection.watch();
        move || Some(count(read(&state.borrow())))
    };
    registry.read(CONNECTED, tell(|state| u64::from(state.connected)));
    registry.read_counter(CONNECTIONS, tell(|state| state.generation));
    registry.read_counter(SLOW, tell(|state| state.slow_consumers));
    registry.read_counter(REFUSALS, tell(|state| state.refusals));
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
pub(crate) fn count(number: u64) -> f64 {
    number as f64
}

const CONNECTED: About = About {
    name: "sotto_bus_connected",
    what: "1 while the broker is connected",
    worry: "0 for more than ten seconds",
};
const CONNECTIONS: About = About {
    name: "sotto_bus_connections_total",
    what: "Times the broker was connected",
    worry: "Grows again and again: the network or the broker",
};
const SLOW: About = About {
    name: "sotto_bus_slow_consumers_total",
    what: "Times the client dropped messages because this process did not read; they are delivered again",
    worry: "Any",
};
const REFUSALS: About = About {
    name: "sotto_bus_refusals_total",
    what: "Subjects that the broker's permissions refused to this service",
    worry: "Any: the broker's configuration is not that of the cell",
};
const STORED_IN: About = About {
    name: "sotto_bus_publish_seconds",
    what: "Time from a batch's turn to the broker's fsynced acknowledgement, in seconds; by topic",
    worry: "The 99th percentile above half a second: the broker's disk",
};
const BATCH: About = About {
    name: "sotto_bus_publish_items",
    what: "Items of a batch that was published; by topic",
    worry: "For comparison: 1 at rest, hundreds under load",
};
const UNSTORED: About = About {
    name: "sotto_bus_publish_failures_total",
    what: "Batches not known to be stored, by why",
    worry: "`full`: at once; `unavailable` and `in_doubt`: while the broker should be there; `refused`: a fault",
};
const DELIVERIES: About = About {
    name: "sotto_bus_deliveries_total",
    what: "Batches that were handed to this process; by topic",
    worry: "Stands still while something waits",
};
const REDELIVERIES: About = About {
    name: "sotto_bus_redeliveries_total",
    what: "Of those, batches that had been delivered before; by topic",
    worry: "A tenth of the deliveries: acknowledgements are lost, or what handles them fails",
};
const HANDLED_IN: About = About {
    name: "sotto_bus_handle_seconds",
    what: "Time in which a batch was handled, in seconds; by topic. Of `waiting`: the carrier's answer included",
    worry: "Compared with `sotto_bus_publish_seconds` it tells whether it is us or the broker",
};
const ITEM: About = About {
    name: "sotto_bus_items_total",
    what: "Items that were handled, by topic and outcome; `failed`: their handler panicked",
    worry: "`failed` and `quarantine`: any; `retry`: for long",
};
const QUARANTINED: About = About {
    name: "sotto_bus_quarantined_total",
    what: "Records that were put into quarantine, by the topic they came from",
    worry: "Any",
};

/// What every connection measures.
pub(crate) fn described() -> Vec<Described> {
    Measures::new(&Connection::new()).registry.described()
}
