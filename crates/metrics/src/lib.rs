//! What a process counts, for Prometheus: instruments, and the one registry of what they are called and mean.
//!
//! An instrument is made once, with its labels, and then is a handle to an atomic: to count costs a few nanoseconds and
//! neither allocates nor locks nor looks anything up.
//! Its name and meaning ([`About`]) are given where it is made, and nowhere else: what a process serves and what
//! docs/METRICS.md says are read from the same registry.
//!
//! Labels are closed: their values are those of an enum ([`Label`]), or names from the configuration
//! ([`Metrics::with`]), never something out of a message. A family has at most [`MOST_SERIES`] series; what is made
//! beyond that counts, and is not served.

mod instruments;
mod label;
mod page;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use instruments::{Age, Counter, Gauge, Histogram};
pub use label::{Each, Label};

use instruments::Instrument;

/// Series of one name: 200 accounts (deploy/streams.toml) with twenty values of another label each.
pub const MOST_SERIES: usize = 4_000;

/// The media type of [`Metrics::page`].
pub const CONTENT_TYPE: &str = prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// Bounds of histograms of times: from a fast disk's fsync to a broker that is away.
pub const TIMES: &[Duration] = &[
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// Bounds of histograms of how long a message has waited: up to an hour.
pub const WAITS: &[Duration] = &[
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(3_600),
];

/// Bounds of histograms of batches, in items.
pub const ITEMS: &[u64] = &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000];

/// What an instrument is called and means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name as it is served: `sotto_<part>_<what>_<unit>`, a counter with `_total`.
    pub name: &'static str,
    /// What it tells, in one sentence without a full stop.
    pub what: &'static str,
    /// When to worry, or what it is good for.
    pub worry: &'static str,
}

/// The type of an instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// An instrument as docs/METRICS.md lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Name and meaning.
    pub about: About,
    /// Type.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
}

/// All series of one name.
struct Family {
    about: About,
    kind: Kind,
    /// Labels in the order in which they were given.
    series: Vec<(Labels, Instrument)>,
}

type Labels = Vec<(&'static str, String)>;

/// Makes instruments, and writes the page that Prometheus reads. Clones share them.
#[derive(Clone, Default)]
pub struct Metrics {
    families: Arc<Mutex<BTreeMap<&'static str, Family>>>,
    /// What everything made through this value is labelled with.
    labels: Labels,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl Metrics {
    /// The same registry; what is made through it has one more label. The value is one from the configuration.
    #[must_use]
    pub fn with(&self, label: &'static str, value: &str) -> Self {
        let mut labels = self.labels.clone();
        labels.push((label, value.to_owned()));
        Self { families: Arc::clone(&self.families), labels }
    }

    /// A counter. Its name ends with `_total`.
    pub fn counter(&self, about: About) -> Counter {
        let counter = Counter::default();
        self.add(about, Kind::Counter, Instrument::Counter(counter.clone()));
        counter
    }

    /// A counter for each value of a closed label.
    pub fn counters<L: Label>(&self, about: About) -> Each<L, Counter> {
        self.each(|metrics| metrics.counter(about))
    }

    /// Something for each value of a closed label.
    pub fn each<L: Label, M>(&self, make: impl Fn(&Self) -> M) -> Each<L, M> {
        Each::new(|label: L| make(&self.with(L::NAME, label.value())))
    }

    /// A number that goes up and down.
    pub fn gauge(&self, about: About) -> Gauge {
        let gauge = Gauge::default();
        self.add(about, Kind::Gauge, Instrument::Gauge(gauge.clone()));
        gauge
    }

    /// A gauge that is read when the page is asked for; `read` must be quick. None: there is no number now.
    pub fn read(&self, about: About, read: impl Fn() -> Option<f64> + Send + Sync + 'static) {
        self.add(about, Kind::Gauge, Instrument::Read(Arc::new(read)));
    }

    /// A counter that somebody else keeps, read when the page is asked for.
    pub fn read_counter(&self, about: About, read: impl Fn() -> Option<f64> + Send + Sync + 'static) {
        self.add(about, Kind::Counter, Instrument::ReadCounter(Arc::new(read)));
    }

    /// A gauge of how long ago something last happened, in seconds; from its making while it never did.
    pub fn age(&self, about: About) -> Age {
        let age = Age::default();
        let told = age.clone();
        self.read(about, move || Some(told.get().as_secs_f64()));
        age
    }

    /// A histogram of times with these upper bounds, ascending.
    pub fn times(&self, about: About, bounds: &[Duration]) -> Histogram {
        self.histogram(about, Histogram::of_times(bounds))
    }

    /// A histogram of sizes with these upper bounds, ascending.
    pub fn sizes(&self, about: About, bounds: &[u64]) -> Histogram {
        self.histogram(about, Histogram::of_sizes(bounds))
    }

    fn histogram(&self, about: About, histogram: Histogram) -> Histogram {
        self.add(about, Kind::Histogram, Instrument::Histogram(histogram.clone()));
        histogram
    }

    /// Serves what a part of the process measures in a registry of its own, from now on.
    pub fn take_in(&self, part: &Self) {
        let theirs: Vec<_> =
            part.lock().values().map(|family| (family.about, family.kind, family.series.clone())).collect();
        for (about, kind, series) in theirs {
            for (labels, instrument) in series {
                let labels = self.labels.iter().cloned().chain(labels).collect();
                Self { families: Arc::clone(&self.families), labels }.add(about, kind, instrument);
            }
        }
    }

    /// A second instrument of the same name and labels takes the place of the first: a part that was started anew.
    fn add(&self, about: About, kind: Kind, instrument: Instrument) {
        let mut families = self.lock();
        let family = families.entry(about.name).or_insert_with(|| Family { about, kind, series: Vec::new() });
        let room = family.series.len() < MOST_SERIES;
        match family.series.iter_mut().find(|(labels, _)| *labels == self.labels) {
            Some((_, there)) => *there = instrument,
            None if room => family.series.push((self.labels.clone(), instrument)),
            None => {}
        }
    }

    /// What is measured, by name.
    pub fn described(&self) -> Vec<Described> {
        let described = |family: &Family| Described {
            about: family.about,
            kind: family.kind,
            labels: family
                .series
                .first()
                .map(|(labels, _)| labels.iter().map(|(name, _)| *name).collect())
                .unwrap_or_default(),
        };
        self.lock().values().map(described).collect()
    }

    /// Everything, in the text format of Prometheus (version 0.0.4, [`CONTENT_TYPE`]).
    pub fn page(&self) -> String {
        page::write(self)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Family>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
